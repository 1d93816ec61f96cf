//! Mail servers that don't know EHLO are greeted with HELO (RFC 5321, 3.2), which the client library never says.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const HELO: &[u8] = b"HELO";

/// The replies that refuse EHLO, and not the client (RFC 5321, 4.1.1.1 and 4.2.2).
pub(super) const UNKNOWN_EHLO: [u16; 5] = [500, 501, 502, 504, 550];

/// A connection on which the first command, EHLO, goes out as HELO.
#[derive(Debug)]
pub(super) struct Helo {
    stream: TcpStream,
    /// How many bytes of [`HELO`] are written.
    written: usize,
}

impl Helo {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, written: 0 }
    }
}

impl AsyncTokioStream for Helo {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncRead for Helo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Helo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let rest = &HELO[self.written..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        let rest = &rest[..rest.len().min(buf.len())];
        let written = Pin::new(&mut self.stream).poll_write(cx, rest);
        if let Poll::Ready(Ok(length)) = written {
            self.written += length;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
