//! Resume tokens of change streams: which errors mean that one is of no use.

use std::ops::RangeInclusive;

use mongodb::error::RESUMABLE_CHANGE_STREAM_ERROR;

use super::Error;

/// What MongoDB 6 to 8 reply to a token whose event is no longer in the oplog, to one that is none, and where the event after it
/// can't be read. The reply stays the same however often the token is used.
const LOST: [RangeInclusive<i32>; 24] = [
    // InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost, OplogQueryMinTsMissing, ChangeStreamInvalidated
    260..=260,
    280..=280,
    286..=286,
    326..=326,
    346..=346,
    // The event after it is larger than a document may be: BSONObjectTooLarge, and a buffer that can't grow.
    10334..=10334,
    13548..=13548,
    // It is no token, or its text is not hexadecimal: FailedToParse, Overflow, InvalidBSON, InvalidUUID, and unnamed codes.
    9..=9,
    15..=15,
    22..=22,
    207..=207,
    40646..=40649,
    // Its bytes are no key.
    50810..=50833,
    // Its fields are not those of a token, or of a later MongoDB's.
    50788..=50788,
    50793..=50796,
    50854..=50855,
    50870..=50872,
    51055..=51057,
    6189500..=6189505,
    7182501..=7182501,
    7182504..=7182504,
    40576..=40576,
    40585..=40585,
    50792..=50792,
];

/// Whether a stream that ended so can't go on with its token.
///
/// To give up a good token costs a read of the whole collection, so other errors don't count: missing privileges, overload, a hosted
/// cluster's own limits.
pub fn loses_token(error: &Error) -> bool {
    if error.has_label(RESUMABLE_CHANGE_STREAM_ERROR) {
        return false;
    }
    let listed = |code| LOST.iter().any(|codes| codes.contains(&code));
    error.has_label("NonResumableChangeStreamError") || error.code().is_some_and(listed)
}
