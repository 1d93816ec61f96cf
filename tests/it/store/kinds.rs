//! Which kind an error is of, by the errors that the driver makes of a real mongod's replies.

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc, rawdoc};
use certhookd::sandbox::{Options, ReplicaSet};
use certhookd::store::{Error, Kind, Result, Store, Writer, update_row};
use mongodb::options::{CreateCollectionOptions, Hint};

use super::fixture::{Fixture, config};

const UNAVAILABLE: [i32; 12] = [6, 50, 64, 89, 91, 189, 262, 371, 10107, 11600, 13435, 14031];
const CONFLICT: [i32; 5] = [24, 112, 246, 251, 290];
const TOO_LARGE: [i32; 5] = [146, 257, 292, 388, 10334];
const REFUSED: [i32; 5] = [2, 9, 17280, 40415, 7_654_321];
const DENIED: [i32; 1] = [13];
const AUTHENTICATION: [i32; 3] = [18, 214, 334];

/// The error, which tells nothing of what was asked.
fn error<T>(result: Result<T>) -> Error {
    let Err(error) = result else { panic!("it worked") };
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("hunter2") && text.lines().count() == 1, "{text}");
    }
    error
}

async fn insert(store: &Store) -> Result<()> {
    let row = rawdoc! { "secret": "hunter2" };
    store
        .database()
        .collection::<RawDocumentBuf>("rows")
        .insert_one(row)
        .await?;
    Ok(())
}

async fn find(store: &Store) -> Result<()> {
    let rows = store.database().collection::<Document>("rows");
    rows.find_one(doc! { "secret": "hunter2" }).await?;
    Ok(())
}

/// Both errors of a store whose commands fail so. Each is of a client of its own: one that was told of an election looks for a primary first.
async fn failing(set: &ReplicaSet, data: Document) -> [Error; 2] {
    let (one, other) = (Fixture::on(set).await, Fixture::on(set).await);
    one.fail(data.clone()).await;
    let inserted = error(insert(&one.store).await);
    other.fail(data).await;
    let found = error(find(&other.store).await);
    other.heal().await;
    [inserted, found]
}

#[tokio::test]
async fn each_code_of_mongodb_is_of_its_kind() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let kinds: [(&[i32], Kind); 6] = [
        (&UNAVAILABLE, Kind::Unavailable),
        (&CONFLICT, Kind::Conflict),
        (&TOO_LARGE, Kind::TooLarge),
        (&REFUSED, Kind::Refused),
        (&DENIED, Kind::Denied),
        (&AUTHENTICATION, Kind::Authentication),
    ];
    for (codes, kind) in kinds {
        for code in codes {
            let data = doc! { "failCommands": ["insert", "find"], "errorCode": code };
            for error in failing(&set, data).await {
                assert_eq!((error.kind(), error.code()), (kind, Some(*code)), "{error}");
            }
        }
    }
    let transient = doc! {
        "failCommands": ["insert", "find"], "errorCode": 7_654_321, "errorLabels": ["TransientTransactionError"],
    };
    let closed = doc! { "failCommands": ["insert", "find"], "closeConnection": true };
    for (data, kind) in [(closed, Kind::Unavailable), (transient, Kind::Conflict)] {
        for error in failing(&set, data).await {
            assert_eq!(error.kind(), kind, "{error}");
        }
    }
}

#[tokio::test]
async fn a_write_that_a_majority_did_not_confirm_is_unavailable() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(&set).await;
    insert(&fixture.store).await.unwrap();
    let concern = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
    fixture
        .fail(doc! { "failCommands": ["insert"], "writeConcernError": concern })
        .await;
    let unconfirmed = error(insert(&fixture.store).await);
    assert_eq!(unconfirmed.kind(), Kind::Unavailable, "{unconfirmed}");
    let mut transaction = fixture.store.begin(Writer::Source).await.unwrap();
    let unconfirmed = error(transaction.insert("rows", [rawdoc! {}].iter()).await);
    assert_eq!(unconfirmed.kind(), Kind::Unavailable, "{unconfirmed}");
}

#[tokio::test]
async fn a_mongod_that_is_not_there_is_unavailable() {
    let fixture = Fixture::new().await;
    let uri = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100";
    let nobody = Fixture::over(uri, fixture.client.clone()).await;
    let error = error(find(&nobody.store).await);
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(
        error.to_string(),
        "no usable server: I/O error: Connection refused (os error 111)"
    );
}

#[tokio::test]
async fn what_mongodb_refuses_for_one_document_is_refused() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let validator = CreateCollectionOptions::builder()
        .validator(doc! { "good": true })
        .build();
    let create = store.database();
    create
        .create_collection("strict")
        .with_options(validator)
        .await
        .unwrap();
    let strict = fixture.of_store("strict");
    let good = rawdoc! { "_id": 1, "good": true, "secret": "hunter2" };
    strict.insert_one(&good).await.unwrap();

    let bad = error(
        strict
            .insert_one(rawdoc! { "secret": "hunter2" })
            .await
            .map_err(Error::from),
    );
    assert_eq!((bad.kind(), bad.code()), (Kind::Refused, Some(121)));
    assert_eq!(bad.row().map(|row| row.index), Some(0));
    let twice = error(strict.insert_one(&good).await.map_err(Error::from));
    assert_eq!((twice.kind(), twice.is_duplicate()), (Kind::Refused, true), "{twice}");
    let id = doc! { "$set": { "_id": "hunter2" } };
    let immutable = error(strict.update_one(doc! { "_id": 1 }, id).await.map_err(Error::from));
    assert_eq!(
        (immutable.kind(), immutable.code()),
        (Kind::Refused, Some(66)),
        "{immutable}"
    );
    let unknown = strict.find_one(doc! { "$secret": "hunter2" });
    let unknown = error(unknown.await.map_err(Error::from));
    assert_eq!((unknown.kind(), unknown.code()), (Kind::Refused, Some(2)), "{unknown}");

    let mut transaction = store.begin(Writer::Source).await.unwrap();
    let rows = [
        rawdoc! { "_id": 2, "good": true },
        rawdoc! { "_id": 3, "secret": "hunter2" },
    ];
    let refused = error(transaction.insert("strict", rows.iter()).await);
    assert_eq!(refused.kind(), Kind::Refused);
    assert_eq!(refused.row().map(|row| (row.index, row.code)), Some((1, 121)));
    transaction.abort().await;
}

#[tokio::test]
async fn a_query_whose_index_was_dropped_is_to_be_repeated() {
    let fixture = Fixture::new().await;
    let rows = fixture.of_store("rows");
    rows.insert_one(rawdoc! { "_id": 1 }).await.unwrap();
    let hint = Hint::Name("none".into());
    let hinted = rows.find_one(doc! { "secret": "hunter2" }).hint(hint.clone());
    let hinted = error(hinted.await.map_err(Error::from));
    assert_eq!((hinted.kind(), hinted.code()), (Kind::Conflict, Some(2)), "{hinted}");
    let aggregated = rows.aggregate([doc! { "$match": { "secret": "hunter2" } }]).hint(hint);
    let aggregated = error(aggregated.await.map_err(Error::from));
    assert_eq!(aggregated.kind(), Kind::Conflict, "{aggregated}");
}

#[tokio::test]
async fn who_is_slower_in_a_transaction_meets_a_conflict() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.of_store("rows").insert_one(rawdoc! { "_id": 1 }).await.unwrap();
    let update: RawDocumentBuf = update_row(rawdoc! { "_id": 1 }, rawdoc! { "$inc": { "n": 1 } }, false);
    let new = rawdoc! { "_id": 2, "secret": "hunter2" };

    let mut slower = store.begin(Writer::Source).await.unwrap();
    let mut faster = store.begin(Writer::Recorder).await.unwrap();
    faster.update("rows", [&update].into_iter()).await.unwrap();
    let lost = error(slower.update("rows", [&update].into_iter()).await);
    assert_eq!((lost.kind(), lost.code()), (Kind::Conflict, Some(112)), "{lost}");
    let after = error(slower.insert("rows", [&new].into_iter()).await);
    assert_eq!((after.kind(), after.code()), (Kind::Conflict, Some(251)), "{after}");
    slower.abort().await;

    faster.insert("rows", [&new].into_iter()).await.unwrap();
    faster.commit().await.unwrap();
    let mut again = store.begin(Writer::Source).await.unwrap();
    let there = error(again.insert("rows", [&new].into_iter()).await);
    assert_eq!((there.kind(), there.is_duplicate()), (Kind::Conflict, true), "{there}");
    again.abort().await;
}

#[tokio::test]
async fn more_than_a_command_may_hold_is_too_large() {
    let fixture = Fixture::new().await;
    let rows = (0..2).map(|_| bson::RawBson::from(rawdoc! { "secret": "hunter2", "text": "x".repeat(9 << 20) }));
    let rows: bson::RawArrayBuf = rows.collect();
    let insert = rawdoc! { "insert": "rows", "documents": rows };
    let database = fixture.store.database();
    let error = error(database.run_raw_command(insert).await.map_err(Error::from));
    assert_eq!(error.kind(), Kind::TooLarge, "{error}");
}

/// Somebody who may read one collection of the database, logged in.
async fn reader(set: &ReplicaSet) -> Fixture {
    let root = Fixture::on(set).await;
    let database = root.client.database(&root.app_name);
    let privileges = doc! { "resource": { "db": &root.app_name, "collection": "rows" }, "actions": ["find"] };
    database
        .run_command(doc! { "createRole": "reader", "roles": [], "privileges": [privileges] })
        .await
        .unwrap();
    database
        .run_command(doc! { "createUser": "reader", "pwd": "hunter2", "roles": ["reader"] })
        .await
        .unwrap();
    let login = format!(
        "mongodb://reader:hunter2@127.0.0.1:{}/{}?directConnection=true",
        set.port(0),
        root.app_name
    );
    let store = Store::new(&config(&login, &root.app_name), root.stop.clone())
        .await
        .unwrap();
    Fixture { store, ..root }
}

#[tokio::test]
async fn a_missing_privilege_is_denied_and_named_and_a_missing_login_is_not_a_privilege() {
    let set = ReplicaSet::start(Options {
        login: true,
        ..Options::default()
    })
    .await
    .unwrap();
    let reader = reader(&set).await;
    let (store, database) = (&reader.store, &reader.app_name);
    find(store).await.unwrap();

    let insert = error(insert(store).await);
    let watch = error(reader.of_store("rows").watch().await.map_err(Error::from));
    let other = error(
        reader
            .of_store("others")
            .find_one(doc! { "secret": "hunter2" })
            .await
            .map_err(Error::from),
    );
    let sessions = error(
        store.end_sessions(&store.session_ids()).await.and(
            store
                .database()
                .run_command(doc! { "killAllSessions": [] })
                .await
                .map(drop)
                .map_err(Error::from),
        ),
    );
    for (error, shown, line) in [
        (insert, "insert", r#"collection: "rows" }, actions: ["insert"]"#),
        (
            watch,
            "aggregate",
            r#"collection: "rows" }, actions: ["find", "changeStream"]"#,
        ),
        (other, "find", r#"collection: "others" }, actions: ["find"]"#),
    ] {
        assert_eq!((error.kind(), error.code()), (Kind::Denied, Some(13)), "{error}");
        let denied = error.denied().unwrap();
        assert!(
            denied.to_string().starts_with(&format!("{shown} on {database}.")),
            "{denied}"
        );
        assert!(denied.role_line().contains(line), "{}", denied.role_line());
    }
    assert_eq!(sessions.kind(), Kind::Denied, "{sessions}");

    let nobody = format!("mongodb://127.0.0.1:{}/?directConnection=true", set.port(0));
    let wrong = format!(
        "mongodb://reader:wrong@127.0.0.1:{}/{database}?directConnection=true",
        set.port(0)
    );
    for uri in [nobody, wrong] {
        let store = Store::new(&config(&uri, database), reader.stop.clone()).await.unwrap();
        let error = error(find(&store).await);
        assert_eq!(error.kind(), Kind::Authentication, "{error}");
    }
}

#[tokio::test]
async fn a_login_that_was_refused_to_another_operation_is_no_outage() {
    let options = Options {
        login: true,
        ..Options::default()
    };
    let set = ReplicaSet::start(options).await.unwrap();
    let wrong = format!(
        "mongodb://reader:wrong@127.0.0.1:{}/?serverSelectionTimeoutMS=100",
        set.port(0)
    );
    let refused = Fixture::over(&wrong, set.client().await.unwrap()).await;
    // The driver takes a server for unusable once it has refused a login.
    let unusable = async {
        loop {
            let both = tokio::join!(find(&refused.store), find(&refused.store));
            for error in [error(both.0), error(both.1)] {
                assert_eq!(error.kind(), Kind::Authentication, "{error}");
                if error.to_string() == "no usable server: SCRAM failure: Authentication failed." {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), unusable).await.unwrap();
}
