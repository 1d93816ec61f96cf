//! Values before they are checked, and how they are shown to the operator.

use std::fmt;

use toml::de::DeValue;

/// A value as the operator wrote it. Has no `Debug`: it may be a secret, and `Display` is what may be shown of it.
pub(super) enum Raw {
    /// A text in the file.
    Text(String),
    /// A text without a type, from the environment or the table of defaults: the key's rule says what it is.
    Untyped(String),
    /// A text that is never shown.
    Secret(String),
    /// A whole number in the file.
    Integer(i64),
    /// `true` or `false` in the file.
    Boolean(bool),
    /// A list in the file.
    List(Vec<Raw>),
    /// What no key takes, described.
    Other(String),
}

impl Raw {
    /// The value as a text. A TOML date counts as one, so that an instant may be written either way.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Untyped(text) | Self::Secret(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a whole number.
    pub(super) fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Untyped(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The value as `true` or `false`.
    pub(super) fn as_boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(*value),
            Self::Untyped(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The value as a list of texts; without types, commas part its elements.
    pub(super) fn as_texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(items) => items.iter().map(Self::as_text).collect(),
            Self::Untyped(text) => Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()),
            _ => None,
        }
    }

    /// The same value without the white space around its text, that `echo` and editors leave, and without a byte order mark.
    pub(super) fn trimmed(self) -> Self {
        let trim = |text: String| {
            let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
            text.to_owned()
        };
        match self {
            Self::Text(text) => Self::Text(trim(text)),
            Self::Untyped(text) => Self::Untyped(trim(text)),
            Self::Secret(text) => Self::Secret(trim(text)),
            other => other,
        }
    }

    /// The same value, its text never shown from now on. An empty text has nothing to hide.
    pub(super) fn hidden(self) -> Self {
        match self {
            Self::Text(text) | Self::Untyped(text) if !text.is_empty() => Self::Secret(text),
            other => other,
        }
    }
}

impl From<&DeValue<'_>> for Raw {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.clone().into_owned()),
            DeValue::Datetime(instant) => Self::Text(instant.to_string()),
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .map_or_else(|_| Self::Other("a number beyond 64 bits".to_owned()), Self::Integer),
            DeValue::Float(digits) => Self::Other(digits.as_str().to_owned()),
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Array(items) => Self::List(items.iter().map(|item| item.get_ref().into()).collect()),
            DeValue::Table(_) => Self::Other("a table".to_owned()),
        }
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Untyped(text) => f.write_str(&shown(text)),
            Self::Secret(text) if text.is_empty() => f.write_str("an empty one"),
            Self::Secret(_) => f.write_str("another text (not shown: it may hold a password)"),
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Other(description) => f.write_str(description),
        }
    }
}

/// A text quoted on one line, cut short. A URI is never shown: one with a password may have been put at a wrong key.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.contains("://") {
        return "a URI (not shown: it may hold a password)".to_owned();
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
