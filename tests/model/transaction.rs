//! The transactions of recorder and sources, as MongoDB does them: their writes happen together, once, or not at all.

use super::database::{Database, Document, Event, Events, Outcome, Position, each};
use super::history::{Fault, History};
use super::instance::Work;
use super::rules::{Rule, Rules};
use super::system::System;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transaction {
    /// `outbox::record`: done if the batch has that version.
    Record {
        document: usize,
        version: u8,
        results: [Work; 2],
    },
    /// All but the last transaction of a large certificate.
    Stage { events: Events },
    /// `source::scan::page`: done if none of its certificates was written since it was read.
    Page { events: Events, changed: bool, part: Part },
    /// `source::watch`: done unless the position has a later lease number.
    Award { number: usize, lease: u8, part: Part },
}

/// How much of it is written at once: less than all only where a rule is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Whole,
    Append,
    /// The mark, or the position.
    Mark,
}

impl Transaction {
    /// Whether MongoDB refuses it as things are.
    pub fn is_refused(self, database: &Database, rules: Rules) -> bool {
        match self {
            Self::Record { document, version, .. } => {
                rules.keep(Rule::Version)
                    && database.documents[document].is_none_or(|document| document.version != version)
            }
            Self::Page { changed, part, .. } => rules.keep(Rule::Snapshot) && changed && part != Part::Append,
            Self::Award { lease, .. } => rules.keep(Rule::LeaseNumber) && database.position.lease > lease,
            Self::Stage { .. } => false,
        }
    }

    /// Both write the same document: the later one has to wait for the earlier one's commit, and is done again after it.
    pub fn conflicts(self, other: Self) -> bool {
        match (self, other) {
            (Self::Record { document, .. }, Self::Record { document: other, .. }) => document == other,
            (Self::Page { events, .. }, Self::Page { events: other, .. }) => events & other != 0,
            (Self::Award { .. }, Self::Award { .. }) => true,
            _ => false,
        }
    }

    pub fn writes_certificate_of(self, event: Event) -> bool {
        matches!(self, Self::Page { events, .. } if each(events).any(|other| other / 2 == event / 2))
    }

    pub fn apply(self, database: &mut Database, history: &mut History, system: &System) {
        match self {
            Self::Record { document, results, .. } => record(document, results, database, history),
            Self::Stage { events } if !system.rules.keep(Rule::StagedUntilMark) => {
                each(events).for_each(|event| append(event, database, history, system));
            }
            // What is staged is seen by this page alone.
            Self::Stage { .. } => {}
            Self::Page { events, part, .. } => each(events).for_each(|event| {
                if part != Part::Mark {
                    let all = Database::documents_of(event, system.large);
                    all.for_each(|document| append(document, database, history, system));
                }
                if part != Part::Append {
                    let certificate = database.certificate_of(event);
                    certificate.marked = true;
                    history.marked |= 1 << certificate.expires;
                }
            }),
            Self::Award { number, lease, part } => {
                if part != Part::Mark {
                    append(system.award(number), database, history, system);
                }
                if part != Part::Append {
                    let awards = number + 1;
                    save(Position { awards, lease }, database, history);
                }
            }
        }
    }
}

/// `outbox::append`: what is there already is not appended again.
fn append(document: usize, database: &mut Database, history: &mut History, system: &System) {
    if database.documents[document].is_none() {
        database.documents[document] = Some(Document::SINGLE);
    } else if !system.rules.keep(Rule::LookUp) {
        history.add(Fault::AppendedAgain);
    }
}

fn save(position: Position, database: &mut Database, history: &mut History) {
    if position.awards < database.position.awards {
        history.add(Fault::PositionBack);
    }
    database.position = position;
}

/// `outbox::record`: results, and the retry documents of what failed in a batch.
fn record(number: usize, results: [Work; 2], database: &mut Database, history: &mut History) {
    let Some(mut document) = database.documents[number] else {
        return;
    };
    document.version += 1;
    for (delivery, result) in results.into_iter().enumerate().filter(|(_, result)| result.is_result()) {
        if history.recorded(number, delivery) || document.results[delivery] != Outcome::Pending {
            history.add(Fault::RecordedAgain);
        }
        document.attempts += u8::from(result == Work::Failed);
        document.results[delivery] = match result {
            Work::Delivered => Outcome::Delivered,
            _ if document.is_single() => Outcome::Pending,
            _ => {
                database.documents[1 + delivery] = Some(Document::SINGLE);
                Outcome::Moved
            }
        };
    }
    database.documents[number] = Some(document);
}
