//! What happened to a certificate, an event or a delivery, as MongoDB knows it: for `certhookd show`,
//! `certhookd deliveries` and the page.
//!
//! Every query is a range of an index. Documents may hold anything: what can't be read is named, and the rest is told.

mod certificate;
mod configured;
mod documents;
mod endpoint;
mod endpoint_states;
mod fields;
mod list;
mod merged;
mod name;
mod next;
mod notes;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use bson::{DateTime, RawDocument, doc};
use serde::Serialize;

use crate::cluster::is_any_alive;
use crate::config::Config;
use crate::model::{EndpointKey, printable};
use crate::outbox::{LookedUp, look_up};
use crate::status::{rfc3339, rfc3339_if_known};
use crate::store::{Result, Store};

use endpoint_states::load_states;
use name::Name;

pub use certificate::Certificate;
pub use configured::Configured;
pub use endpoint::{Asked, Failure, OfEndpoint, of_endpoint, off_reason};
pub use list::{After, Choice, Listing, STATES, list};
pub use next::Next;
pub use words::{Line, instant};

/// All that is known of what was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// What was asked for.
    pub asked: String,
    /// When it was asked, by the database's clock.
    #[serde(serialize_with = "rfc3339")]
    pub at: DateTime,
    /// The certificate, if that was asked for and it is there.
    pub certificate: Option<Certificate>,
    /// What is known besides, and why there is nothing where there is nothing.
    pub notes: Vec<Note>,
    /// Its events, the oldest first.
    pub events: Vec<Event>,
    /// What could not be read.
    pub odd: Vec<Odd>,
}

/// Something that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// A word for it that stays the same.
    pub code: &'static str,
    /// The same for people.
    pub text: String,
}

/// An event, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Its id, the `webhook-id` of its requests.
    pub event: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it happened.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub occurred_at: Option<DateTime>,
    /// One for each endpoint that wanted it.
    pub deliveries: Vec<Delivery>,
}

/// An event on its way to one endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// `EVENT/ORGANIZATION/ENDPOINT`
    pub delivery: String,
    /// The event.
    pub event: String,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When the event happened.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub occurred_at: Option<DateTime>,
    /// The organization's id.
    pub organization: String,
    /// The endpoint's id.
    pub endpoint: String,
    /// What the organization calls the endpoint; empty if that is not known.
    pub name: String,
    /// `pending`, `delivered`, `dead`, `cancelled`, `rejected`, `moved` or `unknown`.
    pub state: &'static str,
    /// When it ended.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub ended_at: Option<DateTime>,
    /// Why it ended so.
    pub reason: Option<String>,
    /// When it is due, where it is pending; as JSON `next` says it.
    #[serde(skip)]
    pub due: Option<DateTime>,
    /// Attempts since it began, or since it was last replayed.
    pub attempts: i64,
    /// What failed last.
    pub last_error: Option<String>,
    /// What happens next.
    pub next: Next,
    /// The last attempts, the oldest first.
    pub history: Vec<Attempt>,
    /// The replays, the oldest first.
    pub replays: Vec<Replay>,
    /// The `_id` of the document of the outbox that says so.
    pub document: String,
}

/// One request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// When it ended.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub at: Option<DateTime>,
    /// The instance that made it, where that is kept.
    pub instance: Option<String>,
    /// Its number since the delivery began, or since it was last replayed.
    pub n: Option<i64>,
    /// The response's status.
    pub status: Option<i64>,
    /// What failed.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: Option<i64>,
    /// How long until there was a connection, in milliseconds.
    pub connect_ms: Option<i64>,
    /// How the response began.
    pub response: Option<String>,
    /// Why the delivery was a dead letter from then on.
    pub reason: Option<String>,
    /// Whether a dead letter went out again by itself.
    pub redriven: bool,
}

/// A replay, and what it took up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// When.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub at: Option<DateTime>,
    /// How the delivery had ended.
    pub state: Option<String>,
    /// After how many attempts.
    pub attempts: Option<i64>,
    /// Why.
    pub reason: Option<String>,
}

/// A document of which something can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Odd {
    /// Its `_id`.
    pub document: String,
    /// What is wrong with it.
    pub why: String,
}

impl History {
    /// Whether anything is known of what was asked for.
    pub fn is_known(&self) -> bool {
        let told = self.notes.iter().any(|note| note.code != notes::UNKNOWN);
        self.certificate.is_some() || !self.events.is_empty() || !self.odd.is_empty() || told
    }

    /// Why nothing is known.
    pub fn why_unknown(&self) -> String {
        let note = self.notes.iter().find(|note| note.code == notes::UNKNOWN);
        note.map_or_else(|| "nothing is known of it".into(), |note| note.text.clone())
    }
}

/// All that is known of a certificate (its `_id`), an event (its id), a delivery (`EVENT/ORGANIZATION/ENDPOINT`) or a document of the
/// outbox (its `_id`).
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn load(store: &Store, endpoints: &impl Configured, config: &Config, asked: &str) -> Result<History> {
    let at = store.database_time().await?;
    let (name, mut read) = read(store, asked).await?;
    let mut told = documents::load_notes(store, &name).await?;
    let is_about_certificate = read.is_empty() || matches!(name, Name::Certificate { .. });
    let found = match is_about_certificate {
        true => certificate::load(store, &name).await?,
        false => None,
    };
    let organizations = configured::organizations(&name, &read, found.as_deref());
    let directory = &endpoints.of(&organizations).await?;
    let known = notes::Known {
        config,
        directory,
        at,
        read: &read,
        noted: &told,
    };
    if is_about_certificate {
        let more = certificate_notes(store, &name, asked, found.as_deref(), &known).await?;
        told.extend(more);
    }
    told.extend(notes::of_endpoint(&name, &read, directory));
    let keys: BTreeSet<EndpointKey> = read.deliveries.iter().map(|stored| stored.key()).collect();
    let states = load_states(store, directory, config, &keys, at).await?;
    let deliveries = merged::deliveries(&mut read, directory, |stored| next::next(stored, &states, config, at));
    if deliveries.iter().any(|one| one.state == "pending") && !is_any_alive(store, at).await? {
        told.push(notes::no_instance());
    }
    Ok(History {
        asked: shown(asked),
        at,
        certificate: found.as_deref().map(Certificate::of),
        notes: told,
        events: by_event(deliveries),
        odd: read.odd,
    })
}

/// What is known of the certificate, or why there is none.
async fn certificate_notes(
    store: &Store,
    name: &Name,
    asked: &str,
    found: Option<&RawDocument>,
    known: &notes::Known<'_>,
) -> Result<Vec<Note>> {
    Ok(match found {
        Some(found) => notes::of_certificate(store, found, known).await?,
        None if known.read.is_empty() && known.noted.is_empty() => {
            vec![notes::unknown(&why_none(store, name, asked).await?)]
        }
        None if name.certificate_ids().is_empty() => Vec::new(),
        None => vec![notes::missing()],
    })
}

/// What the outbox holds under that name, and which kind of name it is.
async fn read(store: &Store, asked: &str) -> Result<(Name, documents::Stored)> {
    let name = Name::of(asked);
    let read = documents::load(store, &name).await?;
    match name {
        Name::Document { certificate, .. } if read.is_empty() => {
            let read = documents::load(store, &certificate).await?;
            Ok((*certificate, read))
        }
        name => Ok((name, read)),
    }
}

/// Whether the outbox holds something of that endpoint or organization: a range of `_id`.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn is_in_outbox(store: &Store, name: &str) -> Result<bool> {
    let range = doc! { "$gte": format!("{name}/"), "$lt": format!("{name}0") };
    let outbox = store.outbox();
    let found = outbox.find_one(doc! { "_id": range }).projection(doc! { "_id": 1 });
    Ok(found.await?.is_some())
}

fn by_event(deliveries: Vec<Delivery>) -> Vec<Event> {
    let mut events: BTreeMap<(Option<DateTime>, String), Event> = BTreeMap::new();
    for delivery in deliveries {
        let key = (delivery.occurred_at, delivery.event.clone());
        let event = events.entry(key).or_insert_with(|| Event {
            event: delivery.event.clone(),
            event_type: delivery.event_type.clone(),
            occurred_at: delivery.occurred_at,
            deliveries: Vec::new(),
        });
        event.deliveries.push(delivery);
    }
    events.into_values().collect()
}

/// The longest id that is said again, in bytes: whoever asked for a longer one knows it.
const LONGEST_ID: usize = 300;

/// An id as somebody wrote it, in one line.
fn shown(id: &str) -> String {
    let shown = printable(id.as_bytes(), LONGEST_ID);
    match id.len() > LONGEST_ID {
        true => shown + "…",
        false => shown,
    }
}

async fn why_none(store: &Store, name: &Name, asked: &str) -> Result<String> {
    let shown = shown(asked);
    if matches!(name, Name::Certificate { .. }) && !asked.contains('/') {
        let certificates = store.badge_users();
        return Ok(format!(
            "there is no certificate {shown} in {}, and the outbox holds nothing of one",
            certificates.name()
        ));
    }
    Ok(match look_up(store, asked).await? {
        LookedUp::Nearest(Some(nearest)) => {
            format!(
                "the outbox holds no {shown}, and there is no such certificate; the nearest: {}",
                self::shown(&nearest)
            )
        }
        _ => format!("the outbox holds no {shown}, and there is no such certificate"),
    })
}
