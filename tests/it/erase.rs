//! `certhookd erase`: nothing names a user any more, nothing of theirs goes out, and all others are as they were.

mod races;

use std::collections::BTreeSet;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use certhookd::model::Clock;
use futures_util::TryStreamExt;
use futures_util::future::join_all;

use crate::fixture::{Fixture, expired, is_scan};
use crate::layout::{
    ENDPOINT, accepted, award, batch, cancelled, dead, delivered, expiry, find, id, indexes, moved, outbox, rejected,
    retry,
};

const USER: &str = "5747000000000000000000aa";
const OTHER: &str = "5747000000000000000000bb";

/// A batch whose deliveries are of these users in turn.
fn of_users(mut document: Document, users: &[&str]) -> Document {
    for (place, delivery) in document.get_array_mut("deliveries").unwrap().iter_mut().enumerate() {
        let user = format!(r#""_userId":"{}""#, users[place % users.len()]);
        let payload = format!(r#"{{"_id":"1",{user},"ruleData":{{"type":"track"}}}}"#);
        delivery.as_document_mut().unwrap().insert("payload", payload);
    }
    for attempt in document.get_array_mut("history").into_iter().flatten() {
        attempt
            .as_document_mut()
            .unwrap()
            .insert("response", format!("no such {}", users[0]));
    }
    document
}

/// The documents of all our collections that name the user.
async fn naming(fixture: &Fixture, user: &str) -> Vec<Document> {
    let mut found = Vec::new();
    for collection in [
        fixture.outbox(),
        fixture.state(),
        fixture.statistics(),
        fixture.operations(),
    ] {
        let all: Vec<Document> = collection.find(doc! {}).await.unwrap().try_collect().await.unwrap();
        found.extend(all.into_iter().filter(|document| document.to_string().contains(user)));
    }
    found
}

async fn hold_everything(fixture: &Fixture) {
    let hold = doc! { "_id": "hold/all", "by": "a test", "reason": "", "until": null };
    fixture.state().insert_one(hold).await.unwrap();
}

async fn erase(fixture: &Fixture, selection: Document) -> Document {
    let operation = doc! { "kind": "erase", "selection": selection, "by": "the back office" };
    let done = fixture.operate(operation).await;
    assert_eq!(done.get_str("state").ok(), Some("done"), "{done}");
    done
}

fn result(operation: &Document) -> [i64; 3] {
    let result = operation.get_document("result").unwrap();
    ["deliveries", "cancelled", "documents"].map(|name| result.get_i64(name).unwrap())
}

fn delivery(document: &Document, place: usize) -> &Document {
    document.get_array("deliveries").unwrap()[place].as_document().unwrap()
}

#[tokio::test]
async fn whatever_state_it_is_in_a_payload_of_the_user_goes_and_no_other() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    hold_everything(&fixture).await;
    let mut partly = batch(ENDPOINT, &[expiry(20), expiry(21), expiry(22), expiry(23)]);
    partly.extend(doc! { "results": [moved(), accepted()], "open": 2 });
    let mut aside = batch(ENDPOINT, &[expiry(60), expiry(61)]);
    aside.extend(doc! { "state": "rejected", "reason": "can't be read", "finishedAt": Clock::local() });
    let documents = [
        // Of the user, and of another.
        of_users(batch(ENDPOINT, &[expiry(10), expiry(11)]), &[USER, OTHER]),
        of_users(partly, &[USER, USER, OTHER, USER]),
        of_users(retry(ENDPOINT, &expiry(20), 3), &[USER]),
        of_users(batch(ENDPOINT, &[award(30)]), &[USER]),
        of_users(batch("a/b", &[expiry(30)]), &[USER]),
        of_users(dead(ENDPOINT, &expiry(40)), &[USER]),
        of_users(cancelled(batch(ENDPOINT, &[expiry(41), expiry(42)])), &[OTHER, USER]),
        of_users(delivered(batch(ENDPOINT, &[expiry(50), expiry(51)])), &[USER, OTHER]),
        of_users(aside, &[USER, OTHER]),
    ];
    let others = [
        of_users(batch(ENDPOINT, &[expiry(70), expiry(71)]), &[OTHER]),
        of_users(retry(ENDPOINT, &expiry(72), 3), &[OTHER]),
        of_users(dead(ENDPOINT, &expiry(73)), &[OTHER]),
        rejected(&expiry(74)),
        doc! { "_id": "a/b/odd", "state": "rejected", "deliveries": "none", "results": 7, "history": 7 },
        doc! { "_id": "a/b/odder", "state": "rejected", "deliveries": [7, null, { "payload": 7 }] },
    ];
    outbox(&fixture)
        .insert_many(documents.iter().chain(&others))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    let dry = doc! { "kind": "erase", "selection": { "user": USER }, "options": { "dryRun": true } };
    let dry = fixture.operate(dry).await;
    assert_eq!(result(&dry), [10, 5, 9], "{dry}");
    fixture.operations().delete_many(doc! {}).await.unwrap();
    let done = erase(&fixture, doc! { "user": USER }).await;
    assert_eq!(result(&done), [10, 5, 9], "{done}");
    assert_eq!(done.get_document("progress").unwrap().get_i64("done").ok(), Some(10));
    let naming = naming(&fixture, USER).await;
    assert_eq!(
        naming.iter().map(|one| one.get("_id")).collect::<Vec<_>>(),
        [done.get("_id")]
    );

    let states = [
        "pending",
        "pending",
        "cancelled",
        "cancelled",
        "cancelled",
        "cancelled",
        "cancelled",
        "delivered",
        "rejected",
    ];
    for (document, state) in documents.iter().zip(states) {
        let now = find(&fixture, id(document)).await;
        assert_eq!(now.get_str("state").ok(), Some(state), "{now}");
        assert_eq!(now.get_i32("version").ok(), Some(2), "{now}");
        for place in 0..document.get_array("deliveries").unwrap().len() {
            let (before, now) = (delivery(document, place), delivery(&now, place));
            if before.get_str("payload").unwrap().contains(USER) {
                let mut tombstone = before.clone();
                tombstone.remove("payload");
                tombstone.insert("erased", true);
                assert_eq!(now, &tombstone);
            } else {
                assert_eq!(now, before);
            }
        }
        let attempts = |document: &Document| document.get_array("history").map_or(0, Vec::len);
        assert_eq!(attempts(&now), attempts(document), "{now}");
    }
    let partly = find(&fixture, id(&documents[1])).await;
    assert_eq!(partly.get_i32("open").ok(), Some(1), "{partly}");
    let letter = find(&fixture, id(&documents[5])).await;
    assert_eq!(
        (letter.get_str("reason").ok(), letter.get("redrivable")),
        (Some("erased"), None)
    );
    for document in &others {
        assert_eq!(&find(&fixture, id(document)).await, document);
    }
    let cancelled = doc! { "$group": { "_id": null, "cancelled": { "$sum": "$cancelled" } } };
    let mut figures = fixture.statistics().aggregate([cancelled]).await.unwrap();
    let figures = figures.try_next().await.unwrap().unwrap();
    assert_eq!(figures.get_i64("cancelled").ok(), Some(5));

    let states = ["dead", "cancelled", "delivered"];
    let replay = doc! { "kind": "replay", "selection": { "all": true, "states": &states[..] } };
    let replayed = fixture.operate(replay).await;
    let counts = replayed.get_document("result").unwrap();
    assert_eq!(counts, &doc! { "deliveries": 3_i64, "erased": 6_i64 }, "{replayed}");
    let outcome = fixture.outcome(&["replay", "--id", &expiry(40)]).await;
    assert!(outcome.errors()[0].contains("it was erased"), "{outcome:?}");
    fixture.operations().delete_many(doc! {}).await.unwrap();
    assert_eq!(self::naming(&fixture, USER).await, [] as [Document; 0]);
}

#[tokio::test]
async fn a_user_is_found_whatever_the_type_of_the_id() {
    let fixture = Fixture::new().await.with("completions.enabled = false");
    hold_everything(&fixture).await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let oid = ObjectId::new();
    let ids = [
        (Bson::ObjectId(oid), Bson::from(oid.to_hex().to_uppercase())),
        (Bson::ObjectId(ObjectId::new()), Bson::Null),
        (Bson::from("jane \"j\" \\ O'Neill\n(.*) é"), Bson::Null),
        (Bson::Int32(71), Bson::from("71")),
        (Bson::Int64(9_007_199_254_740_993), Bson::from("9007199254740993")),
        (Bson::Double(1.5), Bson::from("1.5")),
        (Bson::Int32(712), Bson::from("712")),
    ];
    for (user, _) in &ids {
        let mut certificate = expired(organization);
        certificate.insert("_userId", user.clone());
        fixture.badge_users().insert_one(certificate).await.unwrap();
    }
    let daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    // All at once: they are in one batch.
    let erased = ids.iter().map(async |(user, asked)| {
        let asked = if *asked == Bson::Null { user } else { asked };
        let done = erase(&fixture, doc! { "user": asked.clone() }).await;
        assert_eq!(result(&done), [1, 1, 1], "{user}: {done}");
    });
    join_all(erased).await;
    assert_eq!(
        fixture.count_deliveries(doc! { "payload": { "$exists": true } }).await,
        0
    );
}

#[tokio::test]
async fn a_certificate_is_found_by_its_events() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    hold_everything(&fixture).await;
    let certificate = expiry(1).split('_').nth(2).unwrap().to_owned();
    let documents = [
        batch(ENDPOINT, &[expiry(1), expiry(2)]),
        delivered(batch("a/b", &[award(1)])),
        dead("a/c", &expiry(1)),
        rejected(&expiry(1)),
    ];
    let other = batch("a/d", &[expiry(2)]);
    outbox(&fixture)
        .insert_many(documents.iter().chain([&other]))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    for (options, expected) in [
        (&["--dry-run"][..], "3 deliveries would be erased, of which 1 delivery"),
        (&[], "3 deliveries erased, of which 1 delivery cancelled"),
        (&[], "0 deliveries erased"),
    ] {
        let outcome = fixture
            .outcome(&[&["erase", "--certificate", &certificate], options].concat())
            .await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains(expected), "{outcome:?}");
    }
    for document in &documents[..3] {
        let now = find(&fixture, id(document)).await;
        assert_eq!(delivery(&now, 0).get_bool("erased").ok(), Some(true), "{now}");
        assert_eq!(delivery(&now, 0).get("payload"), None, "{now}");
    }
    assert_eq!(
        delivery(&find(&fixture, id(&documents[0])).await, 1),
        delivery(&documents[0], 1)
    );
    assert_eq!(find(&fixture, id(&other)).await, other);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let fixture = Fixture::new().await;
    let _daemon = fixture.daemon().await;
    for (selection, why) in [
        (doc! {}, "expected a user or a certificate"),
        (doc! { "user": 7 }, "`selection.user`: expected an id"),
        (doc! { "user": { "$gt": "" } }, "`selection.user`"),
        (doc! { "user": USER, "certificate": USER }, "found both"),
        (doc! { "all": true }, "`selection.all`: no such field here"),
        (doc! { "certificate": "" }, "`selection.certificate`"),
    ] {
        let refused = fixture
            .operate(doc! { "kind": "erase", "selection": selection.clone() })
            .await;
        assert_eq!(refused.get_str("state").ok(), Some("refused"), "{refused}");
        assert!(
            refused.get_str("error").unwrap().contains(why),
            "{selection}: {refused}"
        );
    }
    for arguments in [&[][..], &["--user", ""], &["--user", USER, "--certificate", USER]] {
        let outcome = fixture.outcome(&[&["erase"], arguments].concat()).await;
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
    }
}

#[tokio::test]
async fn what_mongodb_refuses_to_change_is_named_and_the_operation_fails() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    let documents: Vec<_> = (0..5)
        .map(|n| of_users(delivered(batch(ENDPOINT, &[expiry(n)])), &[USER]))
        .collect();
    outbox(&fixture).insert_many(&documents).await.unwrap();
    let refused = id(&documents[2]);
    let validator = doc! { "$or": [{ "_id": { "$ne": refused } }, { "deliveries.erased": { "$exists": false } }] };
    let modify = doc! { "collMod": "webhook_outbox", "validator": validator };
    fixture.database.run_command(modify).await.unwrap();
    let certificate = expiry(2).split('_').nth(2).unwrap().to_owned();
    let _daemon = fixture.daemon().await;
    for (selection, deliveries) in [(doc! { "user": USER }, 4), (doc! { "certificate": certificate }, 0)] {
        let ended = fixture.operate(doc! { "kind": "erase", "selection": selection }).await;
        assert_eq!(ended.get_str("state").ok(), Some("failed"), "{ended}");
        assert_eq!(result(&ended), [deliveries, 0, deliveries], "{ended}");
        let counts = ended.get_document("result").unwrap();
        assert_eq!(counts.get_i64("refusedDocuments").ok(), Some(1), "{ended}");
        assert!(ended.get_str("error").unwrap().contains(refused), "{ended}");
    }
}

/// The server looks for the user, page by page, and no payload is read; a certificate is looked up.
#[tokio::test]
async fn a_walk_goes_by_pages_and_a_certificate_by_an_index() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    let kept = (0..1_000).map(|n| of_users(delivered(batch(ENDPOINT, &[expiry(n)])), &[OTHER]));
    outbox(&fixture).insert_many(kept).await.unwrap();
    let asked = doc! { "ns": format!("{}.webhook_outbox", fixture.database.name()) };
    let _daemon = fixture.daemon().await;
    for (selection, documents, plan) in [
        // MongoDB reads ahead, and where a page ends by the time what follows is read again.
        (doc! { "user": USER }, 2_000, "IXSCAN { _id: 1 }"),
        (
            doc! { "certificate": expiry(7).split('_').nth(2).unwrap() },
            5,
            "IXSCAN { deliveries.event: 1 }",
        ),
    ] {
        fixture.profile(&asked).await;
        erase(&fixture, selection).await;
        let noted = fixture
            .profiled(&doc! { "command.pipeline": { "$exists": true } })
            .await;
        let is_walk = |one: &&Document| one.get_document("command").unwrap().to_string().contains("places");
        let noted: Vec<_> = noted.iter().filter(is_walk).collect();
        let number = |one: &Document, field| one.get_i32(field).unwrap_or(0);
        let plans: BTreeSet<_> = noted.iter().filter_map(|one| one.get_str("planSummary").ok()).collect();
        assert!(plans.contains(plan), "{plans:?}");
        assert!(plans.iter().all(|plan| plan.starts_with("IXSCAN")), "{plans:?}");
        let examined: i32 = noted.iter().map(|one| number(one, "docsExamined")).sum();
        assert!(examined <= documents, "{examined}: {noted:#?}");
        let most = noted.iter().map(|one| number(one, "responseLength")).max().unwrap();
        assert!(most < 10_000, "{most}");
        fixture.stop_profiling().await;
    }
}
