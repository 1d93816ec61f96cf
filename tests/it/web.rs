//! What the daemon serves over HTTP, as a client sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed::{Daemon, LIMIT};

/// A port of its own.
pub const LISTEN: &str = "service.metrics_listen = \"127.0.0.1:0\"";

/// An answer.
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
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
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
