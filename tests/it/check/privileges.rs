//! Every privilege of the role: the one in docs/operate.md is what is needed, and each that is missing is found.

use std::io::Write;
use std::process::Stdio;

use bson::{Document, doc};
use certhookd::sandbox::{Options, ReplicaSet};
use futures_util::{StreamExt, stream};
use serde_json::Value;

use super::told;
use crate::fixture::{Fixture, expired};
use crate::standard_webhooks::libraries;

const PAGE: &str = include_str!("../../../docs/operate.md");

/// One action on one resource.
#[derive(Clone, Debug, PartialEq)]
struct Granted {
    collection: String,
    action: String,
}

/// The role as the page has operators create it.
fn of_page() -> Vec<Granted> {
    let role = PAGE.split_once("roles: [], privileges: [").unwrap().1;
    let role = role.split_once("\n  ],\n})").unwrap().0;
    let names = ["resource", "actions", "db", "collection"];
    let json = names.iter().fold(format!("[{role}]"), |text, name| {
        text.replace(&format!("{name}: "), &format!("\"{name}\": "))
    });
    let json = json.trim_end_matches(']').trim_end().trim_end_matches(',').to_owned() + "]";
    let json: Value = serde_json::from_str(&json).unwrap();
    let of = |privilege: &Value| -> Vec<Granted> {
        let collection = privilege["resource"]["collection"].as_str().unwrap().to_owned();
        let actions = privilege["actions"].as_array().unwrap().iter();
        let granted = |action: &Value| Granted {
            collection: collection.clone(),
            action: action.as_str().unwrap().to_owned(),
        };
        actions.map(granted).collect()
    };
    json.as_array().unwrap().iter().flat_map(of).collect()
}

/// A database whose users have just what they are granted.
pub struct Guarded {
    pub set: ReplicaSet,
    pub fixture: Fixture,
}

impl Guarded {
    pub async fn new() -> Self {
        let options = Options {
            login: true,
            ..Options::default()
        };
        let set = ReplicaSet::start(options).await.unwrap();
        let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
        Self { set, fixture }
    }

    /// Does what an administrator does with the page's block that has this in it, in this database and with the password `hunter2`.
    async fn paste(&self, part: &str) {
        let blocks = PAGE.split("```js\n").skip(1);
        let block = blocks
            .map(|block| block.split("```").next().unwrap())
            .find(|block| block.contains(part));
        let block = block
            .unwrap()
            .replace("beedeez", self.fixture.database.name())
            .replace("PASSWORD", "hunter2");
        let mut node = libraries::node();
        // Where it finds the driver.
        let script = tempfile::tempdir_in(node.get_current_dir().unwrap()).unwrap();
        let path = script.path().join("mongosh.mjs");
        std::fs::copy(libraries::data("mongosh.mjs"), &path).unwrap();
        node.arg(path)
            .arg(self.set.uri())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        let mut node = node.spawn().unwrap();
        node.stdin.take().unwrap().write_all(block.as_bytes()).unwrap();
        let pasted = node.wait_with_output().unwrap();
        assert!(pasted.status.success(), "{block}: {pasted:?}");
    }

    /// The connection string of a user with these privileges.
    async fn user(&self, name: &str, granted: &[Granted]) -> String {
        let database = self.fixture.database.name();
        let privilege = |one: &Granted| doc! { "resource": { "db": database, "collection": &one.collection }, "actions": [&one.action] };
        let privileges: Vec<Document> = granted.iter().map(privilege).collect();
        let role = doc! { "createRole": name, "roles": [], "privileges": privileges };
        self.fixture.database.run_command(role).await.unwrap();
        let roles = [doc! { "role": name, "db": database }];
        let user = doc! { "createUser": name, "pwd": "hunter2", "roles": roles.to_vec() };
        self.fixture
            .database
            .client()
            .database("admin")
            .run_command(user)
            .await
            .unwrap();
        self.set.uri().replace("root:sandbox@", &format!("{name}:hunter2@"))
    }
}

#[tokio::test]
async fn each_that_is_missing_is_found_and_named_with_the_line_to_add() {
    let guarded = Guarded::new().await;
    let all = of_page();
    assert_eq!(all.len(), 33, "{all:#?}");
    let mut users = Vec::new();
    for (place, missing) in all.iter().enumerate() {
        let others: Vec<_> = all.iter().filter(|other| *other != missing).cloned().collect();
        users.push((guarded.user(&format!("without{place}"), &others).await, missing));
    }
    let database = guarded.fixture.database.name();
    let check = |(uri, missing)| {
        let mut command = guarded.fixture.command(&["check"]);
        command.env("CERTHOOKD_MONGODB__URI", uri);
        async move { (crate::fixture::Outcome::of(command).await, missing) }
    };
    // Each writes the configuration: all before any is read.
    let checks: Vec<_> = users.into_iter().map(check).collect();
    let checks: Vec<_> = stream::iter(checks).buffer_unordered(4).collect().await;
    for (check, Granted { collection, action }) in checks {
        assert_eq!(check.code, Some(78), "{action} on {collection}: {check:?}");
        let faults = told(&check, "FAIL");
        let faults: Vec<_> = faults.iter().filter(|line| line.starts_with("privilege: ")).collect();
        let place = if collection.is_empty() {
            database.to_owned()
        } else {
            format!("{database}.{collection}")
        };
        let line =
            format!("{{ resource: {{ db: \"{database}\", collection: \"{collection}\" }}, actions: [\"{action}\"] }}");
        assert_eq!(
            faults,
            [&format!(
                "privilege: {action} on {place} is missing; add to the role: {line}"
            )],
            "{check:?}"
        );
        assert!(!format!("{check:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn what_administrators_paste_is_enough_and_leaves_nothing_in_the_end() {
    let guarded = Guarded::new().await;
    guarded.paste("createRole: ").await;
    guarded.paste("createUser: ").await;
    let uri = guarded.set.uri().replace("root:sandbox@", "certhookd:hunter2@");
    let fixture = &guarded.fixture;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let command = |arguments: &[&str]| {
        let mut command = fixture.command(arguments);
        command.env("CERTHOOKD_MONGODB__URI", &uri);
        command
    };
    let check = crate::fixture::Outcome::of(command(&["check"])).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    assert_eq!(told(&check, "FAIL"), [""; 0]);
    let connection = told(&check, "ok")
        .into_iter()
        .find(|line| line.starts_with("connection: "))
        .unwrap();
    assert!(connection.contains(" as certhookd@admin, MongoDB "), "{connection}");
    assert!(
        told(&check, "ok")
            .iter()
            .filter(|line| line.starts_with("privilege: "))
            .count()
            >= 6,
        "{check:?}"
    );

    let mut daemon = crate::fixture::Daemon::spawn(command(&["run"]));
    daemon.wait_for(|line| line["message"] == "ready").await;
    fixture.receiver.wait_for_total(1, crate::fixture::LIMIT).await.unwrap();
    assert!(daemon.stop().await.success());
    assert_eq!(
        daemon.count(|line| line["level"] == "ERROR" || line["level"] == "WARN"),
        0,
        "{:#?}",
        daemon.lines()
    );

    // What the configuration has no use for is not asked for.
    let fewer: Vec<_> = of_page()
        .into_iter()
        .filter(|one| one.action != "createIndex" || one.collection != "badgeusers")
        .collect();
    let fewer = guarded.user("fewer", &fewer).await;
    let mut without_index = fixture.command(&["check"]);
    without_index
        .env("CERTHOOKD_MONGODB__URI", &fewer)
        .env("CERTHOOKD_SCAN__ENSURE_INDEXES", "false");
    let check = crate::fixture::Outcome::of(without_index).await;
    assert_eq!(check.code, Some(0), "{check:?}");

    guarded.paste("dropUser(").await;
    assert_eq!(
        fixture.database.list_collection_names().await.unwrap().len(),
        2,
        "the platform's are left"
    );
    let index = fixture.badge_users().list_index_names().await.unwrap();
    assert_eq!(index, ["_id_"]);
    let check = crate::fixture::Outcome::of(command(&["check"])).await;
    assert_eq!(check.code, Some(78), "{check:?}");
}

/// They are created once the privilege is there.
#[tokio::test]
async fn operations_are_carried_out_whether_or_not_their_indexes_may_be_created() {
    let guarded = Guarded::new().await;
    let fixture = &guarded.fixture;
    let of_index = |one: &Granted| one.collection == "webhook_operations" && one.action == "createIndex";
    let fewer: Vec<_> = of_page().into_iter().filter(|one| !of_index(one)).collect();
    let mut command = fixture.command(&["run"]);
    command.env("CERTHOOKD_MONGODB__URI", guarded.user("fewer", &fewer).await);
    let daemon = crate::fixture::Daemon::spawn(command);
    daemon.wait_for(|line| line["message"] == "ready").await;
    for kind in ["hold", "release", "replay", "cancel"] {
        let operation = doc! { "kind": kind, "selection": { "all": true } };
        let ended = fixture.operate(operation).await;
        assert_eq!(ended.get_str("state").unwrap(), "done", "{ended}");
    }
    let errors: Vec<_> = daemon
        .lines()
        .into_iter()
        .filter(|line| line["level"] == "ERROR")
        .collect();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let message = errors[0]["message"].as_str().unwrap();
    let line = "collection: \"webhook_operations\" }, actions: [\"createIndex\"] }";
    assert!(
        message.contains("add to the role: ") && message.contains(line),
        "{message}"
    );
}

#[tokio::test]
async fn without_a_login_where_one_is_asked_for_is_exit_78() {
    let guarded = Guarded::new().await;
    let mut command = guarded.fixture.command(&["check"]);
    command.env("CERTHOOKD_MONGODB__URI", guarded.set.uri().replace("root:sandbox@", ""));
    let check = crate::fixture::Outcome::of(command).await;
    assert_eq!(check.code, Some(78), "{check:?}");
    let faults = told(&check, "FAIL");
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(
        faults[0].starts_with("connection: ") && faults[0].contains("requires authentication"),
        "{faults:#?}"
    );
}
