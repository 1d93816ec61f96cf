//! Receivers that do what no web framework would.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fixture::LIMIT;

/// What it does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Nothing.
    Silent,
    /// Begins like this, and then sends a byte now and then, without end.
    Drip(&'static str),
    /// Begins like this, and then sends as fast as it can, without end.
    Flood(&'static str),
    /// Answers this, and keeps the connection.
    Response(&'static str),
    /// Says this, and no more will come; what the sender says is still heard.
    HalfClose(&'static str),
    /// Cuts the connection.
    Reset,
}

/// One of them, at a port of its own, on all of 127.0.0.0/8. Dropping it cuts every connection.
pub struct Hostile {
    port: u16,
    requests: watch::Receiver<usize>,
    _serving: JoinSet<()>,
}

impl Hostile {
    pub async fn serve(manner: Manner) -> Self {
        let listener = listen();
        let port = listener.local_addr().unwrap().port();
        let (count, requests) = watch::channel(0);
        let count = Arc::new(count);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(behave(stream, manner, Arc::clone(&count)));
            }
        });
        Self {
            port,
            requests,
            _serving: serving,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many requests, or TLS handshakes, it has got.
    pub fn requests(&self) -> usize {
        *self.requests.borrow()
    }

    /// The same, told at each.
    pub fn arrivals(&self) -> watch::Receiver<usize> {
        self.requests.clone()
    }

    pub async fn wait_for_requests(&self, count: usize) {
        let mut requests = self.arrivals();
        let enough = requests.wait_for(|got| *got >= count);
        tokio::time::timeout(LIMIT, enough).await.unwrap().unwrap();
    }
}

/// On every address of the loopback device, so that endpoints can be at as many hosts as are wanted; on no other device.
fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind_device(Some(b"lo")).unwrap();
    socket.bind("0.0.0.0:0".parse().unwrap()).unwrap();
    socket.listen(1024).unwrap()
}

/// Until the other side has had enough.
async fn behave(mut stream: TcpStream, manner: Manner, count: Arc<watch::Sender<usize>>) -> io::Result<()> {
    while read_request(&mut stream).await? {
        count.send_modify(|count| *count += 1);
        match manner {
            Manner::Silent => return hear_out(&mut stream).await,
            Manner::Drip(beginning) => {
                stream.write_all(beginning.as_bytes()).await?;
                loop {
                    stream.write_all(b"a").await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Manner::Flood(beginning) => {
                stream.write_all(beginning.as_bytes()).await?;
                loop {
                    stream.write_all(&[b'x'; 1 << 16]).await?;
                }
            }
            Manner::Response(response) => stream.write_all(response.as_bytes()).await?,
            Manner::HalfClose(response) => {
                stream.write_all(response.as_bytes()).await?;
                stream.shutdown().await?;
                return hear_out(&mut stream).await;
            }
            Manner::Reset => return Ok(()),
        }
    }
    Ok(())
}

async fn hear_out(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// Reads one request, or the beginning of a TLS handshake; `false` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> io::Result<bool> {
    let mut seen = Vec::new();
    loop {
        if seen.first() == Some(&0x16) || length(&seen).is_some_and(|length| seen.len() >= length) {
            return Ok(true);
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(false);
        }
    }
}

/// How long the request is, once its head is complete.
fn length(seen: &[u8]) -> Option<usize> {
    let head = seen.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&seen[..head]).to_ascii_lowercase();
    let body = text.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    Some(head + body.trim().parse::<usize>().unwrap())
}
