//! What the daemon serves over HTTP, as a client sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Daemon, Fixture, LIMIT};

/// A port of its own.
pub const LISTEN: &str = "service.metrics_listen = \"127.0.0.1:0\"";

/// A response.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// Where the daemon serves.
pub async fn address(daemon: &Daemon) -> SocketAddr {
    let line = daemon
        .wait_for(|line| line["message"] == "serving metrics, health and status")
        .await;
    line["address"].as_str().unwrap().parse().unwrap()
}

pub async fn get(address: SocketAddr, path: &str) -> Page {
    request(address, "GET", path).await
}

pub async fn request(address: SocketAddr, method: &str, path: &str) -> Page {
    request_as(address, &address.to_string(), method, path).await
}

/// The same under that name of the host.
pub async fn request_as(address: SocketAddr, host: &str, method: &str, path: &str) -> Page {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    };
    let response = tokio::time::timeout(LIMIT, exchange).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    Page {
        status,
        headers: lines.map(header).collect(),
        body: body.to_owned(),
    }
}

/// A request whose head never ends.
const HALF: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ";

async fn half_asked(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may have given way already.
    let _ = stream.write_all(HALF).await;
    stream
}

/// Sockets for more clients than a process may have by default.
fn allow_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

#[tokio::test]
async fn clients_that_never_finish_asking_take_neither_its_files_nor_its_attention() {
    let fixture = Fixture::new().await.with(LISTEN);
    let daemon = fixture.daemon().await;
    let address = address(&daemon).await;
    let before = open_files(&daemon);
    allow_many_files();
    let clients = join_all((0..1_100).map(|_| half_asked(address))).await;
    for path in ["/healthz", "/metrics", "/", "/healthz"] {
        assert_eq!(get(address, path).await.status, 200, "{path}");
    }
    let after = open_files(&daemon);
    assert!(after <= before + 70, "{after} open files instead of {before}");
    drop(clients);
}

#[tokio::test]
async fn a_head_that_drips_in_is_cut_off_in_time() {
    let fixture = Fixture::new().await.with(LISTEN);
    let daemon = fixture.daemon().await;
    let mut stream = half_asked(address(&daemon).await).await;
    let began = Instant::now();
    let mut drip = tokio::time::interval(Duration::from_millis(100));
    // Closed by the daemon: written to, it says so.
    while stream.write_all(b"x").await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(15), "it still listens");
        drip.tick().await;
    }
}
