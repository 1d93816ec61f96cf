//! What is wrong with a configuration, in the operator's words.

use std::fmt;

use super::raw::Raw;
use super::rules::Mismatch;

/// One thing that is wrong: a key, what was expected, what was found, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    key: String,
    problem: String,
    origin: Option<String>,
}

impl Fault {
    /// The key as `section.key`; a section, a variable or a file where that is what's wrong.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// `problem` with `key`, which is set at `origin`.
    pub(super) fn new(key: &str, problem: String, origin: Option<String>) -> Self {
        Self {
            key: key.escape_debug().to_string(),
            problem,
            origin,
        }
    }

    /// A value that broke its rule.
    pub(super) fn mismatch(key: &str, mismatch: &Mismatch, found: &Raw, origin: &str) -> Self {
        let why = mismatch.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let problem = format!("expected {}, found {found}{why}", mismatch.expected);
        Self::new(key, problem, Some(origin.to_owned()))
    }

    /// A name that means nothing; `kind` is what is expected, `nearest` what was probably meant.
    pub(super) fn unknown(key: &str, kind: &str, nearest: Option<&str>, origin: String) -> Self {
        let hint = nearest.map_or(String::new(), |nearest| format!("; did you mean {nearest}?"));
        Self::new(
            key,
            format!("expected {kind}, found an unknown one{hint}"),
            Some(origin),
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)?;
        match &self.origin {
            Some(origin) => write!(f, " ({origin})"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a configuration, sorted by key. Prints one fault a line; holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| a.key.cmp(&b.key));
        Self(faults)
    }

    /// The faults, sorted by key.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Faults {}
