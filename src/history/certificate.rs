//! The certificate itself.

use bson::{DateTime, Document, RawDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use serde::Serialize;

use super::fields::shown;
use super::name::Name;
use crate::status::rfc3339_if_known;
use crate::store::{Result, Store};

/// What the platform's document says that matters here; what is of another type than expected is left out.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// Its `_id`.
    pub id: String,
    /// Its `_ownerId`.
    pub organization: Option<String>,
    /// When it was awarded.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub creation_date: Option<DateTime>,
    /// When it expires.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub expires: Option<DateTime>,
    /// Whether it was revoked.
    pub disabled: bool,
    /// Whether it is marked.
    pub expiry_reminder_sent: bool,
    /// When somebody last wrote to it.
    #[serde(serialize_with = "rfc3339_if_known")]
    pub updated_at: Option<DateTime>,
}

impl Certificate {
    pub(super) fn of(document: &RawDocument) -> Self {
        let value = |field| {
            let value = document.get(field).ok().flatten()?;
            bson::Bson::try_from(value)
                .ok()
                .filter(|value| *value != bson::Bson::Null)
        };
        let instant = |field| document.get_datetime(field).ok();
        let flag = |field| document.get_bool(field).unwrap_or(false);
        Self {
            id: value("_id").map_or_else(String::new, |id| shown(&id)),
            organization: value("_ownerId").map(|id| shown(&id)),
            creation_date: instant("creationDate"),
            expires: instant("expires"),
            disabled: flag("disabled"),
            expiry_reminder_sent: flag("expiryReminderSent"),
            updated_at: instant("updatedAt"),
        }
    }
}

/// The certificate of that name, if there is one; of two the one whose `_id` comes first.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub(super) async fn load(store: &Store, name: &Name) -> Result<Option<RawDocumentBuf>> {
    let ids = name.certificate_ids();
    if ids.is_empty() {
        return Ok(None);
    }
    let certificates = store.badge_users();
    let filter: Document = doc! { "_id": { "$in": ids } };
    let mut found = certificates.find(filter).sort(doc! { "_id": 1 }).await?;
    Ok(found.try_next().await?)
}
