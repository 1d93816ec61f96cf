//! What is known of a certificate, an event or a delivery, as `certhookd show` says it.

use minijinja::Error;
use serde::Serialize;

use super::frame::{Frame, fill};
use super::links::to_endpoint;
use super::words::{foreign, plain};
use crate::history::{Delivery, History, Line, instant};

/// Deliveries that are shown, the oldest first.
const DELIVERIES: usize = 50;

/// The last attempts and replays of each that are shown.
const LINES: usize = 40;

/// Notes that are shown, and as many documents that can't be read.
const NOTES: usize = 50;

/// What was asked for, and what was found.
#[derive(Debug)]
pub struct Shown<'a> {
    /// Nothing at first.
    pub asked: &'a str,
    /// What is known, or why it can't be said.
    pub found: Option<Result<&'a History, &'a str>>,
}

#[derive(Debug, Default, Serialize)]
struct View {
    asked: String,
    /// Why there is nothing.
    why: Option<String>,
    certificate: Option<CertificateView>,
    notes: Vec<String>,
    odd: Vec<String>,
    deliveries: Vec<DeliveryView>,
    /// How many there are, if they are not all shown.
    of: Option<usize>,
}

#[derive(Debug, Serialize)]
struct CertificateView {
    id: String,
    facts: String,
}

#[derive(Debug, Serialize)]
struct DeliveryView {
    event: String,
    happened: String,
    link: Option<String>,
    name: String,
    organization: String,
    endpoint: String,
    state: &'static str,
    summary: String,
    lines: Vec<LineView>,
    of: Option<usize>,
    next: String,
}

#[derive(Debug, Serialize)]
struct LineView {
    at: String,
    text: String,
    response: Option<String>,
}

impl Shown<'_> {
    /// The page.
    ///
    /// # Errors
    /// The template does not fit its values, which a test would find.
    pub fn render(&self, frame: &Frame) -> Result<String, Error> {
        let view = View {
            asked: plain(self.asked),
            ..match self.found {
                Some(Ok(history)) => View::of(history),
                Some(Err(why)) => View {
                    why: Some(plain(why)),
                    ..View::default()
                },
                None => View::default(),
            }
        };
        let body = fill(include_str!("show.html"), view)?;
        frame.around(self.asked, "", self.asked, body)
    }
}

impl View {
    fn of(history: &History) -> Self {
        if !history.is_known() {
            return Self {
                why: Some(plain(&history.why_unknown())),
                ..Self::default()
            };
        }
        let deliveries: Vec<_> = history.events.iter().flat_map(|event| &event.deliveries).collect();
        let odd = history.odd.iter().take(NOTES);
        Self {
            certificate: history.certificate.as_ref().map(|certificate| CertificateView {
                id: plain(&certificate.id),
                facts: plain(&certificate.facts()),
            }),
            notes: history.notes.iter().take(NOTES).map(|note| plain(&note.text)).collect(),
            odd: odd
                .map(|odd| plain(&format!("{}: {}", odd.document, odd.why)))
                .collect(),
            of: (deliveries.len() > DELIVERIES).then_some(deliveries.len()),
            deliveries: deliveries.into_iter().take(DELIVERIES).map(DeliveryView::of).collect(),
            ..Self::default()
        }
    }
}

impl DeliveryView {
    fn of(delivery: &Delivery) -> Self {
        let lines = delivery.lines();
        Self {
            event: plain(&delivery.event),
            happened: instant(delivery.occurred_at),
            link: to_endpoint(&delivery.organization, &delivery.endpoint),
            name: foreign(&delivery.name),
            organization: plain(&delivery.organization),
            endpoint: plain(&delivery.endpoint),
            state: delivery.state,
            summary: plain(&delivery.summary()),
            of: (lines.len() > LINES).then_some(lines.len()),
            lines: lines[lines.len().saturating_sub(LINES)..]
                .iter()
                .map(LineView::of)
                .collect(),
            next: plain(&delivery.next.text),
        }
    }
}

impl LineView {
    fn of(line: &Line<'_>) -> Self {
        Self {
            at: instant(line.at),
            text: plain(&line.text),
            response: line.response.map(plain),
        }
    }
}
