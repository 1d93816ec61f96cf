//! One instance: what it has in memory, and the steps that it can take next. Its tasks run side by side, so the next step of any of
//! them may come next; it can be killed between any two.

mod heartbeat;
mod queue;
mod sources;

use super::database::{DEAD, DOCUMENTS, Database, Events, Run, Runs};
use super::rules::Rules;
use super::transaction::Transaction;

pub use queue::{Fetched, Work};
pub use sources::{Page, Watching};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    pub run: Run,
    /// SIGSTOP, or a paused machine.
    pub frozen: bool,
    pub leaving: bool,
    /// How long ago the last confirmed heartbeat was sent.
    pub own: u8,
    /// How long ago a heartbeat was sent that is written, while the others are not read yet.
    pub written: Option<u8>,
    /// By whom it assigns: what its last heartbeat lists.
    pub members: Runs,
    /// What its next heartbeat will list.
    pub next: Runs,
    /// The endpoint is assigned to it, and to nobody else as far as it has read.
    pub assigned: bool,
    /// The control number on which it has acted.
    pub control: u8,
    /// The delivery queue: batches that it has fetched.
    pub copies: [Option<Fetched>; DOCUMENTS],
    /// A batch that was read and is not in the queue yet.
    pub read: Option<(usize, Fetched)>,
    /// The lease number, if it holds `source`.
    pub lease: Option<u8>,
    pub page: Option<Page>,
    pub watching: Option<Watching>,
}

/// What an instance does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `cluster::beat`: writes its own heartbeat.
    Beat,
    /// `cluster::beat`: reads all, with the endpoint's state if it was assigned now, and takes the lease of the dead.
    Read,
    /// Reads the control number and acts: every 250 ms.
    Poll,
    /// After it was frozen, the timer of 9.5 s comes.
    Drop,
    /// Removes its heartbeat and ends: a shutdown with nothing left to record.
    Exit,
    /// `outbox::fetch`: reads a batch.
    Fetch(usize),
    /// What was read gets into the delivery queue.
    Enqueue,
    /// A worker begins a delivery's request.
    Begin(usize, usize),
    /// Its response, or timeout.
    Respond {
        document: usize,
        delivery: usize,
        success: bool,
    },
    /// `dispatch::recorder` → `outbox::record`.
    Record(usize),
    /// `source::scan::page`: reads what has expired, in a transaction's snapshot.
    ReadPage(Events),
    /// `outbox::append` for a certificate that needs several transactions: all but the last.
    Stage,
    /// `outbox::append`, the mark, and the commit.
    Commit,
    /// `source::watch` puts its lease number to the position and reads it, in one command.
    Load,
    /// `source::watch` → `outbox::append`, the position, and the commit.
    Append,
    /// Asks whether a transaction was committed.
    Ask,
}

impl Instance {
    /// A run that has written its first heartbeat: it lists nobody and acknowledges nothing, because nothing was read before it.
    pub fn start(run: Run, database: &mut Database, rules: Rules) -> Self {
        let mut instance = Self {
            run,
            frozen: false,
            leaving: false,
            own: DEAD,
            written: None,
            members: 0,
            next: 0,
            assigned: false,
            control: 0,
            copies: [None; DOCUMENTS],
            read: None,
            lease: None,
            page: None,
            watching: None,
        };
        instance.beat(database, rules);
        instance
    }

    /// Everything that it may do next; `asked` if it doesn't know whether that transaction was committed.
    pub fn steps(&self, database: &Database, asked: Option<Transaction>, system: &super::System) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.frozen {
            return steps;
        }
        self.add_upkeep(database, asked, system, &mut steps);
        self.add_deliveries(database, asked, system.rules, &mut steps);
        self.add_sources(database, asked, system, &mut steps);
        steps
    }

    fn add_upkeep(
        &self,
        database: &Database,
        asked: Option<Transaction>,
        system: &super::System,
        steps: &mut Vec<Step>,
    ) {
        if self.written.is_some() {
            steps.push(Step::Read);
        } else if self.must_beat(database, system) {
            steps.push(Step::Beat);
        }
        if self.control < database.control {
            steps.push(Step::Poll);
        }
        if self.own >= DEAD && self.has_open() {
            steps.push(Step::Drop);
        }
        if self.leaving && asked.is_none() && self.is_idle() {
            steps.push(Step::Exit);
        }
    }

    /// Takes a step that changes nothing but its own memory and its own heartbeat.
    pub fn act(&mut self, step: Step, database: &mut Database, system: &super::System) {
        match step {
            Step::Beat => self.beat(database, system.rules),
            Step::Read => self.read(database, system),
            Step::Poll => self.poll(database),
            Step::Drop => self.drop_open(),
            Step::Fetch(document) => self.fetch(document, database),
            Step::Enqueue => self.enqueue(),
            Step::Begin(document, delivery) => self.begin(document, delivery),
            Step::Respond {
                document,
                delivery,
                success,
            } => self.respond(document, delivery, success),
            Step::ReadPage(events) => self.page = Some(Page::new(events)),
            Step::Load => self.load(database, system.rules),
            Step::Exit | Step::Record(_) | Step::Stage | Step::Commit | Step::Append | Step::Ask => {}
        }
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        let delivers = self.read.is_some() || self.copies.iter().any(Option::is_some);
        !delivers && self.page.is_none() && self.watching.is_none()
    }
}
