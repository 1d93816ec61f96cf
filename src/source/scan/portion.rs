//! A portion of a scan: as many certificates as the queue has room for, from the outbox write to the mark.

use std::collections::HashSet;

use bson::{DateTime, RawDocumentBuf};
use tokio::sync::mpsc;

use super::{Report, Scan, reject};
use crate::kill_point;
use crate::model::EventType;
use crate::outbox::Staged;
use crate::platform::{Event, Unfit, badge_user};
use crate::source::mark::{Mark, mark};
use crate::store::Stopped;

/// However full the queue is, a portion has so many: what finds no room waits in the outbox.
const LEAST: usize = 100;

/// Batches as they are read, cut into portions.
pub(super) struct Portions {
    batches: mpsc::Receiver<Result<Vec<RawDocumentBuf>, Stopped>>,
    rest: Vec<RawDocumentBuf>,
}

impl Portions {
    pub(super) fn new(batches: mpsc::Receiver<Result<Vec<RawDocumentBuf>, Stopped>>) -> Self {
        Self {
            batches,
            rest: Vec::new(),
        }
    }

    /// The next portion, of at most `room` documents but [`LEAST`]; `None` when all is read.
    pub(super) async fn next(&mut self, room: usize) -> Result<Option<Vec<RawDocumentBuf>>, Stopped> {
        if self.rest.is_empty() {
            let Some(batch) = self.batches.recv().await else {
                return Ok(None);
            };
            self.rest = batch?;
        }
        let later = self.rest.split_off(room.max(LEAST).min(self.rest.len()));
        Ok(Some(std::mem::replace(&mut self.rest, later)))
    }
}

/// A portion that is in the outbox and not marked yet.
pub(super) struct Portion {
    documents: Vec<RawDocumentBuf>,
    events: Vec<Result<Event, Unfit>>,
    staged: Staged,
    /// What the payloads say of the mark.
    marked_at: DateTime,
}

impl Scan {
    /// Writes the next portion to the outbox; `None` when all is read, or when the daemon stops.
    pub(super) async fn stage_next(&self, portions: &mut Portions) -> Result<Option<Portion>, Stopped> {
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        match portions.next(self.outbox.room().await).await? {
            Some(documents) => Ok(Some(self.stage(documents).await?)),
            None => Ok(None),
        }
    }

    /// Outbox first, then the mark: a crash in between costs a repetition, never an event.
    async fn stage(&self, documents: Vec<RawDocumentBuf>) -> Result<Portion, Stopped> {
        let marked_at = self.clock.now();
        let event = |document: &RawDocumentBuf| badge_user::expired(document, marked_at);
        let events: Vec<_> = documents.iter().map(event).collect();
        let deliveries = events
            .iter()
            .flatten()
            .flat_map(|event| self.deliveries(event))
            .collect();
        let staged = self.outbox.stage(deliveries, marked_at).await?;
        kill_point::reach("staged");
        Ok(Portion {
            documents,
            events,
            staged,
            marked_at,
        })
    }

    /// Marks the certificates of a portion and lets its deliveries go.
    pub(super) async fn finish(&self, portion: Option<Portion>, report: &mut Report) -> Result<(), Stopped> {
        let Some(portion) = portion else { return Ok(()) };
        let Portion {
            documents,
            events,
            staged,
            marked_at,
        } = portion;
        let unfit = events.iter().filter_map(|event| event.as_ref().err());
        let rejected: Vec<_> = unfit
            .map(|unfit| reject(unfit, EventType::CertificateExpired))
            .collect();
        self.outbox.reject(&rejected, marked_at).await?;
        let marks: Vec<_> = documents.iter().map(|document| Mark::of(document)).collect();
        let renewed = mark(&self.store, &marks, marked_at).await?;
        kill_point::reach("marked");
        let taken_back: HashSet<_> = renewed
            .iter()
            .filter_map(|place| events[*place].as_ref().ok())
            .map(|event| event.message.event_id.clone())
            .collect();
        let appended = staged.appended;
        let withdrawn = self.outbox.confirm(staged, &taken_back).await?;
        kill_point::reach("confirmed");
        report.found += documents.len();
        report.rejected += rejected.len();
        report.renewed += renewed.len();
        report.deliveries += appended.fresh - withdrawn;
        report.known += appended.known;
        Ok(())
    }
}
