//! `certhookd check`, and the starts for which waiting is of no use.

mod circumstances;
pub mod privileges;

use bson::{DateTime, doc};
use certhookd::sandbox::shared;
use mongodb::IndexModel;
use mongodb::options::IndexOptions;

use crate::fixture::{Fixture, Outcome, certificate, expired};

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
    for point in [
        "configuration: /",
        "uri: from /",
        "connection: 127.0.0.1:",
        "replica set: ",
        "privilege: all are granted",
        "index: ",
        "first scan: no certificate",
        "endpoints: 0 served, 0 off, 0 out of service",
    ] {
        assert_eq!(
            good.iter().filter(|line| line.starts_with(point)).count(),
            1,
            "{good:#?}"
        );
    }
    let privileges = good.iter().filter(|line| line.starts_with("privilege: "));
    assert_eq!(privileges.count(), 8, "{good:#?}");
    let name = fixture.database.name();
    let absent = |collection: &str| format!("collection: {collection} does not exist in database {name}");
    assert_eq!(told(&check, "WARN"), ["badgeusers", "memberconfigs"].map(absent));
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
async fn what_is_there_is_told() {
    let fixture = Fixture::new().await;
    let (mut off, mut faulty) = (fixture.endpoint("/off"), fixture.endpoint("/faulty"));
    off.insert("enabled", false);
    faulty.insert("url", "ftp://receiver.test");
    let id = faulty.get_object_id("_id").unwrap();
    let organization = fixture.organization(vec![fixture.endpoint("/a"), off, faulty]).await;
    let long_ago = certificate(organization, Some(DateTime::from_millis(1_000)));
    let documents = [
        expired(organization),
        expired(organization),
        long_ago,
        certificate(organization, None),
    ];
    fixture.badge_users().insert_many(documents).await.unwrap();
    let fixture = fixture.with("scan.not_before = \"2001-01-01T00:00:00Z\"");
    let check = fixture.outcome(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    let good = told(&check, "ok");
    for line in [
        "collection: badgeusers, 4 documents",
        "collection: memberconfigs, 1 document",
        "collection: webhook_outbox does not exist: created at the start",
        "endpoints: 1 served, 1 off, 1 out of service",
    ] {
        assert!(good.contains(&line), "{line}: {good:#?}");
    }
    assert!(
        good.iter()
            .any(|line| line.starts_with("first scan: 2 certificates would")),
        "{good:#?}"
    );
    let warned = told(&check, "WARN");
    assert_eq!(warned.len(), 1, "{warned:#?}");
    assert!(
        warned[0].starts_with(&format!("endpoint: {organization}/{id} is out of service: ")),
        "{warned:#?}"
    );
    // One is not served, so much the log need not repeat.
    assert_eq!(
        check.log.iter().filter(|line| line["level"] == "WARN").count(),
        0,
        "{check:?}"
    );
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
    let database = fixture.database.name();
    for (uri, looked_up_in) in [
        (uri.clone(), "admin"),
        (uri.replace("/?", &format!("/{database}?")), database),
        (uri.replace("/?", &format!("/{database}?authSource=users&")), "users"),
    ] {
        let outcome = |command| {
            let mut command = fixture.command(&[command]);
            command.env("CERTHOOKD_MONGODB__URI", &uri);
            Outcome::of(command)
        };
        let (check, run, status) = tokio::join!(outcome("check"), outcome("run"), outcome("status"));
        let whose =
            format!("AuthenticationFailed (18): Authentication failed (user nobody of database {looked_up_in}, ");
        assert_eq!((check.code, run.code), (Some(78), Some(78)), "{check:?} {run:?}");
        let at = told(&check, "FAIL")[0].strip_prefix("connection: ").unwrap();
        let (at, fault) = at.split_once(": ").unwrap();
        assert!(fault.starts_with(&whose), "{fault}");
        assert!(
            run.errors()[0].starts_with(&format!("MongoDB refuses the login: {whose}")),
            "{run:?}"
        );
        assert!(
            status.errors()[0].starts_with(&format!("MongoDB at {at}: {whose}")),
            "{status:?}"
        );
        assert!(!format!("{check:?} {run:?} {status:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_validator_on_a_collection_of_ours_is_named() {
    let fixture = Fixture::new().await;
    let ours = ["webhook_outbox", "webhook_state", "webhook_stats", "webhook_operations"];
    for name in ours {
        let create = doc! { "create": name, "validator": { "state": { "$ne": "delivered" } } };
        fixture.database.run_command(create).await.unwrap();
    }
    let check = fixture.outcome(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    let told_of = |check: &Outcome| -> Vec<_> {
        let lines = told(check, "WARN").into_iter();
        lines
            .filter(|line| line.contains("validator"))
            .map(str::to_owned)
            .collect()
    };
    let named = told_of(&check);
    let database = fixture.database.name();
    for name in ours {
        let line = format!("collection: {name} has a validator, ");
        let command = format!("db.getSiblingDB({database:?}).runCommand({{ collMod: \"{name}\", validator: {{}} }})");
        assert!(
            named
                .iter()
                .any(|found| found.starts_with(&line) && found.ends_with(&command)),
            "{name} is not in {named:#?}"
        );
        let mend = doc! { "collMod": name, "validator": {} };
        fixture.database.run_command(mend).await.unwrap();
    }
    assert_eq!(told_of(&fixture.outcome(&["check"]).await), [""; 0]);
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
