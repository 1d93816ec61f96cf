//! How endpoints are configured, as far as a history tells of them.

use std::collections::BTreeSet;

use bson::RawDocument;

use super::documents::Stored;
use super::name::Name;
use super::notes;
use crate::model::EndpointKey;
use crate::platform::Directory;
use crate::store::Result;

/// Knows how endpoints are configured, or reads it.
pub trait Configured: Sync {
    /// The endpoints of these organizations; others may be there too.
    fn of(&self, organizations: &BTreeSet<String>) -> impl Future<Output = Result<Directory>> + Send;
}

/// It has all.
impl Configured for Directory {
    async fn of(&self, _: &BTreeSet<String>) -> Result<Directory> {
        Ok(self.clone())
    }
}

/// The organizations that a history tells of.
pub(super) fn organizations(name: &Name, read: &Stored, certificate: Option<&RawDocument>) -> BTreeSet<String> {
    let wanted = match name {
        Name::Event { endpoint, .. } => endpoint.as_deref().map(EndpointKey::from_stored),
        _ => None,
    };
    let keys = read.deliveries.iter().map(|stored| stored.key()).chain(wanted);
    let mut organizations = of_keys(keys);
    organizations.extend(certificate.and_then(notes::organization));
    organizations
}

/// Those of these endpoints; e-mails and notices are nobody's.
pub(super) fn of_keys(keys: impl Iterator<Item = EndpointKey>) -> BTreeSet<String> {
    keys.filter(|key| !key.is_own())
        .map(|key| key.organization().to_owned())
        .collect()
}
