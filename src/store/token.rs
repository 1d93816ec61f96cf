//! Resume tokens of change streams: which errors mean that one is of no use.

use mongodb::error::Error;

use super::command_code;

/// Refusals that pass or that an operator mends, and that say nothing of the token: those that the driver specification of
/// change streams calls resumable, a time limit, a key that a new primary has not read yet, and missing privileges.
const PASSING: [i32; 20] = [
    6, 7, 63, 89, 91, 133, 150, 189, 234, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436, // resumable
    50, 211, 13,
];

/// Whether a stream that ended so can't go on with its token.
///
/// What MongoDB itself refuses is for the token's sake or the event's, and stays so however often it is asked: corrupt tokens
/// alone fail with a dozen codes. To give up a good token costs a query, to insist on a bad one would cost every award.
pub(crate) fn loses_token(error: &Error) -> bool {
    let resumable = error.contains_label("ResumableChangeStreamError");
    match command_code(error) {
        Some(code) if !resumable && !PASSING.contains(&code) => true,
        _ => error.contains_label("NonResumableChangeStreamError"),
    }
}
