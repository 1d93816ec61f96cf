//! What MongoDB refuses for one organization, or what somebody removes, stops no other.

use std::collections::HashSet;
use std::time::Duration;

use bson::doc;
use bson::oid::ObjectId;
use certhookd::sandbox::Response;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, Fixture, LIMIT, endpoint_key, expired, expired_in_turn, is_scan, pending_batch};
use crate::layout;

/// More than a scan's page.
const REFUSED: i64 = 1_200;

#[tokio::test]
async fn marks_that_are_refused_by_the_hundreds_hold_up_no_other_organization() {
    let fixture = Fixture::new().await.odd().with("completions.enabled = false");
    let strict = fixture.organization(vec![fixture.endpoint("/strict")]).await;
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let mut refused = expired_in_turn(strict, REFUSED);
    for certificate in &mut refused {
        certificate.insert("disabled", "maybe");
    }
    fixture.badge_users().insert_many(&refused).await.unwrap();
    fixture
        .badge_users()
        .insert_many([expired(other), expired(other)])
        .await
        .unwrap();
    let validator = doc! { "collMod": "badgeusers", "validator": { "disabled": { "$type": "bool" } } };
    fixture.database.run_command(validator).await.unwrap();

    let mut daemon = fixture.daemon().await;
    let all = REFUSED as usize + 2;
    fixture.receiver.wait_for_total(all, LIMIT).await.unwrap();
    daemon.wait_for(is_scan).await;
    daemon.signal(Signal::SIGUSR1);
    let second = daemon.wait_for_nth(is_scan, 2).await;
    assert_eq!(second["found"], 0, "they are not taken up again: {second}");
    assert!(daemon.stop().await.success());
    let mut daemon = fixture.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["found"], 0, "nor by another instance");
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), all, "each once");
    let marked = doc! { "expiryReminderSent": true };
    assert_eq!(fixture.badge_users().count_documents(marked).await.unwrap(), 2);
    let kept = doc! { "_id": { "$regex": "^unmarkable/" }, "finishedAt": null };
    assert_eq!(fixture.outbox().count_documents(kept).await.unwrap(), REFUSED as u64);
}

#[tokio::test]
async fn statistics_that_are_refused_keep_no_result_from_being_recorded_and_are_named_now_and_then() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organizations = [
        fixture.organization(vec![fixture.endpoint("/a")]).await,
        fixture.organization(vec![fixture.endpoint("/b")]).await,
    ];
    let validator = doc! { "create": "webhook_stats", "validator": { "nothing": { "$exists": true } } };
    fixture.database.run_command(validator).await.unwrap();
    for organization in organizations {
        fixture
            .badge_users()
            .insert_many(expired_in_turn(organization, 300))
            .await
            .unwrap();
    }
    for results in [600, 0] {
        let mut daemon = fixture.daemon().await;
        daemon.wait_for(is_scan).await;
        fixture.wait_for_deliveries(doc! { "state": "delivered" }, 600).await;
        assert!(daemon.stop().await.success());
        let lost = daemon.lines().into_iter().filter_map(|line| line["results"].as_u64());
        let lost: Vec<_> = lost.collect();
        assert!(lost.len() <= 4, "at first and at last, per endpoint: {lost:?}");
        assert_eq!(lost.iter().sum::<u64>(), results);
    }
    assert_eq!(fixture.receiver.total(), 600);
}

#[tokio::test]
async fn deliveries_that_can_not_be_stored_are_rejected_with_the_reason_and_the_others_go_out() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let [refused, other] = ["/refused", "/other"].map(|path| fixture.endpoint(path));
    let refused = fixture.organization(vec![refused]).await;
    let other = fixture.organization(vec![other]).await;
    let pattern = format!("^{refused}/");
    let validator = doc! { "create": "webhook_outbox", "validator": { "endpoint": { "$not": { "$regex": pattern } } } };
    fixture.database.run_command(validator).await.unwrap();
    fixture
        .badge_users()
        .insert_many([expired(refused), expired(refused), expired(other), expired(refused)])
        .await
        .unwrap();
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    assert_eq!(fixture.receiver.count("/other"), 1);
    let rejected = |line: &Value| {
        line["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("refuses to store"))
    };
    daemon.wait_for_nth(rejected, 3).await;
    let note = doc! { "state": "rejected", "reason": { "$regex": "refuses to store" } };
    assert_eq!(fixture.outbox().count_documents(note).await.unwrap(), 3);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn indexes_of_the_outbox_that_somebody_drops_are_created_again_and_nothing_is_walked_meanwhile() {
    // Where an operation fails for want of one they are listed at once, not only the next time.
    let missed = ["events", "dead", "pending", "*", "the collection"];
    tokio::join!(
        are_created_again(&missed, "index-look=return(3600)"),
        are_created_again(&["retention"], "index-look=return(1)"),
    );
}

async fn are_created_again(dropped: &[&str], failpoints: &str) {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut command = fixture.command(&["run"]);
    command.env("FAILPOINTS", failpoints);
    let mut daemon = Daemon::spawn(command);
    daemon.wait_for(is_scan).await;
    let walks = doc! {
        "ns": format!("{}.webhook_outbox", fixture.database.name()), "appName": "certhookd", "planSummary": "COLLSCAN",
        "command.find": { "$exists": true }, "docsExamined": { "$gt": 0 },
    };
    fixture.profile(&walks).await;
    for (nth, index) in (1..).zip(dropped.iter().copied()) {
        let ended = (0..20).map(|n| layout::delivered(layout::batch("a/b", &[layout::expiry(n)])));
        fixture.outbox().delete_many(doc! {}).await.unwrap();
        fixture.outbox().insert_many(ended).await.unwrap();
        match index {
            "the collection" => fixture.outbox().drop().await.unwrap(),
            "*" => fixture.outbox().drop_indexes().await.unwrap(),
            index => fixture.outbox().drop_index(index).await.unwrap(),
        }
        fixture.badge_users().insert_one(expired(organization)).await.unwrap();
        daemon.signal(Signal::SIGUSR1);
        fixture.receiver.wait_for_total(nth, LIMIT).await.unwrap();
        let created = |line: &Value| line["message"] == "the outbox has all its indexes again";
        daemon.wait_for_nth(created, nth).await;
        let delivered = doc! { "state": "delivered", "endpoint": { "$ne": "a/b" } };
        fixture.wait_for_count(&fixture.outbox(), delivered, 1).await;
        let mut names = fixture.outbox().list_index_names().await.unwrap();
        names.sort();
        assert_eq!(names, ["_id_", "dead", "events", "pending", "retention"], "{index}");
    }
    assert!(daemon.stop().await.success());
    let walked = fixture.profiled(&walks).await;
    assert!(walked.is_empty(), "{walked:#?}");
    let lost = |line: &Value| line["message"] == "the outbox has lost indexes: they are created again";
    assert_eq!(daemon.count(lost), dropped.len(), "{:#?}", daemon.lines());
}

#[tokio::test]
async fn a_batch_that_can_not_be_read_is_set_aside_and_the_others_go_out() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let broken = [
        doc! { "deliveries": "none" },
        doc! { "deliveries": [{ "event": 1 }] },
        doc! { "open": "many" },
    ];
    for (n, change) in (0..).zip(&broken) {
        let mut batch = pending_batch(&key, &expired_in_turn(organization, 2));
        batch.insert("_id", format!("{key}/broken-{n}"));
        batch.extend(change.clone());
        fixture.outbox().insert_one(batch).await.unwrap();
    }
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    let mut daemon = fixture.daemon().await;
    fixture.receiver.wait_for_total(1, LIMIT).await.unwrap();
    let set_aside = doc! { "state": "rejected", "reason": { "$regex": "^can't be read" } };
    fixture
        .wait_for_count(&fixture.outbox(), set_aside, broken.len() as u64)
        .await;
    assert!(daemon.stop().await.success());
}

/// Documents of the outbox that were there before a validator refuses every change of them.
#[tokio::test]
async fn a_document_that_mongodb_refuses_to_change_stops_no_other_and_is_told_of_once() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    // What is done with them, and how the others end.
    let cases = [
        ("/cancel", "cancelled"),
        ("/redrive", "delivered"),
        ("/set-aside", "rejected"),
    ];
    for (case, _) in cases {
        let mut endpoint = fixture.endpoint(case);
        endpoint.insert("enabled", case != "/cancel");
        let organization = fixture.organization(vec![endpoint.clone()]).await;
        let key = endpoint_key(organization, &endpoint);
        for n in 0..5 {
            let mut document = match case {
                "/redrive" => layout::dead(&key, &layout::expiry(n)),
                _ => pending_batch(&key, &expired_in_turn(organization, 2)),
            };
            if case == "/set-aside" {
                document.insert("open", "two");
            }
            // The oldest come first.
            if n < 2 {
                document.insert("frozen", true);
            }
            fixture.outbox().insert_one(document).await.unwrap();
        }
    }
    let validator = doc! { "collMod": "webhook_outbox", "validator": { "frozen": { "$exists": false } } };
    fixture.database.run_command(validator).await.unwrap();
    // Everything is looked at again and again until this is delivered.
    let mut slow = fixture.endpoint("/slow");
    slow.insert("timeout", 30_000);
    let slow = fixture.organization(vec![slow]).await;
    fixture
        .receiver
        .script("/slow", [Response::ok().after(Duration::from_secs(15))]);
    fixture.badge_users().insert_one(expired(slow)).await.unwrap();
    let mut daemon = fixture.daemon().await;
    for (_, end) in cases {
        let others = doc! { "state": end, "frozen": { "$exists": false }, "endpoint": { "$not": { "$regex": format!("^{slow}") } } };
        fixture.wait_for_count(&fixture.outbox(), others, 3).await;
    }
    let delivered = doc! { "state": "delivered", "endpoint": { "$regex": format!("^{slow}") } };
    fixture.wait_for_count(&fixture.outbox(), delivered, 1).await;
    let errors: Vec<_> = daemon
        .lines()
        .into_iter()
        .filter(|line| line["level"] == "ERROR")
        .collect();
    assert_eq!(errors.len(), 2 * cases.len(), "{errors:#?}");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_batch_whose_results_are_refused_is_not_read_again_for_a_while_and_the_others_go_out() {
    // So few slots that batches are read one by one.
    let fixture = Fixture::new()
        .await
        .with("completions.enabled = false\nqueue.capacity = 16\ndelivery.max_in_flight = 16");
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = endpoint_key(organization, &endpoint);
    let batch = || pending_batch(&key, &expired_in_turn(organization, 2));
    let mut frozen = [batch(), batch(), batch()];
    for batch in &mut frozen {
        batch.insert("frozen", true);
    }
    fixture.outbox().insert_many(&frozen).await.unwrap();
    let validator = doc! { "collMod": "webhook_outbox", "validator": { "frozen": { "$exists": false } } };
    fixture.database.run_command(validator).await.unwrap();
    let daemon = fixture.daemon().await;
    let is_refusal = |line: &Value| line["level"] == "ERROR";
    daemon.wait_for_nth(is_refusal, frozen.len()).await;

    let reads = doc! {
        "ns": format!("{}.webhook_outbox", fixture.database.name()), "command.aggregate": { "$exists": true },
        "command.hint": { "$exists": false }, "nreturned": { "$gt": 0 }, "appName": "certhookd",
    };
    fixture.profile(&reads).await;
    fixture
        .receiver
        .script("/a", [Response::ok().after(Duration::from_secs(4))]);
    fixture.outbox().insert_one(batch()).await.unwrap();
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 2).await;
    let reads = fixture.profiled(&reads).await;
    let returned: i32 = reads.iter().map(|read| read.get_i32("nreturned").unwrap()).sum();
    assert!(returned <= 2, "{reads:#?}");
    let requests = fixture.receiver.requests();
    let events: HashSet<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(events.len(), requests.len(), "none is sent again");
    assert_eq!(daemon.count(is_refusal), frozen.len());
}

/// Refuses to change documents of the outbox that match, but for new ones.
async fn refuse_to_change(fixture: &Fixture, matching: &bson::Document) {
    let validator = doc! { "$or": [{ "$nor": [matching] }, { "version": 1 }] };
    let refuse = doc! { "collMod": "webhook_outbox", "validator": validator };
    fixture.database.run_command(refuse).await.unwrap();
}

async fn successes(fixture: &Fixture, organization: ObjectId) -> i64 {
    let of = doc! { "$match": { "_id": { "$regex": format!("^{organization}/") } } };
    let sum = doc! { "$group": { "_id": null, "sum": { "$sum": "$successes" } } };
    let found = fixture.statistics().aggregate([of, sum]).await.unwrap();
    let found: Vec<_> = futures_util::TryStreamExt::try_collect(found).await.unwrap();
    found.first().map_or(0, |found| found.get_i64("sum").unwrap())
}

/// The other organization has enough endpoints that results of both are recorded in the same transactions.
#[tokio::test]
async fn results_that_are_refused_for_one_endpoint_keep_no_other_from_being_recorded() {
    const CERTIFICATES: i64 = 30;
    const OTHERS: i64 = 20;
    let fixture = Fixture::new().await.with("completions.enabled = false");
    let refused = fixture.endpoint("/refused");
    let others = (0..OTHERS).map(|_| fixture.endpoint("/other")).collect();
    let first = fixture.organization(vec![refused.clone()]).await;
    let second = fixture.organization(others).await;
    let refused = endpoint_key(first, &refused);
    let mut daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    refuse_to_change(&fixture, &doc! { "endpoint": &refused }).await;
    for organization in [first, second] {
        let certificates = expired_in_turn(organization, CERTIFICATES);
        fixture.badge_users().insert_many(certificates).await.unwrap();
    }
    daemon.signal(Signal::SIGUSR1);
    let of = |organization: ObjectId, state: &str| {
        doc! { "endpoint": { "$regex": format!("^{organization}/") }, "state": state }
    };
    fixture
        .wait_for_deliveries(of(second, "delivered"), (OTHERS * CERTIFICATES) as u64)
        .await;
    let is_refused = |line: &Value| {
        line["level"] == "ERROR"
            && line["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("MongoDB refuses to record results of this batch"))
    };
    let line = daemon.wait_for(is_refused).await;
    assert_eq!(line["organization"], first.to_hex(), "{line}");
    let is_others = |line: &Value| is_refused(line) && line["organization"] == second.to_hex();
    // Nor does it stop what comes later.
    fixture.badge_users().insert_one(expired(second)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    let delivered = OTHERS * (CERTIFICATES + 1);
    fixture
        .wait_for_deliveries(of(second, "delivered"), delivered as u64)
        .await;
    assert_eq!(
        fixture.count_deliveries(of(first, "pending")).await,
        CERTIFICATES as u64
    );
    assert_eq!(daemon.count(is_others), 0);
    assert!(daemon.stop().await.success());
    assert_eq!(
        (successes(&fixture, second).await, successes(&fixture, first).await),
        (delivered, 0),
        "what is recorded is counted, once"
    );

    let accept = doc! { "collMod": "webhook_outbox", "validator": {} };
    fixture.database.run_command(accept).await.unwrap();
    let mut daemon = fixture.daemon().await;
    fixture
        .wait_for_deliveries(of(first, "delivered"), CERTIFICATES as u64)
        .await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.count("/other"), delivered as usize, "each once");
    assert_eq!(successes(&fixture, first).await, CERTIFICATES);
}
