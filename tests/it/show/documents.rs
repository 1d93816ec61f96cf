//! What is said of deliveries, whatever is in their documents.

use bson::{Bson, Document, doc};
use certhookd::model::Clock;

use super::{HOUR, codes, configure, only, show, show_all};
use crate::fixture::Fixture;
use crate::layout::{
    ENDPOINT, ORGANIZATION, after, batch, before, cancelled, dead, delivered, expiry, find, id, indexes, outbox, retry,
};

/// What is done to a delivery, and the code and beginning of what happens next.
#[tokio::test]
async fn what_happens_next_is_said_for_each_state_of_delivery_and_endpoint() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    let out_of_service = doc! { "url": "ftp://example.com/" };
    let off = doc! { "enabled": false };
    configure(
        &fixture,
        &[
            ("10", doc! {}),
            ("11", doc! {}),
            ("12", off),
            ("13", out_of_service),
            ("14", doc! {}),
        ],
    )
    .await;
    let endpoint = |digits: &str| format!("{ORGANIZATION}/6747000000000000000000{digits}");
    let pause = doc! { "_id": format!("endpoint/{}", endpoint("11")), "slowedUntil": after(Clock::local(), 2 * HOUR) };
    let mut hold =
        doc! { "_id": format!("hold/endpoint/{}", endpoint("14")), "by": "ops\u{1b}", "reason": "maintenance" };
    hold.extend(doc! { "at": Clock::local(), "until": after(Clock::local(), HOUR) });
    fixture.state().insert_many([pause, hold]).await.unwrap();
    let changed = |mut document: Document, change: Document| {
        document.extend(change);
        document
    };
    let long_ago = before(Clock::local(), 30 * 24 * HOUR);
    let table = [
        (
            batch(ENDPOINT, &[expiry(1)]),
            "attempt",
            "attempt 1 as soon as it is its turn",
        ),
        (retry(ENDPOINT, &expiry(2), 2), "attempt", "attempt 3 at 2"),
        (retry(&endpoint("11"), &expiry(3), 2), "attempt", "attempt 3 at 2"),
        (
            batch(&endpoint("12"), &[expiry(4)]),
            "cancel",
            "is about to be cancelled: the endpoint was disabled",
        ),
        (
            batch(&endpoint("99"), &[expiry(5)]),
            "cancel",
            "is about to be cancelled: its endpoint was deleted",
        ),
        (
            batch(&endpoint("13"), &[expiry(6)]),
            "wait",
            "waits because its endpoint is out of service: ",
        ),
        (
            dead(ENDPOINT, &expiry(7)),
            "redrive",
            "goes out by itself when its endpoint answers again, until 2",
        ),
        (
            dead(&endpoint("12"), &expiry(8)),
            "keep",
            "nothing by itself; kept until 2",
        ),
        (
            dead(&endpoint("13"), &expiry(9)),
            "redrive",
            "goes out by itself once its endpoint is no longer out of service (",
        ),
        (
            changed(dead(ENDPOINT, &expiry(10)), doc! { "deadSince": long_ago }),
            "keep",
            "nothing by itself; kept until 2",
        ),
        (
            changed(dead(ENDPOINT, &expiry(11)), doc! { "redrivable": false }),
            "keep",
            "nothing by itself; kept until 2",
        ),
        (
            cancelled(batch(ENDPOINT, &[expiry(12)])),
            "keep",
            "nothing by itself; kept until 2",
        ),
        (delivered(batch(ENDPOINT, &[expiry(13)])), "nothing", "nothing more"),
        (
            changed(
                batch(ENDPOINT, &[expiry(14)]),
                doc! { "state": "rejected", "reason": "can't be read: x" },
            ),
            "nothing",
            "nothing: it is set aside",
        ),
        (
            changed(
                dead(ENDPOINT, &expiry(15)),
                doc! { "state": "pending", "redriven": true },
            ),
            "attempt",
            "attempt 101, the only one",
        ),
        (
            changed(
                cancelled(batch(ENDPOINT, &[expiry(18)])),
                doc! { "payloadDropped": true },
            ),
            "keep",
            "nothing, and no replay: its payload was dropped after",
        ),
        (
            {
                let mut erased = cancelled(batch(ENDPOINT, &[expiry(19)]));
                let delivery = &mut erased.get_array_mut("deliveries").unwrap()[0];
                delivery.as_document_mut().unwrap().insert("erased", true);
                erased
            },
            "keep",
            "nothing, and no replay: it was erased; its record is kept until 2",
        ),
        (
            batch(&endpoint("14"), &[expiry(16)]),
            "wait",
            r"waits because its endpoint is held by ops\u{1b} until 2",
        ),
        (
            dead(&endpoint("14"), &expiry(17)),
            "redrive",
            r"goes out by itself once its endpoint is no longer held (by ops\u{1b} until 2",
        ),
    ];
    outbox(&fixture)
        .insert_many(table.iter().map(|(document, ..)| document))
        .await
        .unwrap();
    let events: Vec<_> = (1..=15).chain([18, 19, 16, 17]).map(expiry).collect();
    let all = show_all(&fixture, &events.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (shown, (document, code, text)) in all.iter().zip(&table) {
        let next = &only(shown)["next"];
        assert_eq!(next["code"], *code, "{document}\n{shown:#}");
        assert!(next["text"].as_str().unwrap().starts_with(text), "{text}: {next}");
        let is_pending = document.get_str("state").unwrap() == "pending";
        assert_eq!(codes(shown) == ["no_instance"], is_pending, "{shown:#}");
    }
    assert!(
        only(&all[2])["next"]["text"]
            .as_str()
            .unwrap()
            .contains("its endpoint asked for a pause")
    );
    assert_eq!(only(&all[11])["reason"], "the endpoint is off");
}

#[tokio::test]
async fn documents_with_odd_fields_are_named_and_stop_nothing() {
    let fixture = Fixture::new().await;
    indexes(&fixture).await;
    let event = expiry(1);
    let fields = [
        "state",
        "endpoint",
        "results",
        "history",
        "replays",
        "finishedAt",
        "attempts",
        "due",
        "reason",
        "createdAt",
        "lastError",
    ];
    let values = [
        7.into(),
        "\u{1b}[2J".into(),
        Bson::Array(vec![1.into()]),
        doc! { "a": 1 }.into(),
        f64::NAN.into(),
    ];
    let mut documents = vec![dead(ENDPOINT, &event)];
    let is_right = |field: &str, value: &Bson| match field {
        "attempts" => *value == Bson::from(7),
        "reason" | "lastError" | "endpoint" => matches!(value, Bson::String(_)),
        _ => false,
    };
    for (number, (field, value)) in fields
        .iter()
        .flat_map(|field| values.iter().map(move |value| (field, value)))
        .enumerate()
    {
        let mut odd = dead(ENDPOINT, &event);
        odd.insert("_id", format!("{ENDPOINT}/odd {number}"));
        odd.insert(*field, value.clone());
        if !is_right(field, value) {
            odd.insert("isOdd", true);
        }
        documents.push(odd);
    }
    let mut odd = dead(ENDPOINT, &event);
    let entries = [
        7.into(),
        doc! { "event": 7 }.into(),
        doc! { "event": &event, "type": 7 }.into(),
    ];
    let entries = Bson::Array(entries.to_vec());
    odd.extend(doc! { "_id": format!("{ENDPOINT}/odd entry"), "deliveries": entries, "isOdd": true });
    documents.push(odd);
    outbox(&fixture).insert_many(&documents).await.unwrap();
    let odd: Vec<_> = documents
        .iter()
        .filter(|one| one.contains_key("isOdd"))
        .map(id)
        .collect();
    let shown = show(&fixture, &event).await;
    let named: Vec<_> = shown["odd"]
        .as_array()
        .unwrap()
        .iter()
        .map(|odd| odd["document"].as_str().unwrap())
        .collect();
    for id in odd {
        assert!(named.contains(&id), "{id} is not among {named:?}");
    }
    assert!(
        !shown["events"][0]["deliveries"].as_array().unwrap().is_empty(),
        "{shown:#}"
    );
    let text = fixture.outcome(&["show", &event]).await.stdout;
    assert!(!text.contains('\u{1b}'), "{text}");
    assert_eq!(find(&fixture, id(&documents[0])).await, documents[0]);
}
