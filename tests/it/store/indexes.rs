//! The outbox's indexes, and the outbox of the first layout.

use std::time::Duration;

use bson::{Document, doc};
use certhookd::refuse_first_layout;
use certhookd::store::{OUTBOX, ensure_outbox};
use futures_util::TryStreamExt;
use mongodb::IndexModel;
use mongodb::options::IndexOptions;

use super::fixture::Fixture;

async fn indexes(fixture: &Fixture) -> Vec<(String, Document, Option<Duration>, Option<Document>)> {
    let listed = fixture.collection(OUTBOX).list_indexes().await.unwrap();
    let listed: Vec<IndexModel> = listed.try_collect().await.unwrap();
    let shown = |index: IndexModel| {
        let options = index.options.unwrap();
        (
            options.name.unwrap(),
            index.keys,
            options.expire_after,
            options.partial_filter_expression,
        )
    };
    let mut shown: Vec<_> = listed
        .into_iter()
        .map(shown)
        .filter(|(name, ..)| name != "_id_")
        .collect();
    shown.sort_by(|one, other| one.0.cmp(&other.0));
    shown
}

fn expected(retention: Duration) -> Vec<(String, Document, Option<Duration>, Option<Document>)> {
    vec![
        (
            "dead".into(),
            doc! { "endpoint": 1, "finishedAt": 1 },
            None,
            Some(doc! { "state": "dead" }),
        ),
        ("events".into(), doc! { "deliveries.event": 1 }, None, None),
        (
            "pending".into(),
            doc! { "queue": 1, "due": 1, "_id": 1, "open": 1 },
            None,
            Some(doc! { "state": "pending" }),
        ),
        (
            "retention".into(),
            doc! { "finishedAt": 1 },
            Some(retention),
            Some(doc! { "finishedAt": { "$exists": true } }),
        ),
    ]
}

#[tokio::test]
async fn the_outbox_gets_its_indexes_and_a_changed_retention_is_applied() {
    let fixture = Fixture::new().await;
    for hours in [1, 1, 2] {
        let retention = Duration::from_secs(hours * 3600);
        ensure_outbox(&fixture.store, retention).await.unwrap();
        assert_eq!(indexes(&fixture).await, expected(retention));
    }
    // One is missing, as after an upgrade, while another is there with other options.
    fixture.collection(OUTBOX).drop_index("events").await.unwrap();
    let retention = Duration::from_secs(3 * 3600);
    ensure_outbox(&fixture.store, retention).await.unwrap();
    assert_eq!(indexes(&fixture).await, expected(retention));
}

#[tokio::test]
async fn an_outbox_of_the_first_layout_is_refused_while_deliveries_wait_in_it() {
    let fixture = Fixture::new().await;
    let (store, old) = (&fixture.store, fixture.collection("webhook_deliveries"));
    refuse_first_layout(store).await.unwrap().unwrap();
    old.insert_one(doc! { "state": "delivered" }).await.unwrap();
    for indexed in [false, true] {
        if indexed {
            for state in ["pending", "claimed"] {
                let options = IndexOptions::builder()
                    .name(state.to_owned())
                    .partial_filter_expression(doc! { "state": state });
                let index = IndexModel::builder().keys(doc! { "due": 1 }).options(options.build());
                old.create_index(index.build()).await.unwrap();
            }
        }
        refuse_first_layout(store).await.unwrap().unwrap();
        for state in ["pending", "claimed"] {
            old.insert_one(doc! { "state": state }).await.unwrap();
            let refused = refuse_first_layout(store).await.unwrap().unwrap_err();
            assert!(refused.to_string().contains(state), "{refused}");
            old.delete_one(doc! { "state": state }).await.unwrap();
        }
    }
}
