//! What makes no sense in the platform's documents harms itself alone, and is told once.

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Received;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Fixture, certificate, expired, is_scan};

fn with(organization: ObjectId, field: &str, value: impl Into<Bson>) -> Document {
    let mut document = expired(organization);
    document.insert(field, value);
    document
}

fn twice_unfit(organization: ObjectId) -> Document {
    let mut document = with(organization, "expires", "2024-01-01");
    document.insert("expiryReminderSent", "false");
    document
}

fn without(organization: ObjectId, field: &str) -> Document {
    let mut document = expired(organization);
    document.remove(field);
    document
}

fn is_rejection(line: &Value) -> bool {
    let told = "a certificate can't be an event: recorded as rejected, nothing is sent";
    line["level"] == "WARN" && line["message"] == told
}

/// Each with a part of the reason that the operator is told.
fn unfit(organization: ObjectId) -> Vec<(Document, &'static str)> {
    let (no_date, no_boolean) = ("`expires` is not a date", "`expiryReminderSent` is not a boolean");
    vec![
        (without(organization, "_ownerId"), "`_ownerId` is missing"),
        (with(organization, "_ownerId", Bson::Null), "`_ownerId` is missing"),
        (with(organization, "expires", "2024-01-01"), no_date),
        (with(organization, "expires", 1_700_000_000_000_i64), no_date),
        (with(organization, "expires", true), no_date),
        (with(organization, "expires", doc! { "$gt": 0 }), no_date),
        (with(organization, "expires", vec![Bson::from(Clock::local())]), no_date),
        (with(organization, "expires", vec!["2024-01-01"]), no_date),
        (with(organization, "expiryReminderSent", "false"), no_boolean),
        (with(organization, "expiryReminderSent", 0), no_boolean),
        (with(organization, "expiryReminderSent", doc! {}), no_boolean),
        (twice_unfit(organization), no_date),
        // Each of these characters takes six bytes in JSON.
        (
            with(organization, "ruleData", "\u{1}".repeat(3 << 20)),
            "more than a delivery can hold",
        ),
    ]
}

#[tokio::test]
async fn a_certificate_of_unexpected_types_is_rejected_marked_and_told_once_and_the_scan_goes_on() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let unfit = unfit(organization);
    // One before and one after them in the order of the scan.
    let (mut early, mut late) = (expired(organization), expired(organization));
    early.insert("expires", bson::DateTime::from_millis(0));
    late.insert(
        "expires",
        bson::DateTime::from_millis(Clock::local().timestamp_millis() - 1),
    );
    // To the index these are like null: they never expire.
    let never = [vec![], vec![Bson::Null], vec![Bson::from(vec!["2024-01-01"])]]
        .map(|array| with(organization, "expires", array));
    let documents = unfit.iter().map(|(document, _)| document).chain([&early, &late]);
    let documents = documents.chain(&never);
    fixture.badge_users().insert_many(documents).await.unwrap();
    let daemon = fixture.daemon().await;

    let report = daemon.wait_for(is_scan).await;
    assert_eq!(report["found"], unfit.len() + 2);
    assert_eq!(report["rejected"], unfit.len());
    fixture.wait_for(|requests| requests.len() == 2).await;
    for (document, reason) in &unfit {
        let id = document.get("_id").unwrap();
        let note = doc! { "state": "rejected", "certificate": id, "type": "certificate_expired" };
        let note = fixture.outbox().find_one(note).await.unwrap().unwrap();
        let recorded = note.get_str("reason").unwrap();
        assert!(recorded.contains(reason), "{recorded} instead of {reason}");
        let now = fixture
            .badge_users()
            .find_one(doc! { "_id": id })
            .await
            .unwrap()
            .unwrap();
        assert!(now.get_bool("expiryReminderSent").unwrap(), "{reason}");
    }

    daemon.signal(Signal::SIGUSR1);
    assert_eq!(daemon.wait_for_nth(is_scan, 2).await["found"], 0);
    assert_eq!(daemon.count(is_rejection), unfit.len());
    assert_eq!(fixture.receiver.total(), 2);

    // Corrected, with the mark taken back: docs/troubleshoot.md, "Certificates are rejected".
    let correct = expired(organization);
    for (document, _) in &unfit {
        let mut correct = correct.clone();
        correct.insert("_id", document.get("_id").unwrap());
        let all = doc! { "_id": document.get("_id").unwrap() };
        fixture.badge_users().replace_one(all, correct).await.unwrap();
    }
    daemon.signal(Signal::SIGUSR1);
    let is_expiry = |request: &&Received| request.header("x-webhook-event") == "certificate_expired";
    fixture
        .wait_for(|requests| requests.iter().filter(is_expiry).count() == unfit.len() + 2)
        .await;
}

#[tokio::test]
async fn fields_that_are_only_payload_may_be_anything_and_ids_may_be_strings() {
    let fixture = Fixture::new().await.odd();
    let organization = "an organization.with/a slash";
    let config = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": [fixture.endpoint("/a")] } };
    fixture.member_configs().insert_one(config).await.unwrap();
    let mut document = expired(ObjectId::new());
    document.extend(doc! {
        "_id": "a string/with.everything", "_ownerId": organization, "_userId": 7, "_badgeId": Bson::Null, "creationDate": "yesterday",
        "disabled": "maybe", "_lessonActiveIds": {}, "ruleData": [[1], { "a.b": "é" }], "createdAt": false, "updatedAt": "now",
        "__v": "one", "added later": { "by": ["the platform"] },
    });
    fixture.badge_users().insert_one(&document).await.unwrap();
    let daemon = fixture.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["rejected"], 0);
    let requests = fixture.wait_for(|requests| requests.len() == 1).await;
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
async fn an_award_without_an_organization_is_rejected_and_the_stream_goes_on() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let daemon = fixture.daemon().await;
    let (mut nameless, mut undated) = (certificate(organization, None), certificate(organization, None));
    nameless.remove("_ownerId");
    undated.insert("creationDate", "yesterday");
    let unfit = [nameless, undated];
    fixture.badge_users().insert_many(&unfit).await.unwrap();
    fixture
        .badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
    fixture.wait_for(|requests| requests.len() == 1).await;
    let rejected = doc! { "state": "rejected", "type": "certificate_completed" };
    assert_eq!(fixture.outbox().count_documents(rejected).await.unwrap(), 2);
    assert_eq!(daemon.count(is_rejection), 2);
}

#[tokio::test]
async fn a_certificate_that_mongodb_refuses_to_mark_is_sent_once_and_told() {
    let fixture = Fixture::new().await.odd();
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture
        .badge_users()
        .insert_many([with(organization, "disabled", "maybe"), expired(organization)])
        .await
        .unwrap();
    let validator = doc! { "collMod": "badgeusers", "validator": { "disabled": { "$type": "bool" } } };
    fixture.database.run_command(validator).await.unwrap();
    let daemon = fixture.daemon().await;
    let refusal = |line: &Value| {
        line["level"] == "WARN"
            && line["certificates"] == 1
            && line["error"].as_str().is_some_and(|error| error.contains("121"))
    };
    daemon.wait_for(refusal).await;
    fixture.wait_for(|requests| requests.len() == 2).await;
    daemon.signal(Signal::SIGUSR1);
    let report = daemon.wait_for_nth(is_scan, 2).await;
    assert_eq!((&report["found"], &report["known"]), (&0.into(), &0.into()));
    assert_eq!(fixture.receiver.total(), 2);
}

fn out_of_service(line: &Value) -> bool {
    let told = "an endpoint is out of service until its configuration is corrected; the others go on";
    line["level"] == "WARN" && line["message"] == told
}

fn adjusted(line: &Value) -> bool {
    line["level"] == "WARN" && line["message"] == "the configuration of an endpoint needs attention"
}

#[tokio::test]
async fn each_bad_endpoint_is_skipped_with_one_warning_and_its_neighbour_works() {
    let fixture = Fixture::new().await;
    let bad = |change: Document| {
        let mut endpoint = fixture.endpoint("/bad");
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
    let mut good = fixture.endpoint("/good");
    good.insert("timeout", 900_000);
    endpoints.push(good);
    let organization = fixture.organization(endpoints.clone()).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;

    fixture.wait_for(|requests| requests.len() == 1).await;
    for (endpoint, reason) in endpoints.iter().zip(reasons) {
        let line = daemon
            .wait_for(|line| out_of_service(line) && line["endpoint"] == id(endpoint))
            .await;
        assert_eq!(line["organization"], organization.to_hex());
        assert!(line["reason"].as_str().unwrap().contains(reason), "{line}");
    }
    let line = daemon.wait_for(adjusted).await;
    assert_eq!(
        (&line["organization"], &line["endpoint"]),
        (&organization.to_hex().into(), &id(&endpoints[4]).into())
    );
    assert!(line["reason"].as_str().unwrap().contains("30000 ms is used"), "{line}");

    // One more goes bad in the same way as one before; the others are not told again.
    let newcomer = bad(doc! { "url": "ftp://files.example/in" });
    let change = doc! { "$push": { "webHookConfig.endpoints": &newcomer } };
    fixture
        .member_configs()
        .update_one(doc! { "_ownerId": organization }, change)
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
    assert_eq!(fixture.receiver.count("/bad"), 0);
}

fn id(endpoint: &Document) -> String {
    endpoint.get_object_id("_id").unwrap().to_hex()
}

#[tokio::test]
async fn what_makes_no_sense_gets_its_events_once_it_is_mended() {
    let fixture = Fixture::new().await;
    let secrets = vec!["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"; 11];
    let faults: [(&str, Bson); 8] = [
        ("url", Bson::Null),
        ("url", "ftp://files.example/in".into()),
        ("auth", doc! { "authType": "carrier_pigeon" }.into()),
        ("headers", doc! { "X-Team": "a\r\nX-Forged: b" }.into()),
        ("enabled", "yes".into()),
        ("signingSecrets", secrets.into()),
        // These two get nothing: what they want can't be read, or they don't want it.
        ("eventTypes", "certificate_expired".into()),
        ("enabled", false.into()),
    ];
    let good: Vec<_> = (0..faults.len()).map(|n| fixture.endpoint(&format!("/{n}"))).collect();
    let bad = good.iter().zip(faults).map(|(good, (field, value))| {
        let mut bad = good.clone();
        bad.insert(field, value);
        bad
    });
    let organization = fixture.organization(bad.collect()).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["deliveries"], 6);
    assert_eq!(daemon.count(out_of_service), 7);
    assert_eq!(fixture.receiver.total(), 0);

    let correct = doc! { "$set": { "webHookConfig.endpoints": good } };
    fixture
        .member_configs()
        .update_one(doc! { "_ownerId": organization }, correct)
        .await
        .unwrap();
    let requests = fixture.wait_for(|requests| requests.len() == 6).await;
    let mut paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/0", "/1", "/2", "/3", "/4", "/5"]);
}

#[tokio::test]
async fn an_endpoint_in_two_documents_of_its_organization_counts_once_with_one_warning() {
    let fixture = Fixture::new().await;
    let organization = ObjectId::new();
    let (low, high) = (ObjectId::from_bytes([1; 12]), ObjectId::from_bytes([2; 12]));
    let mut old = fixture.endpoint("/old");
    old.insert("_id", Bson::Null);
    let both = [fixture.endpoint("/new"), old];
    let mut other = both.clone();
    other[0].insert("url", fixture.receiver.url("/ignored"));
    for (id, organization, endpoints) in [
        (high, Bson::from(organization), other),
        (low, organization.to_hex().to_uppercase().into(), both),
    ] {
        let config = doc! { "_id": id, "_ownerId": organization, "webHookConfig": { "endpoints": endpoints.to_vec() } };
        fixture.member_configs().insert_one(config).await.unwrap();
    }
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let daemon = fixture.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["deliveries"], 2);
    fixture.wait_for(|requests| requests.len() == 2).await;
    assert_eq!(
        ["/new", "/old", "/ignored"].map(|path| fixture.receiver.count(path)),
        [1, 1, 0]
    );

    let is_double = |line: &Value| line["level"] == "WARN" && !line["ignored"].is_null();
    let line = daemon.wait_for(is_double).await;
    assert_eq!(
        (&line["document"], &line["ignored"]),
        (&low.to_hex().into(), &high.to_hex().into())
    );
    assert_eq!(
        (&line["organization"], &line["endpoints"]),
        (&organization.to_hex().into(), &2.into())
    );
    assert_eq!(daemon.count(is_double), 1);
}

#[tokio::test]
async fn an_unknown_event_type_subscribes_to_nothing_and_is_told_with_the_nearest() {
    let fixture = Fixture::new().await;
    let mut endpoint = fixture.endpoint("/a");
    let types = [
        " Certificate_EXPIRED ",
        "certificate_compleeted",
        "certificate_compleeted",
        "certificate_revoked",
    ];
    endpoint.insert("eventTypes", types.to_vec());
    let organization = fixture.organization(vec![endpoint]).await;
    let certificates = [certificate(organization, None), expired(organization)];
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let daemon = fixture.daemon().await;
    fixture.wait_for(|requests| requests.len() == 1).await;
    for (unknown, nearest) in [
        ("certificate_compleeted", "certificate_completed"),
        ("certificate_revoked", "certificate_expired"),
    ] {
        let names = |line: &Value, name: &str| line["reason"].as_str().is_some_and(|reason| reason.contains(name));
        let line = daemon.wait_for(|line| adjusted(line) && names(line, unknown)).await;
        assert!(names(&line, nearest), "{line}");
    }
    assert_eq!(daemon.count(adjusted), 2);
}
