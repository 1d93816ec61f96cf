//! What went wrong with MongoDB: its kind, and one line for people.
//!
//! The driver's errors carry the server's whole reply, and replies quote commands: payloads, filters, ids. None of that is shown.

use std::fmt;

use mongodb::error::{
    Error as DriverError, ErrorKind, RESUMABLE_CHANGE_STREAM_ERROR, RETRYABLE_ERROR, RETRYABLE_WRITE_ERROR,
    SYSTEM_OVERLOADED_ERROR, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT,
};

use super::denied::Denied;
use super::error_kind::{ATLAS_ERROR, DUPLICATE_KEY, Kind, name_of};
use super::reply::{Reply, plain, reply_of, row_of, tells_of_refused_login};

/// What a mongod that asks for a login replies to a connection without one.
const LOGIN_LOST: &str = "requires authentication";

/// What is said of a query that names an index that is not there, beside `BadValue`.
const NO_SUCH_INDEX: &str = "hint provided does not correspond to an existing index";

/// An operation that MongoDB did not do, or did not confirm.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    cause: Cause,
    kind: Kind,
}

#[derive(Clone)]
enum Cause {
    Driver(DriverError),
    Row(RowError),
    Text(String),
}

/// A row of a write command that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Its index among the rows that were handed in.
    pub index: usize,
    /// MongoDB's code.
    pub code: i32,
}

impl Error {
    /// Something that makes no sense and will make none the next time: counts as refused.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::new(Cause::Text(text.into()), Kind::Refused)
    }

    /// The login is refused.
    #[cfg(test)]
    pub(super) fn login_refused() -> Self {
        Self::new(Cause::Text("no".into()), Kind::Authentication)
    }

    /// A write that may be done but was not confirmed.
    pub(super) fn unconfirmed(text: impl Into<String>, code: Option<i32>) -> Self {
        let kind = code.and_then(Kind::of_code).unwrap_or(Kind::Unavailable);
        Self::new(Cause::Text(text.into()), kind)
    }

    /// A row of a write command was refused.
    pub(super) fn of_row(row: RowError) -> Self {
        Self::new(Cause::Row(row), Kind::of_code(row.code).unwrap_or(Kind::Refused))
    }

    /// In a transaction, a row that is there already was written by somebody since the snapshot, or is one that nobody can read.
    #[must_use]
    pub(super) fn in_transaction(mut self) -> Self {
        if self.is_duplicate() {
            self.0.kind = Kind::Conflict;
        }
        self
    }

    /// The same, with that in parentheses after it.
    pub(super) fn about(&self, what: &str) -> Self {
        let line = self.to_string();
        Self::new(
            Cause::Text(format!("{} ({what})", line.trim_end_matches('.'))),
            self.kind(),
        )
    }

    fn new(cause: Cause, kind: Kind) -> Self {
        Self(Box::new(Inner { cause, kind }))
    }

    /// What it asks for.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// MongoDB's code, where MongoDB said no.
    pub fn code(&self) -> Option<i32> {
        match &self.0.cause {
            Cause::Driver(error) => reply_of(error).map(|reply| reply.code),
            Cause::Row(row) => Some(row.code),
            Cause::Text(_) => None,
        }
    }

    /// Which row of a write command was refused.
    pub fn row(&self) -> Option<RowError> {
        match &self.0.cause {
            Cause::Driver(error) => row_of(error),
            Cause::Row(row) => Some(*row),
            Cause::Text(_) => None,
        }
    }

    /// Whether a document with that key is there already.
    pub fn is_duplicate(&self) -> bool {
        self.code() == Some(DUPLICATE_KEY)
    }

    /// Whether a transaction was perhaps committed.
    pub fn unknown_commit(&self) -> bool {
        self.has_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)
    }

    /// Whether a query named an index that is not there.
    pub fn lacks_index(&self) -> bool {
        match &self.0.cause {
            Cause::Driver(error) => reply_of(error).is_some_and(|reply| lacks_index(&reply)),
            Cause::Row(_) | Cause::Text(_) => false,
        }
    }

    /// What the missing privilege is for, as far as MongoDB says.
    pub fn denied(&self) -> Option<Denied> {
        match &self.0.cause {
            Cause::Driver(error) if self.0.kind == Kind::Denied => Denied::parse(reply_of(error)?.message),
            _ => None,
        }
    }

    /// Whether the connection has no login although the server asks for one: the user was dropped, or created anew.
    pub(super) fn login_is_lost(&self) -> bool {
        match &self.0.cause {
            Cause::Driver(error) => reply_of(error).is_some_and(|reply| reply.message.contains(LOGIN_LOST)),
            _ => false,
        }
    }

    pub(super) fn has_label(&self, label: &str) -> bool {
        matches!(&self.0.cause, Cause::Driver(error) if error.contains_label(label))
    }
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        let kind = kind_of(&error);
        Self::new(Cause::Driver(error), kind)
    }
}

impl From<bson::error::Error> for Error {
    fn from(error: bson::error::Error) -> Self {
        Self::refused(error.to_string())
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.cause {
            Cause::Text(text) => f.write_str(&plain(text)),
            Cause::Row(row) => {
                let name = name_of(row.code).unwrap_or("refused");
                write!(f, "{name} ({}): row {}", row.code, row.index)
            }
            Cause::Driver(error) => match (self.denied(), reply_of(error)) {
                (Some(denied), _) => write!(f, "Unauthorized (13): {denied}"),
                (None, Some(reply)) => write!(f, "{reply}"),
                (None, None) => f.write_str(&describe(error)),
            },
        }
    }
}

/// The same line: an error that is unwrapped or printed for debugging must not show more.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

fn kind_of(error: &DriverError) -> Kind {
    match &*error.kind {
        ErrorKind::ServerSelection { message, .. } | ErrorKind::ConnectionPoolCleared { message, .. }
            if tells_of_refused_login(message) =>
        {
            Kind::Authentication
        }
        ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::InvalidResponse { .. }
        | ErrorKind::Internal { .. } => Kind::Unavailable,
        // Another client has replaced the one that was asked.
        ErrorKind::Shutdown => Kind::Conflict,
        // A login is refused for the server's sake too, while it shuts down.
        ErrorKind::Authentication { .. } => reply_of(error)
            .and_then(|reply| Kind::of_code(reply.code))
            .filter(|kind| *kind == Kind::Unavailable)
            .unwrap_or(Kind::Authentication),
        _ => reply_of(error).map_or(Kind::Refused, |reply| kind_of_reply(error, &reply)),
    }
}

fn lacks_index(reply: &Reply<'_>) -> bool {
    Kind::of_code(reply.code) == Some(Kind::Refused) && reply.message.contains(NO_SUCH_INDEX)
}

fn kind_of_reply(error: &DriverError, reply: &Reply<'_>) -> Kind {
    if reply.code == ATLAS_ERROR {
        return kind_of_atlas(reply.message);
    }
    match Kind::of_code(reply.code) {
        Some(Kind::Denied) if reply.message.contains(LOGIN_LOST) => Kind::Authentication,
        // Created again, see `indexes`.
        _ if lacks_index(reply) => Kind::Conflict,
        Some(kind) => kind,
        None if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => Kind::Conflict,
        None if is_labelled_as_passing(error) => Kind::Unavailable,
        None => Kind::Refused,
    }
}

fn is_labelled_as_passing(error: &DriverError) -> bool {
    let labels = [
        RETRYABLE_WRITE_ERROR,
        RETRYABLE_ERROR,
        SYSTEM_OVERLOADED_ERROR,
        RESUMABLE_CHANGE_STREAM_ERROR,
    ];
    labels.iter().any(|label| error.contains_label(label))
}

/// Logins and privileges; the rest are quotas and limits.
fn kind_of_atlas(message: &str) -> Kind {
    if message.contains("bad auth") {
        Kind::Authentication
    } else if message.contains("not allowed to do action") || message.contains("not authorized") {
        Kind::Denied
    } else {
        Kind::Unavailable
    }
}

/// What the driver itself has to say.
fn describe(error: &DriverError) -> String {
    match &*error.kind {
        ErrorKind::ServerSelection { message, .. } => {
            // Its message is the whole topology; what matters in it is why the first server is unusable.
            let why = message.split_once("Error: Kind: ").map(|(_, why)| why);
            let why = why.and_then(|why| why.split(", labels:").next()).map(plain);
            format!(
                "no usable server: {}",
                why.as_deref().unwrap_or("none is known to be primary")
            )
        }
        ErrorKind::ConnectionPoolCleared { .. } => "the connection was closed because another one had failed".into(),
        ErrorKind::Shutdown => "the client was closed or replaced".into(),
        kind => plain(&kind.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::LONGEST;
    use super::*;

    /// A reply of MongoDB's as the driver makes an error of it.
    fn reply(code: i32, name: &str, message: &str) -> Error {
        let command = bson::doc! { "code": code, "codeName": name, "errmsg": message };
        let command = bson::deserialize_from_document(command).unwrap();
        DriverError::from(ErrorKind::Command(command)).into()
    }

    fn each_is(table: &[(Error, &str)]) {
        for (error, line) in table {
            assert_eq!(error.to_string(), *line);
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_reply_is_one_line_that_quotes_neither_command_nor_data() {
        each_is(&[
            (
                reply(
                    13,
                    "Unauthorized",
                    "not authorized on beedeez to execute command { find: \"badgeusers\", filter: { secret: \"hunter2\" } }",
                ),
                "Unauthorized (13): find on beedeez.badgeusers",
            ),
            (
                reply(13, "Unauthorized", "command find requires authentication"),
                "Unauthorized (13): command find requires authentication",
            ),
            (
                reply(
                    11000,
                    "DuplicateKey",
                    "E11000 duplicate key error collection: t.c index: _id_ dup key: { _id: \"hunter2\" }",
                ),
                "DuplicateKey (11000): E11000 duplicate key error collection: t.c index: _id_…",
            ),
            (
                reply(
                    10334,
                    "BSONObjectTooLarge",
                    "BSONObj size: 17825792 (0x1100000) is invalid. Size must be between 0 and 16793600(16MB) First element: insert: \"hunter2\"",
                ),
                "BSONObjectTooLarge (10334): BSONObj size: 17825792 (0x1100000) is invalid. Size must be between 0 and 16793600(16MB)…",
            ),
            (reply(2, "", "two\nlines"), "BadValue (2): two…"),
            (
                reply(7182500, "Location7182500", &"x".repeat(300)),
                &format!("Location7182500 (7182500): {}…", "x".repeat(LONGEST)),
            ),
        ]);
    }

    #[test]
    fn an_error_that_is_no_reply_is_one_line_too() {
        each_is(&[
            (
                Error::of_row(RowError { index: 3, code: 121 }),
                "DocumentValidationFailure (121): row 3",
            ),
            (
                DriverError::from(ErrorKind::Shutdown).into(),
                "the client was closed or replaced",
            ),
        ]);
    }

    #[test]
    fn atlas_replies_with_one_code_to_everything() {
        for (message, kind) in [
            ("bad auth : Authentication failed.", Kind::Authentication),
            (
                "user is not allowed to do action [find] on [beedeez.badgeusers]",
                Kind::Denied,
            ),
            (
                "you are over your space quota, using 512 MB of 512 MB",
                Kind::Unavailable,
            ),
        ] {
            assert_eq!(reply(ATLAS_ERROR, "AtlasError", message).kind(), kind, "{message}");
        }
    }

    #[test]
    fn a_duplicate_is_a_conflict_in_a_transaction_alone() {
        let row = RowError {
            index: 0,
            code: DUPLICATE_KEY,
        };
        assert_eq!(Error::of_row(row).kind(), Kind::Refused);
        assert_eq!(Error::of_row(row).in_transaction().kind(), Kind::Conflict);
    }
}
