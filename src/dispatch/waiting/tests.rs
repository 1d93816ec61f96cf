use std::time::Duration;

use bson::rawdoc;

use super::*;
use crate::dispatch::Limits;
use crate::dispatch::queue::Partial;
use crate::dispatch::queue::testing::Open;
use crate::outbox::document::testing::fetched;

const NOW: DateTime = DateTime::from_millis(1_000);

fn appended(waiting: &Waiting, name: &str, bytes: usize) {
    appended_since(waiting, Instant::now(), name, bytes);
}

fn head(name: &str, open: usize) -> Head {
    Head {
        endpoint: EndpointKey::from_stored("a/1"),
        class: Class::Live,
        due: NOW,
        id: name.into(),
        open,
    }
}

fn key() -> EndpointKey {
    EndpointKey::from_stored("a/1")
}

fn appended_since(waiting: &Waiting, began: Instant, name: &str, bytes: usize) {
    appended_to(waiting, Class::Live, began, name, bytes);
}

fn appended_to(waiting: &Waiting, class: Class, began: Instant, name: &str, bytes: usize) {
    let head = Head {
        class,
        ..head(name, 64)
    };
    waiting.appended(
        vec![(head, rawdoc! { "_id": name, "payload": "x".repeat(bytes) })],
        began,
    );
}

/// From where each batch of the endpoint is read.
fn choose(waiting: &Waiting) -> Vec<&'static str> {
    choose_for(waiting, 64 * 8, false)
}

fn choose_for(waiting: &Waiting, slots: usize, alone: bool) -> Vec<&'static str> {
    choose_beside(waiting, &InMemory::default(), slots, alone)
}

fn choose_beside(waiting: &Waiting, memory: &InMemory, slots: usize, alone: bool) -> Vec<&'static str> {
    let endpoint = EndpointKey::from_stored("a/1");
    let wants = waiting.choose(&endpoint, slots, alone, memory, NOW);
    let from = wants.iter().map(|want| match want {
        Want::Appended { .. } => "memory",
        Want::Batch(_) => "by id",
        Want::Slice { .. } => "in part",
        Want::Next { .. } => "by range",
    });
    from.collect()
}

fn waiting() -> Waiting {
    let limits = Limits {
        capacity: 1024,
        max_in_flight: 256,
        concurrency: 5,
    };
    Waiting::new(DeliveryQueue::new(limits, Open(|_| true)))
}

#[test]
fn what_was_just_appended_is_not_read_again_unless_somebody_may_have_changed_it() {
    let waiting = waiting();
    appended(&waiting, "x", 10);
    assert_eq!(choose(&waiting), ["memory"]);
    appended(&waiting, "y", 10);
    waiting.forget_documents();
    assert_eq!(choose(&waiting), ["by id"]);
}

#[test]
fn what_comes_while_a_read_by_range_finds_no_more_is_asked_for_again() {
    type Comes = fn(&Waiting);
    let ways: [(&str, Comes); 4] = [
        ("another instance's note", |waiting| {
            waiting.queues_may_have_more([(key(), Class::Live)].into_iter())
        }),
        ("of any class", |waiting| waiting.endpoints_may_have_more(vec![key()])),
        ("appended", |waiting| appended(waiting, "x", 10)),
        ("appended, confirmed late", |waiting| {
            appended_since(waiting, Instant::now() - Duration::from_secs(1), "x", 10);
        }),
    ];
    for (way, comes) in ways {
        let waiting = waiting();
        // There was a read before.
        waiting.exhausted(&key(), Class::Live);
        waiting.note_more(&key(), Class::Live);
        assert_eq!(choose(&waiting), ["by range"], "{way}");
        comes(&waiting);
        waiting.exhausted(&key(), Class::Live);
        assert!(choose(&waiting).contains(&"by range"), "{way}");
        // Background deliveries are asked for once the others have ended.
        for _ in 0..2 {
            Class::ALL.iter().for_each(|class| waiting.exhausted(&key(), *class));
            choose(&waiting);
        }
        Class::ALL.iter().for_each(|class| waiting.exhausted(&key(), *class));
        assert!(!choose(&waiting).contains(&"by range"), "{way}");
    }
}

#[test]
fn what_a_read_may_have_found_before_the_commit_was_confirmed_is_read_again() {
    let waiting = waiting();
    let began = Instant::now();
    waiting.exhausted(&EndpointKey::from_stored("a/1"), Class::Live);
    appended_since(&waiting, began, "x", 10);
    assert_eq!(choose(&waiting), ["by range"]);
}

#[test]
fn what_was_appended_in_another_class_meanwhile_is_read_in_that_class() {
    for class in Class::ALL {
        let waiting = waiting();
        let began = Instant::now();
        waiting.exhausted(&EndpointKey::from_stored("a/1"), Class::Live);
        appended_to(&waiting, class, began, "x", 10);
        let wants = waiting.choose(&EndpointKey::from_stored("a/1"), 5, false, &InMemory::default(), NOW);
        assert!(
            matches!(wants[..], [Want::Next { class: asked, .. }] if asked == class),
            "{class:?}: {wants:?}"
        );
    }
}

#[test]
fn batches_that_need_not_be_read_are_bounded_in_bytes() {
    let waiting = waiting();
    for name in ["x", "y", "z"] {
        appended(&waiting, name, 3 << 20);
    }
    assert_eq!(choose(&waiting), ["memory", "memory", "by id"]);
    appended(&waiting, "w", 3 << 20);
    assert_eq!(choose(&waiting), ["memory"], "there is space again");
}

#[test]
fn small_batches_share_the_slots_and_one_that_has_them_is_read_whole() {
    let table: [(usize, bool, &[usize], &[&str]); 7] = [
        (1, true, &[1, 1], &["by id"]),
        (1, true, &[64, 1], &["in part"]),
        (5, false, &[1; 9], &["by id"; 5]),
        (5, false, &[3, 3, 3, 3], &["by id", "by id"]),
        (5, false, &[64, 1], &["in part"]),
        (40, false, &[64, 64], &["by id"]),
        (130, false, &[64, 64, 64], &["by id", "by id"]),
    ];
    for (slots, alone, batches, expected) in table {
        let waiting = waiting();
        let heads = batches.iter().enumerate();
        waiting.add(heads.map(|(n, open)| head(&n.to_string(), *open)).collect());
        assert_eq!(
            choose_for(&waiting, slots, alone),
            expected,
            "{slots} slots: {batches:?}"
        );
    }
}

type Prepare<'a> = &'a dyn Fn(&DeliveryQueue);

#[test]
fn background_deliveries_wait_for_what_is_in_memory_and_not_for_what_is_excluded() {
    let exclude = |queue: &DeliveryQueue| {
        let endpoint = EndpointKey::from_stored("a/1");
        queue.exclude(&endpoint, "a/1/x".into(), Duration::from_secs(60));
    };
    let enqueue = |queue: &DeliveryQueue| {
        assert_eq!(queue.enqueue(fetched("a/1", "x", 1), 1), 1);
    };
    let both = |queue: &DeliveryQueue| {
        enqueue(queue);
        exclude(queue);
    };
    let table: [(&str, Prepare<'_>, &[&str]); 4] = [
        ("nothing", &|_| {}, &["by id"]),
        ("one that is excluded", &exclude, &["by id"]),
        ("one in memory", &enqueue, &[]),
        ("one in memory that is excluded", &both, &[]),
    ];
    for (what, prepare, expected) in table {
        let waiting = waiting();
        prepare(&waiting.queue);
        let background = Head {
            class: Class::Background,
            ..head("y", 64)
        };
        waiting.add(vec![background]);
        let memory = waiting.queue.in_memory(&EndpointKey::from_stored("a/1"));
        assert_eq!(choose_beside(&waiting, &memory, 64, false), expected, "{what}");
    }
}

#[test]
fn neither_what_is_in_memory_nor_what_is_excluded_is_read_again() {
    let waiting = waiting();
    let endpoint = EndpointKey::from_stored("a/1");
    waiting.queue.enqueue(fetched("a/1", "x", 1), 1);
    waiting
        .queue
        .exclude(&endpoint, "a/1/y".into(), Duration::from_secs(60));
    waiting.note_more(&endpoint, Class::Live);
    let memory = waiting.queue.in_memory(&endpoint);
    let wants = waiting.choose(&endpoint, 64, false, &memory, NOW);
    assert!(
        matches!(&wants[..], [Want::Next { except, .. }] if *except == ["a/1/x".into(), "a/1/y".into()]),
        "{wants:?}"
    );
}

#[test]
fn the_rest_of_a_background_batch_waits_for_what_goes_before_it() {
    for (class, expected) in [
        (Class::Background, ["memory", "in part"]),
        (Class::Live, ["in part", "in part"]),
        (Class::Retry, ["in part", "in part"]),
    ] {
        let waiting = waiting();
        let endpoint = EndpointKey::from_stored("a/1");
        let memory = InMemory {
            batches: vec!["a/1/old".into()],
            partial: Some(Partial {
                batch: "a/1/old".into(),
                next: 9,
                class,
            }),
            ..InMemory::default()
        };
        waiting.note_partial(&endpoint, class);
        appended(&waiting, "x", 10);
        let chosen = [(); 2].map(|()| choose_beside(&waiting, &memory, 64, false));
        assert_eq!(chosen.concat(), expected, "{class:?}");
    }
}

#[test]
fn the_rest_of_a_batch_whose_beginning_is_recorded_is_read_before_what_was_appended_since() {
    let waiting = waiting();
    waiting.note_partial(&EndpointKey::from_stored("a/1"), Class::Live);
    appended(&waiting, "x", 10);
    assert_eq!(choose_beside(&waiting, &InMemory::default(), 64, false), ["by range"]);
}

#[test]
fn the_rest_of_a_background_batch_waits_until_its_first_part_is_sent() {
    for (background, expected) in [(9, &[][..]), (1, &[]), (0, &["in part"])] {
        let waiting = waiting();
        let memory = InMemory {
            batches: vec!["a/1/old".into()],
            partial: Some(Partial {
                batch: "a/1/old".into(),
                next: 9,
                class: Class::Background,
            }),
            background,
            ..InMemory::default()
        };
        waiting.note_partial(&EndpointKey::from_stored("a/1"), Class::Background);
        assert_eq!(choose_beside(&waiting, &memory, 64, false), expected, "{background}");
    }
}

#[test]
fn the_rest_of_a_batch_that_left_memory_is_read_with_its_queue() {
    for class in Class::ALL {
        let waiting = waiting();
        let endpoint = EndpointKey::from_stored("a/1");
        waiting.note_partial(&endpoint, class);
        let wants = waiting.choose(&endpoint, 64, false, &InMemory::default(), NOW);
        assert!(
            matches!(&wants[..], [Want::Next { class: of, .. }] if *of == class),
            "{class:?}: {wants:?}"
        );
    }
}

#[test]
fn a_look_has_a_queue_read_by_range_only_where_it_finds_what_is_news() {
    let look = |waiting: &Waiting, id: &str| {
        waiting.queue.begin_look();
        waiting.looked(vec![head(id, 64)], NOW);
        waiting.queue.end_look();
        [choose(waiting), choose(waiting)].concat()
    };
    let known = waiting();
    appended(&known, "x", 10);
    assert_eq!(look(&known, "x"), ["memory"], "it is known");
    assert_eq!(look(&known, "y"), ["by id", "by range"], "another has appended it");

    let moving = waiting();
    for name in ["x", "y", "z"] {
        moving.queue.enqueue(fetched("a/1", name, 1), 1);
        assert!(
            look(&moving, &format!("a/1/{name}")).is_empty(),
            "{name} was not there before"
        );
    }
    assert_eq!(
        look(&moving, "a/1/z"),
        ["by range"; 2],
        "others may wait after one that stays"
    );
}

#[test]
fn what_left_memory_while_a_look_was_under_way_is_no_news() {
    let waiting = waiting();
    waiting.queue.enqueue(fetched("a/1", "x", 1), 1);
    waiting.queue.begin_look();
    let sent = waiting.queue.next().unwrap();
    waiting.queue.recorded([sent].iter());
    waiting.looked(vec![head("a/1/x", 1)], NOW);
    waiting.queue.end_look();
    assert!(choose(&waiting).is_empty());
}

/// More retries than are known one by one: what a read that found none of them due has forgotten is asked for when it is due, whatever
/// else waits.
#[test]
fn retries_that_were_forgotten_before_they_were_due_are_asked_for_then() {
    for beside in [None, Some(Class::Live), Some(Class::Retry)] {
        let waiting = waiting();
        let heads = (0..200).map(|n| Head {
            class: Class::Retry,
            due: DateTime::from_millis(2_000 + n),
            ..head(&n.to_string(), 1)
        });
        waiting.add(heads.collect());
        assert_eq!(choose(&waiting), ["by range"]);
        waiting.exhausted(&key(), Class::Retry);
        let mut times = 0;
        while let Some(due) = waiting.advance(DateTime::from_millis(1_999 + times)) {
            let is_known = beside.map(|class| Head {
                class,
                due: NOW,
                ..head(&format!("beside {times}"), 1)
            });
            waiting.add(is_known.into_iter().collect());
            waiting.advance(due);
            let asks = || waiting.choose(&key(), 8, false, &InMemory::default(), due);
            let is_retry = |want: &Want| {
                matches!(
                    want,
                    Want::Next {
                        class: Class::Retry,
                        ..
                    }
                )
            };
            // What is known goes first.
            assert!(
                asks().iter().any(is_retry) || asks().iter().any(is_retry),
                "{beside:?}: {due}"
            );
            waiting.exhausted(&key(), Class::Retry);
            times += 1;
        }
        assert_eq!(times, 200);
    }
}
