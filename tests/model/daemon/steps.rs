//! What a daemon may do next.

use super::{Daemon, Job};
use crate::Broken;
use crate::database::{Claim, Database, Delivery, Event, Write};

/// What a daemon does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `run::loops::keep`: `Cluster::beat`, then `Outbox::adopt`.
    Keep,
    /// The same, with a pause before the adoption.
    Beat,
    Adopt,
    /// `Outbox::orphans`, before a scan.
    Find(Event),
    /// `scan::settle::settle_batch`: the mark, then `Outbox::settle`.
    Settle,
    /// `scan::read::expired`.
    Read(usize),
    /// `Scan::stage`, then `Scan::finish`: the mark, then `Outbox::confirm`. `room`: the queue has a place.
    Scan {
        certificate: usize,
        room: bool,
    },
    /// `Feeder::feed` → `Outbox::claim`.
    Take(Event),
    /// `Feeder::free_lost` → `Outbox::free_claims`.
    FreeLost(Claim),
    /// `Workers::worker` → `Courier::attempt`, with success.
    Send(Job),
    /// `Recorder::run` → `Outbox::record`.
    Record(Job),
    /// An attempt that was not made, because the lane is another's, or failed: `Outcome::Interrupted`, `Outcome::Failed`.
    PutBack(Job),
    /// `Position::load`.
    Load,
    /// `Watch::process` → `Outbox::append`.
    Append,
    /// `Position::save`.
    Save,
}

impl Daemon {
    /// Everything that it may do next.
    pub fn steps(&self, database: &Database, broken: Option<Broken>) -> Vec<Step> {
        let mut steps = Vec::new();
        self.add_upkeep(database, broken, &mut steps);
        self.add_scans(database, &mut steps);
        self.add_deliveries(database, broken, &mut steps);
        self.add_watch(database, broken, &mut steps);
        steps
    }

    fn add_upkeep(&self, database: &Database, broken: Option<Broken>, steps: &mut Vec<Step>) {
        if self.adopts.is_some() {
            steps.push(Step::Adopt);
        } else if self.must_keep(database, broken) {
            steps.extend([Step::Keep, Step::Beat]);
        }
        if self.orphan.is_some() {
            steps.push(Step::Settle);
            return;
        }
        let orphans = (0..database.deliveries.len()).filter(|event| database.is_orphan(*event, self.view.live, broken));
        steps.extend(orphans.map(Step::Find));
    }

    /// Whether a heartbeat would change anything.
    fn must_keep(&self, database: &Database, broken: Option<Broken>) -> bool {
        let mut after = database.clone();
        let view = after.beat(self.run);
        after.apply(Write::Adopt { live: view.live }, broken);
        view != self.view || after != *database
    }

    fn add_scans(&self, database: &Database, steps: &mut Vec<Step>) {
        for (place, certificate) in database.certificates.iter().enumerate() {
            match self.portions.iter().find(|portion| portion.certificate == place) {
                Some(portion) => {
                    let mut scan = |room| {
                        steps.push(Step::Scan {
                            certificate: place,
                            room,
                        })
                    };
                    scan(false);
                    if portion.is_staged_next() && self.has_room() {
                        scan(true);
                    }
                }
                None if certificate.expired && !certificate.marked => steps.push(Step::Read(place)),
                None => {}
            }
        }
    }

    fn add_deliveries(&self, database: &Database, broken: Option<Broken>, steps: &mut Vec<Step>) {
        for (event, delivery) in database.deliveries.iter().enumerate() {
            match delivery {
                Delivery::Pending if self.has_room() => steps.push(Step::Take(event)),
                // Found while it was pending still.
                Delivery::Claimed { .. } if broken == Some(Broken::ClaimedTwice) && self.has_room() => {
                    steps.push(Step::Take(event));
                }
                _ => {}
            }
        }
        let lost = self.lost.iter().copied();
        let free = |claim: &Claim| broken == Some(Broken::LostClaimFreedOnce) || database.is_claimed(*claim);
        steps.extend(lost.filter(free).map(Step::FreeLost));
        for job in &self.jobs {
            match job.sent {
                true => steps.push(Step::Record(*job)),
                false if self.owns_lane() => steps.extend([Step::Send(*job), Step::PutBack(*job)]),
                false => steps.push(Step::PutBack(*job)),
            }
        }
    }

    fn add_watch(&self, database: &Database, broken: Option<Broken>, steps: &mut Vec<Step>) {
        let Some(watching) = self.watching else {
            if self.view.lease.is_some() && database.position.awards < database.awards() {
                steps.push(Step::Load);
            }
            return;
        };
        let token_first = broken == Some(Broken::TokenBeforeOutbox);
        let saved = watching.saved >= watching.position(broken).awards;
        if watching.appended < database.awards() && (!token_first || saved) {
            steps.push(Step::Append);
        }
        if !saved && watching.saved < database.awards() {
            steps.push(Step::Save);
        }
    }

    /// Whether a step is taken only if something goes wrong.
    pub fn is_accident(&self, step: Step) -> bool {
        match step {
            Step::Beat => true,
            Step::PutBack(_) => self.owns_lane(),
            _ => false,
        }
    }
}
