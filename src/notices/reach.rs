//! Whether receivers can be reached at all: while nearly none can, the fault is on this side.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// With fewer organizations nothing can be said.
const MIN_ORGANIZATIONS: usize = 5;

/// An organization that was not sent to for this long says nothing.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// The result is computed at most this often.
const JUDGE_EVERY: Duration = Duration::from_secs(1);

/// Which organizations could be connected to, by this instance.
#[derive(Debug, Default)]
pub struct Reach {
    organizations: HashMap<String, Seen>,
    judged: Option<Instant>,
    is_cut_off: bool,
}

#[derive(Debug, Default)]
struct Seen {
    connected: Option<Instant>,
    failed: Option<Instant>,
}

impl Seen {
    fn last(&self) -> Option<Instant> {
        self.connected.max(self.failed)
    }

    fn is_reached(&self, now: Instant, recent: Duration) -> bool {
        let is_within = |at: Instant| now.duration_since(at) < recent;
        self.connected >= self.failed || self.connected.is_some_and(is_within)
    }
}

impl Reach {
    /// An endpoint of that organization was asked, and could be connected to or not.
    pub fn note(&mut self, organization: &str, is_connected: bool, now: Instant) {
        if !self.organizations.contains_key(organization) {
            self.organizations.insert(organization.to_owned(), Seen::default());
        }
        if let Some(seen) = self.organizations.get_mut(organization) {
            let at = if is_connected {
                &mut seen.connected
            } else {
                &mut seen.failed
            };
            *at = Some(now);
        }
    }

    /// Whether nearly none can be connected to: there were five or more organizations to which something was sent within the hour, and no
    /// connection can be made to nine of ten. An organization counts as reached for the time `recent` after each connection to one of
    /// its endpoints, whatever has failed since. Example: with 10 organizations it is true while at most one is reached.
    pub fn judge_cut_off(&mut self, recent: Duration, now: Instant) -> bool {
        if self.judged.is_some_and(|at| now.duration_since(at) < JUDGE_EVERY) {
            return self.is_cut_off;
        }
        self.judged = Some(now);
        let is_recent = |at: Instant| now.duration_since(at) < REMEMBERED;
        self.organizations.retain(|_, seen| seen.last().is_some_and(is_recent));
        let all = self.organizations.len();
        let reached = self
            .organizations
            .values()
            .filter(|seen| seen.is_reached(now, recent))
            .count();
        self.is_cut_off = all >= MIN_ORGANIZATIONS && reached * 10 <= all;
        self.is_cut_off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECENT: Duration = Duration::from_secs(300);

    #[test]
    fn the_fault_is_ours_while_nine_of_ten_organizations_can_not_be_reached() {
        // Organizations that fail, that connect, and whether the fault is ours.
        let table = [
            (4, 0, false),
            (5, 0, true),
            (9, 1, true),
            (8, 1, false),
            (100, 10, true),
            (100, 12, false),
            (0, 50, false),
        ];
        for (failing, connecting, expected) in table {
            let (mut reach, now) = (Reach::default(), Instant::now());
            for n in 0..failing + connecting {
                // However many endpoints of one organization fail.
                for _ in 0..=n {
                    reach.note(&n.to_string(), n >= failing, now);
                }
            }
            assert_eq!(
                reach.judge_cut_off(RECENT, now),
                expected,
                "{failing} fail, {connecting} connect"
            );
        }
    }

    #[test]
    fn one_that_connected_a_minute_ago_is_reached_and_one_that_did_an_hour_ago_says_nothing() {
        let (mut reach, now) = (Reach::default(), Instant::now());
        for n in 0..5 {
            reach.note(&n.to_string(), true, now);
            reach.note(&n.to_string(), false, now + JUDGE_EVERY);
        }
        assert!(!reach.judge_cut_off(RECENT, now + JUDGE_EVERY));
        assert!(reach.judge_cut_off(RECENT, now + RECENT * 2));
        reach.note("0", true, now + RECENT * 2);
        assert!(
            !reach.judge_cut_off(RECENT, now + RECENT * 2 + JUDGE_EVERY),
            "one of five"
        );
        assert!(
            !reach.judge_cut_off(RECENT, now + REMEMBERED + RECENT * 2),
            "four are forgotten"
        );
    }
}
