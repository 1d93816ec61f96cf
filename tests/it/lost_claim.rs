//! A claim whose answer was lost, and that takes effect only after it was given up and freed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::doc;
use certhookd::dispatch::{Feeder, Window};
use certhookd::model::{Clock, EndpointKey};
use certhookd::outbox::Outbox;
use certhookd::sandbox::{Options, Proxy, ReplicaSet};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, LIMIT};
use crate::lanes::BellOnly;
use crate::outbox::{delivery, store};

/// How long MongoDB holds the claim back, in milliseconds: much longer than the feeder needs to reconnect.
const HELD: i32 = 4_000;

#[tokio::test]
async fn a_claim_that_takes_effect_after_it_was_given_up_is_freed_all_the_same() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    let proxy = Proxy::start(set.port(0)).await.unwrap();
    let uri = format!("mongodb://{}/?directConnection=true", proxy.address());
    let client = set.client().await.unwrap();
    // A direct connection does not wait for a primary, this one does.
    let admin = client.database("admin");
    admin.run_command(doc! { "ping": 1 }).await.unwrap();
    let bed = Bed::on(&uri, client);
    let store = store(&bed).await;
    let endpoint = EndpointKey::from_stored("owner/endpoint");
    // While the claim is held back the lane moves to another daemon: this one has no reason to claim anew.
    let ours = Arc::new(AtomicBool::new(true));
    let owns = Arc::clone(&ours);
    let (window, _wanted) = Window::new(16, 5, Box::new(move |_| owns.load(Ordering::Relaxed)));
    let outbox = Outbox::new(store.clone(), "me".into(), Arc::new(BellOnly(window.clone())));
    outbox.append(vec![delivery(&endpoint)], Clock::local()).await.unwrap();

    let namespace = format!("{}.webhook_deliveries", bed.database.name());
    let data =
        doc! { "failCommands": ["update"], "namespace": namespace, "blockConnection": true, "blockTimeMS": HELD };
    let hold = doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
    admin.run_command(hold).await.unwrap();
    let (stop, (beats, mut rounds)) = (CancellationToken::new(), mpsc::unbounded_channel());
    let an_hour = Duration::from_secs(3600);
    let feeder = Feeder::new(outbox, store.clone(), window.clone(), Clock::default(), an_hour);
    let feeder = tokio::spawn(feeder.run(stop.clone(), move || beats.send(()).unwrap()));
    let held = doc! { "waitForFailPoint": "failCommand", "timesEntered": 1, "maxTimeMS": 60_000 };
    admin.run_command(held).await.unwrap();

    ours.store(false, Ordering::Relaxed);
    proxy.cut();
    proxy.pass();
    tokio::time::timeout(LIMIT, rounds.recv()).await.unwrap();
    // It was freed, and is claimed only now.
    bed.wait_for_count(&bed.deliveries(), doc! { "state": "claimed" }, 1)
        .await;
    window.look();
    let free = doc! { "state": "pending", "attempts": 0, "claim": null };
    bed.wait_for_count(&bed.deliveries(), free, 1).await;
    stop.cancel();
    feeder.await.unwrap();
    store.close().await;
}
