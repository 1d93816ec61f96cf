use super::super::tests::{LIMITS, end_all, fetch_of, key, prove, queue, send_all};
use super::super::{Class, DeliveryQueue, STUCK};
use super::*;
use crate::outbox::document::testing::fetched;

const WAIT: Duration = Duration::from_millis(500);

/// Enqueues deliveries, whatever the endpoint may have.
fn enqueue(queue: &DeliveryQueue, endpoint: &str, name: &str, count: u32) -> usize {
    queue.enqueue(fetched(endpoint, name, count), count as usize)
}

fn is_empty(queue: &DeliveryQueue) -> bool {
    let state = queue.0.state.lock();
    state.endpoints.is_empty() && state.organizations.is_empty()
}

/// As its turn, or when it waits for the instant at which it may have one.
#[tokio::test(start_paused = true)]
async fn what_leaves_memory_and_comes_back_has_one_turn() {
    for (other, wait) in [
        ("a/2", Duration::ZERO),
        ("b/1", Duration::ZERO),
        ("a/2", WAIT),
        ("b/1", WAIT),
    ] {
        let queue = queue(LIMITS);
        let endpoints = ["a/1", other];
        endpoints.iter().for_each(|endpoint| prove(&queue, endpoint));
        for endpoint in endpoints {
            assert_eq!(enqueue(&queue, endpoint, "old", 5), 5);
        }
        if wait > Duration::ZERO {
            queue.pause(&key("a/1"), wait);
            assert_eq!(queue.next().unwrap().endpoint, key(other));
        }
        queue.0.state.lock().drop_unsent(&key("a/1"));
        assert_eq!(enqueue(&queue, "a/1", "new", 5), 5);
        tokio::time::advance(wait).await;
        let sent: Vec<_> = (0..6).map(|_| queue.next().unwrap().endpoint).collect();
        let is_twice = sent.windows(2).any(|two| two[0] == two[1]);
        assert!(!is_twice, "{other} {wait:?}: {sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_nothing_in_memory_is_forgotten() {
    type Way = (&'static str, fn(&DeliveryQueue));
    let ways: [Way; 5] = [
        ("a batch of which all is settled", |queue| {
            assert_eq!(enqueue(queue, "a/1", "x", 0), 0);
            assert_eq!(queue.enqueue(fetched("a/1", "x", 0), 5), 0);
        }),
        ("a batch whose results are refused", |queue| {
            queue.exclude(&key("a/1"), "a/1/x".into(), STUCK);
        }),
        ("what was sent and recorded", |queue| {
            fetch_of(queue, Class::Live, "a/1", "x", 1);
            let sent = send_all(queue);
            end_all(queue, &sent);
            queue.recorded(sent.iter());
        }),
        ("what was dropped in its turn", |queue| {
            fetch_of(queue, Class::Live, "a/1", "x", 1);
            queue.drop_all_unsent();
        }),
        ("what was dropped while it waited", |queue| {
            fetch_of(queue, Class::Live, "a/1", "x", 1);
            queue.pause(&key("a/1"), WAIT);
            assert!(queue.next().is_none());
            queue.drop_all_unsent();
        }),
    ];
    for (what, way) in ways {
        let queue = queue(LIMITS);
        way(&queue);
        tokio::time::advance(STUCK).await;
        assert!(queue.next().is_none(), "{what}");
        queue.drain_changes();
        assert!(is_empty(&queue), "{what}");
    }
}
