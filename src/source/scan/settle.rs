//! Settling what a daemon left that died between its outbox write and its mark.
//!
//! Such a delivery goes out only if its certificate still expires when it did. Unmarked, it is marked now.

use std::collections::{HashMap, HashSet};

use bson::{DateTime, RawBson, RawDocumentBuf};

use super::super::mark::{Mark, mark};
use crate::cluster::Cluster;
use crate::kill_point;
use crate::outbox::Outbox;
use crate::store::{Stopped, Store};

/// At most so many in one go.
const BATCH: i64 = 1000;

/// Settles them all; returns how many.
pub(super) async fn settle(store: &Store, outbox: &Outbox, cluster: &Cluster) -> Result<usize, Stopped> {
    let mut settled = 0;
    loop {
        let live = cluster.live();
        let orphans = store
            .persist("look for unmarked deliveries", || outbox.orphans(&live, BATCH))
            .await?;
        if orphans.is_empty() {
            return Ok(settled);
        }
        settled += orphans.len();
        settle_batch(store, outbox, orphans, cluster.now()).await?;
    }
}

async fn settle_batch(
    store: &Store,
    outbox: &Outbox,
    orphans: Vec<RawDocumentBuf>,
    now: DateTime,
) -> Result<(), Stopped> {
    let ids: Vec<_> = orphans
        .iter()
        .filter_map(|orphan| orphan.get_str("_id").ok().map(str::to_owned))
        .collect();
    let mut renewed = HashSet::new();
    for (place, orphan) in orphans.iter().enumerate() {
        // Marked at the instant that its payload names.
        let at = orphan.get_datetime("createdAt").unwrap_or(now);
        if !mark(store, &[mark_of(orphan)], at).await?.is_empty() {
            renewed.insert(place);
        }
    }
    let valid: HashSet<_> = (0..ids.len())
        .filter(|place| !renewed.contains(place))
        .map(|i| ids[i].clone())
        .collect();
    kill_point::reach("orphans-marked");
    let orphans: HashMap<_, _> = ids.into_iter().zip(orphans).collect();
    store
        .persist("settle unmarked deliveries", || outbox.settle(&orphans, &valid))
        .await
}

fn mark_of(orphan: &RawDocumentBuf) -> Mark {
    let field = |name| orphan.get(name).ok().flatten().map_or(RawBson::Null, RawBson::from);
    Mark {
        badge_user: field("badgeUserId"),
        expires: field("occurredAt"),
    }
}
