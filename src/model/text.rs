//! Text from outside, and numbers of things.

/// Whether a character can neither break a line nor make the text around it read otherwise: it is no control character, no
/// separator (U+2028, U+2029) and no bidirectional control (UAX #9, 2).
pub(crate) fn stays_in_line(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1 delivery`, `2 deliveries`: the noun is the singular.
pub(crate) fn count(number: impl Into<u128>, noun: &str) -> String {
    let number = number.into();
    match noun.strip_suffix('y') {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_else_plural() {
        for (number, noun, text) in [
            (0_u64, "delivery", "0 deliveries"),
            (1, "delivery", "1 delivery"),
            (2, "delivery", "2 deliveries"),
            (1, "dead letter", "1 dead letter"),
            (11, "dead letter", "11 dead letters"),
        ] {
            assert_eq!(count(number, noun), text);
        }
    }
}
