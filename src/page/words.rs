//! Times and numbers as people read them, and text from outside made harmless.

use std::time::Duration;

use bson::DateTime;

use crate::model::{printable, stays_in_line};

/// A longer text is cut.
const LONGEST: usize = 200;

/// The same in bytes, where nothing should be cut: a kept response is shorter.
const LONGEST_PLAIN: usize = 8192;

/// `12 s`, `3 min`, `5 h`, `2 d`: rounded down, negative ones are 0 s.
pub(super) fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ ..100 => format!("{s} s"),
        s @ ..6000 => format!("{} min", s / 60),
        s @ ..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// As [`span`] wants them.
pub(super) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// How long ago that was.
pub(super) fn ago(now: DateTime, at: DateTime) -> String {
    format!("{} ago", span(seconds_between(at, now)))
}

/// When that will be; what is past is due.
pub(super) fn until(now: DateTime, at: DateTime) -> String {
    match seconds_between(now, at) {
        left @ 1.. => format!("in {}", span(left)),
        _ => "due".into(),
    }
}

fn seconds_between(from: DateTime, to: DateTime) -> i64 {
    (to.timestamp_millis() - from.timestamp_millis()).div_euclid(1000)
}

/// `2026-11-24 16:02:11`, UTC.
pub(super) fn moment(at: DateTime) -> String {
    let text = at.try_to_rfc3339_string().unwrap_or_default();
    text.chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// With a space between thousands.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// The same for what a database counts.
pub(super) fn count(n: i64) -> String {
    number(u64::try_from(n).unwrap_or(0))
}

/// That many of it: the noun is the singular.
pub(super) fn counted(n: i64, noun: &str) -> String {
    let words = crate::model::count(u64::try_from(n).unwrap_or(0), noun);
    let noun = words.split_once(' ').map_or(noun, |(_, noun)| noun);
    format!("{} {noun}", count(n))
}

/// Text from outside: on one line, in its own direction, and no longer than a cell can take.
pub(super) fn foreign(text: &str) -> String {
    let clean = |c: char| if stays_in_line(c) { c } else { ' ' };
    let mut shown: String = text.chars().take(LONGEST).map(clean).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// The same for what must be read to its last character, such as ids, reasons and responses: what does not show itself is escaped.
pub(super) fn plain(text: &str) -> String {
    printable(text.as_bytes(), LONGEST_PLAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_numbers_read_well() {
        assert_eq!(
            [-5, 99, 100, 7200, 200_000].map(span),
            ["0 s", "99 s", "1 min", "2 h", "2 d"]
        );
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(number),
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!(
            [0, 1, 1000].map(|n| counted(n, "delivery")),
            ["0 deliveries", "1 delivery", "1\u{202f}000 deliveries"]
        );
        let (now, later) = (DateTime::from_millis(0), DateTime::from_millis(61_500));
        assert_eq!(
            (until(now, later), until(later, now), ago(later, now)),
            ("in 61 s".into(), "due".into(), "61 s ago".into())
        );
    }

    #[test]
    fn foreign_text_can_neither_turn_nor_break_nor_fill_the_page() {
        assert_eq!(foreign("a\u{202e}b\n\u{2028}c\u{0}d"), "a b  c d");
        assert_eq!(foreign(&"é".repeat(500)).chars().count(), LONGEST + 1);
    }
}
