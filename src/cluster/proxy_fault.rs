//! What heartbeats tell of the forward proxy, of which each instance judges by itself: for who asks in another process.

use std::collections::{BTreeSet, HashMap};

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt;

use super::assignment::{self, assigned};
use super::living;
use crate::model::EndpointKey;
use crate::store::{Result, Store};

/// A proxy that is at fault, as an instance finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyFault {
    /// What fails, with the proxy's host and port.
    pub reason: String,
    pub since: DateTime,
    /// Whether all that goes through it waits, and not only what has met the fault.
    pub is_for_all: bool,
}

impl ProxyFault {
    /// For a heartbeat.
    pub(super) fn write(fault: Option<&Self>) -> Bson {
        fault.map_or(Bson::Null, |fault| {
            doc! { "reason": &fault.reason, "since": fault.since, "all": fault.is_for_all }.into()
        })
    }

    fn read(heartbeat: &Document) -> Option<Self> {
        let fault = heartbeat.get_document("proxy").ok()?;
        Some(Self {
            reason: fault.get_str("reason").ok()?.to_owned(),
            since: *fault.get_datetime("since").ok()?,
            is_for_all: fault.get_bool("all").unwrap_or(false),
        })
    }
}

/// For which of these endpoints the instance that delivers to it finds the proxy at fault.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn proxy_faults(
    store: &Store,
    keys: &BTreeSet<EndpointKey>,
    now: DateTime,
) -> Result<HashMap<EndpointKey, ProxyFault>> {
    let found: Vec<Document> = store.state().find(living(now)).await?.try_collect().await?;
    let mut faults = HashMap::new();
    for document in &found {
        let (Some(heartbeat), Some(fault)) = (assignment::read(document, now), ProxyFault::read(document)) else {
            continue;
        };
        let is_its = |key: &&EndpointKey| assigned(&heartbeat.members, key) == Some(&heartbeat.instance_id);
        faults.extend(keys.iter().filter(is_its).map(|key| (key.clone(), fault.clone())));
    }
    Ok(faults)
}
