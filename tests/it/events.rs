//! `certhookd events`: deliveries followed from another process.

use bson::{DateTime, Document, doc};
use certhookd::sandbox::{Answer, Options, Proxy, ReplicaSet};
use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::time::timeout;

use crate::bed::{Bed, Daemon, LIMIT, expired, expired_id};

/// A running `certhookd events`, and what it prints.
struct Events {
    process: Daemon,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Events {
    async fn follow(bed: &Bed, arguments: &[&str]) -> Self {
        let (process, stdout) = Daemon::spawn_telling(bed.command(&[&["events"], arguments].concat()));
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

/// A delivery as a daemon writes it, under this key.
fn delivery(key: &str, state: &str) -> Document {
    let now = DateTime::from_millis(1_764_239_400_000);
    doc! {
        "_id": format!("certificate_expired_674700000000000000000001_1764239400000/{key}"), "v": 1, "state": state,
        "endpoint": key, "eventType": "certificate_expired", "occurredAt": now, "createdAt": now, "due": now,
        "attempts": 1, "payload": "{}",
    }
}

#[tokio::test]
async fn each_change_of_a_delivery_is_a_line_and_others_are_filtered_out() {
    let bed = Bed::new().await;
    bed.receiver
        .script("/flaky", Answer::failing(2, StatusCode::SERVICE_UNAVAILABLE));
    let endpoint = bed.endpoint("/flaky");
    let id = endpoint.get_object_id("_id").unwrap().to_hex();
    let owner = bed.organization(vec![endpoint, bed.endpoint("/b")]).await;
    let other = bed.organization(vec![bed.endpoint("/c")]).await;
    let owner_id = owner.to_hex();
    let key = format!("{owner_id}/{id}");
    let mut events = Events::follow(
        &bed,
        &["--json", "--endpoint", &id, "--event-type", "certificate_expired"],
    )
    .await;
    let mut of_owner = Events::follow(&bed, &["--json", "--owner", &owner_id, "--state", "dead,delivered"]).await;
    let mut table = Events::follow(&bed, &["--endpoint", &key]).await;

    let certificate = expired(owner);
    bed.badge_users()
        .insert_many([&expired(other), &certificate])
        .await
        .unwrap();
    let mut daemon = bed.daemon().await;
    for (state, attempt, status, reason) in [
        ("claimed", 1, Value::Null, Value::Null),
        ("pending", 1, 503.into(), "status 503".into()),
        ("claimed", 2, Value::Null, Value::Null),
        // The second failure is as the first: nothing but the attempt has changed in the document.
        ("pending", 2, 503.into(), "status 503".into()),
        ("claimed", 3, Value::Null, Value::Null),
        ("delivered", 3, 200.into(), Value::Null),
    ] {
        let mut told = events.json().await;
        let at = told.as_object_mut().unwrap().remove("at").unwrap();
        assert!(at.as_str().unwrap().ends_with('Z'), "{at}");
        let expected = json!({
            "state": state, "event_type": "certificate_expired", "owner": owner_id, "endpoint": id, "attempt": attempt,
            "status": status, "reason": reason, "webhook_id": expired_id(&certificate),
        });
        assert_eq!(told, expected);
    }
    let mut delivered = [of_owner.json().await, of_owner.json().await];
    delivered.sort_by_key(|told| told["endpoint"] == id.as_str());
    assert!(
        delivered
            .iter()
            .all(|told| told["state"] == "delivered" && told["owner"] == owner_id.as_str())
    );
    assert_eq!(delivered[1]["endpoint"], id.as_str());

    let header = table.line().await;
    for (state, answer) in [("claimed", ""), ("pending", "status 503")] {
        let line = table.line().await;
        let under = |column: &str, width| line[header.find(column).unwrap()..][..width].trim();
        assert_eq!(
            (under("state", 9), under("event", 9), under("try", 3)),
            (state, "expired", "1")
        );
        assert_eq!((under("answer", 32), under("endpoint", 49)), (answer, &*key));
        assert!(
            line.ends_with(expired_id(&certificate).as_str()) && !line.contains('\u{1b}'),
            "{line}"
        );
    }
    assert!(daemon.stop().await.success());
    for mut follower in [events, of_owner, table] {
        follower.process.signal(Signal::SIGINT);
        assert!(follower.process.ended().await.success());
    }
}

#[tokio::test]
async fn what_happens_while_mongodb_is_away_is_told_once_it_is_back() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let proxy = Proxy::start(set.port(0)).await.unwrap();
    let soon = "serverSelectionTimeoutMS=500&connectTimeoutMS=1000&heartbeatFrequencyMS=500";
    let uri = format!("mongodb://{}/?directConnection=true&{soon}", proxy.address());
    let bed = Bed::on(&uri, set.client().await.unwrap());
    let mut events = Events::follow(&bed, &["--json"]).await;
    bed.deliveries()
        .insert_one(delivery("a/before", "pending"))
        .await
        .unwrap();
    assert_eq!(events.json().await["endpoint"], "before");
    proxy.cut();
    events.process.wait_for(|line| line["level"] == "WARN").await;
    bed.deliveries()
        .insert_one(delivery("a/meanwhile", "pending"))
        .await
        .unwrap();
    proxy.pass();
    assert_eq!(events.json().await["endpoint"], "meanwhile");
    bed.deliveries().drop().await.unwrap();
    events
        .process
        .wait_for_nth(|line| line["message"] == "following deliveries again", 2)
        .await;
    bed.deliveries()
        .insert_one(delivery("a/after", "pending"))
        .await
        .unwrap();
    assert_eq!(events.json().await["endpoint"], "after");
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_it_without_complaint() {
    let bed = Bed::new().await;
    let mut events = Events::follow(&bed, &[]).await;
    drop(events.lines);
    bed.deliveries().insert_one(delivery("a/b", "pending")).await.unwrap();
    assert!(events.process.ended().await.success(), "{:?}", events.process.lines());
}
