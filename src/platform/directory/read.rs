//! Reading documents, and logging what is wrong with them.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::{ReadPreference, SelectionCriteria};
use tracing::{debug, warn};

use super::index::LostDocument;
use super::{DocumentId, Refresh};
use crate::model::id_part;
use crate::platform::member_config::{EndpointPolicy, MemberConfig, parse};
use crate::store::Result;

/// Documents in one reply: by default MongoDB fills it with 16 MB.
const BATCH: u32 = 500;

/// More organizations than this are not asked for by name.
const NAMED: usize = 100;

/// A document of more bytes is judged on a thread of its own.
const LARGE: usize = 64 << 10;

impl Refresh {
    /// Reads all.
    pub(super) async fn read_all(&self) -> Result<()> {
        let _reading = self.directory.0.reading.lock().await;
        let configs = self.read(doc! {}).await?;
        self.directory.replace(configs);
        Ok(())
    }

    /// Reads these documents afresh; one that isn't there is missing from now on.
    pub(super) async fn reread(&self, ids: &[DocumentId]) -> Result<()> {
        let _reading = self.directory.0.reading.lock().await;
        self.reread_locked(ids).await
    }

    /// Reads the documents of an organization afresh: before something is cancelled because an endpoint of it is off. Those that
    /// the directory knows by their `_id`; if there is none, all that name the organization, which no index of ours serves.
    ///
    /// # Errors
    /// MongoDB is unavailable; what the directory knows is as old as before.
    pub async fn reread_organization(&self, organization: &str) -> Result<()> {
        let _reading = self.directory.0.reading.lock().await;
        let known = self.directory.index().documents_of(organization);
        if !known.is_empty() {
            self.reread_locked(&known).await?;
        }
        if self.directory.knows_organization(organization) {
            return Ok(());
        }
        self.read_named(&BTreeSet::from([organization.to_owned()])).await
    }

    /// Reads the documents of these organizations, which no index of ours serves: MongoDB looks at all, and returns these.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn read_organizations(&self, organizations: &BTreeSet<String>) -> Result<()> {
        if organizations.len() > NAMED {
            return self.read_all().await;
        }
        let _reading = self.directory.0.reading.lock().await;
        self.read_named(organizations).await
    }

    /// Reads the documents that have an endpoint of that id; all where it is none that MongoDB could find.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn read_endpoint(&self, id: &str) -> Result<()> {
        let Ok(object_id) = ObjectId::parse_str(id) else {
            return self.read_all().await;
        };
        let _reading = self.directory.0.reading.lock().await;
        let same = doc! { "$in": [object_id, object_id.to_hex(), object_id.to_hex().to_uppercase()] };
        let found = self
            .search(doc! { "webHookConfig.endpoints._id": same }, |_| true)
            .await?;
        self.reread_found(&found).await
    }

    async fn read_named(&self, organizations: &BTreeSet<String>) -> Result<()> {
        if organizations.is_empty() {
            return Ok(());
        }
        let naming: Vec<_> = organizations.iter().map(|organization| naming(organization)).collect();
        let is_one = |id: &str| organizations.contains(id);
        let found = self.search(doc! { "$or": naming }, is_one).await?;
        self.reread_found(&found).await
    }

    async fn reread_found(&self, found: &[DocumentId]) -> Result<()> {
        match found.is_empty() {
            true => Ok(()),
            false => self.reread_locked(found).await,
        }
    }

    async fn reread_locked(&self, ids: &[DocumentId]) -> Result<()> {
        let values: Vec<Bson> = ids.iter().filter_map(DocumentId::to_bson).collect();
        let found = self.read(doc! { "_id": { "$in": values } }).await?;
        let there: HashSet<_> = found.iter().map(|(id, _)| id.clone()).collect();
        for id in ids.iter().filter(|id| !there.contains(id)) {
            if let Some(lost) = self.directory.remove(id).filter(|lost| lost.endpoints > 0) {
                let LostDocument {
                    organization,
                    endpoints,
                } = lost;
                warn!(
                    organization, endpoints, document = %id,
                    "the organization's configuration document is missing: its endpoints are out of service, and count as deleted after 10 minutes"
                );
            }
        }
        for (id, config) in found {
            let line = Line::of(&config);
            self.directory.put(&id, config);
            line.write();
        }
        Ok(())
    }

    /// The documents that match, of the organizations that are wanted.
    async fn search(&self, filter: Document, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<DocumentId>> {
        let collection = self.store.member_configs();
        let find = collection.find(filter);
        let find = find.projection(doc! { "_ownerId": 1 });
        let mut cursor = find.selection_criteria(primary()).await?;
        let mut found = Vec::new();
        while let Some(document) = cursor.try_next().await? {
            let id = document.get("_ownerId").ok().flatten();
            if id.is_some_and(|id| is_wanted(&id_part(id))) {
                found.push(DocumentId::of(&document));
            }
        }
        Ok(found)
    }

    async fn read(&self, filter: Document) -> Result<Vec<(DocumentId, MemberConfig)>> {
        let collection = self.store.member_configs();
        let find = collection.find(filter).projection(fields()).batch_size(BATCH);
        let mut cursor = find.selection_criteria(primary()).await?;
        let policy = self.policy.get();
        let mut configs = Vec::new();
        while let Some(document) = cursor.try_next().await? {
            let id = DocumentId::of(&document);
            let config = judge(document, Arc::clone(&policy)).await?;
            self.warn(&id, &config);
            configs.push((id, config));
        }
        Ok(configs)
    }

    /// One WARN for each endpoint that makes no sense or is not served quite as configured, when it is first seen so.
    fn warn(&self, id: &DocumentId, config: &MemberConfig) {
        let known = self.directory.index().saying(id).unwrap_or_default();
        let organization = config.organization.as_deref().unwrap_or("(unknown)");
        let logged: HashSet<_> = known.refused.iter().map(|refused| refused.identity()).collect();
        for refused in &config.refused {
            if logged.contains(&refused.identity()) {
                continue;
            }
            let reason = &refused.reason;
            if refused.key.is_none() && refused.position.is_none() {
                warn!(
                    organization, document = %id, %reason,
                    "endpoints that can't be read are out of service until that is corrected; nothing is cancelled"
                );
                continue;
            }
            let endpoint = refused.key.as_ref().map_or("(unknown)", |key| key.endpoint());
            warn!(
                organization, endpoint, %reason,
                "an endpoint is out of service until its configuration is corrected; the others go on"
            );
        }
        let logged: HashSet<_> = known.warnings.iter().collect();
        for warning in config.warnings.iter().filter(|warning| !logged.contains(warning)) {
            let endpoint = warning.key.endpoint();
            warn!(organization, endpoint, reason = %warning.reason, "the configuration of an endpoint needs attention");
        }
    }
}

/// The DEBUG line for a document that has changed, written once that is in effect.
struct Line {
    organization: String,
    endpoints: usize,
    refused: usize,
}

impl Line {
    fn of(config: &MemberConfig) -> Self {
        Self {
            organization: config.organization.clone().unwrap_or_else(|| "(unknown)".into()),
            endpoints: config.entries.iter().filter(|entry| entry.fault().is_none()).count(),
            refused: config.refused.len(),
        }
    }

    fn write(&self) {
        let (organization, endpoints, refused) = (&self.organization, self.endpoints, self.refused);
        debug!(organization, endpoints, refused, "endpoints read");
    }
}

async fn judge(document: RawDocumentBuf, policy: Arc<EndpointPolicy>) -> Result<MemberConfig> {
    if document.as_bytes().len() <= LARGE {
        return Ok(parse(&document, &policy));
    }
    let judged = tokio::task::spawn_blocking(move || parse(&document, &policy));
    Ok(judged.await.map_err(mongodb::error::Error::custom)?)
}

/// What is read of a document. `webHookConfig` as it is if it is no document: a projection of `webHookConfig.endpoints` would
/// show it as absent, and an organization without endpoints has deleted them.
fn fields() -> Document {
    let is_document = doc! { "$eq": [{ "$type": "$webHookConfig" }, "object"] };
    let endpoints = doc! { "endpoints": "$webHookConfig.endpoints" };
    doc! { "_ownerId": 1, "webHookConfig": { "$cond": [is_document, endpoints, "$webHookConfig"] } }
}

/// Finds the documents of that organization: `_ownerId` is an ObjectId or its hex text, or else anything whose text is a hash.
fn naming(organization: &str) -> Document {
    match ObjectId::parse_str(organization) {
        Ok(id) => {
            let text = doc! { "$regex": format!("^{id}$"), "$options": "i" };
            doc! { "$or": [{ "_ownerId": id }, { "_ownerId": text }] }
        }
        Err(_) => doc! { "_ownerId": { "$not": { "$type": "objectId" } } },
    }
}

fn primary() -> SelectionCriteria {
    SelectionCriteria::ReadPreference(ReadPreference::Primary)
}
