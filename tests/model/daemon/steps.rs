//! What a daemon may do next.

use super::{Daemon, Job};
use crate::Broken;
use crate::database::{Claim, Database, Delivery, Event, Events, Write};
use crate::scan::first;

/// What a daemon does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `run::loops::keep`: `Cluster::beat`, then `Outbox::adopt`.
    Keep,
    /// The same, with a pause before the adoption.
    Beat,
    Adopt,
    /// `Query::read`: a transaction's snapshot.
    Read(Events),
    /// `Outbox::append_within` with so many places in the queue, `Scan::mark`, `Unit::commit`, `Outbox::release`.
    Commit {
        places: usize,
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
        self.add_scan(database, broken, &mut steps);
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
    }

    /// Whether a heartbeat would change anything.
    fn must_keep(&self, database: &Database, broken: Option<Broken>) -> bool {
        let mut after = database.clone();
        let view = after.beat(self.run);
        after.apply(Write::Adopt { live: view.live }, broken);
        view != self.view || after != *database
    }

    fn add_scan(&self, database: &Database, broken: Option<Broken>, steps: &mut Vec<Step>) {
        if let Some(portion) = self.portion {
            let places = portion.places(self.room(), broken);
            steps.extend(places.map(|places| Step::Commit { places }));
            return;
        }
        let expired = database.expired();
        let sizes = 1..=expired.count_ones() as usize;
        steps.extend(sizes.map(|size| Step::Read(first(size, expired))));
    }

    fn add_deliveries(&self, database: &Database, broken: Option<Broken>, steps: &mut Vec<Step>) {
        for (event, delivery) in database.deliveries.iter().enumerate() {
            match delivery {
                Delivery::Pending if self.room() > 0 => steps.push(Step::Take(event)),
                // Found while it was pending still.
                Delivery::Claimed(_) if broken == Some(Broken::ClaimedTwice) && self.room() > 0 => {
                    steps.push(Step::Take(event));
                }
                _ => {}
            }
        }
        let lost = self.lost.iter().copied();
        let free = |claim: &Claim| broken == Some(Broken::LostClaimFreedOnce) || database.is_claimed(*claim);
        steps.extend(lost.filter(free).map(Step::FreeLost));
        for job in &self.jobs {
            match job.outcome {
                Some(true) => steps.push(Step::Record(*job)),
                None if self.owns_lane() => steps.extend([Step::Send(*job), Step::PutBack(*job)]),
                Some(false) | None => steps.push(Step::PutBack(*job)),
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
            Step::PutBack(job) => job.outcome.is_none() && self.owns_lane(),
            _ => false,
        }
    }
}
