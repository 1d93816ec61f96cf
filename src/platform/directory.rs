//! Who wants which events: every organization's endpoints in memory, kept fresh by a change stream.

mod refresh;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use tokio::sync::SetOnce;

use super::{Endpoint, MemberConfig};
use crate::model::{EndpointKey, EventType};

pub use refresh::Refresh;

/// The endpoints of all organizations. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    organizations: Arc<RwLock<Organizations>>,
    followed: Arc<SetOnce<()>>,
    email: Arc<AtomicBool>,
}

/// By organization, the documents that speak of it (one, as a rule) with their ids.
#[derive(Debug, Default)]
struct Organizations {
    documents: HashMap<String, Vec<(DocumentId, MemberConfig)>>,
    owners: HashMap<DocumentId, String>,
}

/// A document's `_id` as text, its type included.
pub(super) type DocumentId = String;

/// What the directory knows of an endpoint.
#[derive(Clone, Debug)]
pub enum Found {
    /// Switched on or off, as it says.
    Endpoint(Arc<Endpoint>),
    /// Not an endpoint but e-mails to users, switched on or off.
    Email {
        /// Whether they are on.
        enabled: bool,
    },
    /// There, but it makes no sense; the reason.
    Refused(String),
    /// Not there.
    Unknown,
}

impl Directory {
    /// Switches reminders by e-mail on or off: they want each expiry, of every organization.
    pub fn switch_email(&self, on: bool) {
        self.email.store(on, Ordering::Relaxed);
    }

    /// Whether reminders by e-mail are on.
    pub fn email(&self) -> bool {
        self.email.load(Ordering::Relaxed)
    }

    /// The endpoints of an organization that are switched on and subscribed to this type of event, and the e-mails.
    pub fn wanting(&self, owner: &str, event_type: EventType) -> Vec<EndpointKey> {
        let organizations = self.organizations.read();
        let configs = organizations.documents.get(owner).into_iter().flatten();
        let endpoints = configs.flat_map(|(_, config)| &config.endpoints);
        let wanting = endpoints
            .filter(|endpoint| endpoint.wants(event_type))
            .map(|endpoint| endpoint.key.clone());
        let email = self.email() && event_type == EventType::CertificateExpired;
        wanting.chain(email.then(EndpointKey::email)).collect()
    }

    /// The endpoint as it is configured now.
    pub fn find(&self, key: &EndpointKey) -> Found {
        if key.is_email() {
            return Found::Email { enabled: self.email() };
        }
        let organizations = self.organizations.read();
        let Some(configs) = organizations.documents.get(key.owner()) else {
            return Found::Unknown;
        };
        for (_, config) in configs {
            if let Some(endpoint) = config.endpoints.iter().find(|endpoint| endpoint.key == *key) {
                return Found::Endpoint(Arc::clone(endpoint));
            }
            if let Some(refused) = config.refused.iter().find(|refused| refused.key.as_ref() == Some(key)) {
                return Found::Refused(refused.reason.clone());
            }
        }
        Found::Unknown
    }

    /// How many endpoints are known, and how many are refused.
    pub fn count(&self) -> (usize, usize) {
        let organizations = self.organizations.read();
        let configs = organizations.configs();
        configs.fold((0, 0), |(good, bad), config| {
            (good + config.endpoints.len(), bad + config.refused.len())
        })
    }

    /// Every endpoint that makes sense.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let organizations = self.organizations.read();
        let configs = organizations.configs();
        configs.flat_map(|config| config.endpoints.iter().cloned()).collect()
    }

    /// The keys of all endpoints, of those that are out of service too. Sorted.
    pub fn keys(&self) -> Vec<EndpointKey> {
        let organizations = self.organizations.read();
        let configs = organizations.configs();
        let keys = configs.flat_map(|config| {
            let refused = config.refused.iter().filter_map(|refused| refused.key.clone());
            config
                .endpoints
                .iter()
                .map(|endpoint| endpoint.key.clone())
                .chain(refused)
        });
        let mut keys: Vec<_> = keys.collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Every endpoint that makes no sense, as far as it can be named.
    pub fn refused(&self) -> Vec<EndpointKey> {
        let organizations = self.organizations.read();
        let configs = organizations.configs();
        let refused = configs.flat_map(|config| &config.refused);
        refused.filter_map(|refused| refused.key.clone()).collect()
    }

    /// What people call the endpoint; nothing if that is not known. Text from outside.
    pub fn name(&self, key: &EndpointKey) -> String {
        match self.find(key) {
            Found::Endpoint(endpoint) => endpoint.name.clone(),
            Found::Email { .. } => "reminders to users".into(),
            Found::Refused(_) | Found::Unknown => String::new(),
        }
    }

    /// Waits until changes are followed: from then on each takes effect by itself.
    pub async fn followed(&self) {
        self.followed.wait().await;
    }

    /// Replaces all: each document by its id.
    pub fn replace(&self, configs: Vec<(DocumentId, MemberConfig)>) {
        let mut fresh = Organizations::default();
        configs.into_iter().for_each(|(id, config)| fresh.put(id, config));
        *self.organizations.write() = fresh;
    }

    /// Replaces what one document says.
    fn put(&self, id: DocumentId, config: MemberConfig) {
        self.organizations.write().put(id, config);
    }

    /// Forgets what one document said.
    fn remove(&self, id: &DocumentId) {
        self.organizations.write().remove(id);
    }

    /// What one document said when it was last read.
    fn saying(&self, id: &DocumentId) -> Option<MemberConfig> {
        let organizations = self.organizations.read();
        let owner = organizations.owners.get(id)?;
        let documents = organizations.documents.get(owner)?;
        documents
            .iter()
            .find(|(known, _)| known == id)
            .map(|(_, config)| config.clone())
    }
}

impl Organizations {
    fn configs(&self) -> impl Iterator<Item = &MemberConfig> {
        self.documents.values().flatten().map(|(_, config)| config)
    }

    fn put(&mut self, id: DocumentId, config: MemberConfig) {
        self.remove(&id);
        let owner = config.owner.clone().unwrap_or_default();
        self.owners.insert(id.clone(), owner.clone());
        self.documents.entry(owner).or_default().push((id, config));
    }

    fn remove(&mut self, id: &DocumentId) {
        let Some(owner) = self.owners.remove(id) else { return };
        if let Some(configs) = self.documents.get_mut(&owner) {
            configs.retain(|(known, _)| known != id);
            if configs.is_empty() {
                self.documents.remove(&owner);
            }
        }
    }
}
