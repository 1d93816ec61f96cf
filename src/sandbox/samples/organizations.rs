//! The sample organizations and their endpoints: every auth kind, and the oddities that a filter must see.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bson::oid::ObjectId;
use bson::{DateTime, Document, doc};

use super::object_id;
use crate::model::EventType;

const BOTH: &[EventType] = &EventType::ALL;
const COMPLETED: &[EventType] = &[EventType::CertificateCompleted];

/// When the organizations joined: 2024-01-15 08:00 UTC.
const JOINED: DateTime = DateTime::from_millis(1_705_305_600_000);

/// One organization of the samples.
#[derive(Clone, Debug)]
pub struct Organization {
    /// What people call it.
    pub name: &'static str,
    /// Its `_ownerId`.
    pub id: ObjectId,
    /// Its documents in `webHookConfig.endpoints`.
    pub endpoints: Vec<Document>,
    subscriptions: Vec<Subscription>,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    path: &'static str,
    enabled: bool,
    event_types: &'static [EventType],
}

impl Organization {
    /// Its document in `memberconfigs`; none for an organization without endpoints.
    pub fn member_config(&self) -> Option<Document> {
        let endpoints = &self.endpoints;
        let config = || {
            doc! {
                "_id": self.id, "_ownerId": self.id, "name": self.name,
                "webHookConfig": { "endpoints": endpoints }, "createdAt": JOINED, "updatedAt": JOINED, "__v": 0,
            }
        };
        (!endpoints.is_empty()).then(config)
    }

    /// The paths of the endpoints that must get events of this type.
    pub fn subscribed(&self, event_type: EventType) -> impl Iterator<Item = String> {
        let wants = move |s: &&Subscription| s.enabled && s.event_types.contains(&event_type);
        self.subscriptions.iter().filter(wants).map(|s| s.path.to_owned())
    }
}

/// All of them, with endpoints below `base_url`.
pub(super) fn all(base_url: &str, random: &mut fastrand::Rng) -> Vec<Organization> {
    let mut maker = Maker { base_url, random };
    vec![
        maker.horizon(),
        maker.clinic(),
        maker.rail(),
        maker.foods(),
        maker.harbour(),
        maker.organization("Studio Petit Jean", vec![]),
    ]
}

struct Maker<'a> {
    base_url: &'a str,
    random: &'a mut fastrand::Rng,
}

impl Maker<'_> {
    fn horizon(&mut self) -> Organization {
        let secret = self.secret();
        let lms = doc! { "auth": { "authType": "bearer_token", "token": self.token() }, "signingSecrets": [secret] };
        let hr = doc! { "auth": { "authType": "none" }, "headers": { "X-Tenant": "horizon-fr" } };
        let endpoints = vec![
            self.endpoint("Learning platform", "/horizon/lms", COMPLETED, lms),
            self.endpoint("Personnel files", "/horizon/hr", BOTH, hr),
        ];
        self.organization("Atelier Horizon", endpoints)
    }

    fn clinic(&mut self) -> Organization {
        let auth = doc! { "authType": "basic_auth", "username": "webhooks", "password": self.token() };
        let endpoints = vec![self.endpoint("Qualification register", "/clinic", BOTH, doc! { "auth": auth })];
        self.organization("Clinique des Tilleuls", endpoints)
    }

    /// In the middle of a rotation: two secrets sign.
    fn rail(&mut self) -> Organization {
        let auth = doc! { "authType": "api_key", "key": self.token(), "header": "X-Academy-Key" };
        let more = doc! { "auth": auth, "signingSecrets": [self.secret(), self.secret()], "timeout": 10_000 };
        let endpoints = vec![self.endpoint("Drivers' licences", "/rail", BOTH, more)];
        self.organization("Nordic Rail Academy", endpoints)
    }

    /// Moved to a new address: the old endpoint is still there, switched off.
    fn foods(&mut self) -> Organization {
        let auth = doc! { "authType": "api_key", "key": self.token() };
        let signed = doc! { "auth": auth, "signingSecrets": [self.secret()] };
        let old = doc! { "auth": { "authType": "none" }, "enabled": false };
        let endpoints = vec![
            self.endpoint("Food safety", "/foods", BOTH, signed),
            self.endpoint("Food safety <old>", "/foods/old", BOTH, old),
        ];
        self.organization("Verdant Foods", endpoints)
    }

    fn harbour(&mut self) -> Organization {
        let more = doc! { "auth": { "authType": "bearer_token", "token": self.token() } };
        let endpoints = vec![self.endpoint("Awards wall", "/harbour/awards", COMPLETED, more)];
        self.organization("Harbour Logistics", endpoints)
    }

    fn organization(&mut self, name: &'static str, endpoints: Vec<(Document, Subscription)>) -> Organization {
        let id = object_id(JOINED, self.random);
        let (endpoints, subscriptions) = endpoints.into_iter().unzip();
        Organization {
            name,
            id,
            endpoints,
            subscriptions,
        }
    }

    /// `more` goes on top: `auth`, and what else is special.
    fn endpoint(
        &mut self,
        name: &str,
        path: &'static str,
        event_types: &'static [EventType],
        more: Document,
    ) -> (Document, Subscription) {
        let names: Vec<_> = event_types.iter().map(|t| t.as_str()).collect();
        let mut endpoint = doc! {
            "_id": object_id(JOINED, self.random), "name": name, "url": format!("{}{path}", self.base_url),
            "enabled": true, "eventTypes": names, "timeout": 5_000,
        };
        endpoint.extend(more);
        let enabled = endpoint.get_bool("enabled").unwrap_or(true);
        (
            endpoint,
            Subscription {
                path,
                enabled,
                event_types,
            },
        )
    }

    fn token(&mut self) -> String {
        std::iter::repeat_with(|| self.random.alphanumeric()).take(32).collect()
    }

    /// As Standard Webhooks writes them: `whsec_` and 32 bytes in base64.
    fn secret(&mut self) -> String {
        let mut bytes = [0; 32];
        self.random.fill(&mut bytes);
        format!("whsec_{}", BASE64_STANDARD.encode(bytes))
    }
}
