//! What has changed of an episode, on its way into the episode document.

use bson::{DateTime, Document};

use crate::model::{EndpointKey, Period};
use crate::notices::document::{self, Noted};
use crate::notices::episode::{Episode, Told};

/// What must be written of an endpoint.
#[derive(Clone, Debug)]
pub struct Unsaved {
    pub endpoint: EndpointKey,
    /// Its episode. `None`: it has ended.
    pub episode: Option<Episode>,
    /// The version that the episode document must have, for the write to be allowed.
    pub version: i64,
    /// What the platform must be told, with the episode as it was then.
    pub told: Vec<(Told, Episode)>,
    pub(super) revision: u64,
}

impl Unsaved {
    /// The suspension in the episode document that ends at `now`.
    pub fn ended_suspension(&self, noted: Option<&Noted>, now: DateTime) -> Option<Period> {
        let before = noted?.episode.as_ref()?.suspended_since()?;
        let after = self.episode.as_ref().and_then(Episode::suspended_since);
        (after != Some(before)).then_some((before, now))
    }

    /// The field's value after the write.
    pub fn document(&self) -> Option<Document> {
        let episode = self.episode.as_ref()?;
        Some(document::write(episode, self.version_after()))
    }

    /// The version of the document after the write.
    pub(super) fn version_after(&self) -> i64 {
        self.episode.as_ref().map_or(0, |_| self.version + 1)
    }

    /// Whether the document says what it does after the write.
    pub(super) fn is_in(&self, noted: Option<&Noted>) -> bool {
        let (version, episode) = noted.map_or((0, None), |noted| (noted.version, noted.episode.as_ref()));
        version == self.version_after() && episode == self.episode.as_ref()
    }
}
