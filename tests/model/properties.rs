//! What is promised, and what is not.

use stateright::Property;

use super::database::{Database, NEWCOMER, STOP, assigned};
use super::history::Fault;
use super::instance::Work;
use super::system::{State, System};

pub const APPENDED_IF_MARKED: &str = "what is appended is marked, and what is marked is appended";
pub const POSITION_WAITS: &str = "the position never passes an award that is not appended";
pub const POSITION_FORWARD: &str = "the position never goes back";
pub const APPENDED_ONCE: &str = "nothing is appended twice";
pub const COMMITTED_FIRST: &str = "nothing is sent before it is committed";
pub const NO_FALSE_ALARM: &str = "nothing is sent for a certificate that was renewed before it was marked";
pub const PARALLEL: &str =
    "there are never more requests at once than allowed, but for those a frozen process had open";
pub const ONCE: &str = "nothing is sent twice, unless an instance died, fell silent or was frozen";
pub const SETTLED_RESTS: &str =
    "what is recorded is not begun again, but for late results of an instance that was dead for the others";
pub const RECORDED_ONCE: &str = "what is recorded as settled is not recorded again";
pub const HELD: &str = "nothing is begun after a hold is done";
pub const UNDISTURBED: &str = "an instance younger than 6 s takes no endpoint from one that lives";

/// What must hold in every state.
pub const PROMISES: [&str; 12] = [
    APPENDED_IF_MARKED,
    POSITION_WAITS,
    POSITION_FORWARD,
    APPENDED_ONCE,
    COMMITTED_FIRST,
    NO_FALSE_ALARM,
    PARALLEL,
    ONCE,
    SETTLED_RESTS,
    RECORDED_ONCE,
    HELD,
    UNDISTURBED,
];

/// What comes about in some states: the promises are not true for want of anything that happens.
pub const DONE: &str = "everything is delivered";

pub fn all() -> Vec<Property<System>> {
    vec![
        Property::always(APPENDED_IF_MARKED, appended_if_marked),
        Property::always(POSITION_WAITS, position_waits),
        Property::always(POSITION_FORWARD, |_, state| without(state, Fault::PositionBack)),
        Property::always(APPENDED_ONCE, |_, state| without(state, Fault::AppendedAgain)),
        Property::always(COMMITTED_FIRST, |_, state| without(state, Fault::BegunUncommitted)),
        Property::always(NO_FALSE_ALARM, |_, state| without(state, Fault::BegunUnmarked)),
        Property::always(PARALLEL, parallel),
        Property::always(ONCE, |_, state| without(state, Fault::BegunAgain)),
        Property::always(SETTLED_RESTS, |_, state| without(state, Fault::BegunSettled)),
        Property::always(RECORDED_ONCE, |_, state| without(state, Fault::RecordedAgain)),
        Property::always(HELD, |_, state| without(state, Fault::BegunHeld)),
        Property::always(UNDISTURBED, undisturbed),
        Property::sometimes(DONE, |system: &System, state| system.is_done(state)),
    ]
}

fn without(state: &State, fault: Fault) -> bool {
    !state.history.has(fault)
}

fn appended_if_marked(system: &System, state: &State) -> bool {
    (0..system.award(0)).all(|expiry| {
        let marked = state.history.is_marked(expiry);
        let mut documents = Database::documents_of(expiry, system.large);
        documents.all(|document| state.database.is_appended(document) == marked)
    })
}

fn position_waits(system: &System, state: &State) -> bool {
    let mut passed = 0..state.database.position.awards;
    passed.all(|number| state.database.is_appended(system.award(number)))
}

/// One at once represents five.
fn parallel(_: &System, state: &State) -> bool {
    let copies = state.running().flat_map(|instance| &instance.copies).flatten();
    let work = copies.flat_map(|copy| copy.work);
    work.filter(|work| *work == Work::Open).count() <= 1
}

fn undisturbed(system: &System, state: &State) -> bool {
    let database = &state.database;
    let lives = |run| {
        state
            .running()
            .any(|one| one.run == run && one.own < STOP && !one.leaving)
    };
    let mut settled = database
        .living()
        .filter(|(run, beat)| beat.age >= NEWCOMER && lives(*run));
    let young = |run| {
        database
            .living()
            .any(|(other, beat)| other == run && beat.age < NEWCOMER)
    };
    let disturbed = database
        .living()
        .any(|(_, beat)| assigned(beat.members).is_some_and(young));
    !disturbed || settled.next().is_none() || state.has_seen_a_gap(system)
}
