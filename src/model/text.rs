//! Text from outside, numbers of things, and durations.

use std::time::Duration;

/// Whether a character can neither break a line nor make the text around it read otherwise: it is no control character, no
/// separator (U+2028, U+2029) and no bidirectional control (UAX #9, 2).
pub(crate) fn stays_in_line(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character shows itself and nothing else: it stays in its line, has a width, and says nothing of how others are shown
/// (Unicode's Default_Ignorable_Code_Point, but for the variation selectors of emoji).
fn is_plain(c: char) -> bool {
    let is_invisible = matches!(c, '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}');
    stays_in_line(c) && !is_invisible
}

/// What came from outside, as text for a terminal or a document: one line in which every character shows itself. Others are written as
/// escapes, `\n` or `\u{1b}`; what is no UTF-8 becomes U+FFFD. At most `most` bytes, cut between two characters or escapes.
pub(crate) fn printable(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        let before = text.len();
        match is_plain(c) {
            true => text.push(c),
            false => text.extend(c.escape_default()),
        }
        if text.len() > most {
            text.truncate(before);
            break;
        }
    }
    text
}

/// `1 delivery`, `2 deliveries`: the noun is the singular.
pub(crate) fn count(number: impl Into<u128>, noun: &str) -> String {
    let number = number.into();
    match noun.strip_suffix('y') {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) if !stem.ends_with('a') => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}

/// `7 days`, `1 day 6 hours`, for customers. Only what is shorter than a second is told in milliseconds.
pub(crate) fn spelled(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [
        (seconds / 86_400, "day"),
        (seconds / 3_600 % 24, "hour"),
        (seconds / 60 % 60, "minute"),
        (seconds % 60, "second"),
    ];
    let parts = units.into_iter().filter(|(number, _)| *number > 0);
    let parts: Vec<_> = parts.map(|(number, unit)| count(number, unit)).collect();
    match parts.is_empty() {
        true => count(duration.as_millis(), "millisecond"),
        false => parts.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_show_itself_is_escaped() {
        for (bytes, shown) in [
            (&b"<b>it's fine</b>"[..], "<b>it's fine</b>"),
            ("é 漢 🎉".as_bytes(), "é 漢 🎉"),
            (b"\x1b[2J\x1b]0;x\x07", r"\u{1b}[2J\u{1b}]0;x\u{7}"),
            ("\u{9b}31m".as_bytes(), r"\u{9b}31m"),
            (b"a\0b\r\nc\td\x7f", r"a\u{0}b\r\nc\td\u{7f}"),
            ("a\u{202e}b\u{2066}c\u{61c}".as_bytes(), r"a\u{202e}b\u{2066}c\u{61c}"),
            (
                "a\u{200b}b\u{feff}c\u{ad}\u{e0041}".as_bytes(),
                r"a\u{200b}b\u{feff}c\u{ad}\u{e0041}",
            ),
            (b"a\xff\xc3(", "a\u{fffd}\u{fffd}("),
        ] {
            assert_eq!(printable(bytes, 100), shown, "{bytes:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_escapes() {
        let escapes = b"\x1b[31m".repeat(10_000);
        assert_eq!(printable(&escapes, 13), r"\u{1b}[31m");
        assert_eq!(printable("ééé".as_bytes(), 5), "éé");
        assert_eq!(printable(&[b'x'; 1024], 1024).len(), 1024);
    }

    #[test]
    fn one_is_singular_and_all_else_plural() {
        for (number, noun, text) in [
            (0_u64, "delivery", "0 deliveries"),
            (1, "delivery", "1 delivery"),
            (2, "delivery", "2 deliveries"),
            (1, "dead letter", "1 dead letter"),
            (11, "dead letter", "11 dead letters"),
            (2, "day", "2 days"),
        ] {
            assert_eq!(count(number, noun), text);
        }
    }

    #[test]
    fn a_duration_is_spelled_in_days_and_less() {
        for (millis, text) in [
            (7 * 86_400_000, "7 days"),
            (31 * 86_400_000, "31 days"),
            (30 * 3_600_000, "1 day 6 hours"),
            (3_600_000, "1 hour"),
            (90_061_999, "1 day 1 hour 1 minute 1 second"),
            (250, "250 milliseconds"),
            (0, "0 milliseconds"),
        ] {
            assert_eq!(spelled(Duration::from_millis(millis)), text);
        }
    }
}
