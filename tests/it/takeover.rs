//! An instance that dies or freezes amid requests: another one goes on, nothing is lost, and what comes too late changes nothing.

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Options, ReplicaSet, Response};
use futures_util::TryStreamExt;
use mongodb::Collection;
use nix::sys::signal::Signal;

use crate::cluster::settle;
use crate::fixture::{Daemon, Fixture, LIMIT, expired, heard};

const ENDPOINTS: usize = 10;
const CERTIFICATES: usize = 6;
const DELIVERIES: usize = ENDPOINTS * CERTIFICATES;

/// Two instances amid requests that take a while: one to each endpoint, or more.
struct Pair {
    fixture: Fixture,
    organization: ObjectId,
    first: Daemon,
    second: Daemon,
}

impl Pair {
    async fn new() -> Self {
        Self::amid("completions.enabled = false", Duration::from_millis(700)).await
    }

    /// With these settings, and requests that take this long.
    async fn amid(settings: &str, takes: Duration) -> Self {
        let fixture = Fixture::new().await.with(settings);
        let paths: Vec<_> = (0..ENDPOINTS).map(|n| format!("/{n}")).collect();
        let slow = || [Response::ok().after(takes)];
        paths.iter().for_each(|path| fixture.receiver.script(path, slow()));
        let endpoints = paths.iter().map(|path| fixture.endpoint(path)).collect();
        let organization = fixture.organization(endpoints).await;
        let (first, second) = (fixture.daemon().await, fixture.daemon().await);
        settle(&fixture, 2).await;
        let certificates = (0..CERTIFICATES).map(|_| expired(organization));
        fixture.badge_users().insert_many(certificates).await.unwrap();
        second.signal(Signal::SIGUSR1);
        // The first requests have ended, the next are under way.
        fixture.receiver.wait_for_total(ENDPOINTS + 5, LIMIT).await.unwrap();
        Self {
            fixture,
            organization,
            first,
            second,
        }
    }

    async fn all_delivered(&self) {
        self.fixture
            .wait_for_deliveries(doc! { "state": "delivered" }, DELIVERIES as u64)
            .await;
        assert_eq!(self.fixture.count_deliveries(doc! {}).await, DELIVERIES as u64);
        let requests = self.fixture.receiver.requests();
        let heard = heard(&requests);
        assert_eq!(heard.len(), DELIVERIES, "each event to each endpoint");
        let duplicates = requests.len() - heard.len();
        assert!(
            duplicates <= ENDPOINTS * 5,
            "{duplicates} duplicates: what was in flight"
        );
    }

    async fn successes(&self) -> i64 {
        let days = all(&self.fixture.statistics()).await;
        days.iter().map(|day| day.get_i64("successes").unwrap()).sum()
    }
}

async fn all(collection: &Collection<Document>) -> Vec<Document> {
    let all = collection.find(doc! {}).sort(doc! { "_id": 1 });
    all.await.unwrap().try_collect().await.unwrap()
}

/// Each instance that is killed leaves one.
#[tokio::test]
async fn notes_of_instances_that_are_gone_do_not_pile_up() {
    let fixture = Fixture::new().await;
    let note =
        |id: &str, at: DateTime| doc! { "_id": format!("wake/{id}"), "n": 1_i64, "endpoints": ["o/e"], "at": at };
    let now = Clock::local();
    let long_ago = DateTime::from_millis(now.timestamp_millis() - 25 * 3600 * 1000);
    let mut killed = fixture.daemon().await;
    let instance = fixture
        .state()
        .find_one(doc! { "_id": { "$regex": "^instance/" } })
        .await
        .unwrap()
        .unwrap();
    let id = instance.get_str("_id").unwrap().strip_prefix("instance/").unwrap();
    let notes = [note(id, now), note("unknown", now), note("old", long_ago)];
    fixture.state().insert_many(notes).await.unwrap();
    killed.signal(Signal::SIGKILL);
    killed.ended().await;
    let mut next = fixture.daemon().await;
    let left = async || {
        let all = fixture
            .state()
            .find(doc! { "_id": { "$regex": "^wake/" } })
            .sort(doc! { "_id": 1 })
            .await
            .unwrap();
        let all: Vec<Document> = all.try_collect().await.unwrap();
        all.iter()
            .map(|one| one.get_str("_id").unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(left().await, ["wake/old", "wake/unknown"]);
    assert!(next.stop().await.success());
    assert_eq!(left().await, ["wake/unknown"]);
}

#[tokio::test]
async fn what_a_killed_instance_had_not_recorded_goes_out_by_another_within_fifteen_seconds() {
    let pair = Pair::new().await;
    pair.first.signal(Signal::SIGKILL);
    let killed = Instant::now();
    // The requests of the other one take a second or two; this is the time of those that it takes over.
    pair.all_delivered().await;
    println!("all delivered after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(18), "{:?}", killed.elapsed());
    assert_eq!(pair.successes().await, DELIVERIES as i64, "each counted once");
}

#[tokio::test]
async fn late_results_of_an_instance_that_was_frozen_change_nothing() {
    let mut pair = Pair::new().await;
    pair.first.signal(Signal::SIGSTOP);
    pair.all_delivered().await;
    let (outbox, statistics) = (all(&pair.fixture.outbox()).await, all(&pair.fixture.statistics()).await);
    assert_eq!(pair.successes().await, DELIVERIES as i64);

    pair.first.signal(Signal::SIGCONT);
    // When it has ended, it has recorded what it could.
    assert!(pair.first.stop().await.success());
    assert_eq!(all(&pair.fixture.outbox()).await, outbox);
    assert_eq!(all(&pair.fixture.statistics()).await, statistics);
    assert!(pair.second.stop().await.success());
}

/// What it had in memory is another's by then.
#[tokio::test]
async fn an_instance_that_was_frozen_sends_nothing_of_what_it_had_in_memory() {
    // An expiry and an award of each certificate. All are in memory, and few are sent.
    let pair = Pair::amid("delivery.concurrency = 1", Duration::from_millis(300)).await;
    let Pair {
        fixture,
        organization,
        first,
        second,
    } = &pair;
    first.signal(Signal::SIGSTOP);
    let all = 2 * DELIVERIES as u64;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, all).await;
    let before = fixture.receiver.total();
    first.signal(Signal::SIGCONT);
    settle(fixture, 2).await;
    let certificate = expired(*organization);
    fixture.badge_users().insert_one(certificate).await.unwrap();
    second.signal(Signal::SIGUSR1);
    let all = all + 2 * ENDPOINTS as u64;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, all).await;
    assert_eq!(fixture.receiver.total(), before + 2 * ENDPOINTS, "nothing twice");
}

/// Some hosted clusters don't allow to end sessions: what a dead instance had changed is locked until MongoDB ends its transaction.
#[tokio::test]
async fn sessions_that_may_not_be_ended_delay_no_start_and_what_was_locked_is_told_later() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let admin = fixture.database.client().database("admin");
    let lifetime = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 20 };
    admin.run_command(lifetime).await.unwrap();
    let data = doc! { "errorCode": 13, "failCommands": ["killSessions"], "appName": "certhookd" };
    let refuse = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    let before = admin.run_command(refuse).await.unwrap().get_i32("count").unwrap();

    let certificates = (0..CERTIFICATES).map(|_| expired(organization));
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "page-to-be-committed=return");
    Daemon::spawn(command).ended().await;
    let mut daemon = fixture.daemon().await;
    let refused = doc! { "waitForFailPoint": "failCommand", "timesEntered": before + 1, "maxTimeMS": 60_000 };
    admin.run_command(refused).await.unwrap();
    fixture.badge_users().insert_one(expired(other)).await.unwrap();
    let awards = fixture.wait_for(|requests| requests.iter().any(|one| one.path == "/other"));
    awards.await;
    let is_locked = doc! { "state": "delivered", "type": "certificate_expired" };
    assert_eq!(
        fixture.count_deliveries(is_locked.clone()).await,
        0,
        "the page is still locked"
    );
    let heartbeat = doc! { "_id": { "$regex": "^instance/" }, "sessions": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), heartbeat, 1).await;
    daemon.signal(Signal::SIGUSR1);
    fixture.wait_for_deliveries(is_locked, CERTIFICATES as u64 + 1).await;
    assert!(daemon.stop().await.success());
    let errors = daemon.count(|line| line["level"] == "ERROR");
    assert_eq!(errors, 0, "{:#?}", daemon.lines());
    // Awards are told from the first start on: it had nothing of the stream when it was killed.
    assert_eq!(fixture.receiver.total(), CERTIFICATES + 2, "each once");
}
