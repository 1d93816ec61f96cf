//! The figures for the back office: what is recorded is counted, each result once, whatever happens in between.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::{Clock, EndpointKey};
use certhookd::outbox::{Claimed, Group, Next, Outbox, Verdict};
use certhookd::sandbox::Answer;
use certhookd::statistics::Statistics;
use futures_util::TryStreamExt;
use http::StatusCode;
use mongodb::Collection;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use crate::bed::{Bed, Daemon, expired};
use crate::outbox::{NoRoom, delivery, store};

/// How often which result, over all days: a test may run at midnight.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    successes: i64,
    failures: i64,
    dead: i64,
    cancelled: i64,
}

/// Of the endpoint with that `_id`.
async fn figures(bed: &Bed, endpoint: &Document) -> Figures {
    let mut sum = Figures::default();
    for day in days(bed, endpoint).await {
        sum.successes += day.get_i64("successes").unwrap();
        sum.failures += day.get_i64("failures").unwrap();
        sum.dead += day.get_i64("dead").unwrap();
        sum.cancelled += day.get_i64("cancelled").unwrap();
    }
    sum
}

async fn days(bed: &Bed, endpoint: &Document) -> Vec<Document> {
    let of_endpoint = doc! { "endpoint": endpoint.get_object_id("_id").unwrap().to_hex() };
    let statistics = bed.statistics();
    let days = statistics.find(of_endpoint).sort(doc! { "day": 1 });
    days.await.unwrap().try_collect().await.unwrap()
}

fn key(owner: ObjectId, endpoint: &Document) -> EndpointKey {
    EndpointKey::from_stored(&format!("{owner}/{}", endpoint.get_object_id("_id").unwrap()))
}

/// The latest instant in that field of an endpoint's deliveries.
async fn latest(deliveries: &Collection<Document>, endpoint: &EndpointKey, field: &str) -> DateTime {
    let of_endpoint = deliveries.find_one(doc! { "endpoint": endpoint.as_str() });
    let last = of_endpoint.sort(doc! { field: -1 }).await.unwrap().unwrap();
    *last.get_datetime(field).unwrap()
}

#[tokio::test]
async fn successes_failures_and_their_last_instants_stand_per_endpoint_and_day() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let [well, shaky, gone, deleted] = ["/well", "/shaky", "/gone", "/deleted"].map(|path| bed.endpoint(path));
    let owner = bed.organization(vec![well.clone(), shaky.clone(), gone.clone()]).await;
    bed.receiver
        .script("/shaky", Answer::failing(2, StatusCode::SERVICE_UNAVAILABLE));
    bed.receiver.script("/gone", [Answer::status(StatusCode::GONE)]);
    bed.badge_users()
        .insert_many([(); 3].map(|()| expired(owner)))
        .await
        .unwrap();
    let waiting = doc! {
        "_id": format!("certificate_expired_1_1/{}", key(owner, &deleted)), "v": 1, "state": "pending",
        "endpoint": key(owner, &deleted).as_str(), "eventType": "certificate_expired", "due": Clock::local(),
        "attempts": 0, "payload": "{}",
    };
    bed.deliveries().insert_one(waiting).await.unwrap();

    let mut daemon = bed.daemon().await;
    let ended = doc! { "state": { "$in": ["delivered", "dead", "cancelled"] } };
    bed.wait_for_count(&bed.deliveries(), ended.clone(), 10).await;
    assert!(daemon.stop().await.success());
    let of = |successes, failures, dead, cancelled| Figures {
        successes,
        failures,
        dead,
        cancelled,
    };
    assert_eq!(figures(&bed, &well).await, of(3, 0, 0, 0));
    assert_eq!(
        figures(&bed, &shaky).await,
        of(3, 2, 0, 0),
        "every failed attempt counts"
    );
    assert_eq!(figures(&bed, &gone).await, of(0, 3, 3, 0));
    assert_eq!(figures(&bed, &deleted).await, of(0, 0, 0, 1));

    let day = days(&bed, &gone).await.pop().unwrap();
    let last = latest(&bed.deliveries(), &key(owner, &gone), "lastAttemptAt").await;
    let date = last.try_to_rfc3339_string().unwrap()[..10].to_owned();
    assert_eq!(day.get_str("_id").unwrap(), format!("{}/{date}", key(owner, &gone)));
    assert_eq!(day.get_str("owner").unwrap(), owner.to_hex());
    assert_eq!(
        day.get_datetime("day").unwrap().try_to_rfc3339_string().unwrap(),
        format!("{date}T00:00:00Z")
    );
    assert_eq!(day.get_datetime("lastFailure").unwrap(), &last);
    assert!(day.get_str("lastFailureReason").unwrap().contains("410"), "{day}");
    assert!(!day.contains_key("lastSuccess"), "{day}");
    let day = days(&bed, &shaky).await.pop().unwrap();
    let last = latest(&bed.deliveries(), &key(owner, &shaky), "finishedAt").await;
    assert_eq!(day.get_datetime("lastSuccess").unwrap(), &last);
    assert!(day.get_str("lastFailureReason").unwrap().contains("503"), "{day}");
    assert_eq!(
        bed.deliveries().count_documents(doc! {}).await.unwrap(),
        10,
        "no note is left"
    );
}

/// An organization of which one endpoint takes everything and the other nothing, and what is to be sent there.
struct Scene {
    bed: Bed,
    well: Document,
    gone: Document,
    certificates: i64,
}

impl Scene {
    async fn new(certificates: i64) -> Self {
        let settings =
            "completions.enabled = false\nscan.on_start = false\nqueue.capacity = 8\ndelivery.max_in_flight = 8";
        let bed = Bed::new().await.with(settings);
        let (well, gone) = (bed.endpoint("/well"), bed.endpoint("/gone"));
        let owner = bed.organization(vec![well.clone(), gone.clone()]).await;
        bed.receiver.script("/gone", [Answer::status(StatusCode::GONE)]);
        bed.badge_users()
            .insert_many((0..certificates).map(|_| expired(owner)))
            .await
            .unwrap();
        Self {
            bed,
            well,
            gone,
            certificates,
        }
    }

    fn daemon_killed_at(&self, step: &str) -> Daemon {
        let mut command = self.bed.command(&["run"]);
        command.env("FAILPOINTS", step);
        Daemon::spawn(command)
    }

    async fn counted(&self) -> i64 {
        figures(&self.bed, &self.well).await.successes + figures(&self.bed, &self.gone).await.failures
    }

    async fn recorded(&self) -> i64 {
        let ended = doc! { "state": { "$in": ["delivered", "dead"] } };
        self.bed.deliveries().count_documents(ended).await.unwrap() as i64
    }

    /// Waits until all has ended, and shows that every result is counted once.
    async fn is_exact(&self, daemon: &mut Daemon) {
        let count = |state| (doc! { "state": state }, self.certificates as u64);
        for (filter, count) in ["delivered", "dead"].map(count) {
            self.bed.wait_for_count(&self.bed.deliveries(), filter, count).await;
        }
        assert!(daemon.stop().await.success());
        let well = figures(&self.bed, &self.well).await;
        assert_eq!((well.successes, well.failures), (self.certificates, 0));
        let gone = figures(&self.bed, &self.gone).await;
        assert_eq!(
            (gone.successes, gone.failures, gone.dead),
            (0, self.certificates, self.certificates)
        );
        assert_eq!(self.recorded().await, self.counted().await);
    }
}

#[tokio::test]
async fn a_daemon_killed_between_result_and_count_loses_none_and_counts_none_twice() {
    let scene = Scene::new(40).await;
    let mut daemon = scene.daemon_killed_at("recorded=2*off->return");
    daemon.wait_for(|line| line["message"] == "ready").await;
    daemon.signal(Signal::SIGUSR1);
    daemon.ended().await;
    assert!(scene.counted().await < scene.recorded().await, "some are not counted");

    let mut daemon = scene.daemon_killed_at("counted=return");
    daemon.ended().await;
    let notes = doc! { "_id": { "$gte": "group/", "$lt": "group0" } };
    let notes = scene.bed.deliveries().count_documents(notes).await.unwrap();
    assert!(notes > 0 && scene.counted().await > 0, "counted, and not noted as such");

    let mut daemon = scene.bed.daemon().await;
    daemon.signal(Signal::SIGUSR1);
    scene.is_exact(&mut daemon).await;
}

#[tokio::test]
async fn another_daemon_counts_what_a_killed_one_recorded() {
    let scene = Scene::new(40).await;
    let mut killed = scene.daemon_killed_at("recorded=2*off->return");
    killed.wait_for(|line| line["message"] == "ready").await;
    let mut heir = scene.bed.daemon().await;
    killed.signal(Signal::SIGUSR1);
    killed.ended().await;
    assert!(scene.counted().await < scene.recorded().await, "some are not counted");
    // It has what to scan when it has taken over.
    heir.wait_for(|line| line["message"] == "this daemon's duties have changed" && line["scan"] == true)
        .await;
    scene.is_exact(&mut heir).await;
}

#[tokio::test]
async fn what_another_has_counted_for_a_daemon_that_seemed_dead_is_not_counted_again() {
    let bed = Bed::new().await;
    let store = store(&bed).await;
    let outbox = |owner: &str| Outbox::new(store.clone(), owner.into(), Arc::new(NoRoom));
    let (slow, heir) = (outbox("slow"), outbox("heir"));
    let endpoint = EndpointKey::from_stored("owner/674700000000000000000001");
    let document = doc! { "_id": bson::oid::ObjectId::parse_str("674700000000000000000001").unwrap() };
    let claim = async |outbox: &Outbox| -> Claimed {
        outbox.append(vec![delivery(&endpoint)], Clock::local()).await.unwrap();
        let mut claimed = outbox.claim(&[(endpoint.clone(), 1)], Clock::local()).await.unwrap();
        claimed.remove(0)
    };
    let record = async |delivery: &Claimed| -> Group {
        let delivery = delivery.clone();
        let next = Next::Delivered { status: 200 };
        let recorded = slow
            .record(&[Verdict { delivery, next }], Clock::local())
            .await
            .unwrap();
        recorded.unwrap()
    };

    // Two groups that `slow` has recorded and not counted; and a result that came too late.
    let mut groups = Vec::new();
    for _ in 0..2 {
        let claimed = claim(&slow).await;
        groups.push(record(&claimed).await);
        assert_eq!(record(&claimed).await.entries.len(), 0, "it was recorded before");
    }
    Statistics::new(store.clone(), heir.clone())
        .recover(&["heir".into()])
        .await
        .unwrap();
    assert_eq!(figures(&bed, &document).await.successes, 2);

    // It was not dead, and goes on.
    let claimed = claim(&slow).await;
    groups.push(record(&claimed).await);
    let (recorded, counted) = mpsc::unbounded_channel();
    groups.into_iter().for_each(|group| recorded.send(group).unwrap());
    drop(recorded);
    Statistics::new(store.clone(), slow.clone()).run(counted).await.unwrap();
    assert_eq!(figures(&bed, &document).await.successes, 3);
    store.close().await;
}

#[tokio::test]
async fn results_of_more_endpoints_than_go_into_one_command_are_counted_each_once() {
    const ENDPOINTS: u64 = 1_100;
    let bed = Bed::new().await;
    let store = store(&bed).await;
    let outbox = Outbox::new(store.clone(), "me".into(), Arc::new(NoRoom));
    let endpoints = (0..ENDPOINTS).map(|n| EndpointKey::from_stored(&format!("owner/{n}")));
    let (deliveries, wants) = endpoints.map(|endpoint| (delivery(&endpoint), (endpoint, 1))).unzip();
    outbox.append(deliveries, Clock::local()).await.unwrap();
    let wants: Vec<_> = wants;
    let claimed = outbox.claim(&wants, Clock::local()).await.unwrap();
    let next = Next::Delivered { status: 200 };
    let verdict = |delivery| Verdict {
        delivery,
        next: next.clone(),
    };
    let verdicts: Vec<_> = claimed.into_iter().map(verdict).collect();
    let group = outbox.record(&verdicts, Clock::local()).await.unwrap().unwrap();
    let (recorded, counted) = mpsc::unbounded_channel();
    recorded.send(group).unwrap();
    drop(recorded);
    Statistics::new(store.clone(), outbox).run(counted).await.unwrap();
    bed.wait_for_count(&bed.statistics(), doc! { "successes": 1 }, ENDPOINTS)
        .await;
    store.close().await;
}
