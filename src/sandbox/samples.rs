//! Believable documents of the platform, the same for the same seed.

mod bulk;
mod certificates;
mod organizations;

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document};

use crate::model::{EventType, earlier, later};
use certificates::{Award, badge_user};

pub use bulk::Bulk;
pub use organizations::Organization;

/// Six organizations, and the certificates of their people.
#[derive(Debug)]
pub struct Samples {
    organizations: Vec<Organization>,
    random: fastrand::Rng,
    made: usize,
}

impl Samples {
    /// The organizations, with endpoints below `base_url` (a receiver's address without a path).
    pub fn new(seed: u64, base_url: &str) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let organizations = organizations::all(base_url, &mut random);
        Self {
            organizations,
            random,
            made: 0,
        }
    }

    /// All organizations. One has no endpoints and no document in `memberconfigs`.
    pub fn organizations(&self) -> &[Organization] {
        &self.organizations
    }

    /// The documents of `memberconfigs`.
    pub fn member_configs(&self) -> Vec<Document> {
        self.organizations
            .iter()
            .filter_map(Organization::member_config)
            .collect()
    }

    /// `n` certificates that expired in the 30 days before `now`, unreminded.
    pub fn expired(&mut self, n: usize, now: DateTime) -> Vec<Document> {
        self.certificates(n, |random| {
            let expires = earlier(now, Duration::from_millis(random.u64(1_000..30 * DAY_MS)));
            Award {
                at: earlier(expires, YEAR),
                expires: Some(expires),
            }
        })
    }

    /// `n` certificates that expire one after the other, evenly spread over the time from `now` to `within` from then.
    pub fn expiring(&mut self, n: usize, now: DateTime, within: Duration) -> Vec<Document> {
        let step = within / u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        let mut offset = Duration::ZERO;
        self.certificates(n, |_| {
            offset += step;
            let expires = later(now, offset);
            Award {
                at: earlier(expires, YEAR),
                expires: Some(expires),
            }
        })
    }

    /// `n` certificates awarded at `now`; two in three expire a year later, the others never.
    pub fn awarded(&mut self, n: usize, now: DateTime) -> Vec<Document> {
        self.certificates(n, |random| Award {
            at: now,
            expires: (random.u8(0..3) > 0).then(|| later(now, YEAR)),
        })
    }

    /// The deliveries that an event of this type on each of these certificates must bring: path and BadgeUser, sorted.
    pub fn expected(&self, event_type: EventType, certificates: &[Document]) -> Vec<(String, ObjectId)> {
        let id_of = |certificate: &Document, field| certificate.get_object_id(field).ok();
        let mut expected = Vec::new();
        for certificate in certificates {
            let organization = self
                .organizations
                .iter()
                .find(|o| id_of(certificate, "_ownerId") == Some(o.id));
            let paths = organization
                .into_iter()
                .flat_map(|organization| organization.subscribed(event_type));
            expected.extend(paths.filter_map(|path| Some((path, id_of(certificate, "_id")?))));
        }
        expected.sort();
        expected
    }

    /// The organizations take turns.
    fn certificates(&mut self, n: usize, mut award: impl FnMut(&mut fastrand::Rng) -> Award) -> Vec<Document> {
        let mut next = || {
            let organization = self.organizations[self.made % self.organizations.len()].id;
            self.made += 1;
            let award = award(&mut self.random);
            badge_user(organization, award, &mut self.random)
        };
        (0..n).map(|_| next()).collect()
    }
}

/// A certificate of any organization, awarded at `now` or expired then; its ids were never drawn before.
pub fn certificate(organization: Bson, event_type: EventType, now: DateTime) -> Document {
    let (at, expires) = match event_type {
        EventType::CertificateCompleted => (now, later(now, YEAR)),
        EventType::CertificateExpired => (earlier(now, YEAR), now),
    };
    let expires = Some(expires);
    badge_user(organization, Award { at, expires }, &mut fastrand::Rng::new())
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
const YEAR: Duration = Duration::from_millis(365 * DAY_MS);

/// An id as Mongo makes them: seconds of `at`, then what the seed gives.
fn object_id(at: DateTime, random: &mut fastrand::Rng) -> ObjectId {
    let mut bytes = [0; 12];
    random.fill(&mut bytes);
    let seconds = u32::try_from(at.timestamp_millis() / 1_000).unwrap_or_default();
    bytes[..4].copy_from_slice(&seconds.to_be_bytes());
    ObjectId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime = DateTime::from_millis(1_764_239_400_000);
    const BASE: &str = "http://127.0.0.1:8080";

    #[test]
    fn the_same_seed_makes_the_same_documents_and_another_seed_others() {
        let make = |seed| {
            let mut samples = Samples::new(seed, BASE);
            (
                samples.member_configs(),
                samples.expired(20, NOW),
                samples.awarded(20, NOW),
            )
        };
        assert_eq!(make(7), make(7));
        assert_ne!(make(7).1, make(8).1);
    }

    #[test]
    fn ids_are_never_the_same() {
        let mut samples = Samples::new(1, BASE);
        let documents = samples.awarded(10_000, NOW);
        let ids: std::collections::HashSet<_> = documents.iter().map(|d| d.get_object_id("_id").unwrap()).collect();
        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn expired_ones_are_past_and_unreminded_and_expiring_ones_come_one_by_one() {
        let mut samples = Samples::new(1, BASE);
        for document in samples.expired(50, NOW) {
            assert!(*document.get_datetime("expires").unwrap() < NOW);
            assert!(!document.get_bool("expiryReminderSent").unwrap_or(false));
        }
        let expiring = samples.expiring(4, NOW, Duration::from_secs(8));
        let at = |d: &Document| d.get_datetime("expires").unwrap().timestamp_millis() - NOW.timestamp_millis();
        assert_eq!(
            expiring.iter().map(at).collect::<Vec<_>>(),
            [2_000, 4_000, 6_000, 8_000]
        );
    }

    #[test]
    fn expected_deliveries_leave_out_disabled_and_unsubscribed_endpoints() {
        let mut samples = Samples::new(1, BASE);
        let one_each = samples.awarded(samples.organizations().len(), NOW);
        let paths = |event_type| {
            samples
                .expected(event_type, &one_each)
                .into_iter()
                .map(|(p, _)| p)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            paths(EventType::CertificateCompleted),
            [
                "/clinic",
                "/foods",
                "/harbour/awards",
                "/horizon/hr",
                "/horizon/lms",
                "/rail"
            ]
        );
        assert_eq!(
            paths(EventType::CertificateExpired),
            ["/clinic", "/foods", "/horizon/hr", "/rail"]
        );
    }
}
