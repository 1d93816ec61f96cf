//! `hold --until`, over two instances: it ends by itself in each, and what has waited goes out gently.

use std::collections::HashMap;
use std::time::Duration;

use bson::{DateTime, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use nix::sys::signal::Signal;

use super::told;
use crate::fixture::{Daemon, Fixture, certificate};
use crate::layout::after;

/// This many, so that none of two instances is assigned all.
const ENDPOINTS: usize = 20;

const AWARDS: usize = 30;

/// What waits until then for twenty endpoints, which two instances share. The first holds the lease.
struct Held {
    fixture: Fixture,
    daemons: [Daemon; 2],
    until: DateTime,
}

fn path(n: usize) -> String {
    format!("/{n}")
}

impl Held {
    async fn for_seconds(seconds: u64) -> Self {
        let fixture = Fixture::new().await;
        let endpoints = (0..ENDPOINTS).map(|n| fixture.endpoint(&path(n))).collect();
        let organization = fixture.organization(endpoints).await;
        let slow = |n| {
            fixture
                .receiver
                .script(&path(n), [Response::ok().after(Duration::from_millis(20))])
        };
        (0..ENDPOINTS).for_each(slow);
        let daemons = [fixture.daemon().await, fixture.daemon().await];
        let both = doc! { "_id": { "$regex": "^instance/" }, "members.1": { "$exists": true } };
        fixture.wait_for_count(&fixture.state(), both, 2).await;
        let until = after(Clock::local(), Duration::from_secs(seconds));
        let instant = until.try_to_rfc3339_string().unwrap();
        let text = told(&fixture, &["hold", "--all", "--until", &instant]).await;
        assert!(
            text.starts_with("everything is held: 2 instances have seen it"),
            "{text}"
        );
        let awards = (0..AWARDS).map(|_| certificate(organization, None));
        fixture.badge_users().insert_many(awards).await.unwrap();
        let all = (AWARDS * ENDPOINTS) as u64;
        fixture.wait_for_deliveries(doc! { "state": "pending" }, all).await;
        // Whoever takes an endpoint over knows by that how to begin.
        let waits = doc! { "_id": { "$regex": "^endpoint/" }, "waitingSince": { "$exists": true } };
        fixture.wait_for_count(&fixture.state(), waits, ENDPOINTS as u64).await;
        assert_eq!(fixture.receiver.total(), 0);
        Self {
            fixture,
            daemons,
            until,
        }
    }

    /// When the first request came to each endpoint, once all have come.
    async fn ended(&self) -> Vec<DateTime> {
        let all = doc! { "state": "delivered" };
        self.fixture.wait_for_deliveries(all, (AWARDS * ENDPOINTS) as u64).await;
        let mut firsts = HashMap::new();
        for request in self.fixture.receiver.requests() {
            assert!(
                request.at >= self.until,
                "{} is earlier than {}",
                request.at,
                self.until
            );
            firsts.entry(request.path).or_insert(request.at);
        }
        assert_eq!(firsts.len(), ENDPOINTS);
        for n in 0..ENDPOINTS {
            // One at a time, and two after 20 successes.
            let parallel = self.fixture.receiver.max_parallel(&path(n));
            assert!(parallel <= 2, "{parallel} at once to {}", path(n));
        }
        let state = self.fixture.state();
        let hold = state.find_one(doc! { "_id": "hold/all" }).await.unwrap().unwrap();
        assert_eq!(hold.get_datetime("until").unwrap(), &self.until);
        assert_eq!(
            self.fixture.operations().count_documents(doc! {}).await.unwrap(),
            1,
            "no release"
        );
        firsts.into_values().collect()
    }
}

#[tokio::test]
async fn it_ends_in_both_instances_by_itself_and_what_has_waited_goes_out_gently() {
    let held = Held::for_seconds(4).await;
    let soon = after(held.until, Duration::from_secs(5));
    let firsts = held.ended().await;
    assert!(firsts.iter().all(|first| *first < soon), "{firsts:?}: {soon}");
    assert_eq!(held.fixture.receiver.total(), AWARDS * ENDPOINTS, "nothing twice");
}

#[tokio::test]
async fn an_instance_that_is_killed_extends_it_neither_for_the_other_nor_for_who_takes_over() {
    let mut held = Held::for_seconds(5).await;
    held.daemons[0].signal(Signal::SIGKILL);
    held.daemons[0].ended().await;
    let soon = after(held.until, Duration::from_secs(4));
    let taken_over = after(Clock::local(), Duration::from_secs(20));
    let firsts = held.ended().await;
    let of_the_other = firsts.iter().filter(|first| **first < soon).count();
    assert!((1..ENDPOINTS).contains(&of_the_other), "{firsts:?}: {soon}");
    assert!(
        firsts.iter().all(|first| *first < taken_over),
        "{firsts:?}: {taken_over}"
    );
}
