//! MongoDB unavailable, in every way: the daemon waits, delivers what it has in memory, and forgets nothing.

use std::time::{Duration, Instant};

use bson::doc;
use bson::oid::ObjectId;
use certhookd::sandbox::{Options, Proxy, ReplicaSet, Response};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cluster::has_lease;
use crate::fixture::{Daemon, Fixture, LIMIT, certificate, endpoint_key, expired, is_scan, pending_batch};

/// The driver notices soon that a server is down.
pub const SOON: &str = "serverSelectionTimeoutMS=500&connectTimeoutMS=1000&heartbeatFrequencyMS=500";

pub fn is_away(line: &Value) -> bool {
    let message = line["message"].as_str().unwrap_or_default();
    line["level"] == "WARN" && message.starts_with("MongoDB is unavailable")
}

pub fn is_back(line: &Value) -> bool {
    line["message"] == "MongoDB is back"
}

/// A mongod of its own, that its daemon reaches through a proxy.
struct Reached {
    set: ReplicaSet,
    proxy: Proxy,
    fixture: Fixture,
    organization: ObjectId,
    /// The key of its only endpoint.
    endpoint: String,
}

impl Reached {
    async fn new() -> Self {
        Self::over(SOON).await
    }

    /// With these options in the URI.
    async fn over(options: &str) -> Self {
        let set = ReplicaSet::start(Options::default()).await.unwrap();
        let proxy = Proxy::start(set.port(0)).await.unwrap();
        let uri = format!("mongodb://{}/?directConnection=true&{options}", proxy.address());
        let fixture = Fixture::on(&uri, set.client().await.unwrap()).with("service.shutdown_grace = \"1s\"");
        let endpoint = fixture.endpoint("/a");
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        Self {
            set,
            proxy,
            fixture,
            organization,
            endpoint: endpoint_key(organization, &endpoint),
        }
    }

    /// A daemon that has 50 deliveries in memory and five requests in flight, which take a while.
    async fn sending(&self) -> Daemon {
        self.fixture
            .receiver
            .script("/a", [Response::ok().after(Duration::from_millis(300))]);
        self.fixture
            .badge_users()
            .insert_many((0..50).map(|_| expired(self.organization)))
            .await
            .unwrap();
        let daemon = self.fixture.daemon().await;
        daemon.wait_for(is_scan).await;
        // The first is sent alone; when it has its response, the rest is fetched.
        self.fixture.receiver.wait_for_total(6, LIMIT).await.unwrap();
        daemon
    }

    /// What is in memory is sent although MongoDB is unavailable, and the outage is logged once.
    async fn endures(&self, daemon: &Daemon) {
        daemon.wait_for(is_away).await;
        self.fixture.receiver.script("/a", [Response::ok()]);
        self.fixture.receiver.wait_for_total(50, LIMIT).await.unwrap();
        assert_eq!(daemon.count(is_back), 0, "it is still unavailable");
    }

    /// The results are recorded, new events found, and the outage's end is told once.
    async fn recovers(&self, mut daemon: Daemon, missed: u64) {
        daemon.wait_for(is_back).await;
        let delivered = doc! { "state": "delivered", "attempts": 1 };
        self.fixture.wait_for_deliveries(delivered.clone(), 50 + missed).await;
        self.fixture
            .badge_users()
            .insert_one(expired(self.organization))
            .await
            .unwrap();
        daemon.signal(Signal::SIGUSR1);
        // The award and its expiry.
        self.fixture.wait_for_deliveries(delivered, 52 + missed).await;
        assert!(daemon.stop().await.success());
        assert_eq!(
            (daemon.count(is_away), daemon.count(is_back)),
            (1, 1),
            "{:#?}",
            daemon.lines()
        );
        assert_eq!(self.fixture.receiver.total() as u64, 52 + missed, "nothing twice");
    }

    async fn award(&self, count: usize) {
        let awards = (0..count).map(|_| certificate(self.organization, None));
        self.fixture.badge_users().insert_many(awards).await.unwrap();
    }
}

#[tokio::test]
async fn mongod_killed_and_restarted() {
    let reached = Reached::new().await;
    let daemon = reached.sending().await;
    reached.set.kill(0).unwrap();
    reached.endures(&daemon).await;
    reached.set.restart(0).await.unwrap();
    reached.recovers(daemon, 0).await;
}

#[tokio::test]
async fn the_primary_stepped_down() {
    let reached = Reached::new().await;
    let daemon = reached.sending().await;
    reached.set.step_down(6).await.unwrap();
    reached.endures(&daemon).await;
    reached.recovers(daemon, 0).await;
}

#[tokio::test]
async fn the_network_cut() {
    let reached = Reached::new().await;
    let daemon = reached.sending().await;
    reached.proxy.cut();
    reached.award(10).await;
    reached.endures(&daemon).await;
    reached.proxy.pass();
    reached.recovers(daemon, 10).await;
}

/// What it did under the lease and failed to do is another's business now, and no reason to be out of service.
#[tokio::test]
async fn an_instance_that_loses_the_lease_in_an_outage_is_back_with_mongodb() {
    let settings = "delivery.payload_retention = \"1h\"\ncompletions.enabled = false";
    let mut reached = Reached::new().await;
    reached.fixture = reached.fixture.with(settings);
    let mut command = reached.fixture.command(&["run"]);
    command.env("FAILPOINTS", "payload-look=return(6)");
    let first = Daemon::spawn(command);
    first.wait_for(is_scan).await;
    reached.proxy.cut();
    first.wait_for(is_away).await;
    let mut command = reached.fixture.command(&["run"]);
    command.env("CERTHOOKD_MONGODB__URI", reached.set.uri());
    let second = Daemon::spawn(command);
    second.wait_for(has_lease).await;
    reached.proxy.pass();
    first.wait_for(is_back).await;
}

#[tokio::test]
async fn the_network_a_black_hole() {
    let reached = Reached::new().await;
    let daemon = reached.sending().await;
    reached.proxy.black_hole();
    reached.award(10).await;
    reached.endures(&daemon).await;
    reached.proxy.pass();
    reached.recovers(daemon, 10).await;
}

/// The daemon's loops repeat what failed after five seconds at most, and rest for what they did, not for what they waited.
#[tokio::test]
async fn what_waits_goes_out_soon_after_a_long_outage() {
    const OUTAGE: Duration = Duration::from_secs(8);
    let reached = Reached::new().await;
    let daemon = reached.sending().await;
    let (fixture, delivered) = (&reached.fixture, doc! { "state": "delivered" });
    fixture.wait_for_deliveries(delivered.clone(), 50).await;
    reached.proxy.cut();
    daemon.wait_for(is_away).await;
    let told_back = tokio::time::timeout(OUTAGE, daemon.wait_for(is_back)).await;
    assert!(told_back.is_err(), "it is still unavailable");
    reached.proxy.pass();
    let passed = Instant::now();
    // The first is fetched by the look that the outage delayed, the second by the next one.
    for total in [51, 52] {
        let batch = pending_batch(&reached.endpoint, &[expired(reached.organization)]);
        fixture.outbox().insert_one(batch).await.unwrap();
        fixture.receiver.wait_for_total(total, LIMIT).await.unwrap();
    }
    assert!(passed.elapsed() < OUTAGE * 3 / 2, "after {:?}", passed.elapsed());
}

/// Reads go on, so that half of what the daemon does succeeds all the time.
#[tokio::test]
async fn the_disk_full() {
    let reached = Reached::new().await;
    let daemon = reached.sending().await;
    let admin = reached.fixture.database.client().database("admin");
    let writes = ["insert", "update", "findAndModify"];
    let data = doc! { "errorCode": 14031, "appName": "certhookd", "failCommands": writes.as_slice() };
    let full = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    let before = admin.run_command(full).await.unwrap().get_i32("count").unwrap_or(0);
    reached.endures(&daemon).await;
    let failed = doc! { "waitForFailPoint": "failCommand", "timesEntered": before + 20, "maxTimeMS": 60_000 };
    admin.run_command(failed).await.unwrap();
    admin
        .run_command(doc! { "configureFailPoint": "failCommand", "mode": "off" })
        .await
        .unwrap();
    reached.recovers(daemon, 0).await;
}

#[tokio::test]
async fn mongodb_away_at_the_start_is_waited_for() {
    let reached = Reached::new().await;
    reached.proxy.cut();
    let mut daemon = reached.fixture.launch();
    daemon.wait_for(is_away).await;
    reached.proxy.pass();
    daemon.wait_for(|line| line["message"] == "ready").await;
    reached.award(1).await;
    reached.fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    assert!(daemon.stop().await.success());
    assert_eq!((daemon.count(is_away), daemon.count(is_back)), (1, 1));
}

/// Once it has replied.
#[tokio::test]
async fn mongodb_away_in_the_midst_of_the_start_is_waited_for() {
    let reached = Reached::new().await;
    let admin = reached.fixture.database.client().database("admin");
    let fail = |mode: bson::Bson| {
        let data = doc! { "failCommands": ["listCollections"], "errorCode": 11600, "appName": "certhookd" };
        admin
            .run_command(doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data })
            .into_future()
    };
    fail(doc! { "skip": 1 }.into()).await.unwrap();
    let mut daemon = reached.fixture.launch();
    daemon.wait_for(is_away).await;
    fail("off".into()).await.unwrap();
    daemon.wait_for(|line| line["message"] == "ready").await;
    assert!(daemon.stop().await.success());
}

/// What can't be recorded any more is sent again by the next daemon: at least once.
async fn stops_in_time(cut_off: impl FnOnce(&Proxy)) {
    // The driver itself would wait for up to 20 s.
    let reached = Reached::over("retryWrites=true").await;
    let mut daemon = reached.sending().await;
    cut_off(&reached.proxy);
    let asked = Instant::now();
    assert!(daemon.stop().await.success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(daemon.count(Value::is_string), 0, "no panic: every line is the log's");
    reached.proxy.pass();
    let _daemon = reached.fixture.daemon().await;
    reached
        .fixture
        .wait_for_deliveries(doc! { "state": "delivered" }, 50)
        .await;
}

#[tokio::test]
async fn a_stop_while_the_network_is_cut_is_in_time() {
    stops_in_time(Proxy::cut).await;
}

#[tokio::test]
async fn a_stop_in_a_black_hole_is_in_time() {
    stops_in_time(Proxy::black_hole).await;
}
