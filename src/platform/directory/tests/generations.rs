use super::*;

/// Does each to an endpoint that is served, and tells whether its generation is another one then.
fn check(cases: Vec<(&str, Vec<MemberConfig>, bool)>) {
    for (what, configs, changes) in cases {
        let directory = Directory::of(endpoints([endpoint(1), endpoint(2)]));
        let (before, neighbour) = (directory.generation(&key(1)), directory.generation(&key(2)));
        assert!(before > 0);
        configs
            .into_iter()
            .for_each(|config| directory.put(&document(1), config));
        assert_eq!(directory.generation(&key(1)) != before, changes, "{what}");
        assert_eq!(
            directory.generation(&key(2)) != neighbour,
            what.ends_with("as a whole"),
            "{what}"
        );
    }
}

fn one(endpoint: Document) -> MemberConfig {
    endpoints([endpoint, super::endpoint(2)])
}

#[test]
fn a_generation_changes_with_the_configuration() {
    check(vec![
        ("nothing", vec![one(endpoint(1))], false),
        ("an unknown field", vec![one(with(1, "lastSuccess", 5))], false),
        ("the name", vec![one(with(1, "name", "Other"))], true),
        ("the URL", vec![one(with(1, "url", "https://x/"))], true),
        (
            "a secret",
            vec![one(with(1, "auth", doc! { "authType": "bearer_token", "token": "x" }))],
            true,
        ),
        ("a secret that makes no sense", vec![one(with(1, "auth", 5))], true),
        ("switched off", vec![one(with(1, "enabled", false))], true),
        (
            "off and on",
            vec![one(with(1, "enabled", false)), one(endpoint(1))],
            true,
        ),
        ("the order", vec![endpoints([endpoint(2), endpoint(1)])], false),
    ]);
}

#[test]
fn a_generation_changes_when_the_endpoint_is_served_again() {
    check(vec![
        ("mended", vec![one(with(1, "url", 5)), one(endpoint(1))], true),
        (
            "deleted and made again",
            vec![endpoints([endpoint(2)]), one(endpoint(1))],
            true,
        ),
        ("unreadable as a whole", vec![settings(5), one(endpoint(1))], true),
    ]);
    let directory = Directory::of(endpoints([endpoint(1)]));
    let before = directory.generation(&key(1));
    directory.remove(&document(1));
    assert_eq!(directory.generation(&key(1)), before, "out of service");
    directory.put(&document(1), endpoints([endpoint(1)]));
    assert!(directory.generation(&key(1)) > before, "served again");
}

#[test]
fn what_the_operator_allows_again_is_a_new_generation() {
    let http = doc! { "_ownerId": id(9), "webHookConfig": { "endpoints": [with(1, "url", "http://x/")] } };
    let judged = |allow_http| {
        let policy = EndpointPolicy { allow_http, ..POLICY };
        parse(&RawDocumentBuf::try_from(&http).unwrap(), &policy)
    };
    let directory = Directory::of(judged(true));
    let before = directory.generation(&key(1));
    directory.put(&document(1), judged(false));
    assert_eq!(directory.generation(&key(1)), before);
    directory.put(&document(1), judged(true));
    assert!(directory.generation(&key(1)) > before);
}

#[test]
fn what_is_not_known_has_none() {
    let directory = Directory::of(endpoints([endpoint(1)]));
    for key in [key(2), EndpointKey::email(), EndpointKey::from_stored("x")] {
        assert_eq!(directory.generation(&key), 0);
    }
    directory.put(&document(1), endpoints([]));
    assert_eq!(directory.generation(&key(1)), 0, "deleted");
}
