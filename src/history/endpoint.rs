//! What the outbox and the statistics hold of one endpoint: for its page.

use std::collections::{BTreeSet, HashSet};

use bson::DateTime;

use super::endpoint_states::{load_states, standing, state_of, suspended};
use super::list::{After, Choice, Listing, list};

use super::{Attempt, Delivery};
use crate::config::Config;
use crate::model::EndpointKey;
use crate::platform::Directory;
use crate::status::{Day, days};
use crate::store::{Result, Store};

/// This many deliveries of a kind are on a page, and this many failures.
const ROWS: usize = 20;

/// Which part of it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What is pending after that, and nothing else.
    pub pending: Option<After>,
    /// Dead letters after that, and nothing else.
    pub dead: Option<After>,
}

/// What is known of an endpoint.
#[derive(Debug)]
pub struct OfEndpoint {
    /// When it was asked, by the database's clock.
    pub at: DateTime,
    /// Since when it is as it is, or why, where that is known.
    pub standing: Option<String>,
    /// Why it is suspended, if it is.
    pub suspended: Option<String>,
    /// Its last days, today first.
    pub days: Vec<Day>,
    /// The attempts that failed last, the last first; `None` if they were not asked for.
    pub failures: Option<Vec<Failure>>,
    /// What is pending, the next due first.
    pub pending: Option<Listing>,
    /// Dead letters, the latest first.
    pub dead: Option<Listing>,
    /// Whether anything is kept of it.
    pub is_known: bool,
}

/// An attempt that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of which delivery: `EVENT/ORGANIZATION/ENDPOINT`.
    pub delivery: String,
    /// The event's type.
    pub event_type: String,
    /// The delivery's state now.
    pub state: &'static str,
    /// What failed, and how the receiver responded.
    pub attempt: Attempt,
}

/// Why an endpoint is off, as far as the configuration says it.
pub fn off_reason(directory: &Directory, endpoint: &EndpointKey) -> Option<String> {
    standing(&state_of(directory, endpoint, None, None), DateTime::MIN)
}

/// What is kept of that endpoint. Each query is a range of an index, and reads a bounded number of documents.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn of_endpoint(
    store: &Store,
    directory: &Directory,
    config: &Config,
    endpoint: &EndpointKey,
    asked: Asked,
) -> Result<OfEndpoint> {
    let at = store.database_time().await?;
    let states = load_states(store, directory, config, &BTreeSet::from([endpoint.clone()]), at).await?;
    let is_first = asked.pending.is_none() && asked.dead.is_none();
    let reading = Reading {
        store,
        directory,
        config,
        endpoint,
    };
    let days = days(store, endpoint, at).await?;
    let pending = match is_first || asked.pending.is_some() {
        true => Some(reading.pending(asked.pending).await?),
        false => None,
    };
    let dead = match is_first || asked.dead.is_some() {
        true => Some(reading.listed(&["dead"], false, asked.dead).await?),
        false => None,
    };
    let failures = match is_first {
        true => Some(reading.failures(dead.as_ref()).await?),
        false => None,
    };
    let is_counted = days.iter().any(|day| day.last_success.max(day.last_failure).is_some());
    let has = |listing: &Option<Listing>| {
        let listing = listing.as_ref();
        listing.is_some_and(|listing| !listing.deliveries.is_empty() || !listing.odd.is_empty())
    };
    let is_known = is_counted || has(&pending) || has(&dead) || reading.is_in_outbox().await?;
    Ok(OfEndpoint {
        at,
        standing: states.get(endpoint).and_then(|state| standing(state, at)),
        suspended: states.get(endpoint).and_then(suspended),
        days,
        failures,
        pending,
        dead,
        is_known,
    })
}

struct Reading<'a> {
    store: &'a Store,
    directory: &'a Directory,
    config: &'a Config,
    endpoint: &'a EndpointKey,
}

impl Reading<'_> {
    async fn pending(&self, after: Option<After>) -> Result<Listing> {
        let choice = Choice {
            next_first: true,
            ..self.choice(&["pending"])
        };
        self.list(&choice, after).await
    }

    async fn listed(&self, states: &[&str], failed: bool, after: Option<After>) -> Result<Listing> {
        let choice = Choice {
            failed,
            ..self.choice(states)
        };
        self.list(&choice, after).await
    }

    async fn list(&self, choice: &Choice, after: Option<After>) -> Result<Listing> {
        list(self.store, self.directory, self.config, choice, ROWS, after).await
    }

    fn choice(&self, states: &[&str]) -> Choice {
        Choice {
            endpoint: Some(self.endpoint.as_str().to_owned()),
            states: states.iter().map(|state| (*state).to_owned()).collect(),
            ..Choice::default()
        }
    }

    /// The last failures: of what is pending, of dead letters, and of what ended otherwise since.
    async fn failures(&self, dead: Option<&Listing>) -> Result<Vec<Failure>> {
        let pending = self.listed(&["pending"], true, None).await?;
        let ended = self.listed(&["delivered", "cancelled", "dead"], true, None).await?;
        let dead = dead.map_or(&[][..], |dead| &dead.deliveries);
        let mut seen = HashSet::new();
        let all = pending.deliveries.iter().chain(dead).chain(&ended.deliveries);
        let each_once = all.filter(|delivery| seen.insert(&delivery.delivery));
        let mut failures: Vec<_> = each_once.flat_map(failed).collect();
        failures.sort_by_key(|failure| std::cmp::Reverse(failure.attempt.at));
        failures.truncate(ROWS);
        Ok(failures)
    }

    /// Whether the outbox holds something of it: a range of `_id`.
    async fn is_in_outbox(&self) -> Result<bool> {
        super::is_in_outbox(self.store, self.endpoint.as_str()).await
    }
}

fn failed(delivery: &Delivery) -> impl Iterator<Item = Failure> {
    let failed = delivery.history.iter().filter(|attempt| attempt.error.is_some());
    failed.map(|attempt| Failure {
        delivery: delivery.delivery.clone(),
        event_type: delivery.event_type.clone(),
        state: delivery.state,
        attempt: attempt.clone(),
    })
}
