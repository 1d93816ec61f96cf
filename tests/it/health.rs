//! `/healthz` through an outage: loops that wait for MongoDB are alive, however long that takes.

use std::time::{Duration, Instant};

use bson::doc;
use certhookd::sandbox::{Options, Proxy, ReplicaSet, shared};

use crate::fixture::{Daemon, Fixture, LIMIT, expired, is_scan};
use crate::outage::{SOON, is_away, is_back};
use crate::web::{LISTEN, address, get};

/// How long a loop may make no progress here: more than the longest wait before a repetition, 5 s.
const ALLOWANCE: Duration = Duration::from_secs(10);

const OUTAGE: Duration = Duration::from_secs(25);

async fn endures(cut_off: impl FnOnce(&Proxy)) {
    let set = shared().await.unwrap();
    let proxy = Proxy::start(set.port(0)).await.unwrap();
    let uri = format!("mongodb://{}/?directConnection=true&{SOON}", proxy.address());
    let fixture = Fixture::on(&uri, set.client().await.unwrap()).with(LISTEN);
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", format!("allowance=return({})", ALLOWANCE.as_secs()));
    let mut daemon = Daemon::spawn(command);
    daemon.wait_for(is_scan).await;
    let address = address(&daemon).await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;

    cut_off(&proxy);
    daemon.wait_for(is_away).await;
    let began = Instant::now();
    let mut often = tokio::time::interval(Duration::from_millis(100));
    while began.elapsed() < OUTAGE {
        often.tick().await;
        let health = get(address, "/healthz").await;
        assert_eq!(health.status, 200, "after {:?}: {}", began.elapsed(), health.body);
    }
    assert_eq!(daemon.count(is_back), 0, "it was unavailable all the time");
    proxy.pass();
    daemon.wait_for(is_back).await;
    let certificate = expired(organization);
    fixture.badge_users().insert_one(certificate).await.unwrap();
    // The award, and the expiry that the stream tells of.
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn no_loop_counts_as_stalled_while_the_network_is_cut() {
    endures(Proxy::cut).await;
}

#[tokio::test]
async fn no_loop_counts_as_stalled_while_the_network_is_a_black_hole() {
    endures(Proxy::black_hole).await;
}

#[tokio::test]
async fn the_command_says_what_the_instance_on_this_machine_says() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let fixture = Fixture::new()
        .await
        .with(&format!("service.metrics_listen = \"0.0.0.0:{port}\""));
    let ask = async |arguments: &[&str]| {
        let outcome = fixture.outcome(arguments).await;
        (outcome.code, outcome.stdout.clone(), outcome.errors().concat())
    };
    let (code, _, error) = ask(&["health"]).await;
    assert_eq!(code, Some(1));
    assert!(
        error.starts_with(&format!("no instance replies at 0.0.0.0:{port}: ")),
        "{error}"
    );

    let mut daemon = fixture.daemon().await;
    assert_eq!(ask(&["health"]).await, (Some(0), "alive\n".into(), String::new()));
    assert_eq!(
        ask(&["health", "--ready"]).await,
        (Some(0), "ready\n".into(), String::new())
    );
    assert!(daemon.stop().await.success());

    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let away = Fixture::on(set.uri(), set.client().await.unwrap())
        .with(&format!("service.metrics_listen = \"127.0.0.1:{port}\""));
    set.kill(0).unwrap();
    let _daemon = away.launch();
    let asked = async {
        loop {
            let outcome = away.outcome(&["health", "--ready"]).await;
            if !outcome.stdout.is_empty() {
                return outcome;
            }
        }
    };
    let outcome = tokio::time::timeout(LIMIT, asked).await.unwrap();
    assert_eq!(
        (outcome.code, &*outcome.stdout),
        (Some(1), "starting: waiting for MongoDB\n")
    );
    assert_eq!(away.outcome(&["health"]).await.code, Some(0));
}
