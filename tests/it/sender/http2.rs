//! Servers that offer HTTP/2 and don't master it, or want HTTP/1.1 for this request.

use std::io;
use std::sync::Arc;

use certhookd::model::Outcome;
use certhookd::sender::Client;
use h2::Reason;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::support::{self, delivered, endpoint, failure, message, now, read_request, server};
use super::tls::{Authority, client, https};

const BOTH: [&[u8]; 2] = [b"h2", b"http/1.1"];
const INVALID: &str = "http/2: head of the response is not valid HTTP";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What comes back for a request over HTTP/2.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A 200 with this header.
    Header(&'static str, &'static str),
    Reset(Reason),
    GoAway(Reason),
    /// HTTP/1.1 all the same.
    OtherProtocol,
}

/// The protocols by which a server was asked, one a connection.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<&'static str>>>);

impl Asked {
    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock())
    }
}

const HTTP1_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Answers over HTTP/2 so, and with that head over HTTP/1.1, if it knows that.
async fn faulty(authority: &Authority, fault: Fault, http1_head: Option<&'static str>) -> (String, Asked) {
    let protocols = if http1_head.is_some() { &BOTH[..] } else { &BOTH[..1] };
    let acceptor = authority.acceptor_of("receiver.test", 2999, protocols);
    let asked = Asked::default();
    let seen = asked.clone();
    let url = server(move |stream, _| {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        async move {
            let stream = acceptor.accept(stream).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            seen.0.lock().push(if is_http2 { "2" } else { "1.1" });
            match http1_head.filter(|_| !is_http2) {
                None => http2(stream, fault).await,
                Some(head) => http1(stream, head).await,
            }
        }
    })
    .await;
    (https(&url), asked)
}

async fn http1(mut stream: TlsStream<TcpStream>, head: &str) -> io::Result<()> {
    while read_request(&mut stream).await? {
        stream.write_all(head.as_bytes()).await?;
    }
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A 200 with that header, neither indexed nor compressed (RFC 7541, 6.2.2).
fn head(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0x88, 0x00], &*text(name), &*text(value)].concat()
}

impl Fault {
    fn bytes(self, stream: u32) -> Vec<u8> {
        match self {
            Self::Header(name, value) => frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(name, value)),
            Self::Reset(reason) => frame(RESET, 0, stream, &u32::from(reason).to_be_bytes()),
            Self::GoAway(reason) => frame(GO_AWAY, 0, 0, &[[0; 4], u32::from(reason).to_be_bytes()].concat()),
            Self::OtherProtocol => b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        }
    }
}

/// By hand: a library refuses to make such frames.
async fn http2(mut stream: TlsStream<TcpStream>, fault: Fault) -> io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    if !matches!(fault, Fault::OtherProtocol) {
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    }
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream
            .read_exact(&mut vec![0; usize::try_from(length).unwrap()])
            .await?;
        let asks = matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0;
        if asks {
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            stream.write_all(&fault.bytes(id)).await?;
        }
    }
}

/// Runs itself again with `SSL_CERT_FILE` set, and writes the authority there before the client reads it.
#[tokio::test]
async fn faults_of_http2() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.pem").to_str().unwrap().to_owned();
    let name = concat!(module_path!(), "::faults_of_http2");
    if support::rerun(name, &[("SSL_CERT_FILE", bundle), ("SSL_CERT_DIR", String::new())]) {
        return;
    }
    let authority = Authority::new("trusted");
    std::fs::write(std::env::var("SSL_CERT_FILE").unwrap(), authority.pem()).unwrap();
    let client = client();
    large_heads_are_read(&client, &authority).await;
    after_a_protocol_error_http1_is_next(&client, &authority).await;
    where_http1_is_required_it_is_used_at_once(&client, &authority).await;
    other_errors_change_nothing(&client, &authority).await;
    a_server_without_http1_is_asked_by_http2_again(&client, &authority).await;
    an_odd_head_by_http1_is_no_reason_for_http2(&client, &authority).await;
}

async fn attempt(client: &Client, url: &str) -> Outcome {
    client.attempt(&endpoint(url), &message(), now()).await
}

async fn large_heads_are_read(client: &Client, authority: &Authority) {
    for (count, size) in [(20, 1_000), (1, 20_000), (200, 1_000), (1_000, 10)] {
        let acceptor = authority.acceptor("receiver.test", 2999, b"h2");
        let url = server(move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                let stream = acceptor.accept(stream).await?;
                let mut stream = h2::server::handshake(stream).await.map_err(io::Error::other)?;
                while let Some(request) = stream.accept().await {
                    let (_request, mut respond) = request.map_err(io::Error::other)?;
                    let mut response = http::Response::builder();
                    for number in 0..count {
                        response = response.header(format!("x-filler-{number}"), "f".repeat(size));
                    }
                    let response = response.body(()).map_err(io::Error::other)?;
                    respond.send_response(response, true).map_err(io::Error::other)?;
                }
                Ok(())
            }
        })
        .await;
        assert_eq!(delivered(attempt(client, &https(&url)).await), 200, "{count} of {size}");
    }
}

async fn after_a_protocol_error_http1_is_next(client: &Client, authority: &Authority) {
    let table = [
        (Fault::Header("connection", "close"), INVALID),
        (Fault::Header("connection", "keep-alive"), INVALID),
        (Fault::Header("keep-alive", "timeout=5"), INVALID),
        (Fault::Header("transfer-encoding", "chunked"), INVALID),
        (Fault::Header("upgrade", "h2c"), INVALID),
        (Fault::Header("content-length", "5"), INVALID),
        (Fault::Header("X-Upper-Case", "1"), "http/2: "),
        (Fault::Reset(Reason::PROTOCOL_ERROR), "http/2: "),
        (Fault::Reset(Reason::COMPRESSION_ERROR), "http/2: "),
        (Fault::GoAway(Reason::PROTOCOL_ERROR), "http/2: "),
        (Fault::GoAway(Reason::INADEQUATE_SECURITY), "http/2: "),
        (Fault::OtherProtocol, "http/2: "),
    ];
    for (fault, expected) in table {
        let (url, asked) = faulty(authority, fault, Some(HTTP1_HEAD)).await;
        let outcome = attempt(client, &url).await;
        let Outcome::TransientFailure(failed) = outcome else {
            panic!("{fault:?}: {outcome:?}")
        };
        assert!(failed.reason.starts_with(expected), "{fault:?}: {}", failed.reason);
        for _ in 0..3 {
            assert_eq!(delivered(attempt(client, &url).await), 200, "{fault:?}");
        }
        assert_eq!(asked.take(), ["2", "1.1"], "{fault:?}");
    }
}

async fn where_http1_is_required_it_is_used_at_once(client: &Client, authority: &Authority) {
    let required = Reason::HTTP_1_1_REQUIRED;
    for fault in [Fault::Reset(required), Fault::GoAway(required)] {
        let (url, asked) = faulty(authority, fault, Some(HTTP1_HEAD)).await;
        for _ in 0..3 {
            assert_eq!(delivered(attempt(client, &url).await), 200, "{fault:?}");
        }
        assert_eq!(asked.take(), ["2", "1.1"], "{fault:?}");
    }
}

async fn other_errors_change_nothing(client: &Client, authority: &Authority) {
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::ENHANCE_YOUR_CALM] {
        for fault in [Fault::Reset(reason), Fault::GoAway(reason)] {
            let (url, asked) = faulty(authority, fault, Some(HTTP1_HEAD)).await;
            for _ in 0..2 {
                let outcome = attempt(client, &url).await;
                assert!(
                    matches!(outcome, Outcome::TransientFailure(_)),
                    "{fault:?}: {outcome:?}"
                );
            }
            assert!(asked.take().iter().all(|protocol| *protocol == "2"), "{fault:?}");
        }
    }
}

async fn a_server_without_http1_is_asked_by_http2_again(client: &Client, authority: &Authority) {
    let (url, asked) = faulty(authority, Fault::Reset(Reason::PROTOCOL_ERROR), None).await;
    for attempts in 1..=4 {
        let reason = failure(attempt(client, &url).await).reason;
        assert_eq!(
            reason.starts_with("http/2: "),
            attempts % 2 == 1,
            "{attempts}: {reason}"
        );
    }
    assert_eq!(asked.take(), ["2", "1.1", "1.1"]);
}

async fn an_odd_head_by_http1_is_no_reason_for_http2(client: &Client, authority: &Authority) {
    let heads = [
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    for head in heads {
        let fault = Fault::Header("connection", "close");
        let (url, asked) = faulty(authority, fault, Some(head)).await;
        failure(attempt(client, &url).await);
        for _ in 0..3 {
            assert_eq!(delivered(attempt(client, &url).await), 200, "{head:?}");
        }
        assert_eq!(asked.take(), ["2", "1.1", "1.1", "1.1"], "{head:?}");
    }
}
