//! A connection that remembers whether it has answered before.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

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
pub(super) struct Remembering<T>(pub(super) T);

impl<T: Connection> Connection for Remembering<T> {
    /// Called once for each connection, when the pool takes it over.
    fn connected(&self) -> Connected {
        self.0.connected().extra(History::default())
    }
}

impl<T: Read + Unpin> Read for Remembering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Remembering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
