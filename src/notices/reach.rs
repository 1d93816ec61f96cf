//! Whether receivers can be reached at all: while nearly none can, the fault is on this side.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// With fewer organizations nothing can be said.
const LEAST: usize = 5;

/// An organization that was not sent to for this long says nothing.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How often it is judged.
const EVERY: Duration = Duration::from_secs(1);

/// Which organizations could be connected to, by this instance.
#[derive(Debug, Default)]
pub struct Reach {
    organizations: HashMap<String, Seen>,
    judged: Option<Instant>,
    is_lost: bool,
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

    fn is_reached(&self, now: Instant, lately: Duration) -> bool {
        let is_lately = |at: Instant| now.duration_since(at) < lately;
        self.connected >= self.failed || self.connected.is_some_and(is_lately)
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

    /// Whether nearly none can be connected to: of five or more organizations that were sent to within the hour, nine of ten. One of
    /// whose endpoints could be `lately` is reached, whatever has failed since.
    pub fn is_lost(&mut self, lately: Duration, now: Instant) -> bool {
        if self.judged.is_some_and(|at| now.duration_since(at) < EVERY) {
            return self.is_lost;
        }
        self.judged = Some(now);
        let is_recent = |at: Instant| now.duration_since(at) < REMEMBERED;
        self.organizations.retain(|_, seen| seen.last().is_some_and(is_recent));
        let all = self.organizations.len();
        let reached = self
            .organizations
            .values()
            .filter(|seen| seen.is_reached(now, lately))
            .count();
        self.is_lost = all >= LEAST && reached * 10 <= all;
        self.is_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATELY: Duration = Duration::from_secs(300);

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
                reach.is_lost(LATELY, now),
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
            reach.note(&n.to_string(), false, now + EVERY);
        }
        assert!(!reach.is_lost(LATELY, now + EVERY));
        assert!(reach.is_lost(LATELY, now + LATELY * 2));
        reach.note("0", true, now + LATELY * 2);
        assert!(!reach.is_lost(LATELY, now + LATELY * 2 + EVERY), "one of five");
        assert!(
            !reach.is_lost(LATELY, now + REMEMBERED + LATELY * 2),
            "four are forgotten"
        );
    }
}
