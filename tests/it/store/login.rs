//! A login that is refused, lost or without a privilege: logged once, and needs no restart once corrected.

use std::time::Duration;

use bson::{Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Options, ReplicaSet};
use mongodb::Database;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, expired};
use crate::web::{LISTEN, address, get};

const NAME: &str = "certhookd";

/// How long a user does not exist: longer than from one check of the login to the next.
const GONE: Duration = Duration::from_secs(5);

/// A replica set that asks for a login, and a fixture whose daemon has one of its own.
struct Guarded {
    _set: ReplicaSet,
    fixture: Fixture,
}

impl Guarded {
    /// The daemon's user has these roles.
    async fn new(roles: &[&str]) -> Self {
        let options = Options {
            login: true,
            ..Options::default()
        };
        let set = ReplicaSet::start(options).await.unwrap();
        let uri = set.uri().replace("root:sandbox@", &format!("{NAME}:hunter2@"));
        let settings = format!("scan.schedule = \"* * * * * *\"\n{LISTEN}");
        let fixture = Fixture::on(&uri, set.client().await.unwrap()).with(&settings);
        let guarded = Self { _set: set, fixture };
        guarded.create_user(roles).await;
        guarded
    }

    fn admin(&self) -> Database {
        self.fixture.database.client().database("admin")
    }

    async fn create_user(&self, roles: &[&str]) {
        let database = self.fixture.database.name();
        let roles: Vec<_> = roles
            .iter()
            .map(|role| doc! { "role": *role, "db": database })
            .collect();
        let create = doc! { "createUser": NAME, "pwd": "hunter2", "roles": roles };
        self.admin().run_command(create).await.unwrap();
    }

    async fn drop_user(&self) {
        self.admin().run_command(doc! { "dropUser": NAME }).await.unwrap();
    }

    /// One more certificate is awarded and has expired, and both are told of.
    async fn delivers(&self, organization: bson::oid::ObjectId) {
        let total = self.fixture.receiver.total() + 2;
        self.fixture
            .badge_users()
            .insert_one(expired(organization))
            .await
            .unwrap();
        self.fixture
            .receiver
            .wait_for_total(total, crate::fixture::LIMIT)
            .await
            .unwrap();
    }
}

impl Guarded {
    /// From now on heartbeats are sent, the stream's position and the lease are as they should be, and scans are noted.
    async fn resumes(&self) {
        let now = Clock::local();
        let state = self.fixture.state();
        for (id, moved) in [("^instance/", "seenAt"), ("^watch$", "at"), ("^scan$", "at")] {
            let moved = doc! { "_id": { "$regex": id }, moved: { "$gt": now } };
            self.fixture.wait_for_count(&state, moved, 1).await;
        }
    }
}

fn is_error(line: &Value) -> bool {
    line["level"] == "ERROR"
}

fn is_accepted(line: &Value) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    message.starts_with("MongoDB no longer refuses to")
}

fn is_logged_in_again(line: &Value) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    message.starts_with("logged in to MongoDB again")
}

/// This many errors, and no outage; nothing tells a secret.
fn assert_told(daemon: &Daemon, errors: usize) {
    let lines = daemon.lines();
    assert_eq!(daemon.count(is_error), errors, "{lines:#?}");
    // That nothing is sent without a heartbeat is another matter.
    let is_silence = |line: &Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("no heartbeat"))
    };
    assert_eq!(
        daemon.count(|line| line["level"] == "WARN" && !is_silence(line)),
        0,
        "{lines:#?}"
    );
    assert!(!format!("{lines:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_user_dropped_and_created_again_under_a_running_daemon_costs_no_restart() {
    let guarded = Guarded::new(&["readWrite"]).await;
    let organization = guarded.fixture.organization(vec![guarded.fixture.endpoint("/a")]).await;
    let other = guarded
        .fixture
        .organization(vec![guarded.fixture.endpoint("/other")])
        .await;
    let mut daemon = guarded.fixture.daemon().await;
    guarded.delivers(organization).await;
    for times in 1..=2 {
        guarded.drop_user().await;
        guarded.create_user(&["readWrite"]).await;
        // By a new client, or by the driver, if it happened to log in between the two.
        daemon.wait_for_nth(is_accepted, times).await;
        guarded.delivers(organization).await;
        guarded.delivers(other).await;
        guarded.resumes().await;
        assert_told(&daemon, times);
    }
    // An endpoint that comes later: the directory follows changes, too.
    let later = guarded
        .fixture
        .organization(vec![guarded.fixture.endpoint("/later")])
        .await;
    let is_read = |line: &Value| line["message"] == "endpoints read" && line["organization"] == later.to_hex();
    daemon.wait_for(is_read).await;
    guarded.delivers(later).await;
    let delivered = doc! { "state": "delivered", "attempts": 1 };
    guarded.fixture.wait_for_deliveries(delivered, 12).await;
    assert!(daemon.stop().await.success());
    assert_eq!(guarded.fixture.receiver.total(), 12, "each once");
}

#[tokio::test]
async fn a_user_that_is_gone_for_a_while_is_waited_for() {
    let guarded = Guarded::new(&["readWrite"]).await;
    let organization = guarded.fixture.organization(vec![guarded.fixture.endpoint("/a")]).await;
    let mut daemon = guarded.fixture.daemon().await;
    let address = address(&daemon).await;
    guarded.delivers(organization).await;
    guarded.drop_user().await;
    daemon.wait_for(is_error).await;
    let unready = get(address, "/readyz").await;
    assert!(
        unready.body.starts_with("MongoDB has refused the login for"),
        "{}",
        unready.body
    );
    // Looked for in vain.
    tokio::time::timeout(GONE, daemon.wait_for(is_logged_in_again))
        .await
        .unwrap_err();
    guarded.create_user(&["readWrite"]).await;
    guarded.delivers(organization).await;
    daemon.wait_for(is_accepted).await;
    assert_eq!(get(address, "/readyz").await.status, 200);
    assert_told(&daemon, 1);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_privilege_that_is_missing_is_named_with_the_line_of_the_role_and_works_once_it_is_granted() {
    let guarded = Guarded::new(&[]).await;
    let (fixture, name) = (&guarded.fixture, guarded.fixture.database.name());
    let all = |collection: &str, actions: &[&str]| doc! { "resource": { "db": name, "collection": collection }, "actions": actions };
    let everything = [
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
    let privileges = |state: &[&str]| -> Vec<Document> {
        let others = [
            "badgeusers",
            "memberconfigs",
            "webhook_outbox",
            "webhook_stats",
            "webhook_operations",
        ];
        let mut all: Vec<_> = others.iter().map(|collection| all(collection, &everything)).collect();
        all.push(doc! { "resource": { "db": name, "collection": "" }, "actions": ["listCollections"] });
        all.push(doc! { "resource": { "db": name, "collection": "webhook_state" }, "actions": state });
        all
    };
    let role = doc! { "createRole": "role", "privileges": privileges(&["find"]), "roles": [] };
    fixture.database.run_command(role).await.unwrap();
    let grant = doc! { "grantRolesToUser": NAME, "roles": [{ "role": "role", "db": name }] };
    guarded.admin().run_command(grant).await.unwrap();

    let mut daemon = fixture.launch();
    let error = daemon.wait_for(is_error).await;
    let line = format!(
        r#"{{ resource: {{ db: "{name}", collection: "webhook_state" }}, actions: ["find", "insert", "update"] }}"#
    );
    assert_eq!(error["add_to_role"], line, "{error}");
    let granted = doc! { "updateRole": "role", "privileges": privileges(&everything) };
    fixture.database.run_command(granted).await.unwrap();
    daemon.wait_for(|line| line["message"] == "ready").await;
    daemon.wait_for(is_accepted).await;
    assert_told(&daemon, 1);
    assert!(daemon.stop().await.success());
}
