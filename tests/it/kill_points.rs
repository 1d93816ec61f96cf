//! SIGKILL at every step of the protocol, exactly there: whatever was written so far and whatever was not, nothing is lost.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;

use bson::{DateTime, Document, doc};
use certhookd::model::Clock;
use nix::sys::signal::Signal;

use crate::bed::{Bed, Daemon, LIMIT, completed_id, expired, expired_id, heard};

/// What the daemon holds at most: less than there is to do, so that a part is claimed from the outbox.
const CAPACITY: usize = 8;

/// Certificates that have expired, and that are awarded while no daemon runs: two events each.
const CERTIFICATES: usize = 12;

/// An organization with two endpoints, and events that no daemon has seen yet.
struct Scene {
    bed: Bed,
    certificates: Vec<Document>,
    /// What has to arrive: path and `webhook-id`.
    expected: HashSet<(String, String)>,
}

impl Scene {
    async fn new() -> Self {
        let settings = format!("queue.capacity = {CAPACITY}\ndelivery.max_in_flight = {CAPACITY}");
        let bed = Bed::new().await.with(&settings);
        // From its first start on, awards are watched.
        assert!(bed.daemon().await.stop().await.success());
        let owner = bed.organization(vec![bed.endpoint("/a"), bed.endpoint("/b")]).await;
        let certificates: Vec<_> = (0..CERTIFICATES).map(|_| expired(owner)).collect();
        bed.badge_users().insert_many(&certificates).await.unwrap();
        let ids = certificates.iter().flat_map(|one| [completed_id(one), expired_id(one)]);
        let pairs = ids.flat_map(|id| ["/a", "/b"].map(|path| (path.to_owned(), id.clone())));
        Self {
            expected: pairs.collect(),
            bed,
            certificates,
        }
    }

    /// A daemon that is killed at that step.
    async fn killed_at(&self, step: &str) {
        let mut command = self.bed.command(&["run"]);
        command.env("FAILPOINTS", format!("{step}=return"));
        let status = Daemon::spawn(command).ended().await;
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{step}: {status}");
    }

    /// Renews a certificate as the platform does. The expiry that is past is told only if it is marked.
    async fn renew_one(&mut self, marked: bool) {
        let later = DateTime::from_millis(Clock::local().timestamp_millis() + 86_400_000);
        let renewal = doc! { "$set": { "expires": later, "expiryReminderSent": false } };
        let which = doc! { "expiryReminderSent": marked };
        let found = self.bed.badge_users().find_one_and_update(which, renewal).await;
        let renewed = found.unwrap().expect("a certificate to renew");
        self.certificates.retain(|one| one.get("_id") != renewed.get("_id"));
        if !marked {
            self.expected.retain(|(_, id)| *id != expired_id(&renewed));
        }
    }

    /// The next daemon brings all to its end.
    async fn recovers(&self, step: &str) {
        let mut daemon = self.bed.daemon().await;
        self.bed
            .receiver
            .wait_for(
                |requests| self.expected.iter().all(|pair| heard(requests).contains_key(pair)),
                LIMIT,
            )
            .await
            .unwrap_or_else(|error| panic!("{step}: {error}"));
        let delivered = doc! { "state": "delivered", "claim": null, "attempts": { "$gte": 1 } };
        self.bed
            .wait_for_count(&self.bed.deliveries(), delivered, self.expected.len() as u64)
            .await;
        assert!(daemon.stop().await.success());
    }

    /// What arrived, what is marked and what the outbox holds is what should be.
    async fn holds(&self, step: &str) {
        let requests = self.bed.receiver.requests();
        let heard = heard(&requests);
        assert_eq!(heard.keys().cloned().collect::<HashSet<_>>(), self.expected, "{step}");
        let duplicates = requests.len() - heard.len();
        assert!(duplicates <= CAPACITY, "{step}: {duplicates} duplicates");
        let count = async |marked| {
            let filter = doc! { "expiryReminderSent": marked };
            self.bed.badge_users().count_documents(filter).await.unwrap() as usize
        };
        let expired = self.certificates.len();
        assert_eq!(
            (count(true).await, count(false).await),
            (expired, CERTIFICATES - expired)
        );
        let rows = self.bed.deliveries().count_documents(doc! {}).await.unwrap();
        assert_eq!(rows as usize, self.expected.len(), "{step}: nothing else in the outbox");
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

/// Kills a daemon at that step, then lets the next one recover.
async fn killed_and_recovered(step: &str, found: Found) {
    let mut scene = Scene::new().await;
    scene.killed_at(step).await;
    if found != Found::Any {
        scene.renew_one(found == Found::Marked).await;
    }
    scene.recovers(step).await;
    scene.holds(step).await;
}

/// One test for each row: its name, how the certificates are found, the step.
macro_rules! killed {
    ($($name:ident: $found:ident, $step:literal;)+) => {
        $(#[tokio::test]
        async fn $name() {
            killed_and_recovered($step, Found::$found).await;
        })+
    };
}

killed! {
    before_outbox_and_mark_are_committed: Unmarked, "to-be-committed";
    between_outbox_and_mark_and_the_queue: Marked, "taken";
    between_outbox_and_queue: Any, "appended";
    between_outbox_and_token: Any, "token-to-be-saved";
    after_the_token: Any, "token-saved";
    between_claim_and_queue: Any, "claimed";
    before_a_request: Any, "to-be-sent";
    between_request_and_result: Any, "sent";
    after_the_result: Any, "recorded";
}
