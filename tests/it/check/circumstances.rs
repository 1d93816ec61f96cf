//! A connection that can't be had: one line says why, whatever the driver has to tell.

use certhookd::sandbox::{Options, ReplicaSet, shared};

use super::told;
use crate::fixture::{Fixture, Outcome};

/// What a driver's dump has in it.
const DUMP: [&str; 8] = [
    "Kind:",
    "labels",
    "RawDocumentBuf",
    "Topology",
    "Address:",
    "{",
    "Some(",
    "hunter2",
];

/// The only line of the check that says FAIL, and its exit code.
fn fault(check: &Outcome) -> (Option<i32>, String) {
    let faults = told(check, "FAIL");
    assert_eq!(faults.len(), 1, "{check:?}");
    for dumped in DUMP {
        assert!(!faults[0].contains(dumped), "{dumped} in {}", faults[0]);
    }
    (check.code, faults[0].to_owned())
}

#[tokio::test]
async fn what_is_no_member_of_the_set_that_is_asked_for_says_what_it_is() {
    let set = shared().await.unwrap();
    let (host, options) = set.uri().split_once("/?").unwrap();
    let (_, name) = options.split_once("replicaSet=").unwrap();
    let name = name.split('&').next().unwrap();
    let standalone = ReplicaSet::start(Options {
        members: None,
        ..Options::default()
    });
    let standalone = standalone.await.unwrap();
    let alone = standalone
        .uri()
        .split("/?")
        .next()
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let wrong = format!("the replica set is called {name}, but the connection string says replicaSet=wrong");
    for (uri, told) in [
        (format!("{host}/?replicaSet=wrong"), wrong.clone()),
        (format!("{host}/?replicaSet=wrong&directConnection=true"), wrong.clone()),
        (format!("{host},127.0.0.1:1/?replicaSet=wrong"), wrong.clone()),
        (
            format!("{host}/?replicaSet={}", name.to_uppercase()),
            format!("the replica set is called {name}, "),
        ),
        (format!("{alone}/?replicaSet=rs0"), "this mongod is standalone".into()),
    ] {
        let uri = format!("{uri}&serverSelectionTimeoutMS=500");
        let fixture = Fixture::on(&uri, set.client().await.unwrap());
        let (code, fault) = fault(&fixture.outcome(&["check"]).await);
        assert_eq!(code, Some(78), "{uri}: {fault}");
        assert!(
            fault.starts_with("replica set: ") && fault.contains(&told),
            "{uri}: {fault}"
        );
        let run = fixture.outcome(&["run"]).await;
        assert_eq!(run.code, Some(78), "{uri}: {run:?}");
        assert!(run.errors()[0].starts_with(&told), "{run:?}");
        for by_hand in [
            &["status"][..],
            &["events"],
            &["replay", "--all"],
            &["send-test", "--endpoint", "x"],
        ]
        .into_iter()
        .filter(|_| uri.contains("/?replicaSet=wrong&server"))
        {
            let outcome = fixture.outcome(by_hand).await;
            assert_eq!(outcome.code, Some(78), "{by_hand:?}: {outcome:?}");
            assert!(outcome.errors()[0].contains(&told), "{by_hand:?}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn what_does_not_reply_as_a_mongod_is_one_line_with_its_host() {
    let set = shared().await.unwrap();
    let fixture = Fixture::new().await;
    let (host, options) = set.uri().split_once("/?").unwrap();
    let receiver = fixture.receiver.url("/");
    let receiver = receiver.split('/').nth(2).unwrap();
    let at = host.trim_start_matches("mongodb://");
    for (uri, starts, code) in [
        (
            "mongodb://a:hunter2@127.0.0.1:1".to_owned(),
            "connection: 127.0.0.1:1: no usable server: ",
            1,
        ),
        (
            "mongodb://127.0.0.1:1,127.0.0.1:2".to_owned(),
            "connection: 127.0.0.1:1,127.0.0.1:2: no usable server: ",
            1,
        ),
        (
            format!("mongodb://{receiver}"),
            &format!("connection: {receiver}: no usable server: "),
            1,
        ),
        (
            format!("mongodb://{at}/?tls=true&{options}"),
            &format!("connection: {at}: no usable server: "),
            1,
        ),
        (
            "mongodb://nowhere.invalid".to_owned(),
            "connection: nowhere.invalid:27017: no usable server: ",
            1,
        ),
        (
            format!("mongodb://a:hunter2@{at}/?{options}"),
            &format!("connection: {at}: AuthenticationFailed (18): Authentication failed (user a of database admin, "),
            78,
        ),
        (
            format!("mongodb://a:hunter2@{at}/?authMechanism=PLAIN&{options}"),
            &format!("connection: {at}: MechanismUnavailable (334)"),
            78,
        ),
        (
            format!("mongodb://{at},127.0.0.1:1/?directConnection=true"),
            "connection: ",
            78,
        ),
        (
            format!("mongodb://{at}/?loadBalanced=true"),
            &format!("connection: {at}: "),
            78,
        ),
    ] {
        let parted = if uri.contains('?') { '&' } else { '?' };
        let uri = format!(
            "{}{parted}serverSelectionTimeoutMS=500",
            if parted == '?' { format!("{uri}/") } else { uri }
        );
        let fixture = Fixture::on(&uri, set.client().await.unwrap());
        let (exit, fault) = fault(&fixture.outcome(&["check"]).await);
        assert_eq!(exit, Some(code), "{uri}: {fault}");
        assert!(fault.starts_with(starts), "{uri}: {fault}");
        assert!(fault.len() < 300, "{fault}");
    }
}
