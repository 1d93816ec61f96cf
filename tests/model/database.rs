//! What MongoDB holds, and the daemon's writes to it. Each write is one command: it happens at once, or not at all.

use super::Broken;
use super::transaction::Part;

/// One run of one daemon: the owner of its claims. A restart is another run.
pub type Run = u8;

/// A set of runs, a bit each.
pub type Runs = u8;

/// An event's place in [`Database::deliveries`]: there is one endpoint, so an event is a delivery.
pub type Event = usize;

/// A set of events, a bit each.
pub type Events = u8;

/// `claim` of a delivery document: `{by, n}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    pub by: Run,
    pub number: u8,
}

impl Claim {
    /// The number of a claim that was drawn just now; none that is in use is as high. Only whether two claims are the same
    /// matters, so those in use are numbered anew after each step: states that differ in nothing else are one.
    pub const NEXT: u8 = u8::MAX;
}

/// A document of `webhook_deliveries`; dead and cancelled ones end as delivered ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    Absent,
    Pending,
    Claimed(Claim),
    Delivered,
}

/// A document of `badgeusers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// Which event its expiry is.
    pub expires: Event,
    pub expired: bool,
    pub marked: bool,
}

/// `lease/watch` in `webhook_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    pub holder: Option<Run>,
    pub number: u8,
}

/// `watch` in `webhook_state`: the resume token, as the number of awards behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub awards: usize,
    pub lease: u8,
}

/// What nobody in the system sees: the properties are about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct History {
    /// What arrived at the endpoint.
    pub received: Events,
    /// Something arrived again.
    pub repeated: bool,
    /// Expiries that were current when their certificate was marked.
    pub marked: Events,
    /// What was written as delivered.
    pub delivered: Events,
    /// A write changed what it had no claim on.
    pub stale: bool,
}

/// `cluster::View`: what a heartbeat saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub live: Runs,
    /// Another living daemon holds claims in the lane.
    pub busy: bool,
    /// `Duties::watch`: the number of the lease.
    pub lease: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    pub certificates: Vec<Certificate>,
    pub deliveries: Vec<Delivery>,
    /// Whose heartbeat is younger than `cluster::ALIVE`.
    pub alive: Runs,
    pub lease: Lease,
    pub position: Position,
    /// Transactions that were committed after their daemon had given up waiting for the answer.
    pub unheard: Vec<Claim>,
    pub history: History,
}

/// A command that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// `Outbox::append`; without a claim it is born pending. Done if the document is the writer's.
    Insert { event: Event, claim: Option<Claim> },
    /// `Unit::commit` of a portion: `Outbox::append_within` and `Scan::mark`; `queued` are born claimed. Done if nobody has changed
    /// its certificates since they were read.
    Commit {
        events: Events,
        queued: Events,
        claim: Claim,
        part: Part,
    },
    /// `Outbox::claim`. Done if nobody was faster.
    Take { event: Event, claim: Claim },
    /// `Outbox::free_claims`, after the answer to `Take` was lost.
    FreeLost { claim: Claim },
    /// `Outbox::record`.
    Record {
        event: Event,
        claim: Claim,
        delivered: bool,
    },
    /// `Outbox::adopt`.
    Adopt { live: Runs },
    /// `source::watch::Position::save`. Done unless a later lease has saved.
    Save { position: Position },
}

impl Database {
    /// Certificates that have expired, and awards that the stream tells of. Each certificate may be renewed once, so it has two
    /// events.
    pub fn new(certificates: usize, awards: usize) -> Self {
        let certificate = |place| Certificate {
            expires: place * 2,
            expired: true,
            marked: false,
        };
        Self {
            certificates: (0..certificates).map(certificate).collect(),
            deliveries: vec![Delivery::Absent; certificates * 2 + awards],
            alive: 0,
            lease: Lease::default(),
            position: Position::default(),
            unheard: Vec::new(),
            history: History::default(),
        }
    }

    pub fn certificate_of(&self, expiry: Event) -> usize {
        expiry / 2
    }

    pub fn award(&self, number: usize) -> Event {
        self.certificates.len() * 2 + number
    }

    pub fn awards(&self) -> usize {
        self.deliveries.len() - self.award(0)
    }

    /// `Cluster::beat`: the sign of life, the lease if its holder is dead, the look at the others.
    pub fn beat(&mut self, run: Run) -> View {
        self.alive |= 1 << run;
        if self.awards() > 0 && !self.lease.holder.is_some_and(|holder| contains(self.alive, holder)) {
            self.lease = Lease {
                holder: Some(run),
                number: self.lease.number + 1,
            };
        }
        let others = self.alive & !(1 << run);
        let held = |event| self.claim_on(event).is_some_and(|claim| contains(others, claim.by));
        let mut view = View {
            live: self.alive,
            busy: false,
            lease: (self.lease.holder == Some(run)).then_some(self.lease.number),
        };
        view.busy = view.is_newest(run) && (0..self.deliveries.len()).any(held);
        view
    }

    /// Does what the command does; says whether it was done.
    pub fn apply(&mut self, write: Write, broken: Option<Broken>) -> bool {
        match write {
            Write::Insert { event, claim } => self.insert(event, claim),
            Write::Commit {
                events,
                queued,
                claim,
                part,
            } => self.heard(claim) || self.commit(events, queued, claim, part, broken),
            Write::Take { event, claim } => self.take(event, claim, broken),
            Write::FreeLost { claim } => self.free_all(|held| held == claim),
            Write::Record {
                event,
                claim,
                delivered,
            } => self.record(event, claim, delivered, broken),
            Write::Adopt { .. } if broken == Some(Broken::NeverAdopted) => false,
            Write::Adopt { live } => self.free_all(|held| !contains(live, held.by)),
            Write::Save { position } => self.save(position, broken),
        }
    }

    pub fn insert(&mut self, event: Event, claim: Option<Claim>) -> bool {
        if self.deliveries[event] == Delivery::Absent {
            self.deliveries[event] = claim.map_or(Delivery::Pending, Delivery::Claimed);
            return true;
        }
        // What an earlier try wrote, whose answer was lost, is the writer's too: `Outbox::without_ours`.
        claim.is_some() && self.claim_on(event) == claim
    }

    fn take(&mut self, event: Event, claim: Claim, broken: Option<Broken>) -> bool {
        let free = match self.deliveries[event] {
            Delivery::Claimed(_) => broken == Some(Broken::ClaimedTwice),
            other => other == Delivery::Pending,
        };
        if free {
            self.deliveries[event] = Delivery::Claimed(claim);
        }
        free
    }

    fn record(&mut self, event: Event, claim: Claim, delivered: bool, broken: Option<Broken>) -> bool {
        let next = if delivered {
            Delivery::Delivered
        } else {
            Delivery::Pending
        };
        let done = self.set(event, claim, next, broken);
        if done && delivered {
            self.history.delivered |= 1 << event;
        }
        done
    }

    /// Changes a delivery where the claim stands.
    fn set(&mut self, event: Event, claim: Claim, next: Delivery, broken: Option<Broken>) -> bool {
        let stands = self.claim_on(event) == Some(claim);
        if !stands && broken != Some(Broken::RecordUnfenced) {
            return false;
        }
        self.history.stale |= !stands;
        self.deliveries[event] = next;
        true
    }

    fn free_all(&mut self, wanted: impl Fn(Claim) -> bool) -> bool {
        for delivery in &mut self.deliveries {
            if matches!(*delivery, Delivery::Claimed(claim) if wanted(claim)) {
                *delivery = Delivery::Pending;
            }
        }
        true
    }

    fn save(&mut self, position: Position, broken: Option<Broken>) -> bool {
        let stale = position.lease < self.position.lease;
        if stale && broken != Some(Broken::TokenUnfenced) {
            return false;
        }
        self.history.stale |= stale;
        self.position = position;
        true
    }

    /// Every claim that stands, and every transaction.
    pub fn claims_mut(&mut self) -> impl Iterator<Item = &mut Claim> {
        let standing = self.deliveries.iter_mut().filter_map(|delivery| match delivery {
            Delivery::Claimed(claim) => Some(claim),
            _ => None,
        });
        standing.chain(&mut self.unheard)
    }

    pub fn is_claimed(&self, claim: Claim) -> bool {
        (0..self.deliveries.len()).any(|event| self.claim_on(event) == Some(claim))
    }

    pub fn claim_on(&self, event: Event) -> Option<Claim> {
        match self.deliveries[event] {
            Delivery::Claimed(claim) => Some(claim),
            _ => None,
        }
    }
}

impl Write {
    pub fn claim_mut(&mut self) -> Option<&mut Claim> {
        match self {
            Self::Insert { claim, .. } => claim.as_mut(),
            Self::Commit { claim, .. } | Self::Take { claim, .. } => Some(claim),
            Self::FreeLost { claim } | Self::Record { claim, .. } => Some(claim),
            Self::Adopt { .. } | Self::Save { .. } => None,
        }
    }
}

impl View {
    pub fn is_newest(&self, run: Run) -> bool {
        self.live >> run == 1
    }
}

pub fn has(events: Events, event: Event) -> bool {
    events & (1 << event) != 0
}

pub fn each(events: Events) -> impl Iterator<Item = Event> {
    (0..Events::BITS as Event).filter(move |event| has(events, *event))
}

pub fn contains(runs: Runs, run: Run) -> bool {
    runs & (1 << run) != 0
}
