//! The whole: the database, the daemons that run, the platform, and what can go wrong. Stateright walks through every order in
//! which the steps can come.

use stateright::{Model, Property};

use super::Broken;
use super::daemon::{Daemon, Step};
use super::database::{Claim, Database, Delivery, Run, Write, contains, has};

/// What is to be checked: how much there is of everything, and how often what goes wrong does.
#[derive(Clone, Copy, Debug)]
pub struct System {
    pub daemons: usize,
    pub certificates: usize,
    pub awards: usize,
    pub budget: Budget,
    /// A rule that is left out, to see that it is needed.
    pub broken: Option<Broken>,
}

/// How many may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A daemon is killed.
    pub crashes: u8,
    /// A daemon's heartbeat is late by more than `cluster::ALIVE` while it runs on, or sleeps.
    pub pauses: u8,
    /// The platform renews a certificate.
    pub renewals: u8,
    /// A renewed certificate expires again.
    pub expiries: u8,
    /// An attempt fails.
    pub failures: u8,
    /// The answer to a write is lost, and when the write takes effect, or if ever, is not known.
    pub losses: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub database: Database,
    /// Those that run now, in the order of their starts.
    pub daemons: Vec<Daemon>,
    started: Run,
    /// A write that is still under way, though its sender gave up on it.
    late: Option<Write>,
    left: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Start,
    Crash(Run),
    /// `cluster::ALIVE` has passed since the last heartbeat.
    Silence(Run),
    Renew(usize),
    Expire(usize),
    Step(Run, Step),
    /// The same, and the answer is lost.
    Lose(Run, Step),
    Late,
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            database: Database::new(self.certificates, self.awards),
            daemons: Vec::new(),
            started: 0,
            late: None,
            left: self.budget,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.is_over(state) {
            return;
        }
        if state.daemons.len() < self.daemons {
            actions.push(Action::Start);
        }
        actions.extend(state.silent_dead().map(Action::Silence));
        for daemon in &state.daemons {
            self.add_steps(state, daemon, actions);
        }
        self.add_changes(state, actions);
        actions.extend(state.late.map(|_| Action::Late));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Start => {
                next.daemons
                    .push(Daemon::start(next.started, &mut next.database, self.broken));
                next.started += 1;
            }
            Action::Crash(run) => {
                next.left.crashes -= 1;
                next.daemons.retain(|daemon| daemon.run != run);
                next.database.unheard.retain(|claim| claim.by != run);
            }
            Action::Silence(run) => {
                next.left.pauses -= u8::from(next.runs(run));
                next.database.alive &= !(1 << run);
            }
            Action::Renew(place) => {
                next.left.renewals -= 1;
                let certificate = &mut next.database.certificates[place];
                (certificate.expires, certificate.expired, certificate.marked) =
                    (certificate.expires + 1, false, false);
            }
            Action::Expire(place) => {
                next.left.expiries -= 1;
                next.database.certificates[place].expired = true;
            }
            Action::Step(run, step) => self.take(&mut next, run, step),
            Action::Lose(run, step) => self.lose(&mut next, run, step),
            Action::Late => {
                let write = next.late.take()?;
                let done = next.database.apply(write, self.broken);
                if let Write::Commit { claim, .. } = write {
                    next.database.unheard.extend(done.then_some(claim));
                }
            }
        }
        next.renumber();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties::all()
    }
}

impl System {
    /// Whether anything is left to do, if nothing goes wrong any more.
    pub fn has_work(&self, state: &State) -> bool {
        let mut steps = state.daemons.iter().flat_map(|daemon| {
            let steps = daemon.steps(&state.database, self.broken).into_iter();
            steps.filter(|step| !daemon.is_accident(*step))
        });
        state.daemons.len() < self.daemons || state.silent_dead().next().is_some() || steps.next().is_some()
    }

    fn add_steps(&self, state: &State, daemon: &Daemon, actions: &mut Vec<Action>) {
        let State { database, left, .. } = state;
        for step in daemon.steps(database, self.broken) {
            if !daemon.is_accident(step) || left.allow(step) {
                actions.push(Action::Step(daemon.run, step));
            }
            if left.losses > 0 && daemon.write(step, database, self.broken).is_some() {
                actions.push(Action::Lose(daemon.run, step));
            }
        }
        if left.crashes > 0 {
            actions.push(Action::Crash(daemon.run));
        }
        if left.pauses > 0 && contains(database.alive, daemon.run) {
            actions.push(Action::Silence(daemon.run));
        }
    }

    fn add_changes(&self, state: &State, actions: &mut Vec<Action>) {
        for (place, certificate) in state.database.certificates.iter().enumerate() {
            if state.left.renewals > 0 && certificate.expires == place * 2 {
                actions.push(Action::Renew(place));
            }
            if state.left.expiries > 0 && !certificate.expired {
                actions.push(Action::Expire(place));
            }
        }
    }

    /// What could still happen is of no interest.
    fn is_over(&self, state: &State) -> bool {
        let renewable = state.left.renewals > 0 && state.database.certificates.iter().any(|one| one.expires % 2 == 0);
        let waiting = state.left.expiries > 0 && state.database.certificates.iter().any(|one| !one.expired);
        let idle = state.daemons.iter().all(Daemon::is_idle) && state.late.is_none();
        state.is_done() && idle && !renewable && !waiting
    }

    fn take(&self, next: &mut State, run: Run, step: Step) {
        next.spend(run, step);
        let (database, daemon) = next.at(run);
        match daemon.write(step, database, self.broken) {
            Some(write) => {
                let done = database.apply(write, self.broken);
                daemon.answered(step, write, done, self.broken);
            }
            None => daemon.act(step, database, self.broken),
        }
    }

    fn lose(&self, next: &mut State, run: Run, step: Step) {
        next.left.losses -= 1;
        let (database, daemon) = next.at(run);
        if let Some(write) = daemon.write(step, database, self.broken) {
            daemon.unanswered(step, write, self.broken);
            next.late = Some(write);
        }
    }
}

impl Budget {
    pub const NOTHING: Self = Self {
        crashes: 0,
        pauses: 0,
        renewals: 0,
        expiries: 0,
        failures: 0,
        losses: 0,
    };

    /// Whether a step that is an accident may still happen.
    fn allow(&self, step: Step) -> bool {
        match step {
            Step::Beat => self.pauses > 0,
            _ => self.failures > 0,
        }
    }
}

impl State {
    fn spend(&mut self, run: Run, step: Step) {
        let (_, daemon) = self.at(run);
        match step {
            Step::Beat => self.left.pauses -= 1,
            Step::PutBack(_) if daemon.is_accident(step) => self.left.failures -= 1,
            _ => {}
        }
    }

    /// See [`Claim::NEXT`].
    fn renumber(&mut self) {
        let mut used = Vec::new();
        self.each_claim(|claim| used.push(*claim));
        used.sort_unstable();
        used.dedup();
        self.each_claim(|claim| {
            let lower = used
                .iter()
                .filter(|other| other.by == claim.by && other.number < claim.number);
            claim.number = lower.count() as u8;
        });
        self.daemons.iter_mut().for_each(Daemon::sort);
    }

    fn each_claim(&mut self, mut change: impl FnMut(&mut Claim)) {
        self.database.claims_mut().for_each(&mut change);
        self.daemons
            .iter_mut()
            .for_each(|daemon| daemon.each_claim(&mut change));
        self.late.iter_mut().filter_map(Write::claim_mut).for_each(change);
    }

    /// Dead runs whose heartbeat still counts.
    fn silent_dead(&self) -> impl Iterator<Item = Run> {
        (0..self.started).filter(|run| contains(self.database.alive, *run) && !self.runs(*run))
    }

    fn runs(&self, run: Run) -> bool {
        self.daemons.iter().any(|daemon| daemon.run == run)
    }

    fn at(&mut self, run: Run) -> (&mut Database, &mut Daemon) {
        let daemon = self.daemons.iter_mut().find(|daemon| daemon.run == run);
        (&mut self.database, daemon.expect("a step of a daemon that runs"))
    }

    pub fn has_seen_silence(&self, system: &System) -> bool {
        self.left.crashes < system.budget.crashes || self.left.pauses < system.budget.pauses
    }

    /// Everything that happened has been delivered, and every certificate that has expired is marked.
    pub fn is_done(&self) -> bool {
        let Database {
            certificates,
            deliveries,
            history,
            ..
        } = &self.database;
        let told = |event| has(history.received, event);
        let over = |delivery: &Delivery| matches!(delivery, Delivery::Absent | Delivery::Delivered);
        deliveries.iter().all(over)
            && certificates
                .iter()
                .all(|one| !one.expired || one.marked && told(one.expires))
            && (self.database.award(0)..deliveries.len()).all(told)
    }
}
