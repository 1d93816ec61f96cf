//! What an endpoint is subscribed to.

use std::collections::BTreeSet;

use super::field::{Fields, type_name, wrong_type};
use crate::model::EventType;

/// Unknown types that are named, per endpoint.
const NAMED: usize = 10;

/// This many characters are shown of an unknown type's name.
const SHOWN: usize = 60;

/// The known types among `eventTypes`, each once; case and blanks at the ends don't matter. `changes` names the unknown ones.
pub(super) fn read(endpoint: &Fields<'_>, changes: &mut Vec<String>) -> Result<Vec<EventType>, String> {
    let Some(value) = endpoint.present("eventTypes")? else {
        return Ok(Vec::new());
    };
    let names = value
        .as_array()
        .ok_or_else(|| wrong_type("eventTypes", value, "an array of strings"))?;
    let mut types = Vec::new();
    let mut unknown = Unknown::default();
    for name in names {
        let name = name.map_err(|_| "`eventTypes` is not valid BSON")?;
        let Some(text) = name.as_str() else {
            unknown.no_strings.insert(type_name(name));
            continue;
        };
        let text = text.trim();
        match EventType::ALL
            .into_iter()
            .find(|t| t.as_str().eq_ignore_ascii_case(text))
        {
            Some(known) if !types.contains(&known) => types.push(known),
            Some(_) => {}
            None => unknown.add(text),
        }
    }
    unknown.add_to(changes);
    Ok(types)
}

/// Each unknown type once, the first [`NAMED`] of them: there may be a million.
#[derive(Default)]
struct Unknown {
    names: Vec<String>,
    no_strings: BTreeSet<&'static str>,
    more: bool,
}

impl Unknown {
    fn add(&mut self, name: &str) {
        if self.more {
            return;
        }
        let short = name.chars().take(SHOWN).collect::<String>().to_lowercase();
        if self.names.contains(&short) {
            return;
        }
        self.more = self.names.len() == NAMED;
        if !self.more {
            self.names.push(short);
        }
    }

    fn add_to(self, changes: &mut Vec<String>) {
        let named = self.names.iter().map(|name| describe(name));
        let no_string = |kind: &&str| format!("an entry is {kind}, expected a string");
        let no_strings = self.no_strings.iter().map(no_string);
        let more = self.more.then(|| "more unknown types subscribe to nothing".to_owned());
        let reasons = named.chain(no_strings).chain(more);
        changes.extend(reasons.map(|reason| format!("`eventTypes`: {reason}")));
    }
}

/// Names the nearest known type, which is what was meant if the name is a misspelling.
fn describe(name: &str) -> String {
    let distance = |known: &EventType| strsim::osa_distance(name, known.as_str());
    let nearest = EventType::ALL.into_iter().min_by_key(distance);
    let (name, nearest) = (name.escape_debug(), nearest.map_or("", EventType::as_str));
    format!("`{name}` is unknown and subscribes to nothing; the nearest known type is `{nearest}`")
}
