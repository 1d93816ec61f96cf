//! `certhookd events`: deliveries followed from another process.

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::{Options, Proxy, ReplicaSet, Response};
use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::time::timeout;

use crate::fixture::{Daemon, Fixture, LIMIT, expired, expired_id};
use crate::layout::{self, ENDPOINT, accepted, award, batch, expiry, id, moved, outbox, rejected, retry};

/// A running `certhookd events`, and what it prints.
struct Events {
    process: Daemon,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Events {
    async fn follow(fixture: &Fixture, arguments: &[&str]) -> Self {
        let (process, stdout) = Daemon::spawn_telling(fixture.command(&[&["events"], arguments].concat()));
        process.wait_for(|line| line["message"] == "following deliveries").await;
        let lines = BufReader::new(stdout).lines();
        Self { process, lines }
    }

    async fn line(&mut self) -> String {
        timeout(LIMIT, self.lines.next_line()).await.unwrap().unwrap().unwrap()
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }
}

/// State, attempt, status and reason of a line.
fn told(line: &Value) -> (&str, i64, Option<i64>, Option<&str>) {
    let attempt = line["attempt"].as_i64().unwrap();
    (
        line["state"].as_str().unwrap(),
        attempt,
        line["status"].as_i64(),
        line["reason"].as_str(),
    )
}

#[tokio::test]
async fn each_delivery_of_a_batch_has_lines_of_its_own() {
    let fixture = Fixture::new().await;
    layout::indexes(&fixture).await;
    let mut events = Events::follow(&fixture, &["--json"]).await;
    let some = batch(ENDPOINT, &[0, 1, 2].map(expiry));
    let outbox = outbox(&fixture);
    outbox.insert_one(&some).await.unwrap();
    for n in 0..3 {
        let line = events.json().await;
        assert_eq!(
            (told(&line), &line["webhook_id"]),
            (("pending", 0, None, None), &expiry(n).into())
        );
    }
    let set = async |set: Document| {
        let filter = doc! { "_id": id(&some) };
        outbox
            .update_one(filter, doc! { "$set": set, "$inc": { "version": 1 } })
            .await
            .unwrap();
    };
    // As a recorder does it: what failed is its own document from now on.
    set(doc! { "results.1": moved(), "results.2": accepted(), "open": 1 }).await;
    outbox.insert_one(retry(ENDPOINT, &expiry(1), 1)).await.unwrap();
    for (n, expected) in [
        (2, ("delivered", 1, Some(200), None)),
        (1, ("pending", 1, Some(503), Some("status 503"))),
    ] {
        let line = events.json().await;
        assert_eq!((told(&line), &line["webhook_id"]), (expected, &expiry(n).into()));
    }
    set(doc! { "state": "cancelled", "reason": "the endpoint is off", "finishedAt": Clock::local() }).await;
    let line = events.json().await;
    assert_eq!(told(&line), ("cancelled", 0, None, Some("the endpoint is off")));
    assert_eq!(line["webhook_id"], expiry(0).as_str());

    let _daemon = fixture.daemon().await;
    let count = fixture
        .outcome(&["replay", "--all", "--state", "cancelled"])
        .await
        .stdout;
    assert_eq!(count, "1 delivery is pending again\n");
    assert_eq!(told(&events.json().await), ("pending", 0, None, Some("replay")));
}

#[tokio::test]
async fn results_that_are_written_all_at_once_are_lines_of_their_own() {
    let fixture = Fixture::new().await;
    let mut events = Events::follow(&fixture, &["--json"]).await;
    let outbox = outbox(&fixture);
    let two = batch(ENDPOINT, &[8, 9].map(expiry));
    outbox.insert_one(&two).await.unwrap();
    let all =
        doc! { "results": [accepted(), accepted()], "open": 0, "state": "delivered", "finishedAt": Clock::local() };
    outbox
        .update_one(doc! { "_id": id(&two) }, doc! { "$set": all })
        .await
        .unwrap();
    for state in ["pending", "pending", "delivered", "delivered"] {
        assert_eq!(events.json().await["state"], state);
    }
}

#[tokio::test]
async fn of_two_that_were_cancelled_only_the_one_that_goes_out_again_has_a_line() {
    let fixture = Fixture::new().await;
    layout::indexes(&fixture).await;
    let mut events = Events::follow(&fixture, &["--json"]).await;
    let outbox = outbox(&fixture);
    let two = layout::cancelled(batch(ENDPOINT, &[4, 5].map(expiry)));
    outbox.insert_one(&two).await.unwrap();
    let _daemon = fixture.daemon().await;
    fixture
        .outcome(&["replay", "--id", &expiry(5), "--state", "cancelled"])
        .await;
    outbox.insert_one(batch(ENDPOINT, &[expiry(6)])).await.unwrap();
    for (n, state) in [(4, "cancelled"), (5, "cancelled"), (5, "pending"), (6, "pending")] {
        let line = events.json().await;
        assert_eq!(
            (&line["webhook_id"], &line["state"]),
            (&expiry(n).into(), &state.into())
        );
    }
}

#[tokio::test]
async fn a_delivery_is_followed_through_its_attempts_to_its_end() {
    let fixture = Fixture::new().await;
    let mut events = Events::follow(&fixture, &["--json"]).await;
    let outbox = outbox(&fixture);
    let one = batch(ENDPOINT, &[expiry(1)]);
    outbox.insert_one(&one).await.unwrap();
    assert_eq!(told(&events.json().await), ("pending", 0, None, None));
    let now = Clock::local();
    let later = |seconds| layout::after(now, Duration::from_secs(seconds));
    let failed = |attempts: i32| {
        let set = doc! {
            "state": "pending", "attempts": attempts, "queue": format!("{ENDPOINT}/retry"), "lastStatus": 503,
            "lastError": "status 503", "lastAttemptAt": later(attempts as u64),
        };
        doc! { "$set": set, "$push": { "history": { "n": attempts } }, "$inc": { "version": 1 } }
    };
    let dead = doc! {
        "state": "dead", "reason": "the retry period ended after 3 attempts", "attempts": 3, "lastAttemptAt": later(3),
        "finishedAt": now, "lastError": "timed out", "redrivable": true,
    };
    let delivered = doc! {
        "state": "delivered", "attempts": 4, "lastAttemptAt": later(4), "lastStatus": 204, "open": 0,
        "results": [{ "at": now, "status": 204, "ms": 3 }], "finishedAt": now,
    };
    for (update, expected) in [
        (failed(1), ("pending", 1, Some(503), Some("status 503"))),
        // As the first: nothing but number and time differ.
        (failed(2), ("pending", 2, Some(503), Some("status 503"))),
        (
            doc! { "$set": dead, "$unset": { "lastStatus": 1 } },
            (
                "dead",
                3,
                None,
                Some("the retry period ended after 3 attempts: timed out"),
            ),
        ),
        (
            doc! { "$set": { "state": "pending", "redriven": true }, "$unset": { "finishedAt": 1, "reason": 1 } },
            ("pending", 3, None, Some("redrive")),
        ),
        (
            doc! { "$set": delivered, "$unset": { "redriven": 1 } },
            ("delivered", 4, Some(204), None),
        ),
    ] {
        outbox.update_one(doc! { "_id": id(&one) }, update).await.unwrap();
        let line = events.json().await;
        assert_eq!(told(&line), expected, "{line}");
    }
}

#[tokio::test]
async fn a_write_that_changes_no_delivery_has_no_line() {
    let fixture = Fixture::new().await;
    let mut events = Events::follow(&fixture, &["--json"]).await;
    let outbox = outbox(&fixture);
    let one = batch(ENDPOINT, &[expiry(1)]);
    outbox.insert_one(&one).await.unwrap();
    assert_eq!(told(&events.json().await), ("pending", 0, None, None));
    for update in [
        doc! { "$inc": { "version": 1 } },
        doc! { "$unset": { "deliveries.0.payload": 1 } },
    ] {
        outbox.update_one(doc! { "_id": id(&one) }, update).await.unwrap();
    }
    let probe = doc! { "_id": "probe/5b0c1f6e9a42", "v": 2, "state": "probe" };
    outbox
        .insert_many([probe, rejected(&expiry(2)), layout::dead(ENDPOINT, &expiry(3))])
        .await
        .unwrap();
    for expected in [
        ("rejected", 0, None, Some("`_ownerId` is missing")),
        ("dead", 100, Some(503), Some("100 attempts failed: status 503")),
    ] {
        assert_eq!(told(&events.json().await), expected);
    }
}

#[tokio::test]
async fn others_are_filtered_out() {
    const OTHER: &str = "674700000000000000000004/674700000000000000000011";
    let fixture = Fixture::new().await;
    let (organization, endpoint) = OTHER.split_once('/').unwrap();
    let [organization_id, id] = [organization, endpoint].map(|id| ObjectId::parse_str(id).unwrap());
    let mut configured = fixture.endpoint("/other");
    configured.insert("_id", id);
    let config = doc! { "_ownerId": organization_id, "webHookConfig": { "endpoints": [configured] } };
    fixture.member_configs().insert_one(config).await.unwrap();
    let mut followers = Vec::new();
    for arguments in [
        &["--endpoint", OTHER][..],
        &["--endpoint", endpoint],
        &["--organization", organization],
        &["--event-type", "certificate_completed"],
        &["--state", "dead,cancelled"],
    ] {
        followers.push(Events::follow(&fixture, &[&["--json"], arguments].concat()).await);
    }
    let documents = [
        batch(ENDPOINT, &[expiry(1)]),
        batch(OTHER, &[expiry(2), award(2)]),
        rejected(&expiry(3)),
        layout::dead(ENDPOINT, &award(4)),
        batch(OTHER, &[expiry(5)]),
        layout::dead(ENDPOINT, &expiry(6)),
    ];
    outbox(&fixture).insert_many(documents).await.unwrap();
    let others = [expiry(2), award(2), expiry(5)];
    let expected = [
        &others[..],
        &others,
        &others,
        &[award(2), award(4)],
        &[award(4), expiry(6)],
    ];
    for (follower, expected) in followers.iter_mut().zip(expected) {
        for event in expected {
            assert_eq!(follower.json().await["webhook_id"], event.as_str());
        }
    }
}

#[tokio::test]
async fn a_line_is_for_people_or_for_programs() {
    let fixture = Fixture::new().await;
    let mut json = Events::follow(&fixture, &["--json"]).await;
    let mut table = Events::follow(&fixture, &[]).await;
    outbox(&fixture)
        .insert_one(retry(ENDPOINT, &expiry(1), 2))
        .await
        .unwrap();
    let (organization, endpoint) = ENDPOINT.split_once('/').unwrap();
    let mut line = json.json().await;
    let at = line.as_object_mut().unwrap().remove("at").unwrap();
    assert!(at.as_str().unwrap().ends_with('Z'), "{at}");
    let expected = json!({
        "state": "pending", "event_type": "certificate_expired", "organization": organization, "endpoint": endpoint,
        "attempt": 2, "status": 503, "reason": "status 503", "webhook_id": expiry(1),
    });
    assert_eq!(line, expected);

    let (header, line) = (table.line().await, table.line().await);
    let under = |column: &str, width| line[header.find(column).unwrap()..][..width].trim();
    assert_eq!(
        (under("state", 9), under("event", 9), under("attempt", 7)),
        ("pending", "expired", "2")
    );
    assert_eq!((under("response", 32), under("endpoint", 49)), ("status 503", ENDPOINT));
    assert!(line.ends_with(&expiry(1)) && !line.contains('\u{1b}'), "{line}");
    for mut follower in [json, table] {
        follower.process.signal(Signal::SIGINT);
        assert!(follower.process.ended().await.success());
    }
}

#[tokio::test]
async fn a_daemons_deliveries_are_told_of_as_they_go() {
    let fixture = Fixture::new().await;
    fixture
        .receiver
        .script("/flaky", Response::failing(2, StatusCode::SERVICE_UNAVAILABLE));
    let endpoint = fixture.endpoint("/flaky");
    let endpoint_id = endpoint.get_object_id("_id").unwrap().to_hex();
    let organization = fixture.organization(vec![endpoint, fixture.endpoint("/b")]).await;
    let mut events = Events::follow(&fixture, &["--json", "--endpoint", &endpoint_id]).await;
    let certificate = expired(organization);
    fixture.badge_users().insert_one(&certificate).await.unwrap();
    let mut daemon = fixture.daemon().await;
    for expected in [
        ("pending", 0, None, None),
        ("pending", 1, Some(503), Some("status 503")),
        ("pending", 2, Some(503), Some("status 503")),
        ("delivered", 3, Some(200), None),
    ] {
        let line = events.json().await;
        assert_eq!(told(&line), expected, "{line}");
        assert_eq!(line["webhook_id"], expired_id(&certificate));
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn what_happens_while_mongodb_is_unavailable_is_told_once_it_is_back() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let proxy = Proxy::start(set.port(0)).await.unwrap();
    let soon = "serverSelectionTimeoutMS=500&connectTimeoutMS=1000&heartbeatFrequencyMS=500";
    let uri = format!("mongodb://{}/?directConnection=true&{soon}", proxy.address());
    let fixture = Fixture::on(&uri, set.client().await.unwrap());
    let mut events = Events::follow(&fixture, &["--json"]).await;
    outbox(&fixture)
        .insert_one(batch("a/before", &[expiry(1)]))
        .await
        .unwrap();
    assert_eq!(events.json().await["endpoint"], "before");
    proxy.cut();
    events.process.wait_for(|line| line["level"] == "WARN").await;
    outbox(&fixture)
        .insert_one(batch("a/meanwhile", &[expiry(1)]))
        .await
        .unwrap();
    proxy.pass();
    assert_eq!(events.json().await["endpoint"], "meanwhile");
    outbox(&fixture).drop().await.unwrap();
    events
        .process
        .wait_for_nth(|line| line["message"] == "following deliveries again", 2)
        .await;
    outbox(&fixture)
        .insert_one(batch("a/after", &[expiry(1)]))
        .await
        .unwrap();
    assert_eq!(events.json().await["endpoint"], "after");
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_it_without_complaint() {
    let fixture = Fixture::new().await;
    let mut events = Events::follow(&fixture, &[]).await;
    drop(events.lines);
    outbox(&fixture).insert_one(batch("a/b", &[expiry(1)])).await.unwrap();
    assert!(events.process.ended().await.success(), "{:?}", events.process.lines());
}
