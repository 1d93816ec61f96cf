//! What the directory knows of one endpoint: what each document says of it, and which of them counts.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{DocumentId, Found};
use crate::model::EventType;
use crate::platform::member_config::{Entry, EntryState};
use crate::platform::{Endpoint, Tls};

/// The endpoint's `enabled` is false.
pub(super) const DISABLED: &str = "the endpoint was disabled";

/// Its organization's document can be read, and the endpoint isn't there.
pub(super) const DELETED: &str = "the endpoint was deleted";

/// There is no document of its organization.
pub(super) const MISSING: &str = "the organization's configuration document is missing";

/// What one document says of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) standing: Standing,
    pub(super) document: DocumentId,
    pub(super) entry: Arc<Entry>,
}

/// How fresh a claim is. Claims count in this order.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// As the document says now.
    Read,
    /// As it said before it could no longer be read; why it can't.
    Kept(Arc<str>),
    /// As it said before it was missing.
    Missing,
}

/// The claims on one endpoint.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The first one counts. More than one: several documents have the endpoint.
    claims: Vec<Claim>,
}

/// What follows from the claims. It differs if something has changed that somebody may have to act upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) kind: Kind,
    pub(super) wants: [bool; EventType::ALL.len()],
    fingerprint: u64,
    reason: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Served,
    Off,
    OutOfService,
}

impl Standing {
    fn rank(&self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Kept(_) => 1,
            Self::Missing => 2,
        }
    }
}

impl Claim {
    fn order(&self, other: &Self) -> Ordering {
        let by_standing = self.standing.rank().cmp(&other.standing.rank());
        by_standing.then_with(|| self.document.cmp(&other.document))
    }

    fn found(&self) -> Found {
        let out_of_service = |reason: &str| Found::OutOfService { reason: reason.into() };
        match (&self.entry.state, &self.standing) {
            (EntryState::Disabled(_), _) => Found::Off { reason: DISABLED },
            (_, Standing::Missing) => out_of_service(MISSING),
            (_, Standing::Kept(reason)) | (EntryState::OutOfService(reason), Standing::Read) => out_of_service(reason),
            (EntryState::Enabled(endpoint), Standing::Read) => Found::Served(Arc::clone(endpoint)),
        }
    }

    fn effect(&self) -> Effect {
        let (kind, reason) = match self.found() {
            Found::Served(_) => (Kind::Served, None),
            Found::OutOfService { reason } => (Kind::OutOfService, Some(reason.into())),
            Found::Off { .. } | Found::Email { .. } => (Kind::Off, None),
        };
        Effect {
            kind,
            wants: EventType::ALL.map(|event_type| self.entry.wants.contains(&event_type)),
            fingerprint: self.entry.fingerprint,
            reason,
        }
    }
}

impl Claims {
    pub(super) fn found(&self) -> Option<Found> {
        self.claims.first().map(Claim::found)
    }

    pub(super) fn effect(&self) -> Option<Effect> {
        self.claims.first().map(Claim::effect)
    }

    pub(super) fn fingerprint(&self) -> Option<u64> {
        self.claims.first().map(|claim| claim.entry.fingerprint)
    }

    pub(super) fn name(&self) -> &str {
        self.claims.first().map_or("", |claim| &claim.entry.name)
    }

    pub(super) fn warnings(&self) -> &[String] {
        self.claims.first().map_or(&[], |claim| &claim.entry.warnings)
    }

    /// Its own certificates, if it is switched on and makes sense.
    pub(super) fn tls(&self) -> Option<&Arc<Tls>> {
        match &self.claims.first()?.entry.state {
            EntryState::Enabled(endpoint) => endpoint.tls.as_ref(),
            EntryState::Disabled(_) | EntryState::OutOfService(_) => None,
        }
    }

    /// The endpoint if it makes sense, on or off.
    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match &self.claims.first()?.entry.state {
            EntryState::Enabled(endpoint) | EntryState::Disabled(Some(endpoint)) => Some(endpoint),
            EntryState::Disabled(None) | EntryState::OutOfService(_) => None,
        }
    }

    /// Replaces what `document` says of the endpoint.
    pub(super) fn claim(&mut self, document: &DocumentId, claim: Option<Claim>) {
        self.claims.retain(|known| known.document != *document);
        if let Some(claim) = claim {
            let index = self.claims.partition_point(|known| known.order(&claim).is_lt());
            self.claims.insert(index, claim);
        }
    }

    /// Another document that has the endpoint now; where there are several, the one that counts.
    pub(super) fn rival(&self, document: &DocumentId) -> Option<&DocumentId> {
        let others = self.claims.iter().filter(|claim| claim.document != *document);
        let mut read = others.filter(|claim| matches!(claim.standing, Standing::Read));
        read.next().map(|claim| &claim.document)
    }

    pub(super) fn is_read_from(&self, document: &DocumentId) -> bool {
        let is_read = |claim: &Claim| claim.document == *document && matches!(claim.standing, Standing::Read);
        self.claims.iter().any(is_read)
    }
}
