//! Which endpoint is assigned to which instance: pure.
//!
//! Each heartbeat carries the members by which its writer assigns: rendezvous hashing over them names one instance per endpoint
//! (as a partition is assigned to one consumer in Kafka), so that an instance that comes or goes moves its own endpoints only.
//! Because instances learn of each other at different moments, two lists may differ for a while. So an instance begins an
//! endpoint only if its own heartbeat, written before it read the others', assigns it to itself, and no other living heartbeat
//! assigns it to its writer or names it as draining. Where two want the same endpoint, at least one of them so sees the other.

use std::collections::HashSet;
use std::time::Duration;

use bson::{Bson, DateTime, Document};
use sha2::{Digest, Sha256};

use super::ALIVE;
use crate::model::{EndpointKey, time_until};

/// A newcomer beside others counts from this age on: one that crashes at each start takes nothing.
pub(super) const NEWCOMER: Duration = Duration::from_secs(6);

/// An instance as its heartbeat describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heartbeat {
    pub(super) instance_id: String,
    pub(super) age: Duration,
    /// It shuts down.
    pub(super) leaving: bool,
    /// By whom it assigns.
    pub(super) members: Vec<String>,
    /// Endpoints that it lost and of which it still holds results that are not recorded.
    pub(super) draining: HashSet<EndpointKey>,
    /// The control number that it has acknowledged.
    pub(super) control: i64,
}

/// What an instance knows of the others, as it read them after it wrote its own heartbeat.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// The members in this instance's own heartbeat, the last that was confirmed.
    pub(super) members: Vec<String>,
    /// The members in its next one: what these take away is not begun any more.
    pub(super) next: Vec<String>,
    pub(super) others: Vec<Heartbeat>,
}

impl View {
    /// Whether `instance_id` may begin requests to that endpoint.
    pub(super) fn is_assigned(&self, instance_id: &str, endpoint: &EndpointKey) -> bool {
        let mine = |members: &[String]| assigned(members, endpoint) == Some(instance_id);
        if !mine(&self.members) || (self.next != self.members && !mine(&self.next)) {
            return false;
        }
        self.others.iter().all(|other| {
            let wants = assigned(&other.members, endpoint) == Some(&other.instance_id);
            !wants && !other.draining.contains(endpoint)
        })
    }

    /// Whether it assigns every endpoint as `other` does.
    pub(super) fn assigns_as(&self, other: &Self) -> bool {
        self.members == other.members && self.next == other.next && self.wants().eq(other.wants())
    }

    fn wants(&self) -> impl Iterator<Item = (&String, &Vec<String>, &HashSet<EndpointKey>)> {
        let others = self.others.iter();
        others.map(|other| (&other.instance_id, &other.members, &other.draining))
    }

    /// Whether `instance_id` will keep that endpoint with its next heartbeat.
    pub(super) fn keeps(&self, instance_id: &str, endpoint: &EndpointKey) -> bool {
        assigned(&self.next, endpoint) == Some(instance_id)
    }
}

/// The instance to which these members assign an endpoint.
pub(super) fn assigned<'a>(members: &'a [String], endpoint: &EndpointKey) -> Option<&'a str> {
    match members {
        [] => None,
        [only] => Some(only),
        several => several
            .iter()
            .max_by_key(|member| weight(member, endpoint))
            .map(String::as_str),
    }
}

/// By whom `instance_id` should assign: those that are old enough and don't leave; where none is, the oldest. Sorted.
pub(super) fn members(instance_id: &str, age: Duration, leaving: bool, others: &[Heartbeat]) -> Vec<String> {
    let all = others
        .iter()
        .map(|other| (other.instance_id.as_str(), other.age, other.leaving))
        .chain([(instance_id, age, leaving)]);
    let staying: Vec<_> = all.filter(|(_, _, leaving)| !leaving).collect();
    let settled = staying.iter().filter(|(_, age, _)| *age >= NEWCOMER);
    let mut members: Vec<String> = settled.map(|(id, _, _)| (*id).to_owned()).collect();
    if members.is_empty() {
        let oldest = staying.iter().max_by_key(|(id, age, _)| (*age, *id));
        members.extend(oldest.map(|(id, _, _)| (*id).to_owned()));
    }
    members.sort();
    members
}

/// Reads a heartbeat at the database's `now`; `None` if its writer counts as dead.
pub(super) fn read(document: &Document, now: DateTime) -> Option<Heartbeat> {
    let since = |field| {
        let at = document.get_datetime(field).ok()?;
        Some(time_until(now, *at))
    };
    if since("seenAt")? >= ALIVE {
        return None;
    }
    let texts = |field| {
        let values = document.get_array(field).into_iter().flatten();
        values.filter_map(Bson::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    Some(Heartbeat {
        instance_id: document.get_str("_id").ok()?.strip_prefix("instance/")?.to_owned(),
        age: since("startedAt").unwrap_or_default(),
        leaving: document.get_bool("leaving").unwrap_or(false),
        members: texts("members"),
        draining: texts("draining")
            .iter()
            .map(|key| EndpointKey::from_stored(key))
            .collect(),
        control: document.get_i64("control").unwrap_or(0),
    })
}

fn weight(member: &str, endpoint: &EndpointKey) -> [u8; 32] {
    Sha256::new()
        .chain_update(member)
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

    fn heartbeat(instance_id: &str, age_s: u64, members: &[&str]) -> Heartbeat {
        Heartbeat {
            instance_id: instance_id.into(),
            age: Duration::from_secs(age_s),
            leaving: false,
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            draining: HashSet::new(),
            control: 0,
        }
    }

    fn view(members: &[&str], others: Vec<Heartbeat>) -> View {
        let members: Vec<_> = members.iter().map(|member| (*member).to_owned()).collect();
        View {
            next: members.clone(),
            members,
            others,
        }
    }

    fn endpoints() -> impl Iterator<Item = EndpointKey> {
        (0..1000).map(|n| EndpointKey::from_stored(&format!("organization/{n}")))
    }

    fn share(view: &View, instance_id: &str) -> usize {
        endpoints()
            .filter(|endpoint| view.is_assigned(instance_id, endpoint))
            .count()
    }

    #[test]
    fn endpoints_are_shared_evenly_and_each_is_one_instances() {
        let all = ["a", "b", "c"];
        let view_of = |instance_id: &str| {
            let others = all
                .iter()
                .filter(|other| **other != instance_id)
                .map(|other| heartbeat(other, 60, &all));
            view(&all, others.collect())
        };
        for endpoint in endpoints() {
            assert_eq!(
                all.iter()
                    .filter(|one| view_of(one).is_assigned(one, &endpoint))
                    .count(),
                1
            );
        }
        assert!((250..420).contains(&share(&view_of("a"), "a")));
    }

    #[test]
    fn an_instance_that_leaves_moves_only_its_own_endpoints() {
        let [three, two] = [["a", "b", "c"].as_slice(), &["a", "b"]].map(|members| view(members, Vec::new()));
        assert!(endpoints().all(|endpoint| !three.is_assigned("a", &endpoint) || two.is_assigned("a", &endpoint)));
    }

    #[test]
    fn an_endpoint_that_another_claims_or_drains_is_not_begun() {
        assert_eq!(
            share(&view(&["a"], vec![heartbeat("b", 60, &["b"])]), "a"),
            0,
            "b has not seen a"
        );
        let both = view(&["a", "b"], vec![heartbeat("b", 60, &["a", "b"])]);
        let mine = endpoints().find(|endpoint| both.is_assigned("a", endpoint)).unwrap();
        let mut draining = both.clone();
        draining.others[0].draining.insert(mine.clone());
        assert!(!draining.is_assigned("a", &mine));
        assert_eq!(share(&draining, "a"), share(&both, "a") - 1);
    }

    #[test]
    fn what_the_next_heartbeat_gives_away_is_not_begun_any_more() {
        let mut view = view(&["a"], Vec::new());
        assert_eq!(share(&view, "a"), 1000);
        view.next = vec!["a".into(), "b".into()];
        let kept = endpoints().filter(|endpoint| view.keeps("a", endpoint)).count();
        assert_eq!(share(&view, "a"), kept);
        assert!((400..600).contains(&kept));
    }

    #[test]
    fn a_newcomer_beside_others_counts_from_six_seconds_of_age() {
        let table: [(u64, Vec<Heartbeat>, &[&str]); 6] = [
            (0, vec![], &["me"]),
            (0, vec![heartbeat("old", 60, &[])], &["old"]),
            (5, vec![heartbeat("old", 60, &[])], &["old"]),
            (6, vec![heartbeat("old", 60, &[])], &["me", "old"]),
            (2, vec![heartbeat("older", 3, &[])], &["older"]),
            (
                60,
                vec![Heartbeat {
                    leaving: true,
                    ..heartbeat("old", 60, &[])
                }],
                &["me"],
            ),
        ];
        for (age, others, expected) in table {
            let found = members("me", Duration::from_secs(age), false, &others);
            assert_eq!(found, expected, "at {age} s beside {others:?}");
        }
        assert_eq!(members("me", Duration::from_secs(60), true, &[]), [""; 0], "it leaves");
    }

    #[test]
    fn who_was_silent_for_ten_seconds_is_dead() {
        let ago = |seconds: i64| DateTime::from_millis(NOW.timestamp_millis() - seconds * 1000);
        let document =
            |silent| doc! { "_id": "instance/a", "startedAt": ago(60), "seenAt": ago(silent), "members": ["a"] };
        assert_eq!(read(&document(9), NOW), Some(heartbeat("a", 60, &["a"])));
        assert_eq!(read(&document(10), NOW), None);
    }
}
