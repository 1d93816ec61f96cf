//! What came of one attempt. A value: who makes it decides nothing, and who decides sends nothing.

use std::time::Duration;

/// What came of one attempt to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Any 2xx within the timeout.
    Delivered {
        /// The answer's status.
        status: u16,
        /// From the start of the attempt to the end of the answer.
        elapsed: Duration,
    },
    /// Everything else that a later attempt may mend.
    Failed(Failure),
    /// 410: the receiver asks never to be asked again.
    Gone(Failure),
    /// No later attempt can mend it: there is no address to send to, or it is refused for good.
    Refused(Failure),
    /// The endpoint was deleted or disabled, or can't be served as configured: nothing was sent.
    Cancelled {
        /// Why, for the operator.
        reason: String,
    },
    /// The daemon stopped before the attempt began, or the attempt was cut short by it: costs no attempt.
    Interrupted,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The answer's status, if there was one.
    pub status: Option<u16>,
    /// What failed and why, in one line, without secret or payload.
    pub reason: String,
    /// What the receiver asked for in `Retry-After` (429 and 503 only).
    pub retry_after: Option<Duration>,
    /// From the start of the attempt to its failure.
    pub elapsed: Duration,
}
