use bson::DateTime;
use futures_util::FutureExt;

use super::*;
use crate::model::{EventId, EventType, Message};

fn window(capacity: usize, concurrency: usize) -> (Window, mpsc::UnboundedReceiver<EndpointKey>) {
    Window::new(capacity, concurrency, Box::new(|endpoint| endpoint.owner() != "other"))
}

fn key(name: &str) -> EndpointKey {
    EndpointKey::from_stored(&format!("owner/{name}"))
}

/// Reserves as many places as a lane gets.
fn fill(window: &Window, endpoint: &EndpointKey) -> Vec<Box<dyn Slot>> {
    std::iter::from_fn(|| window.reserve(endpoint, 2)).collect()
}

fn claimed(endpoint: &EndpointKey) -> Claimed {
    let id = bson::RawBsonRef::Int32(1);
    Claimed {
        message: Message {
            event_id: EventId::derive(EventType::CertificateExpired, id, DateTime::from_millis(0)),
            event_type: EventType::CertificateExpired,
            body: "{}".into(),
        },
        endpoint: endpoint.clone(),
        attempts: 1,
        first_attempt_at: None,
        claim: 1,
        redriven: false,
    }
}

fn queue(window: &Window, endpoint: &EndpointKey) {
    window.reserve(endpoint, 2).unwrap().fill(claimed(endpoint));
}

fn rings(window: &Window) -> bool {
    window.bell().notified().now_or_never().is_some()
}

#[test]
fn a_greedy_lane_leaves_half_of_what_is_free_and_so_does_the_next() {
    let (window, _wanted) = window(16, 5);
    let lanes: Vec<_> = ["a", "b", "c", "d"].map(|name| fill(&window, &key(name))).into();
    let sizes: Vec<_> = lanes.iter().map(Vec::len).collect();
    assert_eq!(sizes, [8, 4, 2, 1]);
    assert_eq!(window.fill().held, 15);
    drop(lanes);
    assert_eq!(window.fill().held, 0, "a slot that is not filled is free again");
}

#[test]
fn what_is_younger_queues_up_behind_what_waits_in_the_outbox() {
    let (window, _wanted) = window(16, 5);
    let (a, b) = (key("a"), key("b"));
    window.pending(&mut std::iter::once(&a));
    assert!(rings(&window), "the feeder is to look");
    assert!(window.reserve(&a, 2).is_none());
    assert!(window.reserve(&b, 2).is_some(), "another lane is not concerned");
    assert_eq!(window.take(&a, 4).len(), 4, "the feeder may");
    window.begin_look();
    window.end_look(std::iter::empty());
    assert!(window.reserve(&a, 2).is_some());
}

#[test]
fn what_is_another_daemons_is_left_to_it() {
    let (window, _wanted) = window(16, 5);
    assert!(window.reserve(&EndpointKey::from_stored("other/a"), 2).is_none());
}

#[test]
fn a_closed_window_gives_back_what_is_queued_and_takes_no_more() {
    let (window, _wanted) = window(16, 1);
    let a = key("a");
    (0..3).for_each(|_| queue(&window, &a));
    let in_flight = window.pop(&a).unwrap();
    assert_eq!(window.close().len(), 2);
    assert!(window.reserve(&a, 2).is_none() && window.take(&a, 4).is_empty());
    assert!(window.pop(&a).is_none());
    assert_eq!(window.fill().held, 1, "what is in flight keeps its place");
    drop(in_flight);
    assert_eq!(window.fill().held, 0);
}

#[test]
fn a_freed_place_wakes_the_feeder_only_where_its_lane_has_more_in_the_outbox() {
    let (window, _wanted) = window(16, 5);
    let (a, b) = (key("a"), key("b"));
    let (of_a, of_b) = (window.take(&a, 1), window.take(&b, 1));
    window.end_look(std::iter::once(&a));
    drop(of_b);
    assert!(!rings(&window));
    drop(of_a);
    assert!(rings(&window));
}

#[test]
fn the_feeder_is_rung_for_what_it_does_not_know_and_looks_again_for_what_its_look_may_have_missed() {
    let (window, _wanted) = window(16, 5);
    let (a, b) = (key("a"), key("b"));
    window.pending(&mut std::iter::once(&a));
    assert!(rings(&window));
    window.begin_look();
    window.end_look(std::iter::once(&a));
    window.pending(&mut std::iter::once(&a));
    assert!(!rings(&window), "it is known that it waits");

    window.begin_look();
    window.pending(&mut [&a, &b].into_iter());
    assert!(rings(&window), "b is news");
    window.end_look(std::iter::once(&a));
    assert!(rings(&window), "b may have come too late for the look");
    assert!(window.reserve(&b, 2).is_none());
}

#[test]
fn a_feeder_that_got_fewer_places_than_it_wanted_is_rung_by_whichever_gets_free() {
    let (window, _wanted) = window(4, 5);
    let mut greedy = window.take(&key("a"), 4);
    assert!(window.take(&key("b"), 1).is_empty());
    greedy.pop();
    assert!(rings(&window));
    greedy.pop();
    assert!(!rings(&window), "once is enough");
}

/// Queues as much as a lane gets, and pops one.
fn begin(window: &Window, endpoint: &EndpointKey) -> Job {
    while let Some(slot) = window.reserve(endpoint, 2) {
        slot.fill(claimed(endpoint));
    }
    window.pop(endpoint).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_source_waits_for_lanes_that_move_and_not_for_one_that_is_stuck() {
    let (window, _wanted) = window(32, 1);
    let (a, b) = (key("a"), key("b"));
    assert_eq!(
        (window.shared_room(), window.room().await),
        (10, 8),
        "at most a quarter at once"
    );
    let _stuck = begin(&window, &a);
    assert_eq!(window.shared_room(), 0, "it holds 16");
    assert_eq!(window.room().await, 5, "after a while it is as if there were but 16");
    let mut moving = begin(&window, &b);
    assert_eq!(window.shared_room(), 0, "it holds 8");
    for room in [0, 0, 0, 1] {
        moving = window.pop(&b).unwrap();
        assert_eq!(window.shared_room(), room);
    }
    drop(moving);
}

#[tokio::test(start_paused = true)]
async fn a_source_waits_while_the_feeder_is_behind_but_not_long() {
    let (window, _wanted) = window(32, 1);
    let a = key("a");
    window.pending(&mut std::iter::once(&a));
    assert_eq!(window.shared_room(), 0);
    let before = Instant::now();
    assert_eq!((window.room().await, before.elapsed()), (0, PATIENCE));
    let place = window.take(&a, 1).pop().unwrap();
    place.put(claimed(&a));
    assert_eq!(window.shared_room(), 9);
}

#[test]
fn a_lane_is_refilled_when_half_of_its_share_is_used_up() {
    let (window, _wanted) = window(16, 5);
    let a = key("a");
    let mut places = window.take(&a, 8);
    assert_eq!(places.len(), 8);
    places.truncate(5);
    assert!(window.take(&a, 8).is_empty());
    places.truncate(4);
    assert_eq!(window.take(&a, 8).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_frees_no_place_gets_few() {
    let (window, _wanted) = window(64, 1);
    let (a, b) = (key("a"), key("b"));
    let mut unproven = window.take(&a, 32);
    assert_eq!(unproven.len(), 4);
    unproven.truncate(2);
    assert_eq!(window.take(&a, 32).len(), 30, "it moves");

    (0..10).for_each(|_| queue(&window, &b));
    let _stuck = window.pop(&b).unwrap();
    tokio::time::advance(PATIENCE).await;
    assert!(window.reserve(&b, 2).is_none(), "it is stuck, and holds more than 4");
    let _next = window.pop(&b).unwrap();
    assert!(window.reserve(&b, 2).is_some());
}

#[test]
fn bodies_are_bounded_but_one_may_always_enter() {
    let (window, _wanted) = window(16, 5);
    let a = key("a");
    let large = window.reserve(&a, MAX_BYTES + 1).unwrap();
    assert!(window.reserve(&key("b"), 2).is_none());
    assert!(window.take(&a, 4).is_empty());
    drop(large);
    assert!(window.reserve(&a, 2).is_some());
}

#[test]
fn a_lane_gets_as_many_workers_as_it_has_work_for_up_to_the_limit() {
    let (window, mut wanted) = window(16, 2);
    let a = key("a");
    (0..3).for_each(|_| queue(&window, &a));
    assert_eq!(
        (wanted.try_recv().ok(), wanted.try_recv().ok()),
        (Some(a.clone()), Some(a.clone()))
    );
    assert!(wanted.try_recv().is_err());

    window.set_concurrency(1);
    assert!(window.pop(&a).is_none(), "the second worker is one too many");
    (0..3).for_each(|_| assert!(window.pop(&a).is_some()));
    assert!(window.pop(&a).is_none(), "nothing is left: the worker ends");
    queue(&window, &a);
    assert_eq!(wanted.try_recv().ok(), Some(a), "and another one is wanted");
}
