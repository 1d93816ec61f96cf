//! What is known to wait in one queue: an endpoint's batches of one class.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bson::{DateTime, RawDocumentBuf};

use crate::dispatch::queue::InMemory;
use crate::model::EndpointKey;
use crate::outbox::{Class, Want};

/// Known batches per class of an endpoint, at most.
const KNOWN: usize = 64;

/// Bytes of batches that need not be read, at most.
const DOCUMENT_BYTES: usize = 8 << 20;

/// Deliveries that a batch is expected to hold, for a read of batches that are not known.
const EXPECTED: usize = 64;

/// A batch that is known.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) due: DateTime,
    pub(super) id: Arc<str>,
    pub(super) document: Option<Document>,
}

/// A batch that this instance has appended and keeps in memory, so that it need not be read.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) batch: Arc<RawDocumentBuf>,
    bytes: DocumentBytes,
}

impl Drop for Document {
    fn drop(&mut self) {
        self.bytes.0.fetch_sub(self.batch.as_bytes().len(), Ordering::Relaxed);
    }
}

/// The bytes of such batches.
#[derive(Clone, Debug, Default)]
pub(super) struct DocumentBytes(Arc<AtomicUsize>);

impl DocumentBytes {
    /// Keeps a batch, unless all of them would be too large.
    pub(super) fn keep(&self, batch: RawDocumentBuf) -> Option<Document> {
        let bytes = batch.as_bytes().len();
        if self.0.fetch_add(bytes, Ordering::Relaxed) + bytes > DOCUMENT_BYTES {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(Document {
            batch: Arc::new(batch),
            bytes: self.clone(),
        })
    }
}

#[derive(Debug)]
pub(super) struct Begun {
    pub(super) id: Arc<str>,
    pub(super) document: Document,
}

/// What waits in one queue.
#[derive(Debug, Default)]
pub(super) struct ClassQueue {
    /// The first batches, in order, as far as they are known and not read.
    pub(super) known: VecDeque<Known>,
    /// An appended batch of which only the first deliveries were enqueued.
    pub(super) begun: Option<Begun>,
    /// There may be others that are not known: they are asked for by range.
    pub(super) more: bool,
    /// Some were appended since they were last asked for: after a read that finds no more, there may be more all the same.
    pub(super) added: bool,
    /// When the first batch that is not due yet will be.
    pub(super) later: Option<DateTime>,
}

impl ClassQueue {
    pub(super) fn add(&mut self, batch: Known) {
        if self.more {
            self.added = true;
            return;
        }
        if self.known.iter().any(|known| known.id == batch.id) {
            return;
        }
        if self.known.len() >= KNOWN {
            self.more = true;
            return;
        }
        let index = self.known.partition_point(|known| known.due <= batch.due);
        self.known.insert(index, batch);
    }

    /// A look found this batch to be the first.
    pub(super) fn found(&mut self, due: DateTime, id: Arc<str>, in_memory: bool, now: DateTime) {
        if due > now {
            self.later = Some(due);
            return;
        }
        if in_memory {
            self.more = true;
        } else if self.known.front().is_none_or(|known| known.id != id) {
            self.known.clear();
            self.known.push_back(Known {
                due,
                id,
                document: None,
            });
            self.more = true;
        }
    }

    pub(super) fn waits(&self, now: DateTime) -> bool {
        self.more || self.known.front().is_some_and(|known| known.due <= now)
    }

    pub(super) fn come_due(&mut self, now: DateTime) {
        self.more |= self.later.take_if(|due| *due <= now).is_some();
    }

    pub(super) fn choose(
        &mut self,
        endpoint: &EndpointKey,
        class: Class,
        slots: usize,
        alone: bool,
        memory: &InMemory,
        now: DateTime,
    ) -> Vec<Want> {
        let batches = match class {
            Class::Live => ((slots + EXPECTED / 2) / EXPECTED).max(1),
            Class::Retry | Class::Background => slots,
        };
        let known = self
            .known
            .iter()
            .take_while(|known| known.due <= now)
            .take(batches)
            .count();
        if known == 0 || (self.more && known < batches && !alone) {
            self.known.clear();
            self.added = false;
            let want = Want::Next {
                endpoint: endpoint.clone(),
                class,
                except: memory.batches.clone(),
                batches,
            };
            return if self.more { vec![want] } else { Vec::new() };
        }
        // A live batch is read whole where half of it or more has slots.
        let is_partial = class == Class::Live && (alone || slots < EXPECTED / 2);
        let known: Vec<_> = self.known.drain(..known).collect();
        let want = |known| self.want(known, is_partial.then_some(slots));
        known.into_iter().map(want).collect()
    }

    /// A known batch: from memory where it is there, and only its first deliveries where there is a `limit`.
    fn want(&mut self, known: Known, limit: Option<usize>) -> Want {
        let id = known.id;
        match (known.document, limit) {
            (Some(document), _) => {
                let batch = Arc::clone(&document.batch);
                if limit.is_some() {
                    self.begun = Some(Begun { id, document });
                }
                Want::Appended {
                    document: batch,
                    from: 0,
                    limit: limit.unwrap_or(usize::MAX),
                }
            }
            (None, Some(limit)) => Want::Slice { id, skip: None, limit },
            (None, None) => Want::Batch(id),
        }
    }
}
