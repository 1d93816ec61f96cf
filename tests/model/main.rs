//! The protocol, from the outbox write to the result, walked through state by state: every order in which the steps of two
//! daemons, the platform's writes and the accidents can come. Each step names the function in `src/` that it stands for.
//!
//! It is as true as those names are: who changes the order of writes, or the filter of one, changes it here first.
#![allow(clippy::print_stdout, reason = "the sizes of the state spaces, with --nocapture")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod daemon;
mod database;
mod properties;
mod scan;
mod system;
mod transaction;

use stateright::{Checker, HasDiscoveries, Model};

use self::properties::*;
use self::system::{Budget, System};

/// A rule of the protocol that is left out, to see that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Outbox and mark are written together. Here the mark comes first.
    NotAtomic,
    /// Here the outbox does: all that a standalone mongod can do.
    SingleWrites,
    /// They are not, if the certificate has changed since it was read.
    MarkedUnseen,
    /// Whether they were is asked until it is known.
    CommitNotAsked,
    /// The claims of the dead are freed.
    NeverAdopted,
    /// Only what is pending is claimed.
    ClaimedTwice,
    /// A result counts where its claim stands.
    RecordUnfenced,
    /// A claim whose answer was lost is freed for as long as it may still take effect.
    LostClaimFreedOnce,
    /// The token is saved after the outbox write.
    TokenBeforeOutbox,
    /// It is saved unless a later lease has saved.
    TokenUnfenced,
}

const ONE_EXPIRY: System = System {
    daemons: 2,
    certificates: 1,
    awards: 0,
    budget: Budget::NOTHING,
    broken: None,
};

const ONE_AWARD: System = System {
    certificates: 0,
    awards: 1,
    ..ONE_EXPIRY
};

const CRASH: Budget = Budget {
    crashes: 1,
    ..Budget::NOTHING
};

const PAUSE: Budget = Budget {
    pauses: 1,
    ..Budget::NOTHING
};

const LOSS: Budget = Budget {
    losses: 1,
    ..Budget::NOTHING
};

const RENEWAL: Budget = Budget {
    renewals: 1,
    ..Budget::NOTHING
};

/// Everything that must hold does, in every state.
fn holds(system: System) {
    keeps(system, &PROMISES);
}

fn keeps(system: System, promises: &[&'static str]) {
    let checker = system.checker().threads(2).spawn_bfs().join();
    println!("{system:?}: {} states", checker.unique_state_count());
    for promise in promises {
        checker.assert_no_discovery(promise);
    }
    checker.assert_any_discovery(DONE);
}

#[test]
fn model_with_a_crash_anywhere_a_renewal_another_expiry_and_an_attempt_that_fails() {
    holds(System {
        budget: Budget {
            renewals: 1,
            expiries: 1,
            failures: 1,
            ..CRASH
        },
        ..ONE_EXPIRY
    });
    holds(System {
        awards: 2,
        budget: CRASH,
        ..ONE_AWARD
    });
}

#[test]
fn model_with_a_crash_and_a_pause_anywhere_and_a_renewal() {
    let budget = Budget { pauses: 1, ..CRASH };
    holds(System {
        budget: Budget { renewals: 1, ..budget },
        ..ONE_EXPIRY
    });
    holds(System { budget, ..ONE_AWARD });
}

#[test]
fn model_with_an_answer_lost_anywhere_and_a_write_that_takes_effect_late() {
    let crash = Budget { losses: 1, ..CRASH };
    holds(System {
        budget: Budget { renewals: 1, ..crash },
        ..ONE_EXPIRY
    });
    holds(System {
        budget: crash,
        ..ONE_AWARD
    });
    for system in [ONE_EXPIRY, ONE_AWARD] {
        holds(System {
            budget: Budget { losses: 1, ..PAUSE },
            ..system
        });
    }
}

#[test]
fn model_of_one_daemon_that_crashes_twice_two_certificates_and_one_that_expires_twice() {
    holds(System {
        daemons: 1,
        certificates: 2,
        budget: Budget {
            crashes: 2,
            renewals: 1,
            expiries: 1,
            ..Budget::NOTHING
        },
        ..ONE_EXPIRY
    });
}

#[test]
fn model_of_two_certificates_in_one_portion_and_a_crash() {
    holds(System {
        certificates: 2,
        budget: CRASH,
        ..ONE_EXPIRY
    });
}

/// On a standalone mongod nothing is lost either.
#[test]
fn model_of_single_writes() {
    let promises = PROMISES.into_iter().filter(|promise| *promise != NO_FALSE_ALARM);
    let promises: Vec<_> = promises.collect();
    for budget in [Budget { renewals: 1, ..CRASH }, Budget { renewals: 1, ..LOSS }] {
        let system = System {
            budget,
            broken: Some(Broken::SingleWrites),
            ..ONE_EXPIRY
        };
        keeps(system, &promises);
    }
}

/// Without that rule, that promise is broken.
fn needs(rule: Broken, promise: &'static str, system: System, budget: Budget) {
    let system = System {
        budget,
        broken: Some(rule),
        ..system
    };
    let broken = HasDiscoveries::AnyOf([promise].into());
    let checker = system.checker().finish_when(broken).spawn_bfs().join();
    let found = checker.discovery(promise);
    println!("{rule:?}: {} states", checker.unique_state_count());
    assert!(found.is_some(), "{promise}, without {rule:?} too");
}

#[test]
fn model_needs_each_of_its_rules() {
    use Broken::*;
    let crash_and_renewal = Budget { renewals: 1, ..CRASH };
    needs(NotAtomic, KEPT, ONE_EXPIRY, Budget::NOTHING);
    needs(NotAtomic, NOTHING_STUCK, ONE_EXPIRY, CRASH);
    needs(NotAtomic, SENT, ONE_EXPIRY, crash_and_renewal);
    needs(SingleWrites, NO_FALSE_ALARM, ONE_EXPIRY, RENEWAL);
    needs(MarkedUnseen, KEPT, ONE_EXPIRY, RENEWAL);
    needs(MarkedUnseen, NO_FALSE_ALARM, ONE_EXPIRY, RENEWAL);
    needs(CommitNotAsked, NOTHING_STUCK, ONE_EXPIRY, LOSS);
    needs(NeverAdopted, NOTHING_STUCK, ONE_AWARD, CRASH);
    needs(ClaimedTwice, ONCE, ONE_EXPIRY, Budget::NOTHING);
    needs(
        RecordUnfenced,
        DELIVERED_STAYS,
        ONE_EXPIRY,
        Budget { failures: 1, ..PAUSE },
    );
    needs(RecordUnfenced, FENCED, ONE_EXPIRY, PAUSE);
    needs(LostClaimFreedOnce, NOTHING_STUCK, ONE_AWARD, LOSS);
    needs(TokenBeforeOutbox, TOKEN_WAITS, ONE_AWARD, Budget::NOTHING);
    needs(TokenBeforeOutbox, NOTHING_STUCK, ONE_AWARD, CRASH);
    needs(TokenUnfenced, FENCED, ONE_AWARD, PAUSE);
}
