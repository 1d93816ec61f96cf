//! What the listener serves: the status page, `/metrics`, `/healthz` and `/readyz`, from the start of the daemon to its end.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tracing::error;

use super::reading::{REPLY_TIMEOUT, Watched, own, read};
use super::{Engine, pages};
use crate::config;
use crate::metrics::Reading;
use crate::model::Reloadable;
use crate::page::STYLE;
use crate::service::{Listener, Watchdog};
use crate::store::Outage;

/// Serves until the listener is closed; `None` where there is no address.
///
/// # Errors
/// The address can't be listened on.
pub(super) async fn serve(service: &config::Service, stage: &Stage) -> anyhow::Result<Option<Listener>> {
    let Some(address) = service.metrics_listen else {
        return Ok(None);
    };
    let mut router = Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(readiness));
    if service.page {
        router = router
            .route("/", get(page))
            .route("/endpoint/{organization}/{endpoint}", get(pages::endpoint))
            .route("/show", get(pages::show))
            .route("/style.css", get(style));
    }
    if service.metrics {
        router = router.route("/metrics", get(metrics));
    }
    let router = router.layer(map_response(guarded)).with_state(stage.clone());
    Listener::start(address, &service.allowed_hosts, router).await.map(Some)
}

/// How far the daemon is. Clones see the same.
#[derive(Clone)]
pub(super) struct Stage(Reloadable<Phase>);

#[derive(Clone)]
struct Phase {
    /// Why the daemon does not do its work, if it does not.
    unready: Option<&'static str>,
    watched: Option<Arc<Watched>>,
}

impl Default for Stage {
    fn default() -> Self {
        Self(Reloadable::new(Phase {
            unready: Some("starting: waiting for MongoDB"),
            watched: None,
        }))
    }
}

impl Stage {
    /// Its tasks are about to run.
    pub(super) fn working(&self, engine: &Arc<Engine>, watchdog: &Watchdog) {
        self.0.set(Phase {
            unready: Some("starting: reading the endpoints"),
            watched: Some(Arc::new(Watched::new(engine, watchdog))),
        });
    }

    /// The start is over.
    pub(super) fn ready(&self) {
        self.enter(None);
    }

    /// It has begun to stop.
    pub(super) fn stopping(&self) {
        self.enter(Some("stopping"));
    }

    pub(super) fn stopped(&self) {
        self.0.set(Phase {
            unready: Some("stopped"),
            watched: None,
        });
    }

    fn enter(&self, unready: Option<&'static str>) {
        let watched = self.watched();
        self.0.set(Phase { unready, watched });
    }

    pub(super) fn watched(&self) -> Option<Arc<Watched>> {
        self.0.get().watched.clone()
    }

    /// Why the daemon does not do its work just now, if it does not.
    pub(super) fn unready(&self) -> Option<String> {
        let phase = self.0.get();
        let outage = phase.watched.as_ref().map(|watched| watched.engine.store.outage());
        let unavailable = outage.and_then(Outage::lasts);
        let unavailable = || unavailable.map(|lasts| format!("MongoDB has been unavailable for {} s", lasts.as_secs()));
        let refused = outage.and_then(Outage::login_refused);
        let refused = || refused.map(|lasts| format!("MongoDB has refused the login for {} s", lasts.as_secs()));
        let proxy = phase
            .watched
            .as_ref()
            .and_then(|watched| watched.engine.settings.proxy.outage());
        let proxy = || proxy.map(|outage| format!("{outage}, for {} s", outage.lasts().as_secs()));
        phase
            .unready
            .map(str::to_owned)
            .or_else(unavailable)
            .or_else(refused)
            .or_else(proxy)
    }
}

async fn metrics(State(stage): State<Stage>) -> impl IntoResponse {
    let ready = stage.unready().is_none();
    let working = match stage.watched() {
        Some(watched) => Some(read(&watched).await),
        None => None,
    };
    (
        [(CONTENT_TYPE, Reading::CONTENT_TYPE)],
        Reading { ready, working }.text(),
    )
}

async fn page(State(stage): State<Stage>) -> Response {
    let watched = stage.watched();
    let (own, status) = match &watched {
        Some(watched) => tokio::join!(async { Some(own(watched).await) }, watched.status.get(REPLY_TIMEOUT)),
        None => (None, None),
    };
    let page = crate::page::render(stage.unready().as_deref(), own.as_ref(), status.as_deref());
    document(StatusCode::OK, page)
}

pub(super) fn document(status: StatusCode, page: Result<String, minijinja::Error>) -> Response {
    match page {
        Ok(page) => (status, Html(page)).into_response(),
        Err(error) => {
            error!(%error, "a page can't be shown");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn style() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)
}

/// Healthy while every loop makes progress, as systemd's watchdog sees it.
async fn health(State(stage): State<Stage>) -> Response {
    let stalled = stage
        .watched()
        .map(|watched| watched.watchdog.stalled())
        .unwrap_or_default();
    let fault = (!stalled.is_empty()).then(|| format!("these loops make no progress: {}", stalled.join(", ")));
    verdict("alive", fault)
}

async fn readiness(State(stage): State<Stage>) -> Response {
    verdict("ready", stage.unready())
}

fn verdict(good: &str, fault: Option<String>) -> Response {
    let (status, text) = match fault {
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, fault),
        None => (StatusCode::OK, good.to_owned()),
    };
    (status, format!("{text}\n")).into_response()
}

/// Headers of every response: it is not cached, its type is not guessed, and a browser loads nothing for it from elsewhere, shows it in
/// no frame and sends no referrer.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let policy = HeaderValue::from_static(crate::page::CONTENT_SECURITY_POLICY);
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    response
}
