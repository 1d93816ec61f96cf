//! What MongoDB holds, and what its reads and writes do. A write is one command or one transaction: it happens at once, or not at
//! all.

use super::rules::{Rule, Rules};

/// One run of one process. A restart is another one.
pub type Run = u8;

/// A set of runs, a bit each: a member list.
pub type Runs = u8;

/// An event's number: an expiry and the next expiry of the same certificate, then awards.
pub type Event = usize;

/// A set of events, a bit each.
pub type Events = u8;

/// Runs that are known at one time: those that run, and the dead whose heartbeat still counts.
pub const RUNS: usize = 4;
pub const DOCUMENTS: usize = 4;

/// Ages in ticks of about 3.5 s. An instance younger than this doesn't count beside others: 6 s.
pub const NEWCOMER: u8 = 1;
/// From this age of its heartbeat an instance begins no request: 8 s.
pub const STOP: u8 = 2;
/// From this age of its heartbeat an instance is dead for the others: 10 s. It drops its requests before: 9.5 s.
pub const DEAD: u8 = 3;

/// `instance/ID` in `webhook_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Beat {
    pub members: Runs,
    /// Whether the one endpoint is in `draining`.
    pub draining: bool,
    pub leaving: bool,
    /// The control number that is acknowledged.
    pub control: u8,
    /// How long ago `seenAt` is.
    pub seen: u8,
    /// How long ago `startedAt` is.
    pub age: u8,
}

/// A batch in `webhook_outbox`, with one delivery or two; a retry document has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Document {
    pub version: u8,
    /// Failed attempts of a retry document.
    pub attempts: u8,
    pub results: [Outcome; 2],
}

/// An entry of `results`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// There is no such delivery.
    Absent,
    Pending,
    Delivered,
    /// It is a retry document now.
    Moved,
}

/// A document of `badgeusers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// Which event its expiry is.
    pub expires: Event,
    pub expired: bool,
    pub marked: bool,
}

/// `lease/source` in `webhook_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    pub holder: Option<Run>,
    pub number: u8,
}

/// `watch` in `webhook_state`: how many awards the stream's position has passed, and the number of the lease under which that was
/// written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub awards: usize,
    pub lease: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    /// By run.
    pub beats: [Option<Beat>; RUNS],
    /// The endpoint is held: `endpoint/…`, and `control` was raised from 0 to 1 in the same transaction.
    pub control: u8,
    pub documents: [Option<Document>; DOCUMENTS],
    pub certificates: [Option<Certificate>; 2],
    pub lease: Lease,
    pub position: Position,
}

impl Document {
    pub const SINGLE: Self = Self {
        version: 0,
        attempts: 0,
        results: [Outcome::Pending, Outcome::Absent],
    };

    pub const BATCH: Self = Self {
        version: 0,
        attempts: 0,
        results: [Outcome::Pending; 2],
    };

    pub fn is_single(&self) -> bool {
        self.results[1] == Outcome::Absent
    }

    pub fn is_pending(&self) -> bool {
        self.results.contains(&Outcome::Pending)
    }
}

impl Database {
    /// A batch that is pending, or certificates that have expired; awards are in the stream, not here.
    pub fn new(batch: usize, certificates: usize) -> Self {
        let mut documents = [None; DOCUMENTS];
        documents[0] = [None, Some(Document::SINGLE), Some(Document::BATCH)][batch];
        let certificate = |number| Certificate {
            expires: number * 2,
            expired: true,
            marked: false,
        };
        Self {
            beats: [None; RUNS],
            control: 0,
            documents,
            certificates: [0, 1].map(|number| (number < certificates).then(|| certificate(number))),
            lease: Lease::default(),
            position: Position::default(),
        }
    }

    /// `cluster::beat`: the write. `startedAt` stays.
    pub fn write(&mut self, run: Run, beat: Beat) {
        let before = self.beats[usize::from(run)];
        let age = before.map_or(0, |before| before.age);
        self.beats[usize::from(run)] = Some(Beat { seen: 0, age, ..beat });
    }

    /// The heartbeats of the living.
    pub fn living(&self) -> impl Iterator<Item = (Run, Beat)> {
        let all = self.beats.into_iter().enumerate();
        all.filter_map(|(run, beat)| Some((run as Run, beat?)))
            .filter(|(_, beat)| beat.seen < DEAD)
    }

    pub fn is_living(&self, run: Run) -> bool {
        self.living().any(|(other, _)| other == run)
    }

    /// `cluster::assignment`: by whom an instance assigns. A newcomer beside others doesn't count; if all are newcomers, the first
    /// one does.
    pub fn members(&self, instance: Run, leaving: bool, rules: Rules) -> Runs {
        let others = self.living().filter(|(run, beat)| *run != instance && !beat.leaving);
        let mine = self.beats[usize::from(instance)].map_or(0, |beat| beat.age);
        let all: Vec<_> = others
            .map(|(run, beat)| (run, beat.age))
            .chain((!leaving).then_some((instance, mine)))
            .collect();
        let counts = |age: u8| age >= NEWCOMER || !rules.keep(Rule::NewcomersAge);
        let members = all.iter().filter(|(_, age)| counts(*age));
        let members = members.fold(0, |members: Runs, (run, _)| members | 1 << run);
        let first = all.iter().map(|(run, _)| *run).min();
        match (members, first) {
            (0, Some(first)) => 1 << first,
            _ => members,
        }
    }

    /// Another living heartbeat assigns the endpoint to its writer, or lists it as draining.
    pub fn is_others(&self, instance: Run) -> bool {
        let mut others = self.living().filter(|(run, _)| *run != instance);
        others.any(|(run, beat)| beat.draining || assigned(beat.members) == Some(run))
    }

    /// Documents of that event: a large certificate has two, the second one two places further.
    pub fn documents_of(event: Event, large: bool) -> impl Iterator<Item = usize> {
        [event, event + 2].into_iter().take(1 + usize::from(large))
    }

    pub fn is_appended(&self, document: usize) -> bool {
        self.documents[document].is_some()
    }

    /// What `source::scan::page` finds.
    pub fn expired(&self) -> Events {
        let due = self
            .certificates
            .iter()
            .flatten()
            .filter(|one| one.expired && !one.marked);
        due.fold(0, |events, one| events | 1 << one.expires)
    }

    pub fn certificate_of(&mut self, expiry: Event) -> &mut Certificate {
        self.certificates[expiry / 2].as_mut().expect("an expiry's certificate")
    }
}

/// `cluster::assignment`: to whom the endpoint is assigned. By rendezvous hashing any member may be the one: here it is the newest, so
/// that it moves when one comes, goes, or comes back.
pub fn assigned(members: Runs) -> Option<Run> {
    members.checked_ilog2().map(|run| run as Run)
}

pub fn has(events: Events, event: Event) -> bool {
    events & (1 << event) != 0
}

pub fn each(events: Events) -> impl Iterator<Item = Event> {
    (0..Events::BITS as Event).filter(move |event| has(events, *event))
}
