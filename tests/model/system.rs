//! The whole: the database, the instances that run, the platform, and what can go wrong. Stateright walks through every order in
//! which the steps can come.

mod renumber;
mod time;
mod work;

use stateright::{Model, Property};

use super::database::{Beat, Certificate, Database, Event, Run};
use super::history::History;
use super::instance::{Instance, Step};
use super::rules::Rules;
use super::transaction::Transaction;

/// What is checked: how much there is of everything, and how often what goes wrong does.
#[derive(Clone, Copy, Debug)]
pub struct System {
    pub instances: usize,
    /// How many deliveries a batch has that is pending from the beginning. Without one there are certificates and awards.
    pub batch: usize,
    pub certificates: usize,
    pub awards: usize,
    /// A certificate needs two transactions: `source::scan::page` ends at 4 MB.
    pub large: bool,
    /// Whether what the sources append is delivered here too.
    pub delivers: bool,
    pub budget: Budget,
    pub rules: Rules,
}

/// How many may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// An instance is killed.
    pub crashes: u8,
    /// An instance shuts down.
    pub leaves: u8,
    /// An instance confirms no heartbeat for 8 s or longer, while it runs on.
    pub lapses: u8,
    /// An instance is frozen, for as long as it likes.
    pub freezes: u8,
    /// An attempt fails.
    pub failures: u8,
    /// The reply to a commit is lost: whether and when it takes effect is not known.
    pub losses: u8,
    /// The same, of a heartbeat.
    pub late_beats: u8,
    /// The platform renews a certificate.
    pub renewals: u8,
    /// The platform writes a certificate back as it was before it was marked.
    pub unmarks: u8,
    /// The endpoint is held.
    pub holds: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub database: Database,
    /// Those that run, in the order of their starts.
    pub instances: [Option<Instance>; 2],
    /// A heartbeat that its sender gave up on, and that may still be written.
    late: Option<LateBeat>,
    doubt: Option<Doubt>,
    /// The operation that holds the endpoint is `done`.
    pub hold_done: bool,
    pub history: History,
    left: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LateBeat {
    run: Run,
    beat: Beat,
    /// A later one of that instance is written.
    overtaken: bool,
}

/// A transaction whose commit was asked for, and the reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Doubt {
    /// Who asks; nobody if that process is gone.
    run: Option<Run>,
    transaction: Transaction,
    /// `None` as long as it may still be committed or aborted.
    fate: Option<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Committed,
    /// It was committed, but who asks gets NoSuchTransaction.
    Forgotten,
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Start,
    Crash(Run),
    Leave(Run),
    Freeze(Run),
    Thaw(Run),
    /// About 3.5 s pass.
    Tick,
    Step(Run, Step),
    /// The same, and the reply to its commit is lost.
    Lose(Run, Step),
    /// MongoDB commits or aborts the transaction in doubt.
    Resolve(Fate),
    /// A heartbeat is sent, and its sender gives up on it.
    LoseBeat(Run),
    LateBeat,
    /// `operations`: the endpoint is held, and the control number raised.
    Hold,
    /// `operations`: every living heartbeat has acknowledged the number.
    HoldDone,
    Renew(usize),
    /// A renewed certificate expires.
    Expire(usize),
    Unmark(usize),
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            database: Database::new(self.batch, self.certificates),
            instances: [None; 2],
            late: None,
            doubt: None,
            hold_done: false,
            history: History::new(),
            left: self.budget,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.is_over(state) {
            return;
        }
        if state.running().count() < self.instances {
            actions.push(Action::Start);
        }
        if self.time_may_pass(state) {
            actions.push(Action::Tick);
        }
        for instance in state.running() {
            self.add_steps(state, instance, actions);
            self.add_accidents(state, instance, actions);
        }
        self.add_changes(state, actions);
        self.add_operations(state, actions);
        actions.extend(state.late.map(|_| Action::LateBeat));
        if state.doubt.is_some_and(|doubt| doubt.fate.is_none()) {
            actions.extend([Fate::Committed, Fate::Forgotten, Fate::Aborted].map(Action::Resolve));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Start => self.start(&mut next),
            Action::Crash(run) => next.crash(run),
            Action::Leave(run) => self.leave(&mut next, run),
            Action::Freeze(run) => next.freeze(run),
            Action::Thaw(run) => next.at(run).frozen = false,
            Action::Tick => self.tick(&mut next),
            Action::Step(run, step) => self.take(&mut next, run, step),
            Action::Lose(run, step) => self.lose(&mut next, run, step),
            Action::Resolve(fate) => self.resolve(&mut next, fate),
            Action::LoseBeat(run) => self.lose_beat(&mut next, run),
            Action::LateBeat => self.write_late(&mut next),
            Action::Hold => {
                next.left.holds -= 1;
                next.database.control = 1;
            }
            Action::HoldDone => next.hold_done = true,
            Action::Renew(_) | Action::Expire(_) | Action::Unmark(_) => next.change(action),
        }
        next.renumber();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties::all()
    }
}

impl System {
    pub fn has_sources(&self) -> bool {
        self.certificates + self.awards > 0
    }

    pub fn award(&self, number: usize) -> Event {
        self.certificates * 2 + number
    }

    /// The expiry whose delivery that document is.
    pub fn expiry_of(&self, document: usize) -> Option<Event> {
        let event = if self.large { document % 2 } else { document };
        (self.batch == 0 && event < self.award(0)).then_some(event)
    }

    /// Whether an action is taken only if something goes wrong, or somebody wants it.
    pub fn is_accident(&self, state: &State, action: Action) -> bool {
        match action {
            Action::Tick => state.about_to_lapse() > 0,
            Action::Step(_, Step::Respond { success, .. }) => !success,
            Action::Crash(_) | Action::Leave(_) | Action::Freeze(_) | Action::Lose(..) | Action::LoseBeat(_) => true,
            Action::Hold | Action::Renew(_) | Action::Unmark(_) => true,
            Action::Start | Action::Thaw(_) | Action::Step(..) | Action::Resolve(_) => false,
            Action::LateBeat | Action::HoldDone | Action::Expire(_) => false,
        }
    }

    fn add_accidents(&self, state: &State, instance: &Instance, actions: &mut Vec<Action>) {
        let (run, left) = (instance.run, state.left);
        if left.crashes > 0 {
            actions.push(Action::Crash(run));
        }
        if instance.frozen {
            actions.push(Action::Thaw(run));
            return;
        }
        if left.freezes > 0 {
            actions.push(Action::Freeze(run));
        }
        if left.leaves > 0 && !instance.leaving {
            actions.push(Action::Leave(run));
        }
        if left.late_beats > 0 && instance.written.is_none() {
            actions.push(Action::LoseBeat(run));
        }
    }

    /// What the platform does; a document that a transaction in doubt has written waits for it.
    fn add_changes(&self, state: &State, actions: &mut Vec<Action>) {
        for (number, certificate) in state.database.certificates.iter().enumerate() {
            let Some(certificate) = certificate else { continue };
            let Certificate {
                expires,
                expired,
                marked,
            } = *certificate;
            if state.is_locked(|transaction| transaction.writes_certificate_of(expires)) {
                continue;
            }
            if state.left.renewals > 0 && expires % 2 == 0 {
                actions.push(Action::Renew(number));
            }
            if !expired {
                actions.push(Action::Expire(number));
            }
            if state.left.unmarks > 0 && marked {
                actions.push(Action::Unmark(number));
            }
        }
    }

    fn add_operations(&self, state: &State, actions: &mut Vec<Action>) {
        if state.left.holds > 0 {
            actions.push(Action::Hold);
        }
        let acknowledged = state.database.living().all(|(_, beat)| beat.control == 1);
        let waits = self.rules.keep(super::Rule::ControlAcknowledged);
        if state.database.control == 1 && !state.hold_done && (acknowledged || !waits) {
            actions.push(Action::HoldDone);
        }
    }

    /// What could still happen is of no interest.
    fn is_over(&self, state: &State) -> bool {
        let Budget { renewals, unmarks, .. } = state.left;
        let unchanged = self.certificates == 0 || renewals == 0 && unmarks == 0;
        let held = self.budget.holds > 0 && !state.is_delivered();
        self.is_done(state) && unchanged && !held
    }

    /// Everything that happened is delivered, or waits in the outbox because the endpoint is held; nothing is under way.
    pub fn is_done(&self, state: &State) -> bool {
        let database = &state.database;
        let mut certificates = database.certificates.iter().flatten();
        let marked = certificates.all(|one| one.expired && one.marked) && self.is_appended(state);
        let awards = (0..self.awards).all(|number| database.is_appended(self.award(number)));
        let idle = state.running().all(Instance::is_idle) && state.doubt.is_none();
        marked && awards && idle && (!self.delivers || state.hold_done || state.is_delivered())
    }

    fn is_appended(&self, state: &State) -> bool {
        let mut marked = super::database::each(state.history.marked);
        marked.all(|event| Database::documents_of(event, self.large).all(|one| state.database.is_appended(one)))
    }
}

impl State {
    pub fn running(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().flatten()
    }

    fn running_mut(&mut self) -> impl Iterator<Item = &mut Instance> {
        self.instances.iter_mut().flatten()
    }

    fn at(&mut self, run: Run) -> &mut Instance {
        let mut running = self.running_mut();
        running
            .find(|instance| instance.run == run)
            .expect("a step of an instance that runs")
    }

    fn is_delivered(&self) -> bool {
        let mut documents = self.database.documents.iter().flatten();
        documents.all(|document| !document.is_pending())
    }

    /// Whether a transaction in doubt, which is neither committed nor aborted, has written that.
    fn is_locked(&self, writes: impl Fn(Transaction) -> bool) -> bool {
        self.doubt
            .is_some_and(|doubt| doubt.fate.is_none() && writes(doubt.transaction))
    }
}
