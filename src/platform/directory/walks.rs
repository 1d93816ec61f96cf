//! How often the whole collection may be read.

use std::time::Duration;

use tokio::time::Instant;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Paces the reading of a whole collection, the dearest remedy: at once if the last time was long ago, else after a pause that
/// doubles from 1 s to 30 s. With a stream that breaks at once, every time: at 0, 1, 3, 7, 15, 31, 61, 91 s.
#[derive(Debug, Default)]
pub(super) struct Walks {
    last: Option<Instant>,
    pause: Duration,
}

impl Walks {
    /// When the next may begin.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| now.max(last + self.pause))
    }

    /// One began.
    pub(super) fn began(&mut self, now: Instant) {
        let is_calm = self.last.is_none_or(|last| now > last + 2 * self.pause.max(SHORTEST));
        self.pause = if is_calm {
            SHORTEST
        } else {
            (2 * self.pause).min(LONGEST)
        };
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds at which walks begin if each is wanted that long after the one before.
    fn begun(wanted_after: &[u64]) -> Vec<u64> {
        let (start, mut walks) = (Instant::now(), Walks::default());
        let mut now = start;
        let mut begun = Vec::new();
        for seconds in wanted_after {
            now = walks.next(now + Duration::from_secs(*seconds));
            walks.began(now);
            begun.push((now - start).as_secs());
        }
        begun
    }

    #[test]
    fn walks_that_follow_each_other_are_paced_and_others_begin_at_once() {
        assert_eq!(begun(&[0; 8]), [0, 1, 3, 7, 15, 31, 61, 91]);
        assert_eq!(begun(&[0, 3, 3, 3]), [0, 3, 6, 9], "calm");
        assert_eq!(begun(&[0, 0, 0, 0, 100, 0]), [0, 1, 3, 7, 107, 108], "calm again");
    }
}
