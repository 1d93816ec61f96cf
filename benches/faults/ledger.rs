//! What has to arrive where, and how every certificate has to end: the platform's side of the account.

use std::collections::{HashMap, HashSet};

use bson::oid::ObjectId;

/// A path of the receiver, and a `webhook-id`.
pub type Pair = (String, String);

/// The type of an award's event.
const COMPLETED: &str = "certificate_completed";

/// What happened to a certificate.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Completed,
    Expired,
}

/// Who wants what, by organization.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    pub completed: Vec<&'static str>,
    pub expired: Vec<&'static str>,
}

/// A certificate as it is now: the instants in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Certificate {
    pub id: ObjectId,
    /// The index of its organization.
    pub organization: usize,
    pub expires: Option<i64>,
    pub awarded_again: bool,
}

#[derive(Debug, Default)]
pub struct Ledger {
    subscriptions: Vec<Subscriptions>,
    /// The receiver's path of each endpoint, by its key in the outbox.
    pub paths: HashMap<String, &'static str>,
    /// Those that were not deleted.
    pub certificates: HashMap<ObjectId, Certificate>,
    /// What has to arrive.
    pub expected: HashSet<Pair>,
    /// What may arrive: the platform does not know whether it was faster than the daemon.
    pub permitted: HashSet<Pair>,
}

impl Ledger {
    pub fn new(subscriptions: Vec<Subscriptions>, paths: HashMap<String, &'static str>) -> Self {
        Self {
            subscriptions,
            paths,
            ..Self::default()
        }
    }

    /// It was awarded at that instant.
    pub fn awarded(&mut self, certificate: &Certificate, at: i64) {
        let pairs = self.pairs(certificate, Event::Completed, at);
        self.expected.extend(pairs);
    }

    /// Its awards can't be told from the certificate any more: they arrive where the change stream told of them in time.
    pub fn forget_awards(&mut self, certificate: &Certificate) {
        let prefix = format!("{COMPLETED}_{}_", certificate.id);
        let forgotten = self.expected.extract_if(|(_, event)| event.starts_with(&prefix));
        self.permitted.extend(forgotten);
    }

    /// It no longer expires when it did: renewed or deleted. Whether that expiry must be told depends on whether it was
    /// marked by then; `None`: nobody knows.
    pub fn outdated(&mut self, certificate: &Certificate, marked: Option<bool>) {
        let Some(expires) = certificate.expires else { return };
        let pairs = self.pairs(certificate, Event::Expired, expires);
        match marked {
            Some(true) => self.expected.extend(pairs),
            Some(false) => {}
            None => self.permitted.extend(pairs),
        }
    }

    /// All that was to expire soon has expired.
    pub fn conclude(&mut self, now: i64) {
        let expired: Vec<_> = self
            .certificates
            .values()
            .filter(|one| is_over(one, now))
            .copied()
            .collect();
        for certificate in expired {
            self.outdated(&certificate, Some(true));
        }
    }

    /// The events that have to arrive anywhere.
    pub fn events(&self) -> usize {
        self.expected.iter().map(|(_, id)| id).collect::<HashSet<_>>().len()
    }

    fn pairs(&self, certificate: &Certificate, event: Event, at: i64) -> Vec<Pair> {
        let subscriptions = &self.subscriptions[certificate.organization];
        let (name, paths) = match event {
            Event::Completed => (COMPLETED, &subscriptions.completed),
            Event::Expired => ("certificate_expired", &subscriptions.expired),
        };
        let id = format!("{name}_{}_{at}", certificate.id);
        paths.iter().map(|path| ((*path).to_owned(), id.clone())).collect()
    }
}

/// Whether it has expired at `now`.
pub fn is_over(certificate: &Certificate, now: i64) -> bool {
    certificate.expires.is_some_and(|expires| expires <= now)
}

/// The id of the event of its present expiry.
pub fn expiry(certificate: &Certificate) -> Option<String> {
    let expires = certificate.expires?;
    Some(format!("certificate_expired_{}_{expires}", certificate.id))
}
