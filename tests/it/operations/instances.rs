//! Operations while instances are frozen, end in the middle, come late or are asked by a command that goes away.

use std::time::Duration;

use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::held;
use crate::fixture::{Daemon, Fixture, LIMIT, certificate, endpoint_key, expired_in_turn, pending_batch};

async fn ask(fixture: &Fixture, operation: Document) -> Bson {
    fixture.operations().insert_one(operation).await.unwrap().inserted_id
}

fn cancel(rate: f64) -> Document {
    doc! { "kind": "cancel", "selection": { "all": true }, "options": { "ratePerSecond": rate } }
}

async fn begun(fixture: &Fixture, id: &Bson) {
    let begun = doc! { "_id": id, "progress.done": { "$gt": 0 } };
    fixture.wait_for_count(&fixture.operations(), begun, 1).await;
}

fn assert_done(ended: &Document, deliveries: i64, what: &str) {
    assert_eq!(ended.get_str("state").unwrap(), "done", "{what}: {ended}");
    let expected = doc! { "deliveries": deliveries };
    assert_eq!(ended.get_document("result").ok(), Some(&expected), "{what}: {ended}");
}

/// As [`held`], with a document for each delivery.
async fn held_one_by_one(fixture: &Fixture, waiting: i64) -> String {
    let key = held(fixture, 0).await;
    let organization = key.split_once('/').unwrap().0.parse().unwrap();
    let certificates = expired_in_turn(organization, waiting);
    let batches = certificates.into_iter().map(|one| pending_batch(&key, &[one]));
    fixture.outbox().insert_many(batches).await.unwrap();
    key
}

/// The instance that holds the lease sleeps in that step, and is frozen there for longer than it takes to count as dead.
#[tokio::test]
async fn frozen_in_the_middle_of_a_step_another_instance_ends_it_and_each_counts_once() {
    const WAITING: i64 = 250;
    let cases = ["step-to-be-committed", "step-committed"].map(async |failpoint| {
        let fixture = Fixture::new().await;
        held_one_by_one(&fixture, WAITING).await;
        let mut command = fixture.command(&["run"]);
        command.env("FAILPOINTS", format!("{failpoint}=1*sleep(3000)"));
        let mut holder = Daemon::spawn(command);
        holder.wait_for(|line| line["message"] == "ready").await;
        let mut other = fixture.daemon().await;
        let id = ask(&fixture, cancel(1_000.0)).await;
        let counted = doc! { "_id": &id, "progress.of": WAITING };
        fixture.wait_for_count(&fixture.operations(), counted, 1).await;
        if failpoint == "step-committed" {
            begun(&fixture, &id).await;
        }
        let first = fixture
            .operations()
            .find_one(doc! { "_id": &id })
            .await
            .unwrap()
            .unwrap();
        holder.signal(Signal::SIGSTOP);
        let ended = fixture.ended(&id).await;
        holder.signal(Signal::SIGCONT);
        assert_done(&ended, WAITING, failpoint);
        assert_ne!(ended.get("instance"), first.get("instance"), "{failpoint}");
        let cancelled = fixture.count_deliveries(doc! { "state": "cancelled" }).await;
        assert_eq!(cancelled, WAITING as u64, "{failpoint}");
        // The one that was frozen goes on, with what it had begun left to the other.
        holder
            .wait_for(|line| line["message"] == "an operation is left to whoever holds the lease")
            .await;
        let hold = fixture
            .operate(doc! { "kind": "hold", "selection": { "all": true } })
            .await;
        assert_eq!(hold.get_str("state").unwrap(), "done", "{hold}");
        fixture
            .wait_for_count(&fixture.statistics(), doc! { "cancelled": WAITING }, 1)
            .await;
        for daemon in [&mut holder, &mut other] {
            assert!(daemon.stop().await.success(), "{failpoint}");
        }
        let after = fixture
            .operations()
            .find_one(doc! { "_id": &id })
            .await
            .unwrap()
            .unwrap();
        assert_eq!(after, ended, "{failpoint}");
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn one_that_starts_in_the_middle_of_a_hold_sends_nothing_that_is_held() {
    let fixture = Fixture::new().await;
    let endpoints: Vec<_> = (0..6).map(|n| fixture.endpoint(&format!("/{n}"))).collect();
    let organization = fixture.organization(endpoints).await;
    let (_holder, frozen) = (fixture.daemon().await, fixture.daemon().await);
    frozen.signal(Signal::SIGSTOP);
    let id = ask(&fixture, doc! { "kind": "hold", "selection": { "all": true } }).await;
    let raised = doc! { "_id": &id, "control": { "$gt": 0 } };
    fixture.wait_for_count(&fixture.operations(), raised, 1).await;
    let newcomer = fixture.daemon().await;
    frozen.signal(Signal::SIGCONT);
    let ended = fixture.ended(&id).await;
    assert_eq!(ended.get_str("state").unwrap(), "done", "{ended}");
    let before = fixture.receiver.total();
    let awards: Vec<_> = (0..20).map(|_| certificate(organization, None)).collect();
    fixture.badge_users().insert_many(awards).await.unwrap();
    fixture.wait_for_deliveries(doc! { "state": "pending" }, 120).await;
    // By then it is assigned some of the endpoints, and notes that they wait.
    let lists = doc! { "_id": { "$regex": "^instance/" }, "members.2": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), lists, 3).await;
    let waits = doc! { "_id": { "$regex": "^endpoint/" }, "waitingSince": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), waits, 6).await;
    assert_eq!(fixture.receiver.total(), before);
    let release = fixture
        .operate(doc! { "kind": "release", "selection": { "all": true } })
        .await;
    assert_eq!(
        release.get_document("result").unwrap().get_i64("instances").unwrap(),
        3,
        "{release}"
    );
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 120).await;
    assert_eq!(fixture.receiver.total() - before, 120, "nothing twice");
    drop(newcomer);
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_step_leaves_the_rest_to_the_next_start() {
    const WAITING: i64 = 250;
    for kind in ["cancel", "replay"] {
        let fixture = Fixture::new().await;
        held_one_by_one(&fixture, WAITING).await;
        let (from, to) = if kind == "cancel" {
            ("pending", "cancelled")
        } else {
            ("cancelled", "pending")
        };
        if kind == "replay" {
            let set = doc! { "$set": { "state": "cancelled", "finishedAt": Clock::local() } };
            fixture.outbox().update_many(doc! {}, set).await.unwrap();
        }
        let mut daemon = fixture.daemon().await;
        let operation = doc! {
            "kind": kind, "selection": { "all": true, "states": [from] }, "options": { "ratePerSecond": 100 },
        };
        let id = ask(&fixture, operation).await;
        begun(&fixture, &id).await;
        assert!(daemon.stop().await.success(), "{kind}");
        let left = fixture
            .operations()
            .find_one(doc! { "_id": &id })
            .await
            .unwrap()
            .unwrap();
        assert_eq!(left.get_str("state").unwrap(), "running", "{kind}: {left}");
        let _daemon = fixture.daemon().await;
        assert_done(&fixture.ended(&id).await, WAITING, kind);
        assert_eq!(fixture.count_deliveries(doc! { "state": to }).await, WAITING as u64);
    }
}

#[tokio::test]
async fn killed_at_each_step_of_a_release_what_was_held_goes_out_once() {
    for failpoint in ["control-to-be-raised", "control-raised", "operation-to-be-finished"] {
        let fixture = Fixture::new().await;
        held_one_by_one(&fixture, 20).await;
        let id = ask(&fixture, doc! { "kind": "release", "selection": { "all": true } }).await;
        let mut command = fixture.command(&["run"]);
        command.env("FAILPOINTS", format!("{failpoint}=return"));
        Daemon::spawn(command).ended().await;
        let _daemon = fixture.daemon().await;
        let ended = fixture.ended(&id).await;
        assert_eq!(ended.get_str("state").unwrap(), "done", "{failpoint}: {ended}");
        fixture.wait_for_deliveries(doc! { "state": "delivered" }, 20).await;
        let mut ids: Vec<_> = fixture
            .receiver
            .requests()
            .iter()
            .map(|one| one.header("webhook-id").to_owned())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20, "{failpoint}");
    }
}

#[tokio::test]
async fn a_command_that_does_not_wait_or_goes_away_leaves_its_operation_to_the_daemon() {
    let fixture = Fixture::new().await;
    held_one_by_one(&fixture, 300).await;
    let cancel_all = async || {
        let set = doc! { "$set": { "state": "cancelled", "finishedAt": Clock::local() }, "$inc": { "version": 1 } };
        fixture.outbox().update_many(doc! {}, set).await.unwrap();
    };
    cancel_all().await;
    let replay = ["replay", "--all", "--state", "cancelled", "--rate", "100"];
    let told = fixture.outcome(&[&replay[..], &["--wait=false"]].concat()).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    let id = told.stdout.trim().strip_prefix("operation ");
    let id = id.and_then(|rest| rest.strip_suffix(" is asked for"));
    let id: bson::oid::ObjectId = id.unwrap_or_else(|| panic!("{told:?}")).parse().unwrap();
    let _daemon = fixture.daemon().await;
    assert_done(&fixture.ended(&id.into()).await, 300, "--wait=false");

    // Without a signal its reader has gone away, as `| head -1` does.
    for (n, signal) in (2..).zip([Some(Signal::SIGINT), Some(Signal::SIGKILL), None]) {
        cancel_all().await;
        let mut command = fixture.command(&replay);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = tokio::time::timeout(LIMIT, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(first.contains("deliveries so far"), "{first}");
        match signal {
            Some(signal) => kill(Pid::from_raw(child.id().unwrap().cast_signed()), signal).unwrap(),
            None => drop(lines),
        }
        let status = tokio::time::timeout(Duration::from_secs(5), child.wait())
            .await
            .unwrap()
            .unwrap();
        // On a slow machine it may have ended before the signal.
        assert!(status.success() || signal.is_some(), "{status}");
        let asked = doc! { "state": "done", "result.deliveries": 300_i64 };
        fixture.wait_for_count(&fixture.operations(), asked, n).await;
        assert_eq!(
            fixture.count_deliveries(doc! { "state": "pending" }).await,
            300,
            "{signal:?}"
        );
    }
}

#[tokio::test]
async fn e_mails_are_held_with_traffic_beside_them() {
    let server = crate::email::server::MailServer::start(&serde_json::json!({})).await;
    let fixture = Fixture::new().await.with(&crate::email::through(server.port));
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let daemon = fixture.daemon().await;
    let hold = fixture
        .operate(doc! { "kind": "hold", "selection": { "endpoint": "email" } })
        .await;
    assert_eq!(
        hold.get_document("result").unwrap().get_str("target").unwrap(),
        "endpoint all/email",
        "{hold}"
    );
    let addresses = (0..30).map(|n| format!("ann-{n}@users.test"));
    crate::email::queue::expire_in_turn(&fixture, organization, addresses).await;
    daemon.signal(Signal::SIGUSR1);
    // Each is an award too, unless the stream came first.
    fixture
        .wait_for_deliveries(doc! { "state": "pending", "endpoint": "all/email" }, 30)
        .await;
    let webhooks = doc! { "state": "delivered", "endpoint": { "$ne": "all/email" } };
    fixture.wait_for_deliveries(webhooks, 60).await;
    assert_eq!(server.mails().len(), 0);
    let release = fixture
        .operate(doc! { "kind": "release", "selection": { "endpoint": "email" } })
        .await;
    assert_eq!(release.get_str("state").unwrap(), "done", "{release}");
    assert_eq!(server.wait_for(30).await.len(), 30);
    let email = endpoint_key(organization, &doc! { "_id": bson::oid::ObjectId::new() });
    assert_eq!(fixture.count_deliveries(doc! { "endpoint": email }).await, 0);
}
