//! A missing privilege: what it is for, and the line of the role that gives it.

use std::fmt;

use super::privileges::{Resource, role_line};

/// What MongoDB did not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The command, or the action where MongoDB says that instead.
    command: String,
    /// Where the privilege is missing.
    resource: Resource,
    /// Whether the command opens a change stream.
    watches: bool,
}

impl Denied {
    /// From MongoDB's message, which quotes the whole command: its name and its collection alone are taken.
    pub(super) fn parse(message: &str) -> Option<Self> {
        Self::of_mongod(message).or_else(|| Self::of_atlas(message))
    }

    /// `not authorized on DB to execute command { find: "COLLECTION", …`
    fn of_mongod(message: &str) -> Option<Self> {
        let (database, command) = message
            .split_once("not authorized on ")?
            .1
            .split_once(" to execute command { ")?;
        let (name, argument) = command.split_once(": ")?;
        let quoted = argument.strip_prefix('"').and_then(|rest| rest.split('"').next());
        Some(Self {
            command: name.to_owned(),
            resource: Resource::new(database, quoted.unwrap_or_default()),
            watches: command.contains("$changeStream"),
        })
    }

    /// `user is not allowed to do action [find] on [DB.COLLECTION]`
    fn of_atlas(message: &str) -> Option<Self> {
        let (action, namespace) = message.split_once("action [")?.1.split_once("] on [")?;
        let namespace = namespace.split(']').next()?;
        let (database, collection) = namespace.split_once('.').unwrap_or((namespace, ""));
        Some(Self {
            command: action.to_owned(),
            resource: Resource::new(database, collection),
            watches: false,
        })
    }

    /// The line to add to the role.
    pub fn role_line(&self) -> String {
        match self.command.as_str() {
            "killSessions" => role_line("cluster: true", &["killAnySession"]),
            _ => role_line(&self.resource.in_role(), &self.actions()),
        }
    }

    /// The actions that the command needs.
    fn actions(&self) -> Vec<&str> {
        match self.command.as_str() {
            "aggregate" | "getMore" if self.watches => vec!["find", "changeStream"],
            "find" | "aggregate" | "getMore" | "count" | "distinct" => vec!["find"],
            // An upsert inserts.
            "update" | "findAndModify" | "findandmodify" => vec!["find", "insert", "update"],
            "delete" => vec!["remove"],
            "create" => vec!["createCollection"],
            "createIndexes" => vec!["createIndex"],
            // The others are called as their action: insert, listIndexes, listCollections, collMod.
            other => vec![other],
        }
    }
}

/// `find on beedeez.badgeusers`.
impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.command, self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_yields_the_command_and_the_line_of_the_role() {
        for (message, shown, line) in [
            (
                r#"not authorized on beedeez to execute command { find: "badgeusers", filter: { a: "b" }, $db: "beedeez" }"#,
                "find on beedeez.badgeusers",
                r#"{ resource: { db: "beedeez", collection: "badgeusers" }, actions: ["find"] }"#,
            ),
            (
                r#"not authorized on beedeez to execute command { aggregate: "badgeusers", pipeline: [ { $changeStream: {} } ] }"#,
                "aggregate on beedeez.badgeusers",
                r#"{ resource: { db: "beedeez", collection: "badgeusers" }, actions: ["find", "changeStream"] }"#,
            ),
            (
                r#"not authorized on beedeez to execute command { listCollections: 1, nameOnly: true }"#,
                "listCollections on beedeez",
                r#"{ resource: { db: "beedeez", collection: "" }, actions: ["listCollections"] }"#,
            ),
            (
                r#"not authorized on admin to execute command { killSessions: [ { id: UUID("…") } ] }"#,
                "killSessions on admin",
                r#"{ resource: { cluster: true }, actions: ["killAnySession"] }"#,
            ),
            (
                "user is not allowed to do action [insert] on [beedeez.webhook_outbox]",
                "insert on beedeez.webhook_outbox",
                r#"{ resource: { db: "beedeez", collection: "webhook_outbox" }, actions: ["insert"] }"#,
            ),
        ] {
            let denied = Denied::parse(message).unwrap();
            assert_eq!(
                (denied.to_string().as_str(), denied.role_line().as_str()),
                (shown, line)
            );
        }
        assert_eq!(Denied::parse("command find requires authentication"), None);
    }
}
