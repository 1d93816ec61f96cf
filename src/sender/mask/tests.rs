use std::time::Duration;

use http::{HeaderMap, HeaderName};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::*;
use crate::model::{EndpointKey, EventType};
use crate::platform::ClientCredentials;

const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn endpoint(auth: Auth) -> Endpoint {
    let mut headers = HeaderMap::new();
    let mut own = HeaderValue::from_static("Key s3cret-header");
    own.set_sensitive(true);
    headers.insert(HeaderName::from_static("x-tenant"), own);
    // That of a sample is the daemon's.
    headers.insert(
        HeaderName::from_static("x-webhook-test"),
        HeaderValue::from_static("true"),
    );
    Endpoint {
        key: EndpointKey::from_stored("organization/endpoint"),
        name: "a receiver".into(),
        url: "https://ada:p%40ss-word@x.test/hooks/T0123456789ABCDEF?key=s3cret-query"
            .parse()
            .unwrap(),
        enabled: true,
        event_types: EventType::ALL.to_vec(),
        timeout: Duration::from_secs(5),
        headers,
        auth,
        signing_secrets: vec![WHSEC.into()],
        concurrency: None,
        rate_limit: None,
        tls: None,
    }
}

fn every_auth() -> Vec<(Auth, Vec<&'static str>)> {
    vec![
        (
            Auth::None,
            vec![
                "p@ss-word",
                "ada:p@ss-word",
                "T0123456789ABCDEF",
                "s3cret-query",
                "s3cret-header",
                WHSEC,
                &WHSEC[6..],
            ],
        ),
        (
            Auth::Bearer {
                token: "t0ken/with+all=&'\"".into(),
            },
            vec!["t0ken/with+all=&'\""],
        ),
        (
            Auth::Basic {
                username: "grace".into(),
                password: "b&sic p\u{e4}ss=\u{1f511}`/\t".into(),
            },
            vec!["b&sic p\u{e4}ss=\u{1f511}`/\t", "grace:b&sic p\u{e4}ss=\u{1f511}`/\t"],
        ),
        (
            Auth::ApiKey {
                header: HeaderName::from_static("x-api-key"),
                key: "ap1-k%65y".into(),
            },
            vec!["ap1-k%65y"],
        ),
        (
            Auth::OAuth2(ClientCredentials {
                token_url: "https://tok:tok-pass@y.test/t".parse().unwrap(),
                client_id: "client".into(),
                client_secret: "cl1ent-secret".into(),
                scope: None,
            }),
            vec!["cl1ent-secret", "client:cl1ent-secret", "tok-pass", "the-access-token"],
        ),
    ]
}

/// The ways in which a receiver may say something back.
fn ways(secret: &str) -> Vec<String> {
    let json = serde_json::to_string(secret).unwrap();
    let html = secret
        .replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;");
    let percent = percent_encode(secret.as_bytes(), NON_ALPHANUMERIC).to_string();
    let every = |escape: fn(u8) -> String| secret.bytes().map(escape).collect::<String>();
    let json = json[1..json.len() - 1].to_owned();
    let slashes = json.replace('/', "\\/");
    let form = percent.replace("%20", "+");
    let lower = every(|byte| format!("%{byte:02x}"));
    // PHP and Python leave no character beyond ASCII.
    let unicode: String = secret.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    let each = |escape: fn(char) -> String| secret.chars().map(escape).collect::<String>();
    // Handlebars and Mustache, among others, escape `=`, `/` and the grave accent.
    let mustache = each(|character| match character {
        '&' | '<' | '>' | '"' | '\'' | '`' | '=' | '/' => format!("&#x{:X};", u32::from(character)),
        other => other.into(),
    });
    let decimal = each(|character| format!("&#{:03};", u32::from(character)));
    let named = each(|character| match character {
        '&' => "&amp;".into(),
        '\'' => "&apos;".into(),
        '=' => "&equals;".into(),
        '/' => "&sol;".into(),
        '+' => "&plus;".into(),
        other => other.into(),
    });
    vec![
        secret.to_owned(),
        json,
        slashes,
        html,
        percent,
        form,
        lower,
        unicode,
        mustache,
        decimal,
        named,
    ]
}

/// The secret in base64 of a longer text.
fn in_longer_text(secret: &str) -> Vec<String> {
    let text = |before: &str| format!("{before}{secret}, and more");
    let standard = ["", "x", "xy"].map(|before| STANDARD.encode(text(before)));
    let url_safe = ["", "x", "xy"].map(|before| URL_SAFE_NO_PAD.encode(text(before)));
    standard.into_iter().chain(url_safe).collect()
}

#[test]
fn no_secret_is_shown_in_any_way_in_which_it_is_said_back() {
    let token = HeaderValue::from_static("Bearer the-access-token");
    for (auth, secrets) in every_auth() {
        let masks = Secrets::of(&endpoint(auth), Some(&token));
        for secret in secrets {
            let mask = |said: &str| String::from_utf8(masks.mask(said.as_bytes(), 10_000)).unwrap();
            for way in ways(secret) {
                assert_eq!(mask(&format!("you sent {way}.")), "you sent (hidden).", "{way}");
            }
            for way in in_longer_text(secret) {
                let masked = mask(&way);
                // What stands beside it, and the characters in which both have a part.
                let left = masked.replacen(HIDDEN, "", 1);
                assert!(masked.contains(HIDDEN) && left.len() <= 19, "{way}: {masked}");
            }
        }
    }
}

#[test]
fn the_key_of_a_signing_secret_is_masked_as_bytes_too() {
    let masks = Secrets::of(&endpoint(Auth::None), None);
    let key = STANDARD.decode(&WHSEC[6..]).unwrap();
    assert_eq!(masks.mask(&key, 1000), HIDDEN.as_bytes());
}

#[test]
fn what_the_end_cuts_off_is_masked_and_what_is_no_secret_stays() {
    let masks = Secrets::of(
        &endpoint(Auth::Bearer {
            token: "abcdefghijkl".into(),
        }),
        None,
    );
    let mask = |text: &str, most| String::from_utf8(masks.mask(text.as_bytes(), most)).unwrap();
    for (text, most, masked) in [
        ("no token, is that true?", 100, "no token, is that true?"),
        ("it was abcdefgh", 100, "it was (hidden)"),
        ("it was %61%62%63%64%65%6", 100, "it was (hidden)"),
        ("it was abcd&#x6", 100, "it was (hidden)"),
        ("it was abc", 100, "it was abc"),
        ("abcdefghijkl and more", 4, "(hidden)"),
        ("abcdefghijkl and more", 14, "(hidden) a"),
        ("abcdefghi, not all of it", 100, "abcdefghi, not all of it"),
        ("{\"error\":\"bad_request\"}", 100, "{\"error\":\"bad_request\"}"),
    ] {
        assert_eq!(mask(text, most), masked, "{text}");
    }
}
