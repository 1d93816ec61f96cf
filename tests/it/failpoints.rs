//! SIGKILL at every failpoint of the protocol: whatever was written so far and whatever was not, nothing is lost.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use certhookd::model::Clock;
use certhookd::sandbox::Response;
use futures_util::TryStreamExt;
use nix::sys::signal::Signal;

use crate::fixture::{Daemon, Fixture, LIMIT, completed_id, expired, expired_id, heard};

/// The capacity of the delivery queue: less than there is to send.
const CAPACITY: usize = 8;

/// Certificates that have expired, and that are awarded while no daemon runs: two events each.
const CERTIFICATES: usize = 12;

/// An organization with two endpoints, and events that no daemon has seen yet.
struct Killed {
    fixture: Fixture,
    certificates: Vec<Document>,
    /// What has to arrive: path and `webhook-id`.
    expected: HashSet<(String, String)>,
}

impl Killed {
    async fn new() -> Self {
        let settings = format!("queue.capacity = {CAPACITY}\ndelivery.max_in_flight = {CAPACITY}");
        let fixture = Fixture::new().await.with(&settings);
        // From its first start on, awards are watched.
        assert!(fixture.daemon().await.stop().await.success());
        let organization = fixture
            .organization(vec![fixture.endpoint("/a"), fixture.endpoint("/b")])
            .await;
        let certificates: Vec<_> = (0..CERTIFICATES).map(|_| expired(organization)).collect();
        fixture.badge_users().insert_many(&certificates).await.unwrap();
        let ids = certificates.iter().flat_map(|one| [completed_id(one), expired_id(one)]);
        let pairs = ids.flat_map(|id| ["/a", "/b"].map(|path| (path.to_owned(), id.clone())));
        Self {
            expected: pairs.collect(),
            fixture,
            certificates,
        }
    }

    /// A daemon that is killed at that failpoint.
    async fn at(&self, failpoint: &str) {
        let armed = match failpoint.contains('=') {
            true => failpoint.to_owned(),
            false => format!("{failpoint}=return"),
        };
        let mut command = self.fixture.command(&["run"]);
        command.env("FAILPOINTS", armed);
        let status = Daemon::spawn(command).ended().await;
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{failpoint}: {status}");
    }

    /// As an instance does that finds this one dead. Until then a transaction that was open locks what it has changed.
    async fn end_sessions(&self) {
        let state = self.fixture.state();
        let instances = state.find(doc! { "_id": { "$regex": "^instance/" } }).await.unwrap();
        let instances: Vec<_> = instances.try_collect().await.unwrap();
        let sessions = instances.iter().flat_map(|one| one.get_array("sessions").unwrap());
        let sessions: Vec<Bson> = sessions.cloned().collect();
        assert!(!sessions.is_empty());
        let end = doc! { "killSessions": sessions };
        self.fixture.database.run_command(end).await.unwrap();
    }

    /// Renews a certificate as the platform does. The expiry that is past is told only if it is marked.
    async fn renew_one(&mut self, marked: bool) {
        let later = DateTime::from_millis(Clock::local().timestamp_millis() + 86_400_000);
        let renewal = doc! { "$set": { "expires": later, "expiryReminderSent": false } };
        let which = doc! { "expiryReminderSent": marked };
        let found = self.fixture.badge_users().find_one_and_update(which, renewal).await;
        let renewed = found.unwrap().expect("a certificate to renew");
        self.certificates.retain(|one| one.get("_id") != renewed.get("_id"));
        if !marked {
            self.expected.retain(|(_, id)| *id != expired_id(&renewed));
        }
    }

    /// The next daemon brings all to its end.
    async fn recovers(&self, failpoint: &str) {
        let mut daemon = self.fixture.daemon().await;
        let all_heard = |requests: &[_]| self.expected.is_subset(&heard(requests).into_keys().collect());
        let all = self.fixture.receiver.wait_for(all_heard, LIMIT).await;
        all.unwrap_or_else(|error| panic!("{failpoint}: {error}"));
        let delivered = doc! { "state": "delivered", "attempts": { "$gte": 1 } };
        self.fixture
            .wait_for_deliveries(delivered, self.expected.len() as u64)
            .await;
        assert!(daemon.stop().await.success());
    }

    /// What arrived, what is marked and what the outbox holds is what should be.
    async fn holds(&self, failpoint: &str) {
        let requests = self.fixture.receiver.requests();
        let heard = heard(&requests);
        assert_eq!(
            heard.keys().cloned().collect::<HashSet<_>>(),
            self.expected,
            "{failpoint}"
        );
        let duplicates = requests.len() - heard.len();
        assert!(duplicates <= CAPACITY, "{failpoint}: {duplicates} duplicates");
        let count = async |marked| {
            let filter = doc! { "expiryReminderSent": marked };
            self.fixture.badge_users().count_documents(filter).await.unwrap() as usize
        };
        let expired = self.certificates.len();
        assert_eq!(
            (count(true).await, count(false).await),
            (expired, CERTIFICATES - expired)
        );
        let all = self.fixture.count_deliveries(doc! {}).await as usize;
        assert_eq!(all, self.expected.len(), "{failpoint}: nothing else in the outbox");
        let open = doc! { "$or": [{ "state": { "$ne": "delivered" } }, { "open": { "$ne": 0 } }] };
        assert_eq!(
            self.fixture.outbox().count_documents(open).await.unwrap(),
            0,
            "{failpoint}"
        );
    }
}

/// How the certificates are found after the kill, for one of them to be renewed then.
#[derive(Clone, Copy, PartialEq)]
enum Found {
    Unmarked,
    Marked,
    /// Some of either; none is renewed.
    Any,
}

/// Kills a daemon at that failpoint, then lets the next one recover.
async fn killed_and_recovered(failpoint: &str, found: Found) {
    let mut killed = Killed::new().await;
    killed.at(failpoint).await;
    if found != Found::Any {
        killed.end_sessions().await;
        killed.renew_one(found == Found::Marked).await;
    }
    killed.recovers(failpoint).await;
    killed.holds(failpoint).await;
}

/// One test for each row: its name, how the certificates are found, the failpoint.
macro_rules! killed {
    ($($name:ident: $found:ident, $failpoint:literal;)+) => {
        $(#[tokio::test]
        async fn $name() {
            killed_and_recovered($failpoint, Found::$found).await;
        })+
    };
}

killed! {
    before_batches_and_marks_are_committed: Unmarked, "page-to-be-committed";
    after_batches_and_marks_are_committed: Marked, "page-committed";
    before_batches_and_position_are_committed: Any, "completions-to-be-committed";
    after_batches_and_position_are_committed: Any, "completions-committed";
    between_fetch_and_queue: Any, "fetched";
    before_a_request: Any, "to-be-sent";
    between_request_and_result: Any, "sent";
    between_later_requests_and_results: Any, "sent=9*off->return";
    before_results_are_committed: Any, "results-to-be-committed";
    before_later_results_are_committed: Any, "results-to-be-committed=3*off->return";
    after_results_are_committed: Any, "recorded";
    after_the_first_heartbeat: Any, "heartbeat-written";
}

/// The third comes two seconds after the start.
#[tokio::test]
async fn after_a_heartbeat_amid_requests() {
    let killed = Killed::new().await;
    for path in ["/a", "/b"] {
        let slow = Response::ok().after(Duration::from_millis(300));
        killed.fixture.receiver.script(path, [slow]);
    }
    let failpoint = "heartbeat-written=2*off->return";
    killed.at(failpoint).await;
    let before = killed.fixture.receiver.total();
    assert!((1..killed.expected.len()).contains(&before), "{before}");
    killed.recovers(failpoint).await;
    killed.holds(failpoint).await;
}
