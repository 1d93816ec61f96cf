//! What endpoints are subscribed to, those too that are out of service.

use super::*;

const COMPLETED: EventType = EventType::CertificateCompleted;
const EXPIRED: EventType = EventType::CertificateExpired;

fn subscribed(types: impl Into<Bson>) -> MemberConfig {
    parse_endpoints([with("eventTypes", types)], &HTTPS_ONLY)
}

#[test]
fn case_and_blanks_at_the_ends_do_not_matter() {
    let cases: [(Vec<&str>, &[EventType]); 5] = [
        (vec!["certificate_expired"], &[EXPIRED]),
        (vec![" Certificate_Expired\n"], &[EXPIRED]),
        (
            vec!["\tCERTIFICATE_COMPLETED", "certificate_expired "],
            &[COMPLETED, EXPIRED],
        ),
        (vec!["certificate_completed", "Certificate_Completed"], &[COMPLETED]),
        (vec!["\u{a0}certificate_completed\u{a0}"], &[COMPLETED]),
    ];
    for (types, expected) in cases {
        let config = subscribed(types.clone());
        assert_eq!(config.entries[0].wants, expected, "{types:?}");
        assert_eq!(sound(&config)[0].event_types, expected);
        assert!(config.warnings.is_empty());
    }
}

#[test]
fn an_unknown_type_subscribes_to_nothing_with_one_warning_that_names_the_nearest() {
    let unknown = |name: &str, nearest: &str| {
        format!("`eventTypes`: `{name}` is unknown and subscribes to nothing; the nearest known type is `{nearest}`")
    };
    let (completed, expired) = ("certificate_completed", "certificate_expired");
    let cases: [(Bson, Vec<String>); 7] = [
        (
            vec!["certificate_expierd"].into(),
            vec![unknown("certificate_expierd", expired)],
        ),
        (
            vec!["Certificate-Completed "].into(),
            vec![unknown("certificate-completed", completed)],
        ),
        (
            vec!["completed", " COMPLETED"].into(),
            vec![unknown("completed", completed)],
        ),
        (
            vec!["certificate expired", ""].into(),
            vec![unknown("certificate expired", expired), unknown("", expired)],
        ),
        (vec!["a\nb"].into(), vec![unknown("a\\nb", expired)]),
        (
            vec![Bson::from(5), 6.into(), true.into()].into(),
            ["a boolean", "a number"]
                .map(|kind| format!("`eventTypes`: an entry is {kind}, expected a string"))
                .to_vec(),
        ),
        (vec!["x".repeat(70)].into(), vec![unknown(&"x".repeat(60), expired)]),
    ];
    for (types, expected) in cases {
        let config = subscribed(types);
        assert_eq!(reasons(&config), expected);
        assert!(sound(&config)[0].event_types.is_empty());
    }
}

#[test]
fn of_many_unknown_types_ten_are_named() {
    let config = subscribed((0..30).map(|n| format!("type {n}")).collect::<Vec<_>>());
    assert_eq!(config.warnings.len(), 11);
    assert_eq!(
        reasons(&config)[10],
        "`eventTypes`: more unknown types subscribe to nothing"
    );
}

#[test]
fn what_makes_no_sense_wants_events_if_they_can_be_read_and_it_is_not_switched_off() {
    let bad = |change: Document| {
        let mut bad = with("url", "ftp://hub.example/");
        bad.extend(change);
        bad
    };
    let none: &[EventType] = &[];
    let cases: [(Document, &[EventType]); 7] = [
        (bad(doc! {}), &[EXPIRED]),
        (bad(doc! { "enabled": true, "auth": 1 }), &[EXPIRED]),
        (bad(doc! { "enabled": "yes" }), &[EXPIRED]),
        (bad(doc! { "enabled": null }), &[EXPIRED]),
        (
            bad(doc! { "eventTypes": ["certificate_completed", "nonsense"] }),
            &[COMPLETED],
        ),
        (bad(doc! { "eventTypes": "certificate_expired" }), none),
        (bad(doc! { "eventTypes": null }), none),
    ];
    for (endpoint, expected) in cases {
        let config = parse_endpoints([endpoint], &HTTPS_ONLY);
        assert_eq!(config.entries[0].wants, expected);
        assert!(config.entries[0].fault().is_some() && config.warnings.is_empty());
    }
}

#[test]
fn what_is_switched_off_is_off_whatever_else_it_is() {
    let off = |name: &str, value: Bson| {
        let mut endpoint = with(name, value);
        endpoint.insert("enabled", false);
        endpoint
    };
    let cases = [("url", Bson::Null), ("auth", 5.into()), ("eventTypes", "all".into())];
    for (name, value) in cases {
        let config = parse_endpoints([off(name, value)], &HTTPS_ONLY);
        assert!(matches!(config.entries[0].state, EntryState::Disabled(None)), "{name}");
        assert!(config.entries[0].wants.is_empty() && config.refused.is_empty() && config.warnings.is_empty());
    }
}

#[test]
fn a_fingerprint_changes_with_what_is_read_and_with_nothing_else() {
    let fingerprint = |endpoint: Document| parse_endpoints([endpoint], &HTTPS_ONLY).entries[0].fingerprint;
    let same = [
        with("lastTriggeredAt", 1),
        with("url", endpoint(1).get_str("url").unwrap()),
    ];
    for endpoint in same {
        assert_eq!(fingerprint(endpoint), fingerprint(super::endpoint(1)));
    }
    let other = [
        with("url", "https://other.example/"),
        with("enabled", false),
        with("timeout", 5000),
        with("timeout", 5000_i64),
        with("auth", doc! { "authType": "none" }),
        with("signingSecrets", vec!["whsec_AAAA"]),
        with("headers", doc! { "x-a": "1" }),
        with("concurrency", 2),
        with("rateLimit", 2),
        with("tls", doc! { "ca": "x" }),
    ];
    let mut seen: Vec<_> = other.into_iter().map(fingerprint).collect();
    seen.push(fingerprint(endpoint(1)));
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count);
}
