//! One request and its response, over a connection that works.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use tokio::time::{Instant, timeout_at};

use super::{Attempt, Client, Exchanged, NoResponse, Transports};
use crate::sender::connection::History;
use crate::sender::connector::{Clients, Http};
use crate::sender::proxy::NoTunnel;
use crate::sender::{protocol, reason, request, response};

/// How a transport reports that the other side has closed it. Over TLS a missing farewell is an unexpected end.
const CLOSED: [ErrorKind; 4] = [
    ErrorKind::BrokenPipe,
    ErrorKind::ConnectionAborted,
    ErrorKind::ConnectionReset,
    ErrorKind::UnexpectedEof,
];

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

type Sent = Result<Response<Incoming>, legacy::Error>;

impl Client {
    /// Sends the request, and once more by HTTP/1.1 where that is what the server asks for.
    pub(super) async fn exchange(
        &self,
        attempt: &Attempt<'_>,
        transports: &Transports,
        token: Option<&HeaderValue>,
    ) -> Result<Exchanged, NoResponse> {
        let mut request = request::build(attempt.endpoint, attempt.message, &self.source, attempt.now, token)
            .map_err(NoResponse::Unsendable)?;
        if let Some(trace) = &attempt.trace {
            request.headers_mut().insert(TRACEPARENT, trace.clone());
        }
        let is_http1 = self.http1_hosts.contains(request.uri());
        let clients = if is_http1 {
            &transports.http1
        } else {
            &transports.any_version
        };
        let began = Instant::now();
        let mut sent = send_somehow(clients, &request, attempt.deadline).await?;
        if let Err(error) = &sent
            && self.note_fault(error, request.uri(), is_http1)
        {
            sent = send_somehow(&transports.http1, &request, attempt.deadline).await?;
        }
        let may_be_refused = attempt.shows_certificate() && sent.as_ref().is_err_and(was_closed_at_first);
        let (response, connect) = received(sent, began).map_err(|none| match may_be_refused {
            true => none.perhaps_for_certificate(),
            false => none,
        })?;
        Ok(Exchanged {
            response,
            connect,
            token: token.cloned(),
        })
    }

    /// Whether the server didn't begin with the request and wants it by HTTP/1.1.
    fn note_fault(&self, error: &legacy::Error, uri: &Uri, is_http1: bool) -> bool {
        if is_http1 {
            // Perhaps it knows no HTTP/1.1, or another server is in its place.
            if error.is_connect() || is_parse_error(error) && status_of(error).is_none() {
                self.http1_hosts.remove(uri);
            }
            return false;
        }
        let fault = protocol::http2_fault(error);
        if fault.is_some() {
            self.http1_hosts.insert(uri);
        }
        fault == Some(h2::Reason::HTTP_1_1_REQUIRED)
    }
}

/// Sends, and once more over a new connection where a pooled one turned out to be closed.
async fn send_somehow(
    clients: &Clients,
    request: &Request<Full<Bytes>>,
    deadline: Instant,
) -> Result<Sent, NoResponse> {
    let sent = send(&clients.pooled, request.clone(), deadline).await?;
    if sent.as_ref().is_err_and(was_stale) {
        return send(&clients.fresh, request.clone(), deadline).await;
    }
    Ok(sent)
}

/// Sends within the deadline. A connection that let it pass is not used again: over HTTP/2 it would be shared.
async fn send(http: &Http, mut request: Request<Full<Bytes>>, deadline: Instant) -> Result<Sent, NoResponse> {
    let began = Instant::now();
    let connection = capture_connection(&mut request);
    let sent = timeout_at(deadline, http.request(request)).await;
    sent.map_err(|_| NoResponse::Timeout {
        connect: poison(&connection, began),
    })
}

/// Takes the connection out of the pool, if there was one. Returns how long the request that began at `began` waited for it.
fn poison(connection: &CaptureConnection, began: Instant) -> Option<Duration> {
    let connected = connection.connection_metadata();
    let connection = connected.as_ref()?;
    connection.poison();
    Some(History::of(connection).map_or(Duration::ZERO, |history| history.made_after(began)))
}

/// What came back to a request that began at `began`, and how long it waited for its connection: also a status alone, if the rest of
/// the head makes no sense.
fn received(sent: Sent, began: Instant) -> Result<(Response<response::Body>, Duration), NoResponse> {
    let response = match sent {
        Ok(response) => response,
        Err(error) => {
            let connect = history_of(&error).map(|history| history.made_after(began));
            let Some(status) = status_of(&error) else {
                return Err(broken(&error, connect));
            };
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = status;
            return Ok((response, connect.unwrap_or_default()));
        }
    };
    let mut connect = Duration::ZERO;
    if let Some(history) = response.extensions().get::<History>() {
        history.note_response();
        connect = history.made_after(began);
    }
    Ok((response.map(Either::Left), connect))
}

fn broken(error: &legacy::Error, connect: Option<Duration>) -> NoResponse {
    let tunnel = reason::find::<NoTunnel>(error);
    if let Some(reason) = tunnel.and_then(NoTunnel::proxy_fault) {
        return NoResponse::ProxyUnavailable(reason.to_owned());
    }
    match history_of(error).and_then(|history| history.tls_fault()) {
        Some(fault) => NoResponse::Broken {
            reason: reason::of(&fault),
            connect,
            in_transit: false,
        },
        None => NoResponse::Broken {
            reason: reason::of(error),
            connect,
            in_transit: reason::is_in_transit(error),
        },
    }
}

fn history_of(error: &legacy::Error) -> Option<History> {
    error.connect_info().and_then(History::of)
}

/// What the head says that the parser refused, also one that is too large for it.
fn status_of(error: &legacy::Error) -> Option<StatusCode> {
    let history = history_of(error).filter(|_| is_parse_error(error));
    history.and_then(|history| history.status())
}

fn is_parse_error(error: &legacy::Error) -> bool {
    reason::find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse)
}

/// Whether the receiver had closed, or was closing, a connection that had answered before: a matter of keep-alive, which
/// says nothing of the receiver's health (RFC 9112, 9.3.1; for HTTP/2 RFC 9113, 8.7).
fn was_stale(error: &legacy::Error) -> bool {
    history_of(error).is_some_and(|history| history.has_answered()) && closed_without_response(error)
}

/// Whether the receiver closed a connection over which it had not answered before: many say so little to a client whose certificate they
/// refuse, because the handshake is over for the client by then.
fn was_closed_at_first(error: &legacy::Error) -> bool {
    let said_nothing = |history: History| !history.has_answered() && history.tls_fault().is_none();
    history_of(error).is_none_or(said_nothing) && closed_without_response(error)
}

fn closed_without_response(error: &legacy::Error) -> bool {
    if let Some(error) = reason::find::<h2::Error>(error) {
        let unprocessed = matches!(error.reason(), Some(h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM));
        return error.is_io() || error.is_remote() && unprocessed;
    }
    let incomplete = reason::find::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message);
    incomplete || reason::io_kinds(error).any(|kind| CLOSED.contains(&kind))
}
