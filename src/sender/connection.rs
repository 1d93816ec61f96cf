//! A connection that remembers whether it has answered before and how its last response began, and is counted while it is open.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connector::MAX_HEAD;
use super::status_line;

/// A connection that is made while this many are open, in the whole process, serves one request and is not kept. The pool itself
/// could only bound what it keeps for one host: there may be as many hosts as endpoints, and many endpoints at one.
const MAX_KEPT: usize = 512;

/// This much of a response is remembered, in bytes: its status line, also after a 100 or 103.
const BEGINNING: usize = 1024;

/// Read at once while a head may come, in bytes.
const CHUNK: usize = 4096;

/// The connections that are open.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Counts one as open until dropped.
struct Counted;

impl Counted {
    fn new() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection has carried. Shared by the connection, the pool and each response's extensions.
#[derive(Clone, Debug)]
pub(super) struct History(Arc<Carried>);

#[derive(Debug)]
struct Carried {
    /// When it was made, TLS included.
    made_at: Instant,
    /// Whether it has carried a response.
    answered: AtomicBool,
    /// Whether what is written next is another request.
    is_between: AtomicBool,
    /// The first bytes of the last response, over HTTP/1.
    beginning: Mutex<Vec<u8>>,
    /// Bytes of the last response, over HTTP/1, up to [`MAX_HEAD`] and a little more.
    read: AtomicUsize,
    /// What TLS found wrong: HTTP/2 passes on no more than its text.
    tls_fault: Mutex<Option<rustls::Error>>,
}

impl History {
    /// That of a connection that was just made.
    fn new() -> Self {
        Self(Arc::new(Carried {
            made_at: Instant::now(),
            answered: AtomicBool::default(),
            is_between: AtomicBool::default(),
            beginning: Mutex::default(),
            read: AtomicUsize::default(),
            tls_fault: Mutex::default(),
        }))
    }

    /// How long a request that began at `began` waited for the connection: not at all for one that was there.
    pub(super) fn made_after(&self, began: Instant) -> Duration {
        self.0.made_at.saturating_duration_since(began)
    }

    pub(super) fn note_response(&self) {
        self.0.answered.store(true, Ordering::Relaxed);
        self.0.is_between.store(true, Ordering::Relaxed);
    }

    /// Whether the connection carried a response before.
    pub(super) fn has_answered(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// The status of the last response over HTTP/1, as far as its first bytes tell one. A head that goes on for ever tells none.
    pub(super) fn status(&self) -> Option<StatusCode> {
        let is_endless = self.0.read.load(Ordering::Relaxed) >= MAX_HEAD;
        let status = status_line::status(&self.0.beginning.lock());
        status.filter(|_| !is_endless)
    }

    /// That of the connection that `info` describes.
    pub(super) fn of(info: &Connected) -> Option<Self> {
        let mut extensions = http::Extensions::new();
        info.get_extras(&mut extensions);
        extensions.remove()
    }

    /// What TLS found wrong with the connection.
    pub(super) fn tls_fault(&self) -> Option<rustls::Error> {
        self.0.tls_fault.lock().clone()
    }

    fn note_fault(&self, error: io::Error) -> io::Error {
        let fault = error.get_ref().and_then(|carried| carried.downcast_ref());
        if let Some(fault) = fault {
            *self.0.tls_fault.lock() = Some(rustls::Error::clone(fault));
        }
        error
    }

    fn reads(&self, bytes: &[u8]) {
        self.0.read.fetch_add(bytes.len(), Ordering::Relaxed);
        let mut beginning = self.0.beginning.lock();
        let wanted = (BEGINNING - beginning.len()).min(bytes.len());
        beginning.extend_from_slice(&bytes[..wanted]);
    }

    fn writes(&self) {
        if self.0.is_between.swap(false, Ordering::Relaxed) {
            self.0.beginning.lock().clear();
            self.0.read.store(0, Ordering::Relaxed);
        }
    }
}

/// A transport with a [`History`]. Passes everything else through.
pub(super) struct Remembering<T> {
    transport: T,
    history: History,
    /// An HTTP/2 connection carries many responses at once.
    is_http1: bool,
    _counted: Counted,
}

impl<T: Connection> Remembering<T> {
    pub(super) fn new(transport: T) -> Self {
        Self {
            is_http1: !transport.connected().is_negotiated_h2(),
            transport,
            history: History::new(),
            _counted: Counted::new(),
        }
    }
}

impl<T: Connection> Connection for Remembering<T> {
    /// Called once for each connection, when the pool takes it over.
    fn connected(&self) -> Connected {
        let connected = self.transport.connected().extra(self.history.clone());
        if OPEN.load(Ordering::Relaxed) > MAX_KEPT {
            connected.poison();
        }
        connected
    }
}

impl<T: Read + Unpin> Read for Remembering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let wanted = CHUNK.min(buf.remaining());
        if !self.is_http1 || wanted == 0 || self.history.0.read.load(Ordering::Relaxed) >= MAX_HEAD {
            let read = Pin::new(&mut self.transport).poll_read(cx, buf);
            return read.map_err(|error| self.history.note_fault(error));
        }
        let mut bytes = [MaybeUninit::uninit(); CHUNK];
        let mut read = ReadBuf::uninit(&mut bytes[..wanted]);
        let done = ready!(Pin::new(&mut self.transport).poll_read(cx, read.unfilled()));
        done.map_err(|error| self.history.note_fault(error))?;
        self.history.reads(read.filled());
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> Write for Remembering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.history.writes();
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.history.writes();
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }
}
