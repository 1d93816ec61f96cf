//! What the tests of this module share: a receiver that records, servers that follow a script, endpoints and messages.

use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use bson::DateTime;
use bytes::Bytes;
use certhookd::model::{Clock, EndpointKey, EventId, EventType, Failure, Message, Outcome};
use certhookd::platform::{Auth, Endpoint};
use certhookd::sender::{Client, Policy};
use http::{HeaderMap, Method, Uri};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const BODY: &str = r#"{"_id":"674700000000000000000001","expires":"2024-11-27T10:30:00.000Z"}"#;

pub(crate) fn policy() -> Policy {
    Policy {
        allow_http: true,
        allow_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        source: "beedeez".into(),
        keep_responses: true,
    }
}

pub(crate) fn client() -> Client {
    Client::new(policy()).unwrap()
}

pub(crate) fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        key: EndpointKey::from_stored("organization/endpoint"),
        name: "a receiver".into(),
        url: url.parse().unwrap(),
        enabled: true,
        event_types: EventType::ALL.to_vec(),
        timeout: Duration::from_secs(5),
        headers: HeaderMap::new(),
        auth: Auth::None,
        signing_secrets: Vec::new(),
        concurrency: None,
        rate_limit: None,
        tls: None,
    }
}

/// An endpoint whose timeout a test can sit through.
pub(crate) fn impatient(url: &str) -> Endpoint {
    Endpoint {
        timeout: Duration::from_millis(400),
        ..endpoint(url)
    }
}

pub(crate) fn message() -> Message {
    Message {
        event_id: EventId::from_stored("certificate_expired_674700000000000000000001_1732703400000"),
        event_type: EventType::CertificateExpired.into(),
        body: Bytes::from_static(BODY.as_bytes()),
        is_replay: false,
    }
}

pub(crate) fn now() -> DateTime {
    Clock::local()
}

pub(crate) fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::TransientFailure(failure) => failure,
        other => panic!("not a failure: {other:?}"),
    }
}

pub(crate) fn delivered(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Delivered { status, .. } => status,
        other => panic!("not delivered: {other:?}"),
    }
}

/// A request as a receiver got it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A healthy receiver: records and answers 200.
pub(crate) struct Receiver {
    port: u16,
    requests: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?tenant=7", self.port)
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.requests.lock().clone()
    }
}

pub(crate) async fn receiver() -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = Receiver {
        port: listener.local_addr().unwrap().port(),
        requests: Arc::default(),
    };
    let record = |State(seen): State<Arc<Mutex<Vec<Received>>>>, method, uri, headers, body| async move {
        seen.lock().push(Received {
            method,
            uri,
            headers,
            body,
        });
        "thanks"
    };
    let app = axum::Router::new()
        .fallback(record)
        .with_state(Arc::clone(&receiver.requests));
    tokio::spawn(axum::serve(listener, app).into_future());
    receiver
}

/// Serves each connection by `script`, which also gets the connection's number, the first being 0. Returns the URL.
pub(crate) async fn server<F, S>(script: S) -> String
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
    S: Fn(TcpStream, usize) -> F + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(stream, number));
        }
    });
    url
}

/// Answers each request of each connection with the same bytes, and keeps the connection open.
pub(crate) async fn answering(answer: &str) -> String {
    let answer: Arc<str> = answer.into();
    server(move |mut stream, _| {
        let answer = Arc::clone(&answer);
        async move {
            while read_request(&mut stream).await? {
                stream.write_all(answer.as_bytes()).await?;
            }
            Ok(())
        }
    })
    .await
}

/// Reads one request with the test message's body; `false` at the end of the connection.
pub(crate) async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<bool> {
    let mut seen = Vec::new();
    while !seen.ends_with(BODY.as_bytes()) {
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Runs the test `name` (its module path included) again in a process of its own with these variables, and asserts that it
/// passes there. Returns `false` in that process: there the test itself must run.
pub(crate) fn rerun(name: &str, variables: &[(&str, String)]) -> bool {
    const MARK: &str = "CERTHOOKD_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return false;
    }
    let (_crate, name) = name.split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    true
}

/// Runs the test `name` again where every variable names a proxy, as [`rerun`], and asserts that the proxy is not asked.
pub(crate) fn rerun_behind_proxy(name: &str) -> bool {
    const VARIABLES: [&str; 6] = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ];
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let reran = rerun(name, &VARIABLES.map(|variable| (variable, address.clone())));
    proxy.set_nonblocking(true).unwrap();
    assert!(proxy.accept().is_err(), "the proxy was asked");
    reran
}
