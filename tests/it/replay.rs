//! `certhookd replay`: what has ended becomes pending again, and no attempt is forgotten.

use bson::{Bson, Document, doc};

use crate::fixture::Fixture;
use crate::layout::{
    ENDPOINT, ORGANIZATION, accepted, award, batch, cancelled, dead, delivered, expiry, find, id, indexes, moved,
    outbox, rejected, retry,
};

const OTHER: &str = "674700000000000000000004/674700000000000000000011";

async fn replay(fixture: &Fixture, arguments: &[&str]) -> String {
    let _daemon = fixture.daemon().await;
    fixture.outcome(&[&["replay"], arguments].concat()).await.result()
}

async fn fixture(documents: &[Document]) -> Fixture {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    if !documents.is_empty() {
        outbox(&fixture).insert_many(documents).await.unwrap();
    }
    fixture
}

/// Which results are there, by place.
fn results(document: &Document) -> Vec<&str> {
    let results = document.get_array("results").unwrap().iter();
    let result = |result: &Bson| match result.as_document() {
        Some(result) if result.contains_key("status") => "delivered",
        Some(result) if result.contains_key("moved") => "moved",
        Some(_) => "cancelled",
        None => "open",
    };
    results.map(result).collect()
}

fn state(document: &Document) -> (&str, i32) {
    (document.get_str("state").unwrap(), document.get_i32("open").unwrap())
}

/// The statuses of the attempts that are on record.
fn history(document: &Document) -> Vec<i32> {
    let history = document.get_array("history").unwrap().iter();
    let status = |attempt: &Bson| attempt.as_document().unwrap().get_i32("status").unwrap();
    history.map(status).collect()
}

#[tokio::test]
async fn a_dead_letter_gets_all_attempts_again_and_keeps_its_history() {
    let fixture = fixture(&[
        dead(ENDPOINT, &expiry(1)),
        dead(OTHER, &expiry(1)),
        retry(ENDPOINT, &expiry(2), 2),
    ])
    .await;
    assert_eq!(
        replay(&fixture, &["--endpoint", ENDPOINT]).await,
        "1 delivery is pending again"
    );
    let again = find(&fixture, &format!("{ENDPOINT}/{}", expiry(1))).await;
    let texts = ["state", "queue"].map(|field| again.get_str(field).unwrap().to_owned());
    assert_eq!(texts, ["pending".to_owned(), format!("{ENDPOINT}/retry")]);
    let numbers = ["version", "open", "attempts"].map(|field| again.get_i32(field).unwrap());
    assert_eq!(numbers, [2, 1, 0]);
    assert_eq!(again.get_array("history").unwrap().len(), 3);
    for gone in ["finishedAt", "reason", "firstAttemptAt", "deadSince", "redrivable"] {
        assert!(!again.contains_key(gone), "{gone}");
    }
    assert!(again.get_datetime("due").unwrap() >= again.get_datetime("createdAt").unwrap());
    assert_eq!(
        outbox(&fixture)
            .count_documents(doc! { "state": "dead" })
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn of_a_cancelled_batch_what_was_settled_stays_settled() {
    let mut some = batch(ENDPOINT, &[0, 1, 2, 3].map(expiry));
    some.insert("results", vec![Bson::from(accepted()), Bson::Null, moved().into()]);
    some.insert("open", 2);
    let some = cancelled(some);
    let fixture = fixture(std::slice::from_ref(&some)).await;
    let count = replay(&fixture, &["--organization", ORGANIZATION, "--state", "cancelled"]).await;
    assert_eq!(count, "2 deliveries are pending again");
    let again = find(&fixture, id(&some)).await;
    assert_eq!(results(&again), ["delivered", "open", "moved", "open"]);
    assert_eq!(state(&again), ("pending", 2));
}

#[tokio::test]
async fn an_event_of_a_cancelled_batch_goes_out_without_the_others_which_can_follow() {
    let some = cancelled(batch(ENDPOINT, &[0, 1, 2].map(expiry)));
    let fixture = fixture(std::slice::from_ref(&some)).await;
    let named = format!("{}/{ENDPOINT}", expiry(1));
    let count = replay(&fixture, &["--id", &named, "--state", "cancelled"]).await;
    assert_eq!(count, "1 delivery is pending again");
    let again = find(&fixture, id(&some)).await;
    assert_eq!(results(&again), ["cancelled", "open", "cancelled"]);
    assert_eq!(state(&again), ("pending", 1));

    // It is delivered, so the batch is.
    let set = doc! { "results.1": accepted(), "open": 0, "state": "delivered", "finishedAt": again.get("due") };
    outbox(&fixture)
        .update_one(doc! { "_id": id(&some) }, doc! { "$set": set })
        .await
        .unwrap();
    let count = replay(&fixture, &["--all", "--state", "cancelled"]).await;
    assert_eq!(count, "2 deliveries are pending again");
    assert_eq!(results(&find(&fixture, id(&some)).await), ["open", "delivered", "open"]);
}

#[tokio::test]
async fn what_was_delivered_goes_out_again_and_its_success_stays_on_record() {
    let (alone, several) = (batch(ENDPOINT, &[expiry(1)]), batch(ENDPOINT, &[expiry(2), expiry(3)]));
    let (alone, several) = (delivered(alone), delivered(several));
    let mut late = delivered(retry(ENDPOINT, &expiry(4), 2));
    let success = late.get_array("results").unwrap()[0].as_document().unwrap().clone();
    late.get_array_mut("history").unwrap().push(success.into());
    let fixture = fixture(&[alone.clone(), several.clone(), late.clone()]).await;
    let count = replay(&fixture, &["--endpoint", ENDPOINT, "--state", "delivered"]).await;
    assert_eq!(count, "4 deliveries are pending again");

    let again = find(&fixture, id(&alone)).await;
    assert_eq!((state(&again), results(&again)), (("pending", 1), vec!["open"]));
    assert_eq!(history(&again), [200]);
    assert_eq!(
        history(&find(&fixture, id(&late)).await),
        [503, 503, 200],
        "each attempt once"
    );
    assert_eq!(find(&fixture, id(&several)).await, several, "the batch is as it was");
    for event in [2, 3].map(expiry) {
        let own = find(&fixture, &format!("{ENDPOINT}/{event}")).await;
        assert_eq!((state(&own), history(&own)), (("pending", 1), vec![200]));
        let deliveries = own.get_array("deliveries").unwrap();
        assert!(
            deliveries[0]
                .as_document()
                .unwrap()
                .get_str("payload")
                .unwrap()
                .starts_with("{\"_id\"")
        );
    }
    // They are on their way: once is enough.
    let count = replay(&fixture, &["--endpoint", ENDPOINT, "--state", "delivered"]).await;
    assert_eq!(count, "0 deliveries are pending again");
}

#[tokio::test]
async fn what_is_given_must_all_hold_and_a_dry_run_changes_nothing() {
    let documents = [
        dead(ENDPOINT, &expiry(1)),
        dead(ENDPOINT, &expiry(60)),
        dead(ENDPOINT, &award(1)),
        dead(OTHER, &expiry(1)),
        cancelled(batch(ENDPOINT, &[expiry(2), award(2)])),
        cancelled(batch(OTHER, &[expiry(2)])),
        delivered(batch(OTHER, &[expiry(3)])),
        batch(ENDPOINT, &[expiry(4)]),
        rejected(&expiry(5)),
    ];
    let fixture = fixture(&documents).await;
    let minute = "2025-11-27T10:31:00Z";
    for (arguments, count) in [
        (&["--all"][..], 4),
        (&["--all", "--state", "dead,cancelled,delivered"], 8),
        (&["--organization", ORGANIZATION], 3),
        (&["--organization", ORGANIZATION, "--state", "dead,cancelled"], 5),
        (&["--organization", ORGANIZATION, "--endpoint", OTHER], 0),
        (&["--event-type", "certificate_completed"], 1),
        (&["--event-type", "certificate_completed", "--state", "cancelled"], 1),
        (&["--from", minute], 1),
        (&["--endpoint", ENDPOINT, "--to", minute], 2),
        (&["--id", &expiry(1)], 2),
        (&["--id", &expiry(1), "--organization", ORGANIZATION], 1),
        (&["--id", &format!("{}/{OTHER}", expiry(1))], 1),
        (&["--id", id(&documents[4]), "--state", "cancelled"], 2),
        (&["--id", id(&documents[5]), "--state", "cancelled"], 1),
    ] {
        let shown = replay(&fixture, &[arguments, &["--dry-run"]].concat()).await;
        let last = shown.lines().last().unwrap();
        assert_eq!(
            last,
            format!(
                "{count} {} would be sent again",
                if count == 1 { "delivery" } else { "deliveries" }
            ),
            "{arguments:?}"
        );
        assert_eq!(shown.lines().count(), count + 2, "{shown}");
    }
    let shown = replay(&fixture, &["--id", &expiry(60), "--dry-run"]).await;
    let row: Vec<_> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    let named = format!("{}/{ENDPOINT}", expiry(60));
    assert_eq!(row, [&*named, "dead", "100", "2025-11-27T10:31:00Z", "status", "503"]);
    assert_eq!(
        outbox(&fixture).count_documents(doc! { "version": 1 }).await.unwrap(),
        9
    );
}

#[tokio::test]
async fn an_endpoint_is_named_by_its_id_alone_while_it_is_configured() {
    let fixture = fixture(&[]).await;
    let endpoint = fixture.endpoint("/a");
    let endpoint_id = endpoint.get_object_id("_id").unwrap().to_hex();
    let organization = fixture.organization(vec![endpoint]).await;
    let key = format!("{organization}/{endpoint_id}");
    outbox(&fixture)
        .insert_many([dead(&key, &expiry(1)), dead(ENDPOINT, &expiry(1))])
        .await
        .unwrap();
    let count = replay(&fixture, &["--endpoint", &endpoint_id]).await;
    assert_eq!(count, "1 delivery is pending again");
    let deleted = fixture
        .outcome(&["replay", "--endpoint", "674700000000000000000010"])
        .await;
    assert_eq!(deleted.code, Some(1));
    assert!(
        deleted.errors()[0].ends_with("name one that was deleted as ORGANIZATION/674700000000000000000010"),
        "{deleted:?}"
    );
    let nothing = fixture.outcome(&["replay"]).await;
    assert!(nothing.errors()[0].starts_with("nothing is chosen"), "{nothing:?}");
}

#[tokio::test]
async fn many_are_sent_again_each_once() {
    let fixture = fixture(&[]).await;
    let documents: Vec<_> = (0..350).map(|n| dead(ENDPOINT, &expiry(n))).collect();
    outbox(&fixture).insert_many(documents).await.unwrap();
    assert_eq!(replay(&fixture, &["--all"]).await, "350 deliveries are pending again");
    let again = doc! { "state": "pending", "version": 2 };
    assert_eq!(outbox(&fixture).count_documents(again).await.unwrap(), 350);
}

#[tokio::test]
async fn a_name_that_nothing_has_is_exit_1_with_the_nearest_for_replay_and_for_events() {
    let fixture = fixture(&[
        dead(ENDPOINT, &expiry(1)),
        delivered(batch(OTHER, &[expiry(2)])),
        retry(ENDPOINT, &expiry(3), 2),
    ])
    .await;
    let endpoint = fixture.endpoint("/orders");
    let endpoint_id = endpoint.get_object_id("_id").unwrap().to_hex();
    let organization = fixture.organization(vec![endpoint]).await.to_hex();
    let misspelt = |name: &str| format!("{}z", &name[..name.len() - 1]);
    let (event, pending, other) = (expiry(1), expiry(3), expiry(2));
    let (no_event, no_endpoint, no_organization) = (misspelt(&event), misspelt(&endpoint_id), misspelt(&organization));
    let whole = format!("{organization}/{no_endpoint}");
    let cases: [(&[&str], &str, &str); 17] = [
        (&["replay", "--id", &no_event], "the outbox holds no", &event),
        (
            &["replay", "--id", "nosuch"],
            "the outbox holds no nosuch; the nearest: ",
            "/",
        ),
        (
            &["replay", "--id", &no_event, "--dry-run"],
            "the outbox holds no",
            &event,
        ),
        (&["replay", "--id", &pending], "nothing of", "it is pending"),
        (&["replay", "--id", &other], "is dead", "it is delivered"),
        (
            &["replay", "--endpoint", &no_endpoint],
            "no endpoint is named",
            &endpoint_id,
        ),
        (&["replay", "--endpoint", &whole], "no endpoint is named", &endpoint_id),
        (
            &["replay", "--organization", &no_organization],
            "no organization is named",
            &organization,
        ),
        (
            &["events", "--endpoint", &no_endpoint],
            "no endpoint is named",
            &endpoint_id,
        ),
        (&["cancel", "--id", &no_event], "the outbox holds no", &event),
        (&["cancel", "--id", &other], "nothing of", "it is delivered"),
        (
            &["cancel", "--endpoint", &no_endpoint],
            "no endpoint is named",
            &endpoint_id,
        ),
        (
            &["deliveries", "--endpoint", &no_endpoint],
            "no endpoint is named",
            &endpoint_id,
        ),
        (
            &["hold", "--endpoint", &no_endpoint, "--reason", "test"],
            "no endpoint is named",
            &endpoint_id,
        ),
        (
            &["release", "--organization", &no_organization],
            "no organization is named",
            &organization,
        ),
        (
            &["backfill", "--endpoint", &no_endpoint],
            "no endpoint is named",
            &endpoint_id,
        ),
        (
            &["events", "--organization", &no_organization],
            "no organization is named",
            &organization,
        ),
    ];
    for (arguments, error, hint) in cases {
        let outcome = fixture.outcome(arguments).await;
        let errors = outcome.errors();
        assert_eq!((outcome.code, errors.len()), (Some(1), 1), "{arguments:?} {outcome:?}");
        assert!(
            errors[0].contains(error) && errors[0].contains(hint),
            "{arguments:?} {errors:?}"
        );
        assert_eq!(outcome.stdout, "", "{arguments:?}");
    }
    // What is known and has nothing to send again is no mistake; nor is what was deleted and has something.
    let nothing = replay(&fixture, &["--endpoint", &endpoint_id]).await;
    assert_eq!(nothing, "0 deliveries are pending again");
    let deleted = replay(&fixture, &["--endpoint", ENDPOINT, "--organization", ORGANIZATION]).await;
    assert_eq!(deleted, "1 delivery is pending again");
    let _daemon = fixture.daemon().await;
    let outcome = fixture
        .outcome(&["backfill", "--endpoint", &endpoint_id, "--certificate", "nosuch"])
        .await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
    assert!(outcome.errors()[0].contains("no certificate nosuch of"), "{outcome:?}");
}
