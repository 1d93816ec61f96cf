//! The documents of layout 2, as tests/data/outbox-v2.json keeps one of each state: later versions must read them.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use serde_json::Value;

use crate::fixture::Fixture;
use crate::layout::indexes;

/// The documents as they were written.
fn kept() -> Vec<Document> {
    let values: Vec<Value> = serde_json::from_str(include_str!("../data/outbox-v2.json")).unwrap();
    let document = |value: &Value| {
        let mut document = bson(value).as_document().unwrap().clone();
        // Not as long ago as it was written: the retention would be over.
        if let Some(at) = document.get_mut("finishedAt") {
            *at = Bson::DateTime(Clock::local());
        }
        document
    };
    values.iter().map(document).collect()
}

/// A value of MongoDB's extended JSON, relaxed, as far as the file uses it.
fn bson(value: &Value) -> Bson {
    match value {
        Value::Object(fields) if fields.contains_key("$date") => {
            Bson::DateTime(DateTime::parse_rfc3339_str(fields["$date"].as_str().unwrap()).unwrap())
        }
        Value::Object(fields) if fields.contains_key("$oid") => {
            Bson::ObjectId(ObjectId::parse_str(fields["$oid"].as_str().unwrap()).unwrap())
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), bson(value)));
            Bson::Document(fields.collect())
        }
        Value::Array(values) => Bson::Array(values.iter().map(bson).collect()),
        Value::String(text) => Bson::String(text.clone()),
        Value::Bool(value) => Bson::Boolean(*value),
        Value::Number(number) => Bson::Int32(number.as_i64().unwrap().try_into().unwrap()),
        Value::Null => Bson::Null,
    }
}

async fn show_tells_of_documents_with_and_without_what_came_later(fixture: &Fixture) {
    indexes(fixture).await;
    let count = |of: &Value| of.as_array().unwrap().len();
    // The first has attempts as they were first written down.
    for (certificate, attempts, replays, response) in [("105", 1, 0, None), ("107", 2, 1, Some(r"oops\n"))] {
        let certificate = format!("674700000000000000000{certificate}");
        let shown = fixture.outcome(&["show", "--json", &certificate]).await;
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        let delivery = &shown["events"][0]["deliveries"][0];
        let history = &delivery["history"];
        assert_eq!(
            (count(history), count(&delivery["replays"])),
            (attempts, replays),
            "{shown:#}"
        );
        assert_eq!(history[0]["response"].as_str(), response, "{shown:#}");
        assert_eq!(count(&shown["odd"]), 0, "{shown:#}");
    }
    // Of what was erased, or has lost its payload, the record is there.
    for (certificate, state, next) in [
        ("112", "cancelled", "it was erased"),
        ("114", "cancelled", "it was erased"),
        ("115", "delivered", ""),
        ("117", "dead", "its payload was dropped"),
    ] {
        let certificate = format!("674700000000000000000{certificate}");
        let shown = fixture.outcome(&["show", "--json", &certificate]).await;
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        let delivery = &shown["events"][0]["deliveries"][0];
        assert_eq!(
            (delivery["state"].as_str(), count(&shown["odd"])),
            (Some(state), 0),
            "{shown:#}"
        );
        assert!(delivery["next"]["text"].as_str().unwrap().contains(next), "{shown:#}");
    }
    let listed = fixture.outcome(&["deliveries", "--json"]).await;
    assert_eq!(listed.stdout.lines().count(), 15, "{listed:?}");
    assert!(!listed.stdout.contains("odd"), "{listed:?}");
}

#[tokio::test]
async fn documents_of_each_state_are_read_as_they_were_written() {
    let fixture = Fixture::new().await.odd().with("completions.enabled = false");
    let id = |text| ObjectId::parse_str(text).unwrap();
    let mut endpoint = fixture.endpoint("/a");
    endpoint.insert("_id", id("674700000000000000000010"));
    let config = doc! { "_ownerId": id("674700000000000000000003"), "webHookConfig": { "endpoints": [endpoint] } };
    fixture.member_configs().insert_one(config).await.unwrap();
    fixture.outbox().insert_many(kept()).await.unwrap();

    show_tells_of_documents_with_and_without_what_came_later(&fixture).await;

    let mut daemon = fixture.daemon().await;
    let bodies = |path: &str| {
        let requests = fixture.receiver.requests();
        let mut bodies: Vec<_> = requests
            .iter()
            .filter(|request| request.path == path)
            .map(|request| String::from_utf8(request.body.to_vec()).unwrap())
            .collect();
        bodies.sort();
        bodies
    };
    let numbered = |numbers: &[u32]| numbers.iter().map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>();
    fixture.receiver.wait_for_total(5, crate::fixture::LIMIT).await.unwrap();
    assert_eq!(
        bodies("/a"),
        numbered(&[101, 102, 104, 105, 113]),
        "what is open, and nothing that is settled"
    );
    fixture
        .wait_for_count(&fixture.outbox(), doc! { "state": "pending" }, 0)
        .await;

    let replayed = fixture
        .outcome(&[
            "replay",
            "--organization",
            "674700000000000000000003",
            "--state",
            "dead,cancelled",
        ])
        .await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    for left_out in ["2 deliveries left out: erased", "1 delivery left out: older than"] {
        assert!(replayed.stdout.contains(left_out), "{replayed:?}");
    }
    fixture.receiver.wait_for_total(8, crate::fixture::LIMIT).await.unwrap();
    assert_eq!(bodies("/a"), numbered(&[101, 102, 104, 105, 107, 108, 109, 113]));
    fixture
        .wait_for_count(&fixture.outbox(), doc! { "state": "pending" }, 0)
        .await;
    assert!(daemon.stop().await.success());
    assert!(
        daemon.count(|line| line["level"] == "WARN") == 0,
        "{:?}",
        daemon.lines()
    );
}
