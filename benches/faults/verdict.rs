//! The count at the end: what arrived, what is marked, what the outbox holds and what the statistics say, against the ledger.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::AddAssign;

use anyhow::Result;
use bson::oid::ObjectId;
use bson::{Document, doc};
use futures_util::TryStreamExt;

use super::ledger::{Ledger, Pair, is_over};
use super::stage::Stage;

/// What a round came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Events that had to arrive, and how many deliveries that makes.
    pub events: usize,
    pub deliveries: usize,
    /// Deliveries that no endpoint has accepted.
    pub lost: usize,
    /// Deliveries that were accepted more than once: how often more.
    pub duplicates: usize,
    /// What else is wrong, a line each.
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Whether all is as it should be.
    pub fn holds(&self) -> bool {
        self.lost == 0 && self.wrong.is_empty()
    }

    /// Compares what is with what should be at `now`.
    pub async fn reach(stage: &Stage<'_>, ledger: &Ledger, now: i64) -> Result<Self> {
        let (heard, accepted) = arrived(stage);
        let mut verdict = Self {
            events: ledger.events(),
            deliveries: ledger.expected.len(),
            duplicates: accepted.values().map(|times| times - 1).sum(),
            ..Self::default()
        };
        for pair in ledger.expected.iter().filter(|pair| !accepted.contains_key(*pair)) {
            verdict.lost += 1;
            verdict.wrong.push(format!("lost: {pair:?}"));
        }
        let known = |pair: &&Pair| ledger.expected.contains(*pair) || ledger.permitted.contains(*pair);
        let unknown = heard.iter().filter(|pair| !known(pair));
        verdict
            .wrong
            .extend(unknown.map(|pair| format!("should not have been sent: {pair:?}")));
        verdict.wrong.extend(marks(stage, ledger, now).await?);
        verdict.wrong.extend(outbox(stage, ledger).await?);
        verdict.wrong.extend(statistics(stage).await?);
        verdict
            .wrong
            .extend(stage.daemons.iter().flat_map(|daemon| daemon.complaints()));
        Ok(verdict)
    }
}

/// What was heard at all, and how often each was accepted.
fn arrived(stage: &Stage<'_>) -> (HashSet<Pair>, HashMap<Pair, usize>) {
    let (mut heard, mut accepted) = (HashSet::new(), HashMap::new());
    for request in stage.receiver.requests() {
        let pair = (request.path.clone(), request.header("webhook-id").to_owned());
        heard.insert(pair.clone());
        if request.answer.is_some_and(|status| status.is_success()) {
            *accepted.entry(pair).or_default() += 1;
        }
    }
    (heard, accepted)
}

/// Certificates that are marked and should not be, or the other way round.
async fn marks(stage: &Stage<'_>, ledger: &Ledger, now: i64) -> Result<Vec<String>> {
    let badge_users = stage.database.collection::<Document>("badgeusers");
    let marked = badge_users.distinct("_id", doc! { "expiryReminderSent": true }).await?;
    let marked: HashSet<ObjectId> = marked.iter().filter_map(bson::Bson::as_object_id).collect();
    let wrong = ledger
        .certificates
        .values()
        .filter(|one| is_over(one, now) != marked.contains(&one.id));
    Ok(wrong.map(|one| format!("marked wrongly: {one:?}")).collect())
}

/// Deliveries that are not done, or that nobody expected.
async fn outbox(stage: &Stage<'_>, ledger: &Ledger) -> Result<Vec<String>> {
    let deliveries = stage.database.collection::<Document>("webhook_deliveries");
    let done = doc! { "state": "delivered", "claim": null, "attempts": { "$gte": 1 } };
    let open = deliveries.find(doc! { "$nor": [done.clone()] });
    let open: Vec<Document> = open.projection(doc! { "payload": 0 }).await?.try_collect().await?;
    let mut wrong: Vec<_> = open.iter().map(|one| format!("not done: {one}")).collect();
    let (count, expected) = (deliveries.count_documents(done).await?, ledger.expected.len());
    let permitted = expected..=expected + ledger.permitted.len();
    if !permitted.contains(&usize::try_from(count)?) {
        wrong.push(format!("{count} deliveries are done, instead of {expected}"));
    }
    Ok(wrong)
}

/// Deliveries that the statistics have not counted, or counted twice.
async fn statistics(stage: &Stage<'_>) -> Result<Option<String>> {
    let deliveries = stage.database.collection::<Document>("webhook_deliveries");
    let delivered = deliveries.count_documents(doc! { "state": "delivered" }).await?;
    let figures = stage.database.collection::<Document>("webhook_stats");
    let days: Vec<Document> = figures.find(doc! {}).await?.try_collect().await?;
    let successes: i64 = days.iter().filter_map(|day| day.get_i64("successes").ok()).sum();
    let wrong = u64::try_from(successes)? != delivered;
    Ok(wrong.then(|| format!("{successes} successes are counted, of {delivered} deliveries")))
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.wrong.extend(other.wrong);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events, {} deliveries, {} lost, {} wrong, {} duplicates",
            self.events,
            self.deliveries,
            self.lost,
            self.wrong.len() - self.lost,
            self.duplicates
        )
    }
}
