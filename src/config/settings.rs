//! The merged layer: what the operator set, where, and what is wrong with it.

use std::collections::BTreeMap;

use super::faults::Fault;
use super::raw::Raw;
use super::rules::Mismatch;

/// A value that the operator gave.
pub(super) struct Given {
    pub(super) raw: Raw,
    /// Where it was set, for a message: file and line, variable or credential.
    pub(super) origin: String,
}

/// What the operator gave, later layers over earlier ones, and every fault found so far.
#[derive(Default)]
pub(super) struct Settings {
    given: BTreeMap<&'static str, Given>,
    /// Everything that is wrong, in the order of finding.
    pub(super) faults: Vec<Fault>,
    /// What is ignored, although it was probably meant.
    pub(super) warnings: Vec<String>,
}

impl Settings {
    /// Sets `key`, over what an earlier layer gave.
    pub(super) fn give(&mut self, key: &'static str, raw: Raw, origin: String) {
        self.given.insert(key, Given { raw, origin });
    }

    /// Takes `key` out, as if it had not been given.
    pub(super) fn take(&mut self, key: &str) -> Option<Given> {
        self.given.remove(key)
    }

    /// What was given for `key`.
    pub(super) fn given(&self, key: &str) -> Option<&Given> {
        self.given.get(key)
    }

    /// Where the value of `key` comes from.
    pub(super) fn origin(&self, key: &str) -> &str {
        self.given.get(key).map_or("the default", |given| &given.origin)
    }

    /// The typed value of `key`. A given value that breaks its rule is a fault, and the default replaces it so that
    /// the other values can be judged. `None` if the default breaks the rule: a fault too.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: &'static str,
        rule: impl Fn(&Raw) -> Result<T, Mismatch>,
    ) -> Option<T> {
        let faults = &mut self.faults;
        let mut check = |raw: &Raw, origin: &str| {
            rule(raw)
                .map_err(|mismatch| faults.push(Fault::mismatch(key, &mismatch, raw, origin)))
                .ok()
        };
        let given = self.given.get(key).and_then(|given| check(&given.raw, &given.origin));
        given.or_else(|| check(&Raw::Untyped(default.to_owned()), "the default"))
    }
}
