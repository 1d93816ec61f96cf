use super::testing::Open;
use super::*;
use crate::model::Failure;
use crate::outbox::document::testing::fetched;

pub(super) const LIMITS: Limits = Limits {
    capacity: 64,
    max_in_flight: 16,
    concurrency: 5,
};

pub(super) fn queue(limits: Limits) -> DeliveryQueue {
    DeliveryQueue::new(limits, Open(|_| true))
}

pub(super) fn key(endpoint: &str) -> EndpointKey {
    EndpointKey::from_stored(endpoint)
}

fn delivered() -> Outcome {
    Outcome::Delivered {
        status: 200,
        elapsed: Duration::ZERO,
        connect: None,
    }
}

fn failed(timed_out: bool) -> Outcome {
    Outcome::TransientFailure(Failure {
        reason: "it failed".into(),
        timed_out,
        ..Failure::default()
    })
}

/// Enqueues a batch as the fetcher does, and returns how many were taken.
fn fetch(queue: &DeliveryQueue, endpoint: &str, name: &str, size: u32) -> usize {
    fetch_of(queue, Class::Live, endpoint, name, size)
}

pub(super) fn fetch_of(queue: &DeliveryQueue, class: Class, endpoint: &str, name: &str, size: u32) -> usize {
    let slots = queue.admit(&key(endpoint), 1, &Granted::default());
    let mut fetched = fetched(endpoint, name, size);
    fetched.class = class;
    match slots {
        0 => 0,
        _ => queue.enqueue(fetched, slots),
    }
}

/// Of which batch a delivery is, as `name` of [`fetch`].
pub(super) fn name(delivery: &Delivery) -> &str {
    delivery.batch.id.rsplit('/').next().unwrap()
}

pub(super) fn end_all(queue: &DeliveryQueue, sent: &[Delivery]) {
    for one in sent {
        queue.ended(one, &delivered());
    }
}

/// All that may be sent now.
pub(super) fn send_all(queue: &DeliveryQueue) -> Vec<Delivery> {
    std::iter::from_fn(|| queue.next()).collect()
}

/// Makes an endpoint known to answer.
pub(super) fn prove(queue: &DeliveryQueue, endpoint: &str) {
    assert_eq!(fetch(queue, endpoint, &format!("{endpoint}-first"), 1), 1);
    let first = queue.next().unwrap();
    queue.ended(&first, &delivered());
    queue.recorded([first].iter());
}

#[test]
fn an_endpoint_that_is_not_known_to_answer_gets_one_slot_and_one_that_answers_its_share() {
    let queue = queue(LIMITS);
    assert_eq!(fetch(&queue, "a/1", "x", 30), 1);
    assert_eq!(fetch(&queue, "a/1", "y", 30), 0);
    assert_eq!(send_all(&queue).len(), 1);
    prove(&queue, "b/1");
    assert_eq!(
        fetch(&queue, "b/1", "z", 64),
        30,
        "(64 - a quarter of 16) / (1 contender + 1)"
    );
    assert_eq!(send_all(&queue).len(), 5, "five requests at once");
}

#[test]
fn a_slot_is_free_again_when_the_result_is_recorded_and_not_before() {
    let queue = queue(LIMITS);
    prove(&queue, "a/1");
    assert_eq!(fetch(&queue, "a/1", "x", 4), 4);
    let sent = send_all(&queue);
    for delivery in &sent {
        queue.ended(delivery, &delivered());
    }
    assert_eq!((queue.fill().taken, queue.fill().in_flight), (4, 0));
    queue.recorded(sent.iter());
    assert_eq!(queue.fill().taken, 0);
    assert!(queue.in_memory(&key("a/1")).batches.is_empty());
}

#[test]
fn organizations_take_turns_and_one_gets_half_of_the_requests() {
    let queue = queue(Limits {
        capacity: 1000,
        ..LIMITS
    });
    for endpoint in ["a/1", "a/2", "a/3", "b/1"] {
        prove(&queue, endpoint);
    }
    for endpoint in ["a/1", "a/2", "a/3", "b/1"] {
        assert!(fetch(&queue, endpoint, "x", 20) > 5);
    }
    let sent = send_all(&queue);
    let of = |organization: &str| {
        sent.iter()
            .filter(|one| one.endpoint.organization() == organization)
            .count()
    };
    assert_eq!(
        (of("a"), of("b")),
        (8, 5),
        "half of 16, and five to the only endpoint of b"
    );
    let first: Vec<_> = sent[..4].iter().map(|one| one.endpoint.organization()).collect();
    assert_eq!(first, ["a", "b", "a", "b"]);
    let last = sent.iter().find(|one| one.endpoint.organization() == "a").unwrap();
    queue.ended(last, &delivered());
    assert_eq!(send_all(&queue).len(), 1, "one request of a ended, another begins");
}

#[test]
fn a_timeout_drops_what_is_unsent_and_leaves_one_slot() {
    let queue = queue(LIMITS);
    prove(&queue, "a/1");
    assert_eq!(fetch(&queue, "a/1", "x", 20), 20);
    let sent = send_all(&queue);
    queue.ended(&sent[0], &failed(true));
    assert_eq!(queue.fill().queued, 0);
    assert!(queue.drain_changes().dropped.contains(&key("a/1")));
    assert_eq!(fetch(&queue, "a/1", "y", 5), 0, "four requests are open");
    for delivery in &sent[1..] {
        queue.ended(delivery, &failed(true));
    }
    queue.recorded(sent.iter());
    assert_eq!(fetch(&queue, "a/1", "z", 5), 1);
}

#[test]
fn a_quarter_of_the_requests_is_for_endpoints_that_are_not_known_to_answer() {
    let queue = queue(LIMITS);
    let taken = |organization: &str| -> usize {
        (0..50)
            .map(|n| fetch(&queue, &format!("{organization}/{n}"), "x", 1))
            .sum()
    };
    assert_eq!(["a", "b", "c"].map(taken), [2, 2, 0], "half of it for an organization");
    prove_beside(&queue);
}

fn prove_beside(queue: &DeliveryQueue) {
    let one = queue.next().unwrap();
    queue.ended(&one, &delivered());
    queue.recorded([one].iter());
    assert_eq!(
        queue.spare().0,
        1,
        "one has shown that it answers: another may be tried"
    );
}

#[test]
fn a_part_of_a_batch_is_continued_where_it_ended() {
    let queue = queue(Limits { capacity: 20, ..LIMITS });
    prove(&queue, "a/1");
    assert_eq!(fetch(&queue, "a/1", "x", 20), 8);
    let memory = queue.in_memory(&key("a/1"));
    assert_eq!(memory.partial, Some(Partial::new(&"a/1/x".into(), 8, Class::Live)));
    let sent = send_all(&queue);
    for one in &sent {
        queue.ended(one, &delivered());
    }
    let mut rest = fetched("a/1", "x", 20);
    rest.deliveries.drain(..8);
    assert_eq!(queue.enqueue(rest, 4), 4);
    assert_eq!(send_all(&queue)[0].index, 5, "in order");
    assert_eq!(
        sent[0].batch.in_memory(),
        12,
        "one batch, whenever its deliveries were read"
    );
    assert_eq!(queue.enqueue(fetched("a/1", "x", 20), 4), 0, "nothing twice");
}

#[test]
fn what_waits_in_memory_in_the_class_background_is_overtaken_by_all_else() {
    for (class, expected) in [
        (Class::Live, ["new", "new", "new", "old"]),
        (Class::Retry, ["new", "new", "new", "old"]),
        (Class::Background, ["old"; 4]),
    ] {
        let queue = queue(LIMITS);
        prove(&queue, "a/1");
        // More than half of its share, which leaves slots all the same.
        assert_eq!(fetch_of(&queue, Class::Background, "a/1", "old", 20), 20);
        let sent = send_all(&queue);
        assert_eq!(fetch_of(&queue, class, "a/1", "new", 3), 3, "{class:?}");
        let next = sent[..4].iter().map(|one| {
            queue.ended(one, &delivered());
            queue.next().unwrap()
        });
        let next: Vec<_> = next.collect();
        assert_eq!(next.iter().map(name).collect::<Vec<_>>(), expected, "{class:?}");
    }
}

#[test]
fn of_two_batches_that_are_partly_sent_when_the_rest_is_dropped_each_is_read_again() {
    let queue = queue(LIMITS);
    prove(&queue, "a/1");
    fetch_of(&queue, Class::Background, "a/1", "old", 10);
    let old = send_all(&queue);
    fetch(&queue, "a/1", "new", 10);
    end_all(&queue, &old);
    let new = send_all(&queue);
    queue.drop_all_unsent();
    queue.begin_read();
    let memory = queue.in_memory(&key("a/1"));
    assert_eq!(memory.partial, Some(Partial::new(&"a/1/new".into(), 5, Class::Live)));
    assert_eq!(
        queue.enqueue(fetched("a/1", "old", 10), 10),
        0,
        "some of it has no recorded result"
    );
    queue.recorded(old.iter());
    let mut rest = fetched("a/1", "new", 10);
    rest.deliveries.drain(..5);
    assert_eq!(queue.enqueue(rest, 10), 5);
    assert_eq!(queue.enqueue(fetched("a/1", "old", 10), 10), 10);
    end_all(&queue, &new);
    assert_eq!(send_all(&queue).iter().map(name).collect::<Vec<_>>(), ["new"; 5]);
}

#[test]
fn what_is_lost_is_dropped_and_what_is_open_is_drained_until_it_is_recorded() {
    let queue = queue(LIMITS);
    prove(&queue, "a/1");
    fetch(&queue, "a/1", "x", 10);
    let sent = send_all(&queue);
    assert_eq!(queue.drain(|_| false), [key("a/1")]);
    assert_eq!(queue.fill().queued, 0);
    for one in &sent {
        queue.ended(one, &delivered());
    }
    assert_eq!(queue.drain(|_| false), [key("a/1")], "results are not recorded yet");
    queue.recorded(sent.iter());
    assert_eq!(queue.drain(|_| false), []);
    assert_eq!(
        queue.fill(),
        Fill {
            capacity: 64,
            ..Fill::default()
        }
    );
}

#[test]
fn what_may_not_begin_leaves_memory() {
    let queue = DeliveryQueue::new(LIMITS, Open(|endpoint| endpoint.organization() != "elsewhere"));
    fetch(&queue, "elsewhere/1", "x", 1);
    assert!(queue.next().is_none());
    assert_eq!(queue.fill().taken, 0);
    fetch(&queue, "here/1", "x", 1);
    assert!(queue.next().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_breaker_is_open_gets_a_probe_a_second() {
    let queue = queue(LIMITS);
    for n in 0..10 {
        assert_eq!(fetch(&queue, "a/1", &n.to_string(), 1), 1, "{n}");
        let sent = queue.next().unwrap();
        queue.ended(&sent, &failed(false));
        queue.recorded([sent].iter());
    }
    assert_eq!(fetch(&queue, "a/1", "probe", 1), 0);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(fetch(&queue, "a/1", "probe", 1), 1);
    let probe = queue.next().unwrap();
    queue.ended(&probe, &delivered());
    queue.recorded([probe].iter());
    assert!(fetch(&queue, "a/1", "more", 30) > 1);
}

#[tokio::test(start_paused = true)]
async fn unsent_deliveries_of_a_stuck_endpoint_give_way() {
    let queue = queue(LIMITS);
    prove(&queue, "a/1");
    fetch(&queue, "a/1", "x", 30);
    let sent = send_all(&queue);
    queue.drop_stuck();
    assert!(queue.fill().queued > 0, "it may still move");
    tokio::time::advance(STUCK).await;
    queue.drop_stuck();
    assert_eq!((queue.fill().queued, queue.fill().taken), (0, sent.len()));
}

#[test]
fn a_batch_whose_results_are_refused_is_left_out_for_a_while() {
    let queue = queue(LIMITS);
    fetch(&queue, "a/1", "x", 1);
    let sent = queue.next().unwrap();
    queue.ended(&sent, &delivered());
    queue.exclude(&key("a/1"), "a/1/x".into(), Duration::from_secs(60));
    queue.recorded([sent].iter());
    let memory = queue.in_memory(&key("a/1"));
    assert_eq!(
        (memory.batches, memory.excluded),
        (vec![], vec!["a/1/x".into()]),
        "nothing of it is in memory"
    );
    assert_eq!(queue.enqueue(fetched("a/1", "x", 1), 5), 0);
    assert_eq!(queue.enqueue(fetched("a/1", "y", 1), 5), 1);
}

/// While its beginning is in memory, it is found by that alone.
#[test]
fn the_rest_of_a_batch_that_is_refused_is_still_known_to_be_there() {
    let no_capacity = |queue: &DeliveryQueue| assert_eq!(queue.enqueue(fetched("b/1", "y", 12), 12), 12);
    for (way, refuse) in [("moved", DeliveryQueue::refuse_reads as fn(&_)), ("full", no_capacity)] {
        let queue = queue(Limits { capacity: 20, ..LIMITS });
        prove(&queue, "a/1");
        assert_eq!(fetch(&queue, "a/1", "x", 20), 8);
        queue.begin_read();
        refuse(&queue);
        let mut rest = fetched("a/1", "x", 20);
        rest.deliveries.drain(..8);
        assert_eq!(queue.enqueue(rest, 4), 0, "{way}");
        let partial = queue.in_memory(&key("a/1")).partial;
        assert_eq!(partial, Some(Partial::new(&"a/1/x".into(), 8, Class::Live)), "{way}");
    }
}

#[test]
fn what_was_being_read_when_endpoints_moved_is_not_enqueued() {
    for moved in [DeliveryQueue::refuse_reads, DeliveryQueue::drop_all_unsent] {
        let queue = queue(LIMITS);
        queue.begin_read();
        moved(&queue);
        assert_eq!(queue.enqueue(fetched("a/1", "y", 1), 5), 0);
        queue.begin_read();
        assert_eq!(queue.enqueue(fetched("a/1", "y", 1), 5), 1);
    }
}

#[test]
fn an_endpoint_with_very_many_batches_whose_results_are_refused_rests() {
    let queue = queue(LIMITS);
    for n in 0..MAX_EXCLUDED {
        assert_eq!(queue.admit(&key("a/1"), 1, &Granted::default()), 1, "{n}");
        let batch = format!("a/1/{n}");
        queue.exclude(&key("a/1"), batch.as_str().into(), Duration::from_secs(60));
        assert!(queue.is_passed_over(&key("a/1"), &batch));
    }
    assert_eq!(queue.admit(&key("a/1"), 1, &Granted::default()), 0);
    assert!(queue.resumes_at(&key("a/1")).is_some(), "it asks again by then");
    assert_eq!(queue.admit(&key("a/2"), 1, &Granted::default()), 1);
}

#[test]
fn thousands_that_are_not_known_to_answer_take_no_share_from_one_that_does() {
    let queue = queue(LIMITS);
    prove(&queue, "a/1");
    let asking: Vec<_> = (1..4_000).map(|n| key(&format!("a/{n}"))).collect();
    let contenders = queue.contenders(&asking);
    let slots = queue.admit(&key("a/1"), contenders, &Granted::default());
    assert_eq!((contenders, slots), (1, 30));
}
