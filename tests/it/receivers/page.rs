//! The page: its named blocks, and that what it tells is so.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{DateTime, doc};
use certhookd::model::Message;
use certhookd::platform::{self, Endpoint};
use certhookd::sender::RetryPolicy;

use crate::sender::support::{self, delivered, endpoint, message};

const PAGE: &str = include_str!("../../../docs/receivers.md");

/// The fenced block below `<!-- NAME -->`, without its fences.
pub(super) fn block(name: &str) -> &'static str {
    block_of(PAGE, name)
}

/// The same, of that page.
pub(crate) fn block_of<'a>(page: &'a str, name: &str) -> &'a str {
    let (_, after) = page.split_once(&format!("<!-- {name} -->\n```")).unwrap();
    let (_language, code) = after.split_once('\n').unwrap();
    code.split_once("```\n").unwrap().0
}

/// The example's certificate.
fn certificate() -> bson::Document {
    let id = |n: u8| ObjectId::parse_str(format!("67470000000000000000000{n}")).unwrap();
    let at = |text: &str| DateTime::parse_rfc3339_str(text).unwrap();
    doc! {
        "_id": id(1), "_userId": id(2), "_ownerId": id(3), "_badgeId": id(4),
        "creationDate": at("2023-11-27T10:30:00Z"), "expires": at("2024-11-27T10:30:00Z"), "disabled": false,
        "expiryReminderSent": true, "_lessonActiveIds": [id(5)],
        "ruleData": { "type": "track", "name": "Safety", "validityDurationDays": 366 },
        "createdAt": at("2023-11-27T10:30:00Z"), "updatedAt": at("2024-11-27T10:30:04.120Z"), "__v": 0,
    }
}

#[tokio::test]
async fn the_example_is_what_is_sent() {
    let receiver = support::receiver().await;
    let certificate = bson::serialize_to_raw_document_buf(&certificate()).unwrap();
    let message = Message {
        body: platform::to_json(&certificate).unwrap(),
        ..message()
    };
    let endpoint = Endpoint {
        signing_secrets: vec![super::SECRET.into()],
        ..endpoint(&receiver.url().replace("/hook?tenant=7", super::PATH))
    };
    let at = DateTime::from_millis(1_732_703_405_000);
    delivered(support::client().attempt(&endpoint, &message, at).await);
    let got = receiver.requests().remove(0);

    let mut sent = format!("{} {} HTTP/1.1\n", got.method, got.uri);
    for name in block("example")
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, _)| name)
    {
        if let Some(value) = got.headers.get(name) {
            sent += &format!("{name}: {}\n", value.to_str().unwrap());
        }
    }
    sent += &format!("\n{}\n", str::from_utf8(&got.body).unwrap());
    assert_eq!(block("example"), sent);
    assert!(PAGE.contains(super::SECRET));
    for name in got
        .headers
        .keys()
        .filter(|name| !["host", "content-length"].contains(&name.as_str()))
    {
        assert!(
            block("example").contains(&format!("\n{name}: ")),
            "{name} is not in the example"
        );
    }
}

#[test]
fn the_waits_are_those_of_the_page() {
    let policy = RetryPolicy {
        max_attempts: 100,
        period: Duration::from_secs(600),
    };
    for attempt in [1, 2, 3, 4, 5, 99] {
        let wait = (policy.delay(attempt, 0.5).as_secs_f64() * 10.0).round() / 10.0;
        let row = if attempt < 5 {
            attempt.to_string()
        } else {
            "5 to 99".into()
        };
        assert!(PAGE.contains(&format!("| {row} | {wait} s |")), "{row}: {wait}");
    }
}
