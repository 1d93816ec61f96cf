//! What commands by hand have in common: where they find what they need, readers that end, bad usage; and `status` among many
//! endpoints.

use std::process::Stdio;

use bson::doc;
use bson::oid::ObjectId;
use certhookd::sandbox::{Options, ReplicaSet};
use tokio::process::Command;

use crate::fixture::{Fixture, Outcome, endpoint_key};
use crate::layout::{self, expiry};

#[tokio::test]
async fn the_configuration_file_may_be_named_by_a_variable() {
    let fixture = Fixture::new().await;
    let command = |file: &std::path::Path, arguments: &[&str]| {
        let mut command = fixture.command(arguments);
        let path = std::env::var("PATH").unwrap();
        let mut bare = Command::new(command.as_std_mut().get_program());
        bare.env_clear()
            .env("PATH", path)
            .env("CERTHOOKD_CONFIG", file)
            .args(arguments);
        bare
    };
    let file = fixture.configure("");
    let check = Outcome::of(command(&file, &["check"])).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(
        check.stdout.contains(&format!("configuration: {}", file.display())),
        "{check:?}"
    );
    // An argument comes before it; one that is empty is none.
    let mut both = fixture.command(&["check", "--config-only"]);
    both.env("CERTHOOKD_CONFIG", "/nonexistent");
    assert_eq!(Outcome::of(both).await.code, Some(0));
    for (file, fault) in [
        ("/nonexistent", "/nonexistent: expected a readable file"),
        ("", "mongodb.uri: expected the connection string"),
    ] {
        let check = Outcome::of(command(file.as_ref(), &["check", "--config-only"])).await;
        assert_eq!(check.code, Some(78), "{check:?}");
        assert!(
            check.stdout.starts_with(&format!("FAIL  configuration: {fault}")),
            "{check:?}"
        );
    }
}

#[tokio::test]
async fn what_is_ignored_is_told_once_by_whatever_command() {
    let fixture = Fixture::new().await;
    let uri = format!("{}&foo=bar", fixture.uri());
    let fixture = Fixture::on(&uri, fixture.database.client().clone());
    for arguments in [&["status"][..], &["scan", "--dry-run"], &["check"]] {
        let mut command = fixture.command(arguments);
        command
            .env("CERTHOOKD_DELIVERY_CONCURRENCY", "3")
            .env("CERTHOOKD_PORT", "tcp://10.0.0.1:80");
        let outcome = Outcome::of(command).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let logged = outcome
            .log
            .iter()
            .filter(|line| line["level"] == "WARN")
            .map(|line| line["message"].as_str().unwrap().to_owned());
        let printed = outcome
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix("WARN  ").map(str::to_owned));
        let told: Vec<_> = logged
            .chain(printed)
            .filter(|line| line.starts_with("configuration: "))
            .collect();
        assert_eq!(told.len(), 2, "{arguments:?}: {told:#?}");
        assert!(
            told.iter()
                .any(|line| line.contains("did you mean CERTHOOKD_DELIVERY__CONCURRENCY?")),
            "{told:#?}"
        );
        assert!(
            told.iter()
                .any(|line| line.contains("the option foo is unknown and ignored")),
            "{told:#?}"
        );
    }
}

async fn printing_to(mut command: Command, output: Stdio) -> std::process::Output {
    let child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn();
    child.unwrap().wait_with_output().await.unwrap()
}

#[tokio::test]
async fn a_reader_that_has_gone_away_is_no_failure() {
    let fixture = Fixture::new().await;
    layout::indexes(&fixture).await;
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["check"],
        &["scan", "--dry-run"],
        &["replay", "--all", "--dry-run"],
    ] {
        let command = fixture.command(arguments);
        // Ends before anything is printed: the pipe has no reader.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = printing_to(command, writer.into()).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
    // The exit code is that of what was found, read or not.
    let mut command = fixture.command(&["check"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.env("CERTHOOKD_QUEUE__CAPACITY", "0").stdout(writer);
    assert_eq!(command.status().await.unwrap().code(), Some(78));
    // A full disk is a failure.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = printing_to(fixture.command(&["status"]), full.into()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("the output can't be written: ")
    );
}

#[tokio::test]
async fn a_replay_that_is_not_told_what_to_send_is_bad_usage() {
    let fixture = Fixture::new().await;
    for arguments in [
        &["replay"][..],
        &["replay", "--dry-run"],
        &["replay", "--state", "cancelled"],
        &["replay", "--all", "--from", "yesterday"],
    ] {
        let outcome = fixture.outcome(arguments).await;
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
    }
}

/// Endpoints of one organization: some out of service, one failing, one that answers again with a dead letter, and this many well.
async fn among(fixture: &Fixture, well: usize) -> ObjectId {
    layout::indexes(fixture).await;
    let mut endpoints: Vec<_> = (0..well)
        .map(|place| fixture.endpoint(&format!("/well{place}")))
        .collect();
    let mut odd = fixture.endpoint("/odd");
    odd.insert("url", "ftp://files.test/");
    let troubled = [fixture.endpoint("/failing"), fixture.endpoint("/dead")];
    endpoints.extend(troubled.clone());
    endpoints.push(odd);
    let organization = fixture.organization(endpoints).await;
    let [failing, dead] = troubled.map(|endpoint| endpoint_key(organization, &endpoint));
    let mut figures = layout::figures(&failing, 1, 2);
    figures.extend(doc! { "lastSuccess": bson::DateTime::from_millis(1_000), "lastFailure": certhookd::model::Clock::local(), "lastFailureReason": "status 503" });
    fixture.statistics().insert_one(figures).await.unwrap();
    layout::outbox(fixture)
        .insert_one(layout::dead(&dead, &expiry(1)))
        .await
        .unwrap();
    organization
}

/// The paths of the endpoints that are listed, in their order.
fn listed(stdout: &str) -> Vec<&str> {
    let rows = stdout.lines().filter_map(|line| line.split_whitespace().nth(2));
    rows.filter(|name| name.starts_with('/')).collect()
}

#[tokio::test]
async fn status_tells_of_trouble_first_with_its_reason_and_of_no_more_than_can_be_read() {
    let fixture = Fixture::new().await;
    among(&fixture, 40).await;
    let outcome = fixture.outcome(&["status"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(lines.len() < 20, "{}", outcome.stdout);
    assert_eq!(
        listed(&outcome.stdout),
        ["/odd", "/failing", "/dead"],
        "{}",
        outcome.stdout
    );
    let under = |name: &str| {
        let place = lines.iter().position(|line| line.contains(name)).unwrap();
        lines[place + 1].trim()
    };
    assert!(
        under("/odd").starts_with("out of service: `url` is"),
        "{}",
        outcome.stdout
    );
    assert_eq!(under("/failing"), "failing: status 503");
    assert_eq!(under("/dead"), "1 dead letter");
    assert!(
        outcome.stdout.contains("43 endpoints, 3 in trouble"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("40 endpoints without trouble: "),
        "{}",
        outcome.stdout
    );
    // What is wrong with endpoints is in the output, not before it.
    assert_eq!(
        outcome.log.iter().filter(|line| line["level"] == "WARN").count(),
        0,
        "{outcome:?}"
    );
}

#[tokio::test]
async fn status_shows_what_is_chosen() {
    let fixture = Fixture::new().await;
    let organization = among(&fixture, 25).await;
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let name = organization.to_hex();
    for (arguments, names) in [
        (&["--trouble"][..], vec!["/odd", "/failing", "/dead"]),
        (&["--organization", &other.to_hex()], vec!["/other"]),
        (&["--trouble", "--organization", &other.to_hex()], vec![]),
    ] {
        let outcome = fixture.outcome(&[&["status"], arguments].concat()).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(listed(&outcome.stdout), names, "{arguments:?}");
    }
    let all = fixture.outcome(&["status", "--organization", &name]).await.stdout;
    assert_eq!(listed(&all).len(), 28, "{all}");

    let json = fixture.outcome(&["status", "--json", "--trouble"]).await.stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let endpoints = json["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 3);
    assert_eq!(endpoints[1]["last_failure_reason"], "status 503");
    let id = endpoints[1]["endpoint"].as_str().unwrap();
    for wanted in [id.to_owned(), format!("{name}/{id}")] {
        let one = fixture.outcome(&["status", "--endpoint", &wanted]).await.stdout;
        assert_eq!(listed(&one), ["/failing"], "{one}");
    }
    let unknown = fixture.outcome(&["status", "--endpoint", "failin"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(
        unknown.errors()[0].contains("no endpoint is named failin; the nearest: ")
            && unknown.errors()[0].contains("(/failing)"),
        "{unknown:?}"
    );
    // The last digits tell one id from another of the same second.
    let misspelt = format!("z{}", &name[1..]);
    let unknown = fixture.outcome(&["status", "--organization", &misspelt]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    let nearest = format!("no organization is named {misspelt}; the nearest: {name}");
    assert!(unknown.errors()[0].contains(&nearest), "{unknown:?}");
}

#[tokio::test]
async fn what_can_not_be_read_of_holds_is_one_line_and_no_dump_of_the_driver() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let unknown = format!("{organization}/{}", ObjectId::new());
    for (command, code, name) in [
        ("hold", 13, "Unauthorized"),
        ("release", 2, "BadValue"),
        ("cancel", 50, "MaxTimeMSExpired"),
        ("deliveries", 13, "Unauthorized"),
    ] {
        let state = format!("{}.webhook_state", fixture.database.name());
        let data = doc! { "failCommands": ["find"], "errorCode": code, "namespace": state, "appName": "certhookd" };
        let fail = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
        let admin = fixture.database.client().database("admin");
        admin.run_command(fail).await.unwrap();
        let outcome = fixture.outcome(&[command, "--endpoint", &unknown]).await;
        assert_eq!(outcome.code, Some(1), "{command}: {outcome:?}");
        let errors = outcome.errors();
        assert!(errors.len() == 1 && errors[0].contains(name), "{command}: {errors:?}");
        let is_dump = |line: &str| {
            ["Error {", "kind:", "labels:", "\n"]
                .iter()
                .any(|mark| line.contains(mark))
        };
        assert!(!is_dump(errors[0]), "{command}: {errors:?}");
        assert!(
            outcome.log.iter().all(serde_json::Value::is_object),
            "{command}: {outcome:?}"
        );
    }
}
