//! The instances that share one database: who is alive, which endpoint is assigned to whom, and who scans and watches.
//!
//! Alive is whoever's heartbeat is younger than [`ALIVE`], by the database's clock.

mod assignment;
mod fence;
mod heartbeat;
mod lease;
mod process;
mod proxy_fault;
mod wakeup;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bson::{DateTime, Document, doc};
use futures_util::TryStreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::model::{Clock, EndpointKey, Reloadable, earlier};
use crate::store::{Result, Store};

use assignment::View;
use fence::Fence;
use heartbeat::Beats;

pub use fence::{CUT_SHORT, NO_NEW_REQUESTS};
pub use proxy_fault::{ProxyFault, proxy_faults};
use wakeup::{note_id, notes};

pub use wakeup::{Note, WakeUps};

/// An instance whose heartbeat is older counts as dead: its endpoints and its lease go to the others.
pub const ALIVE: Duration = Duration::from_secs(10);

/// The filter for the heartbeats of the instances that are alive.
pub fn living(now: DateTime) -> Document {
    doc! { "_id": instances(), "seenAt": { "$gt": earlier(now, ALIVE) } }
}

/// Whether an instance is alive.
///
/// # Errors
/// MongoDB refused or is unavailable.
pub async fn is_any_alive(store: &Store, now: DateTime) -> Result<bool> {
    let state = store.state();
    let found = state.find_one(living(now)).projection(doc! { "_id": 1 });
    Ok(found.await?.is_some())
}

/// The range of the `_id`s of heartbeats.
fn instances() -> Document {
    doc! { "$gte": "instance/", "$lt": "instance0" }
}

/// How often an instance sends its heartbeat.
pub const BEAT: Duration = Duration::from_secs(2);

/// Heartbeats of instances that died are kept this long for the operator to see.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// What a heartbeat has to do with the deliveries that its instance has in memory.
pub trait Deliveries {
    /// No heartbeat was confirmed for `age`, at least [`NO_NEW_REQUESTS`]: the next must not be before what is unsent is dropped,
    /// and from [`CUT_SHORT`] on what is in flight is cut short.
    fn lapsed(&self, age: Duration);

    /// Drops what is unsent of endpoints that this instance doesn't keep. Returns those of them of which results are still to be
    /// recorded. `moves`: endpoints may be lost with this heartbeat, and what is being read of them must not be enqueued.
    fn drain(&self, moves: bool, keeps: impl Fn(&EndpointKey) -> bool) -> Vec<EndpointKey>;

    /// Other endpoints may be assigned to this instance from the end of this on: reads what must be known of them before their
    /// first request.
    fn gaining(&self) -> impl Future<Output = Result<()>> + Send;
}

/// One instance among the others.
#[derive(Clone)]
pub struct Cluster {
    store: Store,
    clock: Clock,
    shared: Arc<Shared>,
    view: Reloadable<View>,
}

struct Shared {
    instance_id: Arc<str>,
    host: Arc<str>,
    fence: Fence,
    leaving: AtomicBool,
    /// Whether other endpoints may be assigned to this instance since a heartbeat last said so.
    reassigned: AtomicBool,
    /// Heartbeats that were sent: one that arrives after a later one changes nothing.
    beats: AtomicI64,
    others: Mutex<Beats>,
    /// The control number that this instance has acted on.
    control: AtomicI64,
    /// For the heartbeat: see [`Cluster::show_unconfigured`].
    unconfigured: AtomicI64,
    /// For the heartbeat: see [`Cluster::show_proxy_fault`].
    proxy_fault: Mutex<Option<ProxyFault>>,
    /// The number of the lease for finding events, if this instance holds it.
    lease: watch::Sender<Option<i64>>,
    /// Notified when a heartbeat should go out at once.
    beat_now: Notify,
}

impl Cluster {
    /// A new instance on `host`, with an id of its own.
    pub fn new(store: Store, clock: Clock, host: &str) -> Self {
        let shared = Shared {
            instance_id: format!("{:012x}", fastrand::u64(..) >> 16).into(),
            host: host.into(),
            fence: Fence::default(),
            leaving: AtomicBool::new(false),
            reassigned: AtomicBool::new(false),
            beats: AtomicI64::new(0),
            others: Mutex::default(),
            control: AtomicI64::new(0),
            unconfigured: AtomicI64::new(0),
            proxy_fault: Mutex::default(),
            lease: watch::Sender::default(),
            beat_now: Notify::new(),
        };
        Self {
            store,
            clock,
            shared: Arc::new(shared),
            view: Reloadable::new(View::default()),
        }
    }

    /// This instance's id.
    pub fn instance_id(&self) -> &Arc<str> {
        &self.shared.instance_id
    }

    /// The time by the database's clock.
    pub fn now(&self) -> DateTime {
        self.clock.now()
    }

    /// Whether that endpoint is assigned to this instance, and to no other.
    pub fn is_assigned(&self, endpoint: &EndpointKey) -> bool {
        self.view.get().is_assigned(self.instance_id(), endpoint)
    }

    /// Whether this instance may begin a request to that endpoint now.
    pub fn may_begin(&self, endpoint: &EndpointKey) -> bool {
        self.age().is_some_and(|age| age < NO_NEW_REQUESTS) && self.is_assigned(endpoint)
    }

    /// How old the last confirmed heartbeat is; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        self.shared.fence.age()
    }

    /// Shows with the next heartbeat how many events are of organizations that have no configuration document.
    pub fn show_unconfigured(&self, events: u64) {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        self.shared.unconfigured.store(events, Ordering::Release);
    }

    /// Shows with the next heartbeat that the proxy is at fault, or that it is not.
    pub fn show_proxy_fault(&self, fault: Option<ProxyFault>) {
        *self.shared.proxy_fault.lock() = fault;
    }

    /// Whether other instances are alive.
    pub fn has_others(&self) -> bool {
        !self.view.get().others.is_empty()
    }

    /// The ids of the other instances that are alive.
    fn others(&self) -> Vec<String> {
        let view = self.view.get();
        view.others.iter().map(|other| other.instance_id.clone()).collect()
    }

    /// The number of this instance's lease for finding events, and the news when it gains or loses it.
    pub fn lease(&self) -> watch::Receiver<Option<i64>> {
        self.shared.lease.subscribe()
    }

    /// Waits until a heartbeat should go out before its time.
    pub async fn beat_wanted(&self) {
        self.shared.beat_now.notified().await;
    }

    /// Has a heartbeat go out at once: results of drained endpoints are recorded, or a control number was acted on.
    pub fn want_beat(&self) {
        self.shared.beat_now.notify_one();
    }

    /// This instance has acted on that control number; its next heartbeat says so.
    pub fn acknowledge(&self, control: i64) {
        if self.shared.control.fetch_max(control, Ordering::AcqRel) < control {
            self.want_beat();
        }
    }

    /// Before the first heartbeat: forgets instances on this machine whose process has ended, so that a restart after a crash need
    /// not wait until they count as dead.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn forget_ended(&self) -> Result<()> {
        let Some(machine) = process::machine_id(&self.shared.host) else {
            return Ok(());
        };
        let state = self.store.state();
        let found: Vec<Document> = state.find(doc! { "machine": machine }).await?.try_collect().await?;
        for ended in found
            .iter()
            .filter(|instance| instance.get_i64("pid").is_ok_and(process::has_ended))
        {
            self.end_sessions(ended).await;
            state
                .delete_one(doc! { "_id": ended.get("_id"), "pid": ended.get("pid") })
                .await?;
            if let Some(id) = ended.get_str("_id").ok().and_then(|id| id.strip_prefix("instance/")) {
                state.delete_one(doc! { "_id": note_id(id) }).await?;
            }
        }
        Ok(())
    }

    /// Says that this instance leaves: from its next heartbeat on the others take over what it does not drain.
    pub fn announce_leaving(&self) {
        self.shared.leaving.store(true, Ordering::Release);
    }

    /// Leaves. Forgets instances that died long ago.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable; the others then wait for [`ALIVE`].
    pub async fn leave(&self) -> Result<()> {
        self.give_up_lease().await?;
        let state = self.store.state();
        let own = [self.document_id(), note_id(self.instance_id())];
        state.delete_many(doc! { "_id": { "$in": own } }).await?;
        let long_ago = doc! { "$lt": earlier(self.clock.now(), REMEMBERED) };
        state
            .delete_many(doc! { "_id": instances(), "seenAt": &long_ago })
            .await?;
        state.delete_many(doc! { "_id": notes(), "at": long_ago }).await?;
        Ok(())
    }

    fn document_id(&self) -> String {
        format!("instance/{}", self.instance_id())
    }
}
