//! All that the documents say, by endpoint. A look-up costs the same however many there are; a change costs what its document holds.

use std::collections::hash_map;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::claims::{Claim, Claims, DELETED, Effect, Kind, MISSING, Standing};
use super::{DocumentId, EndpointCounts, Found};
use crate::model::{EndpointKey, EventType};
use crate::platform::member_config::{Entry, MemberConfig};

/// How long a document may be missing before its endpoints count as deleted: a collection that is restored must not cancel what waits.
pub(super) const GRACE: Duration = Duration::from_secs(600);

/// Endpoints that are remembered of a document that can't be read.
const KEPT: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Index {
    organizations: HashMap<String, Organization>,
    /// The organization of each document that is there.
    organization_of: HashMap<DocumentId, String>,
    endpoints: HashMap<EndpointKey, Claims>,
    /// Organizations without any document, since when that is known.
    absent: HashMap<String, Instant>,
    /// What was found missing, the earliest first; may have come back since.
    missing: VecDeque<Missing>,
    /// Endpoints by [`Kind`].
    counts: [usize; 3],
    /// Endpoints that can't be named.
    nameless: usize,
    /// Whether anything has changed since [`Index::changed`] was asked.
    changed: bool,
}

#[derive(Debug, Default)]
struct Organization {
    /// By `_id`, those too that are missing but not for long.
    documents: BTreeMap<DocumentId, Known>,
    /// How many of `documents` are there.
    present: usize,
    /// Those that may have more endpoints than were read, and why.
    incomplete: BTreeMap<DocumentId, Arc<str>>,
    /// The endpoints that want events, by the index of the type in [`EventType::ALL`].
    wanting: [BTreeSet<EndpointKey>; EventType::ALL.len()],
}

#[derive(Debug)]
struct Known {
    config: Arc<MemberConfig>,
    /// Endpoints that it had before and may still have.
    kept: Vec<Arc<Entry>>,
    missing_since: Option<Instant>,
}

#[derive(Debug)]
struct Missing {
    since: Instant,
    organization: String,
    /// `None`: there never was one.
    document: Option<DocumentId>,
}

/// A document that is not there any more.
pub(super) struct LostDocument {
    pub(super) organization: String,
    /// How many it had.
    pub(super) endpoints: usize,
}

/// Endpoints that two documents have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Doubles {
    /// The first of them, and how many there are.
    pub(super) endpoint: EndpointKey,
    pub(super) count: usize,
    /// The document that counts, and the one that doesn't.
    pub(super) counts: DocumentId,
    pub(super) ignored: DocumentId,
}

impl Index {
    /// What is known of the endpoint. `None`: nothing is known of its organization, and [`Index::miss`] must be called.
    pub(super) fn find(&self, key: &EndpointKey, now: Instant) -> Option<Found> {
        if let Some(found) = self.endpoints.get(key).and_then(Claims::found) {
            return Some(found);
        }
        let out_of_service = |reason: &str| Some(Found::OutOfService { reason: reason.into() });
        if let Some(organization) = self.organizations.get(key.organization()) {
            return match organization.incomplete.values().next() {
                Some(reason) => out_of_service(reason),
                None if organization.present == 0 => out_of_service(MISSING),
                None => Some(Found::Off { reason: DELETED }),
            };
        }
        let since = self.absent.get(key.organization())?;
        if now.duration_since(*since) < GRACE {
            return out_of_service(MISSING);
        }
        Some(Found::Off { reason: DELETED })
    }

    /// Somebody asked for an endpoint of an organization that was never seen.
    pub(super) fn miss(&mut self, organization: &str, now: Instant) {
        if !self.organizations.contains_key(organization) && !self.absent.contains_key(organization) {
            self.absent.insert(organization.into(), now);
            self.note_missing(now, organization, None);
        }
    }

    pub(super) fn wanting(&self, organization: &str, event_type: EventType) -> impl Iterator<Item = &EndpointKey> {
        let index = EventType::ALL.iter().position(|known| *known == event_type);
        let wanting = self.organizations.get(organization).zip(index);
        wanting
            .into_iter()
            .flat_map(|(organization, index)| &organization.wanting[index])
    }

    pub(super) fn claims(&self, key: &EndpointKey) -> Option<&Claims> {
        self.endpoints.get(key)
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&EndpointKey, &Claims)> {
        self.endpoints.iter()
    }

    /// Whether a document of the organization is there.
    pub(super) fn knows(&self, organization: &str) -> bool {
        self.organizations
            .get(organization)
            .is_some_and(|known| known.present > 0)
    }

    /// The documents of the organization, those too that were found missing of late.
    pub(super) fn documents_of(&self, organization: &str) -> Vec<DocumentId> {
        let documents = self.organizations.get(organization).map(|known| known.documents.keys());
        documents.into_iter().flatten().cloned().collect()
    }

    /// All documents that are there.
    pub(super) fn documents(&self) -> Vec<DocumentId> {
        self.organization_of.keys().cloned().collect()
    }

    /// What the document said when it was last read.
    pub(super) fn saying(&self, id: &DocumentId) -> Option<Arc<MemberConfig>> {
        let organization = self.organizations.get(self.organization_of.get(id)?)?;
        organization.documents.get(id).map(|known| Arc::clone(&known.config))
    }

    pub(super) fn count(&self) -> EndpointCounts {
        let [served, off, out_of_service] = self.counts;
        EndpointCounts {
            served,
            off,
            out_of_service: out_of_service + self.nameless,
        }
    }

    /// Whether anything has changed since this was last asked.
    pub(super) fn changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Replaces what one document says. One that no longer names its organization keeps the one it had: nothing is cancelled for that.
    pub(super) fn put(&mut self, id: &DocumentId, config: MemberConfig, now: Instant) -> Vec<Doubles> {
        let recorded = self.organization_of.get(id).cloned();
        let organization = config
            .organization
            .clone()
            .or_else(|| recorded.clone())
            .unwrap_or_default();
        if recorded.is_some_and(|recorded| recorded != organization) {
            self.remove(id, now);
        }
        let before = self.forget(&organization, id);
        let present = before.as_ref().filter(|before| before.missing_since.is_none());
        self.changed |= present.is_none_or(|before| before.config.incomplete != config.incomplete);
        let config = Arc::new(config);
        let kept = before
            .as_ref()
            .map_or_else(Vec::new, |before| before.kept_beside(&config));
        let known: HashSet<_> = config.entries.iter().chain(&kept).map(|entry| &entry.key).collect();
        for entry in before.iter().flat_map(Known::entries) {
            if !known.contains(&entry.key) {
                self.claim(&entry.key, id, None);
            }
        }
        let doubles = config.entries.iter().filter_map(|entry| self.read(id, entry)).collect();
        if let Some(reason) = &config.incomplete {
            let kept = kept.iter();
            kept.for_each(|entry| self.claim_as(Standing::Kept(Arc::clone(reason)), id, entry));
        }
        self.remember(
            organization,
            id,
            Known {
                config,
                kept,
                missing_since: None,
            },
        );
        grouped(id, doubles)
    }

    /// One document is not there any more. Returns what it was, if it was there.
    pub(super) fn remove(&mut self, id: &DocumentId, now: Instant) -> Option<LostDocument> {
        let organization = self.organization_of.get(id)?.clone();
        let mut known = self.forget(&organization, id)?;
        let endpoints = known.entries().count();
        for entry in known.entries() {
            self.claim_as(Standing::Missing, id, entry);
        }
        known.missing_since = Some(now);
        self.changed = true;
        self.remember(organization.clone(), id, known);
        self.note_missing(now, &organization, Some(id.clone()));
        Some(LostDocument {
            organization,
            endpoints,
        })
    }

    /// When [`Index::expire`] has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.missing.front().map(|missing| missing.since + GRACE)
    }

    /// What has been missing for too long counts as deleted.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|at| at <= now) {
            let Some(missing) = self.missing.pop_front() else {
                return;
            };
            match &missing.document {
                None => self.changed |= self.absent.get(&missing.organization) == Some(&missing.since),
                Some(id) => self.expire_document(&missing, id),
            }
        }
    }

    fn expire_document(&mut self, missing: &Missing, id: &DocumentId) {
        let organization = self.organizations.get(&missing.organization);
        let known = organization.and_then(|known| known.documents.get(id));
        if known.and_then(|known| known.missing_since) != Some(missing.since) {
            return;
        }
        let Some(known) = self.forget(&missing.organization, id) else {
            return;
        };
        for entry in known.entries() {
            self.claim(&entry.key, id, None);
        }
        if let hash_map::Entry::Occupied(organization) = self.organizations.entry(missing.organization.clone())
            && organization.get().documents.is_empty()
        {
            organization.remove();
            self.absent.insert(missing.organization.clone(), missing.since);
        }
        self.changed = true;
    }

    fn note_missing(&mut self, since: Instant, organization: &str, document: Option<DocumentId>) {
        self.missing.push_back(Missing {
            since,
            organization: organization.into(),
            document,
        });
    }

    /// Removes a document, but not its claims.
    fn forget(&mut self, organization: &str, id: &DocumentId) -> Option<Known> {
        let entry = self.organizations.get_mut(organization)?;
        let known = entry.documents.remove(id)?;
        entry.incomplete.remove(id);
        if known.missing_since.is_none() {
            entry.present -= 1;
            self.organization_of.remove(id);
            self.nameless -= known.nameless();
        }
        Some(known)
    }

    /// Adds a document, but not its claims.
    fn remember(&mut self, organization: String, id: &DocumentId, known: Known) {
        self.absent.remove(&organization);
        let entry = self.organizations.entry(organization.clone()).or_default();
        if let Some(reason) = &known.config.incomplete {
            entry.incomplete.insert(id.clone(), Arc::clone(reason));
        }
        if known.missing_since.is_none() {
            entry.present += 1;
            self.organization_of.insert(id.clone(), organization);
            self.nameless += known.nameless();
        }
        entry.documents.insert(id.clone(), known);
    }

    /// The document has the endpoint. Returns another one that has it, too, if that was not known.
    fn read(&mut self, id: &DocumentId, entry: &Arc<Entry>) -> Option<(EndpointKey, DocumentId)> {
        let is_new = self
            .endpoints
            .get(&entry.key)
            .is_none_or(|claims| !claims.is_read_from(id));
        self.claim_as(Standing::Read, id, entry);
        let rival = self.endpoints.get(&entry.key)?.rival(id)?;
        is_new.then(|| (entry.key.clone(), rival.clone()))
    }

    fn claim_as(&mut self, standing: Standing, id: &DocumentId, entry: &Arc<Entry>) {
        let claim = Claim {
            standing,
            document: id.clone(),
            entry: Arc::clone(entry),
        };
        self.claim(&entry.key, id, Some(claim));
    }

    fn claim(&mut self, key: &EndpointKey, id: &DocumentId, claim: Option<Claim>) {
        let claims = self.endpoints.entry(key.clone()).or_default();
        let before = claims.effect();
        claims.claim(id, claim);
        let after = claims.effect();
        if after.is_none() {
            self.endpoints.remove(key);
        }
        if before == after {
            return;
        }
        self.changed = true;
        self.count_effects(before.as_ref(), after.as_ref());
        self.subscribe(key, after.as_ref());
    }

    fn count_effects(&mut self, before: Option<&Effect>, after: Option<&Effect>) {
        let index = |effect: &Effect| match effect.kind {
            Kind::Served => 0,
            Kind::Off => 1,
            Kind::OutOfService => 2,
        };
        if let Some(before) = before {
            self.counts[index(before)] -= 1;
        }
        if let Some(after) = after {
            self.counts[index(after)] += 1;
        }
    }

    fn subscribe(&mut self, key: &EndpointKey, effect: Option<&Effect>) {
        let organization = self.organizations.entry(key.organization().to_owned()).or_default();
        let wants = effect.map_or_else(Default::default, |effect| effect.wants);
        for (wanting, wants) in organization.wanting.iter_mut().zip(wants) {
            if wants {
                wanting.insert(key.clone());
            } else {
                wanting.remove(key);
            }
        }
    }
}

impl Known {
    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.config.entries.iter().chain(&self.kept)
    }

    /// How many endpoints can't be named: they are out of service.
    fn nameless(&self) -> usize {
        let refused = self.config.refused.iter();
        refused.filter(|refused| refused.key.is_none()).count()
    }

    /// What of this must be kept beside what the document says now.
    fn kept_beside(&self, config: &MemberConfig) -> Vec<Arc<Entry>> {
        if config.incomplete.is_none() {
            return Vec::new();
        }
        let said: HashSet<_> = config.entries.iter().map(|entry| &entry.key).collect();
        let unsaid = self.entries().filter(|entry| !said.contains(&entry.key));
        unsaid.take(KEPT).cloned().collect()
    }
}

/// Grouped by the other document.
fn grouped(id: &DocumentId, doubles: Vec<(EndpointKey, DocumentId)>) -> Vec<Doubles> {
    let mut groups: BTreeMap<DocumentId, (EndpointKey, usize)> = BTreeMap::new();
    for (endpoint, rival) in doubles {
        groups.entry(rival).or_insert((endpoint, 0)).1 += 1;
    }
    let double = |(rival, (endpoint, count)): (DocumentId, _)| Doubles {
        endpoint,
        count,
        counts: rival.clone().min(id.clone()),
        ignored: rival.max(id.clone()),
    };
    groups.into_iter().map(double).collect()
}
