//! The outcome of one attempt, as a value: the code that sends decides nothing, and the code that decides sends nothing.

use std::time::Duration;

/// What came of one attempt to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Any 2xx within the timeout.
    Delivered {
        /// The response's status.
        status: u16,
        /// From the start of the attempt to the head of the response.
        elapsed: Duration,
        /// Until there was a connection, zero for one that was there; `None` where that is not known.
        connect: Option<Duration>,
    },
    /// A later attempt may succeed.
    TransientFailure(Failure),
    /// 410: the receiver asks never to be asked again.
    Gone(Failure),
    /// No later attempt can succeed: there is no address to send to, or it was refused for good.
    PermanentFailure(Failure),
    /// The endpoint or the user no longer exists: nothing was sent, and nothing will be.
    Cancelled {
        /// Why, for the operator.
        reason: String,
    },
    /// Nothing was sent, or the attempt was cut short by this instance: it costs no attempt, the delivery stays pending.
    NotSent,
    /// Nothing was sent, because the proxy that leads to the endpoint is unavailable: the same.
    ProxyUnavailable {
        /// Why, for the operator.
        reason: String,
    },
}

/// A failed attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The response's status, if there was a response.
    pub status: Option<u16>,
    /// What failed and why, in one line, without secret or payload.
    pub reason: String,
    /// What the receiver asked for in `Retry-After` (429 and 503 only).
    pub retry_after: Option<Duration>,
    /// From the start of the attempt to its failure.
    pub elapsed: Duration,
    /// Whether it ended because the endpoint's timeout had passed.
    pub timed_out: bool,
    /// Until there was a connection, zero for one that was there; `None` if there was none.
    pub connect: Option<Duration>,
    /// How the response's body begins, printable and without the endpoint's secrets, if it is kept.
    pub response: Option<String>,
    /// Whether it was to see whether a suspended endpoint answers again: it ends no delivery, and counts as no attempt.
    pub is_probe: bool,
    /// What the failure says of the endpoint.
    pub concerns: Concerns,
}

/// What a failed attempt says of the endpoint to which it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concerns {
    /// Nothing by itself: several in a row say that the endpoint fails.
    #[default]
    Attempt,
    /// This delivery alone: the endpoint works, as a mail server does that refuses one recipient.
    Delivery,
    /// Every delivery: the endpoint can't be used at all, as a mail server that can't be connected to or refuses the login.
    Endpoint,
}

impl Outcome {
    /// Whether something was attempted, or will never be: then it is recorded.
    pub fn is_recorded(&self) -> bool {
        !matches!(self, Self::NotSent | Self::ProxyUnavailable { .. })
    }

    /// How long the attempt took; zero if nothing was attempted.
    pub fn elapsed(&self) -> Duration {
        match self {
            Self::Delivered { elapsed, .. } => *elapsed,
            Self::TransientFailure(failure) | Self::PermanentFailure(failure) | Self::Gone(failure) => failure.elapsed,
            Self::Cancelled { .. } | Self::NotSent | Self::ProxyUnavailable { .. } => Duration::ZERO,
        }
    }

    /// What failed, if that is known.
    pub fn failure_mut(&mut self) -> Option<&mut Failure> {
        match self {
            Self::TransientFailure(failure) | Self::PermanentFailure(failure) | Self::Gone(failure) => Some(failure),
            Self::Delivered { .. } | Self::Cancelled { .. } | Self::NotSent | Self::ProxyUnavailable { .. } => None,
        }
    }

    /// How long it was until there was a connection, if that is known.
    pub fn connect(&self) -> Option<Duration> {
        match self {
            Self::Delivered { connect, .. } => *connect,
            Self::TransientFailure(failure) | Self::PermanentFailure(failure) | Self::Gone(failure) => failure.connect,
            Self::Cancelled { .. } | Self::NotSent | Self::ProxyUnavailable { .. } => None,
        }
    }
}
