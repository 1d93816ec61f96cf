//! The count at the end: what arrived, what is marked, what the outbox holds and what the statistics say, against the ledger.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::AddAssign;

use anyhow::Result;
use bson::oid::ObjectId;
use bson::{Document, doc};
use futures_util::TryStreamExt;

use super::crowd::crowds;
use super::fixture::Fixture;
use super::ledger::{Ledger, Pair, expiry, is_over};
use super::outbox::Outbox;
use super::rule::{Rule, is_refusable};

/// What a round came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Events that had to arrive, and how many deliveries that makes.
    events: usize,
    deliveries: usize,
    /// Deliveries that never arrived.
    lost: usize,
    /// Requests that were accepted although the same had been accepted before.
    duplicates: usize,
    /// Events that MongoDB refused to store.
    set_aside: usize,
    /// Requests in processes that were frozen for too long.
    excused: usize,
    /// All that is not as it must be, the lost ones included.
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Whether all is as it must be.
    pub fn holds(&self) -> bool {
        self.lost == 0 && self.wrong.is_empty()
    }

    /// Compares what is with what must be at `now`. `rules`: what MongoDB refused for a while.
    pub async fn reach(fixture: &Fixture<'_>, ledger: &Ledger, rules: &[Rule], now: i64) -> Result<Self> {
        let (heard, accepted) = arrived(fixture);
        let outbox = Outbox::read(fixture, &ledger.paths).await?;
        let mut verdict = Self {
            events: ledger.events(),
            deliveries: ledger.expected.len(),
            duplicates: accepted.values().map(|times| times - 1).sum(),
            set_aside: outbox.set_aside.len(),
            ..Self::default()
        };
        let must = ledger
            .expected
            .iter()
            .filter(|(_, event)| !outbox.set_aside.contains(event));
        for pair in must.clone().filter(|pair| !accepted.contains_key(*pair)) {
            verdict.lost += 1;
            verdict.wrong.push(format!("lost: {pair:?}"));
        }
        let unrecorded = must.filter(|pair| !outbox.delivered.contains_key(*pair));
        verdict.complain("not recorded", unrecorded);
        let is_known = |pair: &&Pair| ledger.expected.contains(*pair) || ledger.permitted.contains(*pair);
        verdict.complain("must not be sent", heard.iter().filter(|pair| !is_known(pair)));
        let recorded = outbox.delivered.keys();
        verdict.complain(
            "recorded, and never accepted",
            recorded.filter(|pair| !accepted.contains_key(*pair)),
        );
        verdict.wrong.extend(marks(fixture, ledger, &outbox, now).await?);
        verdict.wrong.extend(refusals(&outbox, rules));
        verdict.wrong.extend(statistics(fixture, &outbox, rules).await?);
        verdict.wrong.extend(outbox.wrong);
        Ok(verdict)
    }

    /// Adds what more time can't change.
    pub fn close(&mut self, fixture: &Fixture<'_>) {
        let (crowds, excused) = crowds(&fixture.receiver.requests(), &fixture.freezes.lock());
        self.excused = excused;
        self.wrong.extend(crowds);
        self.wrong
            .extend(fixture.daemons.iter().flat_map(|daemon| daemon.complaints()));
    }

    fn complain<'a>(&mut self, what: &str, pairs: impl Iterator<Item = &'a Pair>) {
        self.wrong.extend(pairs.map(|pair| format!("{what}: {pair:?}")));
    }
}

/// What was heard at all, and how often each was accepted.
fn arrived(fixture: &Fixture<'_>) -> (HashSet<Pair>, HashMap<Pair, usize>) {
    let (mut heard, mut accepted) = (HashSet::new(), HashMap::new());
    for request in fixture.receiver.requests() {
        let pair = (request.path.clone(), request.header("webhook-id").to_owned());
        heard.insert(pair.clone());
        if request.status.is_some_and(|status| status.is_success()) {
            *accepted.entry(pair).or_default() += 1;
        }
    }
    (heard, accepted)
}

/// Certificates that are marked and must not be, or the other way round.
async fn marks(fixture: &Fixture<'_>, ledger: &Ledger, outbox: &Outbox, now: i64) -> Result<Vec<String>> {
    let badge_users = fixture.database.collection::<Document>("badgeusers");
    let marked = badge_users.distinct("_id", doc! { "expiryReminderSent": true }).await?;
    let marked: HashSet<ObjectId> = marked.iter().filter_map(bson::Bson::as_object_id).collect();
    let is_noted = |event: String| outbox.unmarkable.contains(&event);
    let wrong = ledger.certificates.values().filter(|one| {
        let (is_over, is_marked) = (is_over(one, now), marked.contains(&one.id));
        let is_excused = is_over && expiry(one).is_some_and(is_noted);
        is_over != is_marked && !is_excused
    });
    Ok(wrong.map(|one| format!("marked wrongly: {one:?}")).collect())
}

/// What was set aside although MongoDB did not refuse it.
fn refusals(outbox: &Outbox, rules: &[Rule]) -> Vec<String> {
    let without_reason = |events: &HashSet<String>, rule: Rule| {
        let may = rules.contains(&rule);
        let wrong = events.iter().filter(|event| !(may && is_refusable(event)));
        wrong
            .map(|event| format!("set aside without reason: {event}"))
            .collect::<Vec<_>>()
    };
    let mut wrong = without_reason(&outbox.set_aside, Rule::Deliveries);
    wrong.extend(without_reason(&outbox.unmarkable, Rule::Marks));
    wrong
}

/// Deliveries that the statistics have not counted, or counted twice.
async fn statistics(fixture: &Fixture<'_>, outbox: &Outbox, rules: &[Rule]) -> Result<Option<String>> {
    let figures = fixture.database.collection::<Document>("webhook_stats");
    let days: Vec<Document> = figures.find(doc! {}).await?.try_collect().await?;
    let successes: i64 = days.iter().filter_map(|day| day.get_i64("successes").ok()).sum();
    let (counted, recorded) = (usize::try_from(successes)?, outbox.delivered.len());
    let were_refused = rules.contains(&Rule::Statistics);
    let wrong = counted > recorded || (counted < recorded && !were_refused);
    Ok(wrong.then(|| format!("{counted} successes are counted, of {recorded} deliveries")))
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.set_aside += other.set_aside;
        self.excused += other.excused;
        self.wrong.extend(other.wrong);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events, {} deliveries, {} lost, {} wrong, {} duplicates, {} refused and set aside, {} requests excused",
            self.events,
            self.deliveries,
            self.lost,
            self.wrong.len() - self.lost,
            self.duplicates,
            self.set_aside,
            self.excused
        )
    }
}
