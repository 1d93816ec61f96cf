//! Many endpoints whose episodes change at the same time: they are written together, and none keeps the others from being written.

use bson::{Document, doc};
use certhookd::{model::Clock, sandbox::Received};
use nix::sys::signal::Signal;

use super::{always, daemon, expire, fixture, has, id, notices};
use crate::fixture::{Daemon, Fixture, endpoint_key};

/// What is read in transactions of the keeper of episodes: each reads once.
fn transactions(fixture: &Fixture) -> Document {
    let collection = format!("{}.webhook_state", fixture.database.name());
    doc! { "op": "query", "ns": collection, "command.autocommit": false }
}

/// An organization with that many endpoints at one path.
async fn endpoints(fixture: &Fixture, path: &str, count: usize) -> (bson::oid::ObjectId, Vec<Document>) {
    let endpoints: Vec<_> = (0..count).map(|_| fixture.endpoint(path)).collect();
    (fixture.organization(endpoints.clone()).await, endpoints)
}

#[tokio::test]
async fn five_hundred_endpoints_that_are_suspended_at_once_need_few_transactions() {
    const COUNT: usize = 500;
    let fixture = fixture("notices.failing_after = \"15m\"").await;
    let (organization, endpoints) = endpoints(&fixture, "/gone", COUNT).await;
    always(&fixture, "/gone", 410);
    expire(&fixture, organization, 1).await;
    // No probe within this test.
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "dead-notices=return(3600)");
    fixture.profile(&transactions(&fixture)).await;
    let _daemon = Daemon::spawn(command);
    let told = |requests: &[_], kind: &str| {
        let notices = notices(requests);
        notices.values().filter(|notice| notice["type"] == kind).count()
    };
    let is_told =
        |requests: &[_]| ["endpoint.suspended", "delivery.dead"].map(|kind| told(requests, kind)) == [COUNT; 2];
    let requests = fixture.wait_for(is_told).await;
    for endpoint in &endpoints {
        assert!(has(&requests, &id(endpoint), "endpoint.suspended"));
    }
    let suspended = doc! { "episode.suspended": { "$exists": true } };
    assert_eq!(fixture.state().count_documents(suspended).await.unwrap(), COUNT as u64);
    let needed = fixture.profiled(&transactions(&fixture)).await.len();
    fixture.stop_profiling().await;
    assert!(
        needed <= 60,
        "{needed} transactions for {COUNT} endpoints and two notices of each"
    );
}

#[tokio::test]
async fn what_mongodb_does_not_write_of_one_endpoint_keeps_no_other_from_being_written() {
    let ways = [
        "its episode",
        "its notice",
        "its dead letters",
        "another instance has written",
    ];
    futures_util::future::join_all(ways.map(others_are_written)).await;
}

async fn others_are_written(way: &str) {
    const COUNT: usize = 30;
    let fixture = fixture("notices.failing_after = \"15m\"").await;
    let (organization, endpoints) = endpoints(&fixture, "/gone", COUNT).await;
    always(&fixture, "/gone", 410);
    let daemon = daemon(&fixture).await;
    let (odd, key) = (id(&endpoints[7]), endpoint_key(organization, &endpoints[7]));
    let (collection, refused) = match way {
        "its episode" => (
            "webhook_state",
            doc! { "_id": format!("episode/{key}"), "episode": { "$exists": true } },
        ),
        "its notice" => (
            "webhook_outbox",
            doc! { "deliveries.event": { "$regex": format!("suspended.*{odd}") } },
        ),
        "its dead letters" => (
            "webhook_state",
            doc! { "_id": format!("endpoint/{key}"), "deadToldAt": { "$exists": true } },
        ),
        _ => ("webhook_state", doc! { "_id": "nothing" }),
    };
    let modify = doc! { "collMod": collection, "validator": { "$nor": [refused] } };
    fixture.database.run_command(modify).await.unwrap();
    if way == "another instance has written" {
        // From then on it reads no more of what others write, unless it has to.
        daemon
            .wait_for(|line| line["message"] == "acted on what operations have changed")
            .await;
        let at = Clock::local();
        let episode = doc! { "version": 3_i64, "since": at, "failures": 1_i64, "told": true };
        let written = doc! { "_id": format!("episode/{key}"), "episode": episode };
        fixture.state().insert_one(written).await.unwrap();
    }
    expire(&fixture, organization, 1).await;
    daemon.signal(Signal::SIGUSR1);
    let is_dead = way == "its dead letters";
    let kinds = ["endpoint.suspended", "delivery.dead"];
    let others = endpoints.iter().map(id).filter(|endpoint| *endpoint != odd);
    let others: Vec<_> = others.collect();
    // What is refused of it keeps nothing else of it from being written.
    let written = kinds[usize::from(!is_dead)];
    let is_told = |requests: &[_]| {
        let all_of = |kind: &str| others.iter().all(|endpoint| has(requests, endpoint, kind));
        kinds.iter().all(|kind| all_of(kind)) && has(requests, &odd, written)
    };
    let requests = fixture.wait_for(is_told).await;
    assert!(!has(&requests, &odd, kinds[usize::from(is_dead)]), "{way}");
    if way != "another instance has written" {
        let is_refusal = |line: &serde_json::Value| {
            let message = line["message"].as_str().unwrap_or_default();
            line["endpoint"] == key && message.contains("MongoDB refuses to write down")
        };
        daemon.wait_for(is_refusal).await;
        let lines = daemon.lines();
        let refusals = lines.iter().filter(|line| {
            line["message"]
                .as_str()
                .unwrap_or_default()
                .contains("MongoDB refuses to write")
        });
        assert_eq!(refusals.count(), 1, "{way}");
    }
}

#[tokio::test]
async fn a_dead_letter_whose_note_is_refused_is_kept_and_the_platform_is_told_of_the_others() {
    let fixture = fixture("notices.failing_after = \"15m\"").await;
    let (organization, endpoints) = endpoints(&fixture, "/gone", 3).await;
    always(&fixture, "/gone", 410);
    let daemon = daemon(&fixture).await;
    let (odd, key) = (id(&endpoints[1]), endpoint_key(organization, &endpoints[1]));
    let refused = doc! { "_id": format!("endpoint/{key}"), "deadUntold": { "$exists": true } };
    let modify = doc! { "collMod": "webhook_state", "validator": { "$nor": [refused] } };
    fixture.database.run_command(modify).await.unwrap();
    expire(&fixture, organization, 1).await;
    daemon.signal(Signal::SIGUSR1);
    let is_refusal = |line: &serde_json::Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["endpoint"] == odd && message.contains("refuses to note a dead letter")
    };
    assert_eq!(daemon.wait_for(is_refusal).await["level"], "WARN");
    fixture
        .wait_for_deliveries(doc! { "state": "dead", "endpoint": &key }, 1)
        .await;
    let is_told = |requests: &[_]| {
        [0, 2]
            .iter()
            .all(|one| has(requests, &id(&endpoints[*one]), "delivery.dead"))
    };
    let requests = fixture.wait_for(is_told).await;
    assert!(!has(&requests, &odd, "delivery.dead"));
}

#[tokio::test]
async fn where_mongodb_writes_no_episode_the_platform_is_told_of_dead_letters() {
    // As many as end a round, and more.
    futures_util::future::join_all([3, 20, 50].map(dead_letters_are_told_of)).await;
}

async fn dead_letters_are_told_of(count: usize) {
    let fixture = fixture("notices.failing_after = \"15m\"").await;
    let (organization, endpoints) = endpoints(&fixture, "/gone", count).await;
    always(&fixture, "/gone", 410);
    let daemon = daemon(&fixture).await;
    let refused = doc! { "_id": { "$regex": "^episode/" } };
    let modify = doc! { "collMod": "webhook_state", "validator": { "$nor": [refused] } };
    fixture.database.run_command(modify).await.unwrap();
    expire(&fixture, organization, 1).await;
    daemon.signal(Signal::SIGUSR1);
    let keys: Vec<_> = endpoints.iter().map(id).collect();
    let is_told = |requests: &[_]| keys.iter().all(|key| has(requests, key, "delivery.dead"));
    let requests = fixture.wait_for(is_told).await;
    assert!(!keys.iter().any(|key| has(&requests, key, "endpoint.suspended")));
}

#[tokio::test]
async fn suspended_endpoints_are_probed_without_looking_at_all_queues() {
    const COUNT: usize = 20;
    let fixture = fixture("notices.failing_after = \"15m\"").await;
    let (paths, organization) = {
        let paths: Vec<_> = (0..COUNT).map(|n| format!("/{n}")).collect();
        let endpoints = paths.iter().map(|path| fixture.endpoint(path)).collect();
        (paths, fixture.organization(endpoints).await)
    };
    paths.iter().for_each(|path| always(&fixture, path, 410));
    expire(&fixture, organization, 3).await;
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "episodes=return(0);suspended-probe=return(1)");
    let _daemon = Daemon::spawn(command);
    let suspended = doc! { "episode.suspended": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), suspended, COUNT as u64).await;
    let outbox = format!("{}.webhook_outbox", fixture.database.name());
    let look = doc! { "ns": outbox, "command.pipeline.0.$sort.queue": 1 };
    fixture.profile(&look).await;
    let before = fixture.receiver.requests().len();
    let are_probed = |requests: &[Received]| {
        let probes = |path: &String| requests[before..].iter().filter(|one| one.path == *path).count();
        paths.iter().all(|path| probes(path) >= 3)
    };
    fixture.wait_for(are_probed).await;
    let looks = fixture.profiled(&look).await.len();
    fixture.stop_profiling().await;
    assert!(looks <= 4, "{looks} looks");
}
