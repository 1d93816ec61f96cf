//! The connection string, wherever it is kept: `mongodb.uri`, the file that `mongodb.uri_file` names, or the systemd
//! credential.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::faults::Fault;
use super::raw::Raw;
use super::settings::{Given, Settings};

const URI: &str = "mongodb.uri";
/// The key that names a file with the connection string.
pub(super) const URI_FILE: &str = "mongodb.uri_file";
const CREDENTIAL: &str = "mongodb-uri";

/// Leaves the connection string at [`URI`], never to be shown. Given in two places it is a fault: nothing says which of
/// them is out of date, and a daemon on the wrong database does harm.
pub(super) fn resolve(credentials: Option<&Path>, settings: &mut Settings) {
    let value = settings.take(URI);
    let named = settings.take(URI_FILE);
    let credential = credentials.and_then(read_credential);
    let sources = [
        value.as_ref().map(|given| format!("{URI} ({})", given.origin)),
        named.as_ref().map(|given| format!("{URI_FILE} ({})", given.origin)),
        credential.as_ref().map(|_| format!("the credential {CREDENTIAL}")),
    ];
    let sources: Vec<String> = sources.into_iter().flatten().collect();
    if sources.len() > 1 {
        let problem = format!(
            "expected one place for the connection string, found {}",
            sources.join(" and ")
        );
        settings.faults.push(Fault::new(URI, problem, None));
    }
    if let Some(Given { raw, origin }) = value {
        settings.give(URI, raw.hidden(), origin);
    }
    if let Some(named) = named {
        give_content(&named, settings);
    }
    match credential {
        Some(Ok(text)) => give_secret(&text, format!("the credential {CREDENTIAL}"), settings),
        Some(Err(error)) => {
            let problem = format!("expected a readable credential {CREDENTIAL}: {error}");
            settings.faults.push(Fault::new(URI, problem, None));
        }
        None => {}
    }
}

/// The credential's text, or `None` if the directory holds no such credential.
fn read_credential(directory: &Path) -> Option<io::Result<String>> {
    match std::fs::read_to_string(directory.join(CREDENTIAL)) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        read => Some(read),
    }
}

fn give_content(named: &Given, settings: &mut Settings) {
    let Given { raw, origin } = named;
    let read = raw
        .as_text()
        .ok_or_else(|| "not a text".to_owned())
        .and_then(|path| std::fs::read_to_string(path).map_err(|error| error.to_string()));
    match read {
        Ok(text) => give_secret(&text, format!("the file that {URI_FILE} names, {origin}"), settings),
        Err(error) => {
            let problem = format!("expected the path of a readable file, found {raw}: {error}");
            settings
                .faults
                .push(Fault::new(URI_FILE, problem, Some(origin.clone())));
        }
    }
}

fn give_secret(text: &str, origin: String, settings: &mut Settings) {
    let text = text.trim_end_matches(['\r', '\n']).to_owned();
    settings.give(URI, Raw::Secret(text), origin);
}
