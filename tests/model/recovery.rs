//! That no event is lost: whatever has gone wrong, from every state all that happened can still be delivered, and nothing more need
//! go wrong for it. Stateright's `eventually` doesn't see that a circle has no way out of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use stateright::Model;

use super::system::{State, System};

/// A state from which there is no way to the end.
pub fn dead_end(system: &System) -> Option<State> {
    let mut graph = Graph::default();
    system.init_states().into_iter().for_each(|state| {
        graph.place(state);
    });
    let mut at = 0;
    while at < graph.states.len() {
        let state = graph.states[at];
        for (action, next) in system.next_steps(&state) {
            let next = graph.place(next);
            if !system.is_accident(&state, action) {
                graph.before[next].push(at as u32);
            }
        }
        at += 1;
    }
    let done = graph.states.iter().map(|state| system.is_done(state)).collect();
    graph.not_before(done)
}

#[derive(Default)]
struct Graph {
    places: HashMap<State, usize>,
    states: Vec<State>,
    /// From which states a state is reached.
    before: Vec<Vec<u32>>,
}

impl Graph {
    fn place(&mut self, state: State) -> usize {
        match self.places.entry(state) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                self.states.push(state);
                self.before.push(Vec::new());
                *place.insert(self.states.len() - 1)
            }
        }
    }

    /// The first state from which none of those is reached.
    fn not_before(&self, mut reached: Vec<bool>) -> Option<State> {
        let mut left: Vec<_> = (0..reached.len()).filter(|place| reached[*place]).collect();
        while let Some(place) = left.pop() {
            for before in &self.before[place] {
                let before = *before as usize;
                if !std::mem::replace(&mut reached[before], true) {
                    left.push(before);
                }
            }
        }
        reached
            .iter()
            .position(|reached| !reached)
            .map(|place| self.states[place])
    }
}
