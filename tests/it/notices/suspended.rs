//! What a suspension means for what waits, and when it ends, where other things happen at the same time.

use std::time::Duration;

use bson::{Bson, DateTime, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use http::StatusCode;

use super::{accepted, always, daemon, expire, fixture, has, id, notices, without_probes};
use crate::fixture::{Daemon, endpoint_key};
use crate::layout::{batch, before, dead, expiry};

/// The document of an endpoint that another instance has suspended: its own was another then.
fn suspended(key: &str, since: DateTime) -> bson::Document {
    let last = doc! { "at": since, "status": 410, "error": "status 410", "event": "e" };
    doc! { "_id": format!("episode/{key}"), "episode": {
        "version": 1_i64, "since": since, "failures": 1_i64, "inARow": 1_i64, "inARowSince": since, "told": true,
        "delivered": 0_i64, "last": last, "suspended": { "since": since, "gone": true, "fingerprint": 1_i64 },
    } }
}

#[tokio::test]
async fn how_the_settings_before_a_change_fail_does_not_suspend_those_after_it() {
    let fixture = fixture("").await;
    let endpoint = fixture.endpoint("/old");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let late = Response::status(StatusCode::GONE).after(Duration::from_millis(1500));
    fixture.receiver.script("/old", [late]);
    let daemon = without_probes(&fixture).await;
    expire(&fixture, organization, 1).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    fixture
        .wait_for(|requests| requests.iter().any(|one| one.path == "/old"))
        .await;
    let url = fixture.receiver.url("/new");
    let change = doc! { "$set": { "webHookConfig.endpoints.0.url": url } };
    let configs = fixture.member_configs();
    let of_organization = doc! { "_ownerId": organization };
    configs.update_one(of_organization, change).await.unwrap();
    let dead = doc! { "state": "dead", "endpoint": endpoint_key(organization, &endpoint) };
    fixture.wait_for_deliveries(dead, 1).await;
    expire(&fixture, organization, 3).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let requests = fixture.wait_for(|requests| accepted(requests, "/new") == 3).await;
    assert!(!has(&requests, &id(&endpoint), "endpoint.suspended"));
}

#[tokio::test]
async fn a_release_ends_a_suspension_that_mongodb_refuses_to_write() {
    let ways = ["--all", "--organization", "--endpoint"];
    futures_util::future::join_all(ways.map(goes_out_although_unwritten)).await;
}

async fn goes_out_although_unwritten(way: &str) {
    let fixture = fixture("").await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    always(&fixture, "/a", 410);
    let daemon = without_probes(&fixture).await;
    let refused = doc! { "$nor": [{ "episode.suspended": { "$exists": true } }] };
    let modify = doc! { "collMod": "webhook_state", "validator": refused };
    fixture.database.run_command(modify).await.unwrap();
    expire(&fixture, organization, 1).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let is_refused = |line: &serde_json::Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("refuses to write down that an endpoint fails")
    };
    daemon.wait_for(is_refused).await;
    // As many releases as are kept.
    let long_ago = before(Clock::local(), Duration::from_secs(3600));
    let others = (0..100).map(|n| doc! { "target": format!("hold/endpoint/a/{n}"), "at": long_ago });
    let (state, control) = (fixture.state(), doc! { "_id": "control" });
    let releases = doc! { "$set": { "releases": others.collect::<Vec<_>>() } };
    state.update_one(control.clone(), releases).upsert(true).await.unwrap();
    always(&fixture, "/a", 200);
    expire(&fixture, organization, 3).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let marked = doc! { "expiryReminderSent": true };
    fixture.wait_for_count(&fixture.badge_users(), marked, 4).await;
    assert_eq!(accepted(&fixture.receiver.requests(), "/a"), 1, "it is suspended");
    let (organization, endpoint) = (organization.to_hex(), id(&endpoint));
    let released = match way {
        "--all" => fixture.outcome(&["release", "--all"]).await,
        "--organization" => fixture.outcome(&["release", way, &organization]).await,
        _ => fixture.outcome(&["release", way, &endpoint]).await,
    };
    assert_eq!(released.code, Some(0), "{released:?}");
    fixture.wait_for(|requests| accepted(requests, "/a") == 4).await;
    let control = state.find_one(control).await.unwrap().unwrap();
    let releases = control.get_array("releases").unwrap();
    let last = releases.last().unwrap().as_document().unwrap();
    assert_eq!(releases.len(), 100, "{way}");
    assert!(*last.get_datetime("at").unwrap() > long_ago, "{way}: {last}");
}

#[tokio::test]
async fn a_suspension_ends_whatever_is_in_the_place_of_those_before_it() {
    let fixture = fixture("").await;
    let began = Clock::local();
    let period = doc! { "at": before(began, Duration::from_secs(60)), "until": before(began, Duration::from_secs(30)) };
    let as_many_as_are_kept = vec![Bson::from(period); 100];
    let odd: [Bson; 5] = [
        "none".into(),
        5.into(),
        Bson::Null,
        doc! { "a": 1 }.into(),
        as_many_as_are_kept.into(),
    ];
    let endpoints = odd.each_ref().map(|_| fixture.endpoint("/a"));
    let organization = fixture.organization(endpoints.to_vec()).await;
    always(&fixture, "/a", 410);
    let daemon = daemon(&fixture).await;
    expire(&fixture, organization, 5).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let (state, of_all) = (fixture.state(), endpoints.len() as u64);
    let suspended = doc! { "episode.suspended": { "$exists": true } };
    fixture.wait_for_count(&state, suspended, of_all).await;
    for (endpoint, odd) in endpoints.iter().zip(odd) {
        let of_endpoint = doc! { "_id": format!("episode/{}", endpoint_key(organization, endpoint)) };
        let change = doc! { "$set": { "suspensions": odd } };
        state.update_one(of_endpoint, change).await.unwrap();
    }
    always(&fixture, "/a", 200);
    let ended = doc! { "suspensions.until": { "$gte": began }, "suspensions.100": { "$exists": false } };
    fixture.wait_for_count(&state, ended, of_all).await;
    let have_recovered = |requests: &[_]| {
        let has_recovered = |endpoint| has(requests, &id(endpoint), "endpoint.recovered");
        endpoints.iter().all(has_recovered)
    };
    fixture.wait_for(have_recovered).await;
}

#[tokio::test]
async fn a_change_while_another_instance_had_the_endpoint_ends_its_suspension() {
    let fixture = fixture("").await;
    let (endpoint, other) = (fixture.endpoint("/a"), fixture.endpoint("/b"));
    let organization = fixture.organization(vec![endpoint.clone(), other.clone()]).await;
    let daemon = without_probes(&fixture).await;
    let key = endpoint_key(organization, &endpoint);
    let episode = suspended(&key, Clock::local());
    fixture.state().insert_one(episode).await.unwrap();
    // It reads what others have written, as when it takes over.
    let released = fixture.outcome(&["release", "--endpoint", &id(&other)]).await;
    assert_eq!(released.code, Some(0), "{released:?}");
    expire(&fixture, organization, 3).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    let requests = fixture.wait_for(|requests| accepted(requests, "/b") == 3).await;
    drop(requests);
    fixture.wait_for(|requests| accepted(requests, "/a") == 3).await;
}

#[tokio::test]
async fn what_a_suspended_endpoint_is_probed_with_waits_no_longer_than_the_rest() {
    let fixture = fixture("delivery.wait_for = \"4s\"").await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    always(&fixture, "/a", 410);
    let waits = [batch(&key, &[expiry(1)]), batch(&key, &[expiry(2)])];
    fixture.outbox().insert_many(waits).await.unwrap();
    let daemon = daemon(&fixture).await;
    // One is gone at once, the other is what it is probed with every second.
    let dead = |reason: &str| doc! { "state": "dead", "endpoint": &key, "reason": { "$regex": reason } };
    fixture
        .wait_for_deliveries(dead("^waited 4s for an endpoint that is suspended"), 1)
        .await;
    assert_eq!(fixture.count_deliveries(dead("^410 Gone")).await, 1);
    let is_end = |line: &serde_json::Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("delivery.wait_for"))
    };
    let line = daemon.wait_for(is_end).await;
    assert_eq!(line["deliveries"], 1, "{line}");
    let sum = |requests: &[_]| -> i64 {
        let told = notices(requests);
        let dead = told.values().filter(|notice| notice["type"] == "delivery.dead");
        dead.map(|notice| notice["data"]["dead"].as_i64().unwrap()).sum()
    };
    let requests = fixture.wait_for(|requests| sum(requests) == 2).await;
    for notice in notices(&requests).values().filter(|one| one["type"] == "delivery.dead") {
        assert_eq!(notice["data"]["next"], "They are kept and can be replayed.", "{notice}");
    }
    let probed = requests.iter().filter(|one| one.path == "/a").count();
    assert!(probed >= 3, "{probed}");
}

#[tokio::test]
async fn dead_letters_grow_no_older_while_their_endpoint_is_suspended() {
    let ways = ["release", "change", "success", "switched off and on"];
    futures_util::future::join_all(ways.map(goes_out_after)).await;
}

async fn goes_out_after(way: &str) {
    let fixture = fixture("delivery.redrive_for = \"5d\"\nnotices.failing_after = \"15m\"").await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    always(&fixture, "/a", 410);
    let mut unserved = fixture.endpoint("/unserved");
    unserved.insert("url", "ftp://files.example/in");
    let other = fixture.organization(vec![unserved.clone()]).await;
    let letter = dead(&endpoint_key(other, &unserved), &expiry(9));
    fixture.outbox().insert_one(letter).await.unwrap();
    let mut command = fixture.command(&["run"]);
    let probes = if way == "success" { 1 } else { 3600 };
    let failpoints =
        format!("episodes=return(0);redrive-look=return(1);redrive-rest=return(60);suspended-probe=return({probes})");
    // Dead letters of whom nobody serves are looked at every 240 s then: what ends the suspension must end that, too.
    command.env("FAILPOINTS", failpoints);
    let daemon = Daemon::spawn(command);
    daemon.wait_for(|line| line["message"] == "ready").await;
    expire(&fixture, organization, 1).await;
    daemon.signal(nix::sys::signal::Signal::SIGUSR1);
    fixture
        .wait_for(|requests| has(requests, &id(&endpoint), "endpoint.suspended"))
        .await;
    // As if it had been suspended for ten days.
    let days = |n: u32| before(Clock::local(), Duration::from_secs(24 * 3600) * n);
    let (state, is) = (fixture.state(), doc! { "_id": format!("episode/{key}") });
    let long_ago = doc! { "$set": { "episode.suspended.since": days(10) } };
    state.update_one(is, long_ago).await.unwrap();
    let mut letter = dead(&key, &expiry(7));
    letter.extend(doc! { "deadSince": days(9), "finishedAt": days(9), "redrivable": true });
    let mut older = dead(&key, &expiry(8));
    older.extend(doc! { "deadSince": days(16), "finishedAt": days(16), "redrivable": true });
    fixture.outbox().insert_many([letter, older]).await.unwrap();
    always(&fixture, "/a", 200);
    let set = async |field: &str, value: bson::Bson| {
        let change = doc! { "$set": { format!("webHookConfig.endpoints.0.{field}"): value } };
        let of_organization = doc! { "_ownerId": organization };
        fixture
            .member_configs()
            .update_one(of_organization, change)
            .await
            .unwrap();
    };
    match way {
        "release" => {
            let released = fixture.outcome(&["release", "--all"]).await;
            assert_eq!(released.code, Some(0), "{released:?}");
        }
        "change" => set("timeout", 7000.into()).await,
        "switched off and on" => {
            set("enabled", false.into()).await;
            let ended = doc! { "_id": format!("episode/{key}"), "suspensions": { "$exists": true } };
            fixture.wait_for_count(&fixture.state(), ended, 1).await;
            set("enabled", true.into()).await;
        }
        _ => {
            expire(&fixture, organization, 1).await;
            daemon.signal(nix::sys::signal::Signal::SIGUSR1);
        }
    }
    let delivered = doc! { "state": "delivered", "event": expiry(7) };
    fixture.wait_for_deliveries(delivered, 1).await;
    let left = fixture
        .count_deliveries(doc! { "state": "dead", "event": expiry(8) })
        .await;
    assert_eq!(left, 1, "{way}: older than 5 d without the time of the suspension");
}
