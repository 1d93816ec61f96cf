//! The outbox by itself, over a real mongod: what no daemon can be made to do on demand.

pub mod support;

use std::collections::HashSet;
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};
use certhookd::model::{Clock, Failure};
use certhookd::outbox::{Class, Delivery, Fetched, Head, NewDelivery, Next, Outbox, Unrecorded, Want};
use futures_util::TryStreamExt;

use self::support::{append, delivery, endpoint, fetch, next, only_batch, outbox, record, settlement};
use crate::fixture::{Fixture, expired_in_turn, pending_batch};
use crate::layout::store;

fn failure() -> Failure {
    Failure {
        status: Some(500),
        reason: "status 500".into(),
        ..Failure::default()
    }
}

const DELIVERED: Next = Next::Delivered { status: 200 };

fn retry() -> Next {
    Next::Retry {
        due: DateTime::from_millis(1),
        first_attempt_at: DateTime::from_millis(1),
        failure: failure(),
    }
}

fn every_next() -> [Next; 4] {
    let dead = Next::Dead {
        verdict: "dead".into(),
        failure: failure(),
        redrivable: true,
    };
    let cancelled = Next::Cancelled { reason: "gone".into() };
    [DELIVERED, retry(), dead, cancelled]
}

async fn documents(fixture: &Fixture) -> Vec<Document> {
    let all = fixture.outbox().find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    all.try_collect().await.unwrap()
}

/// Such a result of these deliveries is refused, and none of them counts any more.
async fn changes_nothing(fixture: &Fixture, slow: &Outbox, late: &[Delivery], next: &Next) {
    let before = documents(fixture).await;
    let settlements: Vec<_> = late.iter().map(|one| settlement(one, next.clone())).collect();
    let refused = slow.record(&settlements, true, Clock::local()).await;
    assert!(matches!(refused, Err(Unrecorded::Outdated)), "{refused:?}");
    let (kept, _) = slow.reconcile(settlements).await.unwrap();
    assert!(kept.is_empty(), "{next:?}: {kept:?}");
    assert_eq!(documents(fixture).await, before);
}

#[tokio::test]
async fn a_late_result_of_what_another_instance_has_recorded_changes_nothing() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let (slow, heir) = (outbox(&store, "slow"), outbox(&store, "heir"));
    for (count, next) in [1, 3]
        .into_iter()
        .flat_map(|count| every_next().map(|next| (count, next)))
    {
        let endpoint = endpoint(ObjectId::new());
        let deliveries = (0..count).map(|_| delivery(&endpoint)).collect();
        append(&store, &heir, deliveries).await;
        let mut late = Vec::new();
        for result in every_next() {
            late.push((only_batch(&slow, &endpoint).await, result));
        }
        let taken = only_batch(&heir, &endpoint).await;
        let settlements: Vec<_> = taken.iter().map(|one| settlement(one, next.clone())).collect();
        record(&heir, &settlements).await;
        // See the next test.
        if count == 1 && matches!(next, Next::Retry { .. } | Next::Cancelled { .. }) {
            late.retain(|(_, result)| *result != DELIVERED);
        }
        for (late, result) in late {
            changes_nothing(&fixture, &slow, &late, &result).await;
        }
    }
    store.close().await;
}

#[tokio::test]
async fn what_was_delivered_after_all_counts_although_it_has_failed_or_was_cancelled_elsewhere() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let (slow, heir) = (outbox(&store, "slow"), outbox(&store, "heir"));
    for next in [retry(), Next::Cancelled { reason: "gone".into() }] {
        let endpoint = endpoint(ObjectId::new());
        append(&store, &heir, vec![delivery(&endpoint)]).await;
        let late = only_batch(&slow, &endpoint).await;
        let taken = only_batch(&heir, &endpoint).await;
        record(&heir, &[settlement(&taken[0], next)]).await;
        let late = vec![settlement(&late[0], DELIVERED)];
        let refused = slow.record(&late, true, Clock::local()).await;
        assert!(matches!(refused, Err(Unrecorded::Outdated)), "{refused:?}");
        let (kept, _) = slow.reconcile(late).await.unwrap();
        record(&slow, &kept).await;
        let delivered = doc! { "endpoint": endpoint.as_str(), "state": "delivered", "open": 0 };
        assert_eq!(fixture.outbox().count_documents(delivered).await.unwrap(), 1);
    }
    store.close().await;
}

#[tokio::test]
async fn what_is_in_the_outbox_is_not_appended_again_wherever_it_has_moved() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let outbox = outbox(&store, "me");
    let [one, other] = [1, 2].map(endpoint);
    let deliveries: Vec<_> = (0..3).map(|_| delivery(&one)).collect();
    assert_eq!(append(&store, &outbox, deliveries.clone()).await, (3, 0));
    // One leaves its batch, the others are delivered.
    let batch = only_batch(&outbox, &one).await;
    let nexts = [retry(), DELIVERED, DELIVERED];
    let settlements: Vec<_> = batch
        .iter()
        .zip(nexts)
        .map(|(one, next)| settlement(one, next))
        .collect();
    record(&outbox, &settlements).await;
    let to_other = deliveries.iter().cloned().map(|delivery| NewDelivery {
        endpoint: other.clone(),
        ..delivery
    });
    let again = deliveries.iter().cloned().chain(to_other).collect();
    assert_eq!(append(&store, &outbox, again).await, (3, 3));
    assert_eq!(fixture.count_deliveries(doc! {}).await, 6);
    store.close().await;
}

#[tokio::test]
async fn which_queues_wait_is_asked_at_a_cost_that_grows_with_the_queues_alone() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let pending = (0..300).map(|n| {
        let queue = format!("organization/{}/{}", n % 3, ["live", "retry"][n % 2]);
        let due = DateTime::from_millis(n.try_into().unwrap());
        doc! { "_id": format!("{n:03}"), "state": "pending", "queue": queue, "due": due, "open": 1 }
    });
    fixture.outbox().insert_many(pending).await.unwrap();
    let looks = doc! { "ns": format!("{}.webhook_outbox", fixture.database.name()), "op": "command" };
    fixture.profile(&looks).await;

    let mut heads = outbox(&store, "me").look().await.unwrap().heads;
    store.close().await;
    heads.sort_by_key(|head| head.due);
    let classes = [Class::Live, Class::Retry];
    let first = |n: usize| Head {
        endpoint: endpoint(n % 3),
        class: classes[n % 2],
        due: DateTime::from_millis(n.try_into().unwrap()),
        id: format!("{n:03}").into(),
        open: 1,
    };
    assert_eq!(heads, (0..6).map(first).collect::<Vec<_>>());

    let looks = fixture.profiled(&looks).await;
    let examined = ["docsExamined", "keysExamined"].map(|count| looks[0].get_i32(count).unwrap());
    assert_eq!(examined, [0, 6], "{looks:#?}");
    let plan = looks[0].get_str("planSummary").unwrap();
    assert!(plan.starts_with("DISTINCT_SCAN"), "{plan}");
}

#[tokio::test]
async fn the_earliest_deliveries_of_many_endpoints_are_fetched_and_no_other_is_read() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let outbox = outbox(&store, "me");
    let endpoints: Vec<_> = (0..250).map(endpoint).collect();
    let mut expected = HashSet::new();
    for (at, is_wanted) in [(3, false), (1, true), (2, true)] {
        let of = |endpoint| NewDelivery {
            occurred_at: DateTime::from_millis(at),
            ..delivery(endpoint)
        };
        let deliveries: Vec<_> = endpoints.iter().map(of).collect();
        if is_wanted {
            expected.extend(deliveries.iter().map(|delivery| delivery.message.event_id.clone()));
        }
        append(&store, &outbox, deliveries).await;
    }
    let reads =
        doc! { "ns": format!("{}.webhook_outbox", fixture.database.name()), "command.aggregate": { "$exists": true } };
    fixture.profile(&reads).await;

    let wants: Vec<_> = endpoints
        .iter()
        .map(|endpoint| next(endpoint, Class::Live, 2))
        .collect();
    let batches = fetch(&outbox, &wants).await;
    store.close().await;
    let deliveries = batches.into_iter().flat_map(|batch| batch.deliveries);
    let fetched: HashSet<_> = deliveries.map(|delivery| delivery.message.event_id).collect();
    assert_eq!(fetched, expected);

    let reads = fixture.profiled(&reads).await;
    let examined = |count| reads.iter().map(|read| read.get_i32(count).unwrap()).sum::<i32>();
    // MongoDB leaves out the first endpoint of each command.
    for count in ["docsExamined", "keysExamined"] {
        assert!(examined(count) <= 500, "{count}: {reads:#?}");
    }
    assert_eq!(reads.len(), 3, "a command for a hundred endpoints");
}

#[tokio::test]
async fn batches_that_are_in_memory_are_passed_over_by_their_keys() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let outbox = outbox(&store, "me");
    let endpoint = endpoint(1);
    let batches = expired_in_turn(ObjectId::new(), 40);
    let batches: Vec<_> = batches
        .chunks(2)
        .map(|two| pending_batch(endpoint.as_str(), two))
        .collect();
    fixture.outbox().insert_many(&batches).await.unwrap();
    let ids: Vec<Arc<str>> = batches
        .iter()
        .map(|batch| batch.get_str("_id").unwrap().into())
        .collect();
    let reads =
        doc! { "ns": format!("{}.webhook_outbox", fixture.database.name()), "command.aggregate": { "$exists": true } };
    fixture.profile(&reads).await;

    let want = Want::Next {
        endpoint: endpoint.clone(),
        class: Class::Live,
        except: ids[..19].to_vec(),
        batches: 1,
    };
    let fetched = fetch(&outbox, &[want]).await;
    store.close().await;
    assert_eq!(fetched[0].batch.id, ids[19]);
    let reads = fixture.profiled(&reads).await;
    assert_eq!(reads[0].get_i32("docsExamined").unwrap(), 1, "{reads:#?}");
}

/// However much is asked for: it is in memory.
#[tokio::test]
async fn a_fetch_brings_as_many_bytes_as_there_is_room_for_and_leaves_the_rest() {
    const BUDGET: usize = 16 << 20;
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let outbox = outbox(&store, "me");
    for n in 0..20 {
        let mut large = delivery(&endpoint(n));
        large.message.body = "x".repeat(1 << 20).into();
        append(&store, &outbox, vec![large]).await;
    }
    let wants: Vec<_> = (0..20).map(|n| next(&endpoint(n), Class::Live, 1)).collect();
    let first = outbox.fetch(&wants, Clock::local(), BUDGET).await.unwrap();
    let rest = outbox.fetch(&wants[16..], Clock::local(), BUDGET).await.unwrap();
    store.close().await;
    assert_eq!((first.batches.len(), first.cut), (16, true));
    assert_eq!((rest.batches.len(), rest.cut), (4, false));
}

#[tokio::test]
async fn the_first_open_delivery_of_a_batch_is_fetched_without_the_others() {
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let outbox = outbox(&store, "me");
    let endpoint = endpoint(1);
    let deliveries: Vec<_> = (0..50)
        .map(|_| {
            let mut delivery = delivery(&endpoint);
            delivery.message.body = "x".repeat(10_000).into();
            delivery
        })
        .collect();
    append(&store, &outbox, deliveries.clone()).await;
    let batch = only_batch(&outbox, &endpoint).await;
    let settled = [0, 1, 3].map(|place: usize| settlement(&batch[place], DELIVERED));
    record(&outbox, &settled).await;
    let reads =
        doc! { "ns": format!("{}.webhook_outbox", fixture.database.name()), "command.aggregate": { "$exists": true } };
    fixture.profile(&reads).await;

    let want = |skip, limit| Want::Slice {
        id: Arc::clone(&batch[0].batch.id),
        skip,
        limit,
    };
    let first = fetch(&outbox, &[want(None, 1)]).await.remove(0);
    let reads = fixture.profiled(&reads).await;
    assert!(reads[0].get_i32("responseLength").unwrap() < 20_000, "{reads:#?}");
    let places = |fetched: &Fetched| fetched.deliveries.iter().map(|one| one.index).collect::<Vec<_>>();
    assert_eq!((places(&first), first.rest), (vec![2], Some(3)));
    assert_eq!(first.deliveries[0].message.event_id, deliveries[2].message.event_id);
    let rest = fetch(&outbox, &[want(first.rest, 3)]).await.remove(0);
    assert_eq!((places(&rest), rest.rest), (vec![4, 5], Some(6)));
    store.close().await;
}
