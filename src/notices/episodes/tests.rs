use std::collections::HashMap;

use bson::{Document, doc};

use super::*;
use crate::notices::{Noted, Told};

fn rules() -> Rules {
    Rules {
        failing_after: Duration::from_secs(900),
        suspend_after: Duration::from_secs(432_000),
    }
}

/// An endpoint that is suspended since the epoch.
fn suspended() -> (Episodes, EndpointKey) {
    let since = DateTime::from_millis(0);
    let suspension = doc! { "since": since, "gone": true, "fingerprint": 1_i64 };
    let episode = doc! { "version": 1_i64, "since": since, "failures": 1_i64, "told": true, "suspended": suspension };
    let episodes = Episodes::new(rules());
    episodes.load(&[doc! { "_id": "episode/a/b", "episode": episode }], &HashMap::new());
    (episodes, EndpointKey::from_stored("a/b"))
}

#[test]
fn a_probe_that_was_not_attempted_is_due_at_once() {
    let (episodes, endpoint) = suspended();
    let now = DateTime::from_millis(3_600_000);
    for _ in 0..3 {
        assert_eq!(episodes.begin(&endpoint, now), Begin::Probe);
        assert_eq!(episodes.begin(&endpoint, now), Begin::No);
        episodes.take_back_probe(&endpoint);
        assert_eq!(episodes.suspended(&endpoint, now), Some(true));
    }
}

#[test]
fn that_a_probe_was_not_attempted_is_written_for_the_instance_that_takes_over() {
    let now = DateTime::from_millis(3_600_000);
    // Whether the probe was written when it was taken back, and whether a reply said so.
    for (is_written, is_confirmed) in [(false, false), (true, false), (true, true)] {
        let (episodes, endpoint) = suspended();
        assert_eq!(episodes.begin(&endpoint, now), Begin::Probe);
        let written = is_written.then(|| to_be_written(&episodes, &endpoint));
        if let Some(written) = written.as_ref().filter(|_| is_confirmed) {
            episodes.saved(written, None);
        }
        episodes.take_back_probe(&endpoint);
        if let Some(written) = written.as_ref().filter(|_| !is_confirmed) {
            episodes.saved(written, None);
        }
        let unsaved = episodes.unsaved_of(&episodes.unsaved(|_| true));
        let other = Episodes::new(rules());
        let document = doc! { "_id": "episode/a/b", "episode": unsaved[0].document().unwrap() };
        other.load(&[document], &HashMap::new());
        assert_eq!(
            other.begin(&endpoint, now),
            Begin::Probe,
            "{is_written}, {is_confirmed}"
        );
    }
}

#[test]
fn a_clock_that_was_wrong_keeps_no_suspended_endpoint_from_its_probes() {
    const DAY: i64 = 86_400_000;
    let (at, now) = (DateTime::from_millis, 3_600_000);
    // Since when it is suspended and when it was probed by that clock, and when it is probed by the right one.
    let table = [
        (0, None, now),
        (0, Some(now), 2 * now),
        // Clocks that are right may differ by a little.
        (now + 500, None, 2 * now + 500),
        (0, Some(now + 500), 2 * now + 500),
        (now + DAY, None, now),
        (0, Some(now + DAY), now),
        (now + DAY, Some(now + 2 * DAY), now),
    ];
    for (since, probed_at, next) in table {
        let mut suspension = doc! { "since": at(since), "gone": true, "fingerprint": 1_i64 };
        suspension.extend(probed_at.map(|millis| ("probedAt".to_owned(), at(millis).into())));
        let episode = doc! {
            "version": 1_i64, "since": at(0), "failures": 1_i64, "told": true, "suspended": suspension,
        };
        let (episodes, endpoint) = (Episodes::new(rules()), EndpointKey::from_stored("a/b"));
        episodes.load(&[doc! { "_id": "episode/a/b", "episode": episode }], &HashMap::new());
        let what = format!("since {since}, probed {probed_at:?}");
        assert_eq!(episodes.tick(at(now)), Some(at(next)), "{what}");
        assert_eq!(
            episodes.drain_woken(at(next)),
            std::slice::from_ref(&endpoint),
            "{what}"
        );
        assert_eq!(episodes.begin(&endpoint, at(next)), Begin::Probe, "{what}");
        assert_eq!(episodes.begin(&endpoint, at(next + now - 1)), Begin::No, "{what}");
        assert_eq!(episodes.tick(at(next)), Some(at(next + now)), "{what}: an hour later");
        assert_eq!(episodes.begin(&endpoint, at(next + now)), Begin::Probe, "{what}");
    }
}

/// What the daemon does with what must be written, up to the commit.
fn to_be_written(episodes: &Episodes, endpoint: &EndpointKey) -> Unsaved {
    let mut unsaved = episodes.unsaved_of(std::slice::from_ref(endpoint));
    unsaved.pop().unwrap()
}

fn noted(endpoint: &EndpointKey, unsaved: &Unsaved) -> Noted {
    let document = doc! { "_id": format!("episode/{endpoint}"), "episode": unsaved.document().unwrap() };
    Noted::read(&document).unwrap().1
}

fn gone(at: i64) -> FailedAttempt {
    FailedAttempt {
        at: DateTime::from_millis(at),
        status: Some(410),
        reason: "status 410".into(),
        event: "e".into(),
    }
}

#[test]
fn what_was_written_without_a_reply_takes_back_nothing_that_came_after_it() {
    let at = DateTime::from_millis;
    // What came after it, and whether the endpoint is suspended then.
    for (success, suspended) in [(None, Some(false)), (Some(20), None)] {
        let (episodes, endpoint) = (Episodes::new(rules()), EndpointKey::from_stored("a/c"));
        episodes.failed(&endpoint, gone(10), true, true, 1);
        let written = to_be_written(&episodes, &endpoint);
        success
            .into_iter()
            .for_each(|millis| episodes.succeeded(&endpoint, at(millis)));
        // As the next round reads it, or somebody who has changed something else.
        for _ in 0..2 {
            let found = episodes.reload(&endpoint, Some(noted(&endpoint, &written)));
            assert!(found.is_none_or(|found| found.told.len() == 1));
            assert_eq!(episodes.suspended(&endpoint, at(30)), suspended, "{success:?}");
        }
        assert!(
            !episodes.saved(&written, None),
            "the reply comes after all: it is logged already"
        );
        let left = episodes.unsaved(|_| true);
        assert_eq!(left.len(), success.iter().len(), "the platform is not told twice");
        for unsaved in episodes.unsaved_of(&left) {
            assert_eq!((unsaved.version, unsaved.told.len()), (1, 0));
        }
    }
}

#[test]
fn what_the_platform_must_be_told_is_not_lost_where_somebody_else_writes() {
    let at = DateTime::from_millis;
    let since = at(0);
    let other = |since: DateTime, version: i64| {
        let episode = doc! { "version": version, "since": since, "failures": 1_i64, "told": false };
        Noted::read(&doc! { "_id": "episode/a/b", "episode": episode })
            .unwrap()
            .1
    };
    // What is in the document now, and how many notices are waiting then.
    for (noted, expected) in [(Some(other(since, 3)), 1), (Some(other(at(7), 3)), 0), (None, 0)] {
        let (episodes, endpoint) = suspended();
        let episode = episodes.0.known.lock().detach(&endpoint).unwrap();
        let told = (Told::Failing, episode.clone());
        episodes.0.known.lock().attach(&endpoint, Some(episode), [told], true);
        drop(to_be_written(&episodes, &endpoint));
        let what = format!("{noted:?}");
        assert!(episodes.reload(&endpoint, noted).is_none());
        let unsaved = episodes.unsaved_of(&episodes.unsaved(|_| true));
        let waiting: usize = unsaved.iter().map(|unsaved| unsaved.told.len()).sum();
        assert_eq!(waiting, expected, "{what}");
        for unsaved in unsaved {
            assert!(unsaved.version == 3 && unsaved.episode.unwrap().is_told);
        }
    }
}

#[test]
fn the_platform_is_told_of_no_suspension_that_was_not_written() {
    let at = DateTime::from_millis;
    let episode = |suspended: Option<Document>| {
        let mut episode = doc! { "version": 3_i64, "since": at(10), "failures": 1_i64, "told": true };
        episode.extend(suspended.map(|suspended| ("suspended".to_owned(), suspended.into())));
        doc! { "_id": "episode/a/c", "episode": episode }
    };
    let suspension = |millis: i64| doc! { "since": at(millis), "gone": true, "fingerprint": 1_i64 };
    // The suspension in the document that is there now, and whether the platform is told of this instance's.
    for (written, is_told) in [(None, false), (Some(7), false), (Some(10), true)] {
        let (episodes, endpoint) = (Episodes::new(rules()), EndpointKey::from_stored("a/c"));
        episodes.failed(&endpoint, gone(10), true, true, 1);
        drop(to_be_written(&episodes, &endpoint));
        let noted = Noted::read(&episode(written.map(suspension))).unwrap().1;
        assert!(episodes.reload(&endpoint, Some(noted)).is_none());
        assert_eq!(
            episodes.suspended(&endpoint, at(30)).is_some(),
            written.is_some(),
            "{written:?}"
        );
        let unsaved = episodes.unsaved_of(&episodes.unsaved(|_| true));
        let told = unsaved.iter().flat_map(|unsaved| &unsaved.told);
        let told = told.filter(|(told, _)| matches!(told, Told::Suspended(_))).count();
        assert_eq!(told, usize::from(is_told), "{written:?}");
        // A next failure makes one notice, not two.
        episodes.failed(&endpoint, gone(40), true, true, 1);
        let unsaved = episodes.unsaved_of(&episodes.unsaved(|_| true));
        let told: usize = unsaved.iter().map(|unsaved| unsaved.told.len()).sum();
        assert_eq!(told, usize::from(written != Some(7)), "{written:?}");
    }
}

#[test]
fn a_release_ends_the_suspensions_that_began_before_it_written_or_not() {
    let at = DateTime::from_millis;
    for (released, suspended) in [
        (None, Some(false)),
        (Some(9), Some(false)),
        (Some(10), None),
        (Some(11), None),
    ] {
        let episodes = Episodes::new(rules());
        let endpoint = EndpointKey::from_stored("a/c");
        episodes.failed(&endpoint, gone(10), true, true, 1);
        episodes.released(|_| released.map(at));
        assert_eq!(episodes.suspended(&endpoint, at(30)), suspended, "{released:?}");
    }
}

#[test]
fn what_is_remembered_of_a_gained_endpoint_stays_until_it_is_lost() {
    let (episodes, endpoint) = suspended();
    assert_eq!(episodes.unsaved(|_| false), [], "it is not assigned yet");
    assert!(episodes.suspended(&endpoint, DateTime::from_millis(1)).is_some());
    episodes.forget(|_| true);
    assert_eq!(episodes.suspended(&endpoint, DateTime::from_millis(1)), None);
}

#[test]
fn time_that_does_not_count_is_written_for_the_instance_that_takes_over() {
    let at = DateTime::from_millis;
    let (episodes, endpoint) = suspended();
    let by = Duration::from_secs(60);
    episodes.leave_out(by, |_| false, at(70_000));
    assert_eq!(episodes.unsaved(|_| true), [], "another endpoint");
    episodes.leave_out(by, |_| true, at(70_000));
    let written = to_be_written(&episodes, &endpoint).document().unwrap();
    assert_eq!(written.get_datetime("inARowSince").unwrap(), &at(60_000));
}

#[test]
fn endpoints_are_woken_once_when_a_probe_is_due_and_when_they_are_served_again() {
    let (episodes, endpoint) = suspended();
    let at = DateTime::from_millis;
    let (before, due) = (at(3_599_999), at(3_600_000));
    assert_eq!(episodes.tick(before), Some(due));
    assert_eq!(episodes.drain_woken(before), []);
    assert_eq!(episodes.drain_woken(due), std::slice::from_ref(&endpoint));
    assert_eq!(episodes.drain_woken(due), [], "once");
    episodes.succeeded(&endpoint, due);
    assert_eq!(episodes.drain_woken(due), [endpoint]);
    assert_eq!(
        episodes.tick(due),
        Some(at(3_600_000 + 900_000)),
        "the end of the episode"
    );
}

#[test]
fn an_endpoint_keeps_its_last_hundred_suspensions() {
    let at = DateTime::from_millis;
    let (episodes, endpoint) = suspended();
    episodes.succeeded(&endpoint, at(1));
    let written = to_be_written(&episodes, &endpoint);
    for n in 1..=250 {
        episodes.saved(&written, Some((at(n), at(n + 1))));
        let kept = episodes.suspensions(&endpoint, at(1_000));
        let first = 1.max(n - 99);
        assert_eq!(kept, (first..=n).map(|n| (at(n), at(n + 1))).collect::<Vec<_>>());
    }
}
