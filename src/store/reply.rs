//! What the server said, out of the driver's errors, and how it is shown: in one short line that quotes nothing.

use std::fmt;

use mongodb::error::{Error as DriverError, ErrorKind, WriteFailure};

use super::error::RowError;
use super::error_kind::name_of;

/// A message of MongoDB's or the driver's is cut to this many characters.
pub(super) const LONGEST: usize = 200;

/// Where a message begins to quote data: documents, strings, keys.
const QUOTES: [&str; 6] = ["{", "\"", "\n", "\r", "dup key", "First element"];

/// How the driver's text begins of a server that is unusable, or whose connections were closed, because it refused a login.
const REFUSED_LOGIN: [&str; 6] = [
    "SCRAM",
    "MONGODB-X509",
    "PLAIN",
    "MONGODB-AWS",
    "MONGODB-OIDC",
    "GSSAPI",
];

/// What the server said: code, name and message.
pub(super) struct Reply<'a> {
    pub(super) code: i32,
    pub(super) name: &'a str,
    pub(super) message: &'a str,
}

impl fmt::Display for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.name {
            "" => name_of(self.code).unwrap_or("refused"),
            name => name,
        };
        write!(f, "{name} ({}): {}", self.code, plain(self.message))
    }
}

/// MongoDB's no, where the error is one.
pub(super) fn reply_of(error: &DriverError) -> Option<Reply<'_>> {
    let reply = |code, name, message| Reply { code, name, message };
    match &*error.kind {
        ErrorKind::Command(command) => Some(reply(command.code, &command.code_name, &command.message)),
        ErrorKind::Write(WriteFailure::WriteError(row)) => {
            Some(reply(row.code, row.code_name.as_deref().unwrap_or(""), &row.message))
        }
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => {
            Some(reply(concern.code, &concern.code_name, &concern.message))
        }
        ErrorKind::InsertMany(many) => {
            let row = many.write_errors.as_ref().and_then(|rows| rows.first());
            let row = row.map(|row| reply(row.code, row.code_name.as_deref().unwrap_or(""), &row.message));
            let concern = many.write_concern_error.as_ref();
            row.or_else(|| concern.map(|concern| reply(concern.code, &concern.code_name, &concern.message)))
        }
        // The driver keeps the server's reply to a login as the cause.
        ErrorKind::Authentication { .. } => reply_of(driver_source(error)?),
        _ => None,
    }
}

fn driver_source(error: &DriverError) -> Option<&DriverError> {
    let source = std::error::Error::source(error)?;
    let boxed = || source.downcast_ref::<Box<DriverError>>().map(AsRef::as_ref);
    source.downcast_ref::<DriverError>().or_else(boxed)
}

/// The first row that was refused.
pub(super) fn row_of(error: &DriverError) -> Option<RowError> {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(row)) => Some(RowError {
            index: 0,
            code: row.code,
        }),
        ErrorKind::InsertMany(many) => many.write_errors.as_ref()?.first().map(|row| RowError {
            index: row.index,
            code: row.code,
        }),
        _ => None,
    }
}

/// One short line without what was quoted.
pub(super) fn plain(message: &str) -> String {
    let quoted = QUOTES.iter().filter_map(|quote| message.find(quote)).min();
    let words = &message[..quoted.unwrap_or(message.len())];
    let end = words.char_indices().nth(LONGEST).map(|(place, _)| place);
    let mut line: String = words[..end.unwrap_or(words.len())]
        .trim_end_matches([' ', ':', ',', '-', '(', '[', '\''])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if quoted.or(end).is_some() {
        line.push('…');
    }
    line
}

/// Whether the driver's text on servers that are unusable tells of refused logins, and of no other error.
pub(super) fn tells_of_refused_login(text: &str) -> bool {
    let mut errors = text.split("Kind: ").skip(1).peekable();
    let is_one = |error: &str| REFUSED_LOGIN.iter().any(|mechanism| error.starts_with(mechanism));
    errors.peek().is_some() && errors.all(is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_tells_of_a_refused_login_if_no_server_has_another_error() {
        let refused = "Error: Kind: SCRAM failure: Could not find user \"a\", labels: {}";
        let other = "Error: Kind: I/O error: Connection refused, labels: {}";
        for (errors, is_refused) in [
            (&[refused] as &[_], true),
            (&[refused, refused], true),
            (&[refused, other], false),
            (&[other], false),
            (&[], false),
        ] {
            let text = format!("Server selection timeout: {}", errors.join(", "));
            assert_eq!(tells_of_refused_login(&text), is_refused, "{text}");
        }
    }
}
