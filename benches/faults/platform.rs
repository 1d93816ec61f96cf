//! The platform at work: awards, renews and deletes certificates while things go wrong, and keeps account.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use fastrand::Rng;
use mongodb::Collection;
use mongodb::error::Error;
use tokio::time::{Instant, sleep};

use super::fixture::Fixture;
use super::ledger::{Certificate, Ledger, Subscriptions, expiry};
use super::plan::Plan;
use super::rule::{Rule, is_refusable, persist};

/// The endpoints that get something.
pub const PATHS: [&str; 4] = ["/0/all", "/0/expired", "/1/all", "/1/completed"];

pub struct Platform {
    badge_users: Collection<Document>,
    organizations: Vec<ObjectId>,
    random: Rng,
    /// Whether some certificates are not marked although their expiry was sent.
    refuses_marks: bool,
    /// Whether awards may have to be found by query, which tells nothing of those that are no longer there.
    forgets_awards: bool,
    pub ledger: Ledger,
}

impl Platform {
    /// Four organizations: two with endpoints that want all or a part, one with an endpoint that is disabled, one with none.
    pub async fn create(fixture: &Fixture<'_>, seed: u64, plan: &Plan) -> Result<Self> {
        let organizations: Vec<_> = (0..4).map(|_| ObjectId::new()).collect();
        let (endpoints, paths) = endpoints(fixture, &organizations);
        let configs = organizations.iter().zip(endpoints).map(
            |(organization, endpoints)| doc! { "_ownerId": organization, "webHookConfig": { "endpoints": endpoints } },
        );
        fixture
            .database
            .collection("memberconfigs")
            .insert_many(configs)
            .await?;
        Ok(Self {
            badge_users: fixture.database.collection("badgeusers"),
            organizations,
            // Not the numbers that the plan is made of.
            random: Rng::with_seed(!seed),
            refuses_marks: plan.rules().contains(&Rule::Marks),
            forgets_awards: plan.loses_position(),
            ledger: Ledger::new(subscriptions(), paths),
        })
    }

    /// Works for that long.
    pub async fn work(&mut self, length: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < length {
            match self.random.u8(0..10) {
                0..=4 => self.award().await?,
                5..=7 => self.renew().await?,
                8 => self.award_again().await?,
                _ => self.delete().await?,
            }
            sleep(Duration::from_millis(self.random.u64(10..150))).await;
        }
        Ok(())
    }

    /// Some new certificates: that never expire, that expire soon, that have expired long ago.
    async fn award(&mut self) -> Result<()> {
        for _ in 0..self.random.u8(1..10) {
            let (now, random) = (now(), &mut self.random);
            let expires = match random.u8(0..5) {
                0 => None,
                1 => Some(now - random.i64(60_000..86_400_000)),
                _ => Some(now + random.i64(0..5000)),
            };
            let certificate = Certificate {
                id: ObjectId::new(),
                organization: random.usize(..self.organizations.len()),
                expires,
                awarded_again: false,
            };
            let document = self.document(&certificate, now);
            persist(|| insert(&self.badge_users, &document)).await?;
            self.ledger.awarded(&certificate, now);
            self.ledger.certificates.insert(certificate.id, certificate);
        }
        Ok(())
    }

    /// One that expires soon or just did now expires a little later, or much.
    async fn renew(&mut self) -> Result<()> {
        let Some(certificate) = self.choose(|_| true) else {
            return Ok(());
        };
        let now = now();
        let later = now
            + if self.random.bool() {
                self.random.i64(500..5000)
            } else {
                86_400_000
            };
        let set = doc! {
            "expires": DateTime::from_millis(later), "expiryReminderSent": false, "updatedAt": DateTime::from_millis(now),
        };
        let as_it_was = doc! { "_id": certificate.id, "expires": certificate.expires.map(DateTime::from_millis) };
        let before = persist(|| async {
            let set = doc! { "$set": set.clone() };
            self.badge_users.find_one_and_update(as_it_was.clone(), set).await
        });
        let marked = self.is_marked(&certificate, before.await?);
        self.ledger.outdated(&certificate, marked);
        let renewed = Certificate {
            expires: Some(later),
            ..certificate
        };
        self.ledger.certificates.insert(certificate.id, renewed);
        Ok(())
    }

    /// One gets a new `creationDate`. Once only: of two that follow fast the daemon may see just the second.
    async fn award_again(&mut self) -> Result<()> {
        let Some(certificate) = self.choose(|one| !one.awarded_again) else {
            return Ok(());
        };
        let at = now();
        let again = doc! { "$set": { "creationDate": DateTime::from_millis(at) } };
        persist(|| async {
            self.badge_users
                .update_one(doc! { "_id": certificate.id }, again.clone())
                .await
        })
        .await?;
        self.forget_awards(&certificate);
        self.ledger.awarded(&certificate, at);
        let awarded_again = Certificate {
            awarded_again: true,
            ..certificate
        };
        self.ledger.certificates.insert(certificate.id, awarded_again);
        Ok(())
    }

    /// One is deleted. None that was awarded again: the daemon reads it after the change, and it may be gone.
    async fn delete(&mut self) -> Result<()> {
        let Some(certificate) = self.choose(|one| !one.awarded_again) else {
            return Ok(());
        };
        let before = persist(|| async {
            self.badge_users
                .find_one_and_delete(doc! { "_id": certificate.id })
                .await
        });
        let marked = self.is_marked(&certificate, before.await?);
        self.ledger.outdated(&certificate, marked);
        self.forget_awards(&certificate);
        self.ledger.certificates.remove(&certificate.id);
        Ok(())
    }

    fn forget_awards(&mut self, certificate: &Certificate) {
        if self.forgets_awards {
            self.ledger.forget_awards(certificate);
        }
    }

    /// Whether it was marked when it was changed, as far as that is known. None came back: a try whose reply was lost has changed
    /// it.
    fn is_marked(&self, certificate: &Certificate, before: Option<Document>) -> Option<bool> {
        let marked = before?.get_bool("expiryReminderSent").unwrap_or(false);
        let refused = self.refuses_marks && expiry(certificate).is_some_and(|event| is_refusable(&event));
        (marked || !refused).then_some(marked)
    }

    /// One of those that expire about now.
    fn choose(&mut self, wanted: impl Fn(&Certificate) -> bool) -> Option<Certificate> {
        let now = now();
        let about_now = |one: &&Certificate| one.expires.is_some_and(|at| (now - 4000..now + 3000).contains(&at));
        let chosen = self.ledger.certificates.values().filter(about_now);
        let mut chosen: Vec<_> = chosen.filter(|one| wanted(one)).copied().collect();
        // A map has an order of its own in every process.
        chosen.sort_by_key(|one| one.id);
        (!chosen.is_empty()).then(|| chosen[self.random.usize(..chosen.len())])
    }

    fn document(&self, certificate: &Certificate, now: i64) -> Document {
        let now = DateTime::from_millis(now);
        doc! {
            "_id": certificate.id, "_userId": ObjectId::new(), "_ownerId": self.organizations[certificate.organization],
            "_badgeId": ObjectId::new(), "creationDate": now, "expires": certificate.expires.map(DateTime::from_millis),
            "disabled": false, "expiryReminderSent": false, "_lessonActiveIds": [ObjectId::new()],
            "ruleData": { "type": "track", "name": "Safety" }, "createdAt": now, "updatedAt": now, "__v": 0,
        }
    }
}

/// The platform's clock, in milliseconds.
pub fn now() -> i64 {
    Clock::local().timestamp_millis()
}

async fn insert(badge_users: &Collection<Document>, document: &Document) -> Result<(), Error> {
    match badge_users.insert_one(document).await {
        // A command whose reply was lost has inserted it.
        Err(error) if error.to_string().contains("E11000") => Ok(()),
        done => done.map(drop),
    }
}

/// The endpoints of each organization, and the path of each endpoint by its key in the outbox.
fn endpoints(fixture: &Fixture<'_>, organizations: &[ObjectId]) -> (Vec<Vec<Document>>, HashMap<String, &'static str>) {
    let (completed, expired) = ("certificate_completed", "certificate_expired");
    let mut paths = HashMap::new();
    let mut endpoint = |organization: usize, path: &'static str, enabled: bool, types: &[&str]| {
        let id = ObjectId::new();
        paths.insert(format!("{}/{id}", organizations[organization]), path);
        doc! {
            "_id": id, "name": path, "url": fixture.receiver.url(path), "enabled": enabled, "eventTypes": types,
            "timeout": timeout_ms(fixture.pace(path)),
        }
    };
    let [all, only_expired, all_too, only_completed] = PATHS;
    let endpoints = vec![
        vec![
            endpoint(0, all, true, &[completed, expired]),
            endpoint(0, only_expired, true, &[expired]),
        ],
        vec![
            endpoint(1, all_too, true, &[completed, expired]),
            endpoint(1, only_completed, true, &[completed]),
        ],
        vec![endpoint(2, "/2/disabled", false, &[completed, expired])],
        vec![],
    ];
    (endpoints, paths)
}

/// How long an endpoint has for a response that takes so long.
fn timeout_ms(pace: Duration) -> i32 {
    if pace < Duration::from_millis(500) { 1000 } else { 5000 }
}

fn subscriptions() -> Vec<Subscriptions> {
    let [all, only_expired, all_too, only_completed] = PATHS;
    let first = Subscriptions {
        completed: vec![all],
        expired: vec![all, only_expired],
    };
    let second = Subscriptions {
        completed: vec![all_too, only_completed],
        expired: vec![all_too],
    };
    vec![first, second, Subscriptions::default(), Subscriptions::default()]
}
