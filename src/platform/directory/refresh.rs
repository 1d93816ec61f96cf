//! Keeping the directory fresh: all of it at the start and after every break, then each document that changes.

use std::time::{Duration, Instant};

use bson::{Document, RawBson, RawDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::change_stream::ChangeStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Directory, DocumentId};
use crate::model::{Live, key_part};
use crate::platform::member_config::{EndpointPolicy, MemberConfig, Refused, parse};
use crate::store::{Backoff, Result, Stopped, Store, command_code};

/// How often the change stream is looked at, so how late a change takes effect. A look that waits for changes would be woken by each
/// write to the server, whatever its collection: measured on a mongod 6.0.5, 45 µs of CPU for a delivery instead of 5.
const LOOK: Duration = Duration::from_secs(1);

/// How long the server waits for a change before it answers that there is none: not at all, as near as can be.
const WAIT: Duration = Duration::from_millis(1);

/// How often all is read anew where there is no change stream (a standalone mongod).
const POLL: Duration = Duration::from_secs(5);

/// Documents in one answer: by default MongoDB fills it with 16 MB.
const BATCH: u32 = 500;

/// Keeps a [`Directory`] fresh.
#[derive(Clone)]
pub struct Refresh {
    /// The database.
    pub store: Store,
    /// What is kept fresh.
    pub directory: Directory,
    /// What endpoints must satisfy.
    pub policy: Live<EndpointPolicy>,
}

impl Refresh {
    /// Reads all. Must have succeeded before the first event is looked for: who is not in the directory gets nothing.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn load(&self) -> std::result::Result<(), Stopped> {
        let configs = self.store.persist("read the endpoints", || self.read(doc! {})).await?;
        self.directory.replace(configs);
        Ok(())
    }

    /// Follows changes until `stop`. `beat` is called whenever something was tried.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon gave up on a database that is away.
    pub async fn run(self, stop: CancellationToken, beat: impl Fn()) -> std::result::Result<(), Stopped> {
        let (mut backoff, mut tries) = (Backoff::default(), self.store.outage().tries());
        while !stop.is_cancelled() {
            beat();
            let began = Instant::now();
            match self.open().await {
                Ok(stream) => {
                    let policy = self.policy.get();
                    // Read after the stream was opened: no change falls in between.
                    self.load().await?;
                    let _ = self.directory.followed.set(());
                    backoff = Backoff::default();
                    tries.succeeded();
                    if let Err(error) = self.follow(stream, &policy, &stop, &beat).await {
                        tries.failed("follow the endpoints' changes", &error, began);
                        stop.run_until_cancelled(backoff.wait()).await;
                    }
                }
                Err(error) if needs_replica_set(&error) => {
                    self.load().await?;
                    tries.succeeded();
                    let _ = self.directory.followed.set(());
                    tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(POLL) => {} }
                }
                Err(error) => {
                    tries.failed("watch the endpoints", &error, began);
                    stop.run_until_cancelled(backoff.wait()).await;
                }
            }
        }
        Ok(())
    }

    async fn open(&self) -> Result<ChangeStream<RawDocumentBuf>> {
        let fields = doc! { "$project": { "operationType": 1, "documentKey": 1 } };
        Ok(self
            .store
            .member_configs()
            .watch()
            .pipeline([fields])
            .max_await_time(WAIT)
            .await?
            .with_type())
    }

    /// Until `stop`, the stream's end, or a reload that judges endpoints otherwise: then all are to be read anew.
    async fn follow(
        &self,
        mut stream: ChangeStream<RawDocumentBuf>,
        policy: &EndpointPolicy,
        stop: &CancellationToken,
        beat: &impl Fn(),
    ) -> Result<()> {
        while !stop.is_cancelled() && *self.policy.get() == *policy {
            let change = stream.next_if_any().await?;
            beat();
            let Some(change) = change else {
                stop.run_until_cancelled(tokio::time::sleep(LOOK)).await;
                continue;
            };
            let Ok(Some(id)) = change.get_document("documentKey").and_then(|key| key.get("_id")) else {
                // Dropped, renamed, invalidated: opened anew.
                return Ok(());
            };
            self.reread(RawBson::from(id)).await?;
        }
        Ok(())
    }

    async fn reread(&self, id: RawBson) -> Result<()> {
        let key = key_part(id.as_raw_bson_ref());
        let id = bson::Bson::try_from(id).map_err(mongodb::error::Error::custom)?;
        let found = self.read(doc! { "_id": id }).await?;
        if found.is_empty() {
            self.directory.remove(&key);
        }
        for (id, config) in found {
            self.directory.put(id, config.clone());
            Self::note(&config);
        }
        Ok(())
    }

    async fn read(&self, filter: Document) -> Result<Vec<(DocumentId, MemberConfig)>> {
        let fields = doc! { "_ownerId": 1, "webHookConfig.endpoints": 1 };
        let collection = self.store.member_configs();
        let mut cursor = collection.find(filter).projection(fields).batch_size(BATCH).await?;
        let policy = self.policy.get();
        let mut configs = Vec::new();
        while let Some(document) = cursor.try_next().await? {
            let id = document_id(&document);
            let config = parse(&document, &policy);
            self.warn(&id, &config);
            configs.push((id, config));
        }
        Ok(configs)
    }

    /// One DEBUG line for each document that has changed, once that is in effect.
    fn note(config: &MemberConfig) {
        let owner = config.owner.as_deref().unwrap_or("(unknown)");
        debug!(
            owner,
            endpoints = config.endpoints.len(),
            refused = config.refused.len(),
            "endpoints read"
        );
    }

    /// One WARN for each endpoint that makes no sense or is not served quite as configured, when it is first seen so.
    fn warn(&self, id: &DocumentId, config: &MemberConfig) {
        let known = self.directory.saying(id).unwrap_or_default();
        let owner = config.owner.as_deref().unwrap_or("(unknown)");
        let is_new = |refused: &&Refused| !known.refused.iter().any(|old| refused.says_as(old));
        for refused in config.refused.iter().filter(is_new) {
            let endpoint = refused.key.as_ref().map_or("(unknown)", |key| key.endpoint());
            warn!(
                owner, endpoint, reason = %refused.reason,
                "an endpoint is out of service until its configuration is mended; the others go on"
            );
        }
        for warning in config.warnings.iter().filter(|one| !known.warnings.contains(one)) {
            let endpoint = warning.key.endpoint();
            warn!(owner, endpoint, reason = %warning.reason, "an endpoint is not served quite as it is configured");
        }
    }
}

fn document_id(document: &RawDocument) -> DocumentId {
    document.get("_id").ok().flatten().map(key_part).unwrap_or_default()
}

/// A change stream on a standalone mongod.
fn needs_replica_set(error: &mongodb::error::Error) -> bool {
    command_code(error) == Some(40573)
}
