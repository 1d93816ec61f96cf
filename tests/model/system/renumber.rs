//! Only the order of the runs matters, so after each step they are numbered anew: states that differ in nothing else are one.

use super::State;
use crate::database::{RUNS, Run, Runs};

impl State {
    /// The newest run of which anything is known.
    pub(super) fn newest(&self) -> Option<Run> {
        self.known().checked_ilog2().map(|run| run as Run)
    }

    pub(super) fn renumber(&mut self) {
        self.forget_holder();
        let known = self.known();
        let count = known.count_ones();
        assert!(count <= RUNS as u32, "more runs than RUNS: {self:?}");
        if Runs::MAX.checked_shr(Runs::BITS - count).unwrap_or(0) != known {
            self.rename(|run| (known & ((1 << run) - 1)).count_ones() as Run);
        }
        self.instances
            .sort_unstable_by_key(|one| one.map_or(Run::MAX, |one| one.run));
    }

    /// That the lease's holder is dead is all that matters of it.
    fn forget_holder(&mut self) {
        let holder = self.database.lease.holder.filter(|holder| {
            let running = self.running().any(|instance| instance.run == *holder);
            running || self.database.beats[usize::from(*holder)].is_some()
        });
        self.database.lease.holder = holder;
    }

    fn known(&self) -> Runs {
        let beats = self.database.beats.iter().enumerate();
        let written = beats.filter_map(|(run, beat)| beat.map(|beat| 1 << run | beat.members));
        let running = self.running().map(|one| 1 << one.run | one.members | one.next);
        let late = self.late.map_or(0, |late| 1 << late.run | late.beat.members);
        written.chain(running).fold(late, |known: Runs, runs| known | runs)
    }

    fn rename(&mut self, name: impl Fn(Run) -> Run) {
        let all = |runs: Runs| {
            let old = (0..Runs::BITS as Run).filter(|run| runs & (1 << run) != 0);
            old.fold(0, |renamed: Runs, run| renamed | 1 << name(run))
        };
        let beats = std::mem::take(&mut self.database.beats);
        for (run, beat) in beats.into_iter().enumerate().filter(|(_, beat)| beat.is_some()) {
            let place = usize::from(name(run as Run));
            self.database.beats[place] = beat;
        }
        let written = self.database.beats.iter_mut().flatten();
        written.for_each(|beat| beat.members = all(beat.members));
        for one in self.instances.iter_mut().flatten() {
            (one.run, one.members, one.next) = (name(one.run), all(one.members), all(one.next));
        }
        if let Some(late) = &mut self.late {
            (late.run, late.beat.members) = (name(late.run), all(late.beat.members));
        }
        if let Some(doubt) = &mut self.doubt {
            doubt.run = doubt.run.map(&name);
        }
        let lease = &mut self.database.lease;
        lease.holder = lease.holder.map(&name);
    }
}
