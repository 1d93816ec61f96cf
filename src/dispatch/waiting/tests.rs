use bson::rawdoc;

use super::*;
use crate::dispatch::Limits;
use crate::dispatch::queue::testing::Open;

const NOW: DateTime = DateTime::from_millis(1_000);

fn appended(waiting: &Waiting, name: &str, bytes: usize) {
    appended_since(waiting, Instant::now(), name, bytes);
}

fn appended_since(waiting: &Waiting, began: Instant, name: &str, bytes: usize) {
    let head = Head {
        endpoint: EndpointKey::from_stored("a/1"),
        class: Class::Live,
        due: NOW,
        id: name.into(),
    };
    waiting.appended(
        vec![(head, rawdoc! { "_id": name, "payload": "x".repeat(bytes) })],
        began,
    );
}

/// From where each batch of the endpoint is read.
fn choose(waiting: &Waiting) -> Vec<&'static str> {
    let endpoint = EndpointKey::from_stored("a/1");
    let wants = waiting.choose(&endpoint, 64 * 8, false, &InMemory::default(), NOW);
    let from = wants.iter().map(|want| match want {
        Want::Appended { .. } => "memory",
        Want::Batch(_) => "by id",
        Want::Slice { .. } | Want::Next { .. } => "otherwise",
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
fn what_a_read_may_have_found_before_the_commit_was_confirmed_is_read_again() {
    let waiting = waiting();
    let began = Instant::now();
    waiting.exhausted(&EndpointKey::from_stored("a/1"), Class::Live);
    appended_since(&waiting, began, "x", 10);
    assert_eq!(choose(&waiting), ["otherwise"]);
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
