//! What is promised, and what is not.

use stateright::Property;

use super::database::{Database, Delivery, each, has};
use super::system::{State, System};

pub const KEPT: &str = "what was marked has its delivery, although its certificate is renewed at any moment after";
pub const SENT: &str = "when everything is delivered, what was marked has been sent";
pub const NO_FALSE_ALARM: &str = "nothing is sent for a certificate that was renewed before it was marked";
pub const ONCE: &str = "nothing is sent twice, unless a daemon dies or falls silent";
pub const DELIVERED_STAYS: &str = "what is delivered stays delivered";
pub const FENCED: &str = "no write of a stale owner takes effect";
pub const ONE_HOLDER: &str = "a claim that stands is held once";
pub const TOKEN_WAITS: &str = "the token is never ahead of the outbox";
pub const NOTHING_STUCK: &str = "when nothing is left to do, everything is delivered";
/// What must hold in every state.
pub const PROMISES: [&str; 9] = [
    KEPT,
    SENT,
    NO_FALSE_ALARM,
    ONCE,
    DELIVERED_STAYS,
    FENCED,
    ONE_HOLDER,
    TOKEN_WAITS,
    NOTHING_STUCK,
];

/// What comes about in some states: the promises are not true for want of anything that happens.
pub const DONE: &str = "everything is delivered";

pub fn all() -> Vec<Property<System>> {
    vec![
        Property::always(KEPT, kept),
        Property::always(SENT, sent),
        Property::always(NO_FALSE_ALARM, no_false_alarm),
        Property::always(ONCE, once),
        Property::always(DELIVERED_STAYS, delivered_stays),
        Property::always(FENCED, |_, state: &State| !state.database.history.stale),
        Property::always(ONE_HOLDER, one_holder),
        Property::always(TOKEN_WAITS, token_waits),
        Property::always(NOTHING_STUCK, nothing_stuck),
        Property::sometimes(DONE, |_, state: &State| state.is_done()),
    ]
}

fn kept(_: &System, state: &State) -> bool {
    let Database {
        deliveries, history, ..
    } = &state.database;
    each(history.marked).all(|event| deliveries[event] != Delivery::Absent)
}

fn sent(_: &System, state: &State) -> bool {
    let Database { history, .. } = &state.database;
    history.marked & !history.received == 0 || !state.is_done()
}

fn no_false_alarm(_: &System, state: &State) -> bool {
    let Database { history, .. } = &state.database;
    let mut expiries = 0..state.database.award(0);
    expiries.all(|event| !has(history.received, event) || has(history.marked, event))
}

fn once(system: &System, state: &State) -> bool {
    !state.database.history.repeated || state.has_seen_silence(system)
}

fn delivered_stays(_: &System, state: &State) -> bool {
    let Database {
        deliveries, history, ..
    } = &state.database;
    each(history.delivered).all(|event| deliveries[event] == Delivery::Delivered)
}

fn one_holder(_: &System, state: &State) -> bool {
    (0..state.database.deliveries.len()).all(|event| {
        let claim = state.database.claim_on(event);
        let jobs = state.daemons.iter().flat_map(|daemon| &daemon.jobs);
        jobs.filter(|job| job.event == event && Some(job.claim) == claim)
            .count()
            <= 1
    })
}

fn token_waits(_: &System, state: &State) -> bool {
    let database = &state.database;
    (0..database.position.awards).all(|number| database.deliveries[database.award(number)] != Delivery::Absent)
}

fn nothing_stuck(system: &System, state: &State) -> bool {
    state.is_done() || system.has_work(state)
}
