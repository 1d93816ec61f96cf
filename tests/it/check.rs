//! `certhookd check`, and the starts that no waiting would mend.

use bson::doc;
use certhookd::sandbox::shared;
use mongodb::IndexModel;
use mongodb::options::IndexOptions;

use crate::fixture::{Fixture, Outcome};

/// The lines of the check that say so, without their mark.
fn told<'a>(check: &'a Outcome, mark: &str) -> Vec<&'a str> {
    check
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix(mark))
        .map(str::trim)
        .collect()
}

#[tokio::test]
async fn a_good_set_passes_point_by_point() {
    let fixture = Fixture::new().await;
    let check = fixture.outcome(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    assert_eq!(told(&check, "FAIL"), [""; 0]);
    let good = told(&check, "ok");
    for point in ["configuration", "connection", "replica set", "index"] {
        assert_eq!(
            good.iter().filter(|line| line.starts_with(point)).count(),
            1,
            "{good:#?}"
        );
    }
    assert_eq!(
        good.iter().filter(|line| line.starts_with("privilege")).count(),
        7,
        "{good:#?}"
    );
    assert_eq!(
        fixture.database.list_collection_names().await.unwrap(),
        [""; 0],
        "it writes nothing"
    );

    let without_index = fixture.with("scan.ensure_indexes = false").outcome(&["check"]).await;
    assert_eq!(without_index.code, Some(78), "{without_index:?}");
    assert!(told(&without_index, "FAIL")[0].starts_with("index: certhookd_scan on badgeusers is missing"));
}

#[tokio::test]
async fn a_mongodb_that_can_not_be_reached_is_exit_1() {
    let uri = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300";
    let fixture = Fixture::on(uri, shared().await.unwrap().client().await.unwrap());
    let check = fixture.outcome(&["check"]).await;
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(told(&check, "FAIL")[0].starts_with("connection: "));
    assert_eq!(fixture.outcome(&["status"]).await.code, Some(1));
    // By the configuration alone it is good.
    assert_eq!(fixture.outcome(&["check", "--config-only"]).await.code, Some(0));
}

#[tokio::test]
async fn a_host_that_can_not_be_looked_up_is_exit_1_and_a_file_that_is_not_there_is_exit_78() {
    for (uri, code) in [
        ("mongodb+srv://nowhere.invalid/", 1),
        ("mongodb://127.0.0.1:1/?tls=true&tlsCAFile=/nowhere/ca.pem", 78),
        (
            "mongodb://127.0.0.1:1/?tls=true&tlsCertificateKeyFile=/nowhere/key.pem",
            78,
        ),
    ] {
        let fixture = Fixture::on(uri, shared().await.unwrap().client().await.unwrap());
        let check = fixture.outcome(&["check"]).await;
        assert_eq!(check.code, Some(code), "{check:?}");
        if code == 78 {
            let run = fixture.outcome(&["run"]).await;
            assert_eq!(run.code, Some(78), "{run:?}");
            assert!(run.errors()[0].starts_with("mongodb.uri: "), "{run:?}");
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_exit_78_and_not_shown() {
    let set = shared().await.unwrap();
    // A mongod without access control checks the credentials that it is given all the same.
    let uri = set.uri().replace("mongodb://", "mongodb://nobody:hunter2@");
    let fixture = Fixture::on(&uri, set.client().await.unwrap());
    let check = fixture.outcome(&["check"]).await;
    assert_eq!(check.code, Some(78), "{check:?}");
    assert!(told(&check, "FAIL")[0].starts_with("connection: "));
    let run = fixture.outcome(&["run"]).await;
    assert_eq!(run.code, Some(78), "{run:?}");
    assert!(run.errors()[0].starts_with("MongoDB refuses to reply"), "{run:?}");
    assert!(!format!("{check:?} {run:?}").contains("hunter2"));
}

#[tokio::test]
async fn another_index_under_the_name_of_the_scan_s_is_exit_78_and_named() {
    let fixture = Fixture::new().await;
    let options = IndexOptions::builder().name("certhookd_scan".to_owned()).build();
    let index = IndexModel::builder()
        .keys(doc! { "expires": 1 })
        .options(options)
        .build();
    fixture.badge_users().create_index(index).await.unwrap();
    let run = fixture.outcome(&["run"]).await;
    assert_eq!(run.code, Some(78), "{run:?}");
    assert!(
        run.errors()[0].starts_with("MongoDB refuses to create the scan's index"),
        "{run:?}"
    );
}
