//! One way through, put together: outbox, window, lanes, recorder, and the sources that feed them.
//!
//! `run`, `scan` and `demo` use the same engine; they differ in what they let run.

use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Courier, Settings, Tally};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::dispatch::{Feeder, Recorder, Window, Workers};
use crate::metrics::History;
use crate::model::{Clock, EndpointKey, Live};
use crate::outbox::{Group, Outbox};
use crate::platform::{Directory, Refresh};
use crate::source::{Horizon, Lookahead, Rejections, Report, Scan, Watch, WatchStatus};
use crate::statistics::Statistics;
use crate::store::{Stopped, Store};

/// How often the feeder looks although no bell has rung: what other daemons appended rings no bell here.
const POLL: Duration = Duration::from_secs(1);

/// The parts, wired, not running yet.
pub struct Engine {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// The other daemons.
    pub cluster: Cluster,
    /// The endpoints.
    pub directory: Directory,
    /// The delivery documents.
    pub outbox: Outbox,
    /// The figures per endpoint and day.
    pub statistics: Statistics,
    /// What is held in memory.
    pub window: Window,
    /// What became of attempts.
    pub tally: Tally,
    /// The last hour of it.
    pub history: History,
    /// What a reload replaces.
    pub settings: Settings,
    /// The watch's state.
    pub watch_status: Live<WatchStatus>,
    /// The last scan: when it ended, and what it did.
    pub last_scan: Live<Option<(DateTime, Report)>>,
    /// What can't be an event.
    pub rejections: Rejections,
    /// The next expiry that is known.
    pub horizon: Horizon,
    retention: Duration,
}

/// The lanes that want one more worker.
pub type Wanted = mpsc::UnboundedReceiver<EndpointKey>;

impl Engine {
    /// Wires the parts for one run of a daemon on `host`.
    pub fn new(store: Store, config: &Config, settings: Settings, host: &str) -> (Arc<Self>, Wanted) {
        let clock = Clock::default();
        let cluster = Cluster::new(store.clone(), clock.clone(), host);
        let lanes = cluster.clone();
        let owns = Box::new(move |endpoint: &EndpointKey| lanes.owns(endpoint));
        let (window, wanted) = Window::new(config.queue.capacity, config.delivery.concurrency, owns);
        let directory = Directory::default();
        directory.switch_email(settings.mailer.get().is_some());
        let outbox = Outbox::new(store.clone(), Arc::clone(cluster.me()), Arc::new(window.clone()))
            .traced(settings.tracer.clone());
        let engine = Self {
            statistics: Statistics::new(store.clone(), outbox.clone()),
            directory,
            tally: Tally::new(clock.clone()),
            history: History::default(),
            rejections: Rejections::default(),
            watch_status: Live::new(WatchStatus::default()),
            horizon: Horizon::default(),
            retention: config.delivery.retention,
            store,
            clock,
            cluster,
            outbox,
            window,
            settings,
            last_scan: Live::new(None),
        };
        (Arc::new(engine), wanted)
    }

    /// Joins the other daemons, frees and counts what the dead left, and reads the endpoints. Nothing may be scanned or watched before.
    ///
    /// # Errors
    /// [`Stopped`] when the daemon stops first.
    pub async fn prepare(&self) -> Result<(), Stopped> {
        self.store
            .persist("look for runs that are gone", || self.cluster.forget_ghosts())
            .await?;
        self.store.persist("send a heartbeat", || self.cluster.beat()).await?;
        let live = self.cluster.live();
        self.store
            .persist("free the claims of dead daemons", || self.outbox.adopt(&live))
            .await?;
        self.store
            .persist("count what dead daemons recorded", || self.statistics.recover(&live))
            .await?;
        self.refresh().load().await
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
        Scan {
            store: self.store.clone(),
            outbox: self.outbox.clone(),
            directory: self.directory.clone(),
            clock: self.clock.clone(),
            config: self.settings.scan.clone(),
            rejections: self.rejections.clone(),
            stop,
        }
    }

    /// What scans at the moment of an expiry; `streaming` says whether a change stream tells of new ones.
    pub fn lookahead(&self, streaming: bool) -> Lookahead {
        Lookahead {
            store: self.store.clone(),
            clock: self.clock.clone(),
            config: self.settings.scan.clone(),
            duties: self.cluster.duties(),
            horizon: self.horizon.clone(),
            streaming,
        }
    }

    /// What watches the change stream.
    pub fn watch(&self) -> Watch {
        Watch {
            store: self.store.clone(),
            outbox: self.outbox.clone(),
            directory: self.directory.clone(),
            clock: self.clock.clone(),
            retention: self.retention,
            status: self.watch_status.clone(),
            rejections: self.rejections.clone(),
            horizon: self.horizon.clone(),
        }
    }

    /// What fetches from the outbox.
    pub fn feeder(&self) -> Feeder {
        Feeder::new(
            self.outbox.clone(),
            self.store.clone(),
            self.window.clone(),
            self.clock.clone(),
            POLL,
        )
    }

    /// What sends, what writes the results, and what comes out of there to be counted.
    pub fn senders(&self) -> (Workers<Courier>, Recorder<Tally>, mpsc::UnboundedReceiver<Group>) {
        let (recorded, counted) = mpsc::unbounded_channel();
        let courier = Courier {
            directory: self.directory.clone(),
            client: self.settings.client.clone(),
            mailer: self.settings.mailer.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            cluster: self.cluster.clone(),
            tracer: self.settings.tracer.clone(),
        };
        let (recorder, results) = Recorder::new(
            self.outbox.clone(),
            self.window.clone(),
            self.clock.clone(),
            self.settings.retry.clone(),
            self.tally.clone(),
            recorded,
        );
        (
            Workers::new(self.window.clone(), courier, self.settings.permits.clone(), results),
            recorder,
            counted,
        )
    }
}
