//! What makes no sense in the platform's documents harms itself alone, and is told once.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bed::{Bed, certificate, expired, is_scan};

fn with(owner: ObjectId, field: &str, value: impl Into<Bson>) -> Document {
    let mut document = expired(owner);
    document.insert(field, value);
    document
}

fn twice_unfit(owner: ObjectId) -> Document {
    let mut document = with(owner, "expires", "2024-01-01");
    document.insert("expiryReminderSent", "false");
    document
}

fn without(owner: ObjectId, field: &str) -> Document {
    let mut document = expired(owner);
    document.remove(field);
    document
}

fn is_rejection(line: &Value) -> bool {
    let told = "a certificate can't be an event: recorded as rejected, nothing is sent";
    line["level"] == "WARN" && line["message"] == told
}

/// Each with a part of the reason that the operator is told.
fn unfit(owner: ObjectId) -> Vec<(Document, &'static str)> {
    let (no_date, no_boolean) = ("`expires` is not a date", "`expiryReminderSent` is not a boolean");
    vec![
        (without(owner, "_ownerId"), "`_ownerId` is missing"),
        (with(owner, "_ownerId", Bson::Null), "`_ownerId` is missing"),
        (with(owner, "expires", "2024-01-01"), no_date),
        (with(owner, "expires", 1_700_000_000_000_i64), no_date),
        (with(owner, "expires", true), no_date),
        (with(owner, "expires", doc! { "$gt": 0 }), no_date),
        (with(owner, "expires", vec![Bson::from(Clock::local())]), no_date),
        (with(owner, "expires", vec!["2024-01-01"]), no_date),
        (with(owner, "expiryReminderSent", "false"), no_boolean),
        (with(owner, "expiryReminderSent", 0), no_boolean),
        (with(owner, "expiryReminderSent", doc! {}), no_boolean),
        (twice_unfit(owner), no_date),
        // Each of these characters takes six bytes in JSON.
        (
            with(owner, "ruleData", "\u{1}".repeat(3 << 20)),
            "more than a delivery can hold",
        ),
    ]
}

#[tokio::test]
async fn a_certificate_of_unexpected_types_is_rejected_marked_and_told_once_and_the_scan_goes_on() {
    let bed = Bed::new().await;
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    let unfit = unfit(owner);
    // One before and one after them in the order of the scan.
    let (mut early, mut late) = (expired(owner), expired(owner));
    early.insert("expires", bson::DateTime::from_millis(0));
    late.insert(
        "expires",
        bson::DateTime::from_millis(Clock::local().timestamp_millis() - 1),
    );
    // To the index these are like null: they never expire.
    let never =
        [vec![], vec![Bson::Null], vec![Bson::from(vec!["2024-01-01"])]].map(|array| with(owner, "expires", array));
    let documents = unfit.iter().map(|(document, _)| document).chain([&early, &late]);
    let documents = documents.chain(&never);
    bed.badge_users().insert_many(documents).await.unwrap();
    let daemon = bed.daemon().await;

    let report = daemon.wait_for(is_scan).await;
    assert_eq!(report["found"], unfit.len() + 2);
    assert_eq!(report["rejected"], unfit.len());
    bed.wait_for(|requests| requests.len() == 2).await;
    for (document, reason) in &unfit {
        let id = document.get("_id").unwrap();
        let note = doc! { "state": "rejected", "badgeUserId": id, "eventType": "certificate_expired" };
        let note = bed.deliveries().find_one(note).await.unwrap().unwrap();
        let recorded = note.get_str("reason").unwrap();
        assert!(recorded.contains(reason), "{recorded} instead of {reason}");
        let now = bed.badge_users().find_one(doc! { "_id": id }).await.unwrap().unwrap();
        assert!(now.get_bool("expiryReminderSent").unwrap(), "{reason}");
    }

    daemon.signal(Signal::SIGUSR1);
    assert_eq!(daemon.wait_for_nth(is_scan, 2).await["found"], 0);
    assert_eq!(daemon.count(is_rejection), unfit.len());
    assert_eq!(bed.receiver.total(), 2);
}

#[tokio::test]
async fn fields_that_are_only_payload_may_be_anything_and_ids_may_be_strings() {
    let bed = Bed::new().await;
    let owner = "an owner.with/a slash";
    let config = doc! { "_ownerId": owner, "webHookConfig": { "endpoints": [bed.endpoint("/a")] } };
    bed.member_configs().insert_one(config).await.unwrap();
    let mut document = expired(ObjectId::new());
    document.extend(doc! {
        "_id": "a string/with.everything", "_ownerId": owner, "_userId": 7, "_badgeId": Bson::Null, "creationDate": "yesterday",
        "disabled": "maybe", "_lessonActiveIds": {}, "ruleData": [[1], { "a.b": "é" }], "createdAt": false, "updatedAt": "now",
        "__v": "one", "added later": { "by": ["the platform"] },
    });
    bed.badge_users().insert_one(&document).await.unwrap();
    let daemon = bed.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["rejected"], 0);
    let requests = bed.wait_for(|requests| requests.len() == 1).await;
    let body: Value = serde_json::from_slice(&requests[0].body).unwrap();
    for field in [
        "_id",
        "_userId",
        "creationDate",
        "disabled",
        "ruleData",
        "__v",
        "added later",
    ] {
        let sent = bson::serialize_to_bson(&body[field]).unwrap();
        let same = match (&sent, &document[field]) {
            (Bson::Int64(sent), Bson::Int32(n)) => *sent == i64::from(*n),
            (Bson::Array(sent), Bson::Array(kept)) => sent.len() == kept.len(),
            (sent, kept) => sent == kept,
        };
        assert!(same, "{field}: {sent} instead of {}", document[field]);
    }
    assert!(!requests[0].header("webhook-id").contains('.'));
}

#[tokio::test]
async fn an_award_without_an_owner_is_rejected_and_the_stream_goes_on() {
    let bed = Bed::new().await;
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    let daemon = bed.daemon().await;
    let (mut ownerless, mut undated) = (certificate(owner, None), certificate(owner, None));
    ownerless.remove("_ownerId");
    undated.insert("creationDate", "yesterday");
    let unfit = [ownerless, undated];
    bed.badge_users().insert_many(&unfit).await.unwrap();
    bed.badge_users().insert_one(certificate(owner, None)).await.unwrap();
    bed.wait_for(|requests| requests.len() == 1).await;
    let rejected = doc! { "state": "rejected", "eventType": "certificate_completed" };
    assert_eq!(bed.deliveries().count_documents(rejected).await.unwrap(), 2);
    assert_eq!(daemon.count(is_rejection), 2);
}

#[tokio::test]
async fn a_certificate_that_mongodb_refuses_to_mark_is_sent_once_and_told() {
    let bed = Bed::new().await;
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    bed.badge_users()
        .insert_many([with(owner, "disabled", "maybe"), expired(owner)])
        .await
        .unwrap();
    let validator = doc! { "collMod": "badgeusers", "validator": { "disabled": { "$type": "bool" } } };
    bed.database.run_command(validator).await.unwrap();
    let daemon = bed.daemon().await;
    let refusal = |line: &Value| line["level"] == "WARN" && line["certificates"] == 1 && line["code"] == 121;
    daemon.wait_for(refusal).await;
    bed.wait_for(|requests| requests.len() == 2).await;
    daemon.signal(Signal::SIGUSR1);
    let report = daemon.wait_for_nth(is_scan, 2).await;
    assert_eq!((&report["found"], &report["known"]), (&1.into(), &1.into()));
    assert_eq!(bed.receiver.total(), 2);
}

fn out_of_service(line: &Value) -> bool {
    let told = "an endpoint is out of service until its configuration is mended; the others go on";
    line["level"] == "WARN" && line["message"] == told
}

fn adjusted(line: &Value) -> bool {
    line["level"] == "WARN" && line["message"] == "an endpoint is not served quite as it is configured"
}

#[tokio::test]
async fn each_bad_endpoint_is_skipped_with_one_warning_and_its_neighbour_works() {
    let bed = Bed::new().await;
    let bad = |change: Document| {
        let mut endpoint = bed.endpoint("/bad");
        endpoint.extend(change);
        endpoint
    };
    let mut endpoints = [
        bad(doc! { "url": Bson::Null }),
        bad(doc! { "url": "ftp://files.example/in" }),
        bad(doc! { "auth": { "authType": "carrier_pigeon", "token": "hunter2" } }),
        bad(doc! { "headers": { "X-Team": "a\r\nX-Forged: hunter2" } }),
    ]
    .to_vec();
    let reasons = ["it has no `url`", "`url` is not https", "`authType`", "line break"];
    let mut good = bed.endpoint("/good");
    good.insert("timeout", 900_000);
    endpoints.push(good);
    let owner = bed.organization(endpoints.clone()).await;
    bed.badge_users().insert_one(expired(owner)).await.unwrap();
    let daemon = bed.daemon().await;

    bed.wait_for(|requests| requests.len() == 1).await;
    for (endpoint, reason) in endpoints.iter().zip(reasons) {
        let line = daemon
            .wait_for(|line| out_of_service(line) && line["endpoint"] == id(endpoint))
            .await;
        assert_eq!(line["owner"], owner.to_hex());
        assert!(line["reason"].as_str().unwrap().contains(reason), "{line}");
    }
    let line = daemon.wait_for(adjusted).await;
    assert_eq!(
        (&line["owner"], &line["endpoint"]),
        (&owner.to_hex().into(), &id(&endpoints[4]).into())
    );
    assert!(line["reason"].as_str().unwrap().contains("30000 ms is used"), "{line}");

    // One more goes bad in the same way as one before; the others are not told again.
    let newcomer = bad(doc! { "url": "ftp://files.example/in" });
    let change = doc! { "$push": { "webHookConfig.endpoints": &newcomer } };
    bed.member_configs()
        .update_one(doc! { "_ownerId": owner }, change)
        .await
        .unwrap();
    daemon
        .wait_for(|line| out_of_service(line) && line["endpoint"] == id(&newcomer))
        .await;
    daemon
        .wait_for(|line| line["message"] == "endpoints read" && line["refused"] == 5)
        .await;
    assert_eq!((daemon.count(out_of_service), daemon.count(adjusted)), (5, 1));
    daemon.signal(Signal::SIGUSR2);
    let state = daemon.wait_for(|line| line["message"] == "state").await;
    assert_eq!(
        (&state["endpoints"], &state["endpoints_out_of_service"]),
        (&1.into(), &5.into())
    );
    assert!(!daemon.lines().iter().any(|line| line.to_string().contains("hunter2")));
    assert_eq!(bed.receiver.count("/bad"), 0);
}

fn id(endpoint: &Document) -> String {
    endpoint.get_object_id("_id").unwrap().to_hex()
}
