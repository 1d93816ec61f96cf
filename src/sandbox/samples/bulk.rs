//! Very many certificates, quickly: for benches and backlogs.

use anyhow::{Context, Result};
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use mongodb::Collection;

use super::certificates::{Award, badge_user};
use super::{YEAR, object_id};
use crate::model::earlier;

/// Documents in one insert: about 4 MB, well below what a message may hold.
const BATCH: usize = 10_000;

/// Many organizations with one unauthenticated endpoint each, and as many certificates as wanted.
#[derive(Debug)]
pub struct Bulk {
    organizations: Vec<ObjectId>,
    random: fastrand::Rng,
}

impl Bulk {
    /// This many organizations, the same for the same seed.
    pub fn new(seed: u64, organizations: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let organizations = (0..organizations)
            .map(|_| object_id(DateTime::from_millis(0), &mut random))
            .collect();
        Self { organizations, random }
    }

    /// The organizations' ids.
    pub fn organizations(&self) -> &[ObjectId] {
        &self.organizations
    }

    /// The documents of `memberconfigs`: for organization i one endpoint at `url(i)`, subscribed to both event types.
    pub fn member_configs(&self, url: impl Fn(usize) -> String) -> Vec<Document> {
        let endpoint = |(i, organization): (usize, &ObjectId)| {
            doc! {
                "_id": organization, "name": format!("endpoint {i}"), "url": url(i), "enabled": true, "timeout": 5_000,
                "eventTypes": ["certificate_completed", "certificate_expired"], "auth": { "authType": "none" },
            }
        };
        let config = |endpoint: Document| {
            let organization = endpoint.get("_id").cloned();
            doc! { "_id": organization.clone(), "_ownerId": organization, "webHookConfig": { "endpoints": [endpoint] } }
        };
        self.organizations
            .iter()
            .enumerate()
            .map(endpoint)
            .map(config)
            .collect()
    }

    /// Inserts `n` certificates of about 430 bytes, the i-th of organization i mod their number, expiring at `expires(i)`.
    pub async fn insert(
        &mut self,
        collection: &Collection<Document>,
        n: usize,
        expires: impl Fn(usize) -> Option<DateTime>,
    ) -> Result<()> {
        let mut first = 0;
        while first < n {
            let next = n.min(first + BATCH);
            let batch = (first..next)
                .map(|i| self.certificate(i, expires(i)))
                .collect::<Vec<_>>();
            collection
                .insert_many(batch)
                .ordered(false)
                .await
                .context("cannot insert the sample certificates")?;
            first = next;
        }
        Ok(())
    }

    /// The next certificate, of organization i mod their number.
    pub fn certificate(&mut self, i: usize, expires: Option<DateTime>) -> Document {
        let at = earlier(expires.unwrap_or(DateTime::from_millis(1_764_239_400_000)), YEAR);
        let organization = self.organizations[i % self.organizations.len()];
        badge_user(organization, Award { at, expires }, &mut self.random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_take_turns_and_weigh_about_430_bytes() {
        let mut bulk = Bulk::new(1, 3);
        let now = DateTime::from_millis(1_764_239_400_000);
        let made: Vec<_> = (0..300).map(|i| bulk.certificate(i, Some(now))).collect();
        let size = made
            .iter()
            .map(|d| bson::serialize_to_vec(d).unwrap().len())
            .sum::<usize>()
            / made.len();
        assert!((400..460).contains(&size), "{size} bytes on average");
        for (i, certificate) in made.iter().enumerate() {
            assert_eq!(
                certificate.get_object_id("_ownerId").unwrap(),
                bulk.organizations()[i % 3]
            );
        }
    }
}
