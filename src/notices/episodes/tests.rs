use bson::doc;

use super::*;

/// An endpoint that is suspended since the epoch.
fn suspended() -> (Episodes, EndpointKey) {
    let since = DateTime::from_millis(0);
    let suspension = doc! { "since": since, "gone": true, "fingerprint": 1_i64 };
    let episode = doc! { "version": 1_i64, "since": since, "failures": 1_i64, "suspended": suspension };
    let episodes = Episodes::new(Rules {
        failing_after: Duration::from_secs(900),
        suspend_after: Duration::from_secs(432_000),
    });
    episodes.load(
        &[doc! { "_id": "episode/a/b", "episode": episode }],
        &HashMap::new(),
        |_| true,
    );
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
