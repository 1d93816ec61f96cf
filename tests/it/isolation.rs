//! Endpoints that hang, drip, flood or fail harm themselves alone: the others finish, and the daemon stays small.

mod hostile;
pub mod process;

use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use nix::sys::signal::Signal;
use serde_json::Value;

use self::hostile::{Hostile, Manner};
use self::process::Process;
use crate::fixture::{Daemon, Fixture, LIMIT, endpoint_key, expired, expired_id, expired_in_turn, pending_batch};

const NO_STREAM: &str = "completions.enabled = false";

/// Certificates in the test of all manners: each goes to every endpoint.
const CERTIFICATES: u64 = 30;

/// What becomes of deliveries while the test looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The first is still under way, and no other was begun.
    Open,
    Delivered,
    /// Failed, and to be tried again.
    Retried,
    /// The first is given up at once, the others wait.
    Suspended,
}

/// Each with the scheme of its URL.
const MANNERS: [(&str, Manner, Fate); 15] = [
    ("http", Manner::Silent, Fate::Open),
    ("http", Manner::Drip("HTTP/1.1 200 OK\r\nX-Slow: "), Fate::Open),
    ("https", Manner::Silent, Fate::Open),
    ("http", Manner::Drip("HTTP/1.1 500 Slow\r\n\r\n"), Fate::Retried),
    ("http", Manner::Flood("HTTP/1.1 200 OK\r\n\r\n"), Fate::Delivered),
    (
        "http",
        Manner::Flood("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"),
        Fate::Delivered,
    ),
    ("http", Manner::Flood("HTTP/1.1 200 OK\r\nX-Bomb: "), Fate::Retried),
    (
        "http",
        Manner::HalfClose("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok"),
        Fate::Delivered,
    ),
    ("http", Manner::HalfClose("HTTP/1.1 200 OK\r\nConte"), Fate::Retried),
    ("http", Manner::Reset, Fate::Retried),
    (
        "https",
        Manner::Response("SSH-2.0-OpenSSH_9.2p1\r\n\r\n"),
        Fate::Retried,
    ),
    (
        "http",
        Manner::Response("HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
        Fate::Retried,
    ),
    (
        "http",
        Manner::Response("HTTP/1.1 429 Slow\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n"),
        Fate::Retried,
    ),
    (
        "http",
        Manner::Response(
            "HTTP/1.1 503 Busy\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\nContent-Length: 0\r\n\r\n",
        ),
        Fate::Retried,
    ),
    (
        "http",
        Manner::Response("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"),
        Fate::Suspended,
    ),
];

/// An endpoint at that URL that is waited for as long as one may be.
fn patient(fixture: &Fixture, url: &str) -> Document {
    let mut endpoint = fixture.endpoint("/patient");
    endpoint.insert("url", url);
    endpoint.insert("timeout", 30_000);
    endpoint
}

/// An endpoint of the receiver that never answers.
fn hung(fixture: &Fixture) -> Document {
    fixture.receiver.script("/hung", [Response::silence()]);
    patient(fixture, &fixture.receiver.url("/hung"))
}

async fn expire(fixture: &Fixture, organization: ObjectId, count: u64) {
    let certificates = (0..count).map(|_| expired(organization));
    fixture.badge_users().insert_many(certificates).await.unwrap();
}

/// Waits until the deliveries of an endpoint have met their fate, as far as it can be awaited.
async fn await_fate(fixture: &Fixture, daemon: &Daemon, receiver: &Hostile, key: &str, fate: Fate) {
    let in_state = |state| doc! { "endpoint": key, "state": state };
    match fate {
        Fate::Open => receiver.wait_for_requests(1).await,
        Fate::Delivered => fixture.wait_for_deliveries(in_state("delivered"), CERTIFICATES).await,
        Fate::Suspended => {
            fixture.wait_for_deliveries(in_state("dead"), 1).await;
            fixture.wait_for_deliveries(in_state("pending"), CERTIFICATES - 1).await;
        }
        Fate::Retried => {
            let endpoint = key.rsplit_once('/').unwrap().1;
            let failed = |line: &Value| line["level"] == "WARN" && line["endpoint"] == endpoint && line["attempt"] == 1;
            daemon.wait_for(failed).await;
        }
    }
}

#[tokio::test]
async fn receivers_that_hang_drip_flood_cut_or_lie_harm_themselves_alone_and_do_not_hold_up_the_end() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{NO_STREAM}\nservice.shutdown_grace = \"1s\""));
    let (mut receivers, mut endpoints) = (Vec::new(), vec![fixture.endpoint("/well")]);
    for (scheme, manner, _) in MANNERS {
        let receiver = Hostile::serve(manner).await;
        endpoints.push(patient(&fixture, &format!("{scheme}://127.0.0.1:{}/", receiver.port())));
        receivers.push(receiver);
    }
    let organization = fixture.organization(endpoints.clone()).await;
    expire(&fixture, organization, CERTIFICATES).await;
    let mut daemon = fixture.daemon().await;
    fixture.wait_for(|requests| requests.len() as u64 == CERTIFICATES).await;
    for ((receiver, endpoint), (_, manner, fate)) in receivers.iter().zip(&endpoints[1..]).zip(MANNERS) {
        println!("{manner:?}: {fate:?}");
        await_fate(&fixture, &daemon, receiver, &endpoint_key(organization, endpoint), fate).await;
    }
    let highest = Process::of(&daemon).memory("VmHWM");
    assert!(highest < 64, "{highest} MB, whatever was offered");

    let asked = Instant::now();
    assert!(daemon.stop().await.success());
    // What is open would go on for nearly 30 s.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    for (receiver, (_, manner, _)) in receivers
        .iter()
        .zip(MANNERS)
        .filter(|(_, (_, _, fate))| *fate == Fate::Open)
    {
        assert_eq!(receiver.requests(), 1, "{manner:?}");
    }
    let count = |fate| CERTIFICATES * MANNERS.iter().filter(|(_, _, one)| *one == fate).count() as u64;
    let suspended = count(Fate::Suspended) / CERTIFICATES;
    let period_end = DateTime::from_millis(Clock::local().timestamp_millis() + 600_000);
    for (filter, expected) in [
        (doc! { "state": "delivered" }, CERTIFICATES + count(Fate::Delivered)),
        (doc! { "state": "dead" }, suspended),
        (
            doc! { "state": "pending", "due": { "$lte": period_end } },
            count(Fate::Open) + count(Fate::Retried) + count(Fate::Suspended) - suspended,
        ),
    ] {
        assert_eq!(fixture.count_deliveries(filter.clone()).await, expected, "{filter}");
    }
}

#[tokio::test]
async fn a_thousand_endpoints_at_a_host_each_of_which_a_tenth_hangs_take_a_bounded_number_of_files() {
    /// What is kept for later requests, what is in flight or just being closed, and MongoDB, timers, signals and the log.
    const BOUND: usize = 512 + 2 * 64 + 64;
    let fixture = Fixture::new()
        .await
        .with(&format!("{NO_STREAM}\ndelivery.max_in_flight = 64"));
    let well = Hostile::serve(Manner::Response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await;
    let hung = Hostile::serve(Manner::Silent).await;
    let endpoint = |place: usize| {
        let port = if place.is_multiple_of(10) {
            hung.port()
        } else {
            well.port()
        };
        let mut endpoint = fixture.endpoint("/");
        endpoint
            .extend(doc! { "url": format!("http://127.1.{}.{}:{port}/", place / 250, place % 250), "timeout": 1000 });
        endpoint
    };
    for organization in 0..20 {
        let endpoints = (0..50).map(|place| endpoint(organization * 50 + place)).collect();
        let organization = fixture.organization(endpoints).await;
        expire(&fixture, organization, 2).await;
    }
    let daemon = fixture.daemon().await;
    let arrivals = [well.arrivals(), hung.arrivals()];
    let all = well.wait_for_requests(900 * 2);
    let most = Process::of(&daemon).most_files(arrivals, all).await;
    println!("{most} file descriptors at most");
    assert!(most <= BOUND, "{most} file descriptors");
}

#[tokio::test]
async fn a_backlog_of_twenty_thousand_for_a_hung_endpoint_does_not_stand_before_fresh_events() {
    let fixture = Fixture::new()
        .await
        .with(&format!("{NO_STREAM}\ndelivery.concurrency = 1"));
    let hung = hung(&fixture);
    let stuck = fixture.organization(vec![hung.clone()]).await;
    let well = fixture.organization(vec![fixture.endpoint("/well")]).await;
    let (backlog, key) = (expired_in_turn(stuck, 20_000), endpoint_key(stuck, &hung));
    let backlog = backlog.chunks(64).map(|certificates| pending_batch(&key, certificates));
    fixture.outbox().insert_many(backlog).await.unwrap();
    let daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();

    let fresh = expired_in_turn(well, 300);
    fixture.badge_users().insert_many(&fresh).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    fixture.receiver.wait_for_total(301, LIMIT).await.unwrap();
    let requests = fixture.receiver.requests();
    assert_eq!(requests[0].path, "/hung", "and no other of it while the others arrive");
    let arrived: Vec<_> = requests[1..]
        .iter()
        .map(|request| request.header("webhook-id"))
        .collect();
    assert_eq!(arrived, fresh.iter().map(expired_id).collect::<Vec<_>>());
}
