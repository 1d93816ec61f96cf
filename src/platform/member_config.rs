//! An organization's webhook settings: which of its endpoints make sense, and why the others don't.
//!
//! Every endpoint is judged alone. A bad one is refused with a reason for the operator, whatever stands beside it, and one
//! whose authentication or signature can't be made as configured is refused too: it never sends with less.

mod address;
mod auth;
mod endpoint;
mod field;
mod headers;

use std::collections::HashSet;
use std::sync::Arc;

use bson::{RawArray, RawBsonRef, RawDocument};

use super::Endpoint;
use crate::model::EndpointKey;

/// What the operator allows endpoints to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Whether `http:` addresses are accepted (`delivery.allow_http`).
    pub allow_http: bool,
}

/// One document of `memberconfigs`, judged.
#[derive(Clone, Debug, Default)]
pub struct MemberConfig {
    /// The organization, as in [`EndpointKey::owner`]; `None` when the document names none, and then it has no endpoints.
    pub owner: Option<String>,
    /// The endpoints that make sense, in the document's order, switched off ones too.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// What makes no sense.
    pub refused: Vec<Refused>,
    /// What is odd about `endpoints`.
    pub warnings: Vec<Warning>,
}

/// An endpoint that is out of service, or settings that can't be read at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The endpoint, as far as it can be named.
    pub key: Option<EndpointKey>,
    /// The organization, as in [`MemberConfig::owner`].
    pub owner: Option<String>,
    /// Its place in `webHookConfig.endpoints`, from 0; `None` for the settings as a whole.
    pub position: Option<usize>,
    /// Why, in one line. Names fields, never what they hold.
    pub reason: String,
}

impl Refused {
    /// Whether it says the same of the same endpoint, wherever that stands now. One that can't be named is known by its place.
    pub fn says_as(&self, other: &Self) -> bool {
        let same = self.key == other.key && self.reason == other.reason;
        same && (self.key.is_some() || self.position == other.position)
    }
}

/// An endpoint that is served, but not quite as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The endpoint.
    pub key: EndpointKey,
    /// What was changed, in one line. Names fields, never what they hold.
    pub reason: String,
}

/// Judges a document of `memberconfigs`. Takes any document and never fails as a whole: see [`MemberConfig::refused`].
///
/// Of a repeated field the last counts, as in the Node driver. Of two endpoints with one key the first counts.
pub fn parse(document: &RawDocument, policy: &EndpointPolicy) -> MemberConfig {
    let owner = field::present(document, "_ownerId");
    let owner_part = owner.as_ref().ok().copied().flatten().map(owner_part);
    let mut config = MemberConfig {
        owner: owner_part,
        ..MemberConfig::default()
    };
    match endpoints(document) {
        Ok(Some(endpoints)) => config.judge_all(endpoints, &owner, policy),
        Ok(None) => {}
        Err(reason) => config.refuse(None, None, reason),
    }
    config
}

fn owner_part(owner: RawBsonRef<'_>) -> String {
    EndpointKey::derive(owner, None, "").owner().to_owned()
}

fn endpoints(document: &RawDocument) -> Result<Option<&RawArray>, String> {
    let Some(settings) = field::present(document, "webHookConfig")? else {
        return Ok(None);
    };
    let expected = || field::wrong_type("webHookConfig", settings, "a document");
    let settings = settings.as_document().ok_or_else(expected)?;
    let Some(endpoints) = field::present(settings, "endpoints")? else {
        return Ok(None);
    };
    endpoints
        .as_array()
        .map(Some)
        .ok_or_else(|| field::wrong_type("webHookConfig.endpoints", endpoints, "an array"))
}

/// `_ownerId` as it was read.
type Owner<'a> = Result<Option<RawBsonRef<'a>>, String>;

impl MemberConfig {
    fn judge_all(&mut self, endpoints: &RawArray, owner: &Owner<'_>, policy: &EndpointPolicy) {
        let mut keys = HashSet::new();
        for (position, value) in endpoints.into_iter().enumerate() {
            let judged = match value {
                Ok(value) => self.judge(value, owner, policy, &mut keys),
                Err(_) => Err((None, "is not valid BSON".to_owned())),
            };
            if let Err((key, reason)) = judged {
                self.refuse(key, Some(position), reason);
            }
        }
    }

    fn judge(
        &mut self,
        value: RawBsonRef<'_>,
        owner: &Owner<'_>,
        policy: &EndpointPolicy,
        keys: &mut HashSet<EndpointKey>,
    ) -> Result<(), (Option<EndpointKey>, String)> {
        let (source, key) = named(value, owner).map_err(|reason| (None, reason))?;
        if keys.contains(&key) {
            return Err((
                Some(key),
                "an endpoint before it has the same `_id`, or the same `url` and no `_id`".into(),
            ));
        }
        let mut changes = Vec::new();
        let endpoint =
            endpoint::read(source, key.clone(), policy, &mut changes).map_err(|why| (Some(key.clone()), why))?;
        keys.insert(key.clone());
        self.endpoints.push(Arc::new(endpoint));
        self.warnings.extend(changes.into_iter().map(|reason| Warning {
            key: key.clone(),
            reason,
        }));
        Ok(())
    }

    fn refuse(&mut self, key: Option<EndpointKey>, position: Option<usize>, reason: String) {
        self.refused.push(Refused {
            key,
            owner: self.owner.clone(),
            position,
            reason,
        });
    }
}

/// An element of `endpoints` as a document, with the endpoint's key.
fn named<'a>(value: RawBsonRef<'a>, owner: &Owner<'_>) -> Result<(&'a RawDocument, EndpointKey), String> {
    let owner = owner.clone()?.ok_or("the document has no `_ownerId`")?;
    let source = value
        .as_document()
        .ok_or_else(|| field::wrong_type("endpoint", value, "a document"))?;
    let key = match field::present(source, "_id")? {
        Some(id) => EndpointKey::derive(owner, Some(id), ""),
        None => {
            let url = field::text(source, "url")?.ok_or("it has neither `_id` nor `url`")?;
            EndpointKey::derive(owner, None, url)
        }
    };
    Ok((source, key))
}

#[cfg(test)]
mod tests;
