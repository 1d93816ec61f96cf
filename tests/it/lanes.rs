//! Lanes: each endpoint has its own, so that none waits for another.

use std::sync::Arc;
use std::time::Duration;

use bson::Document;
use certhookd::dispatch::{Deliver, Feeder, Permits, Window, Workers};
use certhookd::model::{Clock, EndpointKey, Outcome};
use certhookd::outbox::{Claimed, Intake, Outbox, Slot};
use certhookd::sandbox::Answer;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, LIMIT, expired, expired_id, expired_in_turn};
use crate::outbox::{delivery, store};

const NO_STREAM: &str = "completions.enabled = false";

fn slow() -> [Answer; 1] {
    [Answer::ok().after(Duration::from_millis(50))]
}

/// An endpoint that waits 30 s for an answer, which never comes.
fn hung(bed: &Bed) -> Document {
    bed.receiver.script("/hung", [Answer::silence()]);
    let mut endpoint = bed.endpoint("/hung");
    endpoint.insert("timeout", 30_000);
    endpoint
}

#[tokio::test]
async fn an_endpoint_gets_five_requests_at_once_and_never_more() {
    let bed = Bed::new().await.with(NO_STREAM);
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    bed.receiver.script("/a", slow());
    bed.badge_users()
        .insert_many((0..60).map(|_| expired(owner)))
        .await
        .unwrap();
    let _daemon = bed.daemon().await;
    bed.receiver.wait_for_total(60, LIMIT).await.unwrap();
    assert_eq!(bed.receiver.max_parallel("/a"), 5);
}

#[tokio::test]
async fn all_endpoints_together_get_no_more_than_the_limit_in_all() {
    let bed = Bed::new()
        .await
        .with(&format!("{NO_STREAM}\ndelivery.max_in_flight = 8"));
    // Four endpoints of one address, so that the receiver counts them together.
    let owner = bed.organization((0..4).map(|_| bed.endpoint("/a")).collect()).await;
    bed.receiver.script("/a", slow());
    bed.badge_users()
        .insert_many((0..20).map(|_| expired(owner)))
        .await
        .unwrap();
    let _daemon = bed.daemon().await;
    bed.receiver.wait_for_total(80, LIMIT).await.unwrap();
    assert_eq!(bed.receiver.max_parallel("/a"), 8);
}

#[tokio::test]
async fn a_hung_endpoint_delays_no_other() {
    let bed = Bed::new().await.with(NO_STREAM);
    let owner = bed
        .organization(vec![hung(&bed), bed.endpoint("/a"), bed.endpoint("/b")])
        .await;
    bed.badge_users()
        .insert_many((0..100).map(|_| expired(owner)))
        .await
        .unwrap();
    let _daemon = bed.daemon().await;
    bed.receiver.wait_for_total(205, LIMIT).await.unwrap();
    // None of the five requests to the hung one has timed out yet: nobody waited for it.
    let count = |path| bed.receiver.count(path);
    assert_eq!((count("/a"), count("/b"), count("/hung")), (100, 100, 5));
}

#[tokio::test]
async fn a_backlog_larger_than_the_queue_keeps_no_other_endpoint_out() {
    let settings = format!("{NO_STREAM}\nqueue.capacity = 16\ndelivery.max_in_flight = 16");
    let bed = Bed::new().await.with(&settings);
    let (stuck, well) = (
        bed.organization(vec![hung(&bed)]).await,
        bed.organization(vec![bed.endpoint("/a")]).await,
    );
    // The backlog expired first, and is read first.
    bed.badge_users()
        .insert_many(expired_in_turn(stuck, 200))
        .await
        .unwrap();
    bed.badge_users()
        .insert_many((0..100).map(|_| expired(well)))
        .await
        .unwrap();
    let _daemon = bed.daemon().await;
    bed.receiver.wait_for_total(105, LIMIT).await.unwrap();
    assert_eq!((bed.receiver.count("/a"), bed.receiver.count("/hung")), (100, 5));
}

#[tokio::test]
async fn one_request_at_a_time_keeps_the_order_of_a_backlog_larger_than_the_queue() {
    let settings = "queue.capacity = 16\ndelivery.max_in_flight = 16\ndelivery.concurrency = 1\nscan.batch_size = 50";
    let bed = Bed::new().await.with(&format!("{NO_STREAM}\n{settings}"));
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    let mut certificates = expired_in_turn(owner, 200);
    let in_order: Vec<_> = certificates.iter().map(expired_id).collect();
    fastrand::shuffle(&mut certificates);
    bed.badge_users().insert_many(certificates).await.unwrap();
    let _daemon = bed.daemon().await;
    bed.receiver.wait_for_total(200, LIMIT).await.unwrap();
    let requests = bed.receiver.requests();
    let ids: Vec<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids, in_order);
}

/// Says what it was asked to deliver.
struct Teller(mpsc::UnboundedSender<String>);

impl Deliver for Teller {
    async fn attempt(&self, delivery: &Claimed) -> Outcome {
        self.0.send(delivery.id()).unwrap();
        Outcome::Interrupted
    }
}

/// The window's bell, and no place in it for what is new.
pub struct BellOnly(pub Window);

impl Intake for BellOnly {
    fn reserve(&self, _: &EndpointKey, _: usize) -> Option<Box<dyn Slot>> {
        None
    }

    fn room(&self) -> BoxFuture<'_, usize> {
        self.0.room()
    }

    fn pending(&self, endpoints: &mut dyn Iterator<Item = &EndpointKey>) {
        self.0.pending(endpoints);
    }
}

#[tokio::test]
async fn the_bell_wakes_a_feeder_that_would_look_in_an_hour() {
    let bed = Bed::new().await;
    let store = store(&bed).await;
    let endpoint = EndpointKey::from_stored("owner/endpoint");
    // One at a time: the bell rings for what is new, and again for each place that gets free.
    let (window, wanted) = Window::new(1, 1, Box::new(|_| true));
    let outbox = Outbox::new(store.clone(), "me".into(), Arc::new(BellOnly(window.clone())));
    let stop = CancellationToken::new();
    let (beats, mut rounds) = mpsc::unbounded_channel();
    let feeder = Feeder::new(
        outbox.clone(),
        store.clone(),
        window.clone(),
        Clock::default(),
        Duration::from_secs(3600),
    );
    let feeder = tokio::spawn(feeder.run(stop.clone(), move || beats.send(()).unwrap()));
    let (told, mut asked) = mpsc::unbounded_channel();
    let (results, mut recorded) = mpsc::unbounded_channel();
    let workers = Workers::new(window, Teller(told), Permits::new(1), results);
    let workers = tokio::spawn(workers.run(wanted, stop.clone(), std::future::pending()));
    tokio::time::timeout(LIMIT, rounds.recv()).await.unwrap();

    let deliveries: Vec<_> = (0..3).map(|_| delivery(&endpoint)).collect();
    outbox.append(deliveries, Clock::local()).await.unwrap();
    for _ in 0..3 {
        tokio::time::timeout(LIMIT, asked.recv()).await.unwrap().unwrap();
        // Its place is free when the result is dropped.
        drop(tokio::time::timeout(LIMIT, recorded.recv()).await.unwrap());
    }
    stop.cancel();
    feeder.await.unwrap();
    workers.await.unwrap();
    store.close().await;
}
