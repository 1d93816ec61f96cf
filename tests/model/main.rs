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

use stateright::{Checker, HasDiscoveries, Model};

use self::properties::*;
use self::system::{Budget, System};

/// A rule of the protocol that is left out, to see that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Durable first.
    MarkBeforeOutbox,
    /// A mark asks whether the certificate still expires when it did.
    MarkedUnseen,
    /// What may be unmarked is not simply adopted.
    UnmarkedAdopted,
    /// It goes out if its certificate can be marked, or is.
    SettledUnseen,
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
    let checker = system.checker().threads(2).spawn_bfs().join();
    println!("{system:?}: {} states", checker.unique_state_count());
    for promise in PROMISES {
        checker.assert_no_discovery(promise);
    }
    checker.assert_any_discovery(DONE);
}

#[test]
fn model_with_a_crash_anywhere_and_a_renewal() {
    holds(System {
        budget: Budget { renewals: 1, ..CRASH },
        ..ONE_EXPIRY
    });
    holds(System {
        awards: 2,
        budget: CRASH,
        ..ONE_AWARD
    });
}

#[test]
fn model_with_a_crash_anywhere_and_an_attempt_that_fails() {
    holds(System {
        budget: Budget { failures: 1, ..CRASH },
        ..ONE_EXPIRY
    });
}

#[test]
fn model_with_a_pause_anywhere_and_a_renewal() {
    holds(System {
        budget: Budget { renewals: 1, ..PAUSE },
        ..ONE_EXPIRY
    });
    holds(System {
        budget: Budget { crashes: 1, ..PAUSE },
        ..ONE_AWARD
    });
}

#[test]
fn model_with_an_answer_lost_anywhere_and_a_write_that_takes_effect_late() {
    for system in [ONE_EXPIRY, ONE_AWARD] {
        holds(System { budget: LOSS, ..system });
    }
}

#[test]
fn model_of_one_daemon_that_crashes_twice_and_a_certificate_that_expires_twice() {
    holds(System {
        daemons: 1,
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
fn model_of_two_certificates_and_a_crash() {
    holds(System {
        daemons: 1,
        certificates: 2,
        budget: CRASH,
        ..ONE_EXPIRY
    });
}

/// Where it ends, as the README says: between the mark and the first result only the certificate tells whether it was marked,
/// and a renewal makes it forget.
#[test]
fn model_of_the_limit_an_expiry_marked_before_a_crash_is_taken_back_if_its_certificate_is_renewed_before_it_is_settled()
{
    let system = System {
        budget: Budget { renewals: 1, ..CRASH },
        ..ONE_EXPIRY
    };
    let only = HasDiscoveries::AnyOf([TAKEN_BACK].into());
    system
        .checker()
        .finish_when(only)
        .spawn_bfs()
        .join()
        .assert_any_discovery(TAKEN_BACK);
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
    needs(MarkBeforeOutbox, KEPT, ONE_EXPIRY, Budget::NOTHING);
    needs(MarkBeforeOutbox, NOTHING_STUCK, ONE_EXPIRY, CRASH);
    needs(MarkedUnseen, KEPT, ONE_EXPIRY, RENEWAL);
    needs(
        UnmarkedAdopted,
        NO_FALSE_ALARM,
        ONE_EXPIRY,
        Budget { renewals: 1, ..CRASH },
    );
    needs(
        SettledUnseen,
        NO_FALSE_ALARM,
        ONE_EXPIRY,
        Budget { renewals: 1, ..CRASH },
    );
    needs(NeverAdopted, NOTHING_STUCK, ONE_AWARD, CRASH);
    needs(ClaimedTwice, NO_FALSE_ALARM, ONE_EXPIRY, RENEWAL);
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
