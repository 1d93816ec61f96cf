//! The delivery queue, workers and recorder: `outbox::fetch`, `dispatch`.

use super::{Instance, Step};
use crate::database::{Database, Outcome, STOP};
use crate::rules::{Rule, Rules};
use crate::transaction::Transaction;

/// A batch as it was fetched, and what became of its deliveries since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fetched {
    pub version: u8,
    pub attempts: u8,
    pub work: [Work; 2],
    /// In flight still, while another writer has settled it: its response is not recorded.
    pub unwanted: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Not in memory.
    Nothing,
    Unsent,
    /// In flight.
    Open,
    /// In flight since before its process was frozen, and others have taken over.
    OpenInFrozen,
    /// Its result waits for the recorder.
    Delivered,
    Failed,
}

impl Work {
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::OpenInFrozen)
    }

    pub fn is_result(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed)
    }
}

impl Fetched {
    pub fn results(&self) -> [Work; 2] {
        self.work
            .map(|work| if work.is_result() { work } else { Work::Nothing })
    }
}

impl Instance {
    pub(super) fn add_deliveries(
        &self,
        database: &Database,
        asked: Option<Transaction>,
        rules: Rules,
        steps: &mut Vec<Step>,
    ) {
        if self.read.is_some() {
            steps.push(Step::Enqueue);
        }
        for (document, copy) in self.copies.iter().enumerate() {
            let Some(copy) = copy else {
                let pending = database.documents[document].is_some_and(|document| document.is_pending());
                if pending && self.read.is_none() && self.may_fetch(rules) {
                    steps.push(Step::Fetch(document));
                }
                continue;
            };
            for (delivery, work) in copy.work.into_iter().enumerate() {
                self.add_request(document, delivery, work, rules, steps);
            }
            let being_recorded = matches!(asked, Some(Transaction::Record { document: of, .. }) if of == document);
            if copy.work.into_iter().any(Work::is_result) && !being_recorded {
                steps.push(Step::Record(document));
            }
        }
    }

    fn add_request(&self, document: usize, delivery: usize, work: Work, rules: Rules, steps: &mut Vec<Step>) {
        if work == Work::Unsent && self.may_begin(rules) && !self.has_open() {
            steps.push(Step::Begin(document, delivery));
        }
        if work.is_open() {
            steps.extend([true, false].map(|success| Step::Respond {
                document,
                delivery,
                success,
            }));
        }
    }

    fn may_begin(&self, rules: Rules) -> bool {
        self.assigned && self.control == 0 && (self.own < STOP || !rules.keep(Rule::Stop))
    }

    fn may_fetch(&self, rules: Rules) -> bool {
        let early = !rules.keep(Rule::FetchWhereItMayBegin) && self.own < STOP && self.is_mine();
        self.may_begin(rules) || early
    }

    pub(super) fn fetch(&mut self, document: usize, database: &Database) {
        let work = |result| match result {
            Outcome::Pending => Work::Unsent,
            _ => Work::Nothing,
        };
        let fetched = database.documents[document].map(|document| Fetched {
            version: document.version,
            attempts: document.attempts,
            unwanted: [false; 2],
            work: document.results.map(work),
        });
        self.read = fetched.map(|fetched| (document, fetched));
    }

    pub(super) fn enqueue(&mut self) {
        if let Some((document, fetched)) = self.read.take() {
            self.copies[document] = Some(fetched);
        }
    }

    pub(super) fn begin(&mut self, document: usize, delivery: usize) {
        if let Some(copy) = &mut self.copies[document] {
            copy.work[delivery] = Work::Open;
        }
    }

    pub(super) fn respond(&mut self, document: usize, delivery: usize, success: bool) {
        if let Some(copy) = &mut self.copies[document] {
            copy.work[delivery] = match success {
                _ if copy.unwanted[delivery] => Work::Nothing,
                true => Work::Delivered,
                false => Work::Failed,
            };
            copy.unwanted[delivery] = false;
        }
        self.forget_empty();
    }

    /// The transaction was committed. What has come since waits for the next one.
    pub(super) fn recorded(&mut self, document: usize, results: [Work; 2]) {
        if let Some(copy) = &mut self.copies[document] {
            copy.version += 1;
            let recorded = copy
                .work
                .iter_mut()
                .zip(results)
                .filter(|(work, result)| *work == result);
            recorded.for_each(|(work, _)| *work = Work::Nothing);
        }
        self.forget_empty();
    }

    /// Another writer was faster, or it was committed before without our knowing: what is still pending is recorded the next time.
    pub(super) fn read_again(&mut self, document: usize, database: &Database, rules: Rules) {
        let (Some(copy), Some(now)) = (&mut self.copies[document], database.documents[document]) else {
            return;
        };
        let counted = now.attempts > copy.attempts && rules.keep(Rule::AttemptsCompared);
        for (delivery, result) in now.results.into_iter().enumerate() {
            let wanted = result == Outcome::Pending && rules.keep(Rule::ReadAgain);
            let work = &mut copy.work[delivery];
            if work.is_open() {
                copy.unwanted[delivery] = result != Outcome::Pending;
            } else if !wanted || *work == Work::Failed && counted {
                *work = Work::Nothing;
            }
        }
        (copy.version, copy.attempts) = (now.version, now.attempts);
        self.forget_empty();
    }

    /// Its requests are cut off: what became of them, nobody knows.
    pub fn drop_open(&mut self) {
        self.forget(Work::is_open);
    }

    pub(super) fn drop_unsent(&mut self, rules: Rules) {
        if rules.keep(Rule::DropUnsent) {
            self.forget(|work| work == Work::Unsent);
        }
        if rules.keep(Rule::DropRead) {
            self.read = None;
        }
    }

    /// It is frozen, and for the others it is dead.
    pub fn excuse(&mut self) {
        let open = self.copies.iter_mut().flatten().flat_map(|copy| &mut copy.work);
        open.filter(|work| work.is_open())
            .for_each(|work| *work = Work::OpenInFrozen);
    }

    fn forget(&mut self, which: impl Fn(Work) -> bool) {
        let all = self.copies.iter_mut().flatten().flat_map(|copy| &mut copy.work);
        all.filter(|work| which(**work)).for_each(|work| *work = Work::Nothing);
        let copies = self.copies.iter_mut().flatten();
        copies.for_each(|copy| copy.unwanted = [0, 1].map(|one| copy.unwanted[one] && copy.work[one].is_open()));
        self.forget_empty();
    }

    fn forget_empty(&mut self) {
        for copy in &mut self.copies {
            *copy = copy.filter(|copy| copy.work != [Work::Nothing; 2]);
        }
    }

    pub fn has_open(&self) -> bool {
        self.has(Work::is_open)
    }

    pub fn has_results(&self) -> bool {
        self.has(Work::is_result)
    }

    fn has(&self, which: impl Fn(Work) -> bool) -> bool {
        let mut copies = self.copies.iter().flatten();
        copies.any(|copy| copy.work.into_iter().any(&which))
    }
}
