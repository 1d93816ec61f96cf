//! Text from outside.

/// Whether a character can neither break a line nor make the text around it read otherwise: it is no control character, no
/// separator (U+2028, U+2029) and no bidirectional control (UAX #9, 2).
pub(crate) fn stays_in_line(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
