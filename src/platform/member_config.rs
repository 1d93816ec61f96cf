//! An organization's webhook settings: which of its endpoints make sense, and why the others don't.
//!
//! Every endpoint is judged alone. A bad one is refused with a reason for the operator, whatever the others are, and one
//! whose authentication or signature can't be made as configured is refused too: it never sends with less.

mod address;
mod auth;
mod endpoint;
mod event_types;
mod field;
mod headers;
mod pace;
mod signing_secrets;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;

use bson::{RawArray, RawBsonRef, RawDocument};

use super::Endpoint;
use crate::envelope::{EncryptionKeys, Envelopes};
use crate::model::{EndpointKey, EventType, id_part};
use field::{Fields, wrong_type};

/// Endpoints of a document; those after them are out of service.
const MAX_ENDPOINTS: usize = 1000;

/// What the operator allows endpoints to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Whether `http:` addresses are accepted (`delivery.allow_http`).
    pub allow_http: bool,
    /// Parallel requests that an endpoint may ask for (`delivery.concurrency`).
    pub concurrency: u32,
    /// What encrypted values are decrypted with (`secrets.key`).
    pub keys: EncryptionKeys,
}

/// One document of `memberconfigs`, judged.
#[derive(Clone, Debug, Default)]
pub struct MemberConfig {
    /// The organization, as in [`EndpointKey::organization`]; `None` when the document names none, and then it has no endpoints.
    pub organization: Option<String>,
    /// The endpoints that can be named, in the document's order, each once.
    pub entries: Vec<Arc<Entry>>,
    /// What makes no sense: endpoints that are out of service, and what can't be read at all.
    pub refused: Vec<Refused>,
    /// What is odd about endpoints that make sense.
    pub warnings: Vec<Warning>,
    /// Why the document may have more endpoints than `entries`: one that isn't there needn't be deleted.
    pub incomplete: Option<Arc<str>>,
}

/// An endpoint of a document.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in the outbox, the log and the statistics.
    pub key: EndpointKey,
    /// The organization's label for it: hostile input, escape it.
    pub name: String,
    /// The event types it wants, as far as they can be read; none if it is switched off.
    pub wants: Vec<EventType>,
    /// Changes with every field that the daemon reads.
    pub fingerprint: u64,
    /// What can be done with it.
    pub state: EntryState,
    /// What is odd about it, if it makes sense: the reasons of [`MemberConfig::warnings`].
    pub warnings: Vec<String>,
}

/// What can be done with an endpoint as it is configured.
#[derive(Clone, Debug)]
pub enum EntryState {
    /// Sent to.
    Enabled(Arc<Endpoint>),
    /// Switched off; `None` if it makes no sense besides.
    Disabled(Option<Arc<Endpoint>>),
    /// It makes no sense; the reason.
    OutOfService(Arc<str>),
}

/// An endpoint that is out of service, or settings that can't be read at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The endpoint, as far as it can be named.
    pub key: Option<EndpointKey>,
    /// The organization, as in [`MemberConfig::organization`].
    pub organization: Option<String>,
    /// Its position in `webHookConfig.endpoints`, from 0; `None` for the settings as a whole.
    pub position: Option<usize>,
    /// Why, in one line. Names fields, never what they hold.
    pub reason: String,
}

impl Refused {
    /// What it says of which endpoint, wherever that is in the document now. One that can't be named is known by its position.
    pub fn identity(&self) -> (Option<&EndpointKey>, Option<usize>, &str) {
        let position = self.position.filter(|_| self.key.is_none());
        (self.key.as_ref(), position, &self.reason)
    }
}

/// An endpoint that is served, but not quite as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Warning {
    /// The endpoint.
    pub key: EndpointKey,
    /// What was changed, in one line. Names fields, never what they hold; of `eventTypes` the names that are unknown.
    pub reason: String,
}

/// Judges a document of `memberconfigs`. Takes any document and never fails as a whole: see [`MemberConfig::refused`].
///
/// If a field is repeated, the last one counts, as in the Node driver. If two endpoints have one key, the first that makes sense counts.
pub fn parse(document: &RawDocument, policy: &EndpointPolicy) -> MemberConfig {
    let fields = Fields::read(document, &["_ownerId", "webHookConfig"]);
    let organization = match fields.present("_ownerId") {
        Ok(organization) => organization.map(id_part).ok_or("the document has no `_ownerId`".into()),
        Err(reason) => Err(reason),
    };
    let mut config = MemberConfig {
        organization: organization.clone().ok(),
        ..MemberConfig::default()
    };
    match (endpoints(&fields), organization) {
        (Ok(Some(endpoints)), Ok(organization)) => config.judge_all(endpoints, &organization, policy),
        (Ok(None), Ok(_)) => {}
        // Without endpoints the organization does not matter.
        (Ok(endpoints), Err(reason)) if endpoints.is_none_or(RawArray::is_empty) => {
            config.incomplete = Some(reason.into());
        }
        (Err(reason), _) | (_, Err(reason)) => config.refuse_all(reason),
    }
    config
}

fn endpoints<'a>(document: &Fields<'a>) -> Result<Option<&'a RawArray>, String> {
    let Some(settings) = document.present("webHookConfig")? else {
        return Ok(None);
    };
    let settings = settings
        .as_document()
        .ok_or_else(|| wrong_type("webHookConfig", settings, "a document"))?;
    // Null is no array: whoever sets it has deleted nothing.
    match Fields::read(settings, &["endpoints"]).get("endpoints")? {
        None | Some(RawBsonRef::Undefined) => Ok(None),
        Some(RawBsonRef::Array(endpoints)) => Ok(Some(endpoints)),
        Some(other) => Err(wrong_type("webHookConfig.endpoints", other, "an array")),
    }
}

/// What is wrong with an element, and its key if it has one.
type Unfit = (Option<EndpointKey>, String);

impl MemberConfig {
    fn judge_all(&mut self, endpoints: &RawArray, organization: &str, policy: &EndpointPolicy) {
        let mut positions = HashMap::new();
        for (position, value) in endpoints.into_iter().enumerate() {
            if position == MAX_ENDPOINTS {
                self.refuse_all(format!(
                    "it has more than {MAX_ENDPOINTS} endpoints: the rest is out of service"
                ));
                break;
            }
            let judged = match value {
                Ok(value) => self.judge(value, organization, policy, &mut positions),
                Err(_) => Err((None, "is not valid BSON".to_owned())),
            };
            let Err((key, reason)) = judged else { continue };
            // What MongoDB leaves where an element was unset is no endpoint that can't be read.
            let is_null = matches!(value, Ok(RawBsonRef::Null | RawBsonRef::Undefined));
            if key.is_none() && !is_null {
                let reason = format!("`webHookConfig.endpoints.{position}`: {reason}");
                self.incomplete.get_or_insert(reason.into());
            }
            self.refuse(key, Some(position), reason);
        }
    }

    fn judge(
        &mut self,
        value: RawBsonRef<'_>,
        organization: &str,
        policy: &EndpointPolicy,
        positions: &mut HashMap<EndpointKey, usize>,
    ) -> Result<(), Unfit> {
        let (source, key) = named(value, organization).map_err(|reason| (None, reason))?;
        let before = positions.get(&key).copied();
        if before.is_some_and(|index| self.entries[index].fault().is_none()) {
            let reason = "an endpoint before it has the same `_id`, or the same `url` and no `_id`";
            return Err((Some(key), reason.into()));
        }
        let mut changes = Vec::new();
        let mut entry = endpoint::read(&source, key.clone(), policy, &mut changes);
        if entry.fault().is_none() {
            entry.warnings = changes.clone();
        }
        let entry = Arc::new(entry);
        let fault = entry.fault().map(|reason| (Some(key.clone()), reason.to_string()));
        match (before, &fault) {
            (None, _) => {
                positions.insert(key.clone(), self.entries.len());
                self.entries.push(entry);
            }
            (Some(index), None) => self.entries[index] = entry,
            (Some(_), Some(_)) => {}
        }
        fault.map_or(Ok(()), Err)?;
        let warning = |reason| Warning {
            key: key.clone(),
            reason,
        };
        self.warnings.extend(changes.into_iter().map(warning));
        Ok(())
    }

    fn refuse(&mut self, key: Option<EndpointKey>, position: Option<usize>, reason: String) {
        self.refused.push(Refused {
            key,
            organization: self.organization.clone(),
            position,
            reason,
        });
    }

    /// Endpoints that may be there can't be read.
    fn refuse_all(&mut self, reason: String) {
        self.incomplete = Some(reason.as_str().into());
        self.refuse(None, None, reason);
    }
}

impl Entry {
    /// Why it is out of service, if it is.
    pub fn fault(&self) -> Option<&Arc<str>> {
        match &self.state {
            EntryState::OutOfService(reason) => Some(reason),
            EntryState::Enabled(_) | EntryState::Disabled(_) => None,
        }
    }
}

/// An element of `endpoints` as its fields, with the endpoint's key.
fn named<'a>(value: RawBsonRef<'a>, organization: &str) -> Result<(Fields<'a>, EndpointKey), String> {
    let source = value
        .as_document()
        .ok_or_else(|| wrong_type("endpoint", value, "a document"))?;
    let source = Fields::read(source, &endpoint::FIELDS);
    let key = match source.present("_id")? {
        Some(id) => EndpointKey::of(organization, Some(id), ""),
        None => {
            let url = source.text("url")?.ok_or("it has neither `_id` nor `url`")?;
            EndpointKey::of(organization, None, url)
        }
    };
    Ok((source, key))
}

#[cfg(test)]
mod tests;
