//! Which deliveries of a batch are settled.

use bson::{RawArray, RawBsonRef};

/// Which places are settled.
pub(super) fn settled(results: &RawArray) -> Vec<bool> {
    let is_settled = |value: bson::error::Result<RawBsonRef<'_>>| !matches!(value, Ok(RawBsonRef::Null));
    results.into_iter().map(is_settled).collect()
}

/// How many of a batch's deliveries are not settled, whatever its field `open` says.
pub(super) fn open(settled: &[bool], size: u32) -> u32 {
    let done = (0..size).zip(settled).filter(|(_, settled)| **settled).count();
    size - u32::try_from(done).unwrap_or(size)
}
