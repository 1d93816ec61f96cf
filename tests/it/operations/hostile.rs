//! Operations whose documents are odd, or are changed by hand while they are carried out.

use bson::oid::ObjectId;
use bson::{Bson, Document, Regex, doc};
use certhookd::model::Clock;
use nix::sys::signal::Signal;

use super::held;
use crate::fixture::{Fixture, endpoint_key, expired_in_turn, pending_batch};
use crate::locked::lock;

/// As [`held`], but each delivery in a batch of its own.
async fn held_one_by_one(fixture: &Fixture, waiting: i64) -> String {
    let key = held(fixture, 0).await;
    let organization = ObjectId::parse_str(key.split_once('/').unwrap().0).unwrap();
    let batches = expired_in_turn(organization, waiting)
        .into_iter()
        .map(|one| pending_batch(&key, &[one]));
    fixture.outbox().insert_many(batches).await.unwrap();
    key
}

/// Cancels that many deliveries a second of all that wait.
fn slow(per_second: f64) -> Document {
    doc! { "kind": "cancel", "selection": { "all": true }, "options": { "ratePerSecond": per_second } }
}

async fn ask(fixture: &Fixture, operation: Document) -> Bson {
    fixture.operations().insert_one(operation).await.unwrap().inserted_id
}

async fn change(fixture: &Fixture, id: &Bson, set: Document) {
    let change = doc! { "$set": set };
    fixture
        .operations()
        .update_one(doc! { "_id": id }, change)
        .await
        .unwrap();
}

async fn wait_until(fixture: &Fixture, filter: Document) {
    fixture.wait_for_count(&fixture.operations(), filter, 1).await;
}

/// Returns when the daemon has looked for operations once more, and acted on what it found.
async fn look(fixture: &Fixture) {
    for _ in 0..2 {
        let refused = fixture.operate(doc! { "kind": "nothing" }).await;
        assert_eq!(refused.get_str("state").ok(), Some("refused"));
    }
}

#[tokio::test]
async fn one_that_is_taken_away_while_it_is_carried_out_stops_no_other() {
    let fixture = Fixture::new().await;
    held_one_by_one(&fixture, 200).await;
    let _daemon = fixture.daemon().await;
    let other = ask(&fixture, slow(1.0)).await;
    wait_until(&fixture, doc! { "_id": &other, "progress.done": { "$gt": 0 } }).await;
    let table = [
        None,
        Some(doc! { "state": "done", "finishedAt": Clock::local() }),
        Some(doc! { "instance": "another" }),
    ];
    for tampering in table {
        let id = ask(&fixture, slow(1.0)).await;
        wait_until(&fixture, doc! { "_id": &id, "progress.done": { "$gt": 0 } }).await;
        let what = format!("{tampering:?}");
        match tampering {
            Some(set) => change(&fixture, &id, set).await,
            None => drop(fixture.operations().delete_one(doc! { "_id": &id }).await.unwrap()),
        }
        let done = |document: &Document| document.get_document("progress").unwrap().get_i64("done").unwrap();
        let find = || async {
            let found = fixture.operations().find_one(doc! { "_id": &other }).await.unwrap();
            done(&found.unwrap())
        };
        // At its next step it finds out.
        let before = find().await;
        wait_until(&fixture, doc! { "_id": &other, "progress.done": { "$gt": before + 2 } }).await;
        let new = doc! { "kind": "replay", "selection": { "all": true } };
        let new = fixture.operate(new).await;
        assert_eq!(new.get_str("state").ok(), Some("done"), "{what}: {new}");
    }
}

#[tokio::test]
async fn a_hold_and_a_stop_are_heeded_whatever_else_is_asked_for() {
    let fixture = Fixture::new().await;
    let key = held_one_by_one(&fixture, 100).await;
    let _daemon = fixture.daemon().await;
    let first = ask(&fixture, slow(0.1)).await;
    wait_until(&fixture, doc! { "_id": &first, "progress.done": { "$gt": 0 } }).await;
    fixture.operations().insert_many(vec![slow(0.1); 1_000]).await.unwrap();
    let hold = doc! { "kind": "hold", "selection": { "endpoint": &key } };
    let hold = fixture.operate(hold).await;
    assert_eq!(hold.get_str("state").ok(), Some("done"), "{hold}");
    change(&fixture, &first, doc! { "cancel": true }).await;
    let first = fixture.ended(&first).await;
    assert_eq!(first.get_str("state").ok(), Some("cancelled"), "{first}");
}

#[tokio::test]
async fn ids_that_read_alike_are_two_operations() {
    let fixture = Fixture::new().await;
    held_one_by_one(&fixture, 100).await;
    let _daemon = fixture.daemon().await;
    let id = ObjectId::new();
    let long = "x".repeat(200);
    let table: [[Bson; 2]; 4] = [
        [id.into(), id.to_hex().into()],
        [7.into(), "7".into()],
        [format!("{long}1").into(), format!("{long}2").into()],
        [doc! { "a": 1 }.into(), doc! { "a": "1" }.into()],
    ];
    for [one, other] in table {
        for id in [&one, &other] {
            let mut operation = slow(0.1);
            operation.insert("_id", id);
            ask(&fixture, operation).await;
            wait_until(&fixture, doc! { "_id": id, "state": "running" }).await;
        }
        change(&fixture, &one, doc! { "cancel": true }).await;
        assert_eq!(fixture.ended(&one).await.get_str("state").ok(), Some("cancelled"));
        look(&fixture).await;
        wait_until(&fixture, doc! { "_id": &other, "state": "running" }).await;
        change(&fixture, &other, doc! { "cancel": true }).await;
        fixture.ended(&other).await;
    }
}

#[tokio::test]
async fn whatever_state_it_has_it_is_carried_out_once() {
    let fixture = Fixture::new().await;
    let key = held(&fixture, 0).await;
    let _daemon = fixture.daemon().await;
    let regex = Bson::from(Regex {
        pattern: "r".try_into().unwrap(),
        options: "".try_into().unwrap(),
    });
    let at = Clock::local();
    let table = [
        doc! { "state": 5 },
        doc! { "state": ["new"] },
        doc! { "state": regex },
        doc! { "state": { "$gt": 1 } },
        doc! { "state": { "$none": 1 } },
        doc! { "state": "running" },
        doc! { "state": "running", "control": 7_i64 },
        doc! { "state": "running", "control": 7_i64, "startedAt": at, "finishedAt": at },
        doc! { "state": "running", "progress": "half", "startedAt": "now" },
        doc! { "state": "new", "result": 1, "error": "none", "progress": 1 },
    ];
    for odd in table {
        let mut operation = doc! { "kind": "hold", "selection": { "endpoint": &key } };
        operation.extend(odd.clone());
        let hold = format!("hold/endpoint/{key}");
        fixture.state().delete_one(doc! { "_id": &hold }).await.unwrap();
        let id = ask(&fixture, operation).await;
        wait_until(&fixture, doc! { "_id": &id, "state": { "$eq": "done" } }).await;
        let held = fixture.state().find_one(doc! { "_id": &hold }).await.unwrap();
        assert!(held.is_some(), "{odd}");
    }
}

/// Has MongoDB refuse operations that this doesn't match, but for those of the kind `nothing`.
async fn validate(fixture: &Fixture, validator: Document) {
    look(fixture).await;
    let validator = doc! { "$or": [{ "kind": "nothing" }, validator] };
    let modify = doc! { "collMod": "webhook_operations", "validator": validator };
    fixture.database.run_command(modify).await.unwrap();
}

#[tokio::test]
async fn one_whose_end_mongodb_refuses_is_carried_out_once() {
    for (validator, state) in [
        (doc! { "state": { "$ne": "done" } }, "failed"),
        (doc! { "result": { "$exists": false } }, "failed"),
        (doc! { "finishedAt": { "$exists": false } }, "running"),
    ] {
        let fixture = Fixture::new().await;
        let endpoint = fixture.endpoint("/a");
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        let daemon = fixture.daemon().await;
        validate(&fixture, validator).await;
        let mut ids = Vec::new();
        for kind in ["test", "hold", "replay", "backfill"] {
            let selection = doc! { "endpoint": endpoint_key(organization, &endpoint) };
            ids.push(ask(&fixture, doc! { "kind": kind, "selection": selection }).await);
        }
        let is_error = |line: &serde_json::Value| line["level"] == "ERROR";
        daemon.wait_for_nth(is_error, ids.len()).await;
        look(&fixture).await;
        look(&fixture).await;
        assert_eq!(daemon.count(is_error), ids.len(), "one line each");
        assert_eq!(fixture.receiver.requests().len(), 1, "one sample");
        let found = doc! { "_id": { "$in": ids.clone() }, "state": state };
        fixture
            .wait_for_count(&fixture.operations(), found, ids.len() as u64)
            .await;
    }
}

#[tokio::test]
async fn where_its_progress_can_not_be_written_it_fails_and_blames_no_delivery() {
    let fixture = Fixture::new().await;
    held_one_by_one(&fixture, 30).await;
    let daemon = fixture.daemon().await;
    validate(&fixture, doc! { "progress.done": { "$not": { "$gt": 0 } } }).await;
    let failed = fixture
        .operate(doc! { "kind": "cancel", "selection": { "all": true } })
        .await;
    assert_eq!(failed.get_str("state").ok(), Some("failed"), "{failed}");
    let error = failed.get_str("error").unwrap();
    assert!(error.contains("webhook_operations"), "{error}");
    // It is said after it is written.
    daemon.wait_for(|line| line["level"] == "ERROR").await;
    assert_eq!(daemon.count(|line| line["level"] == "WARN"), 0);
    assert_eq!(daemon.count(|line| line["level"] == "ERROR"), 1);
    assert_eq!(fixture.count_deliveries(doc! { "state": "pending" }).await, 30);
}

#[tokio::test]
async fn one_that_is_stopped_before_it_begins_does_nothing() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let _daemon = fixture.daemon().await;
    let holds = doc! { "_id": { "$regex": "^hold/" } };
    for kind in ["test", "hold", "release", "replay", "cancel", "backfill"] {
        let selection = doc! { "endpoint": &key };
        let ended = fixture
            .operate(doc! { "kind": kind, "selection": selection, "cancel": true })
            .await;
        assert_eq!(ended.get_str("state").ok(), Some("cancelled"), "{kind}: {ended}");
        assert!(!ended.contains_key("control") || kind == "cancel", "{ended}");
        assert_eq!(
            fixture.state().count_documents(holds.clone()).await.unwrap(),
            0,
            "{kind}"
        );
    }
    assert!(fixture.receiver.requests().is_empty());
}

#[tokio::test]
async fn one_that_is_stopped_while_an_instance_is_waited_for_waits_at_the_same_pace() {
    let fixture = Fixture::new().await;
    let (_holder, frozen) = (fixture.daemon().await, fixture.daemon().await);
    frozen.signal(Signal::SIGSTOP);
    let id = ask(&fixture, doc! { "kind": "hold", "selection": { "all": true } }).await;
    wait_until(&fixture, doc! { "_id": &id, "control": { "$gt": 0 } }).await;
    let counts =
        doc! { "ns": format!("{}.webhook_state", fixture.database.name()), "command.aggregate": "webhook_state" };
    fixture.profile(&counts).await;
    let began = std::time::Instant::now();
    change(&fixture, &id, doc! { "cancel": true }).await;
    look(&fixture).await;
    look(&fixture).await;
    let looks = fixture.profiled(&counts).await.len();
    let most = began.elapsed().as_millis() / 50 + 5;
    frozen.signal(Signal::SIGCONT);
    assert!(
        (1..=most).contains(&(looks as u128)),
        "{looks} instead of at most {most}"
    );
    let hold = fixture.ended(&id).await;
    assert_eq!(hold.get_str("state").ok(), Some("done"), "it is held: {hold}");
}

#[tokio::test]
async fn one_that_meets_a_bug_is_begun_again() {
    let fixture = Fixture::new().await;
    held_one_by_one(&fixture, 5).await;
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "step-committed=1*panic");
    let _daemon = crate::fixture::Daemon::spawn(command);
    let done = fixture
        .operate(doc! { "kind": "cancel", "selection": { "all": true } })
        .await;
    let result = done.get_document("result").unwrap();
    assert_eq!(result.get_i64("deliveries").ok(), Some(5), "{done}");
}

#[tokio::test]
async fn one_of_nearly_16_mb_is_refused_loses_what_is_large_and_is_not_looked_at_again() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon().await;
    let large = || "x".repeat((16 << 20) - 300);
    let table = [
        (
            doc! { "kind": "cancel", "selection": { "endpoint": large() }, "by": "jane" },
            "selection",
        ),
        (
            doc! { "kind": "hold", "selection": { "all": true }, "by": "jane", "comment": large() },
            "comment",
        ),
        (
            doc! { "kind": "replay", "selection": { "all": true }, "by": "jane", "reason": large() },
            "reason",
        ),
    ];
    for (operation, largest) in table {
        let ended = fixture.operate(operation.clone()).await;
        assert_eq!(ended.get_str("state").ok(), Some("refused"), "{largest}");
        let error = ended.get_str("error").unwrap();
        assert!(error.contains(&format!("most of them in `{largest}`")), "{error}");
        assert!(
            ended.contains_key("finishedAt") && !ended.contains_key(largest),
            "{ended}"
        );
        assert_eq!(ended.get_str("kind").ok(), operation.get_str("kind").ok());
        assert_eq!(ended.get_str("by").ok(), Some("jane"));
    }
    look(&fixture).await;
    let of_level = |level| move |line: &serde_json::Value| line["level"] == level;
    assert_eq!(
        (daemon.count(of_level("WARN")), daemon.count(of_level("ERROR"))),
        (3, 0)
    );
}

/// By a transaction that stays open, as of a back office that hangs.
#[tokio::test]
async fn one_that_somebody_keeps_locked_stops_no_other() {
    let fixture = Fixture::new().await;
    held(&fixture, 1).await;
    // An index can't be created while a document is locked.
    let mut first = fixture.daemon().await;
    fixture.operate(doc! { "kind": "nothing" }).await;
    assert!(first.stop().await.success());
    let mut locked = Vec::new();
    for operation in [
        doc! { "kind": "nothing" },
        doc! { "kind": "hold", "selection": { "all": true } },
        doc! { "kind": "cancel", "selection": { "all": true } },
        doc! { "kind": "replay", "selection": { "all": true }, "filler": "x".repeat(1 << 20) },
    ] {
        let id = ask(&fixture, operation).await;
        locked.push((lock(&fixture.operations(), id.clone()).await, id));
    }
    let _daemon = fixture.daemon().await;
    for operation in [
        doc! { "kind": "nothing" },
        doc! { "kind": "release", "selection": { "all": true } },
        doc! { "kind": "replay", "selection": { "all": true } },
    ] {
        fixture.operate(operation).await;
    }
    for (session, id) in &mut locked {
        session.abort_transaction().await.unwrap();
        let ended = fixture.ended(id).await;
        assert!(ended.contains_key("state"), "{ended}");
    }
}
