//! Which deliveries of a batch are settled.

use bson::{RawArray, RawBsonRef};

/// Which places are settled.
pub(super) fn settled(results: &RawArray) -> Vec<bool> {
    let is_settled = |value: bson::error::Result<RawBsonRef<'_>>| !matches!(value, Ok(RawBsonRef::Null));
    results.into_iter().map(is_settled).collect()
}

/// Whether the delivery in that place has a result.
pub(super) fn has_result(results: Option<&RawArray>, place: usize) -> bool {
    let result = results.and_then(|results| results.get(place).ok().flatten());
    result.is_some_and(|result| result.as_null().is_none())
}

/// How many of a batch's deliveries are not settled, whatever its field `open` says.
pub(super) fn open(settled: &[bool], size: u32) -> u32 {
    let done = (0..size).zip(settled).filter(|(_, settled)| **settled).count();
    size - u32::try_from(done).unwrap_or(size)
}
