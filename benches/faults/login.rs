//! The database user of the instances, which is dropped and created again under them.

use std::time::Instant;

use anyhow::Result;
use bson::{Document, doc};
use mongodb::Database;
use mongodb::error::Error;
use parking_lot::Mutex;

use super::rule::persist;

const PASSWORD: &str = "hunter2";

/// What MongoDB says of a user that is not there, and of one that is already.
const USER_NOT_FOUND: &str = "Error code 11 ";
const ALREADY_THERE: &str = "already exists";

/// A time in which there was no user.
#[derive(Clone, Copy, Debug)]
struct Absence {
    from: Instant,
    /// `None`: until now.
    until: Option<Instant>,
}

/// A user who may do what the role in docs/operate.md says in one database, and nothing else.
#[derive(Debug)]
pub struct User {
    database: Database,
    absences: Mutex<Vec<Absence>>,
}

impl User {
    pub async fn create(database: &Database) -> Result<Self> {
        let user = Self {
            database: database.clone(),
            absences: Mutex::default(),
        };
        let role = doc! { "createRole": user.name(), "roles": [], "privileges": privileges(database.name()) };
        let _ = database.run_command(doc! { "dropRole": user.name() }).await;
        database.run_command(role).await?;
        user.drop_it().await?;
        user.create_it().await?;
        Ok(user)
    }

    /// The part of a URI that holds it.
    pub fn login(&self) -> String {
        format!("{}:{PASSWORD}", self.name())
    }

    /// Drops it: whatever the instances ask is refused, and so is each new login.
    pub async fn remove(&self) -> Result<()> {
        let from = Instant::now();
        self.absences.lock().push(Absence { from, until: None });
        self.drop_it().await
    }

    /// Creates it again, with the same password.
    pub async fn restore(&self) -> Result<()> {
        self.create_it().await?;
        if let Some(last) = self.absences.lock().last_mut() {
            last.until = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether it was missing at some time since then.
    pub fn was_missing_since(&self, instant: Instant) -> bool {
        let absences = self.absences.lock();
        absences.iter().any(|absence| {
            absence
                .until
                .is_none_or(|until| until > instant && absence.from < until)
        })
    }

    fn name(&self) -> &str {
        self.database.name()
    }

    async fn drop_it(&self) -> Result<()> {
        self.administer(doc! { "dropUser": self.name() }, USER_NOT_FOUND).await
    }

    async fn create_it(&self) -> Result<()> {
        let role = doc! { "role": self.name(), "db": self.name() };
        let create = doc! { "createUser": self.name(), "pwd": PASSWORD, "roles": [role] };
        self.administer(create, ALREADY_THERE).await
    }

    /// `done`: what MongoDB says where a command whose reply was lost has done it.
    async fn administer(&self, command: Document, done: &str) -> Result<()> {
        let admin = self.database.client().database("admin");
        let run = || async {
            match admin.run_command(command.clone()).await {
                Err(error) if error.to_string().contains(done) => Ok::<_, Error>(()),
                ran => ran.map(drop),
            }
        };
        persist(run).await
    }
}

/// As in docs/operate.md.
fn privileges(database: &str) -> Vec<Document> {
    let on = |collection: &str, actions: &[&str]| doc! { "resource": { "db": database, "collection": collection }, "actions": actions };
    vec![
        on(
            "badgeusers",
            &["find", "update", "changeStream", "createIndex", "listIndexes"],
        ),
        on("memberconfigs", &["find", "changeStream"]),
        on(
            "webhook_outbox",
            &[
                "find",
                "insert",
                "update",
                "remove",
                "createCollection",
                "createIndex",
                "listIndexes",
                "collMod",
                "changeStream",
            ],
        ),
        on(
            "webhook_state",
            &["find", "insert", "update", "remove", "createCollection"],
        ),
        on(
            "webhook_stats",
            &["find", "insert", "update", "createCollection", "createIndex"],
        ),
        on(
            "webhook_operations",
            &["find", "insert", "update", "createCollection", "createIndex", "collMod"],
        ),
        on("", &["listCollections"]),
    ]
}
