//! What an operator asks of a running daemon.

use bson::doc;
use certhookd::sandbox::{Options, ReplicaSet, Response};
use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Fixture, expired, is_scan};

fn is_reload(line: &Value) -> bool {
    line["message"] == "configuration reloaded"
}

fn is_state(line: &Value) -> bool {
    line["message"] == "state"
}

#[tokio::test]
async fn sigusr2_tells_the_state_of_everything_in_one_line() {
    let fixture = Fixture::new().await;
    fixture.receiver.script("/hung", [Response::silence()]);
    fixture.receiver.script("/gone", [Response::status(StatusCode::GONE)]);
    fixture
        .receiver
        .script("/down", [Response::status(StatusCode::SERVICE_UNAVAILABLE)]);
    let mut patient = fixture.endpoint("/hung");
    patient.insert("timeout", 30_000);
    let hung = fixture.organization(vec![patient]).await;
    let others = fixture
        .organization(vec![fixture.endpoint("/gone"), fixture.endpoint("/fine")])
        .await;
    let documents = (0..12).map(|_| expired(hung)).chain([expired(others)]);
    fixture.badge_users().insert_many(documents).await.unwrap();
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    fixture.wait_for(|requests| requests.len() == 3).await;
    fixture
        .wait_for_deliveries(doc! { "state": { "$in": ["dead", "delivered"] } }, 2)
        .await;

    // What MongoDB shows as recorded is on its way to the daemon still.
    let (mut asked, mut state) = (0, Value::Null);
    while state["slots_taken"] != 1 {
        asked += 1;
        daemon.signal(Signal::SIGUSR2);
        state = daemon.wait_for_nth(is_state, asked).await;
    }
    let numbers = [
        "in_flight",
        "queued",
        "slots_taken",
        "capacity",
        "pending",
        "dead_letters",
        "delivered",
        "endpoints",
        "last_scan_found",
    ];
    let told = numbers.map(|number| state[number].as_u64().unwrap_or_else(|| panic!("{number}: {state}")));
    assert_eq!(told, [1, 0, 1, 1024, 12, 1, 1, 3, 13]);
    assert!(state["last_scan"].as_str().unwrap().ends_with('Z'), "{state}");
    // It moves every five seconds, whether or not something happens.
    assert!(state["stream_lag_ms"].as_i64().unwrap() < 60_000, "{state}");
    assert_eq!(daemon.count(is_state), asked);
}

#[tokio::test]
async fn sighup_applies_what_changed_and_names_what_needs_a_restart() {
    let fixture = Fixture::new().await.with("scan.on_start = false");
    let daemon = fixture.daemon().await;
    fixture.configure("scan.schedule = \"* * * * * *\"\nqueue.capacity = 2000\nservice.page = false\ndelivery.retention = \"60d\"\nmongodb.badge_users = \"others\"");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for(is_reload).await;
    daemon.wait_for_nth(is_scan, 2).await;
    daemon.signal(Signal::SIGUSR2);
    let state = daemon.wait_for(|line| line["capacity"].is_u64()).await;
    assert_eq!(state["capacity"], 2000);
    let restart = |line: &Value| line["message"] == "this key has changed and takes effect after a restart";
    let lines = daemon.lines();
    let named: Vec<_> = lines
        .iter()
        .filter(|line| restart(line))
        .filter_map(|line| line["key"].as_str())
        .collect();
    assert_eq!(named, ["mongodb.badge_users", "delivery.retention", "service.page"]);
}

/// What needs a restart is compared with what runs, not with what was read the last time.
#[tokio::test]
async fn each_sighup_names_what_still_needs_a_restart() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon().await;
    let keys = [
        ("mongodb.badge_users", "\"others\""),
        ("mongodb.database", "\"others\""),
        ("completions.enabled", "false"),
        ("delivery.retention", "\"60d\""),
        ("service.metrics_listen", "\"127.0.0.1:0\""),
        ("service.page", "false"),
        ("service.start_held", "true"),
        ("operations.retention", "\"60d\""),
    ];
    fixture.configure(&keys.map(|(key, value)| format!("{key} = {value}")).join("\n"));
    let is_named = |line: &Value, key: &str| {
        line["key"] == key && line["message"] == "this key has changed and takes effect after a restart"
    };
    for count in 1..=3 {
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_nth(is_reload, count).await;
        for (key, _) in keys {
            assert_eq!(daemon.count(|line| is_named(line, key)), count, "{key}");
        }
    }
}

#[tokio::test]
async fn a_bad_file_is_refused_on_sighup_with_every_fault_and_the_old_one_stays() {
    let fixture = Fixture::new()
        .await
        .with("scan.on_start = false\nscan.schedule = \"* * * * * *\"\ndelivery.source = \"before\"");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    fixture.configure("scan.schedule = \"never\"\ndelivery.concurency = 3\ndelivery.source = \"after\"");
    daemon.signal(Signal::SIGHUP);
    let refused =
        |line: &Value| line["level"] == "ERROR" && line["message"].as_str().unwrap().starts_with("reload refused");
    daemon.wait_for_nth(refused, 2).await;
    let about = |key: &str| daemon.count(|line| refused(line) && line["message"].as_str().unwrap().contains(key));
    assert_eq!((about("scan.schedule"), about("delivery.concurency")), (1, 1));

    let before = daemon.count(is_scan);
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.wait_for_nth(is_scan, before + 2).await;
    let requests = fixture.wait_for(|requests| requests.len() == 2).await;
    assert!(
        requests
            .iter()
            .all(|request| request.header("x-webhook-source") == "before")
    );
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_reload_judges_endpoints_by_the_new_rules() {
    let fixture = Fixture::new().await.with("delivery.allow_http = false");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let daemon = fixture.daemon().await;
    let refused = |line: &Value| {
        line["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("delivery.allow_http"))
    };
    daemon.wait_for(refused).await;
    fixture.configure("delivery.allow_http = true");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for(is_reload).await;
    // In effect within about a second: awards that come before have no subscriber.
    let served = async {
        loop {
            daemon.signal(Signal::SIGUSR2);
            let seen = daemon.count(is_state);
            let state = daemon.wait_for_nth(is_state, seen + 1).await;
            if state["endpoints"] == 1 {
                return;
            }
        }
    };
    tokio::time::timeout(crate::fixture::LIMIT, served).await.unwrap();
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    // The award, the expiry, or both already.
    fixture.wait_for(|requests| !requests.is_empty()).await;
}

#[tokio::test]
async fn sigterm_and_sigint_finish_what_is_in_flight_and_exit_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let fixture = Fixture::new().await;
        fixture
            .receiver
            .script("/slow", [Response::ok().after(std::time::Duration::from_millis(300))]);
        let organization = fixture.organization(vec![fixture.endpoint("/slow")]).await;
        fixture
            .badge_users()
            .insert_many((0..20).map(|_| expired(organization)))
            .await
            .unwrap();
        let mut daemon = fixture.daemon().await;
        daemon.wait_for(is_scan).await;
        fixture.wait_for(|requests| requests.len() >= 5).await;
        daemon.signal(signal);
        assert_eq!(daemon.ended().await.code(), Some(0));

        let count = async |state: &str| fixture.count_deliveries(doc! { "state": state }).await;
        let (delivered, pending) = (count("delivered").await, count("pending").await);
        assert_eq!(
            delivered,
            fixture.receiver.total() as u64,
            "every request was waited for"
        );
        assert_eq!(delivered + pending, 20, "the rest stays in the outbox");
    }
}

#[tokio::test]
async fn while_mongodb_hangs_signals_are_answered_and_the_report_comes_when_it_is_back() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
    let mut daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    set.freeze(0).unwrap();
    daemon.signal(Signal::SIGUSR2);
    // The first may outrun the report; the second can't.
    for nth in 1..=2 {
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for_nth(is_reload, nth).await;
    }
    assert_eq!(daemon.count(is_state), 0);
    set.thaw(0).unwrap();
    daemon.wait_for(is_state).await;
    assert!(daemon.stop().await.success());
}
