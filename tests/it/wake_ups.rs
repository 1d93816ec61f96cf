//! What is appended goes out at once: the fetcher's look at all queues, once a second or more rarely, is for what nobody told of.

use std::time::{Duration, Instant};

use bson::doc;
use nix::sys::signal::Signal;

use crate::cluster::settle;
use crate::fixture::{Fixture, certificate, endpoint_key, expired, is_scan};

/// Events, each of which happens when the one before has arrived: found by looks, they would take a second each, or longer.
const EVENTS: usize = 20;

/// Half of that.
const BOUND: Duration = Duration::from_secs(10);

/// Has events happen one after the other.
async fn one_after_the_other(fixture: &Fixture, happen: impl AsyncFn()) {
    let (began, before) = (Instant::now(), fixture.receiver.total());
    for n in 1..=EVENTS {
        happen().await;
        fixture.wait_for(|requests| requests.len() == before + n).await;
    }
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_instance_notifies_itself() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let _daemon = fixture.daemon().await;
    let award = async || {
        let awarded = certificate(organization, None);
        fixture.badge_users().insert_one(awarded).await.unwrap();
    };
    one_after_the_other(&fixture, award).await;
}

#[tokio::test]
async fn instances_leave_notes_for_one_another() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let [first, second] = [fixture.daemon().await, fixture.daemon().await];
    // A newcomer: every endpoint is still the first one's.
    let appended = async || {
        fixture.badge_users().insert_one(expired(organization)).await.unwrap();
        let scans = second.count(is_scan);
        second.signal(Signal::SIGUSR1);
        second.wait_for_nth(is_scan, scans + 1).await;
    };
    one_after_the_other(&fixture, appended).await;
    assert_eq!(first.count(|line| is_scan(line) && line["found"] != 0), 0);
    fixture
        .wait_for_deliveries(doc! { "state": "delivered" }, EVENTS as u64)
        .await;
}

/// What is no event just appended is in no note by name: it is found by a look, which is rare where most of what waits is held.
#[tokio::test]
async fn replays_reach_the_instances_that_send_them_soon() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let waiting = fixture.endpoint("/held");
    let held = fixture.organization(vec![waiting.clone()]).await;
    let (endpoints, paths): (Vec<_>, Vec<_>) = (0..12)
        .map(|n| format!("/{n}"))
        .map(|path| (fixture.endpoint(&path), path))
        .unzip();
    let organization = fixture.organization(endpoints.clone()).await;
    let certificates = [held, organization].map(expired);
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let id = format!("hold/endpoint/{}", endpoint_key(held, &waiting));
    let hold = doc! { "_id": id, "by": "a test", "until": null };
    fixture.state().insert_one(hold).await.unwrap();
    let first = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 12).await;
    let _second = fixture.daemon().await;
    settle(&fixture, 2).await;
    let began = Instant::now();
    for (endpoint, path) in endpoints.iter().zip(&paths) {
        let endpoint = endpoint_key(organization, endpoint);
        let replay =
            doc! { "kind": "replay", "selection": { "endpoint": endpoint, "states": ["delivered"] }, "by": "a test" };
        fixture.operate(replay).await;
        fixture.wait_for(|_| fixture.receiver.count(path) == 2).await;
    }
    // Half of them are the second one's. Looks that get rarer would take a minute for those.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert!(
        first.count(|line| line["message"] == "delivered") < 24,
        "the first sends all"
    );
}
