//! SIGKILL in the middle of everything: nothing is lost, and little is repeated.

use std::time::Duration;

use bson::{DateTime, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use nix::sys::signal::Signal;

use crate::fixture::{Fixture, LIMIT, endpoint_key, expired, expired_in_turn, heard, pending_batch};

/// What the daemon of the big test holds in memory at most.
const CAPACITY: usize = 256;

#[tokio::test]
async fn a_daemon_killed_in_a_backlog_of_two_thousand_loses_nothing_and_repeats_no_more_than_it_held() {
    let settings = format!("completions.enabled = false\nqueue.capacity = {CAPACITY}");
    let fixture = Fixture::new().await.with(&settings);
    for path in ["/a", "/b", "/c", "/d"] {
        fixture
            .receiver
            .script(path, [Response::ok().after(Duration::from_millis(10))]);
        let organization = fixture.organization(vec![fixture.endpoint(path)]).await;
        let certificates: Vec<_> = (0..500).map(|_| expired(organization)).collect();
        fixture.badge_users().insert_many(certificates).await.unwrap();
    }

    // The first time while it still scans.
    let mut duplicates = 0;
    for killed_at in [100, 1200] {
        let mut daemon = fixture.daemon().await;
        fixture.receiver.wait_for_total(killed_at, LIMIT).await.unwrap();
        daemon.signal(Signal::SIGKILL);
        daemon.ended().await;
        let requests = fixture.receiver.requests();
        duplicates = requests.len() - heard(&requests).len();
    }
    println!("{duplicates} duplicates before the second kill");
    let mut daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2000).await;
    assert!(daemon.stop().await.success());

    let requests = fixture.receiver.requests();
    let events = heard(&requests).len();
    let duplicates = requests.len() - events;
    println!("2000 events, 2 kills, {} lost, {duplicates} duplicates", 2000 - events);
    assert_eq!(events, 2000, "every event to its endpoint");
    assert!(duplicates <= 2 * CAPACITY, "{duplicates} duplicates");
    assert_eq!(fixture.count_deliveries(doc! {}).await, 2000);
    let marked = doc! { "expiryReminderSent": true };
    assert_eq!(fixture.badge_users().count_documents(marked).await.unwrap(), 2000);
}

#[tokio::test]
async fn what_a_living_instance_still_drains_is_left_to_it_and_goes_out_when_it_is_dead() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let endpoints = [fixture.endpoint("/free"), fixture.endpoint("/drained")];
    let organization = fixture.organization(endpoints.to_vec()).await;
    let [free, drained] = [0, 1].map(|place| endpoint_key(organization, &endpoints[place]));
    for key in [&free, &drained] {
        let batch = pending_batch(key, &expired_in_turn(organization, 3));
        fixture.outbox().insert_one(batch).await.unwrap();
    }
    let in_an_hour = DateTime::from_millis(Clock::local().timestamp_millis() + 3_600_000);
    let heartbeat = doc! {
        "_id": "instance/other", "startedAt": in_an_hour, "seenAt": in_an_hour, "leaving": true,
        "members": [], "draining": [&drained], "control": 0_i64,
    };
    fixture.state().insert_one(heartbeat).await.unwrap();

    let daemon = fixture.daemon().await;
    fixture
        .wait_for_deliveries(doc! { "endpoint": &free, "state": "delivered" }, 3)
        .await;
    // Found by a later look than those of before.
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    fixture
        .wait_for_deliveries(doc! { "endpoint": &free, "state": "delivered" }, 4)
        .await;
    assert_eq!(fixture.receiver.count("/drained"), 0);

    fixture
        .state()
        .delete_one(doc! { "_id": "instance/other" })
        .await
        .unwrap();
    fixture
        .wait_for_deliveries(doc! { "endpoint": &drained, "state": "delivered" }, 4)
        .await;
    assert_eq!(fixture.receiver.total(), 8);
}

/// It has died a while ago, with a request under way and nothing recorded.
#[tokio::test]
async fn a_batch_of_which_a_dead_instance_recorded_a_part_goes_on_after_that_part() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let certificates = expired_in_turn(organization, 5);
    let mut batch = pending_batch(&endpoint_key(organization, &endpoint), &certificates);
    let delivered = doc! { "at": Clock::local(), "status": 200, "ms": 3 };
    batch.extend(doc! { "version": 2, "open": 3, "results": [&delivered, null, &delivered] });
    fixture.outbox().insert_one(batch).await.unwrap();
    let dead = doc! {
        "_id": "instance/dead", "startedAt": DateTime::from_millis(0), "seenAt": DateTime::from_millis(1),
        "members": ["dead"], "draining": [], "control": 0_i64,
    };
    fixture.state().insert_one(dead).await.unwrap();

    let _daemon = fixture.daemon().await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 5).await;
    let requests = fixture.receiver.requests();
    let mut sent: Vec<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    sent.sort_unstable();
    let mut expected: Vec<_> = [1, 3, 4]
        .map(|place| crate::fixture::expired_id(&certificates[place]))
        .into();
    expected.sort_unstable();
    assert_eq!(sent, expected);
    let whole = doc! { "version": { "$gt": 2 }, "state": "delivered", "open": 0, "finishedAt": { "$exists": true } };
    assert_eq!(fixture.outbox().count_documents(whole).await.unwrap(), 1);
}
