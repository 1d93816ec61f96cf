//! Steps of instances, and what goes wrong with them.

use super::{Action, Doubt, Fate, LateBeat, State, System};
use crate::database::{Outcome, Run};
use crate::history::Fault;
use crate::instance::{Instance, Step};
use crate::rules::Rule;
use crate::transaction::{Part, Transaction};

impl System {
    pub(super) fn add_steps(&self, state: &State, instance: &Instance, actions: &mut Vec<Action>) {
        let run = instance.run;
        for step in instance.steps(&state.database, state.asked(run), self) {
            let Some(transaction) = instance.transaction(step, self) else {
                if self.may_take(state, step) {
                    actions.push(Action::Step(run, step));
                }
                continue;
            };
            if state.is_locked(|other| other.conflicts(transaction)) {
                continue;
            }
            actions.push(Action::Step(run, step));
            let refused = transaction.is_refused(&state.database, self.rules);
            if state.left.losses > 0 && state.doubt.is_none() && !refused && step != Step::Stage {
                actions.push(Action::Lose(run, step));
            }
        }
    }

    fn may_take(&self, state: &State, step: Step) -> bool {
        match step {
            Step::Fetch(_) => self.delivers,
            Step::Respond { success: false, .. } => state.left.failures > 0,
            Step::Load if self.rules.keep(Rule::NumberWithRead) => {
                !state.is_locked(|transaction| matches!(transaction, Transaction::Award { .. }))
            }
            Step::Ask => state.doubt.is_some_and(|doubt| doubt.fate.is_some()),
            _ => true,
        }
    }

    pub(super) fn take(&self, state: &mut State, run: Run, step: Step) {
        match step {
            Step::Ask => self.ask(state, run),
            Step::Exit => state.remove(run),
            Step::Record(_) | Step::Stage | Step::Commit | Step::Append => self.commit(state, run, step),
            _ => {
                state.left.failures -= u8::from(matches!(step, Step::Respond { success: false, .. }));
                self.watch_out(state, step);
                let State {
                    database, instances, ..
                } = state;
                let mut running = instances.iter_mut().flatten();
                let instance = running.find(|instance| instance.run == run).expect("it runs");
                instance.act(step, database, self);
                if let (Step::Beat, Some(late)) = (step, &mut state.late) {
                    late.overtaken |= late.run == run;
                }
            }
        }
        state.end_sources(run);
    }

    fn commit(&self, state: &mut State, run: Run, step: Step) {
        let Some(transaction) = state.at(run).transaction(step, self) else {
            return;
        };
        let done = !transaction.is_refused(&state.database, self.rules);
        if done {
            self.apply(state, Some(run), transaction);
        }
        let database = state.database;
        state.at(run).concluded(transaction, done, &database, self);
    }

    fn apply(&self, state: &mut State, run: Option<Run>, transaction: Transaction) {
        transaction.apply(&mut state.database, &mut state.history, self);
        if let Transaction::Page { events, part, .. } = transaction
            && part != Part::Append
        {
            for instance in state.running_mut().filter(|instance| Some(instance.run) != run) {
                instance.page = instance.page.map(|page| page.seen(events));
            }
        }
    }

    /// The reply to a commit is lost.
    pub(super) fn lose(&self, state: &mut State, run: Run, step: Step) {
        state.left.losses -= 1;
        let Some(transaction) = state.at(run).transaction(step, self) else {
            return;
        };
        let asks = self.rules.keep(Rule::CommitAsked);
        state.doubt = Some(Doubt {
            run: asks.then_some(run),
            transaction,
            fate: None,
        });
        if !asks {
            let database = state.database;
            state.at(run).concluded(transaction, true, &database, self);
        }
    }

    pub(super) fn resolve(&self, state: &mut State, fate: Fate) {
        let Some(doubt) = state.doubt else { return };
        if fate != Fate::Aborted {
            self.apply(state, doubt.run, doubt.transaction);
        }
        state.doubt = doubt.run.map(|_| Doubt {
            fate: Some(fate),
            ..doubt
        });
    }

    /// What was aborted, or is not known any more, is done again; a page is read again.
    fn ask(&self, state: &mut State, run: Run) {
        let Some(doubt) = state.doubt.take() else { return };
        let database = state.database;
        if doubt.fate == Some(Fate::Committed) {
            state.at(run).concluded(doubt.transaction, true, &database, self);
        } else if matches!(doubt.transaction, Transaction::Page { .. }) {
            state.at(run).page = None;
        }
    }

    /// Notes what a request that begins now must not be.
    fn watch_out(&self, state: &mut State, step: Step) {
        let Step::Begin(document, delivery) = step else { return };
        let database = &state.database;
        let result = database.documents[document].map(|document| document.results[delivery]);
        let settled = result.is_some_and(|result| result != Outcome::Pending);
        let unmarked = self
            .expiry_of(document)
            .is_some_and(|expiry| !state.history.is_marked(expiry));
        let again = state.history.begun(document, delivery);
        let faults = [
            (Fault::BegunUncommitted, result.is_none()),
            (
                Fault::BegunSettled,
                settled && !state.history.is_late(document, delivery),
            ),
            (Fault::BegunUnmarked, unmarked),
            (Fault::BegunHeld, state.hold_done),
            (Fault::BegunAgain, again),
        ];
        let found = faults.into_iter().filter(|(_, found)| *found);
        found.for_each(|(fault, _)| state.history.add(fault));
    }

    pub(super) fn start(&self, state: &mut State) {
        let newest = state.newest();
        let run = newest.map_or(0, |newest| newest + 1);
        let slot = state.instances.iter_mut().find(|slot| slot.is_none());
        *slot.expect("one may still be started") = Some(Instance::start(run, &mut state.database, self.rules));
    }

    pub(super) fn leave(&self, state: &mut State, run: Run) {
        state.left.leaves -= 1;
        state.at(run).leave(self.rules);
        state.end_sources(run);
    }

    pub(super) fn lose_beat(&self, state: &mut State, run: Run) {
        state.left.late_beats -= 1;
        let database = state.database;
        let beat = state.at(run).compose(&database, self.rules);
        state.late = Some(LateBeat {
            run,
            beat,
            overtaken: false,
        });
    }

    pub(super) fn write_late(&self, state: &mut State) {
        let Some(late) = state.late.take() else { return };
        let known = state.database.beats[usize::from(late.run)].is_some();
        if known && !(late.overtaken && self.rules.keep(Rule::BeatNumber)) {
            state.database.write(late.run, late.beat);
        }
    }
}

impl State {
    /// The transaction of which it doesn't know whether it was committed.
    fn asked(&self, run: Run) -> Option<Transaction> {
        let asked = self.doubt.filter(|doubt| doubt.run == Some(run));
        asked.map(|doubt| doubt.transaction)
    }

    /// Scan and watch end with the lease and with a shutdown, once it is known what they have written.
    fn end_sources(&mut self, run: Run) {
        let asked = self.asked(run);
        if asked.is_some_and(|transaction| !matches!(transaction, Transaction::Record { .. })) {
            return;
        }
        if let Some(instance) = self.running_mut().find(|instance| instance.run == run) {
            let lease = instance.lease.filter(|_| !instance.leaving);
            instance.page = instance.page.filter(|_| lease.is_some());
            instance.watching = instance.watching.filter(|watching| lease == Some(watching.lease));
        }
    }

    pub(super) fn crash(&mut self, run: Run) {
        self.left.crashes -= 1;
        self.history.silence();
        self.note_late(run);
        self.instances = self.instances.map(|one| one.filter(|one| one.run != run));
        let gone = |doubt: &Doubt| doubt.run == Some(run);
        if let Some(doubt) = self.doubt.filter(gone) {
            self.doubt = doubt.fate.is_none().then_some(Doubt { run: None, ..doubt });
        }
    }

    /// It has nothing left to do, and removes its heartbeat.
    fn remove(&mut self, run: Run) {
        self.instances = self.instances.map(|one| one.filter(|one| one.run != run));
        self.database.beats[usize::from(run)] = None;
    }

    /// The platform writes a certificate.
    pub(super) fn change(&mut self, action: Action) {
        let (Action::Renew(number) | Action::Expire(number) | Action::Unmark(number)) = action else {
            return;
        };
        let Some(certificate) = &mut self.database.certificates[number] else {
            return;
        };
        match action {
            Action::Expire(_) => {
                certificate.expired = true;
                return;
            }
            Action::Renew(_) => {
                (certificate.expires, certificate.expired, certificate.marked) =
                    (certificate.expires + 1, false, false);
                self.left.renewals -= 1;
            }
            _ => {
                certificate.marked = false;
                self.left.unmarks -= 1;
            }
        }
        for instance in self.running_mut() {
            instance.page = instance.page.map(|page| page.seen(0b11 << (number * 2)));
        }
    }
}
