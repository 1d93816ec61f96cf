//! A standalone mongod has no transactions: a portion of the scan is single writes, which may come again.

use bson::doc;
use certhookd::sandbox::{Options, ReplicaSet};

use crate::bed::{Bed, expired, is_scan};

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

    daemon.wait_for(is_scan).await;
    bed.wait_for(|requests| !requests.is_empty()).await;
    assert!(daemon.stop().await.success());
    let delivered = doc! { "state": "delivered" };
    assert_eq!(bed.deliveries().count_documents(delivered).await.unwrap(), 1);
    let marked = doc! { "expiryReminderSent": true };
    assert_eq!(bed.badge_users().count_documents(marked).await.unwrap(), 1);
    assert_eq!(bed.receiver.requests().len(), 1);
}
