//! What MongoDB refuses for a while: by validators on collections, and for want of a privilege.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use bson::{Document, doc};
use mongodb::Database;
use mongodb::error::Error;
use tokio::time::{Instant, sleep};

/// Validators for documents of some certificates refuse those whose id ends with one of these digits.
const DIGITS: &str = "[0-3]";

/// How long MongoDB may be unavailable, or a collection locked: a transaction that nobody ends is looked for every 30 s once it is a
/// minute old.
const UNAVAILABLE_LIMIT: Duration = Duration::from_secs(180);

/// A change of validators or indexes locks the collection. Who waits for that lock makes all others wait.
pub const LOCK_LIMIT_MS: i64 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The privilege to end other instances' sessions is missing.
    KillSessions,
    /// `webhook_stats` takes nothing.
    Statistics,
    /// `webhook_outbox` takes nothing with events of some certificates.
    Deliveries,
    /// `webhook_outbox` takes no delivered batch with events of some certificates.
    Delivered,
    /// `webhook_outbox` takes no retries.
    Retries,
    /// `badgeusers` takes no mark of some certificates.
    Marks,
}

impl Rule {
    pub const ALL: [Self; 6] = [
        Self::KillSessions,
        Self::Statistics,
        Self::Deliveries,
        Self::Delivered,
        Self::Retries,
        Self::Marks,
    ];

    /// From now on MongoDB refuses it.
    pub async fn impose(self, database: &Database) -> Result<()> {
        let of_some = format!("^certificate_[a-z]+_[0-9a-f]{{23}}{DIGITS}_");
        let of_some = doc! { "deliveries.event": { "$regex": of_some } };
        let validator = match self {
            Self::KillSessions => return fail_kill_sessions(database, "alwaysOn").await,
            Self::Statistics => doc! { "nothing": "fits" },
            Self::Deliveries => doc! { "$nor": [of_some] },
            Self::Delivered => doc! { "$nor": [{ "$and": [of_some, { "state": "delivered" }] }] },
            Self::Retries => doc! { "queue": { "$not": { "$regex": "/retry$" } } },
            Self::Marks => {
                let id = doc! { "$toString": "$_id" };
                let of_some = doc! { "$regexMatch": { "input": id, "regex": format!("{DIGITS}$") } };
                doc! { "$nor": [{ "$and": [{ "expiryReminderSent": true }, { "$expr": of_some }] }] }
            }
        };
        self.validate(database, validator).await
    }

    /// From now on MongoDB takes it again.
    pub async fn lift(self, database: &Database) -> Result<()> {
        match self {
            Self::KillSessions => fail_kill_sessions(database, "off").await,
            _ => self.validate(database, doc! {}).await,
        }
    }

    async fn validate(self, database: &Database, validator: Document) -> Result<()> {
        let (collection, level) = match self {
            Self::Statistics => ("webhook_stats", "strict"),
            // The platform goes on writing to what was marked before.
            Self::Marks => ("badgeusers", "moderate"),
            _ => ("webhook_outbox", "strict"),
        };
        let change = doc! {
            "collMod": collection, "validator": validator, "validationLevel": level, "validationAction": "error",
            "maxTimeMS": LOCK_LIMIT_MS,
        };
        persist(|| database.run_command(change.clone()).into_future()).await?;
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillSessions => "killSessions",
            Self::Statistics => "statistics",
            Self::Deliveries => "some deliveries",
            Self::Delivered => "some delivered batches",
            Self::Retries => "retries",
            Self::Marks => "some marks",
        })
    }
}

/// Whether validators refuse documents of that certificate, or with that event.
pub fn is_refusable(event: &str) -> bool {
    let certificate = event.split('_').nth(2).unwrap_or(event);
    certificate.ends_with(['0', '1', '2', '3'])
}

/// As MongoDB replies to a user without the privilege. A mongod that starts again has forgotten it.
async fn fail_kill_sessions(database: &Database, mode: &str) -> Result<()> {
    let data = doc! { "failCommands": ["killSessions"], "errorCode": 13, "appName": "certhookd" };
    let command = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
    let admin = database.client().database("admin");
    persist(|| admin.run_command(command.clone()).into_future()).await?;
    Ok(())
}

/// Repeats what fails while MongoDB is unavailable.
pub async fn persist<T, F: Future<Output = Result<T, Error>>>(operation: impl Fn() -> F) -> Result<T> {
    let limit = Instant::now() + UNAVAILABLE_LIMIT;
    loop {
        match operation().await {
            Err(error) if Instant::now() > limit => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(100)).await,
            Ok(done) => return Ok(done),
        }
    }
}
