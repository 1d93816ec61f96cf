//! How MongoDB serves the daemon's queries, as it saw them.

use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Answer, Bulk};
use http::StatusCode;

use crate::bed::{Bed, certificate, expired};
use crate::web::{LISTEN, address, get};

/// Every stage of a plan.
fn stages(plan: &Document) -> Vec<String> {
    let mut names = vec![plan.get_str("stage").unwrap().to_owned()];
    let several = plan
        .get_array("inputStages")
        .into_iter()
        .flatten()
        .filter_map(Bson::as_document);
    for input in several.chain(plan.get_document("inputStage")) {
        names.extend(stages(input));
    }
    names
}

/// What the daemon asked MongoDB for, explained.
async fn explain(bed: &Bed, asked: &Document) -> (Vec<String>, [i32; 3]) {
    let command = asked.get_document("command").unwrap();
    let fields = ["find", "filter", "sort", "hint"];
    let find: Document = command
        .clone()
        .into_iter()
        .filter(|(key, _)| fields.contains(&key.as_str()))
        .collect();
    let explained = doc! { "explain": find, "verbosity": "executionStats" };
    let explained = bed.database.run_command(explained).await.unwrap();
    let plan = explained
        .get_document("queryPlanner")
        .and_then(|planner| planner.get_document("winningPlan"));
    let stats = explained.get_document("executionStats").unwrap();
    let counts = ["nReturned", "totalDocsExamined", "totalKeysExamined"].map(|count| stats.get_i32(count).unwrap());
    (stages(plan.unwrap()), counts)
}

#[tokio::test]
async fn among_100_000_that_are_alive_the_index_leads_to_the_expired_and_to_no_other_document() {
    let bed = Bed::new().await;
    let now = Clock::local().timestamp_millis();
    let in_days = |days: i64| Some(DateTime::from_millis(now + days * 86_400_000));
    // One in four lacks `expiryReminderSent`; one in ten never expires.
    let alive = |i: usize| {
        if i.is_multiple_of(10) {
            None
        } else {
            in_days(1 + i as i64 % 300)
        }
    };
    let mut bulk = Bulk::new(1, 10);
    bulk.insert(&bed.badge_users(), 100_000, alive).await.unwrap();
    let owner = bulk.owners()[0];
    let flags = [Some(Bson::Boolean(false)), Some(Bson::Null), None];
    let due = flags.iter().cycle().take(60).map(|flag| {
        let mut document = expired(owner);
        document.remove("expiryReminderSent");
        document.extend(flag.clone().map(|flag| ("expiryReminderSent".to_owned(), flag)));
        document
    });
    bed.badge_users().insert_many(due).await.unwrap();
    let mut sent = certificate(owner, in_days(-1));
    sent.insert("expiryReminderSent", true);
    bed.badge_users().insert_one(sent).await.unwrap();
    let index = doc! { "key": { "expiryReminderSent": 1, "expires": 1 }, "name": "certhookd_scan" };
    let create = doc! { "createIndexes": "badgeusers", "indexes": [index] };
    bed.database.run_command(create).await.unwrap();

    let queries = doc! { "op": "query", "ns": format!("{}.badgeusers", bed.database.name()) };
    bed.profile(&queries).await;
    assert_eq!(bed.outcome(&["scan", "--dry-run"]).await.code, Some(0));
    let asked = bed.profiled(&queries).await;
    let [for_expired, for_odd] = asked.as_slice() else {
        panic!("{asked:#?}")
    };

    let (stages, [returned, documents, keys]) = explain(&bed, for_expired).await;
    println!("expired: {stages:?}: {returned} returned, {documents} documents and {keys} keys examined");
    assert!(
        stages.contains(&"IXSCAN".into()) && !stages.contains(&"SORT".into()),
        "{stages:?}"
    );
    assert_eq!((returned, documents), (60, 60));
    assert!(keys < 70, "{keys}");
    assert_eq!(for_expired.get_i32("docsExamined").unwrap(), 60, "in the scan itself");

    let (stages, [returned, documents, keys]) = explain(&bed, for_odd).await;
    println!("odd types: {stages:?}: {returned} returned, {documents} documents and {keys} keys examined");
    assert!(!stages.contains(&"COLLSCAN".into()), "{stages:?}");
    assert_eq!((returned, documents), (0, 0));
    assert!(keys < 70, "{keys}");
}

/// Everything that a daemon asks of its outbox, and that is asked about it, while it sends, fails and sends dead letters again.
#[tokio::test]
async fn nothing_walks_the_whole_outbox() {
    let settings = format!("{LISTEN}\ndelivery.max_attempts = 2\ndelivery.retry_window = \"1s\"");
    let bed = Bed::new().await.with(&settings);
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    bed.receiver.script("/a", Answer::failing(2, StatusCode::BAD_GATEWAY));
    let ended =
        (0..1_000).map(|n| doc! { "_id": n, "state": "delivered", "finishedAt": Clock::local(), "endpoint": "a/b" });
    bed.deliveries().insert_many(ended).await.unwrap();
    let walks = doc! {
        "ns": format!("{}.webhook_deliveries", bed.database.name()),
        "appName": "certhookd",
        "$or": [{ "planSummary": "COLLSCAN" }, { "docsExamined": { "$gt": 500 } }],
    };
    bed.profile(&walks).await;

    bed.badge_users().insert_one(expired(owner)).await.unwrap();
    let mut daemon = bed.daemon().await;
    daemon
        .wait_for(|line| line["message"] == "dead letters are tried again")
        .await;
    bed.wait_for_count(&bed.deliveries(), doc! { "state": "delivered", "attempts": 3 }, 1)
        .await;
    let address = address(&daemon).await;
    for path in ["/", "/metrics", "/readyz"] {
        assert_eq!(get(address, path).await.status, 200, "{path}");
    }
    assert_eq!(bed.outcome(&["status"]).await.code, Some(0));
    assert!(daemon.stop().await.success());
    let walked = bed.profiled(&walks).await;
    assert!(walked.is_empty(), "{walked:#?}");
}
