//! The outbox by itself, over a real mongod: what no daemon can be made to do on demand.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{DateTime, Document, RawBson, doc};
use certhookd::config::Mongodb;
use certhookd::model::{Clock, EndpointKey, EventId, EventType, Failure, Message};
use certhookd::outbox::{Claimed, Intake, NewDelivery, Next, Outbox, Slot, Verdict};
use certhookd::store::{Store, ensure_deliveries};
use tokio_util::sync::CancellationToken;

use futures_util::future::BoxFuture;

use crate::bed::Bed;

/// A queue that takes nothing: everything stays in the outbox.
pub struct NoRoom;

impl Intake for NoRoom {
    fn room(&self) -> BoxFuture<'_, usize> {
        Box::pin(std::future::ready(0))
    }

    fn reserve(&self, _: &EndpointKey, _: usize) -> Option<Box<dyn Slot>> {
        None
    }

    fn pending(&self, _: &mut dyn Iterator<Item = &EndpointKey>) {}
}

/// The bed's database, with the outbox's indexes.
pub async fn store(bed: &Bed) -> Store {
    let config = Mongodb {
        uri: bed.uri().into(),
        database: bed.database.name().to_owned(),
        badge_users: "badgeusers".to_owned(),
        member_configs: "memberconfigs".to_owned(),
    };
    let store = Store::new(&config, CancellationToken::new()).await.unwrap();
    ensure_deliveries(&store, Duration::from_secs(3600)).await.unwrap();
    store
}

/// The delivery of some event to that endpoint.
pub fn delivery(endpoint: &EndpointKey) -> NewDelivery {
    let (id, at) = (RawBson::ObjectId(ObjectId::new()), DateTime::from_millis(0));
    NewDelivery {
        message: Message {
            event_id: EventId::derive(EventType::CertificateExpired, id.as_raw_bson_ref(), at),
            event_type: EventType::CertificateExpired,
            body: "{}".into(),
        },
        endpoint: endpoint.clone(),
        badge_user: id,
        occurred_at: at,
    }
}

async fn claim(outbox: &Outbox, endpoint: &EndpointKey) -> Claimed {
    let claimed = outbox.claim(&[(endpoint.clone(), 10)], Clock::local()).await.unwrap();
    assert_eq!(claimed.len(), 1);
    claimed.into_iter().next().unwrap()
}

async fn record(outbox: &Outbox, delivery: &Claimed, next: Next) {
    let delivery = delivery.clone();
    outbox
        .record(&[Verdict { delivery, next }], Clock::local())
        .await
        .unwrap();
}

fn every_next() -> [Next; 5] {
    let failure = Failure {
        status: Some(500),
        reason: "status 500".into(),
        retry_after: None,
        elapsed: Duration::ZERO,
    };
    let at = DateTime::from_millis(1);
    [
        Next::Delivered { status: 200 },
        Next::Retry {
            due: at,
            first_attempt_at: at,
            failure: failure.clone(),
        },
        Next::Dead {
            verdict: "dead".into(),
            failure,
            redrivable: true,
        },
        Next::Cancelled { reason: "gone".into() },
        Next::Released,
    ]
}

#[tokio::test]
async fn a_late_result_of_a_lost_claim_changes_nothing() {
    let bed = Bed::new().await;
    let store = store(&bed).await;
    let outbox = |owner: &str| Outbox::new(store.clone(), owner.into(), Arc::new(NoRoom));
    let (slow, heir) = (outbox("slow"), outbox("heir"));
    let endpoint = EndpointKey::from_stored("owner/endpoint");
    slow.append(vec![delivery(&endpoint)], Clock::local()).await.unwrap();
    let lost = claim(&slow, &endpoint).await;
    let look = || async { bed.deliveries().find_one(doc! {}).await.unwrap().unwrap() };
    let unchanged = async |outbox: &Outbox, lost: &Claimed, before: &Document| {
        for next in every_next() {
            record(outbox, lost, next).await;
            assert_eq!(look().await, *before);
        }
    };

    // Another daemon counts as dead, and its claim goes to the heir.
    assert_eq!(heir.adopt(&["heir".into()]).await.unwrap(), 1);
    unchanged(&slow, &lost, &look().await).await;
    let first = claim(&heir, &endpoint).await;
    assert_eq!(first.attempts, 2, "what may have been sent counts");
    unchanged(&slow, &lost, &look().await).await;

    // The same daemon's earlier claim is as lost as another's.
    record(&heir, &first, Next::Released).await;
    let second = claim(&heir, &endpoint).await;
    unchanged(&heir, &first, &look().await).await;
    record(&heir, &second, Next::Delivered { status: 204 }).await;
    let done = look().await;
    assert!(
        done.get_str("state").unwrap() == "delivered" && done.get_i32("attempts").unwrap() == 2,
        "{done}"
    );
    unchanged(&slow, &lost, &done).await;
    store.close().await;
}

#[tokio::test]
async fn who_waits_is_asked_at_a_cost_that_grows_with_the_endpoints_alone() {
    let bed = Bed::new().await;
    let store = store(&bed).await;
    let pending = (0..300).map(|n| {
        let endpoint = format!("owner/{}", n % 3);
        doc! { "_id": n, "state": "pending", "endpoint": endpoint, "due": DateTime::from_millis(n.into()) }
    });
    bed.deliveries().insert_many(pending).await.unwrap();
    let ours = doc! { "ns": format!("{}.webhook_deliveries", bed.database.name()), "op": "command" };
    bed.profile(&ours).await;

    let outbox = Outbox::new(store.clone(), "me".into(), Arc::new(NoRoom));
    let mut waiting = outbox.waiting().await.unwrap();
    store.close().await;
    waiting.sort();
    let first = |n| {
        (
            EndpointKey::from_stored(&format!("owner/{n}")),
            DateTime::from_millis(n),
        )
    };
    assert_eq!(waiting, [first(0), first(1), first(2)]);

    let asked = bed.profiled(&ours).await;
    let examined = ["docsExamined", "keysExamined"].map(|count| asked[0].get_i32(count).unwrap());
    assert_eq!(examined, [0, 3], "{asked:#?}");
}

#[tokio::test]
async fn the_earliest_deliveries_of_many_endpoints_are_claimed_and_no_other_is_read() {
    let bed = Bed::new().await;
    let store = store(&bed).await;
    let outbox = Outbox::new(store.clone(), "me".into(), Arc::new(NoRoom));
    let endpoints: Vec<_> = (0..250)
        .map(|n| EndpointKey::from_stored(&format!("owner/{n}")))
        .collect();
    let at = |ms: i64| {
        let of = |endpoint| NewDelivery {
            occurred_at: DateTime::from_millis(ms),
            ..delivery(endpoint)
        };
        endpoints.iter().map(of).collect::<Vec<_>>()
    };
    let [late, early, soon] = [3, 1, 2].map(at);
    let expected: HashSet<_> = early
        .iter()
        .chain(&soon)
        .map(|delivery| delivery.message.event_id.clone())
        .collect();
    let all = [late, early, soon].concat();
    outbox.append(all, Clock::local()).await.unwrap();
    let reads =
        doc! { "ns": format!("{}.webhook_deliveries", bed.database.name()), "command.aggregate": { "$exists": true } };
    bed.profile(&reads).await;

    let wants: Vec<_> = endpoints.iter().map(|endpoint| (endpoint.clone(), 2)).collect();
    let claimed = outbox.claim(&wants, Clock::local()).await.unwrap();
    store.close().await;
    let claimed: HashSet<_> = claimed.into_iter().map(|delivery| delivery.message.event_id).collect();
    assert_eq!(claimed, expected);

    let reads = bed.profiled(&reads).await;
    let examined = |count| reads.iter().map(|read| read.get_i32(count).unwrap()).sum::<i32>();
    // MongoDB leaves out the first endpoint of each command.
    for count in ["docsExamined", "keysExamined"] {
        assert!(examined(count) <= 500, "{count}: {reads:#?}");
    }
    assert_eq!(reads.len(), 3, "a command for a hundred endpoints");
}

/// However many are asked for: they are held in memory.
#[tokio::test]
async fn a_claim_brings_sixteen_megabytes_and_leaves_the_rest() {
    let bed = Bed::new().await;
    let store = store(&bed).await;
    let outbox = Outbox::new(store.clone(), "me".into(), Arc::new(NoRoom));
    let endpoint = |n| EndpointKey::from_stored(&format!("owner/{n}"));
    let large = |n| {
        let mut large = delivery(&endpoint(n));
        large.message.body = "x".repeat(1 << 20).into();
        large
    };
    outbox
        .append((0..20).map(large).collect(), Clock::local())
        .await
        .unwrap();

    let wants: Vec<_> = (0..20).map(|n| (endpoint(n), 1)).collect();
    let first = outbox.claim(&wants, Clock::local()).await.unwrap();
    let rest = outbox.claim(&wants, Clock::local()).await.unwrap();
    store.close().await;
    assert_eq!([first.len(), rest.len()], [16, 4]);
}
