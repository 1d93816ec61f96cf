//! The protocol, from the append to the recorded result, walked through state by state: every order in which the steps of two instances,
//! the platform's writes and the accidents can come. Each step names the function in `src/` that it models: see
//! [`instance::Step`]. The model is as true as those names are: who changes the order of writes, or the filter of one, changes it here
//! first.
//!
//! It is smaller than the daemon where that changes nothing: there is one endpoint, one request at once represents five, and the
//! newest member represents the one that rendezvous hashing chooses. Time passes in ticks of about 3.5 s, and only heartbeats are late:
//! a process that runs keeps its timers. What a worker checks before a request and the request's beginning are one step.
//!
//! Not here: the catch-up of a stream that lost its position, operations other than hold, erasure, retention, what is set aside, and
//! a primary that doesn't know yet that it is none.
#![allow(clippy::print_stdout, reason = "the sizes of the state spaces, with --nocapture")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod database;
mod history;
mod instance;
mod properties;
mod recovery;
mod rules;
mod scenarios;
mod system;
mod transaction;

use stateright::{Checker, HasDiscoveries, Model};

use self::properties::*;
use self::rules::{Rule, Rules};
use self::scenarios::*;
use self::system::{Budget, System};

/// Everything that must hold does, in every state.
fn holds(system: System, budget: Budget) {
    let system = System { budget, ..system };
    let checker = system.checker().spawn_bfs().join();
    println!("{} states: {system:?}", checker.unique_state_count());
    PROMISES.iter().for_each(|promise| checker.assert_no_discovery(promise));
    checker.assert_any_discovery(DONE);
}

#[test]
fn model_of_deliveries_and_one_accident() {
    for budget in [CALM, CRASH, LAPSE, LEAVE, LATE_BEAT] {
        holds(BATCH, budget);
    }
    holds(BATCH, Budget { failures: 2, ..CALM });
    holds(BATCH, Budget { failures: 1, ..LOSS });
    holds(SINGLE, Budget { failures: 1, ..FREEZE });
}

#[test]
fn model_of_deliveries_and_two_accidents() {
    for budget in [LAPSE, FREEZE, LEAVE, LATE_BEAT] {
        let lapses = budget.lapses + 1;
        holds(SINGLE, Budget { lapses, ..budget });
    }
    let lapse = Budget { losses: 1, ..LAPSE };
    holds(SINGLE, Budget { failures: 1, ..lapse });
}

#[test]
fn model_of_a_hold() {
    for budget in [CALM, CRASH, LAPSE, FREEZE, LEAVE, LATE_BEAT, LOSS] {
        holds(SINGLE, Budget { holds: 1, ..budget });
    }
}

#[test]
fn model_of_scan_and_watch() {
    for budget in [CRASH, LAPSE, LOSS] {
        holds(EXPIRY, Budget { renewals: 1, ..budget });
        holds(AWARDS, budget);
    }
    for budget in [LAPSE, LOSS] {
        holds(LARGE_EXPIRY, Budget { renewals: 1, ..budget });
        holds(EXPIRY, Budget { unmarks: 1, ..budget });
    }
    holds(EXPIRIES, RENEWAL);
    for budget in [CRASH, LAPSE] {
        holds(AWARDS, Budget { losses: 1, ..budget });
    }
}

#[test]
fn model_from_scan_and_watch_to_the_result() {
    let delivered = |system| System {
        delivers: true,
        ..system
    };
    for budget in [CRASH, LAPSE] {
        holds(delivered(EXPIRY), budget);
    }
    holds(delivered(AWARD), LOSS);
    holds(delivered(EXPIRY), Budget { losses: 1, ..RENEWAL });
    holds(delivered(LARGE_EXPIRY), RENEWAL);
}

/// No event is lost: whatever has gone wrong, from each state everything that happened can still be delivered.
#[test]
fn model_loses_no_event() {
    for budget in [CRASH, LAPSE, FREEZE, LEAVE, LATE_BEAT, HOLD] {
        recovers(SINGLE, budget);
    }
    recovers(BATCH, Budget { failures: 1, ..LOSS });
    for budget in [CRASH, LAPSE, LOSS] {
        recovers(EXPIRY, budget);
        recovers(AWARDS, budget);
    }
    recovers(LARGE_EXPIRY, Budget { unmarks: 1, ..RENEWAL });
}

fn recovers(system: System, budget: Budget) {
    let system = System { budget, ..system };
    let lost = recovery::dead_end(&system);
    assert!(lost.is_none(), "{lost:#?}, with {budget:?}");
}

/// Without that rule, that promise is broken.
fn needs(rule: Rule, promise: &'static str, system: System, budget: Budget) {
    let rules = Rules::without(rule);
    let system = System {
        budget,
        rules,
        ..system
    };
    let broken = HasDiscoveries::AnyOf([promise].into());
    let checker = system.checker().finish_when(broken).spawn_bfs().join();
    let found = checker.discovery(promise);
    println!("{rule:?}: {} states", checker.unique_state_count());
    assert!(found.is_some(), "{promise}, without {rule:?} too");
}

#[test]
fn model_needs_each_rule_of_heartbeats_and_assignment() {
    use Rule::*;
    needs(NewcomersAge, UNDISTURBED, BATCH, CALM);
    needs(NewcomersAge, UNDISTURBED, BATCH, CRASH);
    needs(Draining, PARALLEL, BATCH, CALM);
    needs(DrainingUntilRecorded, ONCE, BATCH, CALM);
    needs(DrainingUntilRecorded, SETTLED_RESTS, BATCH, CALM);
    needs(Stop, PARALLEL, SINGLE, LAPSE);
    needs(Drop, PARALLEL, SINGLE, LAPSE);
    needs(AgeFromSending, PARALLEL, SINGLE, LAPSE);
    needs(WrittenMembers, PARALLEL, SINGLE, CALM);
    needs(ReadAfterWrite, PARALLEL, SINGLE, CALM);
    needs(GiveUpFirst, PARALLEL, BATCH, CALM);
    needs(BeatNumber, PARALLEL, SINGLE, LATE_BEAT);
    needs(DropUnsent, SETTLED_RESTS, BATCH, LEAVE);
    needs(DropRead, SETTLED_RESTS, BATCH, LEAVE);
    needs(FetchWhereItMayBegin, SETTLED_RESTS, BATCH, CALM);
    needs(LapseLoses, SETTLED_RESTS, SINGLE, LAPSE);
}

#[test]
fn model_needs_each_rule_of_the_control_number() {
    use Rule::*;
    needs(StateWhenAssigned, HELD, SINGLE, HOLD);
    needs(ControlAcknowledged, HELD, SINGLE, HOLD);
    needs(ControlActedFirst, HELD, SINGLE, HOLD);
    needs(LapseLoses, HELD, SINGLE, Budget { holds: 1, ..LAPSE });
}

#[test]
fn model_needs_each_rule_of_recording() {
    use Rule::*;
    let failure = Budget { failures: 1, ..LOSS };
    needs(Version, RECORDED_ONCE, SINGLE, LAPSE);
    needs(Version, RECORDED_ONCE, SINGLE, LOSS);
    needs(ReadAgain, ONCE, BATCH, LOSS);
    needs(AttemptsCompared, RECORDED_ONCE, SINGLE, failure);
    needs(CommitAsked, ONCE, SINGLE, LOSS);
}

#[test]
fn model_needs_each_rule_of_scan_and_watch() {
    use Rule::*;
    let delivered = |system| System {
        delivers: true,
        ..system
    };
    needs(MarkNotFirst, APPENDED_IF_MARKED, EXPIRY, CALM);
    needs(AppendNotFirst, APPENDED_IF_MARKED, EXPIRY, CALM);
    needs(AppendNotFirst, NO_FALSE_ALARM, delivered(EXPIRY), RENEWAL);
    needs(Snapshot, APPENDED_IF_MARKED, EXPIRY, RENEWAL);
    needs(StagedUntilMark, NO_FALSE_ALARM, delivered(LARGE_EXPIRY), RENEWAL);
    needs(LookUp, APPENDED_ONCE, EXPIRY, Budget { unmarks: 1, ..CALM });
    needs(LookUp, APPENDED_ONCE, AWARDS, LOSS);
    needs(LeaseNumber, POSITION_FORWARD, AWARDS, LAPSE);
    needs(NumberWithRead, POSITION_FORWARD, AWARDS, LAPSE);
    needs(PositionWithAppend, POSITION_WAITS, AWARDS, CALM);
    needs(CommitAsked, POSITION_WAITS, AWARDS, LOSS);
}

#[test]
fn model_loses_events_without_a_rule() {
    use Rule::*;
    let lost = [
        (MarkNotFirst, EXPIRY, CRASH),
        (PositionWithAppend, AWARDS, CRASH),
        (CommitAsked, AWARDS, LOSS),
    ];
    for (rule, system, budget) in lost {
        let rules = Rules::without(rule);
        let lost = recovery::dead_end(&System {
            budget,
            rules,
            ..system
        });
        assert!(lost.is_some(), "no event is lost without {rule:?} too");
    }
}
