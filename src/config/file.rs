//! The file's layer: TOML, with the line of everything.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::Fault;
use super::nearest::{nearest, nearest_key};
use super::raw::Raw;
use super::schema::{SECTIONS, keys};
use super::settings::Settings;

/// Adds what the file at `path` says. Returns whether it could be read and parsed: if not, nothing is known of its values.
pub(super) fn merge(path: &Path, settings: &mut Settings) -> bool {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => File {
            path: &name,
            text: &text,
        }
        .merge(settings),
        Err(error) => {
            let problem = format!("expected a readable file: {error}");
            settings.faults.push(Fault::new(&name, problem, None));
            false
        }
    }
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn merge(&self, settings: &mut Settings) -> bool {
        let (document, mut errors) = DeTable::parse_recoverable(self.text);
        errors.sort_by_key(|error| error.span().unwrap_or_default().start);
        for error in &errors {
            // The message alone: the error's Display quotes the line, which may hold a password.
            let problem = format!("expected TOML: {}", error.message());
            let origin = self.origin(&error.span().unwrap_or_default());
            settings.faults.push(Fault::new(self.path, problem, Some(origin)));
        }
        if !errors.is_empty() {
            return false;
        }
        for (name, value) in document.get_ref() {
            self.merge_section(name.get_ref(), &name.span(), value, settings);
        }
        true
    }

    fn merge_section(&self, section: &str, at: &Range<usize>, value: &Spanned<DeValue<'_>>, settings: &mut Settings) {
        let known = SECTIONS.contains(&section);
        let origin = self.origin(at);
        let fault = match value.get_ref() {
            DeValue::Table(table) if known => return self.merge_keys(section, table, settings),
            DeValue::Table(_) => {
                let hint = nearest(section, SECTIONS.into_iter(), |name| name);
                Fault::unknown(section, "a section", hint, origin)
            }
            other if known => {
                let problem = format!("expected a section, found {}", Raw::from(other));
                Fault::new(section, problem, Some(origin))
            }
            _ => Fault::unknown(section, "a key in a section", nearest_key(section), origin),
        };
        settings.faults.push(fault);
    }

    fn merge_keys(&self, section: &str, table: &DeTable<'_>, settings: &mut Settings) {
        for (name, value) in table {
            let full = format!("{section}.{}", name.get_ref());
            let origin = self.origin(&name.span());
            match keys().find(|key| *key == full) {
                Some(key) => settings.give(key, value.get_ref().into(), origin),
                None => {
                    let hint = nearest_key(name.get_ref());
                    settings.faults.push(Fault::unknown(&full, "a key", hint, origin));
                }
            }
        }
    }

    /// `path:line` of what begins at `at`.
    fn origin(&self, at: &Range<usize>) -> String {
        let line = 1 + self.text.bytes().take(at.start).filter(|byte| *byte == b'\n').count();
        format!("{}:{line}", self.path)
    }
}
