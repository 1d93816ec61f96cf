//! Periods that don't count: a dead letter does not grow older while its endpoint is held.

use std::time::Duration;

use bson::{Bson, DateTime, Document};

/// From one instant to another.
pub type Period = (DateTime, DateTime);

/// What is written down of periods: a list of `{ at, until }`. What is neither is left out.
pub fn read_periods(document: &Document, field: &str) -> Vec<Period> {
    let period = |one: &Bson| {
        let one = one.as_document()?;
        Some((*one.get_datetime("at").ok()?, *one.get_datetime("until").ok()?))
    };
    let periods = document.get_array(field);
    periods.into_iter().flatten().filter_map(period).collect()
}

/// The instant since which, up to `now`, that much time has passed beside the `periods` that don't count.
///
/// `since = now - time - what lies between since and now of the periods`. Example: with 7 days to count and a hold from 10 to 4 days ago, it
/// is 4 days back to the end of the hold, and the other 3 lie before its beginning: 13 days ago.
pub fn counted_back(now: DateTime, time: Duration, periods: &[Period]) -> DateTime {
    let mut left = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let mut at = now.timestamp_millis();
    for (from, to) in latest_first(periods) {
        // Periods may overlap, and a clock may have been wrong.
        let counted = at.saturating_sub(to).max(0);
        if counted >= left {
            break;
        }
        left -= counted;
        at = at.min(from);
    }
    DateTime::from_millis(at.saturating_sub(left))
}

/// How much of the `periods` lies between two instants.
pub fn uncounted(from: DateTime, to: DateTime, periods: &[Period]) -> Duration {
    let (from, mut at) = (from.timestamp_millis(), to.timestamp_millis());
    let mut sum = 0_i64;
    for (begin, end) in latest_first(periods) {
        sum = sum.saturating_add(end.min(at).saturating_sub(begin.max(from)).max(0));
        at = at.min(begin);
    }
    Duration::from_millis(u64::try_from(sum).unwrap_or(0))
}

fn latest_first(periods: &[Period]) -> Vec<(i64, i64)> {
    let millis = periods
        .iter()
        .map(|(from, to)| (from.timestamp_millis(), to.timestamp_millis()));
    let mut periods: Vec<_> = millis.filter(|(from, to)| from < to).collect();
    periods.sort_unstable_by_key(|(from, to)| std::cmp::Reverse((*to, *from)));
    periods
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> DateTime {
        DateTime::from_millis(seconds * 1000)
    }

    fn period((from, to): (i64, i64)) -> Period {
        (at(from), at(to))
    }

    #[test]
    fn what_lies_in_a_period_is_passed_over() {
        // The periods, and since when ten seconds have passed at 100.
        let table: [(&[(i64, i64)], i64); 9] = [
            (&[], 90),
            (&[(50, 60)], 90),
            (&[(92, 95)], 87),
            (&[(92, 95), (94, 97)], 85),
            (&[(94, 97), (92, 95)], 85),
            (&[(92, 99), (94, 97)], 83),
            (&[(0, 95)], -5),
            (&[(80, 100)], 70),
            (&[(95, 92), (97, 97)], 90),
        ];
        for (periods, expected) in table {
            let periods: Vec<_> = periods.iter().copied().map(period).collect();
            let since = counted_back(at(100), Duration::from_secs(10), &periods);
            assert_eq!(since, at(expected), "{periods:?}");
        }
    }

    proptest! {
        #[test]
        fn counting_back_and_counting_agree(
            periods in prop::collection::vec((-500_i64..100, -500_i64..100), 0..6), time in 0_u64..300,
        ) {
            let periods: Vec<_> = periods.into_iter().map(period).collect();
            let since = counted_back(at(100), Duration::from_secs(time), &periods);
            let passed = 100 - since.timestamp_millis() / 1000;
            let counted = passed - uncounted(since, at(100), &periods).as_secs().cast_signed();
            prop_assert_eq!(counted, time.cast_signed());
        }
    }
}
