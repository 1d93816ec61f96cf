//! One way through: from the platform's documents to the receiver.

use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use nix::sys::signal::Signal;

use crate::fixture::{Fixture, certificate, completed_id, expired, is_scan};

#[tokio::test]
async fn an_expired_certificate_is_marked_and_sent() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let document = expired(organization);
    fixture.badge_users().insert_one(&document).await.unwrap();
    let mut daemon = fixture.daemon().await;

    let requests = fixture.wait_for(|requests| requests.len() == 1).await;
    let id = document.get_object_id("_id").unwrap();
    let marked = fixture
        .badge_users()
        .find_one(doc! { "_id": id })
        .await
        .unwrap()
        .unwrap();
    assert!(marked.get_bool("expiryReminderSent").unwrap());
    assert!(marked.get_datetime("updatedAt").unwrap() > document.get_datetime("updatedAt").unwrap());

    let request = &requests[0];
    let expires = document.get_datetime("expires").unwrap().timestamp_millis();
    assert_eq!(request.header("x-webhook-event"), "certificate_expired");
    assert_eq!(
        request.header("webhook-id"),
        format!("certificate_expired_{id}_{expires}")
    );
    let mut raw = Vec::new();
    let marked = bson::serialize_to_raw_document_buf(&marked).unwrap();
    certhookd::platform::append_json(&marked, &mut raw).unwrap();
    assert_eq!(request.body, raw, "the payload is the document as marked");
    fixture
        .wait_for_deliveries(doc! { "state": "delivered", "attempts": 1 }, 1)
        .await;
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 1);
}

#[tokio::test]
async fn an_awarded_certificate_is_sent_and_one_awarded_again_too() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let _daemon = fixture.daemon().await;
    let document = certificate(organization, None);
    let id = document.get_object_id("_id").unwrap();
    fixture.badge_users().insert_one(&document).await.unwrap();
    let first = fixture.wait_for(|requests| requests.len() == 1).await;
    assert_eq!(first[0].header("x-webhook-event"), "certificate_completed");

    // A write that leaves `creationDate` alone is no award.
    fixture
        .badge_users()
        .update_one(doc! { "_id": id }, doc! { "$set": { "disabled": true } })
        .await
        .unwrap();
    let again = DateTime::from_millis(Clock::local().timestamp_millis() + 1);
    fixture
        .badge_users()
        .update_one(doc! { "_id": id }, doc! { "$set": { "creationDate": again } })
        .await
        .unwrap();
    let second = fixture.wait_for(|requests| requests.len() == 2).await;
    assert_ne!(second[0].header("webhook-id"), second[1].header("webhook-id"));
    let body: serde_json::Value = serde_json::from_slice(&second[1].body).unwrap();
    let awarded = DateTime::parse_rfc3339_str(body["creationDate"].as_str().unwrap()).unwrap();
    assert_eq!(awarded, again);
    assert_eq!(body["disabled"], true);
}

#[tokio::test]
async fn a_signal_scans_and_a_restart_sends_nothing_twice() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    daemon.wait_for(is_scan).await;
    fixture.badge_users().insert_one(expired(organization)).await.unwrap();
    daemon.signal(Signal::SIGUSR1);
    // The award and its expiry.
    fixture.wait_for(|requests| requests.len() == 2).await;
    assert!(daemon.stop().await.success());
    let daemon = fixture.daemon().await;
    assert_eq!(daemon.wait_for(is_scan).await["found"], 0);
    assert_eq!(fixture.receiver.total(), 2);
}

#[tokio::test]
async fn a_certificate_that_gets_its_date_in_a_second_write_is_sent_once_and_nothing_is_rejected() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let daemon = fixture.daemon().await;
    let awarded = Clock::local();
    let date = |value: Bson| doc! { "$set": { "creationDate": value } };
    let unset = doc! { "$unset": { "creationDate": 1 } };
    // As it is inserted, and the writes after that.
    let cases: [(Option<Bson>, Vec<Document>); 5] = [
        (None, vec![date(awarded.into())]),
        (Some(Bson::Null), vec![date(awarded.into())]),
        (Some(Bson::Undefined), vec![date(awarded.into())]),
        (
            None,
            vec![
                date(Bson::Null),
                doc! { "$set": { "disabled": true } },
                date(awarded.into()),
            ],
        ),
        (Some(Bson::Null), vec![unset.clone(), date(awarded.into())]),
    ];
    let mut expected = Vec::new();
    for (inserted, writes) in cases {
        let mut document = certificate(organization, None);
        document.remove("creationDate");
        document.extend(inserted.map(|date| ("creationDate".to_owned(), date)));
        fixture.badge_users().insert_one(&document).await.unwrap();
        for write in writes {
            let filter = doc! { "_id": &document["_id"] };
            fixture.badge_users().update_one(filter, write).await.unwrap();
        }
        document.insert("creationDate", awarded);
        expected.push(completed_id(&document));
    }
    // Taken back, and never awarded: what is after it arrives, and it does not.
    let taken_back = certificate(organization, None);
    fixture.badge_users().insert_one(&taken_back).await.unwrap();
    expected.push(completed_id(&taken_back));
    fixture.wait_for(|requests| requests.len() == expected.len()).await;
    for write in [unset, date(Bson::Null)] {
        let filter = doc! { "_id": &taken_back["_id"] };
        fixture.badge_users().update_one(filter, write).await.unwrap();
    }
    let last = certificate(organization, None);
    fixture.badge_users().insert_one(&last).await.unwrap();
    expected.push(completed_id(&last));

    let requests = fixture.wait_for(|requests| requests.len() >= expected.len()).await;
    let mut ids: Vec<_> = requests.iter().map(|one| one.header("webhook-id").to_owned()).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    assert_eq!(fixture.count_deliveries(doc! { "state": "rejected" }).await, 0);
    assert_eq!(daemon.count(|line| line["level"] == "WARN"), 0);
}
