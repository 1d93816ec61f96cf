//! Scan and watch: `source`.

use super::{Instance, Step};
use crate::database::{Database, Events};
use crate::rules::{Rule, Rules};
use crate::system::System;
use crate::transaction::{Part, Transaction};

/// `source::scan::page`: what had expired when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Page {
    pub events: Events,
    /// One of its certificates was written since: MongoDB refuses the commit.
    pub changed: bool,
    /// All transactions but the last one are committed, for a certificate that needs several.
    pub staged: bool,
    /// Only where it is not atomic: the first of its two writes is done.
    pub half: bool,
}

/// `source::watch`: how many awards it has passed, and its lease number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watching {
    pub awards: usize,
    pub lease: u8,
    /// Only where it is not atomic: the first of its two writes is done.
    pub half: bool,
}

impl Page {
    pub fn new(events: Events) -> Self {
        Self {
            events,
            changed: false,
            staged: false,
            half: false,
        }
    }

    /// Certificates are written.
    pub fn seen(self, events: Events) -> Self {
        Self {
            changed: self.changed || self.events & events != 0,
            ..self
        }
    }

    fn part(self, rules: Rules) -> Part {
        match (
            rules.keep(Rule::MarkNotFirst),
            rules.keep(Rule::AppendNotFirst),
            self.half,
        ) {
            (false, _, false) | (_, false, true) => Part::Mark,
            (false, _, true) | (_, false, false) => Part::Append,
            _ => Part::Whole,
        }
    }
}

impl Instance {
    pub(super) fn add_sources(
        &self,
        database: &Database,
        asked: Option<Transaction>,
        system: &System,
        steps: &mut Vec<Step>,
    ) {
        if let Some(transaction) = asked {
            steps.push(Step::Ask);
            if !matches!(transaction, Transaction::Record { .. }) {
                return;
            }
        }
        if self.leaving {
            return;
        }
        self.add_scan(database, system, steps);
        self.add_watch(database, system, steps);
    }

    fn add_scan(&self, database: &Database, system: &System, steps: &mut Vec<Step>) {
        match self.page {
            Some(page) if system.large && !page.staged => steps.push(Step::Stage),
            Some(_) => steps.push(Step::Commit),
            None if self.lease.is_some() => {
                let expired = database.expired();
                let pages = (1..=expired).filter(|page| page & !expired == 0);
                steps.extend(pages.map(Step::ReadPage));
            }
            None => {}
        }
    }

    fn add_watch(&self, database: &Database, system: &System, steps: &mut Vec<Step>) {
        match self.watching {
            Some(watching) if watching.awards < system.awards || watching.half => steps.push(Step::Append),
            None if self.lease.is_some() && database.position.awards < system.awards => steps.push(Step::Load),
            _ => {}
        }
    }

    pub(super) fn load(&mut self, database: &mut Database, rules: Rules) {
        if rules.keep(Rule::NumberWithRead) {
            self.lease = self.lease.filter(|lease| database.position.lease <= *lease);
            database.position.lease = self.lease.unwrap_or(database.position.lease);
        }
        self.watching = self.lease.map(|lease| Watching {
            awards: database.position.awards,
            lease,
            half: false,
        });
    }

    /// The transaction of a step that writes to the outbox.
    pub fn transaction(&self, step: Step, system: &System) -> Option<Transaction> {
        match step {
            Step::Record(document) => self.copies[document].map(|copy| Transaction::Record {
                document,
                version: copy.version,
                results: copy.results(),
            }),
            Step::Stage => self.page.map(|page| Transaction::Stage { events: page.events }),
            Step::Commit => self.page.map(|page| Transaction::Page {
                events: page.events,
                changed: page.changed,
                part: page.part(system.rules),
            }),
            Step::Append => self.watching.map(|watching| Transaction::Award {
                number: watching.awards,
                lease: watching.lease,
                part: watching.part(system.rules),
            }),
            _ => None,
        }
    }

    /// Goes on when it is known whether the transaction was done.
    pub fn concluded(&mut self, transaction: Transaction, done: bool, database: &Database, system: &System) {
        match transaction {
            Transaction::Record { document, results, .. } if done => self.recorded(document, results),
            Transaction::Record { document, .. } => self.read_again(document, database, system.rules),
            Transaction::Stage { .. } => {
                self.page.iter_mut().for_each(|page| page.staged = true);
            }
            Transaction::Page { part, .. } => {
                let first = part != Part::Whole && done;
                self.page = self
                    .page
                    .filter(|page| first && !page.half)
                    .map(|page| Page { half: true, ..page });
            }
            Transaction::Award { .. } if !done => (self.watching, self.lease) = (None, None),
            Transaction::Award { part, .. } => {
                if let Some(watching) = &mut self.watching {
                    watching.half = part == Part::Mark;
                    watching.awards += usize::from(!watching.half);
                }
            }
        }
        self.end_watch(system);
    }

    /// A watch whose lease is gone, or that has nothing left to wait for, is no state of its own.
    fn end_watch(&mut self, system: &System) {
        let goes_on = |watching: &super::Watching| watching.half || watching.awards < system.awards;
        self.watching = self.watching.filter(goes_on);
    }
}

impl Watching {
    /// `Mark` is the position here.
    fn part(self, rules: Rules) -> Part {
        match (rules.keep(Rule::PositionWithAppend), self.half) {
            (false, false) => Part::Mark,
            (false, true) => Part::Append,
            _ => Part::Whole,
        }
    }
}
