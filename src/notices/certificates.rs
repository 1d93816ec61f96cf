//! Which certificates of endpoints the platform was told of: the document `certificates/KEY` of `webhook_state`, the told document. It stays as long as the
//! endpoint does, so that a certificate is told of once, whichever instance comes upon it, and however often.

use std::time::Duration;

use bson::{DateTime, Document, RawDocumentBuf, doc, rawdoc};

use crate::model::{EndpointKey, later};
use crate::platform::{End, Tls};

/// A notice names at most this many certificates, those that end first; the others are for the next notice.
const MOST_NAMED: usize = 20;

/// A told document keeps this many, the latest: more than its `tls` can hold.
const REMEMBERED: usize = 1_000;

/// What the platform was told of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToldCertificates {
    /// When it was told last.
    at: Option<DateTime>,
    /// The fingerprints of the certificates that it was told of, the latest last.
    certificates: Vec<i64>,
}

/// The filter for the told documents of all endpoints.
pub fn all_told_certificates() -> Document {
    doc! { "_id": { "$gte": "certificates/", "$lt": "certificates0" } }
}

/// The `_id` of an endpoint's told document.
pub fn told_certificates_id(endpoint: &EndpointKey) -> String {
    format!("certificates/{endpoint}")
}

impl ToldCertificates {
    /// Reads a told document; `None` for another.
    pub fn read(document: &Document) -> Option<(EndpointKey, Self)> {
        let key = document.get_str("_id").ok()?.strip_prefix("certificates/")?;
        let certificates = document.get_array("certificates").ok();
        let told = Self {
            at: document.get_datetime("at").ok().copied(),
            certificates: certificates
                .into_iter()
                .flatten()
                .filter_map(bson::Bson::as_i64)
                .collect(),
        };
        Some((EndpointKey::from_stored(key), told))
    }

    /// What it must be told of at `now`, as far as one notice names it.
    pub fn untold<'a>(&self, tls: &'a Tls, now: DateTime) -> Vec<&'a End> {
        let ending = tls.ending(now);
        let untold = ending.filter(|end| !self.certificates.contains(&end.fingerprint));
        untold.take(MOST_NAMED).collect()
    }

    /// When it may be told again, at most once in `every`. One that was told later than `now` was so by another clock.
    pub fn next(&self, every: Duration, now: DateTime) -> DateTime {
        let at = self.at.filter(|at| *at <= now);
        at.map_or(now, |at| later(at, every))
    }

    /// It is told of these at `now`. Returns how the told document changes: written anew, whatever somebody has made of it.
    pub fn tell(&mut self, ends: &[&End], now: DateTime) -> RawDocumentBuf {
        self.at = Some(now);
        self.certificates.extend(ends.iter().map(|end| end.fingerprint));
        let forgotten = self.certificates.len().saturating_sub(REMEMBERED);
        self.certificates.drain(..forgotten);
        let certificates = self.certificates.iter().copied().collect::<bson::RawArrayBuf>();
        rawdoc! { "$set": { "at": now, "certificates": certificates } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(ends: impl IntoIterator<Item = i64>) -> Tls {
        let end = |day: i64| End {
            field: "ca",
            at: DateTime::from_millis(day * 86_400_000),
            subject: "CN=x".into(),
            fingerprint: day,
        };
        Tls::new(Vec::new(), None, ends.into_iter().map(end).collect())
    }

    fn told_now(told: &mut ToldCertificates, tls: &Tls, now: DateTime) -> Vec<i64> {
        let untold = told.untold(tls, now);
        told.tell(&untold, now);
        untold.iter().map(|end| end.fingerprint).collect()
    }

    #[test]
    fn each_certificate_is_told_of_once_those_that_end_first_first() {
        let (mut told, now) = (ToldCertificates::default(), DateTime::from_millis(0));
        let before = tls((-30..=30).rev());
        assert_eq!(told_now(&mut told, &before, now), Vec::from_iter(-30..-10));
        assert_eq!(told_now(&mut told, &before, now), Vec::from_iter(-10..10));
        assert_eq!(told_now(&mut told, &before, now), Vec::from_iter(10..=14));
        assert!(told_now(&mut told, &before, now).is_empty());
        let day = DateTime::from_millis(86_400_000);
        assert_eq!(told_now(&mut told, &before, day), [15]);
        assert_eq!(told_now(&mut told, &tls([-99, 3, 15, 99]), day), [-99], "others since");
        assert!(told_now(&mut told, &before, day).is_empty(), "the former again");
        let every = Duration::from_secs(60);
        assert_eq!(told.next(every, day), DateTime::from_millis(86_460_000));
        assert_eq!(told.next(every, now), now, "the clock was set back");
        assert_eq!(ToldCertificates::default().next(every, day), day);
    }

    #[test]
    fn what_is_written_is_read_and_only_the_latest_is_kept() {
        let mut told = ToldCertificates::default();
        let many = tls(0..1_100);
        let many: Vec<_> = many.ending(DateTime::MAX).collect();
        let update = Document::try_from(told.tell(&many, DateTime::from_millis(7))).unwrap();
        let mut document = update.get_document("$set").unwrap().clone();
        document.insert("_id", "certificates/o/e");
        let (key, read) = ToldCertificates::read(&document).unwrap();
        assert_eq!((key.to_string().as_str(), &read), ("o/e", &told));
        assert_eq!((read.certificates[0], read.certificates.len()), (100, REMEMBERED));
        assert!(ToldCertificates::read(&doc! { "_id": "endpoint/o/e" }).is_none());
        let damaged = doc! { "_id": "certificates/o/e", "certificates": 1, "at": "x" };
        assert_eq!(ToldCertificates::read(&damaged).unwrap().1, ToldCertificates::default());
    }
}
