use super::super::tests::{LIMITS, end_all, fetch_of, key, name, prove, queue, send_all};
use super::super::{Class, DeliveryQueue, Granted, Limits, Partial, STUCK};
use crate::outbox::document::testing::fetched;

/// Background deliveries of `a/1`, their payloads, others of `b/1`, who asks, whether somebody waits, and whether they give way.
type Row = (&'static str, u32, usize, u32, &'static [&'static str], bool, bool);

/// Enqueues deliveries with payloads of that size, whatever the endpoint may have.
fn enqueue(queue: &DeliveryQueue, class: Class, endpoint: &str, count: u32, payload: usize) {
    let mut fetched = fetched(endpoint, &format!("{class:?}"), count);
    fetched.class = class;
    for delivery in &mut fetched.deliveries {
        delivery.message.body = vec![b' '; payload].into();
    }
    assert_eq!(queue.enqueue(fetched, count as usize), count as usize);
}

/// Unsent deliveries of an endpoint in the class `background`.
fn background(queue: &DeliveryQueue, endpoint: &str) -> usize {
    queue.in_memory(&key(endpoint)).background
}

/// Reads as many deliveries as the endpoint may have, as the fetcher does.
fn read(queue: &DeliveryQueue, class: Class, endpoint: &str, contenders: usize) {
    let slots = queue.admit(&key(endpoint), contenders, &Granted::default());
    let slots = match class {
        _ if slots == 0 => return,
        Class::Background => slots.div_ceil(2),
        Class::Live | Class::Retry => slots,
    };
    let mut fetched = fetched(endpoint, &format!("{class:?}"), 500);
    fetched.class = class;
    queue.enqueue(fetched, slots);
}

#[test]
fn endpoints_that_have_deliveries_of_all_classes_leave_slots_to_the_next() {
    for count in [1, 3, 8, 30] {
        let queue = queue(Limits {
            capacity: 1024,
            max_in_flight: 256,
            concurrency: 5,
        });
        let endpoints: Vec<_> = (0..count).map(|n| format!("{n}/1")).collect();
        endpoints.iter().for_each(|endpoint| prove(&queue, endpoint));
        for class in [Class::Background, Class::Live, Class::Retry] {
            for endpoint in &endpoints {
                read(&queue, class, endpoint, count);
            }
            send_all(&queue);
        }
        let free = 1024 - queue.fill().taken;
        let share = (1024 - 64) / (count + 1);
        assert!(free >= 64 + share, "{free} slots are left by {count}");
        assert_eq!(queue.admit(&key("new/1"), count, &Granted::default()), 1, "{count}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_overtaken_gives_way_where_space_is_lacking() {
    let table: [Row; 10] = [
        ("all slots", 20, 2, 44, &["c/1"], false, true),
        ("all slots, for one that waits", 20, 2, 44, &[], true, true),
        ("all slots, and nobody asks", 20, 2, 44, &[], false, false),
        ("nearly all slots", 20, 2, 43, &["c/1"], true, false),
        ("half of the slots, for its own", 32, 2, 0, &["a/2"], false, true),
        ("half of the slots, for another", 32, 2, 0, &["b/1"], true, false),
        ("half of the bytes, for itself", 8, 1 << 20, 0, &["a/1"], false, true),
        ("half of the bytes, for another", 8, 1 << 20, 0, &["b/1"], true, false),
        ("all bytes, for another", 16, 1 << 20, 0, &["b/1"], false, true),
        ("large payloads, for its own", 2, 3 << 20, 0, &["a/2"], false, true),
    ];
    for (what, count, payload, others, asking, is_starved, gives_way) in table {
        let queue = queue(LIMITS);
        for endpoint in ["a/1", "b/1"] {
            prove(&queue, endpoint);
        }
        enqueue(&queue, Class::Background, "a/1", count, payload);
        if others > 0 {
            enqueue(&queue, Class::Live, "b/1", others, 2);
        }
        let keys: Vec<_> = asking.iter().map(|endpoint| key(endpoint)).collect();
        let asking: Vec<_> = keys.iter().collect();
        for endpoint in &asking {
            // A large one that has no space is remembered.
            queue.has_space(endpoint, payload);
        }
        queue.drop_overtaken(&asking, is_starved);
        assert_eq!(background(&queue, "a/1"), count as usize, "{what}: they may still move");
        tokio::time::advance(STUCK).await;
        queue.drop_overtaken(&asking, is_starved);
        let left = if gives_way { 0 } else { count as usize };
        assert_eq!(background(&queue, "a/1"), left, "{what}");
        assert_eq!(queue.fill().taken, left + others as usize, "{what}");
        assert_eq!(queue.drain_changes().dropped.contains(&key("a/1")), gives_way, "{what}");
        for endpoint in asking.iter().filter(|_| gives_way) {
            assert!(queue.admit(endpoint, 1, &Granted::default()) > 0, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_now_and_then_and_what_goes_before_it_stays() {
    let queue = queue(LIMITS);
    enqueue(&queue, Class::Background, "a/1", 20, 2);
    enqueue(&queue, Class::Live, "b/1", 44, 2);
    let asking = key("c/1");
    for left in [19, 14, 9] {
        tokio::time::advance(STUCK).await;
        end_all(&queue, &send_all(&queue));
        queue.drop_overtaken(&[&asking], true);
        assert_eq!(background(&queue, "a/1"), left);
    }
    let before = queue.fill().taken;
    tokio::time::advance(STUCK).await;
    queue.drop_overtaken(&[&asking], true);
    assert_eq!(queue.fill().taken, before - 9);
    assert!(queue.next().is_some_and(|next| name(&next) == "Live"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_gave_way_is_continued_where_it_was_dropped_unless_another_is() {
    for (is_partial, expected) in [
        (false, Partial::new(&"a/1/old".into(), 5, Class::Background)),
        (true, Partial::new(&"a/1/new".into(), 3, Class::Live)),
    ] {
        let queue = queue(LIMITS);
        prove(&queue, "a/1");
        assert_eq!(fetch_of(&queue, Class::Background, "a/1", "old", 20), 20);
        assert_eq!(send_all(&queue).len(), 5);
        let limit: u32 = if is_partial { 3 } else { 10 };
        assert_eq!(queue.enqueue(fetched("a/1", "new", 10), limit as usize), limit as usize);
        enqueue(&queue, Class::Live, "b/1", 44 - limit, 2);
        tokio::time::advance(STUCK).await;
        queue.drop_overtaken(&[&key("c/1")], false);
        let memory = queue.in_memory(&key("a/1"));
        assert_eq!((memory.background, memory.partial), (0, Some(expected)));
    }
}
