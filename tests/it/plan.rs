//! How MongoDB serves the daemon's queries, as it saw them.

use std::collections::BTreeSet;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Bulk, Response};
use http::StatusCode;

use crate::fixture::{Fixture, certificate, completed_id, endpoint_key, expired, expired_in_turn};
use crate::layout::{batch, dead, delivered, expiry, indexes, outbox, store};
use crate::web::{LISTEN, address, get};

/// Every stage of a plan.
fn stages(plan: &Document) -> Vec<String> {
    let mut names = vec![plan.get_str("stage").unwrap().to_owned()];
    let several = plan
        .get_array("inputStages")
        .into_iter()
        .flatten()
        .filter_map(Bson::as_document);
    for input in several.chain(plan.get_document("inputStage")) {
        names.extend(stages(input));
    }
    names
}

/// What the daemon asked MongoDB for, explained.
async fn explain(fixture: &Fixture, asked: &Document) -> (Vec<String>, [i32; 3]) {
    let command = asked.get_document("command").unwrap();
    let fields = ["find", "filter", "sort", "hint"];
    let find: Document = command
        .clone()
        .into_iter()
        .filter(|(key, _)| fields.contains(&key.as_str()))
        .collect();
    let explained = doc! { "explain": find, "verbosity": "executionStats" };
    let explained = fixture.database.run_command(explained).await.unwrap();
    let plan = explained
        .get_document("queryPlanner")
        .and_then(|planner| planner.get_document("winningPlan"));
    let stats = explained.get_document("executionStats").unwrap();
    let counts = ["nReturned", "totalDocsExamined", "totalKeysExamined"].map(|count| stats.get_i32(count).unwrap());
    (stages(plan.unwrap()), counts)
}

#[tokio::test]
async fn among_100_000_that_are_alive_the_index_leads_to_the_expired_and_to_no_other_document() {
    let fixture = Fixture::new().await;
    let now = Clock::local().timestamp_millis();
    let in_days = |days: i64| Some(DateTime::from_millis(now + days * 86_400_000));
    // One in four lacks `expiryReminderSent`; one in ten never expires.
    let alive = |i: usize| {
        if i.is_multiple_of(10) {
            None
        } else {
            in_days(1 + i as i64 % 300)
        }
    };
    let mut bulk = Bulk::new(1, 10);
    bulk.insert(&fixture.badge_users(), 100_000, alive).await.unwrap();
    let organization = bulk.organizations()[0];
    let flags = [Some(Bson::Boolean(false)), Some(Bson::Null), None];
    let due = flags.iter().cycle().take(60).map(|flag| {
        let mut document = expired(organization);
        document.remove("expiryReminderSent");
        document.extend(flag.clone().map(|flag| ("expiryReminderSent".to_owned(), flag)));
        document
    });
    fixture.badge_users().insert_many(due).await.unwrap();
    let mut sent = certificate(organization, in_days(-1));
    sent.insert("expiryReminderSent", true);
    fixture.badge_users().insert_one(sent).await.unwrap();
    let index = doc! { "key": { "expiryReminderSent": 1, "expires": 1 }, "name": "certhookd_scan" };
    let create = doc! { "createIndexes": "badgeusers", "indexes": [index] };
    fixture.database.run_command(create).await.unwrap();

    let queries = doc! { "op": "query", "ns": format!("{}.badgeusers", fixture.database.name()) };
    fixture.profile(&queries).await;
    assert_eq!(fixture.outcome(&["scan", "--dry-run"]).await.code, Some(0));
    let asked = fixture.profiled(&queries).await;
    let [for_expired, for_odd] = asked.as_slice() else {
        panic!("{asked:#?}")
    };

    let (stages, [returned, documents, keys]) = explain(&fixture, for_expired).await;
    println!("expired: {stages:?}: {returned} returned, {documents} documents and {keys} keys examined");
    assert!(
        stages.contains(&"IXSCAN".into()) && !stages.contains(&"SORT".into()),
        "{stages:?}"
    );
    assert_eq!((returned, documents), (60, 60));
    assert!(keys < 70, "{keys}");
    assert_eq!(for_expired.get_i32("docsExamined").unwrap(), 60, "in the scan itself");

    let (stages, [returned, documents, keys]) = explain(&fixture, for_odd).await;
    println!("odd types: {stages:?}: {returned} returned, {documents} documents and {keys} keys examined");
    assert!(!stages.contains(&"COLLSCAN".into()), "{stages:?}");
    assert_eq!((returned, documents), (0, 0));
    assert!(keys < 70, "{keys}");
}

/// Everything that a daemon asks of its outbox, and that is asked about it, while it sends, fails and sends dead letters again.
#[tokio::test]
async fn nothing_walks_the_whole_outbox() {
    let settings = format!("{LISTEN}\ndelivery.max_attempts = 2\ndelivery.retry_window = \"1s\"");
    let fixture = Fixture::new().await.with(&settings);
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture
        .receiver
        .script("/a", Response::failing(2, StatusCode::BAD_GATEWAY));
    let ended = (0..1_000).map(|n| delivered(batch("a/b", &[expiry(n)])));
    outbox(&fixture).insert_many(ended).await.unwrap();
    let walks = doc! {
        "ns": format!("{}.webhook_outbox", fixture.database.name()),
        "appName": "certhookd",
        "$or": [{ "planSummary": "COLLSCAN" }, { "docsExamined": { "$gt": 500 } }],
    };
    fixture.profile(&walks).await;

    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let mut daemon = fixture.daemon().await;
    daemon
        .wait_for(|line| line["message"] == "dead letters go out again")
        .await;
    fixture
        .wait_for_count(&outbox(&fixture), doc! { "state": "delivered", "attempts": 3 }, 1)
        .await;
    let address = address(&daemon).await;
    for path in ["/", "/metrics", "/readyz"] {
        assert_eq!(get(address, path).await.status, 200, "{path}");
    }
    assert_eq!(fixture.outcome(&["status"]).await.code, Some(0));
    assert!(daemon.stop().await.success());
    let walked = fixture.profiled(&walks).await;
    assert!(walked.is_empty(), "{walked:#?}");
}

/// What is asked of the outbox by people, where much is kept and much waits.
#[tokio::test]
async fn status_metrics_and_replay_read_what_they_tell_of_and_no_more() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let kept = (0..2_000).map(|n| delivered(batch("a/b", &[expiry(n)])));
    let pending = (0..500).map(|n| batch(&format!("a/{}", n % 5), &[expiry(n), expiry(n + 1)]));
    let letters = (0..500).map(|n| dead(&format!("b/{}", n % 5), &expiry(5_000 + n)));
    let documents = kept.chain(pending).chain(letters);
    outbox(&fixture).insert_many(documents).await.unwrap();
    fixture
        .state()
        .insert_many((0..500).map(|n| doc! { "_id": format!("endpoint/a/{n}") }))
        .await
        .unwrap();
    let collections = ["webhook_outbox", "webhook_state"].map(|name| format!("{}.{name}", fixture.database.name()));
    let asked = doc! { "ns": { "$in": &collections[..] } };
    fixture.profile(&asked).await;
    // Five queues and five endpoints with dead letters; a document that says when the scan was, and one where the stream is.
    let cases: [(&[&str], i32); 7] = [
        (&["status"], 15),
        (&["status", "--json"], 15),
        (&["replay", "--id", &expiry(5_007), "--dry-run"], 1),
        (&["replay", "--id", &format!("{}/b/2", expiry(5_007)), "--dry-run"], 1),
        (&["replay", "--id", &format!("b/2/{}", expiry(5_007)), "--dry-run"], 1),
        (&["replay", "--endpoint", "b/2", "--dry-run"], 100),
        (
            &["replay", "--organization", "b", "--state", "cancelled", "--dry-run"],
            500,
        ),
    ];
    for (arguments, documents) in cases {
        assert_eq!(fixture.outcome(arguments).await.code, Some(0), "{arguments:?}");
        let noted = fixture.profiled(&asked).await;
        let walks = noted
            .iter()
            .filter(|one| one.get_str("planSummary").is_ok_and(|plan| plan == "COLLSCAN"));
        assert_eq!(walks.count(), 0, "{arguments:?}: {noted:#?}");
        let examined: i32 = noted.iter().filter_map(|one| one.get_i32("docsExamined").ok()).sum();
        assert!(examined <= documents, "{arguments:?}: {examined} documents: {noted:#?}");
        fixture.stop_profiling().await;
        fixture.profile(&asked).await;
    }
    store.close().await;
}

/// What `show` and `deliveries` read of 300 organizations where the platform has an index of them, and where it has none.
#[tokio::test]
async fn show_and_deliveries_read_the_settings_of_the_organizations_that_they_tell_of() {
    let fixture = Fixture::new().await;
    let (endpoint, organization) = (fixture.endpoint("/a"), ObjectId::new());
    let key = endpoint_key(organization, &endpoint);
    let config = |organization: ObjectId, endpoint: Document| doc! { "_ownerId": organization, "webHookConfig": { "endpoints": [endpoint] } };
    let others = (0..300).map(|_| config(ObjectId::new(), fixture.endpoint("/b")));
    let configs = others.chain([config(organization, endpoint.clone())]);
    fixture.member_configs().insert_many(configs).await.unwrap();
    let certificate = certificate(organization, None);
    fixture.badge_users().insert_one(&certificate).await.unwrap();
    indexes(&fixture).await;
    let event = completed_id(&certificate);
    outbox(&fixture)
        .insert_one(batch(&key, std::slice::from_ref(&event)))
        .await
        .unwrap();
    let [organization, id] = [organization, endpoint.get_object_id("_id").unwrap()].map(|id| id.to_hex());
    let certificate = certificate.get_object_id("_id").unwrap().to_hex();
    let delivery = format!("{event}/{key}");
    let cases: [&[&str]; 8] = [
        &["show", &certificate],
        &["show", &event],
        &["show", &delivery],
        &["deliveries"],
        &["deliveries", "--organization", &organization],
        &["deliveries", "--endpoint", &key],
        &["deliveries", "--endpoint", &id],
        &["deliveries", "--event-type", "certificate_expired"],
    ];
    let asked = doc! { "op": "query", "ns": format!("{}.memberconfigs", fixture.database.name()) };
    for has_index in [false, true] {
        if has_index {
            let index = mongodb::IndexModel::builder().keys(doc! { "_ownerId": 1 }).build();
            fixture.member_configs().create_index(index).await.unwrap();
        }
        for arguments in cases {
            fixture.profile(&asked).await;
            assert_eq!(fixture.outcome(arguments).await.code, Some(0), "{arguments:?}");
            let noted = fixture.profiled(&asked).await;
            let sum = |field| noted.iter().map(|one| number(one, field)).sum::<i32>();
            // The documents of that organization are looked for, then read; once for what is chosen, once for what is told.
            assert!(sum("nreturned") <= 4, "{arguments:?}: {noted:#?}");
            let is_by_id = arguments.contains(&&*id);
            assert!(
                !has_index || is_by_id || sum("docsExamined") <= 4,
                "{arguments:?}: {noted:#?}"
            );
            fixture.stop_profiling().await;
        }
    }
}

/// How an operation was done, as the profile notes it.
fn shape(operation: &Document) -> String {
    let text = |field| operation.get_str(field).unwrap_or_default();
    let collection = text("ns").split('.').nth(1).unwrap_or_default();
    let command = operation.get_document("command").unwrap();
    let name = command.keys().next().map_or("", String::as_str);
    format!("{} {name} of {collection}: {}", text("op"), text("planSummary"))
}

/// A number of what an operation did.
fn number(operation: &Document, field: &str) -> i32 {
    operation.get_i32(field).unwrap_or(0)
}

/// Fills the outbox with what has ended, with what waits for `off`, with dead letters of `sick`, and with a batch of `well` that an
/// instance left behind: its first delivery is read alone.
async fn fill_outbox(fixture: &Fixture, [sick, off, well]: [&str; 3]) {
    store(fixture).await.close().await;
    let ended = (0..1_000).map(|n| delivered(batch("a/b", &[expiry(n)])));
    let waiting = (0..50).map(|n| batch(off, &[expiry(n), expiry(n + 1)]));
    let letters = (0..50).map(|n| dead(sick, &expiry(5_000 + n)));
    let left = batch(well, &[expiry(7_001), expiry(7_002)]);
    let documents = ended.chain(waiting).chain(letters).chain([left]);
    outbox(fixture).insert_many(documents).await.unwrap();
}

/// The daemon's operations; a change stream reads the oplog, and is none.
fn operations(fixture: &Fixture) -> Document {
    let collections = [
        "webhook_outbox",
        "badgeusers",
        "webhook_state",
        "webhook_stats",
        "webhook_operations",
    ];
    let namespaces = collections.map(|name| format!("{}.{name}", fixture.database.name()));
    doc! {
        "ns": { "$in": &namespaces[..] }, "appName": "certhookd", "command.pipeline.0.$changeStream": { "$exists": false },
        "originatingCommand.pipeline.0.$changeStream": { "$exists": false },
    }
}

/// Whether an operation read a whole collection, or more than two documents that it neither returned nor wrote.
fn is_wasteful(operation: &Document) -> bool {
    let concerned = ["nreturned", "nMatched", "ninserted", "nUpserted", "ndeleted"];
    let concerned: i32 = concerned.iter().map(|field| number(operation, field)).sum();
    let plan = operation.get_str("planSummary").unwrap_or_default();
    number(operation, "docsExamined") > concerned + 2 || plan.contains("COLLSCAN")
}

const EXPECTED: [(&str, &str); 12] = [
    (
        "look",
        "command aggregate of webhook_outbox: DISTINCT_SCAN { queue: 1, due: 1, _id: 1, open: 1 }",
    ),
    (
        "fetch",
        "command aggregate of webhook_outbox: IXSCAN { queue: 1, due: 1, _id: 1, open: 1 }",
    ),
    (
        "fetch what is known",
        "command aggregate of webhook_outbox: IXSCAN { _id: 1 }",
    ),
    ("append", "query find of webhook_outbox: IXSCAN { deliveries.event: 1 }"),
    (
        "cancel",
        "query find of webhook_outbox: IXSCAN { queue: 1, due: 1, _id: 1, open: 1 }",
    ),
    (
        "look for dead letters",
        "command aggregate of webhook_outbox: DISTINCT_SCAN { endpoint: 1, finishedAt: 1 }",
    ),
    (
        "redrive",
        "query find of webhook_outbox: IXSCAN { endpoint: 1, finishedAt: 1 }",
    ),
    ("record", "update q of webhook_outbox: IXSCAN { _id: 1 }"),
    ("mark", "update q of badgeusers: IXSCAN { _id: 1 }"),
    (
        "heartbeat, save the position",
        "update q of webhook_state: IXSCAN { _id: 1 }",
    ),
    (
        "look for operations",
        "query find of webhook_operations: IXSCAN { state: 1, _id: 1 }",
    ),
    ("count", "update q of webhook_stats: IDHACK"),
];

/// What a daemon does with MongoDB from a scan to the last result, with failures, an endpoint that is switched off, dead letters
/// that go out again and awards: each query and update is served by an index, and reads what it is about and little more.
#[tokio::test]
async fn every_operation_of_a_daemon_is_served_by_an_index() {
    let fixture = Fixture::new()
        .await
        .with("delivery.max_attempts = 2\ndelivery.retry_window = \"1s\"");
    let endpoints = ["/well", "/sick", "/off"].map(|path| fixture.endpoint(path));
    let organization = fixture.organization(endpoints.to_vec()).await;
    let [well, sick, off] = endpoints.map(|endpoint| endpoint_key(organization, &endpoint));
    fixture
        .receiver
        .script("/sick", Response::failing(3, StatusCode::BAD_GATEWAY));
    fill_outbox(&fixture, [&sick, &off, &well]).await;
    let switch = doc! { "$set": { "webHookConfig.endpoints.2.enabled": false } };
    fixture.member_configs().update_many(doc! {}, switch).await.unwrap();
    let mut alive: Vec<_> = (0..1_000).map(|_| certificate(organization, None)).collect();
    alive.extend(expired_in_turn(organization, 300));
    fixture.badge_users().insert_many(alive).await.unwrap();
    let operations = operations(&fixture);
    fixture.profile(&operations).await;

    let mut daemon = fixture.daemon().await;
    let award = certificate(organization, None);
    fixture.badge_users().insert_one(award).await.unwrap();
    fixture
        .wait_for_count(&outbox(&fixture), doc! { "state": "cancelled" }, 50)
        .await;
    let ended = doc! { "endpoint": { "$ne": "a/b" }, "state": "delivered" };
    fixture.wait_for_deliveries(ended, 654).await;
    assert!(daemon.stop().await.success());

    let profiled = fixture.profiled(&operations).await;
    let seen: BTreeSet<_> = profiled.iter().map(shape).collect();
    for (what, expected) in EXPECTED {
        assert!(seen.contains(expected), "{what}: {expected} in {seen:#?}");
    }
    let wasteful: Vec<_> = profiled.iter().filter(|one| is_wasteful(one)).collect();
    assert!(wasteful.is_empty(), "{wasteful:#?}");
}

/// Writes to the outbox for a delivery that arrives at once: it is appended with 63 others, and their results are recorded together.
#[tokio::test]
async fn a_backlog_is_delivered_with_three_writes_per_batch_at_most() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organization = fixture
        .organization(vec![fixture.endpoint("/a"), fixture.endpoint("/b")])
        .await;
    let certificates = expired_in_turn(organization, 1_000);
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let writes = doc! {
        "ns": format!("{}.webhook_outbox", fixture.database.name()), "op": { "$in": ["insert", "update", "remove"] },
    };
    fixture.profile(&writes).await;
    let mut daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2_000).await;
    assert!(daemon.stop().await.success());
    let noted = fixture.profiled(&writes).await;
    let sum = |field| noted.iter().map(|write| number(write, field)).sum::<i32>();
    let [inserted, modified, upserted, deleted] = ["ninserted", "nModified", "nUpserted", "ndeleted"].map(sum);
    println!(
        "2000 deliveries: {inserted} inserted, {modified} modified, {upserted} upserted, {deleted} deleted; keys: {} inserted, {} deleted",
        sum("keysInserted"),
        sum("keysDeleted")
    );
    assert_eq!(fixture.receiver.total(), 2_000);
    // Beside them: what an endpoint gets before it is known to answer.
    let writes = inserted + modified + upserted + deleted;
    assert!(writes <= 2_000 * 3 / 64 + 20, "{writes}");
}
