//! The pages that the status page leads to: of one endpoint, and of what is known of an id.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::task::spawn_blocking;
use url::form_urlencoded;

use super::Engine;
use super::reading::{REPLY_TIMEOUT, Watched};
use super::web::{Stage, document};
use crate::history::{self, After, Asked, History, OfEndpoint, of_endpoint, off_reason};
use crate::model::{EndpointKey, printable};
use crate::page::{Frame, OnePage, Shown, Unknown};
use crate::platform::{label, nearest};
use crate::status::{Known, describe};
use crate::store::Result;

/// This many endpoints are named in place of one that nobody knows.
const NEAREST: usize = 5;

/// No id is longer, in bytes.
const LONGEST: usize = 1024;

/// What MongoDB says of an endpoint.
enum Found {
    Known(Box<OfEndpoint>),
    /// Nothing; these are called like it.
    Unknown(Vec<(EndpointKey, String)>),
}

/// `/endpoint/ORGANIZATION/ENDPOINT`, with `?pending=TOKEN` or `?dead=TOKEN` for a later part of a listing.
pub(super) async fn endpoint(
    State(stage): State<Stage>,
    Path((organization, endpoint)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let name = format!("{organization}/{endpoint}");
    let watched = stage.watched();
    let mut frame = frame(&stage, watched.as_deref(), true);
    let none = |frame: &Frame, status, why: &str, nearest: &[_]| {
        let asked = &name;
        document(status, Unknown { asked, why, nearest }.render(frame))
    };
    let Some(watched) = watched else {
        let why = frame.unready.clone().unwrap_or_default();
        return none(&frame, StatusCode::SERVICE_UNAVAILABLE, &why, &[]);
    };
    let asked = match asked(query.as_deref()) {
        Ok(asked) => asked,
        Err(why) => return none(&frame, StatusCode::BAD_REQUEST, &why, &[]),
    };
    let is_paged = asked.pending.is_some() || asked.dead.is_some();
    frame.is_renewed = !is_paged;
    let (engine, key) = (&watched.engine, EndpointKey::from_stored(&name));
    let question = find(Arc::clone(engine), key.clone(), asked);
    let (found, status) = tokio::join!(watched.endpoints.ask(question), watched.status.get(REPLY_TIMEOUT));
    let of = match &found {
        Ok(Found::Known(of)) => Ok(&**of),
        Ok(Found::Unknown(nearest)) => {
            let why = format!("no endpoint is named {name}");
            return none(&frame, StatusCode::NOT_FOUND, &why, nearest);
        }
        Err(why) if !is_configured(engine, &key) => {
            let why = format!("{why}, and no endpoint {name} is configured");
            return none(&frame, StatusCode::SERVICE_UNAVAILABLE, &why, &[]);
        }
        Err(why) => Err(why.as_str()),
    };
    let page = OnePage {
        status: status.as_deref(),
        is_paged,
        ..one_page(engine, &key, of)
    };
    document(StatusCode::OK, page.render(&frame))
}

/// As this instance knows it.
fn one_page<'a>(engine: &Engine, key: &EndpointKey, of: std::result::Result<&'a OfEndpoint, &'a str>) -> OnePage<'a> {
    let (directory, now) = (&engine.directory, engine.clock.now());
    let holds = engine.holds.clone();
    let suspended = of.ok().and_then(|of| of.suspended.clone());
    OnePage {
        endpoint: describe(
            &Known {
                directory,
                holds,
                suspended: suspended.into_iter().map(|why| (key.clone(), why)).collect(),
                at: now,
            },
            key,
        ),
        off: off_reason(directory, key),
        status: None,
        of,
        now,
        is_paged: false,
    }
}

fn is_configured(engine: &Engine, key: &EndpointKey) -> bool {
    key.is_own() || engine.directory.knows(key)
}

/// Where there are many endpoints, looking for what is called like it takes a while.
async fn find(engine: Arc<Engine>, key: EndpointKey, asked: Asked) -> Result<Found> {
    if key.as_str().len() <= LONGEST {
        let config = engine.settings.config.get();
        let of = of_endpoint(&engine.store, &engine.directory, &config, &key, asked).await?;
        if of.is_known || is_configured(&engine, &key) {
            return Ok(Found::Known(Box::new(of)));
        }
    }
    let look = move || {
        let nearest = nearest(&engine.directory, key.as_str(), NEAREST);
        let labelled = nearest.into_iter().map(|key| {
            let label = label(&engine.directory, &key);
            (key, label)
        });
        labelled.collect()
    };
    Ok(Found::Unknown(spawn_blocking(look).await.unwrap_or_default()))
}

/// Which part of the endpoint's page.
fn asked(query: Option<&str>) -> std::result::Result<Asked, String> {
    let token = |name: &str| -> std::result::Result<Option<After>, String> {
        let Some(token) = parameter(query, name) else {
            return Ok(None);
        };
        let parsed = token.parse::<After>();
        parsed.map(Some).map_err(|_| {
            let token = printable(token.as_bytes(), LONGEST);
            format!("{name}={token} is no token of a page: follow the link `more` of the endpoint's page")
        })
    };
    Ok(Asked {
        pending: token("pending")?,
        dead: token("dead")?,
    })
}

/// `/show?id=ID`
pub(super) async fn show(State(stage): State<Stage>, RawQuery(query): RawQuery) -> Response {
    let asked = parameter(query.as_deref(), "id").unwrap_or_default();
    let watched = stage.watched();
    let frame = frame(&stage, watched.as_deref(), false);
    let page = |status, found: Option<std::result::Result<&History, &str>>| {
        let asked = &*asked;
        document(status, Shown { asked, found }.render(&frame))
    };
    let Some(watched) = watched else {
        let why = frame.unready.as_deref().unwrap_or_default();
        return page(StatusCode::SERVICE_UNAVAILABLE, Some(Err(why)));
    };
    if asked.trim().is_empty() {
        return page(StatusCode::OK, None);
    }
    if asked.len() > LONGEST {
        let why = format!("no id is longer than {LONGEST} bytes");
        return page(StatusCode::BAD_REQUEST, Some(Err(&why)));
    }
    match watched
        .searches
        .ask(search(Arc::clone(&watched.engine), asked.clone()))
        .await
    {
        Ok(found) => page(StatusCode::OK, Some(Ok(&found))),
        Err(why) => page(StatusCode::SERVICE_UNAVAILABLE, Some(Err(&why))),
    }
}

/// What was copied may have blanks around it.
async fn search(engine: Arc<Engine>, asked: String) -> Result<History> {
    let config = engine.settings.config.get();
    let found = history::load(&engine.store, &engine.directory, &config, &asked).await?;
    match asked.trim() {
        trimmed if trimmed != asked && !found.is_known() => {
            history::load(&engine.store, &engine.directory, &config, trimmed).await
        }
        _ => Ok(found),
    }
}

fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn frame(stage: &Stage, watched: Option<&Watched>, is_renewed: bool) -> Frame {
    let instance = watched.map(|watched| format!("instance {}", watched.engine.cluster.instance_id()));
    Frame {
        unready: stage.unready(),
        instance,
        is_renewed,
    }
}
