//! Documents that may be the next, and those among them whose order can't be read.

use bson::{DateTime, Document, RawDocumentBuf};
use futures_util::TryStreamExt;

use super::heads::Head;
use crate::history::Odd;
use crate::history::fields::shown;
use crate::store::Result;

#[derive(Default)]
pub(super) struct Candidates {
    pub(super) all: Vec<Candidate>,
    pub(super) odd: Vec<Odd>,
    /// With the odd ones.
    pub(super) looked: usize,
}

pub(super) struct Candidate {
    pub(super) at: DateTime,
    pub(super) id: String,
    pub(super) is_chosen: bool,
}

impl Candidate {
    pub(super) fn head(&self) -> Head {
        Head {
            at: self.at,
            id: self.id.clone(),
        }
    }
}

impl Candidates {
    pub(super) fn of(all: Vec<Candidate>) -> Self {
        Self {
            looked: all.len(),
            all,
            odd: Vec::new(),
        }
    }

    pub(super) async fn read(
        &mut self,
        mut found: mongodb::Cursor<RawDocumentBuf>,
        field: &str,
        is_chosen: impl Fn(&Document) -> bool,
    ) -> Result<()> {
        while let Some(document) = found.try_next().await? {
            if let Ok(document) = Document::try_from(&document) {
                self.add(&document, field, is_chosen(&document));
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, document: &Document, field: &str, is_chosen: bool) {
        self.looked += 1;
        match (document.get_datetime(field), document.get_str("_id")) {
            (Ok(at), Ok(id)) => self.all.push(Candidate {
                at: *at,
                id: id.to_owned(),
                is_chosen,
            }),
            _ => self.odd.push(Odd {
                document: document.get("_id").map_or_else(String::new, shown),
                why: format!("`{field}` is not a date, or `_id` is not a string"),
            }),
        }
    }

    pub(super) fn sort(&mut self, ascends: bool) {
        self.all
            .sort_by(|one, other| (one.at, &one.id).cmp(&(other.at, &other.id)));
        if !ascends {
            self.all.reverse();
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        self.all.extend(other.all);
        self.looked += other.looked;
        self.odd.extend(other.odd);
    }
}
