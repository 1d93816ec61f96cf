//! Certificates, as the platform writes them, and the events that they lead to.

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::Clock;

/// A certificate that expired an hour ago.
pub fn expired(organization: ObjectId) -> Document {
    let now = Clock::local();
    certificate(
        organization,
        Some(DateTime::from_millis(now.timestamp_millis() - 3_600_000)),
    )
}

/// Certificates that expired, one second after the other, the last an hour ago.
pub fn expired_in_turn(organization: ObjectId, count: i64) -> Vec<Document> {
    let last = Clock::local().timestamp_millis() - 3_600_000;
    let expires = |place| DateTime::from_millis(last - (count - 1 - place) * 1000);
    (0..count)
        .map(|place| certificate(organization, Some(expires(place))))
        .collect()
}

/// A certificate that expires then.
pub fn certificate(organization: ObjectId, expires: Option<DateTime>) -> Document {
    let now = Clock::local();
    doc! {
        "_id": ObjectId::new(), "_userId": ObjectId::new(), "_ownerId": organization, "_badgeId": ObjectId::new(),
        "creationDate": now, "expires": expires, "disabled": false, "expiryReminderSent": false,
        "_lessonActiveIds": [ObjectId::new()], "ruleData": { "type": "track", "name": "Safety" },
        "createdAt": now, "updatedAt": now, "__v": 0,
    }
}

/// The `webhook-id` of a certificate's award.
pub fn completed_id(document: &Document) -> String {
    event_id("certificate_completed", document, "creationDate")
}

/// The `webhook-id` of a certificate's expiry.
#[allow(dead_code)]
pub fn expired_id(document: &Document) -> String {
    event_id("certificate_expired", document, "expires")
}

fn event_id(event_type: &str, document: &Document, instant: &str) -> String {
    let at = document.get_datetime(instant).unwrap().timestamp_millis();
    format!("{event_type}_{}_{at}", document.get_object_id("_id").unwrap())
}
