//! Sending a heartbeat, and reading the others'.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bson::{Bson, DateTime, Document, doc};
use mongodb::ClientSession;
use mongodb::options::{ReadConcern, ReturnDocument};
use tracing::debug;

use super::assignment::{self, Heartbeat, View};
use super::fence::Fence;
use super::{ALIVE, Cluster, Deliveries, NO_NEW_REQUESTS, ProxyFault, instances, process};
use crate::failpoint;
use crate::model::{Clock, EndpointKey};
use crate::store::{LEASE, Result};

/// This instance's heartbeat as MongoDB noted it.
struct Own {
    /// The database's time then.
    now: DateTime,
    /// Since the first one.
    age: Duration,
}

/// The others' heartbeats as they were seen last, and since when. After a failover to a member whose clock is behind, a dead
/// instance's heartbeat is in the future: that it has not changed for ten seconds shows that nobody sends it.
#[derive(Debug, Default)]
pub(super) struct Beats(HashMap<String, (Option<DateTime>, Instant)>);

impl Beats {
    fn see(&mut self, found: &[Document]) {
        let now = Instant::now();
        let mut seen = HashMap::with_capacity(found.len());
        for document in found {
            let id = document.get_str("_id").unwrap_or_default().to_owned();
            let at = document.get_datetime("seenAt").ok().copied();
            let before = self.0.remove(&id).filter(|(before, _)| *before == at);
            seen.insert(id, before.unwrap_or((at, now)));
        }
        self.0 = seen;
    }

    fn is_silent(&self, document: &Document) -> bool {
        let seen = document.get_str("_id").ok().and_then(|id| self.0.get(id));
        seen.is_some_and(|(_, since)| since.elapsed() >= ALIVE)
    }
}

impl Cluster {
    /// Sends a heartbeat, corrects the clock by the database's, reads the others' heartbeats, and takes the lease if nobody
    /// alive holds it. `deliveries` is what this instance has in memory. Returns whether other endpoints may be assigned to this
    /// instance now.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn beat(&self, deliveries: &impl Deliveries) -> Result<bool> {
        let age = self.age();
        let lapsed = age.is_none_or(|age| age >= NO_NEW_REQUESTS);
        if let Some(age) = age.filter(|_| lapsed) {
            // Also told of by the loop that watches the age, but a process that was frozen may come here first.
            deliveries.lapsed(age);
        }
        // Whoever comes or goes is taken into account at once, by a second heartbeat.
        for _ in 0..2 {
            let view = self.view.get();
            let instance_id = &**self.instance_id();
            let moves = view.next != view.members;
            let draining = deliveries.drain(moves, |endpoint| view.keeps(instance_id, endpoint));
            let changed = self
                .write_and_read(view.next.clone(), &draining, lapsed, deliveries)
                .await?;
            if !changed {
                break;
            }
        }
        // Also since a heartbeat that failed after it was read.
        Ok(self.shared.reassigned.swap(false, Ordering::AcqRel))
    }

    /// One heartbeat with these members, and the others read after it. Returns whether the members should change.
    async fn write_and_read(
        &self,
        members: Vec<String>,
        draining: &[EndpointKey],
        lapsed: bool,
        deliveries: &impl Deliveries,
    ) -> Result<bool> {
        let sent = Fence::sending();
        let mut session = self.store.start_session().await?;
        let Some(own) = self.write_own(&mut session, &members, draining).await? else {
            return Ok(false);
        };
        failpoint::reach("heartbeat-written");
        // After its own: of two that want the same endpoint at least one sees the other.
        let (found, held) = self.read_all(&mut session).await?;
        let (others, dead) = self.sort_out(found, own.now);
        let leaving = self.shared.leaving.load(Ordering::Acquire);
        let next = assignment::members(self.instance_id(), own.age, leaving, &others);
        let changed = next != members;
        let staying = others.iter().filter(|other| !other.leaving);
        let mut alive: Vec<String> = staying.map(|other| other.instance_id.clone()).collect();
        let view = View { members, next, others };
        if lapsed || !self.view.get().assigns_as(&view) {
            deliveries.gaining().await?;
            self.shared.reassigned.store(true, Ordering::Release);
        }
        self.view.set(view);
        self.shared.fence.confirmed(sent);
        for dead in &dead {
            self.end_sessions(dead).await;
        }
        alive.push(self.instance_id().to_string());
        let lease = if leaving {
            None
        } else {
            self.take_lease(held, &alive).await?
        };
        let news = |held: &mut Option<i64>| std::mem::replace(held, lease) != lease;
        self.shared.lease.send_if_modified(news);
        Ok(changed)
    }

    /// Writes this instance's heartbeat, and corrects the clock; `None` if it can't be read as it was written.
    async fn write_own(
        &self,
        session: &mut ClientSession,
        members: &[String],
        draining: &[EndpointKey],
    ) -> Result<Option<Own>> {
        let sending = Clock::sending();
        let number = self.shared.beats.fetch_add(1, Ordering::AcqRel) + 1;
        let signs = self.signs(number, members, draining);
        // A later one doesn't match, and to insert another meets its `_id`.
        let earlier = doc! { "_id": self.document_id(), "beat": { "$not": { "$gte": number } } };
        let state = self.store.state();
        let write = state
            .find_one_and_update(earlier, vec![doc! { "$set": signs }])
            .upsert(true)
            .return_document(ReturnDocument::After)
            .session(session);
        let Some(written) = write.await? else { return Ok(None) };
        let Ok(now) = written.get_datetime("seenAt").copied() else {
            return Ok(None);
        };
        self.clock.correct(sending, now);
        let age = assignment::read(&written, now).map(|own| own.age).unwrap_or_default();
        Ok(Some(Own { now, age }))
    }

    /// All heartbeats, and the lease for finding events if there is one.
    async fn read_all(&self, session: &mut ClientSession) -> Result<(Vec<Document>, Option<Document>)> {
        let state = self.store.state();
        let find = state
            .find(doc! { "$or": [{ "_id": instances() }, { "_id": LEASE }] })
            .read_concern(ReadConcern::majority());
        let mut cursor = find.session(&mut *session).await?;
        let (mut found, mut lease) = (Vec::new(), None);
        while let Some(document) = cursor.next(&mut *session).await {
            let document = document?;
            match document.get_str("_id") {
                Ok(LEASE) => lease = Some(document),
                _ => found.push(document),
            }
        }
        Ok((found, lease))
    }

    fn signs(&self, number: i64, members: &[String], draining: &[EndpointKey]) -> Document {
        let draining: Vec<&str> = draining.iter().map(EndpointKey::as_str).collect();
        doc! {
            "host": &*self.shared.host,
            "machine": process::machine_id(&self.shared.host),
            "pid": i64::from(std::process::id()),
            "sessions": self.store.session_ids(),
            "version": env!("CARGO_PKG_VERSION"),
            "startedAt": { "$ifNull": ["$startedAt", "$$NOW"] },
            "seenAt": "$$NOW",
            "beat": number,
            "members": { "$literal": members },
            "draining": { "$literal": draining },
            "control": self.shared.control.load(Ordering::Acquire),
            "proxy": { "$literal": ProxyFault::write(self.shared.proxy_fault.lock().as_ref()) },
            "unconfigured": self.shared.unconfigured.load(Ordering::Acquire),
            "leaving": self.shared.leaving.load(Ordering::Acquire),
        }
    }

    /// The others that are alive, and those that are dead.
    fn sort_out(&self, found: Vec<Document>, now: DateTime) -> (Vec<Heartbeat>, Vec<Document>) {
        let (mut others, mut dead) = (Vec::new(), Vec::new());
        let mut beats = self.shared.others.lock();
        beats.see(&found);
        for document in found {
            match assignment::read(&document, now).filter(|_| !beats.is_silent(&document)) {
                Some(heartbeat) if heartbeat.instance_id == **self.instance_id() => {}
                Some(heartbeat) => others.push(heartbeat),
                None => dead.push(document),
            }
        }
        (others, dead)
    }

    /// Ends the sessions of an instance that died, once: a transaction that was under way locks what it changed for a minute
    /// (`transactionLifetimeLimitSeconds`). Best effort: some hosted clusters don't allow it.
    pub(super) async fn end_sessions(&self, instance: &Document) {
        let Ok(sessions) = instance.get_array("sessions") else {
            return;
        };
        let sessions: Vec<Document> = sessions.iter().filter_map(Bson::as_document).cloned().collect();
        if let Err(error) = self.store.end_sessions(&sessions).await {
            debug!(%error, "the sessions of an instance that died can't be ended: what it was writing is locked for a minute");
        }
        let noted = doc! { "_id": instance.get("_id"), "seenAt": instance.get("seenAt") };
        let update = doc! { "$unset": { "sessions": 1 } };
        if let Err(error) = self.store.state().update_one(noted, update).await {
            debug!(error = %crate::store::Error::from(error), "it can't be noted that the sessions of an instance that died are ended");
        }
    }
}
