//! What is held: documents of `webhook_state`, `hold/all`, `hold/organization/ID` and `hold/endpoint/ORGANIZATION/ENDPOINT`, and what
//! an instance knows of them.

use std::collections::HashMap;
use std::sync::Arc;

use bson::{Bson, DateTime, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use futures_util::TryStreamExt;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::model::{EndpointKey, Period, Reloadable, read_periods};
use crate::notices::{all_episodes, episode_id};
use crate::store::{CONTROL, Result, STATE, Store, extended, increased, upsert_row};

/// The endpoints whose deliveries a hold keeps waiting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// All of them, e-mails too.
    All,
    /// All of an organization.
    Organization(String),
    /// One alone.
    Endpoint(EndpointKey),
}

impl Target {
    fn document_id(&self) -> String {
        match self {
            Self::All => "hold/all".into(),
            Self::Organization(organization) => format!("hold/organization/{organization}"),
            Self::Endpoint(endpoint) => format!("hold/endpoint/{endpoint}"),
        }
    }

    fn of_document(id: &str) -> Option<Self> {
        let rest = id.strip_prefix("hold/")?;
        Some(match rest.split_once('/') {
            None if rest == "all" => Self::All,
            Some(("organization", organization)) => Self::Organization(organization.to_owned()),
            Some(("endpoint", endpoint)) => Self::Endpoint(EndpointKey::from_stored(endpoint)),
            _ => return None,
        })
    }
}

/// `everything`, `organization ID` or `endpoint ORGANIZATION/ENDPOINT`.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("everything"),
            Self::Organization(organization) => write!(f, "organization {organization}"),
            Self::Endpoint(endpoint) => write!(f, "endpoint {endpoint}"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// That deliveries wait because somebody said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// The endpoints whose deliveries wait.
    pub target: Target,
    /// Who asked for it.
    pub by: String,
    /// Why they asked.
    pub reason: String,
    /// When it began.
    #[serde(serialize_with = "crate::status::rfc3339_if_known")]
    pub at: Option<DateTime>,
    /// When it ends by itself; `None`: it lasts until a release.
    #[serde(serialize_with = "crate::status::rfc3339_if_known")]
    pub until: Option<DateTime>,
    /// Earlier holds of the same target, of which this took the place.
    #[serde(skip)]
    pub past: Vec<Period>,
}

/// A target keeps this many of its earlier holds.
const PAST: i32 = 100;

impl Hold {
    fn read(document: &Document) -> Option<Self> {
        let text = |field| document.get_str(field).unwrap_or_default().to_owned();
        let instant = |field| document.get_datetime(field).ok().copied();
        Some(Self {
            target: Target::of_document(document.get_str("_id").ok()?)?,
            by: text("by"),
            reason: text("reason"),
            at: instant("at"),
            until: instant("until"),
            past: read_periods(document, "past"),
        })
    }

    /// The update that writes it down at `now`, over an earlier hold of the same target, which is kept among the past ones.
    fn stages(&self, now: DateTime) -> [Document; 2] {
        let set = doc! { "by": &self.by, "reason": &self.reason, "at": self.at, "until": self.until };
        let before = doc! { "at": "$at", "until": { "$min": [now, "$until"] } };
        let before = doc! { "$cond": [{ "$eq": [{ "$type": "$at" }, "date"] }, [before], []] };
        let past = doc! { "$cond": [{ "$isArray": "$past" }, "$past", []] };
        let past = doc! { "$slice": [{ "$concatArrays": [past, before] }, -PAST] };
        [
            doc! { "$set": { "past": past } },
            doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "$literal": set }] } },
        ]
    }

    /// The same as a row.
    ///
    /// # Errors
    /// A text that is no BSON.
    pub(super) fn row(&self, now: DateTime) -> Result<RawDocumentBuf> {
        let mut update = RawArrayBuf::new();
        for stage in self.stages(now) {
            update.push(RawDocumentBuf::try_from(&stage).map_err(mongodb::error::Error::custom)?);
        }
        Ok(upsert_row(rawdoc! { "_id": self.target.document_id() }, update))
    }

    /// From when to when it held what it means, and the holds before it did. One that has no beginning is left out.
    fn periods(&self, now: DateTime) -> impl Iterator<Item = Period> {
        let last = self.at.map(|at| (at, self.until.map_or(now, |until| until.min(now))));
        self.past.iter().copied().chain(last)
    }

    fn lasts(&self, now: DateTime) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// `by NAME until INSTANT: REASON`; name and reason are text from outside.
    pub fn describe(&self) -> String {
        let by = if self.by.is_empty() { "somebody" } else { &self.by };
        let until = self.until.and_then(|until| until.try_to_rfc3339_string().ok());
        let until = until.map_or_else(String::new, |until| format!(" until {until}"));
        let reason = if self.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", self.reason)
        };
        format!("by {by}{until}{reason}")
    }
}

#[derive(Debug, Default)]
struct Known {
    all: Option<Hold>,
    organizations: HashMap<String, Hold>,
    endpoints: HashMap<EndpointKey, Hold>,
    /// When what was released last.
    released: HashMap<Target, DateTime>,
}

impl Known {
    /// The last hold of that endpoint, of its organization and of everything.
    fn of(&self, endpoint: &EndpointKey) -> impl Iterator<Item = &Hold> {
        let holds = [
            self.endpoints.get(endpoint),
            self.organizations.get(endpoint.organization()),
            self.all.as_ref(),
        ];
        holds.into_iter().flatten()
    }

    /// A hold of that endpoint that lasts: its own, its organization's or that of everything.
    fn lasting(&self, endpoint: &EndpointKey, now: DateTime) -> Option<&Hold> {
        self.of(endpoint).find(|hold| hold.lasts(now))
    }

    /// When the endpoint was last released, be it with others.
    fn released_at(&self, endpoint: &EndpointKey) -> Option<DateTime> {
        if self.released.is_empty() {
            return None;
        }
        let targets = [
            Target::All,
            Target::Organization(endpoint.organization().to_owned()),
            Target::Endpoint(endpoint.clone()),
        ];
        targets
            .iter()
            .filter_map(|target| self.released.get(target))
            .max()
            .copied()
    }

    fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.all
            .iter()
            .chain(self.organizations.values())
            .chain(self.endpoints.values())
    }
}

/// What is held, as far as this instance knows.
#[derive(Clone, Debug)]
pub struct Holds {
    known: Reloadable<Known>,
    /// Locked from reading until `known` is set.
    loading: Arc<Mutex<()>>,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            known: Reloadable::new(Known::default()),
            loading: Arc::default(),
        }
    }
}

impl Holds {
    /// Reads what is held now. Returns the control number as it was then, or an earlier one.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn load(&self, store: &Store) -> Result<i64> {
        // Of two readings at once the later must not lose to the earlier.
        let _loading = self.loading.lock().await;
        // The number first: what is read after it is no older.
        let control = store.state().find_one(doc! { "_id": CONTROL }).await?;
        let mut known = Known::default();
        for hold in load_all(store).await? {
            match &hold.target {
                Target::All => known.all = Some(hold),
                Target::Organization(organization) => drop(known.organizations.insert(organization.clone(), hold)),
                Target::Endpoint(endpoint) => drop(known.endpoints.insert(endpoint.clone(), hold)),
            }
        }
        known.released = control.as_ref().map(read_releases).unwrap_or_default();
        self.known.set(known);
        Ok(control.and_then(|control| control.get_i64("number").ok()).unwrap_or(0))
    }

    /// The hold of that endpoint, if there is one that lasts.
    pub fn of(&self, endpoint: &EndpointKey, now: DateTime) -> Option<Hold> {
        self.known.get().lasting(endpoint, now).cloned()
    }

    /// As [`Holds::of`], without copying it.
    pub fn is_held(&self, endpoint: &EndpointKey, now: DateTime) -> bool {
        self.known.get().lasting(endpoint, now).is_some()
    }

    /// When the endpoint was last released.
    pub fn released_at(&self, endpoint: &EndpointKey) -> Option<DateTime> {
        self.known.get().released_at(endpoint)
    }

    /// When the endpoint was held, up to `now`.
    pub fn periods(&self, endpoint: &EndpointKey, now: DateTime) -> Vec<Period> {
        let known = self.known.get();
        known.of(endpoint).flat_map(|hold| hold.periods(now)).collect()
    }

    /// When the next hold ends by itself.
    pub fn next_end(&self, now: DateTime) -> Option<DateTime> {
        let known = self.known.get();
        known
            .holds()
            .filter_map(|hold| hold.until)
            .filter(|until| *until > now)
            .min()
    }

    /// Every hold that lasts, that of everything first.
    pub fn lasting(&self, now: DateTime) -> Vec<Hold> {
        self.known
            .get()
            .holds()
            .filter(|hold| hold.lasts(now))
            .cloned()
            .collect()
    }
}

/// All holds, those that have ended by themselves too.
///
/// # Errors
/// MongoDB refused or is unavailable.
async fn load_all(store: &Store) -> Result<Vec<Hold>> {
    let filter = doc! { "_id": { "$gte": "hold/", "$lt": "hold0" } };
    let found: Vec<Document> = store.state().find(filter).await?.try_collect().await?;
    Ok(found.iter().filter_map(Hold::read).collect())
}

/// This many releases are noted.
const RELEASES: i32 = 100;

/// The row that notes a release, beside the control number: what is suspended in the memory of an instance, and written nowhere yet, is
/// meant too.
pub(super) fn release_row(target: &Target, now: DateTime) -> RawDocumentBuf {
    let release = rawdoc! { "$literal": { "target": target.document_id(), "at": now } };
    set_control(rawdoc! { "releases": extended("releases", release, RELEASES) })
}

/// The row that raises the control number. It begins with the time, so that it is higher than any that an instance has acted on,
/// although somebody has deleted or changed it since.
pub(super) fn raise_row() -> RawDocumentBuf {
    set_control(rawdoc! { "number": increased("number", 1, rawdoc! { "$toLong": "$$NOW" }) })
}

fn set_control(fields: RawDocumentBuf) -> RawDocumentBuf {
    let pipeline: RawArrayBuf = [rawdoc! { "$set": fields }].into_iter().collect();
    upsert_row(rawdoc! { "_id": CONTROL }, pipeline)
}

/// When what was released last, as the document of the control number says it.
fn read_releases(control: &Document) -> HashMap<Target, DateTime> {
    let releases = control.get_array("releases").into_iter().flatten();
    let release = |release: &Bson| {
        let release = release.as_document()?;
        let target = Target::of_document(release.get_str("target").ok()?)?;
        Some((target, *release.get_datetime("at").ok()?))
    };
    let mut latest = HashMap::new();
    for (target, at) in releases.filter_map(release) {
        let known = latest.entry(target).or_insert(at);
        *known = at.max(*known);
    }
    latest
}

/// Holds everything, for `service.start_held`: instances that run already act on it too.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn hold_everything(store: &Store, now: DateTime) -> Result<()> {
    let hold = Hold {
        target: Target::All,
        by: "service.start_held".into(),
        reason: "every start holds everything".into(),
        at: Some(now),
        until: None,
        past: Vec::new(),
    };
    let (state, id) = (store.state(), hold.target.document_id());
    let stages = hold.stages(now).to_vec();
    state.update_one(doc! { "_id": id }, stages).upsert(true).await?;
    let refused = store.update_each(STATE, &[raise_row()]).await?;
    refused.into_iter().next().map_or(Ok(()), Err)
}

/// The filter for the holds that a release of that target ends at `now`: its own, and those of what belongs to it. When another ended
/// stays as it is.
pub(super) fn released_by(target: &Target, now: DateTime) -> Document {
    // Whatever is there that is no instant.
    let lasts = doc! { "until": { "$not": { "$lte": now } } };
    doc! { "$and": [meant_by(target), lasts] }
}

fn meant_by(target: &Target) -> Document {
    match target {
        Target::All => doc! { "_id": { "$gte": "hold/", "$lt": "hold0" } },
        Target::Organization(organization) => doc! { "$or": [
            { "_id": target.document_id() },
            { "_id": { "$gte": format!("hold/endpoint/{organization}/"), "$lt": format!("hold/endpoint/{organization}0") } },
        ] },
        Target::Endpoint(_) => doc! { "_id": target.document_id() },
    }
}

/// The filter for the episodes of the endpoints that are meant.
pub(super) fn episodes_of(target: &Target) -> Document {
    match target {
        Target::All => all_episodes(),
        Target::Organization(organization) => {
            doc! { "_id": { "$gte": format!("episode/{organization}/"), "$lt": format!("episode/{organization}0") } }
        }
        Target::Endpoint(endpoint) => doc! { "_id": episode_id(endpoint) },
    }
}
