//! How long to leave alone what MongoDB refuses: a minute, doubling to an hour.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(60);

const LONGEST: Duration = Duration::from_secs(3600);

/// This many are remembered; beyond that the one whose pause ends first is forgotten.
const REMEMBERED: usize = 1_000;

/// What was refused, and until when it is left alone. Searched one by one: as a rule it is empty.
#[derive(Clone, Debug)]
pub struct Pauses<K>(Vec<Refused<K>>);

#[derive(Clone, Debug)]
struct Refused<K> {
    key: K,
    pause: Duration,
    until: Instant,
}

impl<K> Default for Pauses<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq> Pauses<K> {
    /// It was refused at `now`: how long it is left alone. Refused again meanwhile, the pause stays as it is.
    pub fn refused(&mut self, key: K, now: Instant) -> Duration {
        // What was not refused again is solved, or no longer exists.
        self.0.retain(|one| now < one.until + LONGEST);
        if let Some(known) = self.0.iter_mut().find(|one| one.key == key) {
            if known.until <= now {
                known.pause = (known.pause * 2).min(LONGEST);
                known.until = now + known.pause;
            }
            return known.until - now;
        }
        if self.0.len() >= REMEMBERED
            && let Some(first) = (0..self.0.len()).min_by_key(|index| self.0[*index].until)
        {
            self.0.swap_remove(first);
        }
        self.0.push(Refused {
            key,
            pause: FIRST,
            until: now + FIRST,
        });
        FIRST
    }

    /// Whether nothing was refused lately.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// It is not refused any more.
    pub fn accepted(&mut self, key: &K) {
        self.0.retain(|one| one.key != *key);
    }

    /// What is left alone at `now`.
    pub fn at(&self, now: Instant) -> impl Iterator<Item = &K> {
        self.0.iter().filter(move |one| now < one.until).map(|one| &one.key)
    }

    /// Whether it is left alone at `now`.
    pub fn has(&self, key: &K, now: Instant) -> bool {
        self.at(now).any(|one| one == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_from_a_minute_to_an_hour_until_it_is_accepted() {
        let mut pauses = Pauses::default();
        let mut now = Instant::now();
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = pauses.refused("x", now);
            assert_eq!(pause, Duration::from_secs(minutes * 60));
            let half = now + pause / 2;
            assert!(pauses.has(&"x", half));
            assert_eq!(pauses.refused("x", half), pause / 2, "meanwhile");
            now += pause;
            assert!(!pauses.has(&"x", now));
        }
        pauses.accepted(&"x");
        assert_eq!(pauses.refused("x", now), FIRST);
    }

    #[test]
    fn no_more_than_a_thousand_are_remembered_and_none_for_ever() {
        let mut pauses = Pauses::default();
        let now = Instant::now();
        for n in 0..1_500_u32 {
            pauses.refused(n, now + Duration::from_millis(n.into()));
        }
        let then = now + Duration::from_secs(2);
        assert_eq!(pauses.at(then).count(), REMEMBERED);
        assert!(pauses.has(&1_499, then) && !pauses.has(&0, then));
        pauses.refused(0, then + FIRST + LONGEST);
        assert_eq!(pauses.0.len(), 1);
    }
}
