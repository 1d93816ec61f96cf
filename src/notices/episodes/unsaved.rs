//! What has changed of an episode, on its way into its document.

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
    /// The version that its document must have, for the write to be allowed.
    pub version: i64,
    /// What the platform must be told, with the episode as it was then.
    pub told: Vec<(Told, Episode)>,
    pub(super) revision: u64,
}

impl Unsaved {
    /// When the suspension ended, at `now`, that its document says until then.
    pub fn ended_suspension(&self, noted: Option<&Noted>, now: DateTime) -> Option<Period> {
        let since = |episode: &Episode| Some(episode.suspended.as_ref()?.since);
        let before = noted.and_then(|noted| since(noted.episode.as_ref()?))?;
        let after = self.episode.as_ref().and_then(since);
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
