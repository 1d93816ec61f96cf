//! What operators and the back office ask for: documents of `webhook_operations`. The instance that holds the lease carries them
//! out in steps, each a transaction that also writes how far it has come, so that another instance can go on after any crash.
//!
//! ```text
//! (inserted) ──► running ──► done, failed or cancelled
//!      └───────► refused: it makes no sense
//! ```

mod acknowledged;
mod backfill;
mod begin;
mod client;
mod document;
mod erase;
mod executor;
mod fields;
mod holds;
mod pace;
mod running;
mod sample;
mod steps;
mod subject;
mod too_large;

pub use client::{Followed, follow, insert, recent};
pub use document::{Kind, id_text, selection_of};
pub use executor::{Executor, Parts};
pub use holds::{Hold, Holds, Target, hold_everything};
pub use sample::{TEST_HEADER, sample};
