//! `/metrics`, `/healthz` and `/readyz` of a daemon that really works, or can't.

mod documents;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bson::doc;
use certhookd::model::Clock;
use certhookd::sandbox::{Options, Proxy, ReplicaSet, Response, shared};
use certhookd::status::{Backlog, backlog};
use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, Outcome, certificate, expired, is_scan};
use crate::layout::{batch, before, configure, dead, delivered, expiry, outbox, store};
use crate::outage::{SOON, is_away, is_back};
use crate::web::{LISTEN, address, get, request};

/// Every sample, by name and labels as they are written.
async fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let page = get(address, "/metrics").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let samples = page.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    samples.map(sample).collect()
}

/// A daemon that has sent, failed, buried, rejected and been told of awards.
async fn busy(fixture: &Fixture) -> Daemon {
    fixture.receiver.script("/gone", [Response::status(StatusCode::GONE)]);
    fixture
        .receiver
        .script("/down", [Response::status(StatusCode::SERVICE_UNAVAILABLE)]);
    let endpoints = ["/fine", "/gone", "/down"].map(|path| fixture.endpoint(path));
    let (mut off, mut odd) = (fixture.endpoint("/off"), fixture.endpoint("/odd"));
    off.insert("enabled", false);
    odd.insert("url", "ftp://files.test/");
    let organization = fixture
        .organization(endpoints.into_iter().chain([off, odd]).collect())
        .await;
    let mut unfit = expired(organization);
    unfit.remove("_ownerId");
    let documents = (0..3).map(|_| expired(organization)).chain([unfit]);
    fixture.badge_users().insert_many(documents).await.unwrap();
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    fixture
        .badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
    // The first to /gone is a dead letter, and what comes after it waits.
    fixture.wait_for_deliveries(doc! { "state": "dead" }, 1).await;
    // Of the failures nothing is written but when they go out again; the log tells of each delivery's first.
    let failed = |line: &Value| line["reason"] == "status 503" && line["event_type"] == "certificate_expired";
    daemon.wait_for_nth(failed, 3).await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 4).await;
    daemon
}

#[tokio::test]
async fn what_happened_and_what_is_waiting_is_in_the_metrics() {
    let fixture = Fixture::new().await.with(LISTEN);
    let daemon = busy(&fixture).await;
    let metrics = scrape(address(&daemon).await).await;
    let get = |name: &str| {
        metrics
            .get(name)
            .copied()
            .unwrap_or_else(|| panic!("no {name} in {metrics:#?}"))
    };
    let of = |name: &str, event: &str, more: &str| {
        get(&format!(
            "certhookd_{name}{{channel=\"webhook\",event=\"certificate_{event}\"{more}}}"
        ))
    };

    assert_eq!(of("attempts_total", "expired", ",outcome=\"delivered\""), 3.0);
    assert_eq!(of("attempts_total", "expired", ",outcome=\"gone\""), 1.0);
    assert!(of("attempts_total", "expired", ",outcome=\"failed\"") >= 3.0);
    assert_eq!(of("attempts_total", "completed", ",outcome=\"delivered\""), 1.0);
    assert_eq!(of("dead_letters_total", "expired", ""), 1.0);
    assert_eq!(of("delivery_duration_seconds_count", "expired", ""), 3.0);
    // They expired an hour ago; the award is as old as its delivery.
    assert_eq!(of("end_to_end_seconds_bucket", "expired", ",le=\"900\""), 0.0);
    assert_eq!(of("end_to_end_seconds_bucket", "expired", ",le=\"86400\""), 3.0);
    assert_eq!(of("end_to_end_seconds_bucket", "completed", ",le=\"60\""), 1.0);
    assert_eq!(get("certhookd_rejected_total{event=\"certificate_expired\"}"), 1.0);

    let deliveries = |state: &str| get(&format!("certhookd_outbox_deliveries{{state=\"{state}\"}}"));
    // For the endpoint that fails, for the one that is out of service, and for the one that is suspended.
    assert_eq!((deliveries("dead"), deliveries("pending")), (1.0, 11.0));
    assert_eq!(get("certhookd_suspended_endpoints"), 1.0);
    assert!(get("certhookd_oldest_pending_seconds") < 60.0);

    let told = [
        "queue_capacity",
        "endpoints{state=\"served\"}",
        "endpoints{state=\"off\"}",
        "endpoints{state=\"out_of_service\"}",
        "breakers_open",
        "ready",
        "lease_held",
        "mongodb_outage_seconds",
    ];
    let told = told.map(|name| get(&format!("certhookd_{name}")));
    assert_eq!(told, [1024.0, 3.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
    assert!(get("certhookd_stream_token_age_seconds") < 60.0);
    let now = Clock::local().timestamp_millis() as f64 / 1000.0;
    assert!((now - get("certhookd_last_scan_timestamp_seconds")).abs() < 60.0);
    // Once a year, on the first of January.
    let until_due = get("certhookd_scan_due_timestamp_seconds") - now;
    assert!(until_due > -60.0 && until_due < 366.0 * 86_400.0, "{until_due}");
    assert!((now - get("process_start_time_seconds")).abs() < 60.0);
    let process = ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds"];
    let process = process.map(|name| get(&format!("process_{name}")));
    assert!(
        process[0] > 0.0 && process[1] > 1e6 && process[2] >= 10.0 && process[3] > process[2],
        "{process:?}"
    );

    let labels = metrics
        .keys()
        .filter(|name| name.contains("127.0.0.1") || name.contains("/fine"));
    assert_eq!(labels.count(), 0, "no label names an endpoint");
}

#[tokio::test]
async fn the_backlog_is_counted_by_indexes_however_much_is_kept() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let keys = [0, 1, 2].map(|n| format!("67470000000000000000000{n}/674700000000000000000010"));
    let known = configure(&fixture, &store, &keys.each_ref().map(String::as_str)).await;
    let kept = (0..2000).map(|n| delivered(batch(&keys[0], &[expiry(n)])));
    // They happened long ago, and have been waiting for a minute.
    let a_minute_ago = before(Clock::local(), Duration::from_secs(60));
    let pending = (0..300).map(|n| {
        let mut pending = batch(&keys[n as usize % 3], &[expiry(n), expiry(n + 1)]);
        pending.insert("createdAt", a_minute_ago);
        pending
    });
    let letters = (0..7).map(|n| dead(&keys[0], &expiry(n + 3000)));
    outbox(&fixture)
        .insert_many(kept.chain(pending).chain(letters))
        .await
        .unwrap();
    let ours = doc! { "ns": format!("{}.webhook_outbox", fixture.database.name()) };
    fixture.profile(&ours).await;

    let found = backlog(&store, &known).await.unwrap();
    store.close().await;
    let oldest = found.oldest.unwrap();
    assert!(
        oldest >= Duration::from_secs(60) && oldest < Duration::from_secs(120),
        "{oldest:?}"
    );
    let expected = Backlog {
        pending: 600,
        dead: 7,
        oldest: found.oldest,
    };
    assert_eq!(found, expected);

    let asked = fixture.profiled(&ours).await;
    let documents = asked.iter().filter_map(|op| op.get_i32("docsExamined").ok());
    // The first of each of the three queues, to see since when it waits.
    let documents: i32 = documents.sum();
    assert!(asked.len() >= 4 && documents == 3, "{documents} documents: {asked:#?}");
}

#[tokio::test]
async fn while_mongodb_is_away_it_is_alive_and_not_ready_and_no_scrape_waits() {
    let set = shared().await.unwrap();
    let proxy = Proxy::start(set.port(0)).await.unwrap();
    let uri = format!("mongodb://{}/?directConnection=true&{SOON}", proxy.address());
    let fixture = Fixture::on(&uri, set.client().await.unwrap()).with(LISTEN);
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    daemon.wait_for(is_scan).await;
    let ready = get(address, "/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));

    proxy.black_hole();
    daemon.wait_for(is_away).await;
    let ready = get(address, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.body.starts_with("MongoDB has been unavailable for"),
        "{}",
        ready.body
    );
    assert_eq!(get(address, "/healthz").await.status, 200);
    let began = Instant::now();
    let metrics = scrape(address).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(metrics["certhookd_ready"], 0.0);
    assert!(metrics["certhookd_mongodb_outage_seconds"] > 0.0);
    assert!(!metrics.contains_key("certhookd_oldest_pending_seconds"), "never known");

    proxy.pass();
    daemon.wait_for(is_back).await;
    assert_eq!(get(address, "/readyz").await.status, 200);
}

/// The database answers all the rest: only this tells that awards are missed.
#[tokio::test]
async fn a_stream_that_only_fails_grows_old_until_it_moves_again() {
    const AGE: &str = "certhookd_stream_token_age_seconds";
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap()).with(LISTEN);
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let admin = fixture.database.client().database("admin");
    let data = doc! {
        "errorCode": 13, "appName": "certhookd", "failCommands": ["aggregate", "getMore"],
        "namespace": format!("{}.badgeusers", fixture.database.name()),
    };
    let fail = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    admin.run_command(fail).await.unwrap();
    let failed = |times: i32| doc! { "waitForFailPoint": "failCommand", "timesEntered": times, "maxTimeMS": 60_000 };
    admin.run_command(failed(1)).await.unwrap();
    let began = Instant::now();
    admin.run_command(failed(6)).await.unwrap();
    let age = scrape(address).await[AGE];
    let least = began.elapsed().as_secs_f64() * 0.9;
    assert!(age > least, "{age} s after {:?}", began.elapsed());

    fixture
        .badge_users()
        .insert_one(certificate(organization, None))
        .await
        .unwrap();
    admin
        .run_command(doc! { "configureFailPoint": "failCommand", "mode": "off" })
        .await
        .unwrap();
    fixture.wait_for(|requests| requests.len() == 1).await;
    assert!(scrape(address).await[AGE] < age);
}

#[tokio::test]
async fn before_its_database_and_while_it_stops_it_is_not_ready() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{LISTEN}\nmongodb.uri = \"mongodb://127.0.0.1:1/\""));
    let waiting = fixture.launch();
    let address_of_waiting = address(&waiting).await;
    let ready = get(address_of_waiting, "/readyz").await;
    assert_eq!(
        (ready.status, ready.body.as_str()),
        (503, "starting: waiting for MongoDB\n")
    );
    assert_eq!(get(address_of_waiting, "/healthz").await.status, 200);
    assert_eq!(scrape(address_of_waiting).await["certhookd_ready"], 0.0);

    let fixture = Fixture::new().await.with(LISTEN);
    fixture.receiver.script("/hung", [Response::silence()]);
    let organization = fixture.organization(vec![fixture.endpoint("/hung")]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let mut daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    fixture.wait_for(|requests| requests.len() == 1).await;
    daemon.signal(Signal::SIGTERM);
    daemon
        .wait_for(|line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("stopping"))
        })
        .await;
    let ready = get(address, "/readyz").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "stopping\n"));
    assert!(daemon.ended().await.success());
}

#[tokio::test]
async fn an_address_in_use_ends_the_start_with_one_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let fixture = Fixture::new()
        .await
        .with(&format!("service.metrics_listen = \"{address}\""));
    let Outcome { code, log, .. } = fixture.outcome(&["run"]).await;
    let errors: Vec<_> = log.iter().filter(|line| line["level"] == "ERROR").collect();
    assert_eq!((code, errors.len()), (Some(1), 1), "{log:#?}");
    let text = errors[0]["message"].as_str().unwrap();
    assert!(
        text.starts_with(&format!("service.metrics_listen: can't listen on {address}")),
        "{text}"
    );
    assert!(text.contains("in use"), "{text}");
}

#[tokio::test]
async fn it_takes_get_and_head_alone() {
    let fixture = Fixture::new().await.with(LISTEN);
    let daemon = fixture.launch();
    let address = address(&daemon).await;
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(request(address, method, "/metrics").await.status, 405);
    }
    let head = request(address, "HEAD", "/metrics").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}
