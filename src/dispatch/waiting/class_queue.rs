//! What is known to wait in one queue: an endpoint's batches of one class.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bson::{DateTime, RawDocumentBuf};

use crate::dispatch::queue::InMemory;
use crate::model::EndpointKey;
use crate::outbox::{Class, Head, Want};

/// Known batches per class of an endpoint, at most.
const KNOWN: usize = 64;

/// Bytes of batches that need not be read, at most.
const CACHED_BYTES: usize = 8 << 20;

/// Deliveries that a batch is expected to hold, for a read of batches that are not known.
const EXPECTED: usize = 64;

/// A batch that is known.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) due: DateTime,
    pub(super) id: Arc<str>,
    /// How many of its deliveries have no recorded result.
    pub(super) open: usize,
    pub(super) cached: Option<CachedBatch>,
}

/// A batch that this instance has appended and keeps in memory, so that it need not be read.
#[derive(Debug)]
pub(super) struct CachedBatch {
    pub(super) raw: Arc<RawDocumentBuf>,
    bytes: CachedBytes,
}

impl Drop for CachedBatch {
    fn drop(&mut self) {
        self.bytes.0.fetch_sub(self.raw.as_bytes().len(), Ordering::Relaxed);
    }
}

/// The bytes of cached batches.
#[derive(Clone, Debug, Default)]
pub(super) struct CachedBytes(Arc<AtomicUsize>);

impl CachedBytes {
    /// Keeps a batch, unless all of them would be too large.
    pub(super) fn keep(&self, batch: RawDocumentBuf) -> Option<CachedBatch> {
        let bytes = batch.as_bytes().len();
        if self.0.fetch_add(bytes, Ordering::Relaxed) + bytes > CACHED_BYTES {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(CachedBatch {
            // A copy: what it was written into has space for almost as much again.
            raw: Arc::new((*batch).to_owned()),
            bytes: self.clone(),
        })
    }
}

#[derive(Debug)]
pub(super) struct CachedPartial {
    pub(super) id: Arc<str>,
    pub(super) batch: CachedBatch,
}

/// What waits in one queue.
#[derive(Debug, Default)]
pub(super) struct ClassQueue {
    /// The first batches, in order, as far as they are known and not read.
    pub(super) known: VecDeque<Known>,
    /// An appended batch of which only the first deliveries were enqueued.
    pub(super) partial: Option<CachedPartial>,
    /// There may be others that are not known: they are asked for by range.
    pub(super) more: bool,
    /// Some were appended since they were last asked for: after a read that finds no more, there may be more all the same.
    pub(super) added: bool,
    /// The first batch as the last look found it, if that was in memory; and as the look before found it.
    first_in_memory: [Option<Arc<str>>; 2],
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

    /// There may be others that are not known, also after a read that is under way and finds no more.
    pub(super) fn may_have_more(&mut self) {
        self.more = true;
        self.added = true;
    }

    /// A look has ended, which may have found a first batch.
    pub(super) fn looked(&mut self) {
        self.first_in_memory = [None, self.first_in_memory[0].take()];
    }

    /// A look found this batch to be the first.
    pub(super) fn found(&mut self, head: Head, in_memory: bool, now: DateTime) {
        if head.due > now {
            // It is asked for when it is due.
            return;
        }
        if in_memory {
            // Others may wait after it. As long as the queue moves on, a later look finds the next one by itself.
            self.more |= self.first_in_memory[1].as_ref() == Some(&head.id);
            self.first_in_memory[0] = Some(head.id);
        } else if self.known.iter().all(|known| known.id != head.id) {
            self.known.clear();
            self.known.push_back(Known {
                due: head.due,
                id: head.id,
                open: head.open,
                cached: None,
            });
            self.more = true;
        }
    }

    /// Whether nothing is known of the queue.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && !self.more && self.first_in_memory[0].is_none()
    }

    pub(super) fn waits(&self, now: DateTime) -> bool {
        self.more || self.known.front().is_some_and(|known| known.due <= now)
    }

    /// A batch is due that was to be then: it is asked for unless it is known. A read that found none due has forgotten those that were known.
    pub(super) fn comes_due(&mut self, due: DateTime) {
        self.more |= self.known.iter().all(|known| known.due != due);
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
        let fitting = self.fitting(slots, now);
        if fitting == 0 {
            self.known.clear();
            self.added = false;
            let want = Want::Next {
                endpoint: endpoint.clone(),
                class,
                except: memory.passed_over(),
                batches: match class {
                    Class::Live => ((slots + EXPECTED / 2) / EXPECTED).max(1),
                    Class::Retry | Class::Background => slots,
                },
            };
            return if self.more { vec![want] } else { Vec::new() };
        }
        // A live batch is read whole where half of it or more has slots.
        let reads_part = class == Class::Live && (alone || slots < EXPECTED / 2);
        let known: Vec<_> = self.known.drain(..fitting).collect();
        let want = |known: Known| {
            let is_partial = reads_part && known.open > slots;
            self.want(known, is_partial.then_some(slots))
        };
        known.into_iter().map(want).collect()
    }

    /// How many of the known batches are read for that many slots: the first in any case, others if half of each has slots.
    fn fitting(&self, slots: usize, now: DateTime) -> usize {
        let mut left = slots;
        let mut fits = |index: usize, known: &Known| {
            let fits = index == 0 || left * 2 >= known.open.max(1);
            left = left.saturating_sub(known.open);
            fits
        };
        let due = self.known.iter().take_while(|known| known.due <= now);
        due.enumerate().take_while(|(index, known)| fits(*index, known)).count()
    }

    /// A known batch: from memory where it is there, and only its first deliveries where there is a `limit`.
    fn want(&mut self, known: Known, limit: Option<usize>) -> Want {
        let id = known.id;
        match (known.cached, limit) {
            (Some(batch), _) => {
                let document = Arc::clone(&batch.raw);
                if limit.is_some() {
                    self.partial = Some(CachedPartial { id, batch });
                }
                Want::Appended {
                    document,
                    from: 0,
                    limit: limit.unwrap_or(usize::MAX),
                }
            }
            (None, Some(limit)) => Want::Slice { id, skip: None, limit },
            (None, None) => Want::Batch(id),
        }
    }
}
