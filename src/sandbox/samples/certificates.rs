//! BadgeUser documents as the platform writes them.

use bson::{Bson, DateTime, Document, doc};

use super::object_id;

/// When a certificate was awarded, and until when it holds.
pub(super) struct Award {
    pub(super) at: DateTime,
    pub(super) expires: Option<DateTime>,
}

/// Type, name, description and validity in days, as in `ruleData`.
const RULES: [(&str, &str, &str, i32); 6] = [
    (
        "learningPath",
        "Forklift operator, class 3",
        "Complete the path and pass the practical check",
        365,
    ),
    (
        "quizScore",
        "Hygiène alimentaire (HACCP)",
        "Réussir le questionnaire avec 80 % au moins",
        365,
    ),
    (
        "lessonCompletion",
        "First aid at work",
        "Finish all lessons of the first-aid course",
        365,
    ),
    (
        "quizScore",
        "GDPR essentials",
        "Score 90 or more in the final quiz",
        365,
    ),
    (
        "learningPath",
        "Sicherheit im Gleisbereich",
        "Alle Module und die Prüfung abschließen",
        365,
    ),
    (
        "eventAttendance",
        "Fire warden \u{1f9ef}",
        "Attend the drill and sign the list",
        365,
    ),
];

/// One certificate of an organization's user. One in four lacks `expiryReminderSent`, as old documents do.
pub(super) fn badge_user(organization: impl Into<Bson>, award: Award, random: &mut fastrand::Rng) -> Document {
    let (kind, name, description, validity) = RULES[random.usize(..RULES.len())];
    let lessons: Vec<_> = (0..random.usize(2..5)).map(|_| object_id(award.at, random)).collect();
    let mut document = doc! {
        "_id": object_id(award.at, random),
        "_userId": object_id(award.at, random),
        "_ownerId": organization.into(),
        "_badgeId": object_id(award.at, random),
        "creationDate": award.at,
        "expires": award.expires,
        "disabled": false,
        "expiryReminderSent": false,
        "_lessonActiveIds": lessons,
        "ruleData": { "type": kind, "name": name, "description": description, "validityDurationDays": validity },
        "createdAt": award.at,
        "updatedAt": award.at,
        "__v": 0,
    };
    if random.u8(0..4) == 0 {
        document.remove("expiryReminderSent");
    }
    document
}
