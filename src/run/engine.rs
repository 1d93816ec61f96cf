//! One way through, put together: outbox, fetcher, delivery queue, workers, recorder, and the sources that append.
//!
//! `run`, `scan` and `demo` use the same engine; they differ in what they let run.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bson::DateTime;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::announcer::Announcer;
use super::endpoint_states::EndpointStates;
use super::gate::{EndpointGate, FetcherOverview, proxy_fault, waits_for_proxy};
use super::{Courier, Settings, Tally, settings};
use crate::cluster::{CUT_SHORT, Cluster, Deliveries, NO_NEW_REQUESTS, WakeUps};
use crate::config::Config;
use crate::dispatch::{
    Abort, DeliveryQueue, EndpointSet, EndpointState, Fetcher, Recorder, RecorderParts, Waiting, Workers,
};
use crate::metrics::History;
use crate::model::{Clock, EndpointKey, Reloadable};
use crate::notices::Episodes;
use crate::operations::{Executor, Holds, Parts, hold_everything};
use crate::outbox::Outbox;
use crate::platform::{Directory, Found, Refresh};
use crate::source::{Horizon, Lookahead, Rejections, Report, Scan, Watch};
use crate::store::{Stopped, Store};

/// The parts, wired, not running yet.
pub struct Engine {
    pub store: Store,
    pub clock: Clock,
    pub cluster: Cluster,
    pub wake_ups: WakeUps,
    pub directory: Directory,
    /// The states of endpoints that are paused, that wait, or that are served again: see `webhook_state`.
    pub endpoint_states: EndpointStates,
    pub holds: Holds,
    /// The endpoints that fail.
    pub episodes: Episodes,
    /// Endpoints of whose dead letters the platform must be told.
    pub died: EndpointSet,
    /// The control number that this instance must act on.
    pub control: watch::Sender<i64>,
    /// Endpoints that are served again after their deliveries had to wait.
    pub served_again: EndpointSet,
    pub outbox: Outbox,
    pub queue: DeliveryQueue,
    /// What is known to wait in the outbox.
    pub waiting: Waiting,
    /// Cuts requests in flight short.
    pub abort: Abort,
    pub tally: Tally,
    pub history: History,
    pub settings: Settings,
    pub stream_moved_at: Reloadable<Option<DateTime>>,
    /// The last scan: when it ended, and what it did.
    pub last_scan: Reloadable<Option<(DateTime, Report)>>,
    pub rejections: Rejections,
    /// The next expiry that is known.
    pub horizon: Horizon,
    /// Notified when endpoints may be served that were not before: see [`Engine::look_again`], and `episodes`.
    pub redrive_now: Notify,
    /// Notified when results of a drained endpoint are recorded.
    recorded: Arc<Notify>,
    pub(super) retention: Duration,
    operations_retention: Duration,
    start_held: bool,
}

impl Engine {
    /// Wires the parts for one instance on `host`.
    pub fn new(store: Store, config: &Config, settings: Settings, host: &str) -> Arc<Self> {
        let clock = Clock::default();
        let cluster = Cluster::new(store.clone(), clock.clone(), host);
        let directory = Directory::default();
        let holds = Holds::default();
        let episodes = Episodes::new(settings::rules(config));
        let gate = EndpointGate {
            cluster: cluster.clone(),
            directory: directory.clone(),
            holds: holds.clone(),
            episodes: episodes.clone(),
            proxy: settings.proxy.clone(),
        };
        let queue = DeliveryQueue::new(settings::limits(config), gate);
        let waiting = Waiting::new(queue.clone());
        let wake_ups = WakeUps::default();
        directory.switch_email(settings.mailer.get().is_some());
        directory.set_notices(settings::notices(config));
        let endpoint_states =
            EndpointStates::new(store.clone(), clock.clone(), settings.proxy.clone(), directory.clone());
        let announcer = Announcer {
            waiting: waiting.clone(),
            wake_ups: wake_ups.clone(),
            cluster: cluster.clone(),
        };
        let instance_id = Arc::clone(cluster.instance_id());
        let outbox = Outbox::new(store.clone(), instance_id, Arc::new(announcer), settings.tracer.clone());
        Arc::new(Self {
            endpoint_states,
            holds,
            episodes,
            died: EndpointSet::default(),
            control: watch::Sender::new(0),
            served_again: EndpointSet::default(),
            tally: Tally::new(clock.clone()),
            history: History::default(),
            rejections: Rejections::default(),
            stream_moved_at: Reloadable::new(None),
            horizon: Horizon::default(),
            last_scan: Reloadable::new(None),
            redrive_now: Notify::new(),
            recorded: Arc::default(),
            retention: config.delivery.retention,
            operations_retention: config.operations.retention,
            start_held: config.service.start_held,
            abort: Abort::default(),
            store,
            clock,
            cluster,
            wake_ups,
            directory,
            outbox,
            queue,
            waiting,
            settings,
        })
    }

    /// Joins the other instances and reads the endpoints. Nothing may be scanned or watched before.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn prepare(&self) -> Result<(), Stopped> {
        let forget = || self.cluster.forget_ended();
        self.store.persist("look for instances that have ended", forget).await?;
        if self.start_held {
            let hold = || hold_everything(&self.store, self.clock.now());
            self.store.persist("hold everything", hold).await?;
            warn!(
                "service.start_held: everything is held; deliveries are written and wait until `certhookd release --all`"
            );
        }
        self.store.persist("send a heartbeat", || self.beat()).await?;
        self.refresh().load().await
    }

    /// Sends a heartbeat.
    ///
    /// # Errors
    /// MongoDB refused or is unavailable.
    pub async fn beat(&self) -> crate::store::Result<()> {
        let unconfigured = self.rejections.unconfigured().load(Ordering::Relaxed);
        self.cluster.show_unconfigured(unconfigured);
        let fault = proxy_fault(&self.settings.proxy, self.clock.now());
        self.cluster.show_proxy_fault(fault);
        if self.cluster.beat(self).await? {
            self.forget_foreign();
            self.look_again();
        }
        Ok(())
    }

    /// Endpoints may be served that were not before: has what waits for them looked for, and their dead letters.
    pub fn look_again(&self) {
        self.waiting.look_now();
        self.redrive_now.notify_one();
    }

    /// The control number has been raised to this: see `control_number`.
    pub fn act_on(&self, control: i64) {
        self.control.send_if_modified(|wanted| {
            let is_later = control > *wanted;
            *wanted = control.max(*wanted);
            is_later
        });
    }

    pub fn endpoint_state(&self, endpoint: &EndpointKey) -> EndpointState {
        let is_silent = self.cluster.age().is_none_or(|age| age >= NO_NEW_REQUESTS);
        if is_silent || !self.cluster.is_assigned(endpoint) {
            return EndpointState::NotAssigned;
        }
        match self.directory.find(endpoint) {
            Found::Served(_) | Found::Email { enabled: true } if self.holds.is_held(endpoint, self.clock.now()) => {
                EndpointState::Held
            }
            Found::Served(_) | Found::Email { enabled: true } => {
                match self.episodes.suspended(endpoint, self.clock.now()) {
                    Some(false) => EndpointState::Suspended { is_probe_due: false },
                    _ if waits_for_proxy(&self.settings.proxy, &self.directory, endpoint) => {
                        EndpointState::ProxyUnavailable
                    }
                    Some(true) => EndpointState::Suspended { is_probe_due: true },
                    None => EndpointState::Served,
                }
            }
            Found::Email { enabled: false } => EndpointState::Off("e-mails are switched off"),
            Found::OutOfService { .. } => EndpointState::OutOfService,
            Found::Off { reason } => EndpointState::Off(reason),
        }
    }

    /// What keeps the directory fresh.
    pub fn refresh(&self) -> Refresh {
        Refresh {
            store: self.store.clone(),
            directory: self.directory.clone(),
            policy: self.settings.endpoints.clone(),
        }
    }

    /// What scans, until `stop`.
    pub fn scan(&self, stop: CancellationToken) -> Scan {
        Scan::new(
            self.store.clone(),
            self.outbox.clone(),
            self.directory.clone(),
            self.clock.clone(),
            self.settings.scan.clone(),
            self.rejections.clone(),
            stop,
        )
    }

    /// What triggers a scan at the moment of an expiry; `streaming` says whether a change stream tells of new ones.
    pub fn lookahead(&self, streaming: bool) -> Lookahead {
        Lookahead {
            store: self.store.clone(),
            clock: self.clock.clone(),
            config: self.settings.scan.clone(),
            lease: self.cluster.lease(),
            horizon: self.horizon.clone(),
            streaming,
        }
    }

    /// What watches the change stream.
    pub fn watch(&self) -> Watch {
        Watch::new(
            self.store.clone(),
            self.outbox.clone(),
            self.directory.clone(),
            self.clock.clone(),
            self.retention,
            self.stream_moved_at.clone(),
            self.rejections.clone(),
            self.horizon.clone(),
        )
    }

    /// What carries operations out.
    pub fn executor(self: &Arc<Self>) -> Executor {
        let engine = Arc::clone(self);
        let (waiting, wake_ups) = (self.waiting.clone(), self.wake_ups.clone());
        Executor::new(Parts {
            store: self.store.clone(),
            outbox: self.outbox.clone(),
            cluster: self.cluster.clone(),
            clock: self.clock.clone(),
            directory: self.directory.clone(),
            client: self.settings.client.clone(),
            act_on: Arc::new(move |number| engine.act_on(number)),
            have_all_look: Arc::new(move || {
                waiting.look_now();
                wake_ups.note_look();
            }),
            retention: self.operations_retention,
        })
    }

    /// What reads the outbox into the queue, and the endpoints that it finds switched off.
    pub fn fetcher(self: &Arc<Self>) -> (Fetcher, EndpointSet) {
        let off = EndpointSet::default();
        let fetcher = Fetcher::new(
            self.outbox.clone(),
            self.store.clone(),
            self.queue.clone(),
            self.waiting.clone(),
            self.clock.clone(),
            FetcherOverview(Arc::clone(self)),
            off.clone(),
        );
        (fetcher, off)
    }

    /// What sends, and what records the results.
    pub fn senders(&self) -> (Workers<Courier>, Recorder<Tally>) {
        let courier = Courier {
            directory: self.directory.clone(),
            client: self.settings.client.clone(),
            proxy: self.settings.proxy.clone(),
            mailer: self.settings.mailer.clone(),
            store: self.store.clone(),
            outbox: self.outbox.clone(),
            clock: self.clock.clone(),
            tracer: self.settings.tracer.clone(),
            policy: self.settings.retry.clone(),
            states: self.endpoint_states.clone(),
            holds: self.holds.clone(),
            episodes: self.episodes.clone(),
            cluster: self.cluster.clone(),
        };
        let directory = self.directory.clone();
        let (states, cluster) = (self.endpoint_states.clone(), self.cluster.clone());
        let (recorder, results) = Recorder::new(RecorderParts {
            outbox: self.outbox.clone(),
            store: self.store.clone(),
            queue: self.queue.clone(),
            waiting: self.waiting.clone(),
            clock: self.clock.clone(),
            policy: self.settings.retry.clone(),
            observer: self.tally.clone(),
            served_since: Box::new(move |endpoint| states.served_since(endpoint)),
            drained: Box::new(move |endpoint| !cluster.is_assigned(endpoint)),
            tells_of: Box::new(move |endpoint| directory.tells_of_endpoints() && !endpoint.is_own()),
            died: self.died.clone(),
            recorded: Arc::clone(&self.recorded),
        });
        let workers = Workers::new(self.queue.clone(), courier, self.abort.clone(), results);
        (workers, recorder)
    }

    /// Waits until results of a drained endpoint are recorded.
    pub async fn drained(&self) {
        self.recorded.notified().await;
    }
}

impl Deliveries for Engine {
    fn lapsed(&self, age: Duration) {
        // By now their endpoints may be another instance's.
        self.waiting.forget_documents();
        self.endpoint_states.forget(|_| true);
        self.queue.refuse_reads();
        self.queue.drain(|_| false);
        if age >= CUT_SHORT {
            self.abort.abort();
        }
    }

    fn drain(&self, moves: bool, keeps: impl Fn(&EndpointKey) -> bool) -> Vec<EndpointKey> {
        if moves {
            self.waiting.forget_documents();
            self.queue.refuse_reads();
        }
        self.queue.drain(keeps)
    }

    async fn gaining(&self) -> crate::store::Result<()> {
        let control = self.holds.load(&self.store).await?;
        self.act_on(control);
        self.forget_foreign();
        self.load_endpoint_states(true).await
    }
}
