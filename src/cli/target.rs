//! Which endpoint is meant, and that there is such an organization. The error for a misspelling has the nearest name.

use anyhow::bail;
use bson::doc;

use super::endpoints::Endpoints;
use crate::config::Config;
use crate::history::is_in_outbox;
use crate::model::EndpointKey;
use crate::platform::{Directory, Endpoint, Found, label, nearest};
use crate::service::one_line;
use crate::store::{self, Store};

/// An error names no more candidates than this.
const CANDIDATES: usize = 5;

/// The endpoint of that id, or of that `ORGANIZATION/ENDPOINT`.
///
/// # Errors
/// There is none, or there are several: candidates are named. It is out of service, or no endpoint but the reminders by e-mail.
pub(super) fn find(directory: &Directory, wanted: &str) -> anyhow::Result<Endpoint> {
    let email = EndpointKey::email();
    if is_named(&email, wanted) {
        bail!("{email} is no webhook endpoint: `certhookd check` tries the mail server that reminders go through");
    }
    if is_named(&EndpointKey::notices(), wanted) {
        bail!("{wanted} is no organization's endpoint: notices go there when there is something to tell");
    }
    let keys = directory.keys();
    let named: Vec<_> = keys.iter().filter(|key| is_named(key, wanted)).collect();
    match named[..] {
        [key] => match (directory.endpoint(key), directory.find(key)) {
            (_, Found::OutOfService { reason }) => bail!("{key} is out of service: {reason}"),
            (Some(endpoint), _) => Ok((*endpoint).clone()),
            (None, _) => bail!("{key} is switched off, and makes no sense besides"),
        },
        [] => bail!("{}", unknown(directory, wanted)),
        _ => {
            let named: Vec<_> = named.into_iter().cloned().collect();
            bail!("{wanted} names several endpoints: {}", list(directory, &named))
        }
    }
}

/// What is said of a name that no endpoint has.
pub(super) fn unknown(directory: &Directory, wanted: &str) -> String {
    let keys = nearest(directory, wanted, CANDIDATES + 1);
    if keys.is_empty() {
        return "no endpoint is configured".into();
    }
    format!(
        "no endpoint is named {}; the nearest: {}",
        one_line(wanted),
        list(directory, &keys)
    )
}

/// A name that nothing has, and nothing had.
enum Unknown {
    Endpoint(String),
    Organization(String),
}

impl Unknown {
    /// What is said of it: the nearest of all endpoints are named.
    fn among(&self, directory: &Directory) -> String {
        match self {
            Self::Endpoint(wanted) if wanted.contains('/') => unknown(directory, wanted),
            Self::Endpoint(wanted) => format!(
                "{}; name one that was deleted as ORGANIZATION/{}",
                unknown(directory, wanted),
                one_line(wanted)
            ),
            Self::Organization(wanted) => unknown_organization(directory, wanted),
        }
    }
}

/// That there is, or was, an endpoint of that id or of that `ORGANIZATION/ENDPOINT`, and such an organization. Returns their endpoints.
///
/// # Errors
/// There is none: the nearest are named. MongoDB refused or is unavailable.
pub(super) async fn check(
    store: &Store,
    config: &Config,
    endpoint: Option<&str>,
    organization: Option<&str>,
) -> anyhow::Result<Directory> {
    let endpoints = Endpoints::new(store, config);
    let directory = endpoints.named(endpoint, organization).await?;
    match unknown_of(store, &directory, endpoint, organization).await? {
        None => Ok(directory),
        Some(unknown) => bail!(unknown.among(&endpoints.all().await?)),
    }
}

/// Which of these there is not and was not, neither in the configuration nor in the outbox, and of which there is no hold: an endpoint of
/// that id or of that `ORGANIZATION/ENDPOINT`, or an organization.
///
/// # Errors
/// MongoDB refused or is unavailable.
async fn unknown_of(
    store: &Store,
    directory: &Directory,
    endpoint: Option<&str>,
    organization: Option<&str>,
) -> anyhow::Result<Option<Unknown>> {
    let mut keys = directory.keys();
    keys.extend(directory.own());
    if let Some(wanted) = endpoint {
        let is_whole = wanted.contains('/');
        let is_configured = keys.iter().any(|key| is_named(key, wanted));
        let is_known =
            is_configured || is_whole && (is_in_outbox(store, wanted).await? || is_held(store, wanted).await?);
        if !is_known {
            return Ok(Some(Unknown::Endpoint(wanted.to_owned())));
        }
    }
    if let Some(wanted) = organization {
        let is_configured = directory.knows_organization(wanted) || keys.iter().any(|key| key.organization() == wanted);
        if !is_configured && !is_in_outbox(store, wanted).await? && !is_held(store, wanted).await? {
            return Ok(Some(Unknown::Organization(wanted.to_owned())));
        }
    }
    Ok(None)
}

/// Whether a hold names it: one of what was deleted must be released some day.
async fn is_held(store: &Store, name: &str) -> anyhow::Result<bool> {
    let ids = ["organization", "endpoint"].map(|kind| format!("hold/{kind}/{name}"));
    let state = store.state();
    let held = state.find_one(doc! { "_id": { "$in": ids.as_slice() } }).await;
    Ok(held.map_err(store::Error::from)?.is_some())
}

/// What is said of a name that no organization has.
pub(super) fn unknown_organization(directory: &Directory, wanted: &str) -> String {
    let keys = directory.keys();
    let organizations = keys.iter().map(EndpointKey::organization);
    let nearest = organizations.max_by(|a, b| {
        let [a, b] = [a, b].map(|name| strsim::jaro_winkler(name, wanted));
        a.total_cmp(&b)
    });
    let nearest = nearest.map_or_else(
        || ": none is configured".into(),
        |nearest| format!("; the nearest: {nearest}"),
    );
    format!("no organization is named {}{nearest}", one_line(wanted))
}

fn is_named(key: &EndpointKey, wanted: &str) -> bool {
    key.as_str() == wanted || key.endpoint() == wanted
}

fn list(directory: &Directory, keys: &[EndpointKey]) -> String {
    let candidate = |key| format!("{key} ({})", one_line(label(directory, key)));
    let mut named: Vec<_> = keys.iter().take(CANDIDATES).map(candidate).collect();
    if keys.len() > CANDIDATES {
        named.push("…".into());
    }
    named.join(", ")
}
