//! Which certificates expire when, which are written or changed while the daemon runs, and what must come of it.

mod step;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use bson::oid::ObjectId;
use bson::{DateTime, Document, RawBsonRef};
use certhookd::model::{Clock, EventId, EventType};
use certhookd::sandbox::{Bulk, Received};
use mongodb::Collection;

use step::Step;

/// What is written or changed while the daemon runs is so this long before the certificate expires.
const LEAD: Duration = Duration::from_secs(1);

/// How much later a renewed certificate expires, and a re-dated one.
const RENEWED: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const RE_DATED: Duration = Duration::from_secs(2);

/// How much happens.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Certificates that expire, every other one written while the daemon runs.
    pub expiring: usize,
    /// Certificates that are renewed; as many are re-dated, and as many deleted.
    pub changed: usize,
    /// They are spread evenly over this many seconds.
    pub seconds: u32,
}

impl Plan {
    pub const FULL: Self = Self {
        expiring: 1_000,
        changed: 50,
        seconds: 60,
    };
    pub const QUICK: Self = Self {
        expiring: 100,
        changed: 5,
        seconds: 6,
    };
}

/// What an instant means to its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It expires, and was written before the daemon started.
    Known,
    /// It expires, and was written just before.
    New,
    /// It expires, and was to expire earlier until just before that.
    ReDated,
    /// It does not expire any more.
    Old(Change),
}

/// What was done to a certificate just before its old instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Renewed,
    ReDated,
    Deleted,
}

impl Change {
    pub const ALL: [Self; 3] = [Self::Renewed, Self::ReDated, Self::Deleted];
}

/// All that will happen.
pub struct Timeline {
    before: Vec<Document>,
    /// By the instant before which each must be done.
    during: Vec<(DateTime, Step)>,
    moments: HashMap<String, (Moment, DateTime)>,
}

impl Timeline {
    /// Begins at `start`.
    pub fn new(plan: Plan, start: DateTime, bulk: &mut Bulk) -> Result<Self> {
        let mut timeline = Self {
            before: Vec::new(),
            during: Vec::new(),
            moments: HashMap::new(),
        };
        for (i, at) in spread(start, plan.seconds, plan.expiring).enumerate() {
            timeline.expire(bulk.certificate(i, Some(at)), at, i % 2 == 0)?;
        }
        for (i, old) in spread(start, plan.seconds, plan.changed * Change::ALL.len()).enumerate() {
            timeline.change(bulk.certificate(i, Some(old)), old, Change::ALL[i % Change::ALL.len()])?;
        }
        timeline.during.sort_by_key(|(due, _)| *due);
        Ok(timeline)
    }

    fn expire(&mut self, certificate: Document, at: DateTime, known: bool) -> Result<()> {
        let id = certificate.get_object_id("_id")?;
        if known {
            self.note(id, at, Moment::Known);
            self.before.push(certificate);
        } else {
            self.note(id, at, Moment::New);
            self.during.push((at, Step::Insert(certificate)));
        }
        Ok(())
    }

    fn change(&mut self, certificate: Document, old: DateTime, change: Change) -> Result<()> {
        let id = certificate.get_object_id("_id")?;
        self.note(id, old, Moment::Old(change));
        let step = match change {
            Change::Renewed => Step::Postpone(id, old.saturating_add_duration(RENEWED)),
            Change::ReDated => {
                let new = old.saturating_add_duration(RE_DATED);
                self.note(id, new, Moment::ReDated);
                Step::Postpone(id, new)
            }
            Change::Deleted => Step::Delete(id),
        };
        self.during.push((old, step));
        self.before.push(certificate);
        Ok(())
    }

    fn note(&mut self, certificate: ObjectId, at: DateTime, moment: Moment) {
        self.moments.insert(event_id(certificate, at), (moment, at));
    }

    /// What to write before the daemon starts.
    pub fn before(&self) -> &[Document] {
        &self.before
    }

    /// Makes the changes while the daemon runs, each at its time.
    ///
    /// # Errors
    /// Also when something could not be done in time: the machine is too busy then for what is measured.
    pub async fn play(&self, badge_users: &Collection<Document>) -> Result<()> {
        for (due, step) in &self.during {
            let lead = Duration::from_millis(millis_until(*due));
            tokio::time::sleep(lead.saturating_sub(LEAD)).await;
            step.apply(badge_users).await?;
            ensure!(millis_until(*due) > 0, "the machine is too busy: a write took a second");
        }
        Ok(())
    }

    /// Returns when everything has expired.
    pub async fn ended(&self) {
        let last = self.moments.values().map(|(_, at)| *at).max();
        tokio::time::sleep(Duration::from_millis(last.map_or(0, millis_until))).await;
    }

    /// What the event of that `webhook-id` tells of.
    pub fn moment(&self, id: &str) -> Option<(Moment, DateTime)> {
        self.moments.get(id).copied()
    }

    /// Whether everything was told of that must be.
    pub fn is_complete(&self, requests: &[Received]) -> bool {
        let told: HashSet<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
        let mut due = self
            .moments
            .iter()
            .filter(|(_, (moment, _))| !matches!(moment, Moment::Old(_)));
        due.all(|(id, _)| told.contains(id.as_str()))
    }
}

/// `n` instants, evenly spread over this many seconds after `start`.
fn spread(start: DateTime, seconds: u32, n: usize) -> impl Iterator<Item = DateTime> {
    let step = Duration::from_secs(seconds.into()).div_f64(n as f64);
    (1..=n).map(move |i| start.saturating_add_duration(step.mul_f64(i as f64)))
}

/// The `webhook-id` of the certificate's expiry at that instant.
fn event_id(certificate: ObjectId, at: DateTime) -> String {
    EventId::derive(EventType::CertificateExpired, RawBsonRef::ObjectId(certificate), at).to_string()
}

fn millis_until(instant: DateTime) -> u64 {
    let left = instant.timestamp_millis() - Clock::local().timestamp_millis();
    left.try_into().unwrap_or(0)
}
