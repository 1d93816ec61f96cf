//! Documents that are not there, and documents that can't be read: nothing is cancelled for that, or not at once.

use super::*;

const MISSING: &str = "the organization's configuration document is missing";
const JUST_BEFORE: Duration = Duration::from_millis(599_999);

async fn pass(time: Duration) {
    advance(time).await;
}

#[test]
fn what_can_not_be_read_cancels_nothing_and_those_known_before_stay_subscribed() {
    let unreadable: [(MemberConfig, &str); 7] = [
        (settings(5), "`webHookConfig` is a number, expected a document"),
        (
            settings(doc! { "endpoints": 5 }),
            "`webHookConfig.endpoints` is a number, expected an array",
        ),
        (
            settings(doc! { "endpoints": {} }),
            "`webHookConfig.endpoints` is a document, expected an array",
        ),
        (
            settings(doc! { "endpoints": null }),
            "`webHookConfig.endpoints` is null, expected an array",
        ),
        (
            parsed(doc! { "webHookConfig": { "endpoints": [endpoint(1)] } }),
            "the document has no `_ownerId`",
        ),
        (parsed(doc! {}), "the document has no `_ownerId`"),
        (
            endpoints([doc! { "name": "Hub" }]),
            "`webHookConfig.endpoints.0`: it has neither `_id` nor `url`",
        ),
    ];
    for (config, reason) in unreadable {
        let directory = Directory::of(endpoints([endpoint(1), with(2, "enabled", false), with(3, "url", "")]));
        directory.put(&document(1), config.clone());
        assert_eq!(
            [1, 2, 3, 4].map(|n| directory.state(n)),
            [reason, "disabled", reason, reason]
        );
        assert_eq!(directory.wanted(), [key(1), key(3)], "{reason}");
        directory.put(&document(1), config);
        assert_eq!(directory.wanted(), [key(1), key(3)], "after a second look: {reason}");
        directory.put(&document(1), endpoints([endpoint(1)]));
        assert_eq!([1, 2, 3].map(|n| directory.state(n)), ["served", "deleted", "deleted"]);
        assert_eq!(directory.wanted(), [key(1)]);
    }
}

#[test]
fn what_is_not_in_a_document_that_can_be_read_is_deleted_at_once() {
    let cases = [
        endpoints([]),
        endpoints([endpoint(2)]),
        settings(doc! {}),
        settings(Bson::Null),
        parsed(doc! { "_ownerId": id(9), "webHookConfig": { "endpoints": [null, endpoint(2)] } }),
    ];
    for config in cases {
        let directory = Directory::of(endpoints([endpoint(1)]));
        directory.put(&document(1), config);
        assert_eq!(directory.state(1), "deleted");
        assert!(!directory.wanted().contains(&key(1)));
    }
}

#[test]
fn an_endpoint_after_the_first_thousand_is_not_deleted() {
    let many = (0..1000).map(|n| doc! { "_id": n, "url": "https://hub.example/" });
    let directory = Directory::of(endpoints([endpoint(1)]));
    directory.put(&document(1), endpoints(many.chain([endpoint(1)])));
    assert_eq!(
        directory.state(1),
        "it has more than 1000 endpoints: the rest is out of service"
    );
    assert_eq!(directory.wanted(), [key(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_document_is_out_of_service_for_ten_minutes_before_it_counts_as_deleted() {
    type Accident = (&'static str, fn(&Directory));
    let cases: [Accident; 3] = [
        ("deleted", |directory| {
            directory.remove(&document(1));
        }),
        ("dropped", |directory| directory.replace(Vec::<(DocumentId, _)>::new())),
        ("another organization's", |directory| {
            directory.put(&document(1), parsed(doc! { "_ownerId": id(8) }));
        }),
    ];
    for (what, happen) in cases {
        let directory = Directory::of(endpoints([endpoint(1), with(2, "enabled", false)]));
        pass(Duration::from_secs(3600)).await;
        assert!(directory.knows_organization(&organization()));
        happen(&directory);
        let mut changes = directory.subscribe();
        assert!(!directory.knows_organization(&organization()));
        pass(JUST_BEFORE).await;
        assert_eq!(
            [1, 2, 3].map(|n| directory.state(n)),
            [MISSING, "disabled", MISSING],
            "{what}"
        );
        assert_eq!(directory.wanted(), [key(1)]);
        assert!(!changes.has_changed().unwrap());
        pass(Duration::from_millis(1)).await;
        directory.expire();
        assert!(changes.has_changed().unwrap(), "{what}");
        changes.mark_unchanged();
        assert_eq!([1, 2, 3].map(|n| directory.state(n)), ["deleted"; 3], "{what}");
        assert!(directory.wanted().is_empty());
        assert_eq!(directory.count(), counts(0, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_that_comes_back_is_served_and_its_time_begins_anew() {
    let directory = Directory::of(endpoints([endpoint(1)]));
    directory.remove(&document(1));
    pass(JUST_BEFORE).await;
    directory.put(&document(1), endpoints([endpoint(1)]));
    pass(Duration::from_secs(1)).await;
    assert_eq!(directory.state(1), "served", "the first absence counts no more");
    directory.remove(&document(1));
    pass(JUST_BEFORE).await;
    assert_eq!(directory.state(1), MISSING);
    assert_eq!(directory.wanted(), [key(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_document_that_could_not_be_read_and_then_is_missing_keeps_its_ten_minutes() {
    let directory = Directory::of(endpoints([endpoint(1)]));
    directory.put(&document(1), settings(5));
    directory.remove(&document(1));
    pass(JUST_BEFORE).await;
    assert_eq!(directory.state(1), MISSING);
    assert_eq!(directory.wanted(), [key(1)]);
    pass(Duration::from_millis(1)).await;
    assert_eq!(directory.state(1), "deleted");
}

#[tokio::test(start_paused = true)]
async fn an_organization_that_was_never_seen_is_out_of_service_for_ten_minutes_from_when_it_was_missed() {
    let directory = Directory::default();
    let changes = directory.subscribe();
    pass(Duration::from_secs(3600)).await;
    assert!(directory.wanted().is_empty() && !directory.knows_organization(&organization()));
    assert_eq!(directory.state(1), MISSING);
    pass(JUST_BEFORE).await;
    assert_eq!(directory.state(2), MISSING);
    assert!(!changes.has_changed().unwrap());
    pass(Duration::from_millis(1)).await;
    assert_eq!([1, 2].map(|n| directory.state(n)), ["deleted", "deleted"]);
    assert!(changes.has_changed().unwrap());
    directory.put(&document(1), endpoints([endpoint(1)]));
    assert_eq!([1, 2].map(|n| directory.state(n)), ["served", "deleted"]);
    directory.remove(&document(1));
    assert_eq!(directory.state(2), MISSING, "missed anew");
}

#[tokio::test(start_paused = true)]
async fn of_two_documents_one_that_is_missing_takes_ten_minutes_too() {
    let directory = Directory::of(endpoints([endpoint(1)]));
    directory.put(&document(2), endpoints([endpoint(2)]));
    directory.remove(&document(1));
    assert_eq!([1, 2, 3].map(|n| directory.state(n)), [MISSING, "served", "deleted"]);
    pass(JUST_BEFORE + Duration::from_millis(1)).await;
    assert_eq!([1, 2].map(|n| directory.state(n)), ["deleted", "served"]);
}
