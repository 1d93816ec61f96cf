//! Reading what `webhook_state` remembers of endpoints, and forgetting what is another instance's.

use std::collections::HashMap;

use bson::Document;
use futures_util::TryStreamExt;

use super::Engine;
use super::episodes::tell;
use super::last_successes::last_successes;
use crate::model::EndpointKey;
use crate::notices::{Noted, Untold, all_episodes, forgotten_episodes};
use crate::outbox::endpoint_of_state;

impl Engine {
    /// Forgets what is remembered of endpoints that are another instance's now. Only the heartbeat may do that: what it has read of
    /// endpoints that it gains would be forgotten, too, until they are assigned.
    pub(super) fn forget_foreign(&self) {
        let is_foreign = |endpoint: &EndpointKey| !self.cluster.is_assigned(endpoint);
        self.episodes.forget(is_foreign);
        self.endpoint_states.forget(is_foreign);
        self.died.drain_if(is_foreign);
    }

    /// Reads what `webhook_state` says of endpoints, of those that are assigned to this instance or of `all`.
    pub(super) async fn load_endpoint_states(&self, all: bool) -> crate::store::Result<()> {
        let wait_for = self.settings.config.get().delivery.wait_for;
        let documents = self.endpoint_states.read(wait_for.max(self.retention)).await?;
        for (endpoint, pause) in self.endpoint_states.load(&documents) {
            self.queue.pause(&endpoint, pause);
        }
        // Only tidies up: no dead letter is kept that was there then.
        let _ = self
            .store
            .state()
            .delete_many(forgotten_episodes(self.clock.now(), self.retention))
            .await;
        let is_read = |endpoint: &EndpointKey| all || self.cluster.is_assigned(endpoint);
        let mut episodes: Vec<Document> = self.store.state().find(all_episodes()).await?.try_collect().await?;
        episodes.retain(|document| Noted::read(document).is_some_and(|(endpoint, _)| is_read(&endpoint)));
        let (news, known) = self.episodes.news(episodes);
        let successes = last_successes(&self.store, &news, self.clock.now()).await?;
        self.episodes.load(&known, &HashMap::new());
        for written in self.episodes.load(&news, &successes) {
            tell(self, &written);
        }
        self.episodes.released(|endpoint| self.holds.released_at(endpoint));
        for document in documents.iter().filter(|document| Untold::read(document).dead > 0) {
            let endpoint = endpoint_of_state(document).filter(is_read);
            endpoint.into_iter().for_each(|endpoint| self.died.add(endpoint));
        }
        Ok(())
    }
}
