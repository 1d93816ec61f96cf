//! The commands that are run by hand.

use bson::doc;
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use http::StatusCode;
use serde_json::Value;

use crate::fixture::{Fixture, Outcome, certificate, expired};
use crate::layout::{self, expiry};

const FAULTS: &str = "scan.schedule = \"every minute\"\nscan.timezone = \"Europe/Pari\"\ndelivery.concurency = 3\nqueue.capacity = \"many\"\n\
                      delivery.max_attempts = 0\nservise.shutdown_grace = \"1s\"";

#[tokio::test]
async fn every_fault_is_named_at_once_with_the_nearest_key_and_exit_code_78() {
    let fixture = Fixture::new().await.with(FAULTS);
    let faults = [
        "delivery.concurency: expected a key, found an unknown one; did you mean delivery.concurrency?",
        "delivery.max_attempts: expected",
        "queue.capacity: expected",
        "scan.schedule: expected six cron fields",
        "scan.timezone: expected",
        "servise: expected a section, found an unknown one; did you mean service?",
    ];
    for command in [&["run"][..], &["scan"], &["status"]] {
        let outcome = fixture.outcome(command).await;
        assert_eq!(outcome.code, Some(78), "{outcome:?}");
        let errors = outcome.errors();
        assert_eq!(errors.len(), faults.len(), "{errors:#?}");
        for (error, fault) in errors.iter().zip(faults) {
            assert!(error.contains(fault), "{error} instead of {fault}");
        }
    }
    let check = fixture.outcome(&["check"]).await;
    assert_eq!(check.code, Some(78));
    assert_eq!(
        check
            .stdout
            .lines()
            .filter(|line| line.starts_with("FAIL  configuration: "))
            .count(),
        faults.len()
    );
}

#[tokio::test]
async fn a_variable_overrides_the_file_and_a_wrong_one_is_named() {
    let fixture = Fixture::new().await.with("delivery.source = \"file\"");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let mut command = fixture.command(&["scan"]);
    command.env("CERTHOOKD_DELIVERY__SOURCE", "environment");
    assert_eq!(Outcome::of(command).await.code, Some(0));
    assert_eq!(fixture.receiver.requests()[0].header("x-webhook-source"), "environment");

    let mut command = fixture.command(&["scan"]);
    command.env("CERTHOOKD_DELIVERY__SORCE", "environment");
    let outcome = Outcome::of(command).await;
    assert_eq!(outcome.code, Some(78));
    let errors = outcome.errors();
    assert!(
        errors[0].contains("did you mean CERTHOOKD_DELIVERY__SOURCE?"),
        "{errors:?}"
    );
}

#[tokio::test]
async fn bad_usage_exits_2() {
    let fixture = Fixture::new().await;
    for arguments in [&["scan", "--dry"][..], &["skan"], &[]] {
        assert_eq!(fixture.outcome(arguments).await.code, Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn pages_and_completions_are_of_every_command_that_people_see() {
    let fixture = Fixture::new().await;
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().to_str().unwrap();
    assert_eq!(fixture.outcome(&["generate", path]).await.code, Some(0));
    // As bash does it, after `certhookd <Tab>`.
    let complete = "source completions/certhookd.bash; COMP_WORDS=(certhookd ''); COMP_CWORD=1\n\
                    _certhookd certhookd '' certhookd; printf '%s\\n' \"${COMPREPLY[@]}\" | grep -v '^-'";
    let bash = std::process::Command::new("bash")
        .args(["-ec", complete])
        .current_dir(path)
        .output();
    let offered = String::from_utf8(bash.unwrap().stdout).unwrap();
    let mut offered: Vec<_> = offered.lines().collect();
    offered.sort_unstable();
    let seen = [
        "backfill",
        "cancel",
        "check",
        "deliveries",
        "demo",
        "encrypt",
        "erase",
        "events",
        "health",
        "hold",
        "release",
        "replay",
        "run",
        "scan",
        "send-test",
        "show",
        "status",
    ];
    assert_eq!(offered, seen);
    for command in seen {
        let page = std::fs::read_to_string(format!("{path}/man/certhookd-{command}.1")).unwrap();
        assert!(page.contains("\n.SH OPTIONS\n"), "{page}");
    }
    assert_eq!(
        std::fs::read_dir(format!("{path}/man")).unwrap().count(),
        seen.len() + 1
    );
    for file in ["_certhookd", "certhookd.fish"] {
        assert!(
            std::fs::read_to_string(format!("{path}/completions/{file}"))
                .unwrap()
                .contains("send-test")
        );
    }
}

#[tokio::test]
async fn scan_delivers_what_it_found_and_says_what_became_of_it() {
    let fixture = Fixture::new().await;
    fixture.receiver.script("/gone", [Response::status(StatusCode::GONE)]);
    let fine = fixture
        .organization(vec![fixture.endpoint("/a"), fixture.endpoint("/b")])
        .await;
    fixture
        .badge_users()
        .insert_many([expired(fine), expired(fine)])
        .await
        .unwrap();
    let outcome = fixture.outcome(&["scan"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome
            .stdout
            .contains("found 2 certificates, 4 deliveries: 4 delivered, 0 dead"),
        "{outcome:?}"
    );
    assert_eq!(fixture.receiver.total(), 4);

    let gone = fixture.organization(vec![fixture.endpoint("/gone")]).await;
    fixture.badge_users().insert_one(expired(gone)).await.unwrap();
    let outcome = fixture.outcome(&["scan"]).await;
    assert_eq!(outcome.code, Some(1), "a dead letter: {outcome:?}");
    assert!(
        outcome
            .stdout
            .contains("found 1 certificate, 1 delivery: 0 delivered, 1 dead"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_dry_run_counts_per_organization_and_writes_and_sends_nothing() {
    let fixture = Fixture::new().await;
    let two = fixture
        .organization(vec![fixture.endpoint("/a"), fixture.endpoint("/b")])
        .await;
    let none = bson::oid::ObjectId::new();
    let mut odd = expired(two);
    odd.insert("expires", "soon");
    let documents = [
        expired(two),
        expired(two),
        expired(two),
        expired(none),
        odd,
        certificate(two, None),
    ];
    fixture.badge_users().insert_many(&documents).await.unwrap();
    let outcome = fixture.outcome(&["scan", "--dry-run"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let row = |organization: &str| {
        let line = outcome
            .stdout
            .lines()
            .find(|line| line.starts_with(organization))
            .unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("organization"), ["certificates", "deliveries"]);
    assert_eq!(row(&two.to_hex()), ["3", "6"]);
    assert_eq!(row(&none.to_hex()), ["1", "0"]);
    assert_eq!(row("(rejected)"), ["1", "0"]);

    let mut names = fixture.database.list_collection_names().await.unwrap();
    names.sort();
    assert_eq!(names, ["badgeusers", "memberconfigs"]);
    assert_eq!(fixture.badge_users().list_index_names().await.unwrap(), ["_id_"]);
    let unsent = doc! { "expiryReminderSent": false };
    assert_eq!(fixture.badge_users().count_documents(unsent).await.unwrap(), 6);
    assert_eq!(fixture.receiver.total(), 0);
}

#[tokio::test]
async fn status_of_an_empty_database_says_that_nothing_happened() {
    let fixture = Fixture::new().await;
    layout::indexes(&fixture).await;
    let outcome = fixture.outcome(&["status"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("last scan  never") && outcome.stdout.contains("stream     never started"));
    assert!(outcome.stdout.contains("0 pending, 0 dead letters"), "{outcome:?}");
}

/// Three endpoints with pending deliveries, dead letters or neither, an instance, a scan and a stream; returns the organization.
async fn with_a_history(fixture: &Fixture) -> bson::oid::ObjectId {
    layout::indexes(fixture).await;
    let (flaky, gone, mut off) = (
        fixture.endpoint("/flaky"),
        fixture.endpoint("/gone"),
        fixture.endpoint("/off"),
    );
    off.insert("enabled", false);
    let endpoints = [flaky, gone, off];
    let organization = fixture.organization(endpoints.to_vec()).await;
    let [flaky, gone, _] =
        endpoints.map(|endpoint| format!("{organization}/{}", endpoint.get_object_id("_id").unwrap()));
    let documents = [
        layout::batch(&flaky, &[1, 2].map(expiry)),
        layout::dead(&gone, &expiry(1)),
        layout::dead(&gone, &expiry(2)),
    ];
    layout::outbox(fixture).insert_many(documents).await.unwrap();
    let figures = [layout::figures(&flaky, 2, 1), layout::figures(&gone, 0, 2)];
    fixture.statistics().insert_many(figures).await.unwrap();
    let now = Clock::local();
    let scan = doc! {
        "_id": "scan", "at": now, "instance": "a", "found": 2_i64, "deliveries": 4_i64, "rejected": 0_i64, "durationMs": 12_i64,
    };
    let watch = doc! { "_id": "watch", "at": now };
    let state = [layout::instance("a", 1), layout::lease("a"), scan, watch];
    fixture.state().insert_many(state).await.unwrap();
    organization
}

#[tokio::test]
async fn status_shows_instances_outbox_endpoints_scan_and_stream_as_json() {
    let fixture = Fixture::new().await;
    let organization = with_a_history(&fixture).await;
    let json = fixture.outcome(&["status", "--json"]).await;
    assert_eq!(json.code, Some(0), "{json:?}");
    let status: Value = serde_json::from_str(&json.stdout).unwrap();
    let pending = &status["outbox"];
    assert_eq!((&pending["pending"], &pending["dead_letters"]), (&2.into(), &2.into()));
    assert!(pending["oldest_pending_s"].as_u64().unwrap() < 60);
    assert_eq!(
        (&status["last_scan"]["found"], &status["last_scan"]["deliveries"]),
        (&2.into(), &4.into())
    );
    assert!(status["stream"]["last_event_at"].as_str().unwrap().ends_with('Z'));
    let instance = &status["instances"][0];
    assert_eq!(
        (&instance["state"], &instance["holds_lease"], &instance["pid"]),
        (&"alive".into(), &true.into(), &4711.into())
    );
    assert_eq!(status["dead_letters"][0]["count"], 2);
    assert_eq!(status["dead_letters"][0]["reason"], "100 attempts failed");
    assert_eq!(status["next"][0]["organization"], organization.to_hex());
    let endpoint = |path: &str| {
        let all = status["endpoints"].as_array().unwrap();
        all.iter().find(|endpoint| endpoint["name"] == path).unwrap().clone()
    };
    let counts = |path: &str| {
        ["delivered", "failed_attempts", "dead_letters"].map(|count| endpoint(path)[count].as_u64().unwrap())
    };
    assert_eq!(
        [counts("/flaky"), counts("/gone"), counts("/off")],
        [[2, 1, 0], [0, 2, 2], [0, 0, 0]]
    );
    assert_eq!(
        (&endpoint("/flaky")["state"], &endpoint("/off")["state"]),
        (&"served".into(), &"off".into())
    );
}

#[tokio::test]
async fn status_shows_them_as_a_table() {
    let fixture = Fixture::new().await;
    with_a_history(&fixture).await;
    let table = fixture.outcome(&["status"]).await.stdout;
    assert!(table.contains("outbox     2 pending, 2 dead letters"), "{table}");
    assert!(table.contains(": 2 found, 4 deliveries"), "{table}");
    let instance: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        (instance[0], instance[4], instance.last()),
        ("a", "alive", Some(&"source"))
    );
    let row = table.lines().find(|line| line.contains("/gone")).unwrap();
    assert_eq!(
        row.split_whitespace().skip(2).collect::<Vec<_>>(),
        ["/gone", "served", "0", "2", "0", "2", "0"]
    );
}
