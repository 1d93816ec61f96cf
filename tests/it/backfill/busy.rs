//! An organization whose certificates are awarded, awarded again, renewed and deleted while a backfill goes through them: what has to
//! arrive. The bench `faults` has more of them.

use std::collections::HashMap;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Received;
use mongodb::Collection;
use mongodb::error::Result;
use tokio_util::sync::CancellationToken;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Certificates that a step of a backfill may have read although its progress doesn't say so yet, and some more.
const UNDER_WAY: usize = 200;

/// Certificates that are inserted at once.
const AT_ONCE: usize = 5_000;

pub struct Busy {
    badge_users: Collection<Document>,
    operations: Collection<Document>,
    organization: ObjectId,
    /// Those that were there before the backfill, in the order in which it comes to them.
    first: Vec<ObjectId>,
    alive: Vec<Certificate>,
}

#[derive(Clone, Copy)]
struct Certificate {
    id: ObjectId,
    awarded: DateTime,
    expires: DateTime,
    /// It has to arrive in the state in which it expired then, or in a later one.
    at_least: DateTime,
    /// Its award is told of when it happens, and so not by the backfill.
    is_told: bool,
}

impl Certificate {
    fn new() -> Self {
        let now = Clock::local();
        let expires = DateTime::from_millis(now.timestamp_millis() + 30 * DAY_MS);
        Self {
            id: ObjectId::new(),
            awarded: now,
            expires,
            at_least: expires,
            is_told: false,
        }
    }

    /// The `webhook-id` of its last award.
    fn event(&self) -> String {
        format!("certificate_completed_{}_{}", self.id, self.awarded.timestamp_millis())
    }
}

impl Busy {
    /// That many certificates that nobody was told of.
    pub async fn fill(
        badge_users: Collection<Document>,
        operations: Collection<Document>,
        organization: ObjectId,
        count: usize,
    ) -> Result<Self> {
        let alive: Vec<_> = (0..count).map(|_| Certificate::new()).collect();
        let mut busy = Self {
            badge_users,
            operations,
            organization,
            first: alive.iter().map(|one| one.id).collect(),
            alive,
        };
        busy.first.sort_unstable();
        for part in busy.alive.chunks(AT_ONCE) {
            let documents = part.iter().map(|one| busy.document(one));
            busy.badge_users.insert_many(documents).await?;
        }
        Ok(busy)
    }

    fn document(&self, certificate: &Certificate) -> Document {
        doc! {
            "_id": certificate.id, "_userId": ObjectId::new(), "_ownerId": self.organization, "_badgeId": ObjectId::new(),
            "creationDate": certificate.awarded, "expires": certificate.expires, "disabled": false, "expiryReminderSent": false,
            "_lessonActiveIds": [ObjectId::new()], "ruleData": { "type": "track", "name": "Safety" },
            "createdAt": certificate.awarded, "updatedAt": certificate.awarded, "__v": 0,
        }
    }

    /// Awards, awards again, renews and deletes at random, until `stop`, while that backfill goes on.
    pub async fn live_on(&mut self, backfill: &Bson, every: Duration, stop: CancellationToken) -> Result<()> {
        let mut ticks = tokio::time::interval(every);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let which = fastrand::usize(..self.alive.len());
            match fastrand::u8(..4) {
                0 => drop(self.award().await?),
                1 => self.award_again(which).await?,
                2 => self.renew(which, backfill).await?,
                _ => {
                    let deleted = self.alive.swap_remove(which);
                    self.badge_users.delete_one(doc! { "_id": deleted.id }).await?;
                }
            }
        }
        Ok(())
    }

    /// How many certificates are alive.
    #[allow(dead_code, reason = "the bench tells of it")]
    pub fn alive(&self) -> usize {
        self.alive.len()
    }

    /// Returns the `webhook-id` of the award.
    pub async fn award(&mut self) -> Result<String> {
        let mut certificate = Certificate::new();
        certificate.is_told = true;
        self.badge_users.insert_one(self.document(&certificate)).await?;
        self.alive.push(certificate);
        Ok(certificate.event())
    }

    async fn award_again(&mut self, which: usize) -> Result<()> {
        let certificate = &mut self.alive[which];
        certificate.awarded = Clock::local();
        certificate.is_told = true;
        let set = doc! { "$set": { "creationDate": certificate.awarded } };
        self.badge_users.update_one(doc! { "_id": certificate.id }, set).await?;
        Ok(())
    }

    /// It expires a day later. Nobody is told of that alone; a backfill that comes later tells of it.
    async fn renew(&mut self, which: usize, backfill: &Bson) -> Result<()> {
        let certificate = self.alive[which];
        let expires = DateTime::from_millis(certificate.expires.timestamp_millis() + DAY_MS);
        let set = doc! { "$set": { "expires": expires } };
        self.badge_users.update_one(doc! { "_id": certificate.id }, set).await?;
        self.alive[which].expires = expires;
        if !certificate.is_told && self.is_before(backfill, certificate.id).await? {
            self.alive[which].at_least = expires;
        }
        Ok(())
    }

    /// Whether the backfill has certainly not come to that certificate yet.
    async fn is_before(&self, backfill: &Bson, id: ObjectId) -> Result<bool> {
        let found = self
            .operations
            .find_one(doc! { "_id": backfill })
            .await?
            .unwrap_or_default();
        let progress = found.get_document("progress");
        let after = progress.and_then(|progress| progress.get_object_id("after"));
        let done = after.map_or(0, |after| self.first.partition_point(|one| *one <= after));
        let place = self.first.binary_search(&id);
        Ok(place.is_ok_and(|place| place >= done + UNDER_WAY))
    }

    /// The certificates that are alive and have not arrived in their last state, or that it was when the backfill came to them.
    pub fn missing(&self, received: &[Received]) -> Vec<String> {
        let mut arrived: HashMap<&str, DateTime> = HashMap::new();
        for request in received {
            let expires = expires(&request.body);
            let latest = arrived.entry(request.header("webhook-id")).or_insert(expires);
            *latest = (*latest).max(expires);
        }
        let fault = |certificate: &Certificate| {
            let event = certificate.event();
            match arrived.get(&*event) {
                None => Some(format!("{event} has not arrived")),
                Some(expires) if (certificate.at_least..=certificate.expires).contains(expires) => None,
                Some(expires) => Some(format!(
                    "{event} has arrived as it was when it expired at {expires}, and it did at {} before the backfill came to it",
                    certificate.at_least
                )),
            }
        };
        self.alive.iter().filter_map(fault).collect()
    }
}

fn expires(body: &[u8]) -> DateTime {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let expires = body["expires"].as_str().unwrap_or_default();
    DateTime::parse_rfc3339_str(expires).unwrap_or(DateTime::from_millis(0))
}

/// Events of which the outbox has more than one delivery.
pub async fn appended_twice(outbox: &Collection<Document>) -> Result<Vec<Document>> {
    use futures_util::TryStreamExt;
    let pipeline = [
        doc! { "$project": { "endpoint": 1, "deliveries.event": 1, "results.moved": 1 } },
        doc! { "$unwind": { "path": "$deliveries", "includeArrayIndex": "place" } },
        // What has moved has a document of its own.
        doc! { "$set": { "result": { "$arrayElemAt": ["$results", { "$toInt": "$place" }] } } },
        doc! { "$match": { "result.moved": { "$ne": true } } },
        doc! { "$group": { "_id": { "endpoint": "$endpoint", "event": "$deliveries.event" }, "count": { "$sum": 1 } } },
        doc! { "$match": { "count": { "$gt": 1 } } },
    ];
    outbox.aggregate(pipeline).await?.try_collect().await
}
