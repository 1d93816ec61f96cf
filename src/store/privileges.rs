//! The privileges that the daemon needs, and which of them a login has.

use std::fmt;

use bson::{Bson, Document, doc};

use super::{OPERATIONS, OUTBOX, Result, STATE, STATISTICS, Store};
use crate::config::Config;

/// A collection, or a database where the collection is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    database: String,
    collection: String,
}

impl Resource {
    pub(super) fn new(database: &str, collection: &str) -> Self {
        Self {
            database: database.to_owned(),
            collection: collection.to_owned(),
        }
    }

    /// As a role names it.
    pub(super) fn in_role(&self) -> String {
        format!("db: {:?}, collection: {:?}", self.database, self.collection)
    }
}

/// `beedeez.badgeusers`, or `beedeez`.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.database)?;
        if self.collection.is_empty() {
            Ok(())
        } else {
            write!(f, ".{}", self.collection)
        }
    }
}

/// A line of a role.
pub(super) fn role_line(resource: &str, actions: &[&str]) -> String {
    let actions: Vec<_> = actions.iter().map(|action| format!("{action:?}")).collect();
    format!("{{ resource: {{ {resource} }}, actions: [{}] }}", actions.join(", "))
}

/// Actions on a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    resource: Resource,
    actions: Vec<&'static str>,
}

/// The privileges that the role in docs/operate.md grants, as far as this configuration needs them.
pub fn needed(config: &Config) -> Vec<Privilege> {
    let mongodb = &config.mongodb;
    let privilege = |collection: &str, actions: &[&'static str]| Privilege {
        resource: Resource::new(&mongodb.database, collection),
        actions: actions.to_vec(),
    };
    let mut all = vec![
        privilege(&mongodb.badge_users, &needed_on_badge_users(config)),
        privilege(&mongodb.member_configs, &["find", "changeStream"]),
        privilege(OUTBOX, &NEEDED_ON_OUTBOX),
        privilege(STATE, &["find", "insert", "update", "remove", "createCollection"]),
        privilege(
            STATISTICS,
            &["find", "insert", "update", "createCollection", "createIndex"],
        ),
        privilege(
            OPERATIONS,
            &["find", "insert", "update", "createCollection", "createIndex", "collMod"],
        ),
        privilege("", &["listCollections"]),
    ];
    if config.email.smtp_url.is_some() {
        all.push(privilege(&config.email.users, &["find"]));
    }
    all
}

const NEEDED_ON_OUTBOX: [&str; 9] = [
    "find",
    "insert",
    "update",
    "remove",
    "createCollection",
    "createIndex",
    "listIndexes",
    "collMod",
    "changeStream",
];

fn needed_on_badge_users(config: &Config) -> Vec<&'static str> {
    let stream = config.completions.enabled.then_some("changeStream");
    let index = config.scan.ensure_indexes.then_some("createIndex");
    let always = ["find", "update"].into_iter();
    always.chain(stream).chain(index).chain(["listIndexes"]).collect()
}

/// Who is logged in.
#[derive(Clone, Debug)]
pub struct Login {
    /// `user@database` each; none where MongoDB asks for no login.
    pub users: Vec<String>,
    /// What they may do. `None`: MongoDB doesn't say.
    granted: Option<Vec<Document>>,
}

impl Login {
    /// Reads from MongoDB who is logged in.
    ///
    /// # Errors
    /// MongoDB is unavailable.
    pub async fn read(store: &Store) -> Result<Self> {
        let ask = doc! { "connectionStatus": 1, "showPrivileges": true };
        let status = store.database().run_command(ask).await?;
        let listed = |field| {
            let info = status.get_document("authInfo").ok()?;
            let rows = info.get_array(field).ok()?.iter();
            Some(rows.filter_map(Bson::as_document).cloned().collect::<Vec<_>>())
        };
        let user = |user: &Document| {
            let text = |field| user.get_str(field).unwrap_or_default();
            format!("{}@{}", text("user"), text("db"))
        };
        let users = listed("authenticatedUsers").unwrap_or_default();
        Ok(Self {
            users: users.iter().map(user).collect(),
            granted: listed("authenticatedUserPrivileges"),
        })
    }

    /// Those of the `needed` actions that are missing; `None` if MongoDB doesn't say.
    pub fn missing(&self, needed: &Privilege) -> Option<Privilege> {
        let granted = self.granted.as_ref()?;
        let is_granted = |action: &&&str| granted.iter().any(|given| covers(given, needed, action));
        let missing = needed.actions.iter().filter(|action| !is_granted(action));
        Some(Privilege {
            actions: missing.copied().collect(),
            ..needed.clone()
        })
    }
}

/// Whether that privilege, as MongoDB returns it, allows the action. An empty name means any.
fn covers(given: &Document, needed: &Privilege, action: &str) -> bool {
    let Ok(resource) = given.get_document("resource") else {
        return false;
    };
    let names = |field, name: &str| {
        let given = resource.get_str(field);
        given.is_ok_and(|given| given.is_empty() || given == name)
    };
    let is_resource = resource.get_bool("anyResource").unwrap_or(false)
        || (names("db", &needed.resource.database) && names("collection", &needed.resource.collection));
    let actions = given.get_array("actions");
    let is_action = |given: &Bson| {
        given
            .as_str()
            .is_some_and(|given| given == action || given == "anyAction")
    };
    is_resource && actions.is_ok_and(|actions| actions.iter().any(is_action))
}

impl Privilege {
    /// Whether it allows nothing.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// The line to add to the role.
    pub fn role_line(&self) -> String {
        role_line(&self.resource.in_role(), &self.actions)
    }
}

/// `find, update on beedeez.badgeusers`.
impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.actions.join(", "), self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privilege_is_missing_unless_some_resource_with_the_action_holds_it() {
        let needed = Privilege {
            resource: Resource::new("beedeez", "badgeusers"),
            actions: vec!["find", "update"],
        };
        let both = || vec!["find", "update"];
        for (resource, actions, missing) in [
            (doc! { "db": "beedeez", "collection": "badgeusers" }, both(), ""),
            (
                doc! { "db": "beedeez", "collection": "badgeusers" },
                vec!["find"],
                "update",
            ),
            (doc! { "db": "beedeez", "collection": "" }, vec!["update", "find"], ""),
            (doc! { "db": "", "collection": "badgeusers" }, vec!["find"], "update"),
            (doc! { "db": "", "collection": "" }, both(), ""),
            (doc! { "anyResource": true }, vec!["anyAction"], ""),
            (doc! { "db": "other", "collection": "" }, both(), "find, update"),
            (doc! { "db": "beedeez", "collection": "users" }, both(), "find, update"),
            (doc! { "cluster": true }, both(), "find, update"),
        ] {
            let login = Login {
                users: Vec::new(),
                granted: Some(vec![doc! { "resource": resource.clone(), "actions": actions }]),
            };
            assert_eq!(
                login.missing(&needed).unwrap().actions.join(", "),
                missing,
                "{resource}"
            );
        }
    }
}
