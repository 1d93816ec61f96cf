//! What is promised, and what is not.

use stateright::Property;

use super::database::{Database, Delivery};
use super::system::{State, System};

pub const KEPT: &str = "what is marked has its delivery";
pub const NO_FALSE_ALARM: &str = "nothing is sent for a certificate that was renewed before it was marked";
pub const DELIVERED_STAYS: &str = "what is delivered stays delivered";
pub const FENCED: &str = "no write of a stale owner takes effect";
pub const ONE_HOLDER: &str = "a claim that stands is held once";
pub const TOKEN_WAITS: &str = "the token is never ahead of the outbox";
pub const NOTHING_STUCK: &str = "when nothing is left to do, everything is delivered";
/// What must hold in every state.
pub const PROMISES: [&str; 7] = [
    KEPT,
    NO_FALSE_ALARM,
    DELIVERED_STAYS,
    FENCED,
    ONE_HOLDER,
    TOKEN_WAITS,
    NOTHING_STUCK,
];

/// What comes about in some states: the promises are not true for want of anything that happens.
pub const DONE: &str = "everything is delivered";

/// What may come about too.
pub const TAKEN_BACK: &str = "an expiry was marked, its certificate then renewed, and it will not be sent";

pub fn all() -> Vec<Property<System>> {
    vec![
        Property::always(KEPT, kept),
        Property::always(NO_FALSE_ALARM, no_false_alarm),
        Property::always(DELIVERED_STAYS, delivered_stays),
        Property::always(FENCED, |_, state: &State| !state.database.history.stale),
        Property::always(ONE_HOLDER, one_holder),
        Property::always(TOKEN_WAITS, token_waits),
        Property::always(NOTHING_STUCK, nothing_stuck),
        Property::sometimes(DONE, |_, state: &State| state.is_done()),
        Property::sometimes(TAKEN_BACK, taken_back),
    ]
}

fn kept(_: &System, state: &State) -> bool {
    let Database {
        certificates,
        deliveries,
        ..
    } = &state.database;
    certificates
        .iter()
        .all(|one| !one.marked || deliveries[one.expires] != Delivery::Absent)
}

fn no_false_alarm(_: &System, state: &State) -> bool {
    let Database { history, .. } = &state.database;
    let expiries = 0..state.database.award(0);
    expiries
        .into_iter()
        .all(|event| !State::has(history.received, event) || State::has(history.marked, event))
}

fn delivered_stays(_: &System, state: &State) -> bool {
    let Database {
        deliveries, history, ..
    } = &state.database;
    let delivered =
        |(event, delivery): (_, &Delivery)| !State::has(history.delivered, event) || *delivery == Delivery::Delivered;
    deliveries.iter().enumerate().all(delivered)
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

fn taken_back(system: &System, state: &State) -> bool {
    let Database {
        deliveries, history, ..
    } = &state.database;
    let lost = |event| State::has(history.marked & !history.received, event) && deliveries[event] == Delivery::Absent;
    (0..state.database.award(0)).any(lost) && !system.has_work(state)
}
