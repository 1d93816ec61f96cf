//! Documents of `webhook_state` to which somebody else has written: operations are carried out all the same.

use bson::{Bson, doc};
use certhookd::model::Clock;

use super::held;
use crate::fixture::Fixture;

#[tokio::test]
async fn a_release_is_carried_out_and_acted_on_whatever_is_in_the_place_of_numbers_and_lists() {
    let odd: [Bson; 5] = [
        "seven".into(),
        7.5.into(),
        Bson::Null,
        vec![7].into(),
        doc! { "a": 7 }.into(),
    ];
    futures_util::future::join_all(odd.map(is_released)).await;
}

async fn is_released(odd: Bson) {
    let fixture = Fixture::new().await;
    let key = held(&fixture, 1).await;
    let at = Clock::local();
    let suspended = doc! { "since": at, "gone": true, "fingerprint": 1_i64 };
    let episode = doc! { "version": &odd, "since": at, "failures": 1_i64, "told": true, "suspended": suspended };
    let episode = doc! { "_id": format!("episode/{key}"), "episode": episode, "suspensions": &odd };
    fixture.state().insert_one(episode).await.unwrap();
    let _daemon = fixture.daemon().await;
    let hold = doc! { "kind": "hold", "selection": { "endpoint": &key } };
    let hold = fixture.operate(hold).await;
    assert_eq!(hold.get_str("state").ok(), Some("done"), "{odd}: {hold}");
    let change = doc! { "$set": { "number": &odd, "releases": &odd } };
    let control = doc! { "_id": "control" };
    fixture.state().update_one(control, change).await.unwrap();
    let release = doc! { "kind": "release", "selection": { "all": true } };
    let release = fixture.operate(release).await;
    assert_eq!(release.get_str("state").ok(), Some("done"), "{odd}: {release}");
    let number = |operation: &bson::Document| operation.get_i64("control").unwrap();
    assert!(number(&release) > number(&hold), "{odd}: {release}");
    fixture.wait_for_deliveries(doc! { "state": "delivered" }, 1).await;
    let written = [
        doc! { "_id": "control", "number": { "$type": "long" }, "releases.target": "hold/all" },
        doc! {
            "_id": format!("episode/{key}"), "episode.version": { "$type": "long" }, "suspensions.until": { "$type": "date" },
            "episode.suspended": { "$exists": false },
        },
    ];
    for written in written {
        let found = fixture.state().count_documents(written.clone()).await.unwrap();
        assert_eq!(found, 1, "{odd}: {written}");
    }
}
