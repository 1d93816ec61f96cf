//! Documents of any shape, and what holds for all of them.

use proptest::prelude::*;

use super::*;

fn any_value() -> impl Strategy<Value = Bson> {
    let scalar = prop_oneof![
        Just(Bson::Null),
        Just(Bson::Undefined),
        Just(Bson::MaxKey),
        Just(Bson::from(SECRET)),
        any::<bool>().prop_map(Bson::from),
        any::<i32>().prop_map(Bson::from),
        any::<i64>().prop_map(Bson::from),
        any::<f64>().prop_map(Bson::from),
        any::<[u8; 16]>().prop_map(|bytes| bson::Decimal128::from_bytes(bytes).into()),
        any::<[u8; 12]>().prop_map(|bytes| ObjectId::from_bytes(bytes).into()),
        any::<String>().prop_map(Bson::from),
        "(https|http|ftp)://([a-z]{1,5}@)?[a-z0-9.:\\[\\]]{0,9}/\\PC{0,5}#?".prop_map(Bson::from),
        "(none|bearer_token|basic_auth|api_key|oauth2_client_credentials)".prop_map(Bson::from),
        "whsec_[A-Za-z0-9+/]{0,8}={0,2}".prop_map(Bson::from),
        "enc:v[0-9]{0,1}:k?:?[A-Za-z0-9+/]{0,60}={0,2}".prop_map(Bson::from),
    ];
    scalar.prop_recursive(3, 24, 6, |inner| {
        let key = prop_oneof![
            "(authType|token|username|password|key|header|tokenUrl|clientId|clientSecret)",
            "(Host|webhook-id|X-[A-Z]{1,3}|\\PC{0,4})",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|fields| fields.into_iter().collect::<Document>().into()),
        ]
    })
}

/// A good endpoint, or fragments of one, with any number of fields replaced by anything.
fn any_endpoint() -> impl Strategy<Value = Bson> {
    let field = "(_id|name|url|enabled|eventTypes|timeout|headers|auth|signingSecrets|concurrency|rateLimit|tls)";
    let replaced = prop::collection::vec((field, any_value()), 0..4).prop_map(|fields| {
        let mut endpoint = endpoint(1);
        endpoint.extend(fields);
        endpoint.into()
    });
    prop_oneof![4 => replaced, 1 => any_value()]
}

proptest! {
    #[test]
    fn no_neighbour_takes_a_good_endpoint_down(
        organization in any_value(),
        before in prop::collection::vec(any_endpoint(), 0..4),
        after in prop::collection::vec(any_endpoint(), 0..4),
    ) {
        let nobody = matches!(organization, Bson::Null | Bson::Undefined);
        let total = before.len() + 1 + after.len();
        let good = doc! { "_id": "good", "url": "https://good.example/", "eventTypes": ["certificate_completed"] };
        let endpoints: Vec<Bson> = before.into_iter().chain([good.into()]).chain(after).collect();
        let document = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": endpoints } };
        let config = parse_document(document, &HTTPS_ONLY);
        let sound = sound(&config);
        let switched_off = config.entries.iter().filter(|entry| matches!(entry.state, EntryState::Disabled(None))).count();
        if nobody {
            prop_assert_eq!(config.refused.len(), 1);
        } else {
            prop_assert_eq!(sound.len() + switched_off + config.refused.len(), total);
        }
        let survives = sound.iter().any(|endpoint| endpoint.url.as_str() == "https://good.example/");
        prop_assert_eq!(survives, !nobody);
        prop_assert!(sound.iter().all(|endpoint| endpoint.url.scheme() == "https"));
        for refused in config.refused {
            prop_assert!(!refused.reason.contains(SECRET) && !refused.reason.contains('\n'));
        }
    }

    #[test]
    fn any_document_is_survived(document in prop::collection::vec(("(_ownerId|webHookConfig|endpoints)", any_value()), 0..5)) {
        parse_document(document.into_iter().collect(), &HTTPS_ONLY);
    }

    #[test]
    fn damaged_bytes_are_survived(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let document = doc! { "_ownerId": id(9), "webHookConfig": { "endpoints": [endpoint(1), with("auth", doc! { "authType": "none" })] } };
        let mut bytes = RawDocumentBuf::try_from(&document).unwrap().into_bytes();
        for (place, byte) in damage {
            let end = bytes.len() - 1;
            bytes[4..end][place.index(end - 4)] = byte;
        }
        let config = parse(RawDocument::from_bytes(&bytes).unwrap(), &HTTPS_ONLY);
        prop_assert!(config.entries.len() <= 2);
    }
}
