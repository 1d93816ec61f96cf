//! Taking over what others have written of episodes, and what somebody else has said of endpoints.

use std::collections::HashMap;

use bson::{DateTime, Document};

use super::{Episodes, Unsaved};
use crate::model::EndpointKey;
use crate::notices::document::Noted;
use crate::notices::episode::{Episode, restarted};

impl Episodes {
    /// Takes over what the episode documents say of endpoints that were not this instance's so far, or of which another instance has written
    /// since. `successes` are recorded ones: an instance may have died before it wrote down that they ended an episode. Returns what turns out to
    /// be written by this instance.
    pub fn load(&self, documents: &[Document], successes: &HashMap<EndpointKey, DateTime>) -> Vec<Unsaved> {
        let (mut known, mut written) = (self.0.known.lock(), Vec::new());
        let rules = known.rules;
        for (endpoint, noted) in documents.iter().filter_map(Noted::read) {
            known.remember(&endpoint, &noted.past);
            if known.is_news(&endpoint, &noted) {
                written.extend(known.take_over(&endpoint, Some(noted)));
                if let Some(at) = successes.get(&endpoint) {
                    known.apply_success(&endpoint, *at, &rules);
                }
            }
        }
        self.notify(&known);
        // Nothing may have to be written, but to be followed: when they end, and how the endpoints are configured.
        self.0.changed.notify_one();
        written
    }

    /// Those of the documents that say something of an episode that is not known here, and the others.
    pub fn news(&self, documents: Vec<Document>) -> (Vec<Document>, Vec<Document>) {
        let known = self.0.known.lock();
        documents.into_iter().partition(|document| {
            let noted = Noted::read(document);
            noted.is_some_and(|(endpoint, noted)| known.is_news(&endpoint, &noted))
        })
    }

    /// Forgets the endpoints that are another instance's.
    pub fn forget(&self, is_foreign: impl Fn(&EndpointKey) -> bool) {
        let mut known = self.0.known.lock();
        known.forget(is_foreign);
        self.notify(&known);
    }

    /// Takes over what the episode document of one endpoint says; `None`: there is none. Returns what turns out to be written by this instance.
    pub fn reload(&self, endpoint: &EndpointKey, noted: Option<Noted>) -> Option<Unsaved> {
        let mut known = self.0.known.lock();
        let written = known.take_over(endpoint, noted);
        self.notify(&known);
        written
    }

    /// Somebody has released these endpoints then: suspensions that had begun end, also those that are not written yet.
    pub fn released(&self, released_at: impl Fn(&EndpointKey) -> Option<DateTime>) {
        let mut known = self.0.known.lock();
        let suspended: Vec<_> = known.suspended.iter().cloned().collect();
        for endpoint in suspended {
            let since = known.episode(&endpoint).and_then(Episode::suspended_since);
            let at = released_at(&endpoint).filter(|at| since.is_some_and(|since| since <= *at));
            if let Some(at) = at
                && let Some(episode) = known.detach(&endpoint)
            {
                known.attach(&endpoint, restarted(episode, at), None, true);
            }
        }
        self.notify(&known);
    }
}
