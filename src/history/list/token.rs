//! Where a listing goes on.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bson::DateTime;

use super::heads::Head;

/// What comes first, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    Pending,
    Ended,
}

impl Section {
    /// Whether it may hold what is in one of these states.
    pub(super) fn holds(self, states: &[String]) -> bool {
        let is_pending = |state: &String| state == "pending";
        match self {
            Self::Pending => states.iter().any(is_pending),
            Self::Ended => !states.iter().all(is_pending),
        }
    }
}

/// The last delivery of a page: what follows it is the next page. As text it is for this listing alone, and holds what is printed
/// anyway: an `_id` and an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    pub(super) section: Section,
    /// `None`: the section's beginning.
    pub(super) head: Option<Head>,
    /// The delivery's place in the document; `None`: all of it is done with.
    place: Option<usize>,
}

impl After {
    /// `place` is `None` if nothing of that document follows.
    pub(super) fn delivery(section: Section, head: &Head, place: Option<usize>) -> Self {
        Self {
            section,
            head: Some(head.clone()),
            place,
        }
    }

    pub(super) fn document(section: Section, head: Head) -> Self {
        Self {
            section,
            head: Some(head),
            place: None,
        }
    }

    /// Before all that has ended.
    pub(super) fn pending() -> Self {
        Self {
            section: Section::Ended,
            head: None,
            place: None,
        }
    }

    /// Where in that section the next document is.
    pub(super) fn seek(&self, section: Section) -> Option<(&Head, bool)> {
        let head = self.head.as_ref().filter(|_| self.section == section)?;
        Some((head, self.place.is_some()))
    }

    /// The index of the last delivery of that document that is done with.
    pub(super) fn place_in(&self, section: Section, head: &Head) -> Option<usize> {
        let is_it = self.section == section && self.head.as_ref() == Some(head);
        self.place.filter(|_| is_it)
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = match self.section {
            Section::Pending => 'p',
            Section::Ended => 'e',
        };
        let place = self.place.map_or_else(String::new, |place| place.to_string());
        let text = match &self.head {
            Some(head) => format!("{section}.{place}.{}.{}", head.at.timestamp_millis(), head.id),
            None => section.to_string(),
        };
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

impl FromStr for After {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let decoded = URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        decoded
            .and_then(|text| parse(&text))
            .ok_or("expected what `certhookd deliveries` printed at the end of a page")
    }
}

fn parse(text: &str) -> Option<After> {
    let section = match text.chars().next()? {
        'p' => Section::Pending,
        'e' => Section::Ended,
        _ => return None,
    };
    if text.len() == 1 {
        return Some(After {
            section,
            head: None,
            place: None,
        });
    }
    let mut parts = text[1..].strip_prefix('.')?.splitn(3, '.');
    let (place, at, id) = (parts.next()?, parts.next()?, parts.next()?);
    let place = if place.is_empty() {
        None
    } else {
        Some(place.parse().ok()?)
    };
    let head = Head {
        at: DateTime::from_millis(at.parse().ok()?),
        id: id.to_owned(),
    };
    Some(After {
        section,
        head: Some(head),
        place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_printed_is_read_again_and_nothing_else() {
        let head = Head {
            at: DateTime::from_millis(-5),
            id: "o/e/certificate_expired_a.b_1".into(),
        };
        for after in [
            After::delivery(Section::Pending, &head, Some(7)),
            After::delivery(Section::Ended, &head, None),
            After::document(Section::Ended, head.clone()),
            After::pending(),
        ] {
            assert_eq!(after.to_string().parse(), Ok(after));
        }
        for odd in [
            "",
            "x",
            "é",
            "cC4",
            &URL_SAFE_NO_PAD.encode("p.x.1.a"),
            &URL_SAFE_NO_PAD.encode("e..b.a"),
        ] {
            assert!(odd.parse::<After>().is_err(), "{odd}");
        }
    }
}
