//! A standalone mongod has no transactions: a portion of the scan is single writes, which may come again.

use bson::doc;
use certhookd::sandbox::{Options, ReplicaSet};

use crate::bed::{Bed, expired};

#[tokio::test]
async fn what_was_written_although_mongodb_could_not_confirm_it_is_sent_and_marked() {
    let options = Options {
        members: None,
        ..Options::default()
    };
    let set = ReplicaSet::start(options).await.unwrap();
    let bed = Bed::on(set.uri(), set.client().await.unwrap()).with("completions.enabled = false");
    let owner = bed.organization(vec![bed.endpoint("/a")]).await;
    bed.badge_users().insert_one(expired(owner)).await.unwrap();

    let admin = bed.database.client().database("admin");
    let data = doc! {
        "failCommands": ["insert"], "namespace": format!("{}.webhook_deliveries", bed.database.name()),
        "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" },
    };
    let unconfirmed = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
    admin.run_command(unconfirmed).await.unwrap();
    let mut daemon = bed.daemon().await;

    bed.wait_for(|requests| !requests.is_empty()).await;
    bed.wait_for_count(&bed.deliveries(), doc! { "state": "delivered" }, 1)
        .await;
    bed.wait_for_count(&bed.badge_users(), doc! { "expiryReminderSent": true }, 1)
        .await;
    assert!(daemon.stop().await.success());
    assert_eq!(bed.receiver.requests().len(), 1);
}
