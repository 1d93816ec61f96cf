//! One run of the daemon: what it holds in memory, and the steps that it can take next. Its tasks run side by side, so the next
//! step of any of them may come next; it can be killed between any two, and it is paused while it takes none.

mod steps;

use super::Broken;
use super::database::{Claim, Database, Event, History, Position, Run, Runs, View, Write, each, has};
use super::scan::Portion;

pub use steps::Step;

/// `run::Engine`, in one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Daemon {
    pub run: Run,
    /// `cluster::View`, as the last heartbeat saw it; how long ago that was, nobody knows.
    pub view: View,
    /// Who lived at a heartbeat after which it was paused before it could adopt.
    adopts: Option<Runs>,
    /// `Scan::take_portion`, one at a time.
    portion: Option<Portion>,
    /// `dispatch::Window`.
    pub jobs: Vec<Job>,
    /// Claims whose answer was lost.
    lost: Vec<Claim>,
    /// `source::Watch`.
    watching: Option<Watching>,
}

/// `dispatch::window::Job`. Once it has an outcome, it waits for `dispatch::Recorder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Job {
    pub event: Event,
    pub claim: Claim,
    /// Whether the endpoint has it.
    outcome: Option<bool>,
}

/// `source::watch::Position` in memory, and the claim under which the next award is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Watching {
    lease: u8,
    appended: usize,
    saved: usize,
    claim: Claim,
    /// Whether the queue has a place for it, once that was asked.
    room: Option<bool>,
}

/// `queue.capacity`.
const CAPACITY: usize = 2;

impl Daemon {
    /// A run that has done `Engine::prepare`.
    pub fn start(run: Run, database: &mut Database, broken: Option<Broken>) -> Self {
        let view = database.beat(run);
        let mut daemon = Self {
            run,
            view,
            adopts: Some(view.live),
            portion: None,
            jobs: Vec::new(),
            lost: Vec::new(),
            watching: None,
        };
        daemon.adopt(database, broken);
        daemon
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.portion.is_none() && self.jobs.is_empty() && self.adopts.is_none()
    }

    /// `Cluster::owns`. Which of the living it is, matters not, as long as all with the same view agree.
    pub fn owns_lane(&self) -> bool {
        self.view.is_newest(self.run) && !self.view.busy
    }

    /// `Window::reserve`, `Window::take`: how many places they have.
    fn room(&self) -> usize {
        let free = CAPACITY.saturating_sub(self.jobs.len());
        if self.owns_lane() { free } else { 0 }
    }

    /// The command of that step, if it is one that writes.
    pub fn write(&self, step: Step, database: &Database, broken: Option<Broken>) -> Option<Write> {
        match step {
            Step::Adopt => self.adopts.map(|live| Write::Adopt { live }),
            Step::Commit { places } => self.portion.map(|portion| portion.write(places, broken)),
            Step::Take(event) => Some(Write::Take {
                event,
                claim: self.draw(),
            }),
            Step::FreeLost(claim) => Some(Write::FreeLost { claim }),
            Step::Record(Job { event, claim, .. }) => Some(Write::Record {
                event,
                claim,
                delivered: true,
            }),
            Step::PutBack(Job { event, claim, .. }) => Some(Write::Record {
                event,
                claim,
                delivered: false,
            }),
            Step::Append => self.watching.map(|watching| Write::Insert {
                event: database.award(watching.appended),
                claim: watching.room.unwrap_or(self.room() > 0).then_some(watching.claim),
            }),
            Step::Save => self.watching.map(|watching| Write::Save {
                position: watching.position(broken),
            }),
            Step::Keep | Step::Beat | Step::Read(_) | Step::Send(_) | Step::Load => None,
        }
    }

    /// Takes a step that writes nothing, or whose answer is never lost.
    pub fn act(&mut self, step: Step, database: &mut Database, broken: Option<Broken>) {
        match step {
            Step::Keep => {
                self.beat(database);
                self.adopt(database, broken);
            }
            Step::Beat => self.beat(database),
            Step::Read(events) => self.portion = Some(Portion::new(events, self.draw())),
            Step::Send(job) => {
                let History { received, repeated, .. } = &mut database.history;
                *repeated |= has(*received, job.event);
                *received |= 1 << job.event;
                self.set_outcome(job, true);
            }
            Step::Load => {
                let (awards, claim) = (database.position.awards, self.draw());
                self.watching = self.view.lease.map(|lease| Watching {
                    lease,
                    appended: awards,
                    saved: awards,
                    claim,
                    room: None,
                });
            }
            _ => {}
        }
    }

    fn beat(&mut self, database: &mut Database) {
        self.view = database.beat(self.run);
        self.adopts = Some(self.view.live);
        self.end_watch();
    }

    /// A watch whose lease is gone ends, once what it has begun is written: `loops::watch`, `Watch::run`.
    fn end_watch(&mut self) {
        let lease = self.view.lease;
        self.watching = self
            .watching
            .filter(|watching| lease == Some(watching.lease) || watching.is_writing());
    }

    fn adopt(&mut self, database: &mut Database, broken: Option<Broken>) {
        if let Some(live) = self.adopts.take() {
            database.apply(Write::Adopt { live }, broken);
        }
    }

    /// Goes on when the answer has come: whether the write was done.
    pub fn answered(&mut self, step: Step, write: Write, done: bool, broken: Option<Broken>) {
        match (step, write) {
            (Step::Adopt, _) => self.adopts = None,
            (Step::Commit { places }, _) => self.committed(places, done, broken),
            (Step::Take(_), Write::Take { event, claim }) => self.queue(event, done.then_some(claim)),
            (Step::FreeLost(claim), _) if broken == Some(Broken::LostClaimFreedOnce) => {
                self.lost.retain(|lost| *lost != claim);
            }
            (Step::Record(job) | Step::PutBack(job), _) => {
                self.jobs.retain(|other| *other != job);
            }
            (Step::Append, Write::Insert { event, claim }) => {
                self.queue(event, claim.filter(|_| done));
                let claim = self.draw();
                if let Some(watching) = &mut self.watching {
                    watching.appended += 1;
                    (watching.claim, watching.room) = (claim, None);
                }
            }
            (Step::Save, Write::Save { position }) => match &mut self.watching {
                Some(watching) if done => watching.saved = position.awards,
                // Fenced: the next heartbeat would say so.
                _ => {
                    self.view.lease = self.view.lease.filter(|lease| *lease != position.lease);
                    self.watching = None;
                }
            },
            _ => {}
        }
        self.end_watch();
    }

    /// Goes on although no answer has come. A claim is freed, all else is written again: `Store::persist`.
    pub fn unanswered(&mut self, step: Step, write: Write, broken: Option<Broken>) {
        match (step, write, &mut self.watching) {
            (Step::PutBack(job), ..) => self.set_outcome(job, false),
            (Step::Commit { places }, ..) => {
                self.portion = self.portion.and_then(|portion| portion.unanswered(places, broken));
            }
            (Step::Take(_), Write::Take { claim, .. }, _) => self.lost.push(claim),
            (Step::Append, Write::Insert { claim, .. }, Some(watching)) => watching.room = Some(claim.is_some()),
            _ => {}
        }
    }

    fn set_outcome(&mut self, job: Job, delivered: bool) {
        let outcome = Some(delivered);
        self.jobs.retain(|other| *other != job);
        self.jobs.push(Job { outcome, ..job });
    }

    fn committed(&mut self, places: usize, done: bool, broken: Option<Broken>) {
        if let Some(portion) = self.portion {
            let (next, queued) = portion.answered(places, done, broken);
            self.portion = next;
            each(queued).for_each(|event| self.queue(event, Some(portion.claim)));
        }
    }

    /// `Slot::fill`.
    fn queue(&mut self, event: Event, claim: Option<Claim>) {
        self.jobs.extend(claim.map(|claim| Job {
            event,
            claim,
            outcome: None,
        }));
    }

    /// `Outbox::draw_claim`. The highest number is never in use: see [`Claim::NEXT`].
    fn draw(&self) -> Claim {
        Claim {
            by: self.run,
            number: Claim::NEXT,
        }
    }

    /// The order in which things came does not matter.
    pub fn sort(&mut self) {
        self.jobs.sort_unstable();
        self.lost.sort_unstable();
    }

    /// Calls `change` on every claim that it remembers.
    pub fn each_claim(&mut self, mut change: impl FnMut(&mut Claim)) {
        self.portion.iter_mut().for_each(|portion| change(&mut portion.claim));
        self.jobs.iter_mut().for_each(|job| change(&mut job.claim));
        self.lost.iter_mut().for_each(&mut change);
        self.watching
            .iter_mut()
            .for_each(|watching| change(&mut watching.claim));
    }
}

impl Watching {
    fn is_writing(self) -> bool {
        self.room.is_some() || self.saved < self.appended
    }

    fn position(self, broken: Option<Broken>) -> Position {
        let ahead = usize::from(broken == Some(Broken::TokenBeforeOutbox));
        Position {
            awards: self.appended + ahead,
            lease: self.lease,
        }
    }
}
