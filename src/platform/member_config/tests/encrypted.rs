//! Endpoints whose secrets are encrypted, as the platform writes them.

use super::*;
use crate::envelope::Envelopes;

const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW_KEY: &str = "k2:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn policy(keys: &str) -> EndpointPolicy {
    EndpointPolicy {
        keys: EncryptionKeys::parse(keys).unwrap(),
        ..HTTPS_ONLY
    }
}

/// `value`, encrypted for that field of the endpoint of that number of that organization.
fn encrypt(organization: &str, endpoint: u8, field: &str, value: &str) -> String {
    let key = EndpointKey::from_stored(&format!("{organization}/{}", id(endpoint)));
    let envelopes = Envelopes {
        keys: &policy(KEY).keys,
        endpoint: &key,
    };
    envelopes.encrypt(field, &value.into()).unwrap()
}

/// For the organization and the endpoint that the tests use.
fn here(field: &str, value: &str) -> String {
    encrypt(&id(9).to_hex(), 1, field, value)
}

#[test]
fn each_field_that_may_hold_a_secret_is_decrypted() {
    let token = |field: &str| here(&format!("auth.{field}"), SECRET);
    let url = here("auth.tokenUrl", "https://id.example/t");
    let table = [
        (
            "auth",
            Bson::from(doc! { "authType": "bearer_token", "token": token("token") }),
        ),
        (
            "auth",
            doc! { "authType": "basic_auth", "username": token("username"), "password": token("password") }.into(),
        ),
        (
            "auth",
            doc! { "authType": "basic_auth", "username": "u", "password": here("auth.password", "") }.into(),
        ),
        (
            "auth",
            doc! { "authType": "api_key", "key": token("key"), "header": here("auth.header", "X-Key") }.into(),
        ),
        (
            "auth",
            doc! {
                "authType": "oauth2_client_credentials", "tokenUrl": url, "clientId": token("clientId"),
                "clientSecret": token("clientSecret"), "scope": token("scope"),
            }
            .into(),
        ),
        (
            "signingSecrets",
            vec![here("signingSecrets", SIGNING_SECRET), SIGNING_SECRET.into()].into(),
        ),
        ("headers", doc! { "X-Team": here("headers.x-team", "Sécurité") }.into()),
    ];
    for (name, value) in table {
        let config = parse_endpoints([with(name, value.clone())], &policy(KEY));
        assert_eq!((&config.refused, reasons(&config).len()), (&vec![], 0), "{value}");
        let endpoint = &sound(&config)[0];
        match &endpoint.auth {
            Auth::None => {}
            Auth::Bearer { token } => assert_eq!(token.expose_secret(), SECRET),
            Auth::Basic { username, password } => assert!(
                (&**username, password.expose_secret()) == (SECRET, SECRET)
                    || (&**username, password.expose_secret()) == ("u", "")
            ),
            Auth::ApiKey { header, key } => assert_eq!((header.as_str(), key.expose_secret()), ("x-key", SECRET)),
            Auth::OAuth2(credentials) => {
                let secret = credentials.client_secret.expose_secret();
                assert_eq!([secret, &credentials.client_id], [SECRET; 2]);
                assert_eq!(credentials.token_url.as_str(), "https://id.example/t");
                assert_eq!(credentials.scope.as_deref(), Some(SECRET));
            }
        }
        let secrets = endpoint.signing_secrets.iter();
        assert!(
            secrets
                .map(ExposeSecret::expose_secret)
                .all(|secret| secret == SIGNING_SECRET)
        );
        if name == "headers" {
            assert_eq!(endpoint.headers["x-team"].as_bytes(), b"S\xe9curit\xe9");
            assert!(endpoint.headers["x-team"].is_sensitive());
        }
        let auth = format!("{:?}", (&endpoint.auth, &endpoint.headers, &endpoint.signing_secrets));
        assert!(name == "auth" && auth.contains("client_id") || auth.contains("username") || !auth.contains(SECRET));
    }
}

#[test]
fn what_can_not_be_decrypted_takes_its_endpoint_out_of_service_and_no_other() {
    let bearer = |token: String| with("auth", doc! { "authType": "bearer_token", "token": token });
    let signed = |secret: String| with("signingSecrets", vec![SIGNING_SECRET.to_owned(), secret]);
    let organization = id(9).to_hex();
    let good = here("auth.token", SECRET);
    let elsewhere = "can't be decrypted: it is damaged, was encrypted for another";
    let secret = here("signingSecrets", SIGNING_SECRET);
    let table = [
        (
            bearer(encrypt(&organization, 2, "auth.token", SECRET)),
            "`auth`: `token`",
            elsewhere,
        ),
        (
            bearer(encrypt(&id(8).to_hex(), 1, "auth.token", SECRET)),
            "`auth`: `token`",
            elsewhere,
        ),
        (bearer(here("auth.key", SECRET)), "`auth`: `token`", elsewhere),
        (
            bearer(good.replace("k1", "k9")),
            "`auth`: `token`",
            "which is not among those of secrets.key_file",
        ),
        (bearer(format!("{}A", &good[..good.len() - 1])), "`auth`: `token`", ""),
        (
            bearer("enc:v1:k1:".into()),
            "`auth`: `token`",
            "is encrypted, but too short",
        ),
        (bearer(here("auth.token", "")), "`auth`: `token`", "is missing or empty"),
        (
            bearer(here("auth.token", "a\nb")),
            "`auth`: `token`",
            "holds a line break",
        ),
        (
            signed(here("auth.token", SIGNING_SECRET)),
            "`signingSecrets.1`",
            elsewhere,
        ),
        (
            signed(here("signingSecrets", SECRET)),
            "`signingSecrets.1`",
            "is not `whsec_` and base64",
        ),
        (
            signed(secret.to_uppercase()),
            "`signingSecrets.1`",
            "is not `whsec_` and base64",
        ),
        (
            with("headers", doc! { "x-a": here("headers.x-b", SECRET) }),
            "`headers`: the value of x-a",
            elsewhere,
        ),
        (
            with("url", here("url", "https://hub.example/")),
            "`url` is not https",
            "",
        ),
    ];
    for (bad, field, why) in table {
        let config = parse_endpoints([endpoint(2), bad.clone(), endpoint(3)], &policy(KEY));
        assert_eq!(sound(&config).len(), 2, "{bad}");
        let reason = &config.refused[0].reason;
        assert!(reason.starts_with(field) && reason.contains(why), "{reason}");
        assert!(!reason.contains(SECRET) && !reason.contains('\n'), "{reason}");
    }
    let config = parse_endpoints([bearer(good)], &HTTPS_ONLY);
    assert!(
        config.refused[0].reason.contains("no key is configured"),
        "{:?}",
        config.refused
    );
}

#[test]
fn an_old_key_is_kept_until_it_is_dropped() {
    let endpoint = with(
        "auth",
        doc! { "authType": "bearer_token", "token": here("auth.token", SECRET) },
    );
    let kept = parse_endpoints([endpoint.clone()], &policy(&format!("{NEW_KEY}\n{KEY}")));
    assert!(kept.refused.is_empty());
    let dropped = parse_endpoints([endpoint], &policy(NEW_KEY));
    let reason = "`auth`: `token` is encrypted with the key k1, which is not among those of secrets.key_file or the credential secret-keys";
    assert_eq!(dropped.refused[0].reason, reason);
}

#[test]
fn an_id_and_its_text_are_one_place() {
    let object_id = ObjectId::from_bytes([0xab; 12]);
    let (lower, upper) = (object_id.to_hex(), object_id.to_hex().to_uppercase());
    let ids = [Bson::from(object_id), lower.as_str().into(), upper.into()];
    let key = EndpointKey::from_stored(&format!("{lower}/{lower}"));
    let envelopes = Envelopes {
        keys: &policy(KEY).keys,
        endpoint: &key,
    };
    let token = envelopes.encrypt("auth.token", &SECRET.into()).unwrap();
    for organization in &ids {
        for endpoint in &ids {
            let mut endpoint_document = with("auth", doc! { "authType": "bearer_token", "token": &token });
            endpoint_document.insert("_id", endpoint.clone());
            let settings = doc! { "endpoints": [endpoint_document] };
            let document = doc! { "_ownerId": organization.clone(), "webHookConfig": settings };
            let config = parse_document(document, &policy(KEY));
            assert_eq!(config.refused, [], "{organization} {endpoint}");
        }
    }
}

#[test]
fn what_has_another_id_or_none_is_bound_to_its_key() {
    let url = "https://hub.example/1";
    for (organization, endpoint) in [
        (Bson::from(7), Bson::from("hub")),
        (7.0.into(), 1_i64.into()),
        ("acme".into(), Bson::Null),
    ] {
        let raw = doc! { "organization": organization.clone(), "endpoint": endpoint.clone() };
        let raw = RawDocumentBuf::try_from(&raw).unwrap();
        let value = |name| raw.get(name).unwrap().unwrap();
        let endpoint_id = (endpoint != Bson::Null).then(|| value("endpoint"));
        let key = EndpointKey::derive(value("organization"), endpoint_id, url);
        let envelopes = Envelopes {
            keys: &policy(KEY).keys,
            endpoint: &key,
        };
        let token = envelopes.encrypt("auth.token", &SECRET.into()).unwrap();
        let of = |url: &str| {
            let auth = doc! { "authType": "bearer_token", "token": &token };
            let endpoint = doc! { "_id": endpoint.clone(), "url": url, "auth": auth };
            let document = doc! { "_ownerId": organization.clone(), "webHookConfig": { "endpoints": [endpoint] } };
            parse_document(document, &policy(KEY)).refused.len()
        };
        assert_eq!(of(url), 0, "{key}");
        // Without an id the address is part of the key.
        let moved = usize::from(endpoint == Bson::Null);
        assert_eq!(of("https://hub.example/2"), moved, "{key}");
    }
}

#[test]
fn a_short_signing_secret_is_used_and_told_of() {
    let of = |bytes: usize| format!("whsec_{}", "A".repeat(bytes.div_ceil(3) * 4));
    let weak = "shorter than 24 bytes, which is weak; used all the same";
    let table = [
        (vec![of(24)], None),
        (vec![of(33), of(24)], None),
        (vec![of(21)], Some("`signingSecrets.0`")),
        (
            vec![of(24), here("signingSecrets", &of(3)), of(21)],
            Some("`signingSecrets.1` and `signingSecrets.2`"),
        ),
    ];
    for (secrets, named) in table {
        let count = secrets.len();
        let config = parse_endpoints([with("signingSecrets", secrets)], &policy(KEY));
        assert_eq!(sound(&config)[0].signing_secrets.len(), count);
        let expected: Vec<_> = named.iter().map(|named| format!("{named}: {weak}")).collect();
        assert_eq!(reasons(&config), expected);
    }
}
