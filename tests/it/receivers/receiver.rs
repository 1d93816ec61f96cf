use std::collections::HashSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use standardwebhooks::{Webhook, WebhookError};
use tokio::sync::mpsc;

pub struct Event {
    pub id: String,
    pub event_type: String,
    pub certificate: Value,
}

/// Serve this with `axum::serve`.
pub fn receiver(secret: &str, events: mpsc::Sender<Event>) -> Result<Router, WebhookError> {
    let webhook = Arc::new(Webhook::new(secret)?);
    Ok(Router::new()
        .route("/webhooks/certificates", post(receive))
        .layer(DefaultBodyLimit::max(16 << 20))
        .with_state((webhook, events)))
}

async fn receive(
    State((webhook, events)): State<(Arc<Webhook>, mpsc::Sender<Event>)>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if webhook.verify(&body, &headers).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    // A sample: nothing has happened.
    if text("x-webhook-test") == "true" {
        return StatusCode::NO_CONTENT;
    }
    let event = Event {
        id: text("webhook-id"),
        event_type: text("x-webhook-event"),
        certificate: serde_json::from_slice(&body).unwrap_or_default(),
    };
    // In earnest: store it. A full queue asks to be tried again.
    match events.try_send(event) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Runs beside the server.
pub async fn work(mut events: mpsc::Receiver<Event>, mut handle: impl FnMut(Event)) {
    let mut seen = HashSet::new(); // in earnest: a unique key in your database
    while let Some(event) = events.recv().await {
        if seen.insert(event.id.clone()) {
            handle(event);
        }
    }
}
