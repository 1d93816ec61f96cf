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

    /// Renews a certificate that is not marked yet, if there is one: its expiry must not be told any more.
    async fn renew_one(&mut self) -> bool {
        let later = DateTime::from_millis(Clock::local().timestamp_millis() + 86_400_000);
        let renewal = doc! { "$set": { "expires": later } };
        let unmarked = doc! { "expiryReminderSent": false };
        let found = self.bed.badge_users().find_one_and_update(unmarked, renewal).await;
        let Some(renewed) = found.unwrap() else { return false };
        self.certificates.retain(|one| one.get("_id") != renewed.get("_id"));
        self.expected.retain(|(_, id)| *id != expired_id(&renewed));
        true
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
        let delivered = doc! { "state": "delivered", "claim": null, "unmarked": null, "attempts": { "$gte": 1 } };
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

/// Kills a daemon at each of these steps in turn, then lets one recover.
async fn killed_and_recovered(steps: &[&str], renewable: bool) {
    let name = steps.join(", ");
    let mut scene = Scene::new().await;
    for step in steps {
        scene.killed_at(step).await;
    }
    if renewable {
        assert!(scene.renew_one().await, "{name}: one is not marked yet");
    }
    scene.recovers(&name).await;
    scene.holds(&name).await;
}

/// One test for each row: its name, whether certificates are certainly unmarked at its end, the steps.
macro_rules! killed {
    ($($name:ident: $renewable:literal, $($step:literal),+;)+) => {
        $(#[tokio::test]
        async fn $name() {
            killed_and_recovered(&[$($step),+], $renewable).await;
        })+
    };
}

killed! {
    between_outbox_and_mark: true, "staged";
    between_mark_and_release: false, "marked";
    between_release_and_sending: false, "confirmed";
    while_it_settles_what_the_last_one_left: false, "staged", "orphans-marked";
    between_outbox_and_queue: false, "appended";
    between_outbox_and_token: false, "token-to-be-saved";
    after_the_token: false, "token-saved";
    between_claim_and_queue: false, "claimed";
    before_a_request: false, "to-be-sent";
    between_request_and_result: false, "sent";
    after_the_result: false, "recorded";
}
