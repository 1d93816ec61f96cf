//! What happens while a scan is between its read and its mark: mongod's own failpoint stops it there.

use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Options, ReplicaSet};
use mongodb::Client;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, LIMIT, expired, is_scan};

const FAILPOINT: &str = "hangDuringBatchUpdate";

/// Holds every `update` of the certificates. A mongod has one such failpoint: each test has a mongod of its own.
struct Hold {
    set: ReplicaSet,
    client: Client,
    fixture: Fixture,
}

impl Hold {
    async fn new() -> Self {
        let set = ReplicaSet::start(Options::default()).await.unwrap();
        let client = set.client().await.unwrap();
        let fixture = Fixture::on(set.uri(), client.clone());
        let hold = Self { set, client, fixture };
        let nss = format!("{}.badgeusers", hold.fixture.database.name());
        hold.configure(doc! { "mode": "alwaysOn", "data": { "nss": nss } })
            .await;
        hold
    }

    async fn configure(&self, settings: Document) {
        let mut command = doc! { "configureFailPoint": FAILPOINT };
        command.extend(settings);
        self.client.database("admin").run_command(command).await.unwrap();
    }

    /// Waits until the daemon's mark is stopped.
    async fn is_held(&self) {
        let limit = i64::try_from(LIMIT.as_millis()).unwrap();
        let command = doc! { "waitForFailPoint": FAILPOINT, "timesEntered": 1, "maxTimeMS": limit };
        self.client.database("admin").run_command(command).await.unwrap();
    }

    async fn release(&self) {
        self.configure(doc! { "mode": "off" }).await;
    }
}

#[tokio::test]
async fn a_certificate_renewed_or_deleted_between_read_and_mark_stays_unmarked_and_sends_nothing() {
    let hold = Hold::new().await;
    let fixture = &hold.fixture;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let [kept, renewed, deleted] = [expired(organization), expired(organization), expired(organization)];
    fixture
        .badge_users()
        .insert_many([&kept, &renewed, &deleted])
        .await
        .unwrap();
    let mut daemon = fixture.daemon().await;
    hold.is_held().await;
    assert_eq!(fixture.count_deliveries(doc! {}).await, 0, "not seen before the mark");

    let next_year = DateTime::from_millis(Clock::local().timestamp_millis() + 365 * 86_400_000);
    let renewal = doc! { "$set": { "expires": next_year } };
    let of = |document: &Document| doc! { "_id": document.get("_id").unwrap() };
    // Not an `update` command: it is not stopped.
    fixture
        .badge_users()
        .find_one_and_update(of(&renewed), renewal)
        .await
        .unwrap();
    fixture.badge_users().delete_one(of(&deleted)).await.unwrap();
    hold.release().await;

    let report = daemon.wait_for(is_scan).await;
    assert_eq!((&report["found"], &report["deliveries"]), (&1.into(), &1.into()));
    let requests = fixture.wait_for(|requests| requests.len() == 1).await;
    let body: Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!(body["_id"], kept.get_object_id("_id").unwrap().to_hex());
    let now = fixture.badge_users().find_one(of(&renewed)).await.unwrap().unwrap();
    let mut expected = renewed.clone();
    expected.insert("expires", next_year);
    assert_eq!(now, expected);
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.count_deliveries(doc! {}).await, 1);
    assert_eq!(fixture.receiver.total(), 1);
    drop(hold.set);
}

/// Asks for a scan, and waits until the daemon has taken note.
async fn ask(daemon: &Daemon, nth: usize) {
    daemon.signal(Signal::SIGUSR1);
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_for_nth(|line| line["message"] == "state", nth).await;
}

#[tokio::test]
async fn however_often_a_scan_is_asked_for_while_one_runs_exactly_one_more_follows() {
    let hold = Hold::new().await;
    let fixture = &hold.fixture;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let mut daemon = fixture.daemon().await;
    hold.is_held().await;
    for nth in 1..=6 {
        ask(&daemon, nth).await;
    }
    assert_eq!(daemon.count(is_scan), 0);
    hold.release().await;
    assert_eq!(daemon.wait_for(is_scan).await["found"], 1);
    assert_eq!(daemon.wait_for_nth(is_scan, 2).await["found"], 0);

    // The next one to follow is the one that is asked for now.
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    ask(&daemon, 7).await;
    daemon.wait_for_nth(|line| is_scan(line) && line["found"] == 1, 2).await;
    assert!(daemon.stop().await.success());
    assert_eq!(daemon.count(is_scan), 3);
    drop(hold.set);
}

/// The index goes between two pages: it is created again, within the scan.
#[tokio::test]
async fn a_scan_whose_index_is_dropped_meanwhile_goes_on() {
    let hold = Hold::new().await;
    let fixture = Fixture::on(hold.set.uri(), hold.client.clone()).with("scan.batch_size = 1");
    let nss = format!("{}.badgeusers", fixture.database.name());
    hold.configure(doc! { "mode": "alwaysOn", "data": { "nss": nss } })
        .await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let certificates = [expired(organization), expired(organization)];
    fixture.badge_users().insert_many(certificates).await.unwrap();
    let daemon = fixture.daemon().await;
    hold.is_held().await;
    let badge_users = fixture.badge_users();
    let drop = tokio::spawn(async move { badge_users.drop_index("certhookd_scan").await });
    // It waits for the transaction of the first page, and the second waits for it.
    let waits = doc! { "waitingForLock": true, "command.dropIndexes": "badgeusers" };
    let operations = vec![doc! { "$currentOp": {} }, doc! { "$match": waits }];
    let admin = hold.client.database("admin");
    loop {
        let mut found = admin.aggregate(operations.clone()).await.unwrap();
        if found.advance().await.unwrap() {
            break;
        }
    }
    hold.release().await;
    drop.await.unwrap().unwrap();
    fixture.wait_for(|requests| requests.len() == 2).await;
    let report = daemon.wait_for(is_scan).await;
    assert_eq!(report["found"], 2, "in one scan: {report}");
    let names = fixture.badge_users().list_index_names().await.unwrap();
    assert!(names.contains(&"certhookd_scan".to_owned()), "{names:?}");
}
