//! Awards made again, and changed once more before anybody could read them: what a receiver gets of the moment itself.

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use serde_json::Value;

use super::{award, received};
use crate::fixture::{Daemon, Fixture, certificate, completed_id};

fn is_told(line: &Value) -> bool {
    line["level"] == "INFO"
        && line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("a certificate was awarded again"))
}

/// Seconds from now, as a BSON instant.
fn instant(seconds: i64) -> DateTime {
    DateTime::from_millis(Clock::local().timestamp_millis() + seconds * 1000)
}

/// Two certificates of an organization, whose awards were told.
async fn awarded() -> (Fixture, ObjectId, [Document; 2]) {
    let fixture = Fixture::new().await;
    fixture.database.create_collection("badgeusers").await.unwrap();
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let mut daemon = fixture.daemon().await;
    let certificates = [certificate(organization, None), certificate(organization, None)];
    fixture.badge_users().insert_many(&certificates).await.unwrap();
    received(&fixture, &certificates.iter().map(completed_id).collect()).await;
    assert!(daemon.stop().await.success());
    (fixture, organization, certificates)
}

/// Awards a certificate again: returns how it is then.
async fn again(fixture: &Fixture, certificate: &Document, at: DateTime, name: &str) -> Document {
    let set = doc! { "$set": { "creationDate": at, "ruleData.name": name } };
    let of = doc! { "_id": certificate.get("_id") };
    let badge_users = fixture.badge_users();
    badge_users.update_one(of.clone(), set).await.unwrap();
    badge_users.find_one(of).await.unwrap().unwrap()
}

/// While no daemon runs: awards one certificate again, renames it and awards it once more; awards the other again and deletes it.
async fn changes(fixture: &Fixture, [changed, deleted]: &[Document; 2]) -> [Document; 3] {
    let first = again(fixture, changed, instant(10), "first").await;
    let second = again(fixture, changed, instant(20), "second").await;
    let renamed = doc! { "$set": { "ruleData.name": "later" } };
    fixture
        .badge_users()
        .update_one(doc! { "_id": changed.get("_id") }, renamed)
        .await
        .unwrap();
    let third = again(fixture, deleted, instant(10), "third").await;
    fixture
        .badge_users()
        .delete_one(doc! { "_id": deleted.get("_id") })
        .await
        .unwrap();
    [first, second, third]
}

/// What was received of an award: the certificate's `creationDate` and name in it.
fn content(fixture: &Fixture, award: &Document) -> Option<(DateTime, String)> {
    let requests = fixture.receiver.requests();
    let id = completed_id(award);
    let request = requests.iter().find(|request| request.header("webhook-id") == id)?;
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let at = DateTime::parse_rfc3339_str(text(&body["creationDate"])).unwrap();
    Some((at, text(&body["ruleData"]["name"])))
}

fn then(award: &Document, name: &str) -> Option<(DateTime, String)> {
    Some((*award.get_datetime("creationDate").unwrap(), name.to_owned()))
}

/// Starts a daemon, and waits until a later award, and one of another organization, have arrived: so has all before.
async fn told(fixture: &Fixture, organization: ObjectId) -> Daemon {
    let other = fixture.organization(vec![fixture.endpoint("/other")]).await;
    let mut later = award(&fixture.badge_users(), organization, 1).await;
    later.extend(award(&fixture.badge_users(), other, 1).await);
    let daemon = fixture.daemon().await;
    received(fixture, &later).await;
    daemon
}

#[tokio::test]
async fn with_post_images_an_award_arrives_as_it_was_whatever_became_of_the_certificate() {
    let (fixture, organization, certificates) = awarded().await;
    let images = doc! { "collMod": "badgeusers", "changeStreamPreAndPostImages": { "enabled": true } };
    fixture.database.run_command(images).await.unwrap();
    let [first, second, third] = changes(&fixture, &certificates).await;
    let mut daemon = told(&fixture, organization).await;
    received(&fixture, &[&first, &second, &third].map(completed_id).into()).await;
    for (award, name) in [(&first, "first"), (&second, "second"), (&third, "third")] {
        assert_eq!(content(&fixture, award), then(award, name));
    }
    assert_eq!(daemon.count(is_told), 0);
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 7, "each once");
}

#[tokio::test]
async fn without_post_images_an_award_has_its_own_instant_and_the_content_of_now_and_what_is_lost_is_told_once() {
    let (fixture, organization, certificates) = awarded().await;
    let [first, second, third] = changes(&fixture, &certificates).await;
    let mut daemon = told(&fixture, organization).await;
    received(&fixture, &[&first, &second].map(completed_id).into()).await;
    assert_eq!(content(&fixture, &first), then(&first, "later"), "its own instant");
    assert_eq!(content(&fixture, &second), then(&second, "later"));
    assert_eq!(content(&fixture, &third), None, "nobody knows what it was");
    // One line for each that is not as it was, and knows it: the first award and the deleted certificate.
    assert_eq!(daemon.count(is_told), 2, "{:#?}", daemon.lines());
    assert!(daemon.stop().await.success());
    assert_eq!(fixture.receiver.total(), 6, "each once");
}
