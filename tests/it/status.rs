//! The state of everything, as MongoDB knows it: true, and at a cost that does not grow with what is kept.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use certhookd::status::{Backlog, Status, backlog, gather};
use certhookd::store::Store;
use nix::time::ClockId;
use serde_json::Value;

use crate::fixture::{Fixture, certificate, endpoint_key, expired};
use crate::layout::{
    ENDPOINT, accepted, award, batch, before, cancelled, configure, dead, delivered, directory, expiry, figures,
    instance, lease, moved, outbox, rejected, retry, store,
};
use crate::web::{LISTEN, address, get};

const OTHER: &str = "674700000000000000000003/674700000000000000000011";
const THIRD: &str = "674700000000000000000004/674700000000000000000012";

async fn status(store: &Store) -> Status {
    let week = Duration::from_secs(7 * 24 * 3600);
    gather(store, &directory(store).await, week).await.unwrap()
}

/// A batch of three of which one delivery is left, and that was due and appended this long ago.
fn partly_settled(endpoint: &str, seconds: u64) -> Document {
    let since = before(Clock::local(), Duration::from_secs(seconds));
    let mut some = batch(endpoint, &[expiry(0), award(1), expiry(2)]);
    let results = vec![Bson::from(accepted()), Bson::Null, moved().into()];
    some.extend(doc! { "results": results, "open": 1, "due": since, "createdAt": since });
    some
}

#[tokio::test]
async fn an_unknown_event_type_is_marked_and_events_of_organizations_without_configuration_are_counted() {
    let fixture = Fixture::new().await.with(LISTEN);
    let subscribed = |path: &str, types: &[&str]| {
        let mut endpoint = fixture.endpoint(path);
        endpoint.insert("eventTypes", types.to_vec());
        endpoint
    };
    let organization = fixture
        .organization(vec![
            subscribed("/fine", &[" Certificate_Expired "]),
            subscribed("/misspelt", &["certificate_expire"]),
            subscribed("/half", &["certificate_expired", "completed"]),
        ])
        .await;
    // The same organization as text, and two that have no document.
    let mut as_text = expired(organization);
    as_text.insert("_ownerId", organization.to_hex());
    let strangers = [expired(ObjectId::new()), expired(ObjectId::new())];
    fixture
        .badge_users()
        .insert_many([&as_text, &strangers[0], &strangers[1]])
        .await
        .unwrap();
    let daemon = fixture.daemon().await;
    fixture.wait_for(|requests| requests.len() == 2).await;
    // The award of a stranger comes from the stream.
    let award = certificate(ObjectId::new(), None);
    fixture.badge_users().insert_one(award).await.unwrap();
    fixture
        .wait_for_count(&fixture.state(), doc! { "unconfigured": 3 }, 1)
        .await;

    let json = fixture.outcome(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(status["instances"][0]["unconfigured_events"], 3);
    let warnings = |path: &str| {
        let all = status["endpoints"].as_array().unwrap();
        let endpoint = all.iter().find(|endpoint| endpoint["name"] == path).unwrap();
        endpoint["warnings"].to_string()
    };
    assert_eq!(warnings("/fine"), "[]");
    for (path, unknown, nearest) in [
        ("/misspelt", "`certificate_expire` is unknown", "`certificate_expired`"),
        ("/half", "`completed` is unknown", "`certificate_completed`"),
    ] {
        assert!(
            warnings(path).contains(unknown) && warnings(path).contains(nearest),
            "{}",
            warnings(path)
        );
        let is_told = |line: &Value| line["level"] == "WARN" && line.to_string().contains(unknown);
        assert_eq!(daemon.count(is_told), 1, "{path}");
    }
    let table = fixture.outcome(&["status"]).await.stdout;
    assert!(
        table.contains("3 events of organizations that have no configuration"),
        "{table}"
    );
    assert!(
        table.contains("served, see below") && table.contains("`certificate_expire` is unknown"),
        "{table}"
    );
    let page = get(address(&daemon).await, "/").await.body;
    assert!(
        page.contains("`completed` is unknown") && page.contains("is `certificate_completed`"),
        "{page}"
    );
}

#[tokio::test]
async fn deliveries_are_counted_not_documents_and_of_each_endpoint_the_next_and_the_latest_are_told() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let mut earlier = dead(ENDPOINT, &expiry(1));
    let an_hour_ago = before(Clock::local(), Duration::from_secs(3600));
    earlier.extend(doc! { "finishedAt": an_hour_ago, "reason": "earlier" });
    let mut later = batch(ENDPOINT, &[3, 4, 5].map(expiry));
    later.insert("due", Clock::local());
    let documents = [
        partly_settled(ENDPOINT, 60),
        later,
        retry(ENDPOINT, &expiry(6), 2),
        retry(OTHER, &expiry(6), 7),
        earlier,
        dead(ENDPOINT, &award(7)),
        cancelled(batch(OTHER, &[expiry(8), expiry(9)])),
        delivered(batch(OTHER, &[expiry(10)])),
        rejected(&expiry(11)),
    ];
    outbox(&fixture).insert_many(documents).await.unwrap();
    fixture.statistics().insert_one(figures(OTHER, 5, 2)).await.unwrap();
    configure(&fixture, &store, &[ENDPOINT]).await;
    let found = status(&store).await;
    assert_eq!((found.outbox.pending, found.outbox.dead), (6, 2));
    let oldest = found.outbox.oldest.unwrap().as_secs();
    assert!((60..90).contains(&oldest), "{oldest}");

    let next: Vec<_> = found
        .next
        .iter()
        .map(|head| (&*head.endpoint, head.count, &*head.event, head.attempts))
        .collect();
    let [one, other] = [ENDPOINT, OTHER].map(|key| key.split_once('/').unwrap().1);
    // Of its batch the first is delivered.
    assert_eq!(
        next,
        [
            (one, 5, "certificate_completed", 0),
            (other, 1, "certificate_expired", 7)
        ]
    );
    assert_eq!(found.next[1].error, "status 503");
    let latest: Vec<_> = found
        .dead_letters
        .iter()
        .map(|head| (&*head.endpoint, head.count, &*head.event, head.attempts))
        .collect();
    assert_eq!(latest, [(one, 2, "certificate_completed", 100)]);
    assert_eq!(found.dead_letters[0].reason, "100 attempts failed");

    let endpoints: Vec<_> = found
        .endpoints
        .iter()
        .map(|one| {
            (
                &*one.endpoint,
                one.state,
                one.pending,
                one.dead,
                one.delivered,
                one.failed_attempts,
            )
        })
        .collect();
    assert_eq!(endpoints, [(one, "served", 5, 2, 0, 0), (other, "deleted", 1, 0, 5, 2)]);
    store.close().await;
}

#[tokio::test]
async fn what_waits_longest_is_what_was_due_and_there_first() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let [held, suspended] = [14, 15].map(|n| format!("6747000000000000000000{n}/6747000000000000000000{n}"));
    let known = configure(&fixture, &store, &[ENDPOINT, OTHER, THIRD, &held, &suspended]).await;
    assert_eq!(backlog(&store, &known).await.unwrap(), Backlog::default());
    let episode = doc! { "version": 1_i64, "since": Clock::local(), "failures": 1_i64, "suspended": { "since": Clock::local(), "gone": true } };
    let states = [
        doc! { "_id": format!("hold/endpoint/{held}"), "at": Clock::local(), "until": null },
        doc! { "_id": format!("episode/{suspended}"), "episode": episode },
    ];
    fixture.state().insert_many(states).await.unwrap();
    // Found a moment ago, due since 2025; waiting for two minutes; due in an hour; waiting for an endpoint that is not served, is held, is
    // suspended.
    let documents = [
        batch(ENDPOINT, &[expiry(1)]),
        partly_settled(OTHER, 120),
        retry(THIRD, &expiry(6), 2),
        partly_settled("674700000000000000000005/674700000000000000000013", 600),
        partly_settled(&held, 600),
        partly_settled(&suspended, 600),
    ];
    outbox(&fixture).insert_many(documents).await.unwrap();
    let oldest = backlog(&store, &known).await.unwrap().oldest.unwrap().as_secs();
    assert!((120..150).contains(&oldest), "{oldest}");
    store.close().await;
}

#[tokio::test]
async fn instances_are_alive_leaving_or_dead_and_one_holds_the_lease() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let mut leaving = instance("b", 1);
    leaving.insert("leaving", true);
    let neighbours = [
        doc! { "_id": "endpoint/o/e" },
        doc! { "_id": "scan" },
        doc! { "_id": "wake/a", "n": 1_i64 },
    ];
    let documents = [instance("a", 0), leaving, instance("c", 30), lease("a")];
    fixture
        .state()
        .insert_many(documents.iter().chain(&neighbours))
        .await
        .unwrap();
    let found = status(&store).await.instances;
    let found: Vec<_> = found
        .iter()
        .map(|one| (&*one.id, one.state, one.holds_lease, one.pid))
        .collect();
    assert_eq!(
        found,
        [
            ("a", "alive", true, 4711),
            ("b", "leaving", false, 4711),
            ("c", "dead", false, 4711)
        ]
    );
    // Who is dead holds nothing, whatever the lease says.
    fixture
        .state()
        .replace_one(doc! { "_id": "lease/source" }, lease("c"))
        .await
        .unwrap();
    assert!(status(&store).await.instances.iter().all(|one| !one.holds_lease));
    store.close().await;
}

#[tokio::test]
async fn an_endpoint_is_served_off_out_of_service_or_deleted() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let named = |name: &str| {
        let mut endpoint = fixture.endpoint("/a");
        endpoint.insert("name", name);
        endpoint
    };
    let (served, mut off, mut odd) = (named("served"), named("off"), named("odd"));
    off.insert("enabled", false);
    odd.insert("url", "ftp://files.test/");
    fixture.organization(vec![served, off, odd]).await;
    fixture.statistics().insert_one(figures(ENDPOINT, 1, 0)).await.unwrap();
    let found = status(&store).await.endpoints;
    let state = |state: &str| found.iter().filter(|one| one.state == state).count();
    assert_eq!(
        ["served", "off", "out of service", "deleted"].map(state),
        [1; 4],
        "{found:#?}"
    );
    assert!(
        found
            .iter()
            .all(|one| one.why.is_some() == (one.state == "out of service"))
    );
    store.close().await;
}

/// Documents of 1,000 endpoints each, of one organization, and with each endpoint a delivery and its figures. Returns their number.
async fn add_endpoints(fixture: &Fixture, organization: ObjectId, documents: usize) -> usize {
    let mut keys = Vec::new();
    for _ in 0..documents {
        let endpoints: Vec<_> = (0..1000).map(|_| fixture.endpoint("/a")).collect();
        keys.extend(endpoints.iter().map(|endpoint| endpoint_key(organization, endpoint)));
        let config = doc! { "_ownerId": organization, "webHookConfig": { "endpoints": endpoints } };
        fixture.member_configs().insert_one(config).await.unwrap();
    }
    for some in keys.chunks(5000) {
        let deliveries = some.iter().map(|key| retry(key, &expiry(1), 1));
        outbox(fixture).insert_many(deliveries).await.unwrap();
        let figures = some.iter().map(|key| figures(key, 3, 1));
        fixture.statistics().insert_many(figures).await.unwrap();
    }
    keys.len()
}

/// The CPU time of this thread, which alone runs the test.
fn cpu_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap().into()
}

/// Linear is 4 times as much; it was 16 where each endpoint was looked for among all of its organization.
#[tokio::test]
async fn four_times_the_endpoints_of_one_organization_are_not_much_more_than_four_times_the_work() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let organization = ObjectId::new();
    let (mut total, mut spent) = (0, Vec::new());
    for documents in [10, 30] {
        total += add_endpoints(&fixture, organization, documents).await;
        let before = cpu_time();
        let found = status(&store).await;
        spent.push(cpu_time() - before);
        let counted = (found.endpoints.len(), found.outbox.pending, found.next.len());
        assert_eq!(counted, (total, total as i64, 200));
        let mut endpoints = found.endpoints.iter();
        assert!(endpoints.all(|one| (one.state, one.pending, one.delivered) == ("served", 1, 3)));
    }
    println!("10,000 and 40,000 endpoints: {spent:?} of CPU time");
    assert!(spent[1] < spent[0] * 8, "{spent:?}");
    store.close().await;
}
