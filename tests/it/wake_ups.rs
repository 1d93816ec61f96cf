//! What is appended goes out at once: the fetcher's look at all queues, once a second, is for what nobody told of.

use std::time::{Duration, Instant};

use bson::doc;
use nix::sys::signal::Signal;

use crate::bed::{Bed, certificate, expired, is_scan};

/// Events, each of which happens when the one before has arrived: found by looks, they would take a second each.
const EVENTS: usize = 20;

/// Half of that.
const BOUND: Duration = Duration::from_secs(10);

/// Has events happen one after the other.
async fn one_after_the_other(bed: &Bed, happen: impl AsyncFn()) {
    let (began, before) = (Instant::now(), bed.receiver.total());
    for n in 1..=EVENTS {
        happen().await;
        bed.wait_for(|requests| requests.len() == before + n).await;
    }
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_instance_notifies_itself() {
    let bed = Bed::new().await;
    let organization = bed.organization(vec![bed.endpoint("/a")]).await;
    let _daemon = bed.daemon().await;
    let award = async || {
        let awarded = certificate(organization, None);
        bed.badge_users().insert_one(awarded).await.unwrap();
    };
    one_after_the_other(&bed, award).await;
}

#[tokio::test]
async fn instances_leave_notes_for_one_another() {
    let bed = Bed::new().await.with("completions.enabled = false");
    let organization = bed.organization(vec![bed.endpoint("/a")]).await;
    let [first, second] = [bed.daemon().await, bed.daemon().await];
    // A newcomer: every endpoint is still the first one's.
    let appended = async || {
        bed.badge_users().insert_one(expired(organization)).await.unwrap();
        let scans = second.count(is_scan);
        second.signal(Signal::SIGUSR1);
        second.wait_for_nth(is_scan, scans + 1).await;
    };
    one_after_the_other(&bed, appended).await;
    assert_eq!(first.count(|line| is_scan(line) && line["found"] != 0), 0);
    bed.wait_for_deliveries(doc! { "state": "delivered" }, EVENTS as u64)
        .await;
}
