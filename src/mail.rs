//! Reminders: an e-mail to the user of an expired certificate.
//!
//! They go through the outbox like webhooks, in one queue for all organizations ([`email`](crate::model::EndpointKey::email)): there is one mail
//! server, so it has the limits, the breaker and the redrive of one endpoint, and while it hangs no webhook waits for it.

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

/// A server may check a text at length; a client that ends the connection meanwhile sends the same e-mail twice (RFC 5321,
/// 4.5.3.2).
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);

pub struct Mailer {
    server: Server,
    from: Mailbox,
    email: Email,
}

/// Why an e-mail was not sent.
enum Unsent {
    /// A transient failure.
    NotNow(Cause),
    /// A permanent failure.
    Never(Cause),
    /// The user was deleted.
    NoUser,
}

/// What failed.
struct Cause {
    /// The server's reply code, if it replied.
    status: Option<u16>,
    /// In one line, without address or text.
    reason: String,
}

/// Why the mail server can't be used.
pub struct CheckError {
    pub reason: String,
    /// The server replied with 5xx.
    pub is_permanent: bool,
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

    /// One attempt to send the e-mail of the certificate in `message` to its user; `now` is the e-mail's date.
    ///
    /// A [`Outcome::PermanentFailure`] is one that a retry does not change: no usable address, a reply of 5xx to this e-mail.
    pub async fn attempt(&self, store: &Store, message: &Message, now: DateTime) -> Outcome {
        let start = Instant::now();
        let sent = timeout(ATTEMPT_TIMEOUT, self.send(store, message, now)).await;
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
                receipt.quit().await;
                Outcome::Delivered {
                    status,
                    elapsed,
                    connect: None,
                }
            }
            Ok(Err(Unsent::NoUser)) => Outcome::Cancelled {
                reason: "the certificate's user was deleted".into(),
            },
            Ok(Err(Unsent::Never(cause))) => Outcome::PermanentFailure(failure(cause)),
            Ok(Err(Unsent::NotNow(cause))) => Outcome::TransientFailure(failure(cause)),
            Err(_) => Outcome::TransientFailure(Failure {
                timed_out: true,
                ..failure(format!("timeout after {} s", ATTEMPT_TIMEOUT.as_secs()).into())
            }),
        }
    }

    /// Connects, and logs in where that is configured.
    ///
    /// # Errors
    /// What failed.
    pub async fn check(&self) -> Result<(), CheckError> {
        let opened = self.server.open().await;
        let connection = opened.map_err(|cause| CheckError {
            is_permanent: cause.status.is_some_and(|status| status >= 500),
            reason: cause.reason,
        })?;
        connection.quit().await;
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
