//! One endpoint: its state, its last failures, what is under way, dead letters and its last days.

use bson::DateTime;
use minijinja::Error;
use serde::Serialize;

use super::frame::{Frame, fill};
use super::links::{encoded, to_endpoint, to_show};
use super::rows::EndpointView;
use super::words::{ago, count, foreign, moment, plain, until};
use crate::history::{After, Delivery, Failure, Listing, OfEndpoint};
use crate::model::EndpointKey;
use crate::status::{Day, Endpoint, Status};

/// From a page of an endpoint to the status page.
const ROOT: &str = "../../";

/// Documents that can't be read: this many are named.
const ODD: usize = 20;

/// What is shown of an endpoint.
#[derive(Debug)]
pub struct OnePage<'a> {
    /// As this instance knows it.
    pub endpoint: Endpoint,
    /// Why it is off, where that is known.
    pub off: Option<String>,
    /// Where its numbers are from, if they are known.
    pub status: Option<&'a Status>,
    /// What MongoDB knows, or why it does not say.
    pub of: Result<&'a OfEndpoint, &'a str>,
    pub now: DateTime,
    /// Whether a later part of a listing was asked for.
    pub is_paged: bool,
}

/// Nobody knows the endpoint that was asked for.
#[derive(Debug)]
pub struct Unknown<'a> {
    pub asked: &'a str,
    pub why: &'a str,
    /// With the organization's label for each.
    pub nearest: &'a [(EndpointKey, String)],
}

#[derive(Debug, Serialize)]
struct View {
    root: &'static str,
    endpoint: EndpointView,
    standing: Option<String>,
    counted: Option<String>,
    has_dead: bool,
    silent: Option<String>,
    /// Leads to the whole page.
    paged: Option<String>,
    failures: Option<Failures>,
    parts: Vec<Part>,
    days: Vec<DayView>,
}

#[derive(Debug, Serialize)]
struct Failures {
    rows: Vec<FailureView>,
}

#[derive(Debug, Serialize)]
struct FailureView {
    when: String,
    moment: String,
    show: String,
    event: String,
    n: Option<i64>,
    what: String,
    response: Option<String>,
    facts: String,
    state: &'static str,
}

/// A listing of deliveries.
#[derive(Debug, Serialize)]
struct Part {
    title: &'static str,
    when: &'static str,
    rows: Vec<DeliveryView>,
    odd: Vec<String>,
    more: Option<String>,
}

#[derive(Debug, Serialize)]
struct DeliveryView {
    when: String,
    moment: String,
    show: String,
    event: String,
    happened: String,
    attempts: i64,
    next: String,
    error: String,
}

#[derive(Debug, Serialize)]
struct DayView {
    day: String,
    delivered: String,
    failed: String,
    rate: Option<i64>,
    dead: String,
    cancelled: String,
    last: String,
}

#[derive(Debug, Serialize)]
struct NearestView {
    link: Option<String>,
    name: String,
    endpoint: String,
    key: String,
}

#[derive(Debug, Serialize)]
struct UnknownView {
    root: &'static str,
    why: String,
    nearest: Vec<NearestView>,
}

impl OnePage<'_> {
    /// The page.
    ///
    /// # Errors
    /// The template does not fit its values, which a test would find.
    pub fn render(mut self, frame: &Frame) -> Result<String, Error> {
        self.complete();
        let title = match &*self.endpoint.name {
            "" => self.endpoint.endpoint.clone(),
            name => name.to_owned(),
        };
        let body = fill(include_str!("endpoint.html"), self.view())?;
        frame.around(&title, ROOT, "", body)
    }

    /// Adds the numbers to what this instance knows.
    fn complete(&mut self) {
        let endpoint = &mut self.endpoint;
        let is_it = |one: &&Endpoint| one.organization == endpoint.organization && one.endpoint == endpoint.endpoint;
        if let Some(counted) = self.status.and_then(|status| status.endpoints.iter().find(is_it)) {
            (endpoint.pending, endpoint.dead) = (counted.pending, counted.dead);
        }
        if let Ok(of) = self.of {
            endpoint.add_days(&of.days);
        }
    }

    fn view(&self) -> View {
        let endpoint = &self.endpoint;
        let failure = Some(&*endpoint.last_failure_reason).filter(|why| !why.is_empty());
        let standing = self.of.ok().and_then(|of| of.standing.as_ref()).or(self.off.as_ref());
        let of = self.of.ok();
        let failures = of.and_then(|of| of.failures.as_ref());
        let rows = |all: &Vec<Failure>, at| all.iter().map(|one| FailureView::of(one, at)).collect();
        View {
            root: ROOT,
            endpoint: EndpointView::of(endpoint, self.now, failure),
            standing: standing.map(|text| plain(text)),
            counted: self.status.map(|status| ago(self.now, status.at)),
            has_dead: endpoint.dead > 0,
            silent: self.of.err().map(plain),
            // Without its query, that is.
            paged: self.is_paged.then(|| encoded(&endpoint.endpoint)),
            failures: failures.zip(of).map(|(all, of)| Failures { rows: rows(all, of.at) }),
            parts: of.map_or_else(Vec::new, parts),
            days: of.map_or_else(Vec::new, |of| of.days.iter().map(DayView::of).collect()),
        }
    }
}

fn parts(of: &OfEndpoint) -> Vec<Part> {
    let pending = of.pending.as_ref().map(|listing| Part {
        title: "Under way",
        when: "due",
        rows: listing.deliveries.iter().map(|one| pending(one, of.at)).collect(),
        ..Part::of(listing, "pending")
    });
    let dead = of.dead.as_ref().map(|listing| Part {
        title: "Dead letters",
        when: "died",
        rows: listing.deliveries.iter().map(|one| dead(one, of.at)).collect(),
        ..Part::of(listing, "dead")
    });
    pending.into_iter().chain(dead).collect()
}

impl Part {
    /// Without its rows.
    fn of(listing: &Listing, parameter: &str) -> Self {
        let more = |after: &After| format!("?{parameter}={}", encoded(&after.to_string()));
        let odd = listing.odd.iter().take(ODD);
        Self {
            title: "",
            when: "",
            rows: Vec::new(),
            odd: odd
                .map(|odd| plain(&format!("{}: {}", odd.document, odd.why)))
                .collect(),
            more: listing.after.as_ref().map(more),
        }
    }
}

/// It is due at an instant of its own, or waits for its endpoint.
fn pending(delivery: &Delivery, now: DateTime) -> DeliveryView {
    let due = delivery.due;
    DeliveryView::of(delivery, due.map(|at| until(now, at)), due)
}

fn dead(delivery: &Delivery, now: DateTime) -> DeliveryView {
    let died = delivery.ended_at;
    DeliveryView {
        error: plain(
            delivery
                .last_error
                .as_ref()
                .or(delivery.reason.as_ref())
                .map_or("", |text| text),
        ),
        ..DeliveryView::of(delivery, died.map(|at| ago(now, at)), died)
    }
}

impl DeliveryView {
    fn of(delivery: &Delivery, when: Option<String>, at: Option<DateTime>) -> Self {
        Self {
            when: when.unwrap_or_else(|| "at an unknown time".into()),
            moment: at.map_or_else(String::new, moment),
            show: to_show(&delivery.delivery),
            event: event(&delivery.event_type),
            happened: delivery.occurred_at.map_or_else(String::new, moment),
            attempts: delivery.attempts,
            next: plain(&delivery.next.text),
            error: plain(delivery.last_error.as_deref().unwrap_or_default()),
        }
    }
}

impl FailureView {
    fn of(failure: &Failure, now: DateTime) -> Self {
        let attempt = &failure.attempt;
        Self {
            when: attempt
                .at
                .map_or_else(|| "at an unknown time".into(), |at| ago(now, at)),
            moment: attempt.at.map_or_else(String::new, moment),
            show: to_show(&failure.delivery),
            event: event(&failure.event_type),
            n: attempt.n,
            what: plain(&attempt.what()),
            response: attempt.response.as_deref().map(plain),
            facts: plain(&attempt.facts()),
            state: failure.state,
        }
    }
}

/// A word for an event that is never empty, so that it can be clicked.
fn event(event_type: &str) -> String {
    match event_type.trim_start_matches("certificate_") {
        "" => "unknown".into(),
        short => foreign(short),
    }
}

impl DayView {
    fn of(day: &Day) -> Self {
        let attempts = day.delivered.saturating_add(day.failed_attempts);
        Self {
            day: foreign(&day.day),
            delivered: count(day.delivered),
            failed: count(day.failed_attempts),
            rate: (attempts > 0).then(|| day.delivered.saturating_mul(100) / attempts),
            dead: count(day.dead),
            cancelled: count(day.cancelled),
            last: foreign(&day.last_failure_reason),
        }
    }
}

impl Unknown<'_> {
    /// The page.
    ///
    /// # Errors
    /// The template does not fit its values, which a test would find.
    pub fn render(&self, frame: &Frame) -> Result<String, Error> {
        let nearest = self.nearest.iter().map(|(key, label)| NearestView {
            link: to_endpoint(key.organization(), key.endpoint()),
            name: foreign(label),
            endpoint: plain(key.endpoint()),
            key: plain(key.as_str()),
        });
        let view = UnknownView {
            root: ROOT,
            why: plain(self.why),
            nearest: nearest.collect(),
        };
        let body = fill(include_str!("unknown.html"), view)?;
        frame.around(self.asked, ROOT, "", body)
    }
}
