//! A standalone mongod has neither transactions nor change streams: it is refused, and told how to become a replica set.

use certhookd::sandbox::{Options, ReplicaSet};

use crate::fixture::Fixture;

#[tokio::test]
async fn a_standalone_mongod_is_exit_78_whatever_is_asked_of_it() {
    let options = Options {
        members: None,
        ..Options::default()
    };
    let set = ReplicaSet::start(options).await.unwrap();
    for settings in ["completions.enabled = true", "completions.enabled = false"] {
        let fixture = Fixture::on(set.uri(), set.client().await.unwrap()).with(settings);
        let check = fixture.outcome(&["check"]).await;
        assert_eq!(check.code, Some(78), "{settings}: {check:?}");
        let faults: Vec<_> = check.stdout.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert_eq!(faults.len(), 1, "{settings}: {faults:#?}");
        assert!(faults[0].contains("replica set: ") && faults[0].contains("rs.initiate()"));
        for command in [&["run"][..], &["scan"], &["scan", "--dry-run"]] {
            let refused = fixture.outcome(command).await;
            assert_eq!(refused.code, Some(78), "{settings}: {refused:?}");
            let error = refused.errors()[0];
            assert!(error.contains("--replSet") && error.contains("transactions"), "{error}");
        }
        assert_eq!(
            fixture.database.list_collection_names().await.unwrap(),
            [""; 0],
            "nothing is written"
        );
    }
}
