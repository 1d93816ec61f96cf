//! The receiver of all cases, the same for both sides: as little work for each request as HTTP/1.1 allows, because it
//! shares the machine with what is measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

const EMPTY: &[u8] = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

const GONE: &[u8] = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n";

/// After each this many requests the time is noted: the growth line is drawn from it.
pub const STEP: usize = 1_000;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;

/// No case takes longer.
const LIMIT: Duration = Duration::from_secs(1_800);

/// How a receiver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// At once.
    AtOnce,
    /// After this time.
    After(Duration),
    /// At once, and keeps when each certificate came.
    Stamping,
    /// With 410, at once.
    Gone,
    /// Never.
    Never,
}

/// An endpoint on all of 127.0.0.0/8 with a thread of its own. Dropped, it is gone.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// `Some` until dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    manner: Manner,
    total: AtomicUsize,
    target: AtomicUsize,
    reached: Notify,
    steps: Mutex<Vec<Instant>>,
    stamps: Mutex<Vec<(String, Instant)>>,
}

impl Receiver {
    /// Starts one.
    pub fn start(manner: Manner) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let shared = Arc::new(Shared {
            manner,
            total: AtomicUsize::new(0),
            target: AtomicUsize::new(usize::MAX),
            reached: Notify::new(),
            steps: Mutex::default(),
            stamps: Mutex::default(),
        });
        let entered = runtime.enter();
        let listener = listen()?;
        let port = listener.local_addr()?.port();
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        drop(entered);
        Ok(Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            shared,
            runtime: Some(runtime),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets what came.
    pub fn reset(&self) {
        self.shared.total.store(0, Ordering::SeqCst);
        self.shared.steps.lock().clear();
        self.shared.stamps.lock().clear();
    }

    /// Waits until this many requests came since the start or the last [`Receiver::reset`].
    pub async fn wait_for(&self, total: usize) -> Result<()> {
        let reached = self.shared.reached.notified();
        self.shared.target.store(total, Ordering::SeqCst);
        let came = || self.shared.total.load(Ordering::SeqCst);
        if came() < total {
            let waited = tokio::time::timeout(LIMIT, reached).await;
            waited.with_context(|| format!("{} requests instead of {total} came in {LIMIT:?}", came()))?;
        }
        ensure!(came() >= total, "the receiver was woken before its time");
        Ok(())
    }

    /// Milliseconds that each of `requests` requests takes, one after the other, while nothing else goes on.
    pub async fn pace(&self, requests: usize) -> Result<Vec<f64>> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut taken, mut answer) = (Vec::with_capacity(requests), [0; ANSWER.len()]);
        for _ in 0..requests {
            let began = Instant::now();
            stream.write_all(EMPTY).await?;
            stream.read_exact(&mut answer).await?;
            taken.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(taken)
    }

    /// When each [`STEP`]th request came.
    pub fn steps(&self) -> Vec<Instant> {
        self.shared.steps.lock().clone()
    }

    /// Which certificate came when, in order of arrival.
    pub fn stamps(&self) -> Vec<(String, Instant)> {
        self.shared.stamps.lock().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// On every address of the loopback device, so that endpoints can be at as many hosts as are wanted; on no other device.
fn listen() -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind_device(Some(b"lo"))?;
    socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
    Ok(socket.listen(BACKLOG)?)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// Answers until the sender closes, or sends what is no request.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        while let Some((head, whole)) = measure(&buffer)? {
            shared.note(&buffer[head..whole]);
            buffer.advance(whole);
            match shared.manner {
                Manner::Never => continue,
                Manner::After(delay) => tokio::time::sleep(delay).await,
                Manner::AtOnce | Manner::Stamping | Manner::Gone => {}
            }
            let answer = if shared.manner == Manner::Gone { GONE } else { ANSWER };
            stream.write_all(answer).await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// The length of the head and of the whole request, once all of it is there.
fn measure(buffer: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(head) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let length = std::str::from_utf8(&buffer[..head])?.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let whole = head + 4 + length.context("a request without content-length")?.parse::<usize>()?;
    Ok((buffer.len() >= whole).then_some((head + 4, whole)))
}

impl Shared {
    fn note(&self, body: &[u8]) {
        if self.manner == Manner::Stamping {
            self.stamps.lock().push((certificate(body), Instant::now()));
        }
        let total = self.total.fetch_add(1, Ordering::SeqCst) + 1;
        if total.is_multiple_of(STEP) {
            self.steps.lock().push(Instant::now());
        }
        if total == self.target.load(Ordering::SeqCst) {
            self.reached.notify_waiters();
        }
    }
}

/// The 24 hex digits of the payload's `_id`, which comes first.
fn certificate(body: &[u8]) -> String {
    let id = body.strip_prefix(br#"{"_id":""#).and_then(|rest| rest.get(..24));
    String::from_utf8_lossy(id.unwrap_or_default()).into_owned()
}
