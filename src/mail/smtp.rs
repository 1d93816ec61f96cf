//! The mail server: one connection per e-mail.
//!
//! Connections are not pooled: on one that a timeout interrupted, the reply to the last e-mail would be taken for that to the next.

use std::time::Duration;

use lettre::Message;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{Error, response::Response};

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::helo::{Helo, UNKNOWN_EHLO};
use super::{Cause, Unsent};
use crate::config::{Encryption, SmtpServer};
use crate::model::Concerns;
use crate::sender::describe;

/// How long connecting to one address of the server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long QUIT may take. By then the outcome is known.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Server {
    server: SmtpServer,
    tls: Option<TlsParameters>,
    hello: ClientId,
}

/// A connection that is logged in.
pub(super) struct Connection(AsyncSmtpConnection);

/// The server has accepted an e-mail.
pub(super) struct Receipt {
    pub(super) status: u16,
    connection: Connection,
}

impl Server {
    pub(super) fn new(server: &SmtpServer) -> Result<Self, Error> {
        let encrypted = server.encryption != Encryption::None;
        let tls = encrypted.then(|| TlsParameters::new(server.host.clone())).transpose()?;
        Ok(Self {
            server: server.clone(),
            tls,
            hello: ClientId::default(),
        })
    }

    /// Connects, with TLS and login as configured.
    pub(super) async fn open(&self) -> Result<Connection, Cause> {
        let mut connection = self.connect().await.map_err(|error| Cause::from(&error))?;
        let upgrade = match self.server.encryption {
            Encryption::Required => true,
            Encryption::Opportunistic => connection.can_starttls(),
            Encryption::Implicit | Encryption::None => false,
        };
        if let Some(tls) = self.tls.clone().filter(|_| upgrade) {
            let upgraded = connection.starttls(tls, &self.hello).await;
            upgraded.map_err(|error| Cause::from(&error))?;
        }
        if let Some(credentials) = &self.server.credentials {
            let login = connection.auth(DEFAULT_MECHANISMS, credentials).await;
            login.map_err(|error| Cause::from(&error).during("login"))?;
        }
        Ok(Connection(connection))
    }

    /// Connects and says EHLO. A server that doesn't know it is connected to once more and greeted with HELO, which is no use where
    /// TLS is asked for.
    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let encryption = self.server.encryption;
        let wrapped = self.tls.clone().filter(|_| encryption == Encryption::Implicit);
        let address = (self.server.host.as_str(), self.server.port);
        let connected =
            AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT_TIMEOUT), &self.hello, wrapped, None).await;
        let may_be_plain = matches!(encryption, Encryption::Opportunistic | Encryption::None);
        match connected {
            Err(error) if may_be_plain && error.status().is_some_and(|code| UNKNOWN_EHLO.contains(&code.into())) => {
                let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await else {
                    return Err(error);
                };
                AsyncSmtpConnection::connect_with_transport(Box::new(Helo::new(stream)), &self.hello).await
            }
            connected => connected,
        }
    }
}

impl Connection {
    /// Sends one e-mail. A reply of 5xx is permanent (RFC 5321, 4.2.1), all else is a transient failure of this e-mail: whether the server
    /// works at all is seen by the next connection.
    pub(super) async fn send(mut self, mail: &Message) -> Result<Receipt, Unsent> {
        let sent = self.0.send(mail.envelope(), &mail.formatted()).await;
        let response: Response = sent.map_err(|error| {
            let cause = Cause::from(&error).concerning(Concerns::Delivery);
            // The client refuses what the server can't take, such as an address beyond ASCII.
            if error.is_permanent() || error.is_client() {
                Unsent::Permanent(cause)
            } else {
                Unsent::Transient(cause)
            }
        })?;
        Ok(Receipt {
            status: response.code().into(),
            connection: self,
        })
    }

    pub(super) async fn quit(mut self) {
        let _ = timeout(QUIT_TIMEOUT, self.0.quit()).await;
    }
}

impl Receipt {
    /// Ends the connection. The e-mail is accepted, whether that succeeds or not.
    pub(super) async fn quit(self) {
        self.connection.quit().await;
    }
}

impl Cause {
    fn during(self, what: &str) -> Self {
        let reason = format!("{what}: {}", self.reason);
        Self { reason, ..self }
    }
}

impl From<&Error> for Cause {
    /// Only the codes of a reply: its text may hold the address.
    fn from(error: &Error) -> Self {
        let status = error.status().map(u16::from);
        let reason = match status {
            Some(status) => match enhanced_code(error) {
                Some(code) => format!("status {status} {code}"),
                None => format!("status {status}"),
            },
            None if error.is_response() => "connection closed, or the response is not SMTP".to_owned(),
            None => describe(error),
        };
        Self {
            status,
            ..reason.into()
        }
    }
}

/// A code such as 5.1.1 at the beginning of a reply (RFC 3463).
fn enhanced_code(error: &Error) -> Option<String> {
    let text = std::error::Error::source(error)?.to_string();
    let code = text.split_whitespace().next()?;
    let digits = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    (code.split('.').count() == 3 && code.split('.').all(digits)).then(|| code.to_owned())
}
