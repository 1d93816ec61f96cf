//! What is known, in lines for people: `certhookd show` prints them, the page shows them.

use bson::DateTime;

use super::{Attempt, Certificate, Delivery, Replay};
use crate::model::count;

/// Something that happened to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When.
    pub at: Option<DateTime>,
    /// What.
    pub text: String,
    /// How the response began.
    pub response: Option<&'a str>,
}

impl Certificate {
    /// Whose it is, when it was awarded and expires, and so on.
    pub fn facts(&self) -> String {
        let on = |at: Option<_>, what: &str| at.map(|at| format!("{what} {}", instant(Some(at))));
        let facts = [
            self.organization.as_ref().map(|id| format!("organization {id}")),
            on(self.creation_date, "awarded"),
            on(self.expires, "expires"),
            self.expiry_reminder_sent.then(|| "marked".to_owned()),
            self.disabled.then(|| "revoked".to_owned()),
        ];
        let facts: Vec<_> = facts.into_iter().flatten().collect();
        facts.join(", ")
    }
}

impl Delivery {
    /// Its state, since when and why, and after how many attempts.
    pub fn summary(&self) -> String {
        let ended = self.ended_at.map(|at| format!(" {}", instant(Some(at))));
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}"));
        let attempts = count(self.attempts.unsigned_abs(), "attempt");
        format!(
            "{}{}{}  ({attempts})",
            self.state,
            ended.unwrap_or_default(),
            reason.unwrap_or_default()
        )
    }

    /// Its attempts and replays, the oldest first.
    pub fn lines(&self) -> Vec<Line<'_>> {
        let attempts = self.history.iter().map(|attempt| Line {
            at: attempt.at,
            text: attempt.line(),
            response: attempt.response.as_deref(),
        });
        let replays = self.replays.iter().map(|replay| Line {
            at: replay.at,
            text: replay.line(),
            response: None,
        });
        let mut lines: Vec<_> = attempts.chain(replays).collect();
        lines.sort_by_key(|line| line.at);
        lines
    }
}

impl Attempt {
    /// What failed, or else the status.
    pub fn what(&self) -> String {
        match (&self.error, self.status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => format!("status {status}"),
            (None, None) => "nothing is known of it".to_owned(),
        }
    }

    /// How long it took, who made it, and so on.
    pub fn facts(&self) -> String {
        let facts = [
            self.ms.map(|ms| format!("{ms} ms")),
            self.connect_ms.map(|ms| format!("connected in {ms} ms")),
            self.instance.as_ref().map(|id| format!("by {id}")),
            self.redriven
                .then(|| "a dead letter that went out by itself".to_owned()),
        ];
        let facts: Vec<_> = facts.into_iter().flatten().collect();
        facts.join(", ")
    }

    fn line(&self) -> String {
        let number = self.n.map_or_else(String::new, |n| format!(" {n}"));
        let ended = self.reason.as_ref().map(|reason| format!("; a dead letter: {reason}"));
        format!(
            "attempt{number}: {} ({}){}",
            self.what(),
            self.facts(),
            ended.unwrap_or_default()
        )
    }
}

impl Replay {
    fn line(&self) -> String {
        let state = self.state.as_deref().unwrap_or("in an unknown state");
        let after = self
            .attempts
            .map(|attempts| format!(" after {}", count(attempts.unsigned_abs(), "attempt")));
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}"));
        format!(
            "replayed; it was {state}{}{}",
            after.unwrap_or_default(),
            reason.unwrap_or_default()
        )
    }
}

/// As people read it.
pub fn instant(at: Option<DateTime>) -> String {
    at.and_then(|at| at.try_to_rfc3339_string().ok())
        .unwrap_or_else(|| "at an unknown time".into())
}
