//! Transactions: one session per writer, large ones, commits that nobody confirmed, and what a dead instance left.

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc, rawdoc};
use certhookd::sandbox::{Options, ReplicaSet};
use certhookd::store::{Kind, Store, Writer, update_row, upsert_row};
use mongodb::options::{AggregateOptions, FindOptions};

use super::fixture::Fixture;

fn row(id: i32) -> RawDocumentBuf {
    rawdoc! { "_id": id }
}

async fn count(fixture: &Fixture) -> u64 {
    fixture.collection("rows").count_documents(doc! {}).await.unwrap()
}

async fn insert(store: &Store, writer: Writer, id: i32) -> certhookd::store::Result<()> {
    let mut transaction = store.begin(writer).await?;
    transaction.insert("rows", [row(id)].iter()).await?;
    transaction.commit().await
}

#[tokio::test]
async fn writers_do_not_wait_for_one_another_and_one_writer_s_transactions_do() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.of_store("rows").insert_one(row(0)).await.unwrap();
    let mut first = store.begin(Writer::Source).await.unwrap();
    first.insert("rows", [row(1)].iter()).await.unwrap();
    insert(store, Writer::Recorder, 2).await.unwrap();
    insert(store, Writer::Upkeep, 3).await.unwrap();

    let second = insert(store, Writer::Source, 4);
    tokio::pin!(second);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut second)
            .await
            .is_err()
    );
    assert_eq!(count(&fixture).await, 3);
    first.commit().await.unwrap();
    second.await.unwrap();
    assert_eq!(count(&fixture).await, 5);
}

#[tokio::test]
async fn forty_megabytes_are_one_transaction() {
    let fixture = Fixture::new().await;
    let large = |id: i32| rawdoc! { "_id": id, "text": "x".repeat(5 << 20) };
    let rows: Vec<_> = (0..8).map(large).collect();
    let mut transaction = fixture.store.begin(Writer::Source).await.unwrap();
    transaction.insert("rows", rows.iter()).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count(&fixture).await, 8);

    let mut transaction = fixture.store.begin(Writer::Source).await.unwrap();
    let mut rows: Vec<_> = (8..16).map(large).collect();
    rows[6] = large(3);
    let there = transaction.insert("rows", rows.iter()).await.unwrap_err();
    assert_eq!(
        (there.kind(), there.row().map(|row| row.index)),
        (Kind::Conflict, Some(6))
    );
    transaction.abort().await;
    assert_eq!(count(&fixture).await, 8);
}

#[tokio::test]
async fn a_transaction_reads_its_snapshot_until_it_has_enough_and_counts_what_it_changed() {
    let fixture = Fixture::new().await;
    let (store, rows) = (&fixture.store, fixture.of_store("rows"));
    rows.insert_many((0..10).map(row)).await.unwrap();
    let mut transaction = store.begin(Writer::Source).await.unwrap();
    let options = FindOptions::builder().sort(doc! { "_id": 1 }).build();
    let few = |document: &RawDocumentBuf| document.get_i32("_id").unwrap() < 4;
    let found = transaction.find_while("rows", doc! {}, options, few).await.unwrap();
    assert_eq!(found, (0..4).map(row).collect::<Vec<_>>());

    insert(store, Writer::Recorder, 10).await.unwrap();
    let group = vec![doc! { "$group": { "_id": null, "rows": { "$sum": 1 } } }];
    let summed = transaction.aggregate("rows", group).await.unwrap();
    assert_eq!(
        summed[0].get_i32("rows").ok(),
        Some(10),
        "as it was when the transaction began"
    );

    let set = || rawdoc! { "$set": { "n": 1 } };
    let updates = [
        update_row(rawdoc! { "_id": { "$lt": 3 } }, set(), true),
        update_row(rawdoc! { "_id": 0 }, set(), false),
        upsert_row(rawdoc! { "_id": 99 }, set()),
        update_row(rawdoc! { "_id": 98 }, set(), false),
    ];
    let reply = transaction.update("rows", updates.iter()).await.unwrap();
    assert_eq!((reply.matched, reply.changed), (5, 4));
    transaction.commit().await.unwrap();
    assert_eq!(
        fixture
            .collection("rows")
            .count_documents(doc! { "n": 1 })
            .await
            .unwrap(),
        4
    );
}

#[tokio::test]
async fn what_was_not_committed_did_not_happen_and_holds_up_nobody() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.of_store("rows").insert_one(row(0)).await.unwrap();
    let mut left = store.begin(Writer::Source).await.unwrap();
    let update = update_row(row(0), rawdoc! { "$set": { "n": 1 } }, false);
    left.update("rows", [&update].into_iter()).await.unwrap();
    drop(left);
    let mut next = store.begin(Writer::Source).await.unwrap();
    next.update("rows", [&update].into_iter()).await.unwrap();
    next.commit().await.unwrap();
}

#[tokio::test]
async fn the_sessions_of_a_dead_instance_are_ended_by_another() {
    let fixture = Fixture::new().await;
    fixture.of_store("rows").insert_one(row(0)).await.unwrap();
    let update = update_row(row(0), rawdoc! { "$set": { "n": 1 } }, false);
    let mut dead = Vec::new();
    for writer in [Writer::Source, Writer::Recorder, Writer::Upkeep] {
        let mut transaction = fixture.store.begin(writer).await.unwrap();
        let own = upsert_row(rawdoc! { "_id": writer as i32 + 1 }, rawdoc! { "$set": { "n": 1 } });
        transaction.update("rows", [&own].into_iter()).await.unwrap();
        dead.push(transaction);
    }
    dead[0].update("rows", [&update].into_iter()).await.unwrap();

    let other = Fixture::over(fixture_uri(&fixture).await.as_str(), fixture.client.clone()).await;
    let ids = fixture.store.session_ids();
    assert_eq!(ids.len(), 7);
    other.store.end_sessions(&ids).await.unwrap();
    let row = fixture.collection("rows");
    row.update_one(doc! { "_id": 0 }, doc! { "$set": { "n": 2 } })
        .await
        .unwrap();
    for transaction in dead {
        assert_eq!(transaction.commit().await.unwrap_err().kind(), Kind::Conflict);
    }
    assert_eq!(count(&fixture).await, 1);
}

async fn fixture_uri(_: &Fixture) -> String {
    certhookd::sandbox::shared().await.unwrap().uri().to_owned()
}

#[tokio::test]
async fn a_commit_without_a_reply_is_asked_for_until_it_is_known() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(&set).await;
    let store = &fixture.store;
    fixture.of_store("rows").insert_one(row(0)).await.unwrap();
    let admin = set.client().await.unwrap().database("admin");
    let entered = |times: i32| {
        let wait = doc! { "waitForFailPoint": "failCommand", "timesEntered": times, "maxTimeMS": 60_000 };
        let admin = &admin;
        async move { admin.run_command(wait).await.unwrap() }
    };

    let lost = doc! { "failCommands": ["commitTransaction"], "closeConnection": true };
    fixture.fail(lost.clone()).await;
    let commit = tokio::spawn({
        let store = store.clone();
        async move { insert(&store, Writer::Source, 1).await }
    });
    entered(4).await;
    fixture.heal().await;
    commit.await.unwrap().unwrap();
    assert_eq!(count(&fixture).await, 2);

    // It was done, and only the confirmation got lost.
    let unconfirmed = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
    let unconfirmed = doc! { "failCommands": ["commitTransaction"], "writeConcernError": unconfirmed };
    fixture.fail(unconfirmed).await;
    let commit = tokio::spawn({
        let store = store.clone();
        async move { insert(&store, Writer::Source, 2).await }
    });
    tokio::time::timeout(Duration::from_secs(60), async { while count(&fixture).await < 3 {} })
        .await
        .unwrap();
    fixture.heal().await;
    commit.await.unwrap().unwrap();

    // Ended by somebody meanwhile.
    fixture.fail(lost).await;
    let commit = tokio::spawn({
        let store = store.clone();
        async move { insert(&store, Writer::Source, 3).await }
    });
    tokio::time::timeout(Duration::from_secs(60), async {
        while store.outage().lasts().is_none() {
            tokio::task::yield_now().await
        }
    })
    .await
    .unwrap();
    admin
        .run_command(doc! { "killSessions": [&store.session_ids()[0]] })
        .await
        .unwrap();
    fixture.heal().await;
    let gone = commit.await.unwrap().unwrap_err();
    assert_eq!((gone.kind(), gone.code()), (Kind::Conflict, Some(251)), "{gone}");
    assert_eq!(count(&fixture).await, 3);
}

#[tokio::test]
async fn a_read_session_reads_nothing_older_than_the_last_confirmed_write() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let rows = fixture.of_store("rows");
    rows.insert_one(row(0)).await.unwrap();
    insert(store, Writer::Source, 1).await.unwrap();
    let database = fixture.client.database(&fixture.app_name);
    database.run_command(doc! { "profile": 2 }).await.unwrap();
    let mut session = store.read_session().await.unwrap();
    let mut summed = Vec::new();
    let group = vec![doc! { "$group": { "_id": null, "rows": { "$sum": 1 } } }];
    let read = session.aggregate("rows", group, AggregateOptions::default(), |row| {
        summed.push(row);
        true
    });
    read.await.unwrap();
    assert_eq!(summed[0].get_i32("rows").ok(), Some(2));
    database.run_command(doc! { "profile": 0 }).await.unwrap();

    let written = fixture.client.database("local").collection::<Document>("oplog.rs");
    let newest = doc! { "ns": "admin.$cmd", "o.applyOps.ns": format!("{}.rows", fixture.app_name) };
    let written = written
        .find_one(newest)
        .sort(doc! { "$natural": -1 })
        .await
        .unwrap()
        .unwrap();
    let concerned = doc! {
        "command.readConcern.level": "majority",
        "command.readConcern.afterClusterTime": { "$gte": written.get_timestamp("ts").unwrap() },
    };
    let profiled = database
        .collection::<Document>("system.profile")
        .count_documents(concerned)
        .await
        .unwrap();
    assert_eq!(profiled, 1);
}
