//! What the fetcher reads in one round.

use std::collections::{BTreeMap, HashMap};

use crate::model::EndpointKey;
use crate::outbox::{Class, Want};

#[derive(Default)]
pub(super) struct Plan {
    pub(super) granted: HashMap<EndpointKey, usize>,
    pub(super) wants: Vec<Want>,
}

impl Plan {
    /// The queues whose batches are read next, and how many.
    pub(super) fn next_asked(&self) -> BTreeMap<(EndpointKey, Class), usize> {
        let next = self.wants.iter().filter_map(|want| match want {
            Want::Next {
                endpoint,
                class,
                batches,
                ..
            } => Some(((endpoint.clone(), *class), *batches)),
            _ => None,
        });
        next.collect()
    }
}
