//! Values that may hold a password, wherever they are kept: at their key, in the file that another key names, or in a
//! systemd credential.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::faults::Fault;
use super::raw::Raw;
use super::settings::{Given, Settings};

/// The keys that name a file.
pub(super) const FILE_KEYS: &[&str] = &[
    URI.file_key,
    SMTP_URL.file_key,
    KEYS.file_key,
    NOTICES.file_key,
    PROXY.file_key,
];

/// The key of the connection string.
pub(super) const URI_KEY: &str = URI.key;

const URI: Secret = Secret {
    key: "mongodb.uri",
    file_key: "mongodb.uri_file",
    credential: "mongodb-uri",
    what: "the connection string",
    needed: true,
};

const SMTP_URL: Secret = Secret {
    key: "email.smtp_url",
    file_key: "email.smtp_url_file",
    credential: "smtp-url",
    what: "the mail server's URL",
    needed: false,
};

const KEYS: Secret = Secret {
    key: "secrets.key",
    file_key: "secrets.key_file",
    credential: "secret-keys",
    what: "the keys of encrypted secrets",
    needed: false,
};

const NOTICES: Secret = Secret {
    key: "notices.secret",
    file_key: "notices.secret_file",
    credential: "notices-secret",
    what: "the secret of notices",
    needed: false,
};

const PROXY: Secret = Secret {
    key: "delivery.proxy",
    file_key: "delivery.proxy_file",
    credential: "proxy-url",
    what: "the proxy's URL",
    needed: false,
};

/// Where systemd looks for what a unit's `LoadCredential=` names.
const STORES: [&str; 4] = [
    "/etc/credstore",
    "/run/credstore",
    "/usr/local/lib/credstore",
    "/usr/lib/credstore",
];

/// Where credentials are.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// systemd's `$CREDENTIALS_DIRECTORY`.
    pub given: Option<PathBuf>,
    /// Directories from which systemd would fill it. They are read for what is given nowhere else: commands by hand
    /// find what the unit finds.
    pub stores: Vec<PathBuf>,
}

impl Credentials {
    /// Those of this process and this machine.
    pub fn of_process() -> Self {
        Self {
            given: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            stores: STORES.map(PathBuf::from).to_vec(),
        }
    }
}

/// Leaves each secret at its key, never to be shown. Given in two places it is a fault: nothing says which of them is out of
/// date, and a daemon on the wrong database does harm.
pub(super) fn resolve(credentials: &Credentials, settings: &mut Settings) {
    for secret in [URI, SMTP_URL, KEYS, NOTICES, PROXY] {
        secret.resolve(credentials, settings);
    }
}

/// The places of one secret.
struct Secret {
    key: &'static str,
    file_key: &'static str,
    credential: &'static str,
    what: &'static str,
    /// Whether nothing works without it.
    needed: bool,
}

impl Secret {
    fn resolve(&self, credentials: &Credentials, settings: &mut Settings) {
        // As config.toml has it: nothing is given here.
        let is_nothing = |given: &Given| !self.needed && given.raw.as_text() == Some("");
        let value = settings.take(self.key).filter(|given| !is_nothing(given));
        let named = settings.take(self.file_key);
        let given = credentials.given.as_deref();
        let credential = given.and_then(|directory| self.read_credential(directory));
        if value.is_none() && named.is_none() && credential.is_none() {
            return self.look_in_stores(credentials, settings);
        }
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
            settings.give(self.key, raw.trimmed().hidden(), origin);
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

    /// For what is given nowhere: a store that a unit would be given it from, or a fault that tells where it may come from.
    fn look_in_stores(&self, credentials: &Credentials, settings: &mut Settings) {
        let mut hint = String::new();
        for store in &credentials.stores {
            let path = store.join(self.credential);
            match self.read_credential(store) {
                Some(Ok(text)) => return self.give_text(&text, path.display().to_string(), settings),
                Some(Err(error)) if hint.is_empty() && credentials.given.is_none() => {
                    hint = format!("; {} can't be read: {error}", path.display());
                }
                _ => {}
            }
        }
        if self.needed {
            let Self {
                key,
                file_key,
                credential,
                what,
                ..
            } = self;
            let problem = format!(
                "expected {what} at {key}, in the file that {file_key} names or in the systemd credential {credential} (/etc/credstore/{credential}), found none{hint}"
            );
            settings.faults.push(Fault::new(key, problem, None));
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
        settings.give(self.key, Raw::Secret(text.to_owned()).trimmed(), origin);
    }
}
