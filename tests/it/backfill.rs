//! Backfill: an endpoint that is added today gets to know what its organization has.

mod beside_awards;
mod busy;

use std::collections::HashSet;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Received;
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use self::busy::Busy;
use crate::fixture::{Daemon, Fixture, LIMIT, certificate, completed_id, expired, expired_id, is_scan};

/// An organization whose first endpoint has got everything; the second is added when all that is done.
struct Organization {
    fixture: Fixture,
    id: ObjectId,
    added: Document,
    alive: Vec<Document>,
    expired: Vec<Document>,
}

impl Organization {
    async fn with(alive: usize, past: usize) -> Self {
        let fixture = Fixture::new().await;
        let id = fixture.organization(vec![]).await;
        let alive: Vec<_> = (0..alive).map(|_| certificate(id, None)).collect();
        let past: Vec<_> = (0..past).map(|_| expired(id)).collect();
        let marked = past.iter().map(|one| {
            let mut marked = one.clone();
            marked.insert("expiryReminderSent", true);
            marked
        });
        let other = fixture.organization(vec![]).await;
        let others = (0..5).map(|_| certificate(other, None));
        let all: Vec<_> = alive.iter().cloned().chain(marked).chain(others).collect();
        fixture.badge_users().insert_many(all).await.unwrap();
        let added = fixture.endpoint("/added");
        let push = doc! { "$push": { "webHookConfig.endpoints": added.clone() } };
        fixture
            .member_configs()
            .update_one(doc! { "_ownerId": id }, push)
            .await
            .unwrap();
        Self {
            fixture,
            id,
            added,
            alive,
            expired: past,
        }
    }

    fn endpoint(&self) -> Bson {
        self.added.get("_id").unwrap().clone()
    }

    async fn backfill(&self, options: Document) -> Document {
        let operation = doc! { "kind": "backfill", "selection": { "endpoint": self.endpoint() }, "options": options };
        self.fixture.operate(operation).await
    }

    fn ids(&self, received: &[Received]) -> HashSet<String> {
        received.iter().map(|one| one.header("webhook-id").to_owned()).collect()
    }
}

#[tokio::test]
async fn an_endpoint_gets_the_present_state_of_its_organization_and_nothing_twice() {
    let organization = Organization::with(30, 4).await;
    let fixture = &organization.fixture;
    let _daemon = fixture.daemon().await;
    let dry = organization
        .backfill(doc! { "dryRun": true, "includeExpired": true })
        .await;
    let expected = doc! { "deliveries": 34_i64, "known": 0_i64, "skipped": 0_i64 };
    assert_eq!(dry.get_document("result").ok(), Some(&expected), "{dry}");
    assert_eq!(fixture.count_deliveries(doc! {}).await, 0);

    let done = organization.backfill(doc! {}).await;
    let expected = doc! { "deliveries": 30_i64, "known": 0_i64, "skipped": 0_i64 };
    assert_eq!(done.get_document("result").ok(), Some(&expected), "{done}");
    fixture.receiver.wait_for_total(30, LIMIT).await.unwrap();
    let dry = organization
        .backfill(doc! { "dryRun": true, "includeExpired": true })
        .await;
    let expected = doc! { "deliveries": 4_i64, "known": 30_i64, "skipped": 0_i64 };
    assert_eq!(dry.get_document("result").ok(), Some(&expected), "{dry}");
    let again = organization.backfill(doc! { "includeExpired": true }).await;
    let expected = doc! { "deliveries": 4_i64, "known": 30_i64, "skipped": 0_i64 };
    assert_eq!(again.get_document("result").ok(), Some(&expected), "{again}");
    fixture.receiver.wait_for_total(34, LIMIT).await.unwrap();
    let received = fixture.receiver.requests();
    let ids = organization
        .alive
        .iter()
        .map(completed_id)
        .chain(organization.expired.iter().map(expired_id));
    assert_eq!(organization.ids(&received), ids.collect());
    assert!(received.iter().all(|one| one.header("x-webhook-replay") == "true"));
}

#[tokio::test]
async fn what_happens_meanwhile_goes_out_before_a_backfill() {
    let organization = Organization::with(300, 0).await;
    let fixture = &organization.fixture;
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    let operation = doc! { "kind": "backfill", "selection": { "endpoint": organization.endpoint() }, "options": { "ratePerSecond": 10_000 } };
    fixture.operations().insert_one(operation).await.unwrap();
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    let award = certificate(organization.id, None);
    fixture.badge_users().insert_one(&award).await.unwrap();
    let received = fixture.wait_for(|received| received.len() == 301).await;
    let place = received
        .iter()
        .position(|one| one.header("webhook-id") == completed_id(&award))
        .unwrap();
    assert!(place < 300, "it came last");
    assert_eq!(received[place].header("x-webhook-replay"), "");
}

#[tokio::test]
async fn killed_at_each_step_everything_arrives_and_is_counted_once() {
    for failpoint in ["step-to-be-committed", "step-committed", "operation-to-be-finished"] {
        let organization = Organization::with(250, 0).await;
        let fixture = &organization.fixture;
        let operation = doc! { "kind": "backfill", "selection": { "endpoint": organization.endpoint() }, "options": { "ratePerSecond": 5_000 } };
        let id = fixture.operations().insert_one(operation).await.unwrap().inserted_id;
        let mut command = fixture.command(&["run"]);
        command.env("FAILPOINTS", format!("{failpoint}=return"));
        Daemon::spawn(command).ended().await;
        let _daemon = fixture.daemon().await;
        let done = fixture.ended(&id).await;
        let expected = doc! { "deliveries": 250_i64, "known": 0_i64, "skipped": 0_i64 };
        assert_eq!(done.get_document("result").ok(), Some(&expected), "{failpoint}: {done}");
        let received = fixture
            .wait_for(|received| organization.ids(received).len() == 250)
            .await;
        assert_eq!(
            organization.ids(&received),
            organization.alive.iter().map(completed_id).collect()
        );
    }
}

#[tokio::test]
async fn certificates_of_any_type_of_id_are_gone_through() {
    let mut organization = Organization::with(3, 0).await;
    organization.fixture = organization.fixture.odd();
    let fixture = &organization.fixture;
    let odd = [
        Bson::from("text"),
        7.into(),
        8_i64.into(),
        true.into(),
        doc! { "a": 1 }.into(),
    ];
    let odd = odd.map(|id| {
        let mut certificate = certificate(organization.id, None);
        certificate.insert("_id", id);
        certificate
    });
    let mut unfit = certificate(organization.id, None);
    unfit.insert("creationDate", "yesterday");
    fixture
        .badge_users()
        .insert_many(odd.iter().chain([&unfit]))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    let done = organization.backfill(doc! {}).await;
    let expected = doc! { "deliveries": 8_i64, "known": 0_i64, "skipped": 0_i64 };
    assert_eq!(done.get_document("result").ok(), Some(&expected), "{done}");
    let off = doc! { "$set": { "webHookConfig.endpoints.0.enabled": false } };
    fixture
        .member_configs()
        .update_one(doc! { "_ownerId": organization.id }, off)
        .await
        .unwrap();
    let ended = async {
        loop {
            let ended = organization.backfill(doc! {}).await;
            if ended.get_str("state").is_ok_and(|state| state == "failed") {
                return ended;
            }
        }
    };
    let failed = tokio::time::timeout(LIMIT, ended).await.unwrap();
    assert!(
        failed.get_str("error").unwrap().ends_with("is off or not configured"),
        "{failed}"
    );
}

#[tokio::test]
async fn one_that_has_come_to_a_certificate_with_a_large_id_is_taken_over() {
    let organization = Organization::with(3, 0).await;
    let fixture = &organization.fixture;
    let _daemon = fixture.daemon().await;
    for megabytes in [0, 2, 8] {
        let after = "x".repeat(megabytes << 20);
        let left = doc! {
            "kind": "backfill", "selection": { "endpoint": organization.endpoint() }, "state": "running", "instance": "another",
            "startedAt": Clock::local(), "progress": { "done": 7_i64, "known": 0_i64, "skipped": 0_i64, "after": after },
        };
        let done = fixture.operate(left).await;
        assert_eq!(
            done.get_str("state").ok(),
            Some("done"),
            "{megabytes} MB: {:?}",
            done.get("error")
        );
        let result = done.get_document("result").unwrap();
        let looked_at = ["deliveries", "known"].map(|field| result.get_i64(field).unwrap());
        assert_eq!(looked_at.iter().sum::<i64>(), 7 + 3, "{megabytes} MB");
    }
}

#[tokio::test]
async fn every_certificate_that_is_alive_at_the_end_has_arrived_in_its_last_state_or_that_the_backfill_came_to() {
    let fixture = Fixture::new().await;
    let added = fixture.endpoint("/added");
    let organization = fixture.organization(vec![added.clone()]).await;
    let fill = Busy::fill(fixture.badge_users(), fixture.operations(), organization, 3_000);
    let mut busy = fill.await.unwrap();
    let (mut first, _second) = (fixture.daemon().await, fixture.daemon().await);
    let operation = doc! { "kind": "backfill", "selection": { "endpoint": added.get("_id") }, "options": { "ratePerSecond": 1_000 } };
    let id = fixture.operations().insert_one(operation).await.unwrap().inserted_id;
    let stop = CancellationToken::new();
    let backfilled = async {
        // The first holds the lease; after that it is the other.
        for done in [500, 1_500] {
            let begun = doc! { "_id": &id, "progress.done": { "$gte": done } };
            fixture.wait_for_count(&fixture.operations(), begun, 1).await;
            first.signal(Signal::SIGKILL);
            first.ended().await;
            first = fixture.daemon().await;
        }
        let done = fixture.ended(&id).await;
        stop.cancel();
        done
    };
    let live_on = busy.live_on(&id, Duration::from_millis(5), stop.clone());
    let (done, lived) = tokio::join!(backfilled, live_on);
    lived.unwrap();
    assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");
    // The stream comes to it after all that happened before.
    let last = doc! { "event": busy.award().await.unwrap() };
    fixture.wait_for_deliveries(last, 1).await;
    fixture
        .wait_for_count(&fixture.outbox(), doc! { "state": "pending" }, 0)
        .await;
    let missing = busy.missing(&fixture.receiver.requests());
    assert!(missing.is_empty(), "{missing:#?}");
    let twice = busy::appended_twice(&fixture.outbox()).await.unwrap();
    assert!(twice.is_empty(), "{twice:#?}");
}
