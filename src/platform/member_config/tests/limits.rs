//! More than anybody needs: refused or cut with a reason, at once, and no neighbour is harmed.

use std::time::Instant;

use super::*;

fn headers(count: usize, bytes: usize) -> Document {
    let mut headers: Document = (0..count).map(|n| (format!("x-{n:02}"), "".into())).collect();
    let names: usize = headers.keys().map(String::len).sum();
    headers.insert("x-00", "v".repeat(bytes - names));
    headers
}

fn url(length: usize) -> String {
    let start = "https://hub.example/";
    format!("{start}{}", "x".repeat(length - start.len()))
}

fn token_url(length: usize) -> Document {
    doc! { "authType": "oauth2_client_credentials", "tokenUrl": url(length), "clientId": "u", "clientSecret": SECRET }
}

#[test]
fn what_is_as_large_as_may_be_works_and_what_is_larger_is_refused() {
    let secrets = |count| Bson::from(vec![SIGNING_SECRET; count]);
    let cases: [(&str, Bson, Bson, &str); 6] = [
        (
            "signingSecrets",
            secrets(10),
            secrets(11),
            "`signingSecrets` has more than 10 entries",
        ),
        (
            "headers",
            headers(64, 1000).into(),
            headers(65, 1000).into(),
            "`headers` has more than 64 entries",
        ),
        (
            "headers",
            headers(1, 16_384).into(),
            headers(1, 16_385).into(),
            "`headers` has more than 16 KB",
        ),
        (
            "headers",
            headers(64, 16_384).into(),
            headers(64, 16_385).into(),
            "`headers` has more than 16 KB",
        ),
        (
            "url",
            url(2048).into(),
            url(2049).into(),
            "`url` is longer than 2048 characters",
        ),
        (
            "auth",
            token_url(2048).into(),
            token_url(2049).into(),
            "`auth`: `tokenUrl` is longer than 2048 characters",
        ),
    ];
    for (field, largest, larger, reason) in cases {
        let config = parse_endpoints([endpoint(2), with(field, largest), endpoint(3)], &HTTPS_ONLY);
        assert_eq!((sound(&config).len(), config.refused.len()), (3, 0), "{reason}");
        let config = parse_endpoints([endpoint(2), with(field, larger), endpoint(3)], &HTTPS_ONLY);
        assert_eq!((sound(&config).len(), config.entries.len()), (2, 3), "{reason}");
        assert_eq!(config.refused[0].reason, reason);
    }
}

#[test]
fn of_a_document_the_first_thousand_endpoints_work() {
    for (count, faults) in [(1000, 0), (1001, 1), (2500, 1)] {
        let endpoints = (0..count).map(|n| doc! { "_id": n, "url": "https://hub.example/" });
        let config = parse_endpoints(endpoints, &HTTPS_ONLY);
        assert_eq!((sound(&config).len(), config.refused.len()), (1000, faults));
        assert_eq!(config.incomplete.is_some(), faults > 0, "the others may be there");
        for refused in config.refused {
            assert_eq!(
                refused.reason,
                "it has more than 1000 endpoints: the rest is out of service"
            );
        }
    }
}

#[test]
fn a_longer_name_is_cut() {
    for (name, expected) in [
        ("a".repeat(200), 200),
        ("é".repeat(201), 200),
        ("🏅".repeat(100_000), 200),
    ] {
        let config = parse_endpoints([with("name", name)], &HTTPS_ONLY);
        assert_eq!(config.entries[0].name.chars().count(), expected);
        assert_eq!(sound(&config)[0].name, config.entries[0].name);
        assert!(config.refused.is_empty());
    }
}

#[test]
fn concurrency_is_clamped_or_left_to_the_operator_with_a_warning() {
    let above = Some("`concurrency` is above delivery.concurrency: 5 is used");
    let below = Some("`concurrency` is below 1: delivery.concurrency is used");
    let no_number = Some("`concurrency` is not a whole number: delivery.concurrency is used");
    let cases: [(Bson, Option<u32>, Option<&str>); 11] = [
        (1.into(), Some(1), None),
        (5_i64.into(), Some(5), None),
        (3.0.into(), Some(3), None),
        (6.into(), Some(5), above),
        (i64::MAX.into(), Some(5), above),
        (f64::INFINITY.into(), Some(5), above),
        (0.into(), None, below),
        ((-3).into(), None, below),
        (2.5.into(), None, no_number),
        (f64::NAN.into(), None, no_number),
        ("3".into(), None, no_number),
    ];
    for (value, expected, warning) in cases {
        let config = parse_endpoints([with("concurrency", value)], &HTTPS_ONLY);
        assert_eq!(sound(&config)[0].concurrency, expected);
        assert_eq!(reasons(&config).first().copied(), warning);
    }
}

#[test]
fn a_rate_limit_that_makes_no_sense_is_none_with_a_warning() {
    let no_number = Some("`rateLimit` is not a number: there is no limit");
    let no_limit = Some("`rateLimit` is not a finite number above 0: there is no limit");
    let day = 1.0 / 86_400.0;
    let cases: [(Bson, Option<f64>, Option<&str>); 9] = [
        (2.into(), Some(2.0), None),
        (0.25.into(), Some(0.25), None),
        (10_i64.into(), Some(10.0), None),
        (
            1e-300.into(),
            Some(day),
            Some("`rateLimit` is below one request a day: that is used"),
        ),
        (0.into(), None, no_limit),
        ((-1.5).into(), None, no_limit),
        (f64::INFINITY.into(), None, no_limit),
        (f64::NAN.into(), None, no_number),
        (true.into(), None, no_number),
    ];
    for (value, expected, warning) in cases {
        let config = parse_endpoints([with("rateLimit", value)], &HTTPS_ONLY);
        assert_eq!(sound(&config)[0].rate_limit, expected);
        assert_eq!(reasons(&config).first().copied(), warning);
    }
}

/// Each document has nearly the 16 MB that MongoDB allows. Judged one by one, each would take from seconds to minutes.
#[test]
fn hostile_sizes_cost_no_time() {
    let secrets = vec![Bson::from("whsec_AAAA"); 700_000];
    let many: Document = (0..700_000).map(|n| (format!("x-{n}"), "a".into())).collect();
    let types: Vec<_> = (0..900_000).map(|n| Bson::from(format!("{n}"))).collect();
    let field = |name: &str, value: Bson| vec![with(name, value)];
    let tiny = (0..500_000).map(|n| doc! { "_id": n }).collect();
    let bulky = doc! { "url": "https://hub.example/", "x": many.clone() };
    let openssl = |name: &str| {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/certificates");
        std::fs::read_to_string(format!("{directory}/{name}.pem")).unwrap()
    };
    let certificate = openssl("p384");
    let authorities = doc! { "ca": certificate.repeat((64 << 10) / certificate.len()) };
    let identity = doc! { "clientCert": openssl("rsa"), "clientKey": openssl("rsa-pkcs8-key") };
    let with_tls = |count: i32, tls: &Document| {
        let endpoint = |n| doc! { "_id": n, "url": "https://hub.example/", "tls": tls.clone() };
        (0..count).map(endpoint).collect()
    };
    let cases = [
        ("authorities", 1.into(), with_tls(240, &authorities)),
        ("identities", 1.into(), with_tls(1000, &identity)),
        ("secrets", Bson::from(1), field("signingSecrets", secrets.into())),
        ("headers", 1.into(), field("headers", many.clone().into())),
        ("unknown event types", 1.into(), field("eventTypes", types.into())),
        ("fields of auth", 1.into(), field("auth", many.clone().into())),
        ("fields of an endpoint", 1.into(), vec![many]),
        ("an unknown field", 1.into(), vec![bulky]),
        ("endpoints", 1.into(), tiny),
        ("a URL", 1.into(), field("url", "x".repeat(15 << 20).into())),
        ("a name", 1.into(), field("name", "x".repeat(15 << 20).into())),
        (
            "an _ownerId",
            "x".repeat(12 << 20).into(),
            (0..1000).map(|n| doc! { "_id": n, "url": "x" }).collect(),
        ),
    ];
    for (what, organization, endpoints) in cases {
        let document = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": endpoints } };
        let document = RawDocumentBuf::try_from(&document).unwrap();
        let began = Instant::now();
        parse(&document, &HTTPS_ONLY);
        let took = began.elapsed();
        println!("{what}: {took:?} for {} bytes", document.as_bytes().len());
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    }
}
