//! What is asked for: a document of `webhook_operations`, read and judged. Who wrote it is not trusted: whatever can't be
//! understood is refused with the field, what was expected and what was found.

use bson::{Bson, DateTime, Document};

use super::fields::{
    boolean, endpoint, endpoint_of, event_type, id, id_by, instant, known_fields, mismatch, one_of, rate, section,
    shown, states, text, wrong,
};
use super::holds::Target;
use super::subject;
use crate::model::{EndpointKey, key_part};
use crate::outbox::{Selection, Subject};

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Deliveries that have ended go out again.
    Replay,
    /// Deliveries of an endpoint, an organization or all wait.
    Hold,
    /// They go out again.
    Release,
    /// Deliveries that wait, or dead letters, end as cancelled.
    Cancel,
    /// A sample goes to an endpoint.
    Test,
    /// The present state of an organization's certificates goes to one of its endpoints.
    Backfill,
    /// Payloads of a user or a certificate go, and what waits of them is cancelled.
    Erase,
}

/// The kinds that take one transaction, or none.
pub(super) const QUICK: [&str; 3] = ["hold", "release", "test"];

impl Kind {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Replay, "replay"),
        (Self::Hold, "hold"),
        (Self::Release, "release"),
        (Self::Cancel, "cancel"),
        (Self::Test, "test"),
        (Self::Backfill, "backfill"),
        (Self::Erase, "erase"),
    ];

    /// Its name in a document.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(kind, _)| *kind)
    }

    /// The fields of `selection` that it takes.
    fn selects_by(self) -> &'static [&'static str] {
        match self {
            Self::Replay | Self::Cancel => &[
                "all",
                "organization",
                "endpoint",
                "certificate",
                "event",
                "delivery",
                "eventType",
                "states",
                "from",
                "to",
            ],
            Self::Hold | Self::Release => &["all", "organization", "endpoint"],
            Self::Test => &["organization", "endpoint", "eventType"],
            Self::Backfill => &["organization", "endpoint", "certificate", "from", "to"],
            Self::Erase => &["user", "certificate"],
        }
    }

    /// Deliveries per second where `ratePerSecond` is absent; `None`: as fast as it goes.
    fn usual_rate(self) -> Option<f64> {
        (self == Self::Backfill).then_some(100.0)
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Replay | Self::Cancel | Self::Erase => &["ratePerSecond", "dryRun"],
            Self::Hold => &["until"],
            Self::Backfill => &["ratePerSecond", "dryRun", "includeExpired"],
            Self::Release | Self::Test => &[],
        }
    }

    /// The states that `selection.states` may name, and those that are meant where it is absent.
    fn states(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Cancel => (&["pending", "dead"], &["pending"]),
            _ => (&["dead", "cancelled", "delivered"], &["dead"]),
        }
    }
}

/// An operation that makes sense.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) kind: Kind,
    /// Which deliveries: for replay and cancel.
    pub(super) selection: Selection,
    /// Which deliveries wait, or go out again: for hold and release.
    pub(super) target: Option<Target>,
    /// Whose: for erase.
    pub(super) subject: Option<Subject>,
    pub(super) until: Option<DateTime>,
    /// Deliveries per second, at most; `None`: as fast as it goes.
    pub(super) rate: Option<f64>,
    pub(super) is_dry_run: bool,
    pub(super) includes_expired: bool,
    pub(super) by: String,
    pub(super) reason: String,
    pub(super) cancel: bool,
}

/// An `_id` as people read it.
pub fn id_text(id: &Bson) -> String {
    match id {
        Bson::ObjectId(id) => id.to_hex(),
        Bson::String(text) => shown(text),
        other => shown(&other.to_string()),
    }
}

/// Why a document is refused, for whoever inserted it.
pub type Refusal = String;

/// The fields that a document may have, and what Mongoose adds.
const FIELDS: [&str; 17] = [
    "_id",
    "kind",
    "selection",
    "options",
    "by",
    "reason",
    "at",
    "cancel",
    "state",
    "progress",
    "result",
    "startedAt",
    "finishedAt",
    "instance",
    "__v",
    "createdAt",
    "updatedAt",
];

impl Request {
    /// Reads and judges a document.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn read(document: &Document) -> Result<Self, Refusal> {
        known_fields(document, "", &FIELDS, &["error", "control"])?;
        let kinds = || Kind::ALL.map(|(_, name)| name).join(", ");
        let kind = match document.get("kind") {
            Some(Bson::String(name)) => {
                Kind::parse(name).ok_or_else(|| wrong("kind", format!("one of {}", kinds()), name))
            }
            other => Err(mismatch("kind", format!("one of {}", kinds()), other)),
        }?;
        let selection = section(document, "selection")?;
        let chosen = selection_of(kind, &selection)?;
        let options = section(document, "options")?;
        known_fields(&options, "options.", kind.options(), &[])?;
        let target = match kind {
            Kind::Hold | Kind::Release => Some(read_target(&selection)?),
            _ => None,
        };
        let subject = (kind == Kind::Erase).then(|| subject::read(&selection)).transpose()?;
        Ok(Self {
            kind,
            target,
            subject,
            selection: chosen,
            until: instant(&options, "options.", "until")?,
            rate: rate(&options)?.or(kind.usual_rate()),
            is_dry_run: boolean(&options, "options.", "dryRun")?,
            includes_expired: boolean(&options, "options.", "includeExpired")?,
            by: text(document, "by")?,
            reason: text(document, "reason")?,
            cancel: boolean(document, "", "cancel")?,
        })
    }
}

impl Request {
    /// Whether it takes one transaction at most.
    pub(super) fn is_quick(&self) -> bool {
        QUICK.contains(&self.kind.as_str())
    }

    /// The endpoint, if it is named by its id alone.
    pub(super) fn bare_endpoint(&self) -> Option<String> {
        let named = match &self.target {
            Some(Target::Endpoint(endpoint)) => Some(endpoint.as_str()),
            _ => self.selection.endpoint.as_deref(),
        };
        named.filter(|named| !named.contains('/')).map(str::to_owned)
    }

    /// The endpoint, if what is asked for makes no sense without its configuration.
    pub(super) fn must_be_configured(&self) -> Option<EndpointKey> {
        let endpoint = self.selection.endpoint.as_deref().map(EndpointKey::from_stored);
        endpoint.filter(|endpoint| matches!(self.kind, Kind::Test | Kind::Backfill) && !endpoint.is_own())
    }

    pub(super) fn set_endpoint(&mut self, endpoint: &EndpointKey) {
        self.selection.endpoint = Some(endpoint.as_str().to_owned());
        if self.target.is_some() {
            self.target = Some(Target::Endpoint(endpoint.clone()));
        }
    }

    /// The `reason` of a delivery that it cancels.
    pub(super) fn cancel_reason(&self) -> String {
        let by = if self.by.is_empty() { "an operation" } else { &self.by };
        match self.reason.as_str() {
            "" => format!("cancelled by {by}"),
            reason => format!("cancelled by {by}: {reason}"),
        }
    }
}

/// What a `selection` means.
///
/// # Errors
/// The first thing that makes no sense.
pub fn selection_of(kind: Kind, selection: &Document) -> Result<Selection, Refusal> {
    known_fields(selection, "selection.", kind.selects_by(), &[])?;
    match kind {
        Kind::Erase => Ok(Selection::default()),
        _ => read_selection(kind, selection),
    }
}

fn read_target(selection: &Document) -> Result<Target, Refusal> {
    let all = boolean(selection, "selection.", "all")?;
    let organization = id(selection, "organization")?;
    let endpoint = endpoint(selection, organization.as_deref())?;
    endpoint_of(endpoint.as_deref(), organization.as_deref())?;
    match (all, organization, endpoint) {
        (true, None, None) => Ok(Target::All),
        (false, Some(organization), None) => Ok(Target::Organization(organization)),
        (false, _, Some(endpoint)) => Ok(Target::Endpoint(EndpointKey::from_stored(&endpoint))),
        (true, ..) => Err("`selection`: expected `all` or an organization or endpoint, found both".into()),
        (false, None, None) => Err(empty("all: true, organization or endpoint")),
    }
}

fn read_selection(kind: Kind, selection: &Document) -> Result<Selection, Refusal> {
    let (allowed, usual) = kind.states();
    let organization = id(selection, "organization")?;
    let chosen = Selection {
        id: one_of(selection, "delivery", "event")?,
        certificate: id_by(selection, "certificate", key_part)?,
        endpoint: endpoint(selection, organization.as_deref())?,
        organization,
        event_type: event_type(selection)?,
        from: instant(selection, "selection.", "from")?,
        to: instant(selection, "selection.", "to")?,
        states: states(selection, allowed)?.unwrap_or_else(|| usual.iter().map(|state| (*state).to_owned()).collect()),
    };
    let all = boolean(selection, "selection.", "all")?;
    match kind {
        Kind::Hold | Kind::Release => {}
        Kind::Test | Kind::Backfill if chosen.endpoint.is_none() => return Err(empty("an endpoint")),
        Kind::Test | Kind::Backfill => endpoint_of(chosen.endpoint.as_deref(), chosen.organization.as_deref())?,
        _ if !all && !chosen.chooses() => return Err(empty("what is meant, or all: true")),
        _ if all && chosen.chooses() => {
            return Err("`selection`: expected `all` or a choice, found both".into());
        }
        _ => {}
    }
    Ok(chosen)
}

pub(super) fn empty(expected: &str) -> Refusal {
    format!("`selection`: expected {expected}, found nothing that chooses")
}
