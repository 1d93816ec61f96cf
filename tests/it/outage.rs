//! MongoDB away, in every way: the daemon waits, delivers what it holds, and forgets nothing.

use std::time::{Duration, Instant};

use bson::doc;
use bson::oid::ObjectId;
use certhookd::sandbox::{Answer, Options, Proxy, ReplicaSet};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bed::{Bed, Daemon, LIMIT, certificate, expired, is_scan};

/// The driver notices soon that a server is away.
pub const SOON: &str = "serverSelectionTimeoutMS=500&connectTimeoutMS=1000&heartbeatFrequencyMS=500";

pub fn is_away(line: &Value) -> bool {
    line["level"] == "WARN"
}

pub fn is_back(line: &Value) -> bool {
    line["message"] == "MongoDB is back"
}

/// A mongod of its own, and a daemon on it with certificates expired and none of them answered yet.
struct Scene {
    set: ReplicaSet,
    proxy: Proxy,
    bed: Bed,
    owner: ObjectId,
}

impl Scene {
    async fn new() -> Self {
        Self::over(SOON).await
    }

    /// With these options in the URI.
    async fn over(options: &str) -> Self {
        let set = ReplicaSet::start(Options::default()).await.unwrap();
        let proxy = Proxy::start(set.port(0)).await.unwrap();
        let uri = format!("mongodb://{}/?directConnection=true&{options}", proxy.address());
        let bed = Bed::on(&uri, set.client().await.unwrap()).with("service.shutdown_grace = \"1s\"");
        let owner = bed.organization(vec![bed.endpoint("/a")]).await;
        Self { set, proxy, bed, owner }
    }

    /// A daemon that holds 50 deliveries and has five requests in flight, which take a while.
    async fn holding(&self) -> Daemon {
        self.bed
            .receiver
            .script("/a", [Answer::ok().after(Duration::from_millis(300))]);
        self.bed
            .badge_users()
            .insert_many((0..50).map(|_| expired(self.owner)))
            .await
            .unwrap();
        let daemon = self.bed.daemon().await;
        daemon.wait_for(is_scan).await;
        self.bed.receiver.wait_for_total(5, LIMIT).await.unwrap();
        daemon
    }

    /// What was held is sent although MongoDB is away, and the outage is told once.
    async fn endures(&self, daemon: &Daemon) {
        daemon.wait_for(is_away).await;
        self.bed.receiver.script("/a", [Answer::ok()]);
        self.bed.receiver.wait_for_total(50, LIMIT).await.unwrap();
        assert_eq!(daemon.count(is_back), 0, "it is still away");
    }

    /// The results are recorded, new events found, and the outage's end is told once.
    async fn recovers(&self, mut daemon: Daemon, missed: u64) {
        daemon.wait_for(is_back).await;
        let delivered = doc! { "state": "delivered", "attempts": 1 };
        self.bed
            .wait_for_count(&self.bed.deliveries(), delivered.clone(), 50 + missed)
            .await;
        self.bed.badge_users().insert_one(expired(self.owner)).await.unwrap();
        daemon.signal(Signal::SIGUSR1);
        // The award and its expiry.
        self.bed
            .wait_for_count(&self.bed.deliveries(), delivered, 52 + missed)
            .await;
        assert!(daemon.stop().await.success());
        assert_eq!(
            (daemon.count(is_away), daemon.count(is_back)),
            (1, 1),
            "{:#?}",
            daemon.lines()
        );
        assert_eq!(self.bed.receiver.total() as u64, 52 + missed, "nothing twice");
    }

    async fn award(&self, count: usize) {
        let awards = (0..count).map(|_| certificate(self.owner, None));
        self.bed.badge_users().insert_many(awards).await.unwrap();
    }
}

#[tokio::test]
async fn mongod_killed_and_restarted() {
    let scene = Scene::new().await;
    let daemon = scene.holding().await;
    scene.set.kill(0).unwrap();
    scene.endures(&daemon).await;
    scene.set.restart(0).await.unwrap();
    scene.recovers(daemon, 0).await;
}

#[tokio::test]
async fn the_primary_stepped_down() {
    let scene = Scene::new().await;
    let daemon = scene.holding().await;
    scene.set.step_down(6).await.unwrap();
    scene.endures(&daemon).await;
    scene.recovers(daemon, 0).await;
}

#[tokio::test]
async fn the_network_cut() {
    let scene = Scene::new().await;
    let daemon = scene.holding().await;
    scene.proxy.cut();
    scene.award(10).await;
    scene.endures(&daemon).await;
    scene.proxy.pass();
    scene.recovers(daemon, 10).await;
}

#[tokio::test]
async fn the_network_a_black_hole() {
    let scene = Scene::new().await;
    let daemon = scene.holding().await;
    scene.proxy.black_hole();
    scene.award(10).await;
    scene.endures(&daemon).await;
    scene.proxy.pass();
    scene.recovers(daemon, 10).await;
}

/// The daemon's loops try again after five seconds at most, and rest for what they did, not for what they waited.
#[tokio::test]
async fn what_waits_goes_out_soon_after_a_long_outage() {
    const OUTAGE: Duration = Duration::from_secs(8);
    let scene = Scene::new().await;
    let daemon = scene.holding().await;
    let (bed, delivered) = (&scene.bed, doc! { "state": "delivered" });
    bed.wait_for_count(&bed.deliveries(), delivered.clone(), 50).await;
    scene.proxy.cut();
    daemon.wait_for(is_away).await;
    let told_back = tokio::time::timeout(OUTAGE, daemon.wait_for(is_back)).await;
    assert!(told_back.is_err(), "it is still away");
    scene.proxy.pass();
    let passed = Instant::now();
    // The first is fetched by the look that the outage held up, the second by the next one.
    for total in [51, 52] {
        let again = doc! { "$set": { "state": "pending" }, "$unset": { "finishedAt": 1 } };
        bed.deliveries().update_one(delivered.clone(), again).await.unwrap();
        bed.receiver.wait_for_total(total, LIMIT).await.unwrap();
    }
    assert!(passed.elapsed() < OUTAGE * 3 / 2, "after {:?}", passed.elapsed());
}

/// Reads go on, so that half of what the daemon tries succeeds all the time.
#[tokio::test]
async fn the_disk_full() {
    let scene = Scene::new().await;
    let daemon = scene.holding().await;
    let admin = scene.bed.database.client().database("admin");
    let writes = ["insert", "update", "findAndModify"];
    let data = doc! { "errorCode": 14031, "appName": "certhookd", "failCommands": writes.as_slice() };
    let full = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    let before = admin.run_command(full).await.unwrap().get_i32("count").unwrap_or(0);
    scene.endures(&daemon).await;
    let failed = doc! { "waitForFailPoint": "failCommand", "timesEntered": before + 20, "maxTimeMS": 60_000 };
    admin.run_command(failed).await.unwrap();
    admin
        .run_command(doc! { "configureFailPoint": "failCommand", "mode": "off" })
        .await
        .unwrap();
    scene.recovers(daemon, 0).await;
}

#[tokio::test]
async fn mongodb_away_at_the_start_is_waited_for() {
    let scene = Scene::new().await;
    scene.proxy.cut();
    let mut daemon = scene.bed.launch();
    daemon.wait_for(is_away).await;
    scene.proxy.pass();
    daemon.wait_for(|line| line["message"] == "ready").await;
    scene.award(1).await;
    scene.bed.receiver.wait_for_total(1, LIMIT).await.unwrap();
    assert!(daemon.stop().await.success());
    assert_eq!((daemon.count(is_away), daemon.count(is_back)), (1, 1));
}

/// What can't be recorded any more is sent again by the next daemon: at least once.
async fn stops_in_time(away: impl FnOnce(&Proxy)) {
    // The driver itself would wait for up to 20 s.
    let scene = Scene::over("retryWrites=true").await;
    let mut daemon = scene.holding().await;
    away(&scene.proxy);
    let asked = Instant::now();
    assert!(daemon.stop().await.success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(daemon.count(Value::is_string), 0, "no panic: every line is the log's");
    scene.proxy.pass();
    let _daemon = scene.bed.daemon().await;
    scene
        .bed
        .wait_for_count(&scene.bed.deliveries(), doc! { "state": "delivered" }, 50)
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
