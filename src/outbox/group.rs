//! Results that were written together, as a note in the outbox until the statistics have counted them.
//!
//! The note is the first row of the command that writes the results, and the rows are written in order: no result is there
//! without its note. Each result leaves its group's number in the delivery, under its owner's name, so that results that were
//! written can be told from those that were not, whatever became of the deliveries since. Not a transaction: one whose daemon
//! dies keeps its deliveries locked for a minute.

use bson::raw::{CStr, CString};
use bson::{DateTime, Document, RawArrayBuf, RawDocumentBuf, cstr, doc, rawdoc};

use super::document::id_list;
use super::{Next, Verdict};

/// What a result counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The delivery was accepted.
    Delivered,
    /// An attempt failed; the delivery is tried again, or had been given up before.
    Failed,
    /// An attempt failed, and with it the delivery was given up.
    Dead,
    /// The delivery ended without an attempt.
    Cancelled,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Delivered, Self::Failed, Self::Dead, Self::Cancelled];

    /// `None`: nothing was attempted, and nothing has ended.
    fn of(Verdict { delivery, next }: &Verdict) -> Option<Self> {
        match next {
            Next::Delivered { .. } => Some(Self::Delivered),
            Next::Dead { .. } if !delivery.redriven => Some(Self::Dead),
            Next::Dead { .. } | Next::Retry { .. } => Some(Self::Failed),
            Next::Cancelled { .. } => Some(Self::Cancelled),
            Next::Released => None,
        }
    }

    /// The field of a note that lists such deliveries.
    fn field(self) -> &'static CStr {
        match self {
            Self::Delivered => cstr!("delivered"),
            Self::Failed => cstr!("failed"),
            Self::Dead => cstr!("dead"),
            Self::Cancelled => cstr!("cancelled"),
        }
    }
}

/// One result.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The delivery's `_id`.
    pub(super) id: String,
    /// What it counts as.
    pub kind: Kind,
    /// What failed, if something did.
    pub reason: Option<String>,
}

impl Entry {
    fn of(verdict: &Verdict) -> Option<Self> {
        let reason = match &verdict.next {
            Next::Retry { failure, .. } | Next::Dead { failure, .. } => Some(failure.reason.clone()),
            _ => None,
        };
        Some(Self {
            id: verdict.delivery.id(),
            kind: Kind::of(verdict)?,
            reason,
        })
    }

    /// The endpoint's key.
    pub fn endpoint(&self) -> &str {
        self.id.split_once('/').map_or("", |(_, endpoint)| endpoint)
    }
}

/// Results that were written together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Who wrote them.
    pub owner: String,
    /// The group's number; a later group of the same owner has a higher one.
    pub number: i64,
    /// When the results were in.
    pub at: DateTime,
    /// The results.
    pub entries: Vec<Entry>,
}

impl Group {
    pub(super) fn of(owner: &str, number: i64, verdicts: &[Verdict], at: DateTime) -> Self {
        Self {
            owner: owner.to_owned(),
            number,
            at,
            entries: verdicts.iter().filter_map(Entry::of).collect(),
        }
    }

    /// Reads a note; `None` if it is none.
    pub(super) fn read(note: &Document) -> Option<Self> {
        let of_kind = |kind: Kind| {
            let ids = note.get_array(kind.field().as_str()).ok()?;
            let entry = move |id: &str| Entry {
                id: id.to_owned(),
                kind,
                reason: None,
            };
            Some(ids.iter().filter_map(|id| id.as_str()).map(entry))
        };
        Some(Self {
            owner: note.get_str("by").ok()?.to_owned(),
            number: note.get_i64("n").ok()?,
            at: *note.get_datetime("at").ok()?,
            entries: Kind::ALL.into_iter().filter_map(of_kind).flatten().collect(),
        })
    }

    /// The row that writes the note.
    pub(super) fn row(&self) -> RawDocumentBuf {
        let mut note = rawdoc! { "by": self.owner.as_str(), "n": self.number, "at": self.at };
        for kind in Kind::ALL {
            let of_kind = self.entries.iter().filter(|entry| entry.kind == kind);
            let ids: RawArrayBuf = of_kind.map(|entry| entry.id.as_str()).collect();
            if !ids.is_empty() {
                note.append(kind.field(), ids);
            }
        }
        rawdoc! { "q": { "_id": self.id() }, "u": { "$set": note }, "upsert": true }
    }

    /// The note's `_id`.
    pub(super) fn id(&self) -> String {
        format!("group/{}/{}", self.owner, self.number)
    }

    /// The deliveries in which a result of this group, or of the owner's later ones, was written.
    pub(super) fn written(&self) -> Document {
        let ids = self.entries.iter().map(|entry| entry.id.clone());
        doc! { "_id": { "$in": id_list(ids) }, stamp(&self.owner).as_str(): { "$gte": self.number } }
    }
}

/// The field of a delivery that holds the number of the last group of this owner with a result of it.
pub(super) fn stamp(owner: &str) -> CString {
    // Names of owners hold no zero byte.
    CString::try_from(format!("recorded.{owner}")).unwrap_or_else(|_| cstr!("recorded.unnamed").into())
}

/// The notes of owners that are not in `live`.
pub(super) fn left_behind(live: &[String]) -> Document {
    doc! { "_id": { "$gte": "group/", "$lt": "group0" }, "by": { "$nin": live } }
}
