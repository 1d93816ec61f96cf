//! What a daemon saw at its last heartbeat, and what follows from it: pure.

use std::collections::HashSet;
use std::time::Duration;

use bson::{DateTime, Document};
use sha2::{Digest, Sha256};

use super::{ALIVE, BEAT, Duty};
use crate::model::EndpointKey;

/// A daemon gets lanes when it has been alive for so long: by then every other one has seen it come.
const SETTLED: Duration = BEAT.saturating_mul(2);

/// It believes so itself a little later, when every other one has seen that it got them.
const SELF_SETTLED: Duration = BEAT.saturating_mul(4);

/// The cluster as one daemon saw it.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    members: Vec<Member>,
    leases: Vec<Lease>,
    /// Lanes in which others still hold claims.
    pub(super) busy: HashSet<EndpointKey>,
}

/// A daemon that is alive.
#[derive(Clone, Debug)]
pub(super) struct Member {
    name: String,
    age: Duration,
}

#[derive(Clone, Debug)]
struct Lease {
    id: String,
    holder: String,
    number: i64,
}

impl View {
    /// Reads heartbeats and leases, at the database's `now`.
    pub(super) fn read(documents: &[Document], now: DateTime) -> Self {
        let mut view = Self::default();
        for document in documents {
            match document.get_str("_id").unwrap_or_default().strip_prefix("daemon/") {
                Some(name) => view.members.extend(member(name, document, now)),
                None => view.add_lease(document),
            }
        }
        view
    }

    pub(super) fn add_lease(&mut self, document: &Document) {
        let text = |field| document.get_str(field).ok().map(str::to_owned);
        let (Some(id), Some(holder)) = (text("_id"), text("holder")) else {
            return;
        };
        self.leases.retain(|lease| lease.id != id);
        self.leases.push(Lease {
            id,
            holder,
            number: document.get_i64("number").unwrap_or(0),
        });
    }

    /// Everybody alive, `me` in any case.
    pub(super) fn names(&self, me: &str) -> Vec<String> {
        let mut names: Vec<_> = self.members.iter().map(|member| member.name.clone()).collect();
        if !names.iter().any(|name| name == me) {
            names.push(me.to_owned());
        }
        names
    }

    pub(super) fn holder(&self, duty: Duty) -> Option<&String> {
        self.leases
            .iter()
            .find(|lease| lease.id == duty.lease())
            .map(|lease| &lease.holder)
    }

    /// The number of `me`'s lease.
    pub(super) fn lease(&self, duty: Duty, me: &str) -> Option<i64> {
        self.leases
            .iter()
            .find(|lease| lease.id == duty.lease() && lease.holder == me)
            .map(|lease| lease.number)
    }

    /// Whether `me` delivers to that endpoint: by rendezvous hashing, so that a daemon that comes or goes moves only the lanes
    /// that are its own; and only when nobody else has requests in flight there.
    pub(super) fn owns(&self, me: &str, endpoint: &EndpointKey) -> bool {
        let owner = match self.candidates(me).as_slice() {
            [] => return true,
            [only] => *only,
            several => several
                .iter()
                .max_by_key(|name| weight(name, endpoint))
                .copied()
                .unwrap_or(me),
        };
        owner == me && !self.busy.contains(endpoint)
    }

    /// Those who have settled; before anybody has, the one who came first.
    fn candidates(&self, me: &str) -> Vec<&str> {
        let settled = |member: &&Member| member.age >= if member.name == me { SELF_SETTLED } else { SETTLED };
        let mut names: Vec<_> = self
            .members
            .iter()
            .filter(settled)
            .map(|member| member.name.as_str())
            .collect();
        if names.is_empty() {
            let first = self.members.iter().max_by_key(|member| (member.age, &member.name));
            names.extend(first.map(|member| member.name.as_str()));
        }
        names
    }
}

fn member(name: &str, document: &Document, now: DateTime) -> Option<Member> {
    let since = |field| {
        let at = document.get_datetime(field).ok()?;
        let millis = now.timestamp_millis() - at.timestamp_millis();
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    };
    let alive = since("seenAt")? < ALIVE;
    alive.then(|| Member {
        name: name.to_owned(),
        age: since("startedAt").unwrap_or_default(),
    })
}

fn weight(daemon: &str, endpoint: &EndpointKey) -> [u8; 32] {
    Sha256::new()
        .chain_update(daemon)
        .chain_update([0])
        .chain_update(endpoint.as_str())
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    const NOW: DateTime = DateTime::from_millis(1_000_000);

    fn daemon(name: &str, age_s: i64, silent_s: i64) -> Document {
        let ago = |seconds: i64| DateTime::from_millis(NOW.timestamp_millis() - seconds * 1000);
        doc! { "_id": format!("daemon/{name}"), "startedAt": ago(age_s), "seenAt": ago(silent_s) }
    }

    fn lanes() -> impl Iterator<Item = EndpointKey> {
        (0..1000).map(|n| EndpointKey::from_stored(&format!("owner/{n}")))
    }

    #[test]
    fn lanes_are_shared_evenly_and_each_is_one_daemons() {
        let view = View::read(&[daemon("a", 60, 1), daemon("b", 60, 1), daemon("c", 60, 1)], NOW);
        for lane in lanes() {
            assert_eq!(["a", "b", "c"].iter().filter(|name| view.owns(name, &lane)).count(), 1);
        }
        let mine = lanes().filter(|lane| view.owns("a", lane)).count();
        assert!((250..420).contains(&mine), "{mine} of 1000");
    }

    #[test]
    fn a_daemon_that_leaves_moves_only_its_own_lanes() {
        let three = View::read(&[daemon("a", 60, 1), daemon("b", 60, 1), daemon("c", 60, 1)], NOW);
        let two = View::read(&[daemon("a", 60, 1), daemon("b", 60, 1), daemon("c", 60, 11)], NOW);
        for lane in lanes().filter(|lane| three.owns("a", lane)) {
            assert!(two.owns("a", &lane));
        }
    }

    #[test]
    fn a_newcomer_gets_lanes_when_all_have_seen_it_and_takes_them_up_later_still() {
        let at = |age| View::read(&[daemon("old", 60, 1), daemon("new", age, 0)], NOW);
        let share = |view: &View, name| lanes().filter(|lane| view.owns(name, lane)).count();
        assert_eq!((share(&at(1), "old"), share(&at(1), "new")), (1000, 0));
        assert!(share(&at(5), "old") < 1000 && share(&at(5), "new") == 0);
        assert_eq!(share(&at(9), "old") + share(&at(9), "new"), 1000);
    }

    #[test]
    fn of_daemons_that_start_together_the_first_delivers_until_they_settle() {
        let view = View::read(&[daemon("a", 2, 0), daemon("b", 1, 0)], NOW);
        assert!(lanes().all(|lane| view.owns("a", &lane) && !view.owns("b", &lane)));
    }

    #[test]
    fn a_lane_where_another_has_requests_in_flight_waits() {
        let mut view = View::read(&[daemon("a", 60, 1)], NOW);
        let lane = EndpointKey::from_stored("owner/1");
        assert!(view.owns("a", &lane));
        view.busy.insert(lane.clone());
        assert!(!view.owns("a", &lane));
    }
}
