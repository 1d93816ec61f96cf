use std::time::Duration;

use bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};
use http::header::AUTHORIZATION;
use secrecy::ExposeSecret;

use super::*;
use crate::model::EventType;
use crate::platform::Auth;

mod documented;
mod encrypted;
mod limits;
mod random;
mod refusals;
mod subscriptions;
mod tls;

/// Is in every secret field of the documents below: no reason may repeat it.
const SECRET: &str = "s3cr3t";
const SIGNING_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const HTTPS_ONLY: EndpointPolicy = EndpointPolicy {
    allow_http: false,
    concurrency: 5,
    keys: EncryptionKeys::NONE,
};

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 12])
}

fn endpoint(n: u8) -> Document {
    doc! {
        "_id": id(n),
        "name": "Hub",
        "url": format!("https://hub.example/{n}?token={SECRET}"),
        "eventTypes": ["certificate_expired"],
        "signingSecrets": [SIGNING_SECRET],
    }
}

fn with(name: &str, value: impl Into<Bson>) -> Document {
    let mut endpoint = endpoint(1);
    endpoint.insert(name, value.into());
    endpoint
}

fn parse_endpoints(endpoints: impl IntoIterator<Item = impl Into<Bson>>, policy: &EndpointPolicy) -> MemberConfig {
    let endpoints: Vec<Bson> = endpoints.into_iter().map(Into::into).collect();
    parse_document(
        doc! { "_ownerId": id(9), "webHookConfig": { "endpoints": endpoints } },
        policy,
    )
}

/// Those that make sense, on or off.
fn sound(config: &MemberConfig) -> Vec<Arc<Endpoint>> {
    let endpoint = |entry: &Arc<Entry>| match &entry.state {
        EntryState::Enabled(endpoint) | EntryState::Disabled(Some(endpoint)) => Some(Arc::clone(endpoint)),
        EntryState::Disabled(None) | EntryState::OutOfService(_) => None,
    };
    config.entries.iter().filter_map(endpoint).collect()
}

fn reasons(config: &MemberConfig) -> Vec<&str> {
    let reasons = config.warnings.iter().map(|warning| warning.reason.as_str());
    reasons.collect()
}

fn parse_document(document: Document, policy: &EndpointPolicy) -> MemberConfig {
    parse(&RawDocumentBuf::try_from(&document).unwrap(), policy)
}

#[test]
fn an_endpoint_with_everything_is_read() {
    let config = parse_endpoints(
        [doc! {
            "_id": id(1),
            "name": "Hub",
            "url": "https://hub.example/in?x=1#part",
            "enabled": false,
            "eventTypes": ["certificate_expired", "certificate_completed", "certificate_expired"],
            "timeout": 7000_i64,
            "headers": { "X-Team": "Sécurité", "Authorization": SECRET },
            "auth": { "authType": "bearer_token", "token": SECRET },
            "signingSecrets": [SIGNING_SECRET, OLD_SECRET],
            "concurrency": 3,
            "rateLimit": 0.5,
        }],
        &HTTPS_ONLY,
    );
    assert_eq!((&config.refused, &config.warnings), (&vec![], &vec![]));
    assert_eq!(config.organization.as_deref(), Some(&*id(9).to_hex()));
    let endpoints = sound(&config);
    let [endpoint] = &*endpoints else {
        panic!("one endpoint expected")
    };
    assert_eq!(endpoint.key.as_str(), format!("{}/{}", id(9), id(1)));
    assert_eq!(
        (endpoint.name.as_str(), endpoint.url.as_str()),
        ("Hub", "https://hub.example/in?x=1")
    );
    assert!(!endpoint.enabled);
    assert_eq!(
        endpoint.event_types,
        [EventType::CertificateExpired, EventType::CertificateCompleted]
    );
    assert_eq!(endpoint.timeout, Duration::from_secs(7));
    assert_eq!(endpoint.headers["x-team"].as_bytes(), b"S\xe9curit\xe9");
    assert!(endpoint.headers[AUTHORIZATION].is_sensitive());
    assert!(matches!(&endpoint.auth, Auth::Bearer { token } if token.expose_secret() == SECRET));
    assert_eq!((endpoint.concurrency, endpoint.rate_limit), (Some(3), Some(0.5)));
    assert_eq!(endpoint.signing_secrets[1].expose_secret(), OLD_SECRET);
    assert!(!format!("{:?}", (&endpoint.auth, &endpoint.headers, &endpoint.signing_secrets)).contains(SECRET));
}

#[test]
fn what_is_absent_or_null_has_its_default() {
    let bare = doc! { "url": "https://hub.example/" };
    let nulls = doc! {
        "_id": null, "name": null, "url": "https://hub.example/2", "eventTypes": null, "timeout": null, "headers": null,
        "auth": null, "signingSecrets": null, "concurrency": null, "rateLimit": null,
    };
    let config = parse_endpoints([bare, nulls], &HTTPS_ONLY);
    assert_eq!((&config.refused, &config.warnings), (&vec![], &vec![]));
    for endpoint in sound(&config) {
        assert!(endpoint.enabled && endpoint.headers.is_empty() && endpoint.signing_secrets.is_empty());
        assert!(endpoint.event_types.is_empty() && matches!(endpoint.auth, Auth::None));
        assert_eq!(endpoint.timeout, Duration::from_secs(5));
        assert_eq!((endpoint.concurrency, endpoint.rate_limit), (None, None));
    }
}

#[test]
fn every_kind_of_auth_is_read() {
    let auth = |auth: Document| {
        sound(&parse_endpoints([with("auth", auth)], &HTTPS_ONLY))[0]
            .auth
            .clone()
    };
    assert!(matches!(auth(doc! { "authType": "none" }), Auth::None));
    let basic = auth(doc! { "authType": "basic_auth", "username": "u", "password": "" });
    assert!(matches!(basic, Auth::Basic { username, .. } if username == "u"));
    for blank in [Bson::Null, "".into()] {
        let key = auth(doc! { "authType": "api_key", "key": SECRET, "header": blank });
        assert!(matches!(key, Auth::ApiKey { header, .. } if header == "x-api-key"));
    }
    let key = auth(doc! { "authType": "api_key", "key": SECRET, "header": "X-Token" });
    assert!(matches!(key, Auth::ApiKey { header, key } if header == "x-token" && key.expose_secret() == SECRET));
    for (scope, expected) in [(Bson::Null, None), (" ".into(), None), ("a b".into(), Some("a b"))] {
        let oauth2 = auth(doc! {
            "authType": "oauth2_client_credentials", "tokenUrl": format!("https://id.example/?{SECRET}#x"), "clientId": "u",
            "clientSecret": SECRET, "scope": scope,
        });
        assert!(!format!("{oauth2:?}").contains(SECRET));
        let Auth::OAuth2(credentials) = oauth2 else {
            panic!("{oauth2:?}")
        };
        assert_eq!(credentials.token_url.as_str(), format!("https://id.example/?{SECRET}"));
        assert_eq!(
            (credentials.client_id.as_str(), credentials.scope.as_deref()),
            ("u", expected)
        );
        assert_eq!(credentials.client_secret.expose_secret(), SECRET);
    }
}

#[test]
fn http_is_accepted_where_the_operator_allows_it() {
    let policy = EndpointPolicy {
        allow_http: true,
        ..HTTPS_ONLY
    };
    let config = parse_endpoints([with("url", "http://127.0.0.1:8080/")], &policy);
    assert_eq!(sound(&config)[0].url.as_str(), "http://127.0.0.1:8080/");
}

#[test]
fn a_timeout_is_clamped_with_a_warning() {
    let decimal: bson::Decimal128 = "1E+9".parse().unwrap();
    let cases: [(Bson, u64, Option<&str>); 10] = [
        (1000.into(), 1000, None),
        (30_000.0.into(), 30_000, None),
        (1500.9.into(), 1500, None),
        (
            999_i64.into(),
            1000,
            Some("`timeout` is outside 1000 to 30000 ms: 1000 ms is used"),
        ),
        (
            (-1).into(),
            1000,
            Some("`timeout` is outside 1000 to 30000 ms: 1000 ms is used"),
        ),
        (
            i64::MAX.into(),
            30_000,
            Some("`timeout` is outside 1000 to 30000 ms: 30000 ms is used"),
        ),
        (
            f64::INFINITY.into(),
            30_000,
            Some("`timeout` is outside 1000 to 30000 ms: 30000 ms is used"),
        ),
        (
            decimal.into(),
            30_000,
            Some("`timeout` is outside 1000 to 30000 ms: 30000 ms is used"),
        ),
        (
            f64::NAN.into(),
            5000,
            Some("`timeout` is not a number: the default of 5000 ms is used"),
        ),
        (
            "7000".into(),
            5000,
            Some("`timeout` is not a number: the default of 5000 ms is used"),
        ),
    ];
    for (timeout, expected, warning) in cases {
        let config = parse_endpoints([with("timeout", timeout)], &HTTPS_ONLY);
        assert_eq!(sound(&config)[0].timeout, Duration::from_millis(expected));
        assert_eq!(reasons(&config).first().copied(), warning);
    }
}

#[test]
fn reserved_headers_are_left_out_with_a_warning() {
    let reserved = [
        "HOST",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "Content-Type",
        "webhook-id",
        "Webhook-X",
        "X-Webhook-Event",
        "x-webhook-test",
        "X-WEBHOOK-REPLAY",
    ];
    let mut headers: Document = reserved
        .iter()
        .map(|name| ((*name).to_owned(), SECRET.into()))
        .collect();
    headers.insert("X-Kept", "1");
    let config = parse_endpoints([with("headers", headers)], &HTTPS_ONLY);
    assert_eq!(sound(&config)[0].headers.len(), 1);
    assert_eq!(config.warnings.len(), reserved.len());
    assert_eq!(
        config.warnings[0].reason,
        "`headers`: host is set by the daemon and left out"
    );
    assert_eq!(config.warnings[0].key, config.entries[0].key);
}

#[test]
fn the_second_endpoint_of_one_key_is_refused() {
    let without_id = || doc! { "url": "https://hub.example/" };
    let config = parse_endpoints(
        [
            endpoint(1),
            with("url", "https://other.example/"),
            without_id(),
            without_id(),
        ],
        &HTTPS_ONLY,
    );
    assert_eq!(config.entries.len(), 2);
    assert_eq!(sound(&config)[0].url.host_str(), Some("hub.example"));
    let positions: Vec<_> = config
        .refused
        .iter()
        .map(|refused| (refused.position, refused.key.is_some()))
        .collect();
    assert_eq!(positions, [(Some(1), true), (Some(3), true)]);
}

#[test]
fn of_a_repeated_field_the_last_counts() {
    let mut repeated = RawDocumentBuf::try_from(&with("auth", doc! { "authType": "none" })).unwrap();
    repeated.append(
        bson::cstr!("auth"),
        bson::rawdoc! { "authType": "bearer_token", "token": SECRET },
    );
    let document = bson::rawdoc! { "_ownerId": id(9), "webHookConfig": { "endpoints": [repeated] } };
    let config = parse(&document, &HTTPS_ONLY);
    assert!(matches!(sound(&config)[0].auth, Auth::Bearer { .. }));
}

#[test]
fn a_refused_endpoint_does_not_take_its_key() {
    let config = parse_endpoints([with("url", "ftp://x/"), endpoint(1)], &HTTPS_ONLY);
    assert_eq!((config.entries.len(), config.refused.len()), (1, 1));
    assert_eq!(sound(&config).len(), 1);
}

#[test]
fn settings_that_can_not_be_read_are_refused_as_a_whole() {
    let reason = |settings: Bson| {
        let config = parse_document(doc! { "_ownerId": id(9), "webHookConfig": settings }, &HTTPS_ONLY);
        assert!(config.entries.is_empty());
        let told = config
            .refused
            .first()
            .map(|refused| (refused.position, refused.reason.as_str()));
        assert_eq!(told, config.incomplete.as_deref().map(|reason| (None, reason)));
        told.map(|(_, reason)| reason.to_owned())
    };
    for nothing in [Bson::Null, doc! {}.into(), doc! { "endpoints": [] }.into()] {
        assert_eq!(reason(nothing), None);
    }
    let unreadable: [(Bson, &str); 6] = [
        (5.into(), "`webHookConfig` is a number, expected a document"),
        (vec![1].into(), "`webHookConfig` is an array, expected a document"),
        (
            doc! { "endpoints": {} }.into(),
            "`webHookConfig.endpoints` is a document, expected an array",
        ),
        (
            doc! { "endpoints": "[]" }.into(),
            "`webHookConfig.endpoints` is a string, expected an array",
        ),
        (
            doc! { "endpoints": false }.into(),
            "`webHookConfig.endpoints` is a boolean, expected an array",
        ),
        (
            doc! { "endpoints": null }.into(),
            "`webHookConfig.endpoints` is null, expected an array",
        ),
    ];
    for (settings, expected) in unreadable {
        assert_eq!(reason(settings).as_deref(), Some(expected));
    }
}

#[test]
fn endpoints_of_nobody_are_refused() {
    for organization in [None, Some(Bson::Null), Some(Bson::Undefined)] {
        let mut document = doc! { "webHookConfig": { "endpoints": [endpoint(1)] } };
        document.extend(organization.map(|organization| ("_ownerId".to_owned(), organization)));
        let config = parse_document(document, &HTTPS_ONLY);
        assert!(config.organization.is_none() && config.entries.is_empty());
        assert_eq!(config.refused[0].reason, "the document has no `_ownerId`");
    }
}

#[test]
fn text_that_is_not_utf8_harms_its_own_endpoint_alone() {
    let mut bytes = RawDocumentBuf::try_from(
        &doc! { "_ownerId": "organization", "webHookConfig": { "endpoints": [with("auth", "BROKEN"), endpoint(2)] } },
    )
    .unwrap()
    .into_bytes();
    let at = bytes.windows(6).position(|window| window == b"BROKEN").unwrap();
    bytes[at] = 0xff;
    let config = parse(RawDocument::from_bytes(&bytes).unwrap(), &HTTPS_ONLY);
    assert_eq!(sound(&config).len(), 1);
    assert_eq!(config.refused[0].reason, "`auth` is not valid BSON");
}

#[test]
fn an_endpoint_prints_its_origin_and_no_secret() {
    let mut source = with("url", format!("https://hub.example:8443/{SECRET}?key={SECRET}"));
    source.insert("headers", doc! { "X-Team": SECRET });
    source.insert("auth", doc! { "authType": "bearer_token", "token": SECRET });
    let printed = format!("{:?}", sound(&parse_endpoints([source], &HTTPS_ONLY))[0]);
    assert!(printed.contains("https://hub.example:8443"), "{printed}");
    assert!(
        !printed.contains(SECRET) && !printed.contains(SIGNING_SECRET),
        "{printed}"
    );
}
