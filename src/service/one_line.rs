//! Text from outside, made safe for a line of a log or a status.

use std::fmt::{self, Write};

use crate::model::stays_in_line;

/// Passes text on with its control characters escaped, the separators and bidirectional ones among them: a line break can't forge a second
/// line, an escape sequence can't reach a terminal, and nothing makes the text around it read otherwise.
pub(super) struct OneLine<W>(pub(super) W);

impl<W: Write> Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if stays_in_line(character) {
                self.0.write_char(character)?;
            } else {
                write!(self.0, "{}", character.escape_default())?;
            }
        }
        Ok(())
    }
}

/// `text` on one line.
pub(crate) fn one_line(text: impl fmt::Display) -> String {
    let mut line = OneLine(String::new());
    // A `Display` that fails leaves what it wrote until then: the best that can be shown.
    let _ = write!(line, "{text}");
    line.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_all_else_stays() {
        assert_eq!(one_line("é ok"), "é ok");
        assert_eq!(one_line("a\nREADY=1\r\n"), r"a\nREADY=1\r\n");
        assert_eq!(one_line("a\u{202e}b\u{2028}c\u{2066}"), r"a\u{202e}b\u{2028}c\u{2066}");
        assert_eq!(one_line("\u{1b}[31mred\u{9b}"), r"\u{1b}[31mred\u{9b}");
    }
}
