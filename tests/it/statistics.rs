//! The figures for the back office: what is recorded is counted, each result once, whatever happens in between.

use bson::{DateTime, Document, doc};
use certhookd::outbox::{Class, Next};
use certhookd::sandbox::Response;
use futures_util::TryStreamExt;
use http::StatusCode;
use nix::sys::signal::Signal;

use crate::cluster::has_lease;
use crate::fixture::{Daemon, Fixture, endpoint_key, expired, pending_batch};
use crate::layout::store;
use crate::outbox::support::{append, delivery, endpoint, fetch, next, outbox, record, settlement};

/// How often which result, over all days: a test may run at midnight.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    successes: i64,
    failures: i64,
    dead: i64,
    cancelled: i64,
}

/// Of the endpoint with that `_id`.
async fn figures(fixture: &Fixture, endpoint: &Document) -> Figures {
    let mut sum = Figures::default();
    for day in days(fixture, endpoint).await {
        sum.successes += day.get_i64("successes").unwrap();
        sum.failures += day.get_i64("failures").unwrap();
        sum.dead += day.get_i64("dead").unwrap();
        sum.cancelled += day.get_i64("cancelled").unwrap();
    }
    sum
}

async fn days(fixture: &Fixture, endpoint: &Document) -> Vec<Document> {
    let of_endpoint = doc! { "endpoint": endpoint.get_object_id("_id").unwrap().to_hex() };
    let statistics = fixture.statistics();
    let days = statistics.find(of_endpoint).sort(doc! { "day": 1 });
    days.await.unwrap().try_collect().await.unwrap()
}

/// When an endpoint's last attempt ended.
async fn last_attempt(fixture: &Fixture, endpoint: &str) -> DateTime {
    let deliveries = fixture.deliveries(doc! { "endpoint": endpoint }).await;
    let ended = deliveries.iter().map(|one| *one.get_datetime("lastAttemptAt").unwrap());
    ended.max().unwrap()
}

#[tokio::test]
async fn successes_failures_and_their_last_instants_are_counted_per_endpoint_and_day() {
    let once = "completions.enabled = false\ndelivery.redrive_for = \"0s\"\ndelivery.max_attempts = 3\ndelivery.retry_window = \"1s\"";
    let fixture = Fixture::new().await.with(once);
    let [well, shaky, failing, deleted] =
        ["/well", "/shaky", "/failing", "/deleted"].map(|path| fixture.endpoint(path));
    let organization = fixture
        .organization(vec![well.clone(), shaky.clone(), failing.clone()])
        .await;
    fixture
        .receiver
        .script("/shaky", Response::failing(2, StatusCode::SERVICE_UNAVAILABLE));
    fixture
        .receiver
        .script("/failing", [Response::status(StatusCode::INTERNAL_SERVER_ERROR)]);
    fixture
        .badge_users()
        .insert_many([(); 3].map(|()| expired(organization)))
        .await
        .unwrap();
    let waiting = pending_batch(&endpoint_key(organization, &deleted), &[expired(organization)]);
    fixture.outbox().insert_one(waiting).await.unwrap();

    let mut daemon = fixture.daemon().await;
    let ended = doc! { "state": { "$in": ["delivered", "dead", "cancelled"] } };
    fixture.wait_for_deliveries(ended, 10).await;
    assert!(daemon.stop().await.success());
    let of = |successes, failures, dead, cancelled| Figures {
        successes,
        failures,
        dead,
        cancelled,
    };
    assert_eq!(figures(&fixture, &well).await, of(3, 0, 0, 0));
    assert_eq!(
        figures(&fixture, &shaky).await,
        of(3, 2, 0, 0),
        "every failed attempt counts"
    );
    assert_eq!(figures(&fixture, &failing).await, of(0, 9, 3, 0));
    assert_eq!(figures(&fixture, &deleted).await, of(0, 0, 0, 1));

    let day = days(&fixture, &failing).await.pop().unwrap();
    let last = last_attempt(&fixture, &endpoint_key(organization, &failing)).await;
    let date = last.try_to_rfc3339_string().unwrap()[..10].to_owned();
    assert_eq!(
        day.get_str("_id").unwrap(),
        format!("{}/{date}", endpoint_key(organization, &failing))
    );
    assert_eq!(day.get_str("organization").unwrap(), organization.to_hex());
    assert_eq!(
        day.get_datetime("day").unwrap().try_to_rfc3339_string().unwrap(),
        format!("{date}T00:00:00Z")
    );
    assert_eq!(day.get_datetime("lastFailure").unwrap(), &last);
    assert!(day.get_str("lastFailureReason").unwrap().contains("500"), "{day}");
    assert!(!day.contains_key("lastSuccess"), "{day}");
    let day = days(&fixture, &shaky).await.pop().unwrap();
    let last = last_attempt(&fixture, &endpoint_key(organization, &shaky)).await;
    assert_eq!(day.get_datetime("lastSuccess").unwrap(), &last);
    assert!(day.get_str("lastFailureReason").unwrap().contains("503"), "{day}");
    assert_eq!(fixture.count_deliveries(doc! {}).await, 10);
}

/// An organization of which one endpoint accepts everything and the other nothing, and what is sent there.
struct WellAndFailing {
    fixture: Fixture,
    well: Document,
    failing: Document,
    certificates: i64,
}

impl WellAndFailing {
    async fn new(certificates: i64) -> Self {
        let settings = "completions.enabled = false\nscan.on_start = false\nqueue.capacity = 8\ndelivery.max_in_flight = 8\n\
             delivery.max_attempts = 1\ndelivery.redrive_for = \"0s\"";
        let fixture = Fixture::new().await.with(settings);
        let (well, failing) = (fixture.endpoint("/well"), fixture.endpoint("/failing"));
        let organization = fixture.organization(vec![well.clone(), failing.clone()]).await;
        fixture
            .receiver
            .script("/failing", [Response::status(StatusCode::INTERNAL_SERVER_ERROR)]);
        fixture
            .badge_users()
            .insert_many((0..certificates).map(|_| expired(organization)))
            .await
            .unwrap();
        Self {
            fixture,
            well,
            failing,
            certificates,
        }
    }

    /// A daemon that is killed there once it has something to send.
    fn daemon_killed_at(&self, failpoint: &str) -> Daemon {
        let mut command = self.fixture.command(&["run"]);
        command.env("FAILPOINTS", failpoint);
        Daemon::spawn(command)
    }

    /// Whatever is recorded is counted, at any time. Returns how much that is.
    async fn is_consistent(&self) -> i64 {
        let counted =
            figures(&self.fixture, &self.well).await.successes + figures(&self.fixture, &self.failing).await.failures;
        let ended = doc! { "state": { "$in": ["delivered", "dead"] } };
        assert_eq!(self.fixture.count_deliveries(ended).await as i64, counted);
        counted
    }

    /// Waits until all has ended, and shows that every result is counted once.
    async fn is_exact(&self, daemon: &mut Daemon) {
        for state in ["delivered", "dead"] {
            self.fixture
                .wait_for_deliveries(doc! { "state": state }, self.certificates as u64)
                .await;
        }
        assert!(daemon.stop().await.success());
        let well = figures(&self.fixture, &self.well).await;
        assert_eq!((well.successes, well.failures), (self.certificates, 0));
        let failing = figures(&self.fixture, &self.failing).await;
        assert_eq!(
            (failing.successes, failing.failures, failing.dead),
            (0, self.certificates, self.certificates)
        );
        assert_eq!(self.is_consistent().await, self.certificates * 2);
    }
}

#[tokio::test]
async fn a_daemon_killed_around_the_recording_of_results_loses_no_count_and_counts_none_twice() {
    let both = WellAndFailing::new(10).await;
    for failpoint in ["results-to-be-committed=2*off->return", "recorded=2*off->return"] {
        let mut daemon = both.daemon_killed_at(failpoint);
        daemon.wait_for(|line| line["message"] == "ready").await;
        daemon.signal(Signal::SIGUSR1);
        daemon.ended().await;
        let counted = both.is_consistent().await;
        assert!((1..both.certificates * 2).contains(&counted), "{failpoint}: {counted}");
    }
    let mut daemon = both.fixture.daemon().await;
    daemon.signal(Signal::SIGUSR1);
    both.is_exact(&mut daemon).await;
}

#[tokio::test]
async fn another_instance_goes_on_counting_after_one_was_killed() {
    let both = WellAndFailing::new(10).await;
    let mut killed = both.daemon_killed_at("recorded=2*off->return");
    killed.wait_for(|line| line["message"] == "ready").await;
    let mut heir = both.fixture.daemon().await;
    killed.signal(Signal::SIGUSR1);
    killed.ended().await;
    both.is_consistent().await;
    // It has something to scan when it has taken over.
    heir.wait_for(has_lease).await;
    both.is_exact(&mut heir).await;
}

#[tokio::test]
async fn figures_that_mongodb_refuses_hold_up_no_result_and_are_named() {
    let both = WellAndFailing::new(10).await;
    let failing = both.failing.get_object_id("_id").unwrap().to_hex();
    let create = doc! { "create": "webhook_stats", "validator": { "endpoint": { "$ne": &failing } } };
    both.fixture.database.run_command(create).await.unwrap();
    let mut daemon = both.fixture.daemon().await;
    daemon.signal(Signal::SIGUSR1);
    for state in ["delivered", "dead"] {
        both.fixture.wait_for_deliveries(doc! { "state": state }, 10).await;
    }
    assert_eq!(figures(&both.fixture, &both.well).await.successes, 10);
    // What was lost since it was last told is told at the end.
    assert!(daemon.stop().await.success());
    let lines = daemon.lines().into_iter();
    let named = lines.filter(|line| line["level"] == "ERROR" && line["results"].is_u64());
    let lost: u64 = named
        .inspect(|line| assert!(line["endpoint"].as_str().unwrap().ends_with(&failing), "{line}"))
        .map(|line| line["results"].as_u64().unwrap())
        .sum();
    assert_eq!(lost, 10);
}

#[tokio::test]
async fn results_of_more_endpoints_than_go_into_one_command_are_counted_each_once() {
    const ENDPOINTS: u64 = 1_100;
    let fixture = Fixture::new().await;
    let store = store(&fixture).await;
    let outbox = outbox(&store, "me");
    let deliveries = (0..ENDPOINTS).map(|n| delivery(&endpoint(n)));
    append(&store, &outbox, deliveries.collect()).await;
    let wants: Vec<_> = (0..ENDPOINTS).map(|n| next(&endpoint(n), Class::Live, 1)).collect();
    let batches = fetch(&outbox, &wants).await;
    let deliveries = batches.iter().flat_map(|batch| &batch.deliveries);
    let delivered = deliveries.map(|one| settlement(one, Next::Delivered { status: 200 }));
    record(&outbox, &delivered.collect::<Vec<_>>()).await;
    let counted = doc! { "successes": 1 };
    assert_eq!(fixture.statistics().count_documents(counted).await.unwrap(), ENDPOINTS);
    store.close().await;
}
