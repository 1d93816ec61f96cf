//! Reminders: an expired certificate's user is told by e-mail.
//!
//! They go through the outbox like webhooks, in one queue for all organizations ([`email`](crate::model::EndpointKey::email)): there is one mail
//! server, so it has the limits, the breaker and the redrive of one endpoint, and while it hangs it holds up no webhook.

mod helo;
mod message;
mod smtp;
mod user;

use std::time::Duration;

use bson::DateTime;
use lettre::message::Mailbox;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::config::Email;
use crate::model::{Failure, Message, Outcome};
use crate::store::Store;

use smtp::{Receipt, Server};

/// The longest that one attempt may take. A server that checks a text at length is waited for: who hangs up on it sends the
/// same e-mail twice (RFC 5321, 4.5.3.2).
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Mailer {
    server: Server,
    from: Mailbox,
    email: Email,
}

/// Why an e-mail was not sent.
enum Unsent {
    /// A later attempt may succeed.
    NotNow(Cause),
    /// None will.
    Never(Cause),
    /// There is nobody to tell any more.
    NoUser,
}

/// What failed.
struct Cause {
    /// The server's reply code, if it replied.
    status: Option<u16>,
    /// In one line, without address or text.
    reason: String,
}

impl From<String> for Cause {
    fn from(reason: String) -> Self {
        Self { status: None, reason }
    }
}

impl Mailer {
    /// The mailer that `[email]` asks for; `None` where it is off.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub fn new(email: &Email) -> anyhow::Result<Option<Self>> {
        let (Some(server), Some(from)) = (&email.smtp_url, &email.from) else {
            return Ok(None);
        };
        Ok(Some(Self {
            server: Server::new(server)?,
            from: from.clone(),
            email: email.clone(),
        }))
    }

    /// Tries once to tell the user of the certificate in `message`; `now` is the e-mail's date.
    ///
    /// What no later attempt mends ends as [`Outcome::PermanentFailure`]: no usable address, a reply of 5xx to this e-mail.
    pub async fn attempt(&self, store: &Store, message: &Message, now: DateTime) -> Outcome {
        let start = Instant::now();
        let sent = timeout(PATIENCE, self.send(store, message, now)).await;
        let elapsed = start.elapsed();
        let failure = |Cause { status, reason }| Failure {
            status,
            reason,
            elapsed,
            ..Failure::default()
        };
        match sent {
            Ok(Ok(receipt)) => {
                let status = receipt.status;
                receipt.farewell().await;
                Outcome::Delivered {
                    status,
                    elapsed,
                    connect: None,
                }
            }
            Ok(Err(Unsent::NoUser)) => Outcome::Cancelled {
                reason: "the certificate's user is gone".into(),
            },
            Ok(Err(Unsent::Never(cause))) => Outcome::PermanentFailure(failure(cause)),
            Ok(Err(Unsent::NotNow(cause))) => Outcome::TransientFailure(failure(cause)),
            Err(_) => Outcome::TransientFailure(Failure {
                timed_out: true,
                ..failure(format!("timeout after {} s", PATIENCE.as_secs()).into())
            }),
        }
    }

    /// Connects, logs in where that is asked for, and takes its leave.
    ///
    /// # Errors
    /// What failed, and whether the server refused for good.
    pub async fn check(&self) -> Result<(), (String, bool)> {
        let opened = self.server.open().await;
        let connection = opened.map_err(|cause| {
            let refused = cause.status.is_some_and(|status| status >= 500);
            (cause.reason, refused)
        })?;
        connection.farewell().await;
        Ok(())
    }

    async fn send(&self, store: &Store, message: &Message, now: DateTime) -> Result<Receipt, Unsent> {
        let never = |reason: String| Unsent::Never(reason.into());
        let certificate: Value = serde_json::from_slice(&message.body)
            .map_err(|error| never(format!("the certificate can't be read: {error}")))?;
        let address = user::address(store, &self.email, &certificate).await?;
        let mail = self
            .compose(address, &message.event_id, &certificate, now)
            .map_err(never)?;
        self.server.send(&mail).await
    }
}
