//! What must arrive in the demo, what has arrived, and how both are printed.

use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;
use std::time::Instant;

use bson::oid::ObjectId;
use http::StatusCode;
use url::Url;

use crate::cli::table;
use crate::model::EventType;
use crate::sandbox::{Organization, Received};

/// An endpoint of an organization; without a path, an organization that has none.
struct Endpoint {
    organization: &'static str,
    path: Option<String>,
    enabled: bool,
}

/// One event for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delivery {
    path: String,
    /// As in `X-Webhook-Event`.
    event: String,
    /// The BadgeUser's id.
    certificate: String,
}

/// The demo's plot, compared with what happens.
pub(super) struct Story {
    endpoints: Vec<Endpoint>,
    expected: BTreeSet<Delivery>,
    arrived: BTreeSet<Delivery>,
    /// Requests so far, by path and `webhook-id`.
    attempts: HashMap<(String, String), usize>,
}

impl Story {
    /// Over the columns of [`Story::add`].
    pub(super) const HEADER: &str =
        "   time  event      organization           endpoint         attempt  status  webhook-id";

    pub(super) fn new(organizations: &[Organization]) -> Self {
        Self {
            endpoints: organizations.iter().flat_map(endpoints).collect(),
            expected: BTreeSet::new(),
            arrived: BTreeSet::new(),
            attempts: HashMap::new(),
        }
    }

    /// From now on an event of this type must reach each path for each BadgeUser.
    pub(super) fn expect(&mut self, event_type: EventType, deliveries: Vec<(String, ObjectId)>) {
        let delivery = |(path, certificate): (String, ObjectId)| Delivery {
            path,
            event: event_type.as_str().to_owned(),
            certificate: certificate.to_hex(),
        };
        self.expected.extend(deliveries.into_iter().map(delivery));
    }

    /// Adds a request; returns its line, in seconds since `began`.
    pub(super) fn add(&mut self, request: &Received, began: Instant) -> String {
        let id = request.header("webhook-id");
        let attempts = self.attempts.entry((request.path.clone(), id.to_owned())).or_default();
        *attempts += 1;
        let line = format!(
            "{:5.1} s  {:<9}  {:<21}  {:<15}  {attempts:>7}  {:>6}  {}",
            request.instant.saturating_duration_since(began).as_secs_f64(),
            short(request.header("x-webhook-event")),
            organization(&self.endpoints, &request.path),
            request.path,
            request.status.as_ref().map_or("none", StatusCode::as_str),
            short_id(id),
        );
        if request.status.is_some_and(|status| status.is_success()) {
            self.arrived.insert(delivery(request));
        }
        line
    }

    /// Whether all has arrived that must.
    pub(super) fn is_complete(&self) -> bool {
        self.expected.is_subset(&self.arrived)
    }

    /// Prints a row for each endpoint, and what is missing or too much. Fails if anything is.
    pub(super) fn conclude(&self) -> ExitCode {
        say!("");
        table::print(
            &["organization", "endpoint", "expected", "arrived", "retried"],
            &self.rows(),
        );
        say!("");
        let faults = self.faults();
        if faults.is_empty() {
            say!(
                "All {} expected deliveries arrived, and nothing else.",
                self.expected.len()
            );
            return ExitCode::SUCCESS;
        }
        faults.iter().for_each(|fault| say!("{fault}"));
        ExitCode::FAILURE
    }

    fn rows(&self) -> Vec<Vec<String>> {
        self.endpoints.iter().map(|endpoint| self.row(endpoint)).collect()
    }

    fn row(&self, endpoint: &Endpoint) -> Vec<String> {
        let Some(path) = &endpoint.path else {
            let none = "0".to_owned();
            return vec![
                endpoint.organization.into(),
                "(none)".into(),
                none.clone(),
                none.clone(),
                none,
            ];
        };
        let count = |set: &BTreeSet<Delivery>| set.iter().filter(|delivery| delivery.path == *path).count();
        let attempts = self.attempts.iter().filter(|((sent_to, _), _)| sent_to == path);
        let retried: usize = attempts.map(|(_, attempts)| attempts - 1).sum();
        let off = if endpoint.enabled { "" } else { " (off)" };
        vec![
            endpoint.organization.into(),
            format!("{path}{off}"),
            count(&self.expected).to_string(),
            count(&self.arrived).to_string(),
            retried.to_string(),
        ]
    }

    /// A line for each delivery that is missing, and for each that must not be.
    fn faults(&self) -> Vec<String> {
        let line = |what: &str, delivery: &Delivery| {
            let Delivery {
                path,
                event,
                certificate,
            } = delivery;
            format!("{what}: {event} of certificate {certificate} at {path}")
        };
        let missing = self.expected.difference(&self.arrived);
        let unexpected = self.arrived.difference(&self.expected);
        missing
            .map(|delivery| line("missing", delivery))
            .chain(unexpected.map(|delivery| line("unexpected", delivery)))
            .collect()
    }
}

fn endpoints(organization: &Organization) -> Vec<Endpoint> {
    let endpoint = |path, enabled| Endpoint {
        organization: organization.name,
        path,
        enabled,
    };
    if organization.endpoints.is_empty() {
        return vec![endpoint(None, false)];
    }
    let documents = organization.endpoints.iter();
    documents
        .map(|document| {
            let url = document.get_str("url").ok().and_then(|url| Url::parse(url).ok());
            endpoint(
                url.map(|url| url.path().to_owned()),
                document.get_bool("enabled").unwrap_or(true),
            )
        })
        .collect()
}

fn organization(endpoints: &[Endpoint], path: &str) -> &'static str {
    let endpoint = endpoints.iter().find(|endpoint| endpoint.path.as_deref() == Some(path));
    endpoint.map_or("?", |endpoint| endpoint.organization)
}

fn delivery(request: &Received) -> Delivery {
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    Delivery {
        path: request.path.clone(),
        event: request.header("x-webhook-event").to_owned(),
        certificate: body["_id"].as_str().unwrap_or_default().to_owned(),
    }
}

/// `certificate_expired`: `expired`.
fn short(event: &str) -> &str {
    event.strip_prefix("certificate_").unwrap_or(event)
}

/// The last digits of the BadgeUser's id, which is in the middle: type, id, instant.
fn short_id(webhook_id: &str) -> String {
    let certificate = webhook_id.rsplit('_').nth(1).unwrap_or(webhook_id);
    let skipped = certificate.chars().count().saturating_sub(8);
    format!("…{}", certificate.chars().skip(skipped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Clock;
    use crate::sandbox::Samples;
    use http::{HeaderMap, HeaderValue};

    fn request(path: &str, event: &str, certificate: &str, status: u16) -> Received {
        let id = format!("{event}_{certificate}_1764239400000");
        let headers = [("webhook-id", id.as_str()), ("x-webhook-event", event)];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()));
        Received {
            at: Clock::local(),
            instant: Instant::now(),
            peer: ([127, 0, 0, 1], 1).into(),
            path: path.to_owned(),
            headers: HeaderMap::from_iter(headers),
            body: format!(r#"{{"_id":"{certificate}"}}"#).into(),
            status: Some(StatusCode::from_u16(status).unwrap()),
            end: crate::sandbox::End::default(),
        }
    }

    /// The clinic expects the expiry of one certificate.
    fn story() -> (Story, String) {
        let samples = Samples::new(1, "http://127.0.0.1:1");
        let mut story = Story::new(samples.organizations());
        let certificate = ObjectId::new();
        story.expect(EventType::CertificateExpired, vec![("/clinic".to_owned(), certificate)]);
        (story, certificate.to_hex())
    }

    fn row(story: &Story, endpoint: &str) -> Vec<String> {
        story.rows().into_iter().find(|row| row[1] == endpoint).unwrap()
    }

    #[test]
    fn a_failed_attempt_is_no_arrival_and_its_repetition_is_a_retry() {
        let ((mut story, id), began) = (story(), Instant::now());
        let failed = story.add(&request("/clinic", "certificate_expired", &id, 503), began);
        assert!(!story.is_complete());
        let line = story.add(&request("/clinic", "certificate_expired", &id, 200), began);
        assert!(story.is_complete() && story.faults().is_empty());
        assert!(
            failed.contains("  1     503  …") && line.contains("  2     200  …"),
            "{failed}\n{line}"
        );
        assert!(line.ends_with(&id[16..]), "{line}");
        assert_eq!(
            row(&story, "/clinic"),
            ["Clinique des Tilleuls", "/clinic", "1", "1", "1"]
        );
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_are_told_apart() {
        let (mut story, id) = story();
        story.add(&request("/foods/old", "certificate_expired", &id, 200), Instant::now());
        assert!(!story.is_complete());
        assert_eq!(
            story.faults(),
            [
                format!("missing: certificate_expired of certificate {id} at /clinic"),
                format!("unexpected: certificate_expired of certificate {id} at /foods/old"),
            ]
        );
        assert_eq!(row(&story, "/foods/old (off)")[2..], ["0", "1", "0"]);
        assert_eq!(row(&story, "(none)")[0], "Studio Petit Jean");
    }

    #[test]
    fn columns_are_under_their_header() {
        let (mut story, id) = story();
        let line = story.add(&request("/clinic", "certificate_expired", &id, 200), Instant::now());
        let column = |text: &str, cell| text.find(cell).unwrap();
        for (title, cell) in [
            ("event", "expired"),
            ("organization", "Clinique"),
            ("endpoint", "/clinic"),
            ("webhook-id", "…"),
        ] {
            assert_eq!(column(Story::HEADER, title), column(&line, cell), "{title}");
        }
    }
}
