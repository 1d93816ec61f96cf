//! Options of the connection string that contradict what the protocol relies on: not applied, and reported.

use bson::doc;
use certhookd::sandbox::shared;

use crate::fixture::{Fixture, expired};

/// What is given, and what `check` says of it.
const OPTIONS: [(&str, &[&str]); 17] = [
    ("readPreference=secondary", &["readPreference=secondary … primary"]),
    (
        "readPreference=secondaryPreferred",
        &["readPreference=secondaryPreferred … primary"],
    ),
    (
        "readPreference=nearest&readPreferenceTags=dc:east",
        &["readPreference=nearest with readPreferenceTags … primary"],
    ),
    (
        "readPreference=secondary&maxStalenessSeconds=120",
        &["readPreference=secondary with maxStalenessSeconds … primary"],
    ),
    ("readPreference=primary", &[]),
    (
        "readConcernLevel=snapshot",
        &["readConcernLevel=snapshot … the server's default"],
    ),
    (
        "readConcernLevel=linearizable",
        &["readConcernLevel=linearizable … the server's default"],
    ),
    ("w=0", &["w=0 … majority"]),
    ("w=1&journal=false", &["w=1 … majority", "journal=false … true"]),
    ("w=7&wtimeoutMS=1", &["w=7 … majority", "wtimeoutMS=1 … none"]),
    ("w=majority&journal=true", &[]),
    (
        "retryWrites=false&retryReads=false",
        &["retryReads=false … true", "retryWrites=false … true"],
    ),
    ("maxPoolSize=1", &["maxPoolSize=1 … 16"]),
    ("maxPoolSize=100", &[]),
    (
        "serverSelectionTimeoutMS=30000",
        &["serverSelectionTimeoutMS=30000 … 5000"],
    ),
    ("serverSelectionTimeoutMS=0", &["serverSelectionTimeoutMS=0 … 100"]),
    (
        "connectTimeoutMS=0&heartbeatFrequencyMS=600000",
        &["connectTimeoutMS=0 … 10000", "heartbeatFrequencyMS=600000 … 10000"],
    ),
];

#[tokio::test]
async fn with_each_of_them_a_scan_works_and_check_says_what_is_not_applied() {
    let set = shared().await.unwrap();
    for (options, told) in OPTIONS {
        let fixture = Fixture::on(&format!("{}&{options}", set.uri()), set.client().await.unwrap());
        let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
        fixture.badge_users().insert_one(expired(organization)).await.unwrap();
        let check = fixture.outcome(&["check"]).await;
        assert_eq!(check.code, Some(0), "{options}: {check:?}");
        let lines = check
            .stdout
            .lines()
            .filter_map(|line| line.split_once("connection string: "));
        let lines: Vec<_> = lines.map(|(_, line)| line.to_owned()).collect();
        let told: Vec<_> = told
            .iter()
            .map(|line| line.replace('…', "in the connection string is not applied: it is"))
            .collect();
        assert_eq!(lines, told, "{options}");

        let scan = fixture.outcome(&["scan"]).await;
        assert_eq!(scan.code, Some(0), "{options}: {scan:?}");
        assert_eq!(fixture.receiver.total(), 1, "{options}");
        let marked = doc! { "expiryReminderSent": true };
        assert_eq!(
            fixture.badge_users().count_documents(marked).await.unwrap(),
            1,
            "{options}"
        );
    }
}
