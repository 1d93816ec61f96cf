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
use tokio::time::{Instant, timeout_at};

use crate::config::Email;
use crate::model::{Concerns, Failure, Message, Outcome};
use crate::store::Store;

use smtp::{Receipt, Server};

/// A server may check a text at length; a client that ends the connection meanwhile sends the same e-mail twice (RFC 5321,
/// 4.5.3.2).
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);

/// Connections to the mail server at once, at most, whatever `delivery.concurrency` allows: e-mails of all organizations go through one
/// queue of one instance, and each has its own connection. Servers commonly allow one client ten or more; some as few as three.
pub const MOST_CONNECTIONS: usize = 5;

pub struct Mailer {
    server: Server,
    from: Mailbox,
    email: Email,
}

/// Why an e-mail was not sent.
enum Unsent {
    Transient(Cause),
    Permanent(Cause),
    /// The user was deleted.
    NoUser,
}

/// What failed.
struct Cause {
    /// The server's reply code, if it replied.
    status: Option<u16>,
    /// In one line, without address or text.
    reason: String,
    concerns: Concerns,
    timed_out: bool,
}

/// Why the mail server can't be used.
pub struct CheckError {
    pub reason: String,
    /// The server replied with 5xx.
    pub is_permanent: bool,
}

impl From<String> for Cause {
    fn from(reason: String) -> Self {
        Self {
            status: None,
            reason,
            concerns: Concerns::Attempt,
            timed_out: false,
        }
    }
}

impl Cause {
    fn concerning(self, concerns: Concerns) -> Self {
        Self { concerns, ..self }
    }

    fn timeout(concerns: Concerns) -> Self {
        Self {
            concerns,
            timed_out: true,
            ..format!("timeout after {} s", ATTEMPT_TIMEOUT.as_secs()).into()
        }
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
    /// A [`Outcome::PermanentFailure`] is one that a retry does not change: no usable address, a reply of 5xx to this e-mail. What fails
    /// before there is a connection that is logged in concerns all e-mails, what fails after that this one alone.
    pub async fn attempt(&self, store: &Store, message: &Message, now: DateTime) -> Outcome {
        let start = Instant::now();
        let sent = self.send(store, message, now, start + ATTEMPT_TIMEOUT).await;
        let elapsed = start.elapsed();
        let failure = |cause: Cause| Failure {
            status: cause.status,
            reason: cause.reason,
            elapsed,
            timed_out: cause.timed_out,
            concerns: cause.concerns,
            ..Failure::default()
        };
        match sent {
            Ok(receipt) => {
                let status = receipt.status;
                receipt.quit().await;
                Outcome::Delivered {
                    status,
                    elapsed,
                    connect: None,
                }
            }
            Err(Unsent::NoUser) => Outcome::Cancelled {
                reason: "the certificate's user was deleted".into(),
            },
            Err(Unsent::Permanent(cause)) => Outcome::PermanentFailure(failure(cause)),
            Err(Unsent::Transient(cause)) => Outcome::TransientFailure(failure(cause)),
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

    async fn send(
        &self,
        store: &Store,
        message: &Message,
        now: DateTime,
        deadline: Instant,
    ) -> Result<Receipt, Unsent> {
        let timeout = |concerns| move |_| Unsent::Transient(Cause::timeout(concerns));
        let permanent = |reason: String| Unsent::Permanent(reason.into());
        let certificate: Value = serde_json::from_slice(&message.body)
            .map_err(|error| permanent(format!("the certificate can't be read: {error}")))?;
        let address = timeout_at(deadline, user::address(store, &self.email, &certificate));
        let address = address.await.map_err(timeout(Concerns::Attempt))??;
        let mail = self
            .compose(address, &message.event_id, &certificate, now)
            .map_err(permanent)?;
        let opened = timeout_at(deadline, self.server.open());
        let opened = opened.await.map_err(timeout(Concerns::Endpoint))?;
        let connection = opened.map_err(|cause| Unsent::Transient(cause.concerning(Concerns::Endpoint)))?;
        let sent = timeout_at(deadline, connection.send(&mail));
        sent.await.map_err(timeout(Concerns::Delivery))?
    }
}
