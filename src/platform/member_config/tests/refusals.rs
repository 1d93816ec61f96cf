//! Every reason to refuse an endpoint. Wherever a secret could be, [`SECRET`] is, and no reason repeats it.

use super::*;

/// Each of these endpoints is refused for this reason, while the two around it work.
fn check(cases: impl IntoIterator<Item = (Bson, &'static str)>) {
    for (bad, expected) in cases {
        let config = parse_endpoints([endpoint(2).into(), bad, endpoint(3).into()], &HTTPS_ONLY);
        assert_eq!(sound(&config).len(), 2, "{expected}");
        let [refused] = &*config.refused else {
            panic!("{expected}: {:?}", config.refused)
        };
        assert_eq!(refused.reason, expected);
        assert_eq!(
            (refused.position, &refused.organization),
            (Some(1), &config.organization)
        );
        assert!(!refused.reason.contains(SECRET) && !refused.reason.contains('\n'));
    }
}

fn check_field(name: &str, cases: impl IntoIterator<Item = (Bson, &'static str)>) {
    check(
        cases
            .into_iter()
            .map(|(value, expected)| (with(name, value).into(), expected)),
    );
}

#[test]
fn what_is_no_endpoint() {
    check([
        (SECRET.into(), "`endpoint` is a string, expected a document"),
        (Bson::Null, "`endpoint` is null, expected a document"),
        (doc! {}.into(), "it has neither `_id` nor `url`"),
        (doc! { "_id": id(1) }.into(), "it has no `url`"),
    ]);
}

#[test]
fn url() {
    let long = format!("https://hub.example/?{SECRET}={}", "x".repeat(2048));
    let http = format!("http://hub.example/?{SECRET}");
    let user = format!("https://u:{SECRET}@hub.example/");
    check_field(
        "url",
        [
            (5.into(), "`url` is a number, expected a string"),
            ("".into(), "`url` is not a valid address: relative URL without a base"),
            ("https://".into(), "`url` is not a valid address: empty host"),
            (
                http.into(),
                "`url` is http, expected https (delivery.allow_http is off)",
            ),
            (format!("file:///{SECRET}").into(), "`url` is not https"),
            (
                user.into(),
                "`url` holds a user name or password, which belong in fields of `auth`",
            ),
            (long.into(), "`url` is longer than 2048 characters"),
        ],
    );
}

#[test]
fn enabled_and_event_types() {
    check_field(
        "enabled",
        [
            ("true".into(), "`enabled` is a string, expected a boolean"),
            (Bson::Null, "`enabled` is null, expected a boolean"),
        ],
    );
    let expected = "`eventTypes` is a string, expected an array of strings";
    check_field("eventTypes", [("certificate_expired".into(), expected)]);
}

#[test]
fn headers() {
    let no_text = "`headers`: the value of x-a holds a line break or another character that headers can't carry";
    let no_name = "`headers`: the name of number 1 is not a header name";
    check_field(
        "headers",
        [
            (vec![SECRET].into(), "`headers` is an array, expected a document"),
            (
                doc! { "x-a": "1", "x-b": 2 }.into(),
                "`headers`: the value of x-b is not a string",
            ),
            (doc! { format!("Authorization: {SECRET}"): "" }.into(), no_name),
            (doc! { "": SECRET }.into(), no_name),
            (doc! { "X-A": format!("{SECRET}\r\nHost: evil") }.into(), no_text),
            (doc! { "X-A": "🏅" }.into(), no_text),
        ],
    );
}

#[test]
fn auth() {
    let no_token = "`auth`: `token` is missing or empty";
    let line_break = format!("{SECRET}\n");
    let unknown = "`auth`: `authType` is not one of none, bearer_token, basic_auth, api_key, oauth2_client_credentials";
    check_field(
        "auth",
        [
            (SECRET.into(), "`auth` is a string, expected a document"),
            (doc! {}.into(), "`auth`: `authType` is missing or empty"),
            (
                doc! { "authType": 1 }.into(),
                "`auth`: `authType` is a number, expected a string",
            ),
            (doc! { "authType": SECRET }.into(), unknown),
            (doc! { "authType": "None" }.into(), unknown),
            (doc! { "authType": "bearer_token" }.into(), no_token),
            (doc! { "authType": "bearer_token", "token": "" }.into(), no_token),
            (
                doc! { "authType": "bearer_token", "token": line_break }.into(),
                "`auth`: `token` holds a line break or another character that headers can't carry",
            ),
        ],
    );
}

#[test]
fn basic_auth() {
    let colon = doc! { "authType": "basic_auth", "username": format!("{SECRET}:"), "password": SECRET };
    check_field(
        "auth",
        [
            (
                doc! { "authType": "basic_auth", "password": SECRET }.into(),
                "`auth`: `username` is missing or empty",
            ),
            (
                doc! { "authType": "basic_auth", "username": "u" }.into(),
                "`auth`: `password` is missing",
            ),
            (
                colon.into(),
                "`auth`: `username` holds a colon, which ends the name (RFC 7617)",
            ),
        ],
    );
}

#[test]
fn api_key() {
    let with_header = |header: &str| Bson::from(doc! { "authType": "api_key", "key": SECRET, "header": header });
    check_field(
        "auth",
        [
            (
                doc! { "authType": "api_key", "header": "X-A" }.into(),
                "`auth`: `key` is missing or empty",
            ),
            (with_header("X A"), "`auth`: `header` is not a header name"),
            (
                with_header("Webhook-Id"),
                "`auth`: `header` is one that the daemon sets itself",
            ),
        ],
    );
}

#[test]
fn oauth2() {
    let credentials = |changed: Document| {
        let mut auth = doc! {
            "authType": "oauth2_client_credentials", "tokenUrl": "https://id.example/token", "clientId": SECRET,
            "clientSecret": SECRET,
        };
        auth.extend(changed);
        Bson::from(auth)
    };
    let http = format!("http://id.example/{SECRET}");
    let user = format!("https://u:{SECRET}@id.example/token");
    check_field(
        "auth",
        [
            (
                credentials(doc! { "tokenUrl": null }),
                "`auth`: `tokenUrl` is missing or empty",
            ),
            (
                credentials(doc! { "tokenUrl": SECRET }),
                "`auth`: `tokenUrl` is not a valid address: relative URL without a base",
            ),
            (
                credentials(doc! { "tokenUrl": http }),
                "`auth`: `tokenUrl` is http, expected https (delivery.allow_http is off)",
            ),
            (
                credentials(doc! { "tokenUrl": user }),
                "`auth`: `tokenUrl` holds a user name or password, which belong in fields of `auth`",
            ),
            (
                credentials(doc! { "clientId": "" }),
                "`auth`: `clientId` is missing or empty",
            ),
            (
                credentials(doc! { "clientSecret": null }),
                "`auth`: `clientSecret` is missing or empty",
            ),
            (
                credentials(doc! { "scope": [SECRET] }),
                "`auth`: `scope` is an array, expected a string",
            ),
        ],
    );
}

#[test]
fn signing_secrets() {
    let first = "`signingSecrets.0` is not `whsec_` and base64";
    check_field(
        "signingSecrets",
        [
            (
                SIGNING_SECRET.into(),
                "`signingSecrets` is a string, expected an array of strings",
            ),
            (
                vec![SIGNING_SECRET, SECRET].into(),
                "`signingSecrets.1` is not `whsec_` and base64",
            ),
            (vec![SIGNING_SECRET.trim_start_matches("whsec_")].into(), first),
            (vec!["whsec_"].into(), first),
            (vec![format!("whsec_{SECRET}!")].into(), first),
            (vec![Bson::Null].into(), first),
        ],
    );
}
