//! The states of endpoints, as far as they decide what happens next to a delivery.

use std::collections::{BTreeSet, HashMap};

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use url::Url;

use super::next::instant;
use crate::cluster::{ProxyFault, proxy_faults};
use crate::config::Config;
use crate::model::{EndpointKey, Period, printable};
use crate::notices::{Noted, episode_id};
use crate::operations::Holds;
use crate::outbox::state_id;
use crate::platform::{Directory, Found};
use crate::store::{Result, Store};

/// The longest reason from elsewhere that is shown, in bytes.
const LONGEST_REASON: usize = 1024;

/// What an endpoint's configuration, holds and notes say of its deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EndpointState {
    /// Sent to, but not before `paused_until`.
    Served {
        paused_until: Option<DateTime>,
        since: Option<DateTime>,
        /// When it was held or suspended.
        held: Vec<Period>,
        /// The forward proxy that leads to it is at fault.
        proxy: Option<ProxyFault>,
    },
    /// What waits for it is cancelled.
    Off(String),
    /// What waits for it goes on waiting, since then.
    OutOfService {
        reason: String,
        since: Option<DateTime>,
        held: Vec<Period>,
    },
    /// The same because of a hold, until then.
    Held {
        how: String,
        until: Option<DateTime>,
        held: Vec<Period>,
    },
    /// The same, but for a probe now and then, since then.
    Suspended {
        since: DateTime,
        why: String,
        held: Vec<Period>,
    },
}

/// Reads the state of each of these endpoints: notes and holds from MongoDB, the rest from the directory.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub(super) async fn load_states(
    store: &Store,
    directory: &Directory,
    config: &Config,
    keys: &BTreeSet<EndpointKey>,
    now: DateTime,
) -> Result<HashMap<EndpointKey, EndpointState>> {
    let noted = read_notes(store, keys).await?;
    let noted: HashMap<_, _> = noted
        .iter()
        .filter_map(|one| Some((one.get_str("_id").ok()?, one)))
        .collect();
    let holds = Holds::default();
    holds.load(store).await?;
    let mut faults = match config.delivery.proxy.is_some() && !keys.is_empty() {
        true => proxy_faults(store, keys, now).await?,
        false => HashMap::new(),
    };
    let mut state = |key: &EndpointKey| {
        let of = |id: String| noted.get(&*id).copied();
        let mut state = state_of(directory, key, of(state_id(key)), of(episode_id(key)));
        let waited = || {
            let noted = of(episode_id(key)).and_then(Noted::read);
            let suspensions = noted.map(|(_, noted)| noted.suspensions(now));
            [holds.periods(key, now), suspensions.unwrap_or_default()].concat()
        };
        if let EndpointState::Served { held, .. }
        | EndpointState::Suspended { held, .. }
        | EndpointState::OutOfService { held, .. } = &mut state
        {
            *held = waited();
        }
        if let EndpointState::Served { proxy, .. } = &mut state {
            *proxy = faults
                .remove(key)
                .and_then(|fault| fault_on_the_way(fault, directory, config, key));
        }
        // Off and out of service take precedence.
        let hold = holds
            .of(key, now)
            .filter(|_| matches!(state, EndpointState::Served { .. } | EndpointState::Suspended { .. }));
        hold.map_or(state, |hold| EndpointState::Held {
            how: printable(hold.describe().as_bytes(), LONGEST_REASON),
            until: hold.until,
            held: waited(),
        })
    };
    Ok(keys.iter().map(|key| (key.clone(), state(key))).collect())
}

async fn read_notes(store: &Store, keys: &BTreeSet<EndpointKey>) -> Result<Vec<Document>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = keys.iter().flat_map(|key| [state_id(key), episode_id(key)]).collect();
    let found = store.state().find(doc! { "_id": { "$in": ids } }).await?;
    Ok(found.try_collect().await?)
}

/// The proxy's fault, if the proxy leads to that endpoint or to its token server. Where that depends on what a name is resolved to, it may
/// be for some alone.
fn fault_on_the_way(
    fault: ProxyFault,
    directory: &Directory,
    config: &Config,
    key: &EndpointKey,
) -> Option<ProxyFault> {
    let Found::Served(endpoint) = directory.find(key) else {
        return None;
    };
    let is_direct = |url: &Url| config.delivery.no_proxy.lists(&url.host()?);
    let ways: Vec<_> = endpoint.urls().map(is_direct).collect();
    let is_sure = ways.contains(&Some(false));
    let is_possible = is_sure || ways.contains(&None);
    is_possible.then(|| ProxyFault {
        is_for_all: fault.is_for_all && is_sure,
        reason: printable(fault.reason.as_bytes(), LONGEST_REASON),
        ..fault
    })
}

/// The state without holds, by its configuration first; `noted` is its state document, `episode` its episode document.
pub(super) fn state_of(
    directory: &Directory,
    key: &EndpointKey,
    noted: Option<&Document>,
    episode: Option<&Document>,
) -> EndpointState {
    // The directory would say of one that is not configured that its document may be on its way.
    if !key.is_own() && !directory.knows(key) {
        return EndpointState::Off(match directory.knows_organization(key.organization()) {
            true => "its endpoint was deleted".into(),
            false => "its organization has no configuration document, which counts as deleted after 10 minutes".into(),
        });
    }
    let instant = |field| noted.and_then(|noted| noted.get_datetime(field).ok().copied());
    let suspended = episode.and_then(Noted::read).and_then(|(_, noted)| noted.suspended());
    match (directory.find(key), suspended) {
        (Found::Served(_), Some((since, why))) => EndpointState::Suspended {
            since,
            why: printable(why.as_bytes(), LONGEST_REASON),
            held: Vec::new(),
        },
        (Found::Served(_) | Found::Email { enabled: true }, _) => EndpointState::Served {
            paused_until: instant("slowedUntil"),
            since: instant("servedSince"),
            held: Vec::new(),
            proxy: None,
        },
        (Found::Email { enabled: false }, _) => EndpointState::Off("e-mails are switched off".into()),
        (Found::Off { reason }, _) => EndpointState::Off(reason.to_owned()),
        (Found::OutOfService { reason }, _) => EndpointState::OutOfService {
            reason: printable(reason.as_bytes(), LONGEST_REASON),
            since: instant("waitingSince"),
            held: Vec::new(),
        },
    }
}

/// Why it is suspended, if it is.
pub(super) fn suspended(state: &EndpointState) -> Option<String> {
    match state {
        EndpointState::Suspended { why, .. } => Some(why.clone()),
        _ => None,
    }
}

/// Since when an endpoint is as it is, or why, beside what its configuration and its holds say.
pub(super) fn standing(state: &EndpointState, now: DateTime) -> Option<String> {
    match state {
        EndpointState::Off(reason) => Some(reason.clone()),
        EndpointState::OutOfService { since, .. } => since.map(|since| format!("since {}", instant(since))),
        EndpointState::Served { proxy: Some(fault), .. } => Some(waits_for_proxy(fault)),
        EndpointState::Served { paused_until, .. } => {
            let until = paused_until.filter(|until| *until > now)?;
            Some(format!("it asked for a pause until {}", instant(until)))
        }
        EndpointState::Suspended { since, .. } => Some(format!("since {}", instant(*since))),
        EndpointState::Held { .. } => None,
    }
}

/// What the proxy's fault means for an endpoint.
pub(super) fn waits_for_proxy(fault: &ProxyFault) -> String {
    let (reason, since) = (&fault.reason, instant(fault.since));
    match fault.is_for_all {
        true => format!("waits for the proxy since {since}: {reason}"),
        false => format!("{reason}, since {since}: what meets that waits until the proxy works"),
    }
}
