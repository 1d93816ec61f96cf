//! The last hour as bars, a minute each.

use bson::DateTime;
use serde::Serialize;

use super::words::{moment, number};
use crate::metrics::{MINUTES, Minute};

/// The height of the highest bar.
const HEIGHT: u64 = 96;

/// From one bar to the next.
const STEP: i64 = 12;

#[derive(Debug, Serialize)]
pub(super) struct Picture {
    /// The most in one minute, shown by the highest bar.
    highest: String,
    bars: Vec<Bar>,
}

/// A minute. Lengths in units of the picture.
#[derive(Debug, Serialize)]
struct Bar {
    x: i64,
    delivered: u64,
    failed: u64,
    /// Where each begins, from the top.
    delivered_y: u64,
    failed_y: u64,
    says: String,
}

impl Picture {
    /// Shows the hour that ends with `now`.
    pub(super) fn of(minutes: &[Minute], now: DateTime) -> Self {
        let first = now.timestamp_millis().div_euclid(60_000) - MINUTES + 1;
        let highest = minutes
            .iter()
            .map(|minute| minute.delivered + minute.failed)
            .max()
            .unwrap_or(0);
        let some = |minute: &&Minute| minute.number >= first && minute.delivered + minute.failed > 0;
        let bars = minutes.iter().filter(some);
        Self {
            highest: number(highest),
            bars: bars
                .map(|minute| bar(minute, (minute.number - first) * STEP, highest))
                .collect(),
        }
    }
}

/// At least 1 where something happened, so that one failure among thousands is seen.
fn bar(minute: &Minute, x: i64, highest: u64) -> Bar {
    let length = |n: u64| (n * HEIGHT / highest.max(1)).max(u64::from(n > 0));
    let (failed, delivered) = (length(minute.failed), length(minute.delivered));
    let at = moment(DateTime::from_millis(minute.number * 60_000));
    Bar {
        x,
        delivered,
        failed,
        delivered_y: HEIGHT.saturating_sub(delivered),
        failed_y: HEIGHT.saturating_sub(delivered + failed),
        says: format!(
            "{}: {} delivered, {} failed attempts",
            at.get(11..16).unwrap_or_default(),
            number(minute.delivered),
            number(minute.failed)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_high_as_its_share_of_the_highest_and_never_vanishes() {
        let minute = |number, delivered, failed| Minute {
            number,
            delivered,
            failed,
        };
        let now = DateTime::from_millis(100 * 60_000);
        let picture = Picture::of(
            &[
                minute(40, 9, 9),
                minute(41, 0, 0),
                minute(90, 5000, 1),
                minute(100, 0, 2500),
            ],
            now,
        );
        let bars: Vec<_> = picture
            .bars
            .iter()
            .map(|bar| (bar.x, bar.delivered, bar.failed))
            .collect();
        assert_eq!(bars, [(49 * STEP, 95, 1), (59 * STEP, 0, 47)]);
        assert_eq!((picture.bars[0].failed_y, picture.bars[0].delivered_y), (0, 1));
    }
}
