//! The privileges that the daemon needs, and which of them a login has.

use std::fmt;

use bson::{Bson, Document, doc};

use super::{OPERATIONS, OUTBOX, Result, STATE, STATISTICS, Store};
use crate::config::Config;

/// Actions on a collection, or on the database where the collection is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    database: String,
    collection: String,
    actions: Vec<&'static str>,
}

/// The privileges that the role in the README grants, as far as this configuration needs them.
pub fn needed(config: &Config) -> Vec<Privilege> {
    let mongodb = &config.mongodb;
    let privilege = |collection: &str, actions: &[&'static str]| Privilege {
        database: mongodb.database.clone(),
        collection: collection.to_owned(),
        actions: actions.to_vec(),
    };
    let mut badge_users = vec!["find", "update"];
    if config.completions.enabled {
        badge_users.push("changeStream");
    }
    if config.scan.ensure_indexes {
        badge_users.push("createIndex");
    }
    badge_users.push("listIndexes");
    let outbox = [
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
    let mut all = vec![
        privilege(&mongodb.badge_users, &badge_users),
        privilege(&mongodb.member_configs, &["find", "changeStream"]),
        privilege(OUTBOX, &outbox),
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

/// Who is logged in.
#[derive(Clone, Debug)]
pub struct Login {
    /// `user@database` each; none where MongoDB asks for no login.
    pub users: Vec<String>,
    /// What they may do. `None`: MongoDB doesn't tell.
    granted: Option<Vec<Document>>,
}

impl Login {
    /// Asks MongoDB; nothing is written.
    ///
    /// # Errors
    /// It is unavailable.
    pub async fn ask(store: &Store) -> Result<Self> {
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

    /// What of that is missing; `None` if MongoDB doesn't tell.
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

/// Whether that privilege, as MongoDB tells it, allows the action. An empty name stands for any.
fn covers(given: &Document, needed: &Privilege, action: &str) -> bool {
    let Ok(resource) = given.get_document("resource") else {
        return false;
    };
    let names = |field, name: &str| {
        let given = resource.get_str(field);
        given.is_ok_and(|given| given.is_empty() || given == name)
    };
    let is_resource = resource.get_bool("anyResource").unwrap_or(false)
        || (names("db", &needed.database) && names("collection", &needed.collection));
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
        let actions: Vec<_> = self.actions.iter().map(|action| format!("{action:?}")).collect();
        format!(
            "{{ resource: {{ db: {:?}, collection: {:?} }}, actions: [{}] }}",
            self.database,
            self.collection,
            actions.join(", ")
        )
    }
}

/// `find, update on beedeez.badgeusers`.
impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.actions.join(", "), self.database)?;
        if self.collection.is_empty() {
            Ok(())
        } else {
            write!(f, ".{}", self.collection)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privilege_is_missing_unless_some_resource_with_the_action_holds_it() {
        let needed = Privilege {
            database: "beedeez".into(),
            collection: "badgeusers".into(),
            actions: vec!["find", "update"],
        };
        for (resource, actions, missing) in [
            (
                doc! { "db": "beedeez", "collection": "badgeusers" },
                vec!["find", "update"],
                "",
            ),
            (
                doc! { "db": "beedeez", "collection": "badgeusers" },
                vec!["find"],
                "update",
            ),
            (doc! { "db": "beedeez", "collection": "" }, vec!["update", "find"], ""),
            (doc! { "db": "", "collection": "badgeusers" }, vec!["find"], "update"),
            (doc! { "db": "", "collection": "" }, vec!["find", "update"], ""),
            (doc! { "anyResource": true }, vec!["anyAction"], ""),
            (
                doc! { "db": "other", "collection": "" },
                vec!["find", "update"],
                "find, update",
            ),
            (
                doc! { "db": "beedeez", "collection": "users" },
                vec!["find", "update"],
                "find, update",
            ),
            (doc! { "cluster": true }, vec!["find", "update"], "find, update"),
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
