//! However the documents came, were changed and went: what is known in the end is what they say in the end.

use proptest::prelude::*;

use super::*;
use crate::platform::directory::index::Index;

#[derive(Clone, Debug)]
enum Step {
    Put {
        document: u8,
        organization: u8,
        endpoints: Vec<(u8, u8)>,
    },
    Garble {
        document: u8,
        organization: u8,
    },
    Remove {
        document: u8,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let (document, organization) = (1..5_u8, 8..10_u8);
    let endpoints = prop::collection::vec((1..5_u8, 0..4_u8), 0..5);
    prop_oneof![
        4 => (document.clone(), organization.clone(), endpoints)
            .prop_map(|(document, organization, endpoints)| Step::Put { document, organization, endpoints }),
        1 => (document.clone(), organization).prop_map(|(document, organization)| Step::Garble { document, organization }),
        1 => document.prop_map(|document| Step::Remove { document }),
    ]
}

fn of_kind(n: u8, kind: u8) -> Document {
    match kind {
        0 => endpoint(n),
        1 => with(n, "enabled", false),
        2 => with(n, "url", "ftp://x/"),
        _ => with(n, "eventTypes", vec!["certificate_completed"]),
    }
}

fn config(organization: u8, settings: Bson) -> MemberConfig {
    parsed(doc! { "_ownerId": id(organization), "webHookConfig": { "endpoints": settings } })
}

fn of(organization: u8, endpoints: &[(u8, u8)]) -> MemberConfig {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(n, kind)| Bson::from(of_kind(*n, *kind)))
        .collect();
    config(organization, endpoints.into())
}

/// All that the index says.
fn all_of(index: &Index, now: Instant) -> Vec<String> {
    let mut all = vec![format!("{:?}", index.count())];
    for organization in [8, 9].map(|n| id(n).to_hex()) {
        for event_type in EventType::ALL {
            all.push(format!(
                "{:?}",
                index.wanting(&organization, event_type).collect::<Vec<_>>()
            ));
        }
        for n in 1..5 {
            let key = EndpointKey::from_stored(&format!("{organization}/{}", id(n)));
            let found = index.find(&key, now).unwrap_or(Found::Off {
                reason: claims::DELETED,
            });
            all.push(format!("{key}: {found:?}"));
        }
    }
    all
}

proptest! {
    #[test]
    fn the_way_does_not_matter(steps in prop::collection::vec(any_step(), 0..30)) {
        let (mut index, mut last) = (Index::default(), std::collections::BTreeMap::new());
        let now = Instant::now();
        for step in steps {
            match step {
                Step::Put { document: n, organization, endpoints } => {
                    index.put(&document(n), of(organization, &endpoints), now);
                    last.insert(n, (organization, endpoints));
                }
                Step::Garble { document: n, organization } => {
                    index.put(&document(n), config(organization, 5.into()), now);
                    last.insert(n, (organization, vec![]));
                }
                Step::Remove { document: n } => {
                    index.remove(&document(n), now);
                    last.remove(&n);
                }
            }
        }
        // What was missing is deleted by now, and what can't be read has been corrected.
        index.expire(now + Duration::from_secs(600));
        let mut fresh = Index::default();
        for (n, (organization, endpoints)) in last.iter().rev() {
            index.put(&document(*n), of(*organization, endpoints), now);
            fresh.put(&document(*n), of(*organization, endpoints), now);
        }
        let later = now + Duration::from_secs(600);
        prop_assert_eq!(all_of(&index, later), all_of(&fresh, later));
    }
}
