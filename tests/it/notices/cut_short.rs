//! A probe of a suspended endpoint that a stop cuts short is made again at once, and not an hour later.

use std::time::Duration;

use bson::doc;
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use nix::sys::signal::Signal;

use super::{always, expire, fixture, without_probes};
use crate::fixture::endpoint_key;
use crate::layout::before;

#[tokio::test]
async fn a_probe_that_a_stop_cuts_short_is_made_again_at_once_by_whoever_is_next() {
    // The signal, and whether another instance is running.
    let ways = [
        (Signal::SIGTERM, false),
        (Signal::SIGINT, false),
        (Signal::SIGTERM, true),
    ];
    futures_util::future::join_all(ways.map(is_probed_again)).await;
}

async fn is_probed_again((signal, is_beside): (Signal, bool)) {
    let fixture = fixture("service.shutdown_grace = \"1s\"").await;
    let mut endpoint = fixture.endpoint("/a");
    endpoint.insert("timeout", 30_000);
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    always(&fixture, "/a", 410);
    let mut daemon = without_probes(&fixture).await;
    expire(&fixture, organization, 3).await;
    daemon.signal(Signal::SIGUSR1);
    let suspended = doc! { "_id": format!("episode/{key}"), "episode.suspended": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), suspended.clone(), 1).await;
    assert!(daemon.stop().await.success());
    let hours_ago = before(Clock::local(), Duration::from_secs(2 * 3600));
    let due = doc! { "$set": { "episode.suspended.since": hours_ago }, "$unset": { "episode.suspended.probedAt": 1 } };
    fixture.state().update_one(suspended.clone(), due).await.unwrap();

    fixture.receiver.script("/a", [Response::silence()]);
    let mut daemon = without_probes(&fixture).await;
    let to_it = |requests: &[certhookd::sandbox::Received]| requests.iter().filter(|one| one.path == "/a").count();
    fixture.wait_for(|requests| to_it(requests) == 2).await;
    let beside = match is_beside {
        true => Some(without_probes(&fixture).await),
        false => None,
    };
    always(&fixture, "/a", 200);
    daemon.signal(signal);
    assert!(daemon.ended().await.success(), "{signal}");
    let next = match beside {
        Some(beside) => beside,
        None => without_probes(&fixture).await,
    };
    let delivered = doc! { "state": "delivered", "endpoint": &key };
    fixture.wait_for_deliveries(delivered, 2).await;
    fixture.wait_for_count(&fixture.state(), suspended, 0).await;
    drop(next);
}
