//! The endpoint that an operation names.

use bson::oid::ObjectId;
use bson::{Document, doc};

use crate::fixture::{Fixture, certificate};

#[tokio::test]
async fn an_endpoint_is_meant_however_its_ids_are_written() {
    let fixture = Fixture::new().await;
    let (hex, other) = (ObjectId::from_bytes([0xab; 12]), ObjectId::from_bytes([0xcd; 12]));
    let mut endpoint = fixture.endpoint("/a");
    endpoint.insert("_id", hex);
    let mut named = fixture.endpoint("/b");
    named.insert("_id", "hook-1");
    fixture
        .member_configs()
        .insert_many([
            doc! { "_ownerId": other, "webHookConfig": { "endpoints": [endpoint] } },
            doc! { "_ownerId": "acme", "webHookConfig": { "endpoints": [named] } },
        ])
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    let hexes = format!("{other}/{hex}");
    let hold = |selection: Document| fixture.operate(doc! { "kind": "hold", "selection": selection });
    let by_organization = hold(doc! { "organization": "acme", "endpoint": "hook-1" }).await;
    let acme = by_organization
        .get_document("result")
        .unwrap()
        .get_str("target")
        .unwrap();
    assert!(acme.starts_with("endpoint h"), "{acme}");
    for (selection, target) in [
        (doc! { "endpoint": &hexes }, format!("endpoint {hexes}")),
        (doc! { "endpoint": hexes.to_uppercase() }, format!("endpoint {hexes}")),
        (
            doc! { "endpoint": hex.to_hex().to_uppercase() },
            format!("endpoint {hexes}"),
        ),
        (
            doc! { "endpoint": hex, "organization": other.to_hex().to_uppercase() },
            format!("endpoint {hexes}"),
        ),
        (
            doc! { "endpoint": &hexes, "organization": other },
            format!("endpoint {hexes}"),
        ),
        (doc! { "endpoint": "acme/hook-1" }, acme.to_owned()),
        (doc! { "endpoint": "hook-1" }, acme.to_owned()),
        (
            doc! { "endpoint": acme.trim_start_matches("endpoint ") },
            acme.to_owned(),
        ),
        (doc! { "endpoint": "email" }, "endpoint all/email".into()),
        (doc! { "endpoint": "all/email" }, "endpoint all/email".into()),
    ] {
        let held = hold(selection.clone()).await;
        let result = held.get_document("result").cloned().unwrap_or_default();
        assert_eq!(result.get_str("target").ok(), Some(&*target), "{selection}: {held}");
    }
    for kind in ["hold", "release", "test", "backfill"] {
        let both = doc! { "endpoint": &hexes, "organization": "acme" };
        let both = fixture.operate(doc! { "kind": kind, "selection": both }).await;
        let error = both.get_str("error").unwrap();
        assert!(
            error.contains("expected an endpoint of organization"),
            "{kind}: {error}"
        );
    }
}

#[tokio::test]
async fn an_endpoint_that_was_configured_just_now_is_waited_for() {
    let fixture = Fixture::new().await;
    let old = fixture.organization(vec![]).await;
    let _daemon = fixture.daemon().await;
    for n in 0..4 {
        let organization = if n % 2 == 0 { old } else { ObjectId::new() };
        let endpoint = fixture.endpoint(&format!("/{n}"));
        let id = endpoint.get_object_id("_id").unwrap();
        let named = match n / 2 {
            0 => id.into(),
            _ => bson::Bson::from(format!("{organization}/{id}")),
        };
        let award = certificate(organization, None);
        fixture.badge_users().insert_one(&award).await.unwrap();
        let change = doc! { "$push": { "webHookConfig.endpoints": endpoint } };
        fixture
            .member_configs()
            .update_one(doc! { "_ownerId": organization }, change)
            .upsert(true)
            .await
            .unwrap();
        for kind in ["test", "backfill"] {
            let done = fixture
                .operate(doc! { "kind": kind, "selection": { "endpoint": &named } })
                .await;
            assert_eq!(done.get_str("state").ok(), Some("done"), "{n}: {done}");
            let skipped = done.get_document("result").unwrap().get_i64("skipped").unwrap_or(0);
            assert_eq!(skipped, 0, "{n}: {done}");
        }
    }
    let unknown = format!("{old}/{}", ObjectId::new());
    for kind in ["test", "backfill"] {
        let refused = fixture
            .operate(doc! { "kind": kind, "selection": { "endpoint": &unknown } })
            .await;
        assert_eq!(refused.get_str("state").ok(), Some("refused"), "{refused}");
    }
}

#[tokio::test]
async fn a_hold_of_what_was_deleted_is_released_by_hand() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint("/a");
    let organization = fixture.organization(vec![endpoint.clone()]).await;
    let key = crate::fixture::endpoint_key(organization, &endpoint);
    let _daemon = fixture.daemon().await;
    let organization = organization.to_hex();
    for whose in [["--organization", &organization], ["--endpoint", &key]] {
        assert_eq!(fixture.outcome(&["hold", whose[0], whose[1]]).await.code, Some(0));
    }
    fixture.member_configs().delete_many(doc! {}).await.unwrap();
    for whose in [["--endpoint", &key], ["--organization", &organization]] {
        let released = fixture.outcome(&["release", whose[0], whose[1]]).await;
        assert_eq!(released.code, Some(0), "{released:?}");
    }
}
