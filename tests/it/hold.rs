//! Hold and release: what is held goes nowhere, in no instance, and nothing of it is lost.

mod periods;
mod until;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Options, ReplicaSet, Response};
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    Daemon, Fixture, LIMIT, certificate, completed_id, endpoint_key, expired, expired_id, is_scan, pending_batch,
};
use crate::layout;

async fn told(fixture: &Fixture, arguments: &[&str]) -> String {
    fixture.outcome(arguments).await.result()
}

async fn award(fixture: &Fixture, organization: ObjectId) -> Document {
    let award = certificate(organization, None);
    fixture.badge_users().insert_one(&award).await.unwrap();
    award
}

async fn wait_for_pending(fixture: &Fixture, count: u64) {
    fixture.wait_for_deliveries(doc! { "state": "pending" }, count).await;
}

#[tokio::test]
async fn nothing_begins_in_any_instance_between_done_and_release() {
    let fixture = Fixture::new().await;
    let endpoints: Vec<_> = (0..6).map(|n| fixture.endpoint(&format!("/{n}"))).collect();
    let organization = fixture.organization(endpoints).await;
    let (_one, _other) = (fixture.daemon().await, fixture.daemon().await);
    let mut awarded = HashSet::new();
    for round in 0..3 {
        for _ in 0..20 {
            awarded.insert(completed_id(&award(&fixture, organization).await));
        }
        let hold = ["hold", "--all", "--by", "ops", "--reason", "a test"];
        let text = told(&fixture, &hold).await;
        assert!(
            text.starts_with("everything is held: 2 instances have seen it"),
            "{text}"
        );
        // What was in flight ends within this machine's pace; what begins now waits.
        let held = award(&fixture, organization).await;
        awarded.insert(completed_id(&held));
        let of_held = doc! { "state": "pending", "event": completed_id(&held) };
        fixture.wait_for_deliveries(of_held, 6).await;
        let received = fixture.receiver.requests();
        let is_of_held = |one: &&certhookd::sandbox::Received| one.header("webhook-id") == completed_id(&held);
        assert_eq!(received.iter().filter(is_of_held).count(), 0, "round {round}");
        assert_eq!(told(&fixture, &["release", "--all"]).await, "everything is released");
        let all = doc! { "state": "delivered" };
        fixture.wait_for_deliveries(all, awarded.len() as u64 * 6).await;
    }
    let received = fixture.receiver.requests();
    let ids: HashSet<_> = received.iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, awarded);
    assert_eq!(received.len(), awarded.len() * 6, "nothing twice");
}

/// Awards at 200 a second and expiries, until `stop`; the ids of their events.
async fn award_on(fixture: &Fixture, organization: ObjectId, stop: CancellationToken) -> HashSet<String> {
    let mut ids = HashSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let some: Vec<_> = (0..10).map(|_| expired(organization)).collect();
        // Each is an award, and an expiry for the next scan.
        let badge_users = fixture.badge_users();
        let insert = || badge_users.insert_many(&some).ordered(false).into_future();
        // Meanwhile MongoDB may be unavailable: what was inserted is found all the same.
        while let Err(error) = insert().await {
            let text = error.to_string();
            assert!(!stop.is_cancelled(), "{text}");
            if text.contains("E11000") {
                break;
            }
        }
        ids.extend(some.iter().flat_map(|one| [completed_id(one), expired_id(one)]));
    }
    ids
}

#[tokio::test]
async fn holds_are_heeded_while_instances_are_killed_and_mongodb_restarts() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let fixture = Fixture::on(set.uri(), set.client().await.unwrap());
    let endpoints: Vec<_> = (0..4).map(|n| fixture.endpoint(&format!("/{n}"))).collect();
    let organization = fixture.organization(endpoints).await;
    let mut first = fixture.daemon().await;
    let _second = fixture.daemon().await;
    let stop = CancellationToken::new();
    let rounds = async {
        for round in 0..3 {
            told(&fixture, &["hold", "--all"]).await;
            let done = Instant::now();
            match round {
                0 => {
                    first.signal(Signal::SIGKILL);
                    first.ended().await;
                    first = fixture.daemon().await;
                }
                1 => {
                    set.kill(0).unwrap();
                    set.restart(0).await.unwrap();
                }
                _ => {}
            }
            first.signal(Signal::SIGUSR1);
            let before = fixture.count_deliveries(doc! { "state": "pending" }).await;
            let more = async { while fixture.count_deliveries(doc! { "state": "pending" }).await <= before + 400 {} };
            tokio::time::timeout(LIMIT, more).await.unwrap();
            let between = done..Instant::now();
            told(&fixture, &["release", "--all"]).await;
            let received = fixture.receiver.requests();
            let meanwhile = received.iter().filter(|one| between.contains(&one.instant)).count();
            assert_eq!(meanwhile, 0, "round {round}");
        }
        stop.cancel();
    };
    let ((), ids) = tokio::join!(rounds, award_on(&fixture, organization, stop.clone()));
    first.signal(Signal::SIGUSR1);
    let received = fixture
        .wait_for(|received| {
            received
                .iter()
                .map(|one| one.header("webhook-id"))
                .collect::<HashSet<_>>()
                .len()
                >= ids.len()
        })
        .await;
    fixture.wait_for_deliveries(doc! { "state": "pending" }, 0).await;
    let received: HashSet<_> = received.iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(received, ids);
}

#[tokio::test]
async fn an_endpoint_or_an_organization_is_held_and_the_others_go_on() {
    let fixture = Fixture::new().await;
    let (held, other) = (fixture.endpoint("/held"), fixture.endpoint("/other"));
    let organization = fixture.organization(vec![held.clone(), other.clone()]).await;
    let _daemon = fixture.daemon().await;
    let id = held.get_object_id("_id").unwrap().to_string();
    let text = told(
        &fixture,
        &["hold", "--endpoint", &id, "--by", "ops", "--reason", "they asked"],
    )
    .await;
    assert!(
        text.starts_with(&format!("endpoint {} is held", endpoint_key(organization, &held))),
        "{text}"
    );
    award(&fixture, organization).await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    assert_eq!(
        (fixture.receiver.count("/held"), fixture.receiver.count("/other")),
        (0, 1)
    );

    let organization_id = organization.to_string();
    told(&fixture, &["hold", "--organization", &organization_id]).await;
    let shown = told(&fixture, &["status"]).await;
    assert!(shown.contains("held: by ops: they asked"), "{shown}");
    assert!(
        shown.contains(&format!("held       organization {organization}")),
        "{shown}"
    );
    award(&fixture, organization).await;
    wait_for_pending(&fixture, 3).await;
    let text = told(&fixture, &["release", "--endpoint", &id]).await;
    assert!(
        text.contains(&format!("organization {organization} is held by")),
        "{text}"
    );
    assert_eq!(fixture.receiver.total(), 1);
    told(&fixture, &["release", "--organization", &organization_id]).await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 4).await;
    assert_eq!(
        (fixture.receiver.count("/held"), fixture.receiver.count("/other")),
        (2, 2)
    );
}

#[tokio::test]
async fn a_hold_until_an_instant_ends_by_itself() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let _daemon = fixture.daemon().await;
    let until = DateTime::from_millis(Clock::local().timestamp_millis() + 3_000);
    let hold =
        doc! { "kind": "hold", "selection": { "all": true }, "options": { "until": until }, "by": "back office" };
    let done = fixture.operate(hold).await;
    assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");
    award(&fixture, organization).await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    assert!(Clock::local() >= until);
}

#[tokio::test]
async fn what_was_held_goes_out_behind_what_happens_now_one_request_at_first() {
    const WAITING: usize = 30;
    let fixture = Fixture::new().await.with("completions.enabled = false");
    fixture
        .receiver
        .script("/a", [Response::ok().after(Duration::from_millis(100))]);
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    told(&fixture, &["hold", "--all"]).await;
    let key = endpoint_key(organization, &endpoint);
    let waiting = (0..WAITING).map(|_| pending_batch(&key, &[expired(organization)]));
    fixture.outbox().insert_many(waiting).await.unwrap();
    daemon
        .wait_for(|line| line["message"] == "acted on what operations have changed" && line["holds"] == 1)
        .await;
    let noted = doc! { "_id": format!("endpoint/{key}"), "waitingSince": { "$exists": true } };
    fixture.wait_for_count(&fixture.state(), noted, 1).await;
    told(&fixture, &["release", "--all"]).await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    let now = expired(organization);
    fixture.badge_users().insert_one(&now).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    fixture.receiver.wait_for_total(WAITING + 1, LIMIT).await.unwrap();
    let received = fixture.receiver.requests();
    let id = expired_id(&now);
    let index = received.iter().position(|one| one.header("webhook-id") == id).unwrap();
    assert!(index < WAITING, "what happened meanwhile came last: {index}");
    assert!(
        fixture.receiver.max_parallel("/a") <= 2,
        "one, and one more after 20 successes"
    );
}

#[tokio::test]
async fn a_start_that_holds_sends_nothing_until_a_release() {
    let fixture = Fixture::new().await.with("service.start_held = true");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    for count in [1, 2] {
        let mut daemon = fixture.daemon().await;
        daemon.wait_for(is_scan).await;
        award(&fixture, organization).await;
        wait_for_pending(&fixture, count + 1).await;
        assert!(daemon.stop().await.success());
    }
    assert_eq!(fixture.receiver.total(), 0);
    let _daemon = fixture.daemon().await;
    told(&fixture, &["release", "--all"]).await;
    fixture.receiver.wait_for_total(3, LIMIT).await.unwrap();
}

#[tokio::test]
async fn killed_at_each_step_of_a_hold_another_start_ends_it() {
    for failpoint in ["control-to-be-raised", "control-raised", "operation-to-be-finished"] {
        let fixture = Fixture::new().await;
        let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
        let mut command = fixture.command(&["run"]);
        command.env("FAILPOINTS", format!("{failpoint}=return"));
        let mut daemon = Daemon::spawn(command);
        daemon.wait_for(|line| line["message"] == "ready").await;
        let hold = doc! { "kind": "hold", "selection": { "all": true }, "by": "ops" };
        let id = fixture.operations().insert_one(hold).await.unwrap().inserted_id;
        daemon.ended().await;
        let _daemon = fixture.daemon().await;
        let ended = fixture.ended(&id).await;
        assert_eq!(ended.get_str("state").ok(), Some("done"), "{failpoint}: {ended}");
        award(&fixture, organization).await;
        wait_for_pending(&fixture, 1).await;
        assert_eq!(fixture.receiver.total(), 0, "{failpoint}");
    }
}

#[tokio::test]
async fn dead_letters_stay_as_they_are_while_their_endpoint_is_held() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let (held, other) = (fixture.endpoint("/held"), fixture.endpoint("/other"));
    let organization = fixture.organization(vec![held.clone(), other.clone()]).await;
    let letter = |endpoint: &Document, n| layout::dead(&endpoint_key(organization, endpoint), &layout::expiry(n));
    fixture.outbox().insert_one(letter(&held, 1)).await.unwrap();
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", "redrive-look=return(1)");
    let key = endpoint_key(organization, &held);
    let hold = doc! { "_id": format!("hold/endpoint/{key}"), "by": "a test", "until": null };
    fixture.state().insert_one(hold).await.unwrap();
    let daemon = Daemon::spawn(command);
    daemon.wait_for(|line| line["message"] == "ready").await;
    // Each of these is found by another look, so that a whole one is between them.
    for n in 2..=3 {
        fixture.outbox().insert_one(letter(&other, n)).await.unwrap();
        fixture.receiver.wait_for_total(n as usize - 1, LIMIT).await.unwrap();
        fixture
            .wait_for_deliveries(doc! { "state": "delivered" }, n as u64 - 1)
            .await;
    }
    let kept = fixture
        .outbox()
        .find_one(doc! { "endpoint": &key })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (kept.get_str("state").ok(), kept.get_i32("version").ok()),
        (Some("dead"), letter(&held, 1).get_i32("version").ok())
    );
    told(&fixture, &["release", "--endpoint", &key]).await;
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 3).await;
}
