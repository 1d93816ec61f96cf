//! Finds operations, and has those that make sense carried out.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use futures_util::{FutureExt, TryStreamExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::document::{QUICK, Refusal, Request, id_text};
use super::running::{Finished, Running};
use super::too_large::TooLarge;
use crate::cluster::Cluster;
use crate::model::{Clock, EndpointKey, Reloadable, sleep_about};
use crate::outbox::Outbox;
use crate::platform::Directory;
use crate::sender::Client;
use crate::store::{Kind, OPERATIONS, Pauses, Result, Store, ensure_operations};

/// How often new operations are looked for: a hold is to take effect within a second, for which other instances need part of that time.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The same, about, where there are no others: at every tick of [`sleep_about`].
const LOOK_EVERY_ALONE: Duration = Duration::from_secs(1);

/// How often MongoDB is asked again to create the indexes that it refused to create.
const CREATE_EVERY: Duration = Duration::from_secs(60);

/// Operations that are carried out at once, at most; others wait.
pub(super) const AT_ONCE: usize = 16;

/// Steps of operations at once, at most. They take turns.
const STEPS_AT_ONCE: usize = 2;

/// Operations that are read in a look, at most, of those that others wait for and of the rest.
const READ: i64 = 200;

/// How long an endpoint may be unknown before an operation that names it is refused: it may have been configured just now.
const CONFIGURED_WITHIN: Duration = Duration::from_secs(6);

/// How long the directory is waited for before an operation that nobody waits for is begun.
const UP_TO_DATE_WITHIN: Duration = Duration::from_secs(2);

/// States in which nothing is left to be done.
pub(super) const FINAL: [&str; 4] = ["done", "refused", "cancelled", "failed"];

/// What carries operations out.
#[derive(Clone)]
pub struct Executor {
    pub(super) parts: Parts,
    pub(super) turns: Arc<Semaphore>,
}

#[derive(Clone)]
pub struct Parts {
    /// Holds our collections.
    pub store: Store,
    /// Whose documents are changed.
    pub outbox: Outbox,
    /// Says who holds the lease, and which instances live.
    pub cluster: Cluster,
    /// Tells the database's time.
    pub clock: Clock,
    /// Knows the endpoints.
    pub directory: Directory,
    /// Sends samples.
    pub client: Reloadable<Client>,
    /// Has this instance act on a control number.
    pub act_on: Arc<dyn Fn(i64) + Send + Sync>,
    /// Has all instances look at the outbox: deliveries wait in it that nothing was told of.
    pub have_all_look: Arc<dyn Fn() + Send + Sync>,
    /// How long operations that have ended are kept.
    pub retention: Duration,
}

/// The indexes of the operations: without them looking takes longer, and what has ended is kept for ever. They are no condition of carrying
/// anything out.
#[derive(Default)]
struct Indexes {
    are_there: bool,
    tried: Option<Instant>,
    is_told: bool,
}

impl Indexes {
    async fn ensure(&mut self, parts: &Parts) {
        if self.are_there || self.tried.is_some_and(|tried| tried.elapsed() < CREATE_EVERY) {
            return;
        }
        match ensure_operations(&parts.store, parts.retention).await {
            Ok(()) => self.are_there = true,
            // The next look tells of it.
            Err(error) if !error.kind().is_refusal() => {}
            Err(error) => {
                self.tried = Some(Instant::now());
                if !std::mem::replace(&mut self.is_told, true) {
                    let line = error.denied().map(|denied| denied.role_line());
                    let line = line.map_or_else(String::new, |line| format!("; add to the role: {line}"));
                    error!(%error, "MongoDB refuses to create the indexes of {OPERATIONS}: operations are carried out without them, and those that have ended are kept for ever{line}");
                }
            }
        }
    }
}

/// What is being carried out.
#[derive(Default)]
struct Tasks {
    running: JoinSet<TaskEnd>,
    /// By the `_id` as text with its type: who asked for it may cancel it.
    carried_out: HashMap<String, CarriedOut>,
    /// Ends all of them, where they are.
    term: CancellationToken,
    /// What MongoDB refuses to change.
    refused: Pauses<Bson>,
    /// What names an endpoint that is not known yet, by the `_id` as text with its type, and since when.
    unknown: HashMap<String, Instant>,
}

struct CarriedOut {
    id: Bson,
    cancel: CancellationToken,
}

/// An operation that is not carried out here any more, and why its end could not be written down.
struct TaskEnd {
    id: Bson,
    refused: Option<String>,
}

impl Executor {
    /// What carries operations out, not running yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            turns: Arc::new(Semaphore::new(STEPS_AT_ONCE)),
        }
    }

    /// Carries operations out while this instance holds the lease, until `stop`. `progress` is called after every look.
    pub async fn run(self, stop: CancellationToken, progress: impl Fn()) {
        let lease = self.parts.cluster.lease();
        let mut tasks = Tasks::default();
        let mut reporter = self.parts.store.outage().reporter();
        let mut indexes = Indexes::default();
        let look_every = || match self.parts.cluster.has_others() {
            true => LOOK_EVERY,
            false => LOOK_EVERY_ALONE,
        };
        while stop.run_until_cancelled(tasks.wait(look_every())).await.is_some() {
            progress();
            if lease.borrow().is_none() {
                tasks.abandon().await;
                reporter.forget();
                continue;
            }
            let began = Instant::now();
            indexes.ensure(&self.parts).await;
            let done = self.look(&mut tasks, &progress).await;
            reporter.ended("look for operations", began, &done);
        }
        tasks.abandon().await;
    }

    async fn look(&self, tasks: &mut Tasks, progress: &impl Fn()) -> Result<()> {
        self.look_for_cancelled(tasks).await?;
        let operations = self.parts.store.operations();
        let any = operations.find_one(tasks.not_begun()).projection(doc! { "_id": 1 });
        if any.await?.is_none() {
            return Ok(());
        }
        // Apart, so that a hold waits for no number of others.
        self.look_for_new(doc! { "$in": QUICK.as_slice() }, tasks).await?;
        // What the rest concerns may have been configured just now.
        let stopped = self.parts.store.stopped();
        let up_to_date = self.parts.directory.up_to_date(stopped, progress);
        let _ = tokio::time::timeout(UP_TO_DATE_WITHIN, up_to_date).await;
        self.look_for_new(doc! { "$nin": QUICK.as_slice() }, tasks).await
    }

    async fn look_for_cancelled(&self, tasks: &Tasks) -> Result<()> {
        if tasks.carried_out.is_empty() {
            return Ok(());
        }
        let operations = self.parts.store.operations();
        let filter = doc! { "_id": { "$in": tasks.ids() }, "cancel": true };
        let mut cancelled = operations.find(filter).projection(doc! { "_id": 1 }).await?;
        while let Some(document) = cancelled.try_next().await? {
            if let Some(one) = document
                .get("_id")
                .and_then(|id| tasks.carried_out.get(&id.to_string()))
            {
                one.cancel.cancel();
            }
        }
        Ok(())
    }

    /// Those of these kinds that are not carried out yet, one by one: a document may have 16 MB.
    async fn look_for_new(&self, kind: Document, tasks: &mut Tasks) -> Result<()> {
        let mut filter = tasks.not_begun();
        filter.insert("kind", kind);
        let operations = self.parts.store.operations();
        let find = operations.find(filter).sort(doc! { "state": 1, "_id": 1 }).limit(READ);
        let mut found = find.await?;
        while let Some(document) = found.try_next().await? {
            let id = document.get("_id").cloned().unwrap_or(Bson::Null);
            match self.begin(id.clone(), document, tasks).await {
                Ok(()) => tasks.refused.accepted(&id),
                Err(error) if error.kind().is_general() => return Err(error),
                // Somebody keeps it locked: it is found again at the next look.
                Err(error) if error.kind() == Kind::Conflict => {
                    debug!(operation = id_text(&id), %error, "an operation is begun later");
                }
                Err(error) => {
                    let operation = id_text(&id);
                    let pause = tasks.refused.refused(id, Instant::now()).as_secs();
                    error!(operation, %error, "MongoDB refuses to change an operation: it is left alone for {pause} s, the others go on");
                }
            }
        }
        Ok(())
    }

    /// Refuses it, or begins it, or goes on with it where another instance was.
    async fn begin(&self, id: Bson, document: Document, tasks: &mut Tasks) -> Result<()> {
        if let Some(too_large) = TooLarge::of(&document) {
            return self.refuse_too_large(&id, too_large).await;
        }
        let request = match Request::read(&document) {
            Ok(request) => request,
            Err(why) => return self.refuse(&id, &why).await,
        };
        let request = match self.resolve(request) {
            Ok(request) => request,
            Err(_) if tasks.may_be_configured(&id) => return Ok(()),
            Err(why) => {
                tasks.unknown.remove(&id.to_string());
                return self.refuse(&id, &why).await;
            }
        };
        tasks.unknown.remove(&id.to_string());
        if tasks.carried_out.len() >= AT_ONCE && !request.is_quick() {
            return Ok(());
        }
        let cancel = CancellationToken::new();
        if request.cancel {
            cancel.cancel();
        }
        let Some(document) = self.take_over(&id, &document).await? else {
            return Ok(());
        };
        let (name, kind) = (id_text(&id), request.kind.as_str());
        info!(
            operation = name,
            kind,
            by = request.by,
            reason = request.reason,
            "an operation is carried out"
        );
        let carried_out = CarriedOut {
            id: id.clone(),
            cancel: cancel.clone(),
        };
        tasks.carried_out.insert(id.to_string(), carried_out);
        // Its own: one that ends early ends no other.
        let term = tasks.term.child_token();
        let running = Running::new(self.clone(), id.clone(), request, &document, cancel, term);
        tasks.running.spawn(async move {
            let refused = match AssertUnwindSafe(running.run(document)).catch_unwind().await {
                Ok(Ok(Finished { refused })) => refused,
                Ok(Err(unfinished)) => {
                    debug!(
                        operation = name,
                        ?unfinished,
                        "an operation is left to whoever holds the lease"
                    );
                    None
                }
                Err(_) => {
                    error!(
                        operation = name,
                        "a bug in this daemon broke off an operation: it is begun again; please report it"
                    );
                    None
                }
            };
            TaskEnd { id, refused }
        });
        Ok(())
    }

    pub(super) fn instance_id(&self) -> &str {
        self.parts.cluster.instance_id()
    }

    /// An endpoint that is named by its id alone gets its organization.
    fn resolve(&self, mut request: Request) -> Result<Request, Refusal> {
        let directory = &self.parts.directory;
        if let Some(id) = request.bare_endpoint() {
            let mut own = [EndpointKey::email(), EndpointKey::notices()].into_iter();
            let key = match own.find(|own| own.endpoint() == id) {
                Some(own) => Ok(own),
                None => directory.key_of(&id),
            };
            request.set_endpoint(&key.map_err(|why| format!("`selection.endpoint`: {why}"))?);
        }
        if let Some(key) = request.must_be_configured().filter(|key| !directory.knows(key)) {
            return Err(format!("`selection.endpoint`: no endpoint {key} is configured"));
        }
        Ok(request)
    }
}

impl Tasks {
    /// The filter for what is not carried out yet.
    fn not_begun(&self) -> Document {
        let mut known = self.ids();
        known.extend(self.refused.at(Instant::now()).cloned());
        doc! { "state": { "$nin": FINAL.as_slice() }, "_id": { "$nin": known } }
    }

    /// Waits that long, or until a task ends.
    async fn wait(&mut self, time: Duration) {
        tokio::select! {
            () = sleep_about(time) => {}
            Some(ended) = self.running.join_next() => self.ended(ended),
        }
    }

    fn ended(&mut self, ended: Result<TaskEnd, tokio::task::JoinError>) {
        let Ok(TaskEnd { id, refused }) = ended else { return };
        self.carried_out.remove(&id.to_string());
        if let Some(error) = refused {
            let operation = id_text(&id);
            let pause = self.refused.refused(id, Instant::now()).as_secs();
            error!(
                operation,
                error, "MongoDB refuses the end of an operation: it is carried out again in {pause} s"
            );
        }
    }

    /// Whether what it names may be known soon.
    fn may_be_configured(&mut self, id: &Bson) -> bool {
        self.unknown.retain(|_, since| since.elapsed() < CONFIGURED_WITHIN * 2);
        let since = self.unknown.entry(id.to_string()).or_insert_with(Instant::now);
        since.elapsed() < CONFIGURED_WITHIN
    }

    fn ids(&self) -> Vec<Bson> {
        self.carried_out.values().map(|one| one.id.clone()).collect()
    }

    /// Ends all of them where they are: another instance goes on with them.
    async fn abandon(&mut self) {
        if self.carried_out.is_empty() {
            return;
        }
        self.term.cancel();
        while self.running.join_next().await.is_some() {}
        *self = Self::default();
    }
}
