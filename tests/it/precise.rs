//! Expiry to the moment, although the schedule is a yearly one.

use bson::{DateTime, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Received;

use crate::fixture::{Fixture, certificate};

fn in_ms(millis: i64) -> DateTime {
    DateTime::from_millis(Clock::local().timestamp_millis() + millis)
}

fn expiries(requests: &[Received]) -> Vec<&Received> {
    requests
        .iter()
        .filter(|one| one.header("x-webhook-event") == "certificate_expired")
        .collect()
}

/// How long after `expires` the request came, in ms.
fn lateness(request: &Received, expires: DateTime) -> i64 {
    request.at.timestamp_millis() - expires.timestamp_millis()
}

#[tokio::test]
async fn certificates_are_told_of_at_the_moment_they_expire() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    // Known from the index, from an insert and from an update; the daemon needs about a second to start.
    let before = in_ms(4000);
    fixture
        .badge_users()
        .insert_one(certificate(organization, Some(before)))
        .await
        .unwrap();
    let _daemon = fixture.daemon().await;
    let (inserted, re_dated) = (in_ms(1500), in_ms(2500));
    fixture
        .badge_users()
        .insert_one(certificate(organization, Some(inserted)))
        .await
        .unwrap();
    let later = certificate(organization, Some(in_ms(3_600_000)));
    fixture.badge_users().insert_one(&later).await.unwrap();
    let id = doc! { "_id": later.get_object_id("_id").unwrap() };
    fixture
        .badge_users()
        .update_one(id, doc! { "$set": { "expires": re_dated } })
        .await
        .unwrap();

    let requests = fixture.wait_for(|requests| expiries(requests).len() == 3).await;
    let mut instants = [before, inserted, re_dated];
    instants.sort();
    for (request, expires) in expiries(&requests).iter().zip(instants) {
        let late = lateness(request, expires);
        println!("{late} ms after the moment");
        assert!(late >= 0, "never before it");
        assert!(
            request
                .header("webhook-id")
                .ends_with(&expires.timestamp_millis().to_string())
        );
    }
}

#[tokio::test]
async fn a_renewed_a_re_dated_and_a_deleted_certificate_send_nothing_at_the_old_instant() {
    let fixture = Fixture::new().await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let _daemon = fixture.daemon().await;
    let old = in_ms(2000);
    let three: Vec<_> = (0..3).map(|_| certificate(organization, Some(old))).collect();
    fixture.badge_users().insert_many(&three).await.unwrap();
    let id = |n: usize| doc! { "_id": three[n].get_object_id("_id").unwrap() };
    let set = |expires| doc! { "$set": { "expires": expires } };
    fixture
        .badge_users()
        .update_one(id(0), set(in_ms(3_600_000)))
        .await
        .unwrap();
    let new = in_ms(3500);
    fixture.badge_users().update_one(id(1), set(new)).await.unwrap();
    fixture.badge_users().delete_one(id(2)).await.unwrap();
    let requests = fixture.wait_for(|requests| !expiries(requests).is_empty()).await;
    assert!(
        expiries(&requests)[0]
            .header("webhook-id")
            .ends_with(&new.timestamp_millis().to_string())
    );
    assert_eq!(expiries(&requests).len(), 1);
}
