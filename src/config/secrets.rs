//! Values that may hold a password, wherever they are kept: at their key, in the file that another key names, or in a
//! systemd credential.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::faults::Fault;
use super::raw::Raw;
use super::settings::{Given, Settings};

/// The keys that name a file.
pub(super) const FILE_KEYS: &[&str] = &[URI.file_key, SMTP_URL.file_key];

const URI: Secret = Secret {
    key: "mongodb.uri",
    file_key: "mongodb.uri_file",
    credential: "mongodb-uri",
    what: "the connection string",
};

const SMTP_URL: Secret = Secret {
    key: "email.smtp_url",
    file_key: "email.smtp_url_file",
    credential: "smtp-url",
    what: "the mail server's URL",
};

/// Leaves each secret at its key, never to be shown. Given in two places it is a fault: nothing says which of them is out of
/// date, and a daemon on the wrong database does harm.
pub(super) fn resolve(credentials: Option<&Path>, settings: &mut Settings) {
    for secret in [URI, SMTP_URL] {
        secret.resolve(credentials, settings);
    }
}

/// The places of one secret.
struct Secret {
    key: &'static str,
    file_key: &'static str,
    credential: &'static str,
    what: &'static str,
}

impl Secret {
    fn resolve(&self, credentials: Option<&Path>, settings: &mut Settings) {
        let value = settings.take(self.key);
        let named = settings.take(self.file_key);
        let credential = credentials.and_then(|directory| self.read_credential(directory));
        let sources = [
            value.as_ref().map(|given| format!("{} ({})", self.key, given.origin)),
            named
                .as_ref()
                .map(|given| format!("{} ({})", self.file_key, given.origin)),
            credential
                .as_ref()
                .map(|_| format!("the credential {}", self.credential)),
        ];
        let sources: Vec<String> = sources.into_iter().flatten().collect();
        if sources.len() > 1 {
            let problem = format!("expected one place for {}, found {}", self.what, sources.join(" and "));
            settings.faults.push(Fault::new(self.key, problem, None));
        }
        if let Some(Given { raw, origin }) = value {
            settings.give(self.key, raw.hidden(), origin);
        }
        if let Some(named) = named {
            self.give_content(&named, settings);
        }
        match credential {
            Some(Ok(text)) => self.give_text(&text, format!("the credential {}", self.credential), settings),
            Some(Err(error)) => {
                let problem = format!("expected a readable credential {}: {error}", self.credential);
                settings.faults.push(Fault::new(self.key, problem, None));
            }
            None => {}
        }
    }

    /// The credential's text, or `None` if the directory holds no such credential.
    fn read_credential(&self, directory: &Path) -> Option<io::Result<String>> {
        match std::fs::read_to_string(directory.join(self.credential)) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            read => Some(read),
        }
    }

    fn give_content(&self, named: &Given, settings: &mut Settings) {
        let Given { raw, origin } = named;
        let read = raw
            .as_text()
            .ok_or_else(|| "not a text".to_owned())
            .and_then(|path| std::fs::read_to_string(path).map_err(|error| error.to_string()));
        match read {
            Ok(text) => {
                let origin = format!("the file that {} names, {origin}", self.file_key);
                self.give_text(&text, origin, settings);
            }
            Err(error) => {
                let problem = format!("expected the path of a readable file, found {raw}: {error}");
                let fault = Fault::new(self.file_key, problem, Some(origin.clone()));
                settings.faults.push(fault);
            }
        }
    }

    fn give_text(&self, text: &str, origin: String, settings: &mut Settings) {
        let text = text.trim_end_matches(['\r', '\n']).to_owned();
        settings.give(self.key, Raw::Secret(text), origin);
    }
}
