//! `certhookd deliveries`: in order, page by page, and never at the cost of all that is kept.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use serde_json::Value;

use crate::fixture::Fixture;
use crate::layout::{
    ENDPOINT, ORGANIZATION, award, batch, before, cancelled, dead, delivered, expiry, indexes, moved, outbox, rejected,
    retry,
};

const OTHER: &str = "674700000000000000000004/674700000000000000000011";

struct Page {
    deliveries: Vec<Value>,
    odd: Vec<Value>,
    after: Option<String>,
}

async fn page(fixture: &Fixture, arguments: &[&str]) -> Page {
    let listed = fixture.outcome(&[&["deliveries", "--json"], arguments].concat()).await;
    assert_eq!(listed.code, Some(0), "{arguments:?}: {listed:?}");
    let lines: Vec<Value> = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let after = lines.iter().find_map(|line| line["after"].as_str().map(str::to_owned));
    let (odd, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| !line["odd"].is_null());
    let deliveries = lines.into_iter().filter(|line| line["after"].is_null()).collect();
    Page { deliveries, odd, after }
}

/// Event and state of each.
fn told(deliveries: &[Value]) -> Vec<(String, String)> {
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    deliveries
        .iter()
        .map(|one| (text(one, "event"), text(one, "state")))
        .collect()
}

async fn pages(fixture: &Fixture, arguments: &[&str], limit: &str) -> Vec<(String, String)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let mut asked = [arguments, &["--limit", limit]].concat();
        asked.extend(after.iter().flat_map(|token: &String| ["--after", token]));
        let page = page(fixture, &asked).await;
        assert!(page.deliveries.len() <= limit.parse().unwrap());
        all.extend(told(&page.deliveries));
        match page.after {
            Some(token) => after = Some(token),
            None => return all,
        }
    }
}

/// Documents that ended one minute after the other, the first last.
fn ended(mut document: Document, minutes: u64) -> Document {
    document.insert("finishedAt", before(Clock::local(), Duration::from_secs(60 * minutes)));
    document
}

/// Eight documents: what waits, what is dead, cancelled and delivered, of two organizations; some ended at one instant.
fn documents() -> Vec<Document> {
    let mut left = ended(delivered(batch(ENDPOINT, &[expiry(20), expiry(21), expiry(22)])), 5);
    left.insert(
        "results",
        [
            doc! { "at": Clock::local(), "status": 200, "ms": 1 },
            moved(),
            doc! { "at": Clock::local(), "status": 200, "ms": 1 },
        ],
    );
    let (mut one, mut two) = (
        ended(dead(ENDPOINT, &expiry(31)), 3),
        ended(dead(ENDPOINT, &expiry(32)), 3),
    );
    for document in [&mut one, &mut two] {
        document.insert(
            "finishedAt",
            DateTime::from_millis(Clock::local().timestamp_millis() / 60_000 * 60_000 - 180_000),
        );
    }
    vec![
        batch(ENDPOINT, &[expiry(1), expiry(2)]),
        retry(ENDPOINT, &expiry(21), 2),
        retry(OTHER, &award(1), 1),
        one,
        two,
        left,
        ended(cancelled(batch(OTHER, &[expiry(40)])), 7),
        ended(delivered(batch(ENDPOINT, &[award(50)])), 9),
        ended(rejected(&expiry(60)), 1),
    ]
}

fn row(event: String, state: &str) -> (String, String) {
    (event, state.to_owned())
}

#[tokio::test]
async fn what_waits_comes_first_then_what_ended_last_on_pages_of_any_length() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    assert!(page(&fixture, &[]).await.deliveries.is_empty());
    outbox(&fixture).insert_many(documents()).await.unwrap();
    let all = told(&page(&fixture, &[]).await.deliveries);
    let mut retries = [row(expiry(21), "pending"), row(award(1), "pending")];
    retries.sort();
    let mut first = all[..2].to_vec();
    first.sort();
    assert_eq!(first, retries, "due in an hour");
    let expected = [
        row(expiry(2), "pending"),
        row(expiry(1), "pending"),
        row(expiry(32), "dead"),
        row(expiry(31), "dead"),
        row(expiry(22), "delivered"),
        row(expiry(21), "moved"),
        row(expiry(20), "delivered"),
        row(expiry(40), "cancelled"),
        row(award(50), "delivered"),
    ];
    let expected: Vec<_> = expected.into_iter().filter(|(_, state)| state != "moved").collect();
    assert_eq!(all[2..], expected, "what left its batch is listed by its own document");
    for limit in ["1", "2", "3", "100"] {
        assert_eq!(pages(&fixture, &[], limit).await, all, "{limit} a page");
        let here = all
            .iter()
            .filter(|(event, _)| *event != award(1) && *event != expiry(40));
        let here: Vec<_> = here.cloned().collect();
        assert_eq!(
            pages(&fixture, &["--organization", ORGANIZATION], limit).await,
            here,
            "{limit} a page"
        );
        assert_eq!(
            pages(&fixture, &["--endpoint", ENDPOINT], limit).await,
            here,
            "{limit} a page"
        );
    }
}

#[tokio::test]
async fn each_choice_leaves_out_what_is_not_chosen() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    outbox(&fixture).insert_many(documents()).await.unwrap();
    let happened = |n: i64| {
        DateTime::from_millis(1_764_239_400_000 + n * 1000)
            .try_to_rfc3339_string()
            .unwrap()
    };
    let (from, to) = (happened(20), happened(32));
    let table: [(&[&str], usize); 11] = [
        (&[], 10),
        (&["--state", "pending"], 4),
        (&["--state", "dead"], 2),
        (&["--state", "dead", "--endpoint", ENDPOINT], 2),
        (&["--state", "dead", "--organization", "674700000000000000000004"], 0),
        (&["--state", "delivered,cancelled"], 4),
        (&["--event-type", "certificate_completed"], 2),
        (&["--from", &from, "--to", &to], 4),
        (&["--organization", "674700000000000000000004"], 2),
        (&["--endpoint", OTHER, "--organization", ORGANIZATION], 0),
        (
            &["--endpoint", OTHER, "--state", "dead", "--organization", ORGANIZATION],
            0,
        ),
    ];
    for (arguments, count) in table {
        let page = page(&fixture, arguments).await;
        assert_eq!(
            (page.deliveries.len(), page.odd.len()),
            (count, 0),
            "{arguments:?}: {:?}",
            told(&page.deliveries)
        );
    }
    for wrong in [
        &["--after", "x"][..],
        &["--limit", "0"],
        &["--state", "gone"],
        &["--from", "today"],
    ] {
        assert_eq!(
            fixture.outcome(&[&["deliveries"], wrong].concat()).await.code,
            Some(2),
            "{wrong:?}"
        );
    }
    let unknown = fixture
        .outcome(&["deliveries", "--organization", "674700000000000000000005"])
        .await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    let text = fixture
        .outcome(&["deliveries", "--limit", "1", "--state", "cancelled"])
        .await
        .stdout;
    assert!(
        text.contains("the endpoint is off") && text.contains("more may follow: --after "),
        "{text}"
    );
}

#[tokio::test]
async fn odd_documents_are_named_among_the_others() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    let odd = |name: &str, change: Document| {
        let mut odd = ended(dead(ENDPOINT, &expiry(1)), 1);
        odd.insert("_id", format!("{ENDPOINT}/{name}"));
        odd.extend(change);
        odd
    };
    let mut documents = documents();
    documents.extend([
        odd("a", doc! { "state": 7 }),
        odd("b", doc! { "finishedAt": "\u{1b}today" }),
        odd("c", doc! { "deliveries": [7, { "event": expiry(2) }] }),
        odd("d", doc! { "history": "none", "replays": 7 }),
        odd("e", doc! { "results": 7 }),
        odd(
            "f",
            doc! { "endpoint": Bson::Null, "deliveries": [doc! { "event": expiry(3), "occurredAt": "x" }] },
        ),
    ]);
    outbox(&fixture).insert_many(documents).await.unwrap();
    for arguments in [&[][..], &["--organization", ORGANIZATION], &["--limit", "1000"]] {
        let page = page(&fixture, arguments).await;
        let named: String = page.odd.iter().map(|odd| odd["odd"]["document"].to_string()).collect();
        for name in ["a", "b", "c", "d", "e", "f"] {
            assert!(
                named.contains(&format!("{ENDPOINT}/{name}")),
                "{arguments:?}: no {name} in {named}"
            );
        }
        assert!(
            page.deliveries.len() >= 13,
            "{arguments:?}: {:?}",
            told(&page.deliveries)
        );
    }
}

/// 100,000 batches of ten endpoints, made by MongoDB itself: each with an event of a certificate of its own.
async fn fill(fixture: &Fixture) {
    let text = |parts: &[Bson]| doc! { "$concat": parts.to_vec() };
    let number = doc! { "$toString": "$n" };
    let certificate = doc! { "$substrCP": [text(&["000000000000000000000000".into(), number.into()]), { "$strLenCP": { "$toString": "$n" } }, 24] };
    let event = text(&[
        "certificate_expired_".into(),
        "$certificate".into(),
        "_1764239400000".into(),
    ]);
    let endpoint = text(&["a/".into(), doc! { "$toString": { "$mod": ["$n", 10] } }.into()]);
    let ended = doc! { "$lt": [{ "$mod": ["$n", 4] }, 3] };
    let if_ended = |then: Bson, other: Bson| doc! { "$cond": [ended.clone(), then, other] };
    let delivery = doc! { "event": "$event", "type": "certificate_expired", "occurredAt": "$at", "payload": "{}" };
    let result = doc! { "at": "$at", "status": 200, "ms": 1 };
    let document = doc! {
        "_id": text(&["$endpoint".into(), "/".into(), "$event".into()]), "v": 2, "version": 1, "endpoint": "$endpoint",
        "state": if_ended("delivered".into(), "pending".into()), "queue": text(&["$endpoint".into(), "/live".into()]),
        "due": "$at", "open": 1, "createdAt": "$at", "deliveries": [delivery],
        "results": if_ended(vec![Bson::from(result)].into(), Bson::Array(Vec::new())),
        "finishedAt": if_ended("$at".into(), "$$REMOVE".into()),
    };
    let now = Clock::local();
    let pipeline = vec![
        doc! { "$documents": [{ "n": { "$range": [0, 100_000] } }] },
        doc! { "$unwind": "$n" },
        doc! { "$set": { "certificate": certificate, "at": { "$subtract": [now, "$n"] } } },
        doc! { "$set": { "event": event, "endpoint": endpoint } },
        doc! { "$replaceWith": document },
        doc! { "$out": "webhook_outbox" },
    ];
    fixture.database.aggregate(pipeline).await.unwrap();
    indexes(fixture).await;
}

#[tokio::test]
async fn among_100_000_batches_each_question_reads_what_it_is_about() {
    let fixture = Fixture::new().await;
    fill(&fixture).await;
    let certificate = "000000000000000000050000";
    let event = format!("certificate_expired_{certificate}_1764239400000");
    let (delivery, document) = (format!("{event}/a/0"), format!("a/0/{event}"));
    let namespaces = ["webhook_outbox", "webhook_state"].map(|name| format!("{}.{name}", fixture.database.name()));
    let queries = doc! { "ns": { "$in": &namespaces[..] } };
    // Documents and keys, at most.
    let cases: [(&[&str], i32, i32); 9] = [
        (&["show", certificate], 4, 40),
        (&["show", &event], 4, 40),
        (&["show", &delivery], 4, 40),
        (&["show", &document], 6, 40),
        (&["deliveries", "--limit", "20", "--state", "delivered"], 500, 700),
        (&["deliveries", "--limit", "20"], 900, 1_500),
        (
            &[
                "deliveries",
                "--limit",
                "20",
                "--organization",
                "a",
                "--state",
                "delivered",
            ],
            500,
            12_000,
        ),
        (
            &[
                "deliveries",
                "--limit",
                "20",
                "--endpoint",
                "a/3",
                "--state",
                "delivered",
            ],
            10_300,
            20_500,
        ),
        (&["deliveries", "--limit", "20", "--state", "dead"], 0, 50),
    ];
    for (arguments, documents, keys) in cases {
        fixture.profile(&queries).await;
        let outcome = fixture.outcome(arguments).await;
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        let noted = fixture.profiled(&queries).await;
        fixture.stop_profiling().await;
        let sum = |field: &str| noted.iter().filter_map(|one| one.get_i32(field).ok()).sum::<i32>();
        let walked = noted
            .iter()
            .any(|one| one.get_str("planSummary").is_ok_and(|plan| plan.contains("COLLSCAN")));
        let plan = |one: &Document| one.get_str("planSummary").unwrap_or_default().to_owned();
        let plans: Vec<_> = noted.iter().map(plan).collect();
        let (looked, read) = (sum("docsExamined"), sum("keysExamined"));
        println!("{arguments:?}: {looked} documents, {read} keys");
        assert!(
            !walked && looked <= documents && read <= keys,
            "{arguments:?}: {looked} documents, {read} keys: {plans:#?}"
        );
        assert!(outcome.stdout.lines().count() > 2 || documents == 0, "{outcome:?}");
    }
}

/// Where too much is chosen to be compared, what has ended is walked through: in the same order, and page by page.
#[tokio::test]
async fn a_choice_of_much_is_walked_through_from_the_latest_on() {
    let fixture = Fixture::new().await;
    fill(&fixture).await;
    let chosen = ["--organization", "a", "--state", "delivered"];
    let number = |event: &str| event.split('_').nth(2).unwrap().parse::<i64>().unwrap();
    let mut expected = (0..).filter(|n| n % 4 < 3);
    let mut after: Option<String> = None;
    for _ in 0..3 {
        let mut arguments = [&chosen[..], &["--limit", "4"]].concat();
        arguments.extend(after.iter().flat_map(|token| ["--after", token]));
        let page = page(&fixture, &arguments).await;
        let found: Vec<_> = told(&page.deliveries).iter().map(|(event, _)| number(event)).collect();
        assert_eq!(found, expected.by_ref().take(4).collect::<Vec<_>>());
        after = page.after;
    }
    // Of what is not there a page says how far it has come.
    let nothing = [&chosen[..], &["--event-type", "certificate_completed"]].concat();
    let first = page(&fixture, &nothing).await;
    assert!(first.deliveries.is_empty());
    let token = first.after.unwrap();
    let second = page(&fixture, &[&nothing[..], &["--after", &token]].concat()).await;
    assert!(second.deliveries.is_empty() && second.after.is_some_and(|after| after != token));
}
