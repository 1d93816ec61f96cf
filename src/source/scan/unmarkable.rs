//! Certificates that MongoDB refuses to mark, because a validator of the platform's finds fault with them as a rule.
//!
//! Their expiry is sent once. A note in the outbox keeps that in mind as long as the certificate is unmarked and its `expires`
//! is the same, so that no scan takes it up again.

use std::collections::HashMap;
use std::sync::Arc;

use bson::{Bson, DateTime, Document, RawBson, RawDocument, RawDocumentBuf, doc, rawdoc};
use futures_util::TryStreamExt;
use parking_lot::Mutex;
use tracing::info;

use super::Scan;
use super::page::field;
use crate::model::EventId;
use crate::outbox::Unmarkable;
use crate::platform::badge_user;
use crate::store::{Error, Result, Store, Writer};

/// Certificates that are asked for in one command.
const STEP: usize = 1_000;

#[derive(Clone, Debug, Default)]
pub(crate) struct UnmarkableSet(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// By `_id`.
    noted: HashMap<Vec<u8>, Unmarkable>,
    /// Those that a mark was refused for and that are not noted yet, with the reason.
    suspects: HashMap<Vec<u8>, String>,
}

impl UnmarkableSet {
    /// Whether this certificate's present expiry was sent and can't be marked.
    pub(super) fn contains(&self, document: &RawDocument) -> bool {
        let state = self.0.lock();
        !state.noted.is_empty()
            && state
                .noted
                .get(&key(&field(document, "_id")))
                .is_some_and(|noted| noted.expires == field(document, "expires"))
    }

    pub(super) fn suspected(&self, document: &RawDocument) -> Option<String> {
        let state = self.0.lock();
        if state.suspects.is_empty() {
            return None;
        }
        state.suspects.get(&key(&field(document, "_id"))).cloned()
    }

    pub(super) fn suspect(&self, certificates: &[RawBson], reason: &str) {
        let mut state = self.0.lock();
        state
            .suspects
            .extend(certificates.iter().map(|id| (key(id), reason.to_owned())));
    }

    pub(super) fn add(&self, unmarkable: Vec<Unmarkable>) {
        let mut state = self.0.lock();
        for one in unmarkable {
            let key = key(&one.certificate);
            state.suspects.remove(&key);
            state.noted.insert(key, one);
        }
    }

    fn replace(&self, unmarkable: Vec<Unmarkable>) {
        self.0.lock().noted = unmarkable.into_iter().map(|one| (key(&one.certificate), one)).collect();
    }

    fn all(&self) -> Vec<Unmarkable> {
        self.0.lock().noted.values().cloned().collect()
    }

    fn remove(&self, settled: &[Unmarkable]) {
        let mut state = self.0.lock();
        for one in settled {
            state.noted.remove(&key(&one.certificate));
        }
    }
}

/// The certificate whose deliveries MongoDB refuses to store, and why: when its page, which holds nothing else, is written again, it is
/// recorded as rejected. There is never more than one such page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unstorable(Arc<Mutex<Option<(EventId, String)>>>);

impl Unstorable {
    pub(super) fn remember(&self, document: &RawDocument, error: &Error) {
        if let Ok(event) = badge_user::expired(document, DateTime::from_millis(0)) {
            let reason = format!("MongoDB refuses to store its deliveries: {error}");
            *self.0.lock() = Some((event.message.event_id, reason));
        }
    }

    pub(super) fn reason(&self, event_id: &EventId) -> Option<String> {
        let noted = self.0.lock();
        let of_event = noted.as_ref().filter(|(noted, _)| noted == event_id);
        of_event.map(|(_, reason)| reason.clone())
    }
}

impl Scan {
    /// Reads which certificates can't be marked, as noted before.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn load_unmarkable(&self) -> Result<()> {
        self.unmarkable.replace(self.outbox.unmarkable().await?);
        Ok(())
    }

    /// Marks those that can be marked by now, and forgets those that are marked, changed or deleted.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn mark_again(&self) -> Result<()> {
        let now = self.clock.now();
        for noted in self.unmarkable.all().chunks(STEP) {
            let ids: Vec<RawBson> = noted.iter().map(|one| one.certificate.clone()).collect();
            let refused = refused_by_validator(&self.store, &ids, now).await?;
            let valid: Vec<Bson> = ids
                .iter()
                .filter(|id| !refused.contains(id))
                .filter_map(|id| Bson::try_from(id.clone()).ok())
                .collect();
            // Renewed meanwhile, it has another `expires`, in the future.
            let filter = doc! { "expires": { "$lte": now }, "expiryReminderSent": { "$ne": true } };
            let mark = doc! { "$set": { "expiryReminderSent": true, "updatedAt": now } };
            // What is refused all the same, or locked, stays noted.
            self.mark_by_halves(valid, &filter, &mark).await;
            let settled = self.no_longer_unmarkable(noted, &ids).await?;
            if !settled.is_empty() {
                info!(
                    certificates = settled.len(),
                    "certificates that MongoDB refused to mark are marked, changed or deleted"
                );
                self.outbox.settle_unmarkable(&settled, now).await?;
                self.unmarkable.remove(&settled);
            }
        }
        Ok(())
    }

    async fn mark_by_halves(&self, ids: Vec<Bson>, filter: &Document, mark: &Document) {
        let badge_users = self.store.badge_users();
        let mut left = vec![ids];
        while let Some(mut ids) = left.pop() {
            let mut filter = filter.clone();
            filter.insert("_id", doc! { "$in": &ids });
            let marked = self
                .store
                .update_at_once(Writer::Scan, badge_users.name(), filter, mark.clone(), true);
            if let Err(error) = marked.await
                && !error.kind().is_general()
                && ids.len() > 1
            {
                let half = ids.split_off(ids.len() / 2);
                left.extend([half, ids]);
            }
        }
    }

    async fn no_longer_unmarkable(&self, noted: &[Unmarkable], ids: &[RawBson]) -> Result<Vec<Unmarkable>> {
        let ids: Vec<Bson> = ids.iter().filter_map(|id| Bson::try_from(id.clone()).ok()).collect();
        let unsent = doc! { "_id": { "$in": ids }, "expiryReminderSent": { "$in": [false, Bson::Null] } };
        let badge_users = self.store.badge_users();
        let find = badge_users.find(unsent).projection(doc! { "expires": 1 });
        let found: Vec<RawDocumentBuf> = find.await?.try_collect().await?;
        let unsent: HashMap<Vec<u8>, RawBson> = found
            .iter()
            .map(|document| (key(&field(document, "_id")), field(document, "expires")))
            .collect();
        let is_settled = |one: &&Unmarkable| unsent.get(&key(&one.certificate)) != Some(&one.expires);
        Ok(noted.iter().filter(is_settled).cloned().collect())
    }
}

/// The certificates that the collection's validator would refuse once they are marked.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub(super) async fn refused_by_validator(store: &Store, ids: &[RawBson], now: DateTime) -> Result<Vec<RawBson>> {
    let badge_users = store.badge_users();
    let Some(validator) = validator(store, badge_users.name()).await? else {
        return Ok(Vec::new());
    };
    let ids: Vec<Bson> = ids.iter().filter_map(|id| Bson::try_from(id.clone()).ok()).collect();
    let pipeline = vec![
        doc! { "$match": { "_id": { "$in": ids } } },
        doc! { "$set": { "expiryReminderSent": true, "updatedAt": now } },
        doc! { "$match": { "$nor": [validator] } },
        doc! { "$project": { "_id": 1 } },
    ];
    let refused = badge_users.aggregate(pipeline).with_type::<RawDocumentBuf>();
    let refused: Vec<RawDocumentBuf> = refused.await?.try_collect().await?;
    Ok(refused.iter().map(|document| field(document, "_id")).collect())
}

async fn validator(store: &Store, collection: &str) -> Result<Option<Document>> {
    let list = doc! { "listCollections": 1, "filter": { "name": collection } };
    let reply = store.database().run_command(list).await?;
    let first = reply
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"))
        .ok()
        .and_then(|batch| batch.first()?.as_document());
    let options = first.and_then(|collection| collection.get_document("options").ok());
    Ok(options.and_then(|options| options.get_document("validator").ok().cloned()))
}

/// An `_id` as a key of a map.
pub(super) fn key(id: &RawBson) -> Vec<u8> {
    rawdoc! { "k": id.clone() }.into_bytes()
}
