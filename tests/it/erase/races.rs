//! Erasing while awards go on, what fails is tried again and instances die.

use std::collections::HashSet;
use std::time::Duration;

use bson::doc;
use bson::oid::ObjectId;
use certhookd::sandbox::{Received, Response};
use futures_util::future::join_all;
use http::StatusCode;

use super::{OTHER, USER, hold_everything, naming, of_users, result};
use crate::fixture::{Daemon, Fixture, LIMIT, certificate, completed_id, endpoint_key, expired};
use crate::layout::{ENDPOINT, batch, expiry, indexes, outbox};

#[tokio::test]
async fn under_load_and_during_retries_nothing_of_the_user_goes_out_after_done() {
    let fixture = Fixture::new().await;
    let endpoints = ["/well", "/sick"].map(|path| fixture.endpoint(path));
    let organization = fixture.organization(endpoints.to_vec()).await;
    fixture
        .receiver
        .script("/sick", [Response::status(StatusCode::INTERNAL_SERVER_ERROR)]);
    let (_one, _other) = (fixture.daemon().await, fixture.daemon().await);
    let user = ObjectId::new();
    let award = async |user| {
        let mut award = certificate(organization, None);
        award.insert("_userId", user);
        fixture.badge_users().insert_one(&award).await.unwrap();
        completed_id(&award)
    };
    let mut others = Vec::new();
    for _ in 0..30 {
        award(user).await;
        others.push(award(ObjectId::new()).await);
    }
    let operation = doc! { "kind": "erase", "selection": { "user": user } };
    let operation = fixture.operations().insert_one(operation).await.unwrap().inserted_id;
    let ended = fixture.ended(&operation);
    tokio::pin!(ended);
    let done = loop {
        tokio::select! {
            done = &mut ended => break done,
            id = award(ObjectId::new()) => others.push(id),
        }
    };
    assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");
    let of_user = |received: &[Received]| {
        let hex = user.to_hex();
        received
            .iter()
            .filter(|one| String::from_utf8_lossy(&one.body).contains(&hex))
            .count()
    };
    let at_done = of_user(&fixture.receiver.requests());
    let naming: Vec<_> = naming(&fixture, &user.to_hex())
        .await
        .iter()
        .map(|one| one.get("_id").cloned())
        .collect();
    assert_eq!(naming, [Some(operation.clone())]);
    // What fails is tried again, and all that is not the user's arrives.
    fixture.receiver.script("/sick", [Response::ok()]);
    let arrived = |received: &[Received]| {
        let ids: HashSet<_> = received
            .iter()
            .filter(|one| one.status == Some(StatusCode::OK))
            .map(|one| (one.path.clone(), one.header("webhook-id").to_owned()))
            .collect();
        let arrived = |id: &String, path: &str| ids.contains(&(path.to_owned(), id.clone()));
        others.iter().all(|id| arrived(id, "/well") && arrived(id, "/sick"))
    };
    let received = fixture.receiver.wait_for(arrived, LIMIT).await.unwrap();
    assert_eq!(of_user(&received), at_done, "{done}");
    assert_eq!(
        fixture
            .count_deliveries(doc! { "state": "pending", "erased": true })
            .await,
        0
    );
}

#[tokio::test]
async fn killed_at_each_step_it_is_done_once() {
    let failpoints = [
        "step-to-be-committed",
        "step-committed",
        "place-noted",
        "walk-ended",
        "control-to-be-raised",
        "control-raised",
        "operation-to-be-finished",
    ];
    join_all(failpoints.map(killed_at)).await;
}

async fn killed_at(failpoint: &str) {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    hold_everything(&fixture).await;
    // More than a page of the walk, in several steps.
    let documents = (0..300).map(|n| of_users(batch(ENDPOINT, &[expiry(2 * n), expiry(2 * n + 1)]), &[USER, OTHER]));
    outbox(&fixture).insert_many(documents).await.unwrap();
    let operation = doc! { "kind": "erase", "selection": { "user": USER } };
    let operation = fixture.operations().insert_one(operation).await.unwrap().inserted_id;
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", format!("{failpoint}=return"));
    Daemon::spawn(command).ended().await;
    let mut expected = 300;
    if failpoint == "place-noted" {
        // Behind the walk.
        let mut behind = of_users(batch(ENDPOINT, &[expiry(1_000)]), &[USER]);
        behind.insert("_id", "0/0");
        outbox(&fixture).insert_one(behind).await.unwrap();
        expected += 1;
    }
    let _daemon = fixture.daemon().await;
    let done = fixture.ended(&operation).await;
    assert_eq!(done.get_str("state").ok(), Some("done"), "{failpoint}: {done}");
    assert_eq!(result(&done), [expected; 3], "{failpoint}: {done}");
    assert_eq!(naming(&fixture, USER).await.len(), 1, "{failpoint}");
    assert_eq!(fixture.count_deliveries(doc! { "state": "pending" }).await, 300);
    let twice = doc! { "version": { "$gt": 2 } };
    assert_eq!(outbox(&fixture).count_documents(twice).await.unwrap(), 0, "{failpoint}");
}

/// Deliveries that are read already when they are cancelled or erased wait in memory behind a slow receiver.
#[tokio::test]
async fn what_is_in_memory_of_it_does_not_go_out() {
    join_all(["erase", "cancel"].map(drops_memory)).await;
}

async fn drops_memory(kind: &str) {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint("/slow");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let slow = Duration::from_millis(300);
    fixture
        .receiver
        .script("/slow", [Response::ok(), Response::ok().after(slow)]);
    let user = ObjectId::new();
    let expired = || {
        let mut certificate = expired(organization);
        certificate.insert("_userId", user);
        certificate
    };
    fixture
        .badge_users()
        .insert_many((0..60).map(|_| expired()))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    fixture.wait_for(|received| received.len() >= 3).await;
    let selection = match kind {
        "erase" => doc! { "user": user },
        _ => doc! { "endpoint": endpoint_key(organization, &endpoint) },
    };
    let done = fixture.operate(doc! { "kind": kind, "selection": selection }).await;
    assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");
    let at_done = fixture.receiver.total();
    assert!(at_done < 40, "{at_done}");
    // What happens after it arrives behind all that was in memory.
    let later = certificate(organization, None);
    fixture.badge_users().insert_one(&later).await.unwrap();
    let id = completed_id(&later);
    fixture
        .wait_for(|received| received.iter().any(|one| one.header("webhook-id") == id))
        .await;
    assert_eq!(fixture.receiver.total(), at_done + 1, "{kind}");
}
