//! Heartbeats, assignment, draining and the control number: `cluster`.

use super::Instance;
use crate::database::{Beat, DEAD, Database, Lease, STOP, assigned};
use crate::rules::{Rule, Rules};
use crate::system::System;

impl Instance {
    /// `cluster::beat`, at its sending: from here on it assigns by the members that this heartbeat lists.
    pub fn compose(&mut self, database: &Database, rules: Rules) -> Beat {
        let beat = self.next_beat(database, rules);
        self.members = beat.members;
        if rules.keep(Rule::GiveUpFirst) && !self.is_mine() {
            self.give_up(rules);
        }
        beat
    }

    fn next_beat(&self, database: &Database, rules: Rules) -> Beat {
        let listed = if rules.keep(Rule::DrainingUntilRecorded) {
            self.has_open() || self.has_results()
        } else {
            self.has_open()
        };
        let acted = rules.keep(Rule::ControlActedFirst);
        Beat {
            members: self.next,
            draining: listed && assigned(self.next) != Some(self.run) && rules.keep(Rule::Draining),
            leaving: self.leaving,
            control: if acted { self.control } else { database.control },
            seen: 0,
            age: 0,
        }
    }

    pub(super) fn beat(&mut self, database: &mut Database, rules: Rules) {
        let beat = self.compose(database, rules);
        database.write(self.run, beat);
        self.written = Some(0);
        if !rules.keep(Rule::ReadAfterWrite) {
            (self.own, self.assigned) = (0, self.is_mine());
        }
    }

    /// The heartbeat is confirmed, and all are read.
    pub(super) fn read(&mut self, database: &mut Database, system: &System) {
        let sent = self.written.take().unwrap_or(DEAD);
        if self.own >= DEAD {
            // Others may have had the endpoint since.
            self.drop_open();
            if system.rules.keep(Rule::LapseLoses) {
                self.give_up(system.rules);
            }
        }
        let age = if system.rules.keep(Rule::AgeFromSending) {
            sent
        } else {
            0
        };
        if age >= STOP {
            return;
        }
        self.own = age;
        self.next = database.members(self.run, self.leaving, system.rules);
        let assigned = self.would_be_assigned(database, system.rules);
        if assigned && !self.assigned && system.rules.keep(Rule::StateWhenAssigned) {
            self.control = database.control;
        }
        if !assigned {
            self.lose(system.rules);
        }
        self.assigned = assigned;
        if system.has_sources() {
            self.read_lease(database);
        }
    }

    fn would_be_assigned(&self, database: &Database, rules: Rules) -> bool {
        let written = rules.keep(Rule::WrittenMembers);
        let members = if written { self.members } else { self.next };
        assigned(members) == Some(self.run) && !self.leaving && !database.is_others(self.run)
    }

    fn lose(&mut self, rules: Rules) {
        if rules.keep(Rule::FetchWhereItMayBegin) || !self.is_mine() {
            self.drop_unsent(rules);
        }
    }

    fn give_up(&mut self, rules: Rules) {
        self.assigned = false;
        self.drop_unsent(rules);
    }

    /// `lease/source` of the dead and of those that leave is taken; the update compares its number.
    fn read_lease(&mut self, database: &mut Database) {
        if self.can_take_lease(database) {
            database.lease = Lease {
                holder: Some(self.run),
                number: database.lease.number + 1,
            };
        }
        self.lease = (database.lease.holder == Some(self.run)).then_some(database.lease.number);
    }

    fn can_take_lease(&self, database: &Database) -> bool {
        !self.leaving && !database.lease.holder.is_some_and(|holder| database.is_living(holder))
    }

    /// Reads the control number and acts on it. Requests that are open end as they will.
    pub(super) fn poll(&mut self, database: &Database) {
        self.control = database.control;
        self.drop_unsent(Rules::ALL);
    }

    /// SIGTERM.
    pub fn leave(&mut self, rules: Rules) {
        self.leaving = true;
        self.next &= !(1 << self.run);
        self.give_up(rules);
    }

    /// The members that it assigns by assign the endpoint to it.
    pub fn is_mine(&self) -> bool {
        assigned(self.members) == Some(self.run)
    }

    /// Whether a heartbeat changes anything: those that don't are no steps.
    pub(super) fn must_beat(&self, database: &Database, system: &System) -> bool {
        let written = database.beats[usize::from(self.run)];
        let next = self.next_beat(database, system.rules);
        let same = |beat: Beat| {
            Beat {
                seen: 0,
                age: 0,
                ..beat
            } == next
        };
        let lease = system.has_sources() && self.must_read_lease(database);
        self.own > 0
            || !written.is_some_and(same)
            || lease
            || self.assigned != self.would_be_assigned(database, system.rules)
            || self.next != database.members(self.run, self.leaving, system.rules)
    }

    fn must_read_lease(&self, database: &Database) -> bool {
        let held = (database.lease.holder == Some(self.run)).then_some(database.lease.number);
        self.can_take_lease(database) || held != self.lease
    }
}
