//! How often the whole collection may be read.

use std::time::Duration;

use tokio::time::Instant;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// When the whole collection may be read, which costs most: at once if the last time was long ago, else after a pause that
/// doubles from 1 s to 30 s. Example: a stream that breaks every time as soon as it is opened has all read at 0, 1, 3, 7, 15, 31, 61, 91 s.
#[derive(Debug, Default)]
pub(super) struct FullReads {
    last: Option<Instant>,
    pause: Duration,
}

impl FullReads {
    /// When the next reading may begin.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| now.max(last + self.pause))
    }

    /// A reading begins.
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

    /// The seconds at which readings begin if each is wanted that long after the one before.
    fn begun(wanted_after: &[u64]) -> Vec<u64> {
        let start = Instant::now();
        let mut reads = FullReads::default();
        let mut now = start;
        let mut begun = Vec::new();
        for seconds in wanted_after {
            now = reads.next(now + Duration::from_secs(*seconds));
            reads.began(now);
            begun.push((now - start).as_secs());
        }
        begun
    }

    #[test]
    fn readings_that_follow_each_other_wait_and_others_begin_at_once() {
        assert_eq!(begun(&[0; 8]), [0, 1, 3, 7, 15, 31, 61, 91]);
        assert_eq!(begun(&[0, 3, 3, 3]), [0, 3, 6, 9], "calm");
        assert_eq!(begun(&[0, 0, 0, 0, 100, 0]), [0, 1, 3, 7, 107, 108], "calm again");
    }
}
