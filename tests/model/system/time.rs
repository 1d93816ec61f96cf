//! Time: what comes of it, and when it may pass. A process that runs keeps its timers; only heartbeats are late.

use super::{State, System};
use crate::database::{DEAD, NEWCOMER, Run, STOP};
use crate::instance::Instance;
use crate::rules::Rule;

impl System {
    /// Where nothing depends on it, time that passes is no step.
    pub(super) fn time_may_pass(&self, state: &State) -> bool {
        if state.about_to_lapse() > state.left.lapses {
            return false;
        }
        let young = state.database.living().any(|(_, beat)| beat.age < NEWCOMER);
        let silent = state.database.living().any(|(run, _)| state.is_silent(run));
        let lapsed = state
            .running()
            .any(|instance| instance.own >= STOP && instance.own < DEAD);
        let may_lapse = state.left.lapses > 0 && state.running().any(|instance| instance.own < STOP);
        young || silent || lapsed || may_lapse
    }

    pub(super) fn tick(&self, state: &mut State) {
        let lapsed = state.about_to_lapse();
        state.left.lapses -= lapsed;
        if lapsed > 0 {
            state.history.silence();
        }
        let dead = state
            .running()
            .filter(|instance| instance.own + 1 == DEAD)
            .map(|instance| instance.run);
        let dead: Vec<_> = dead.collect();
        dead.into_iter().for_each(|run| state.note_late(run));
        for instance in state.running_mut() {
            instance.written = instance.written.map(|age| DEAD.min(age + 1));
            if instance.own == DEAD {
                continue;
            }
            instance.own += 1;
            if instance.own == DEAD && instance.frozen {
                instance.excuse();
            } else if instance.own == DEAD && self.rules.keep(Rule::Drop) {
                instance.drop_open();
            }
        }
        for beat in state.database.beats.iter_mut().flatten() {
            beat.seen = DEAD.min(beat.seen + 1);
            beat.age = NEWCOMER.min(beat.age + 1);
        }
        state.bury();
    }
}

impl State {
    /// How many instances that run on will have a heartbeat of 8 s, or no confirmed one that long after their start.
    pub(super) fn about_to_lapse(&self) -> u8 {
        let age = |instance: &Instance| instance.written.unwrap_or(DEAD).min(instance.own);
        let lapses = self
            .running()
            .filter(|instance| !instance.frozen && age(instance) + 1 == STOP);
        lapses.count() as u8
    }

    /// It is not there, or frozen, or its heartbeats are late.
    fn is_silent(&self, run: Run) -> bool {
        let mut healthy = self
            .running()
            .filter(|instance| !instance.frozen && instance.own < STOP);
        !healthy.any(|instance| instance.run == run)
    }

    /// The heartbeat of a process that is gone says nothing once it is old.
    fn bury(&mut self) {
        for run in 0..self.database.beats.len() {
            let beat = &mut self.database.beats[run];
            let gone = self
                .instances
                .iter()
                .flatten()
                .all(|instance| usize::from(instance.run) != run);
            *beat = beat.filter(|beat| beat.seen < DEAD || !gone);
        }
    }

    pub(super) fn note_late(&mut self, run: Run) {
        let Self { instances, history, .. } = self;
        let mut running = instances.iter().flatten();
        let copies = running.find(|one| one.run == run).map(|one| one.copies);
        for (document, copy) in copies.iter().flatten().enumerate() {
            let work = copy.iter().flat_map(|copy| copy.work).enumerate();
            let unrecorded = work.filter(|(_, work)| work.is_open() || work.is_result());
            unrecorded.for_each(|(delivery, _)| history.may_come_late(document, delivery));
        }
    }

    pub(super) fn freeze(&mut self, run: Run) {
        self.left.freezes -= 1;
        self.history.silence();
        self.at(run).frozen = true;
    }

    /// Whether an instance that runs on was silent.
    pub fn has_seen_a_gap(&self, system: &System) -> bool {
        let all = system.budget;
        self.left.lapses < all.lapses || self.left.freezes < all.freezes
    }
}
