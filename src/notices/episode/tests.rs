use super::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

const RULES: Rules = Rules {
    failing_after: Duration::from_secs(15 * 60),
    suspend_after: Duration::from_secs(5 * 24 * 3600),
};

/// An endpoint, and what the platform was told of it, each with the minute.
#[derive(Default)]
struct Endpoint {
    episode: Option<Episode>,
    told: Vec<(i64, &'static str)>,
}

impl Endpoint {
    fn tell(&mut self, at: i64, told: impl IntoIterator<Item = Told>) {
        for one in told {
            let name = match one {
                Told::Failing => "failing",
                Told::Suspended(Suspension { is_gone: true, .. }) => "gone",
                Told::Suspended(_) => "suspended",
                Told::Recovered => "recovered",
            };
            self.told.push((at / MINUTE, name));
        }
    }

    fn fails_with(&mut self, at: i64, status: u16) {
        self.passes(at);
        let attempt = FailedAttempt {
            at: DateTime::from_millis(at),
            status: Some(status),
            reason: format!("status {status}"),
            event: "e".into(),
        };
        let (episode, told) = failed(self.episode.take(), attempt, status == 410, 7, &RULES);
        self.episode = Some(episode);
        self.tell(at, told);
    }

    /// Once in every `step` from `from` until before `to`.
    fn fails(&mut self, from: i64, to: i64, step: i64) {
        let mut at = from;
        while at < to {
            self.fails_with(at, 500);
            at += step;
        }
    }

    fn succeeds(&mut self, at: i64) {
        self.passes(at);
        if let Some(episode) = self.episode.take() {
            let (episode, told) = succeeded(episode, DateTime::from_millis(at), &RULES);
            self.episode = episode;
            self.tell(at, told);
        }
    }

    /// Time passes until then.
    fn passes(&mut self, to: i64) {
        let Some(end) = self.episode.as_ref().and_then(|episode| episode.ends_at(&RULES)) else {
            return;
        };
        if end.timestamp_millis() <= to
            && let Some(episode) = self.episode.take()
        {
            let (episode, told) = recovered(episode, end, &RULES);
            self.episode = episode;
            self.tell(end.timestamp_millis(), told);
        }
    }

    fn is_suspended(&self) -> bool {
        self.episode.as_ref().is_some_and(|episode| episode.suspended.is_some())
    }
}

#[test]
fn the_example_of_the_module() {
    let mut endpoint = Endpoint::default();
    let ten = 10 * HOUR;
    endpoint.fails(ten, ten + 20 * MINUTE, MINUTE);
    endpoint.succeeds(ten + 20 * MINUTE);
    endpoint.fails(ten + 25 * MINUTE, ten + 41 * MINUTE, MINUTE);
    endpoint.succeeds(ten + 41 * MINUTE);
    endpoint.passes(ten + HOUR);
    assert_eq!(endpoint.told, [(615, "failing"), (656, "recovered")]);
    assert_eq!(endpoint.episode, None);
}

#[test]
fn neither_a_short_time_nor_few_failures_are_told_of() {
    // How long it fails, and how often, in minutes.
    for (time, step) in [(14, 1), (1, 1), (60, 10), (24 * 60, 160)] {
        let mut endpoint = Endpoint::default();
        endpoint.fails(0, time * MINUTE, step * MINUTE);
        endpoint.succeeds(time * MINUTE);
        assert_eq!(endpoint.told, [], "{time} minutes, every {step}");
        assert_eq!(endpoint.episode, None);
    }
}

/// It flaps for a day, dies, is suspended, gets another document, answers, is gone.
#[test]
fn ten_days_of_an_endpoint() {
    let mut endpoint = Endpoint::default();
    for minute in (0..24 * 60).step_by(30) {
        endpoint.fails(minute * MINUTE, (minute + 20) * MINUTE, MINUTE);
        endpoint.succeeds((minute + 20) * MINUTE);
    }
    assert_eq!(endpoint.told, [(15, "failing")], "one episode however it flaps");
    endpoint.passes(DAY + HOUR);
    assert_eq!(endpoint.told.pop(), Some((24 * 60 + 5, "recovered")));

    endpoint.told.clear();
    endpoint.fails(2 * DAY, 7 * DAY + HOUR, MINUTE);
    assert_eq!(endpoint.told, [(2880 + 15, "failing"), (7 * 1440, "suspended")]);
    // Probes.
    endpoint.fails(7 * DAY + 2 * HOUR, 8 * DAY, HOUR);
    assert_eq!(endpoint.told.len(), 2, "told once");
    assert!(endpoint.is_suspended());

    endpoint.told.clear();
    let changed = DateTime::from_millis(8 * DAY);
    endpoint.episode = endpoint.episode.take().and_then(|episode| restarted(episode, changed));
    assert!(!endpoint.is_suspended(), "its document has changed");
    endpoint.fails(8 * DAY, 8 * DAY + HOUR, MINUTE);
    assert!(!endpoint.is_suspended(), "it is judged anew");
    endpoint.succeeds(8 * DAY + HOUR);
    endpoint.succeeds(8 * DAY + HOUR + MINUTE);
    assert_eq!(endpoint.episode.as_ref().unwrap().delivered, 2);
    endpoint.passes(9 * DAY);
    assert_eq!(endpoint.told, [(8 * 1440 + 75, "recovered")]);

    endpoint.told.clear();
    endpoint.fails_with(9 * DAY, 410);
    endpoint.fails_with(9 * DAY + HOUR, 410);
    assert!(endpoint.is_suspended());
    endpoint.succeeds(9 * DAY + 2 * HOUR);
    assert!(!endpoint.is_suspended(), "a success ends it");
    endpoint.passes(10 * DAY);
    assert_eq!(endpoint.told, [(9 * 1440, "gone"), (9 * 1440 + 135, "recovered")]);
}

#[test]
fn a_long_silence_is_no_long_time_of_failures_once_it_has_answered() {
    let mut endpoint = Endpoint::default();
    endpoint.fails(0, 20 * MINUTE, MINUTE);
    endpoint.succeeds(20 * MINUTE);
    endpoint.fails(6 * DAY, 6 * DAY + 10 * MINUTE, MINUTE);
    assert!(!endpoint.is_suspended());
}

#[test]
fn while_the_fault_is_ours_nobody_is_told_and_no_time_passes() {
    let mut endpoint = Endpoint::default();
    let ours = |endpoint: &mut Endpoint, at: i64| {
        let episode = endpoint.episode.take();
        endpoint.episode = episode.and_then(|episode| failed_by_us(episode, DateTime::from_millis(at)));
    };
    endpoint.fails(0, 10 * MINUTE, MINUTE);
    ours(&mut endpoint, 12 * MINUTE);
    assert_eq!(endpoint.episode, None, "what was not told is forgotten");
    endpoint.fails(13 * MINUTE, 20 * MINUTE, MINUTE / 2);
    assert_eq!(endpoint.told, []);
    endpoint.fails(20 * MINUTE, 5 * DAY - HOUR, MINUTE);
    ours(&mut endpoint, 5 * DAY - HOUR);
    endpoint.fails(5 * DAY - MINUTE, 6 * DAY, MINUTE);
    assert_eq!(endpoint.told, [(28, "failing")], "the five days begin anew");
    endpoint.fails(6 * DAY, 10 * DAY + HOUR, MINUTE);
    assert!(endpoint.is_suspended());
    ours(&mut endpoint, 11 * DAY);
    assert!(endpoint.is_suspended(), "its probe says nothing");
}

#[test]
fn a_clock_that_was_wrong_delays_no_notice() {
    // How far the clock was ahead, in minutes, while the endpoint failed first, and later answered first.
    for ahead in [1, 60, 24 * 60] {
        let mut endpoint = Endpoint::default();
        endpoint.fails_with(ahead * MINUTE, 500);
        endpoint.fails(MINUTE, 30 * MINUTE, MINUTE);
        assert_eq!(endpoint.told, [(16, "failing")], "{ahead}");
        let episode = endpoint.episode.as_mut().unwrap();
        (episode.in_a_row, episode.suspended) = (0, None);
        episode.well_since = Some(DateTime::from_millis((30 + ahead) * MINUTE));
        endpoint.succeeds(30 * MINUTE);
        endpoint.passes(HOUR);
        assert_eq!(endpoint.told.last(), Some(&(45, "recovered")), "{ahead}");
    }
}

#[test]
fn a_time_in_which_it_could_not_be_sent_to_does_not_count() {
    // How long the proxy was unavailable, in minutes, and when the platform is told.
    for (outage, told) in [(0, 15), (1, 16), (60, 75)] {
        let mut endpoint = Endpoint::default();
        endpoint.fails(0, 6 * MINUTE, MINUTE / 2);
        let now = DateTime::from_millis((6 + outage) * MINUTE);
        let by = Duration::from_secs(outage.unsigned_abs() * 60);
        endpoint.episode = endpoint.episode.map(|episode| postponed(episode, by, now));
        endpoint.fails((6 + outage) * MINUTE, 90 * MINUTE, MINUTE);
        assert_eq!(endpoint.told, [(told, "failing")], "{outage}");
    }
}

#[test]
fn judged_anew_it_is_not_well_because_it_was_before_it_failed_again() {
    // How it fails after a success.
    let table: [(&str, i64, u16); 3] = [
        ("a 410", 1, 410),
        ("a few failures", 5, 500),
        ("nothing but failures", 20, 500),
    ];
    for (what, failures, status) in table {
        let mut endpoint = Endpoint::default();
        endpoint.fails(0, 20 * MINUTE, MINUTE);
        endpoint.succeeds(20 * MINUTE);
        for n in 1..=failures {
            endpoint.fails_with((20 + n) * MINUTE, status);
        }
        let changed = (21 + failures) * MINUTE;
        let episode = endpoint.episode.take();
        endpoint.episode = episode.and_then(|episode| restarted(episode, DateTime::from_millis(changed)));
        endpoint.told.clear();
        endpoint.passes(changed + HOUR);
        assert_eq!(endpoint.told, [], "{what}: no success since");
        endpoint.succeeds(changed + HOUR);
        endpoint.passes(changed + 2 * HOUR);
        assert_eq!(endpoint.told, [(changed / MINUTE + 75, "recovered")], "{what}");
    }
}
