//! Notices to the platform about endpoints that fail, so that the organizations that can mend them are told; and the suspension of
//! endpoints that fail for days.
//!
//! `episode` has the pure functions that decide; `episodes` has what an instance knows of the endpoints that are assigned to it, and calls
//! them at each attempt. What must last is written to `webhook_state` in the transaction that appends the notice (`run/episodes.rs`).

mod certificates;
mod document;
mod episode;
mod episodes;
mod notice;
mod reach;

pub use certificates::{ToldCertificates, all_told_certificates, told_certificates_id};
pub use document::{Noted, PAST_SUSPENSIONS, Untold, all_episodes, episode_id, forgotten_episodes, unprobed};
pub use episode::{Episode, Rules, Told};
pub use episodes::{Begin, Episodes, Unsaved};
pub use notice::{Dead, Terms, of_certificates, of_dead_letters, of_episode};
