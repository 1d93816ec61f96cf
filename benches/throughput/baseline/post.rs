//! POSTs over connections that stay open: hyper's connections without pool, guard, timeout, retry or signature.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// What is sent, and the `_id` to record it under.
pub struct Job {
    pub id: String,
    pub path: String,
    pub event_id: HeaderValue,
    pub body: Bytes,
}

/// Open connections, used in turn.
pub struct Connections {
    connections: Vec<mpsc::Sender<Vec<Job>>>,
    next: usize,
}

impl Connections {
    /// Opens `n` connections to `receiver`. The ids of what was sent go to `done`; the first failure ends it all.
    pub async fn open(receiver: SocketAddr, n: usize, done: &mpsc::Sender<Vec<String>>) -> Result<Self> {
        let mut connections = Vec::with_capacity(n);
        for _ in 0..n {
            let stream = TcpStream::connect(receiver).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let (connection_jobs, jobs) = mpsc::channel(2);
            tokio::spawn(send_all(
                sender,
                HeaderValue::from_str(&receiver.to_string())?,
                jobs,
                done.clone(),
            ));
            connections.push(connection_jobs);
        }
        Ok(Self { connections, next: 0 })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Hands jobs to the next connection; waits while it has enough.
    pub async fn send(&mut self, jobs: Vec<Job>) -> Result<()> {
        self.next = (self.next + 1) % self.connections.len();
        self.connections[self.next]
            .send(jobs)
            .await
            .ok()
            .context("a connection broke")
    }
}

async fn send_all(
    mut sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    mut jobs: mpsc::Receiver<Vec<Job>>,
    done: mpsc::Sender<Vec<String>>,
) -> Result<()> {
    while let Some(batch) = jobs.recv().await {
        let mut ids = Vec::with_capacity(batch.len());
        for job in batch {
            post(&mut sender, &host, job.path, job.event_id, job.body).await?;
            ids.push(job.id);
        }
        done.send(ids).await?;
    }
    Ok(())
}

async fn post(
    sender: &mut SendRequest<Full<Bytes>>,
    host: &HeaderValue,
    path: String,
    event_id: HeaderValue,
    body: Bytes,
) -> Result<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(http::header::HOST, host)
        .header(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(HeaderName::from_static("webhook-id"), event_id)
        .body(Full::new(body))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    ensure!(response.status().is_success(), "the receiver refused");
    response.into_body().collect().await?;
    Ok(())
}
