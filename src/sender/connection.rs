//! A connection that remembers whether it has answered before, and is counted while it is open.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

/// A connection that is made while this many are open, in the whole process, serves one request and is not kept. The pool itself
/// could only bound what it keeps for one host: there may be as many hosts as endpoints, and many endpoints at one.
const MAX_KEPT: usize = 512;

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

/// Whether a connection has carried an answer. Shared by the connection, the pool and each answer's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<AtomicBool>);

impl History {
    /// Notes an answer.
    pub(super) fn answered(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the connection that `info` describes carried an answer before.
    pub(super) fn of(info: &Connected) -> bool {
        let mut extensions = http::Extensions::new();
        info.get_extras(&mut extensions);
        extensions
            .get::<Self>()
            .is_some_and(|history| history.0.load(Ordering::Relaxed))
    }
}

/// A transport with a [`History`]. Passes everything else through.
pub(super) struct Remembering<T> {
    transport: T,
    _counted: Counted,
}

impl<T> Remembering<T> {
    pub(super) fn new(transport: T) -> Self {
        Self {
            transport,
            _counted: Counted::new(),
        }
    }
}

impl<T: Connection> Connection for Remembering<T> {
    /// Called once for each connection, when the pool takes it over.
    fn connected(&self) -> Connected {
        let connected = self.transport.connected().extra(History::default());
        if OPEN.load(Ordering::Relaxed) > MAX_KEPT {
            connected.poison();
        }
        connected
    }
}

impl<T: Read + Unpin> Read for Remembering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Remembering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
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
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }
}
