//! The mail server, as its URL describes it.

use lettre::transport::smtp::authentication::Credentials;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// Where e-mails are handed in. `Debug` shows neither user nor password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpServer {
    /// Its name or address; for TLS, the name that its certificate must bear.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub encryption: Encryption,
    /// The login, if the server asks for one. Only over TLS that is certain.
    pub credentials: Option<Credentials>,
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// `STARTTLS`, or nothing is sent (RFC 3207).
    Required,
    /// `STARTTLS` where the server offers it.
    Opportunistic,
    /// None: for a server on the same machine.
    None,
}

impl SmtpServer {
    /// Reads `smtps://HOST` or `smtp://HOST`, the latter with `?tls=required` (the default), `opportunistic` or `none`.
    ///
    /// # Errors
    /// What is wrong, without quoting anything.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "not a URL")?;
        let encryption = encryption(&url)?;
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err("it names no host"),
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err("it has a path");
        }
        let credentials = credentials(&url)?;
        if credentials.is_some() && !matches!(encryption, Encryption::Implicit | Encryption::Required) {
            return Err("the password could travel in the clear");
        }
        Ok(Self {
            host,
            port: url.port().unwrap_or(default_port(encryption)),
            encryption,
            credentials,
        })
    }
}

fn encryption(url: &Url) -> Result<Encryption, &'static str> {
    match (url.scheme(), url.query()) {
        ("smtps", None) => Ok(Encryption::Implicit),
        ("smtp", None | Some("tls=required")) => Ok(Encryption::Required),
        ("smtp", Some("tls=opportunistic")) => Ok(Encryption::Opportunistic),
        ("smtp", Some("tls=none")) => Ok(Encryption::None),
        ("smtp" | "smtps", Some(_)) => Err("nothing but smtp://…?tls=required, opportunistic or none may follow ?"),
        _ => Err("its scheme is another"),
    }
}

/// RFC 8314 for submission, RFC 5321 for relaying.
fn default_port(encryption: Encryption) -> u16 {
    match encryption {
        Encryption::Implicit => 465,
        Encryption::Required => 587,
        Encryption::Opportunistic | Encryption::None => 25,
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, &'static str> {
    let decode = |text| {
        let text = percent_decode_str(text).decode_utf8();
        text.map(String::from)
            .map_err(|_| "user or password is no UTF-8 once decoded")
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) | (_, None) => Err("user and password go together"),
        (user, Some(password)) => Ok(Some(Credentials::new(decode(user)?, decode(password)?))),
    }
}
