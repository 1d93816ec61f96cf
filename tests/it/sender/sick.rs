//! Receivers that are hung, slow, greedy or gone, and connections that end when they shouldn't.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certhookd::sender::Client;
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::time::Instant;

use super::support::{self, answering, delivered, endpoint, failure, impatient, message, now, read_request, server};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The reason why one attempt at `url` fails.
async fn reason(url: &str) -> String {
    failure(support::client().attempt(&impatient(url), &message(), now()).await).reason
}

/// Closes with a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    #[allow(
        deprecated,
        reason = "a linger of zero is the way to send a reset, and it blocks nobody"
    )]
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

async fn drip(stream: &mut TcpStream, byte: &[u8]) -> io::Result<()> {
    loop {
        stream.write_all(byte).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn hung_it_costs_its_timeout() {
    let url = server(|mut stream, _| async move {
        read_request(&mut stream).await?;
        std::future::pending().await
    })
    .await;
    assert_eq!(reason(&url).await, "timeout after 400 ms: no response");
}

#[tokio::test]
async fn dripping_headers_cost_the_timeout_too() {
    let url = server(|mut stream, _| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ").await?;
        drip(&mut stream, b"a").await
    })
    .await;
    assert_eq!(reason(&url).await, "timeout after 400 ms: no response");
}

/// The head came in time, so it is a success; the body is not waited for.
#[tokio::test]
async fn a_2xx_whose_body_drips_or_never_ends_is_delivered_at_once() {
    for piece in [&b"1\r\na\r\n"[..], b""] {
        let url = server(move |mut stream, _| async move {
            read_request(&mut stream).await?;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await?;
            drip(&mut stream, piece).await
        })
        .await;
        let start = Instant::now();
        assert_eq!(
            delivered(support::client().attempt(&endpoint(&url), &message(), now()).await),
            200
        );
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

/// The server counts what it could send: what was read, and what the sockets' buffers hold, is far below a gigabyte.
#[tokio::test]
async fn a_gigabyte_is_not_read() {
    for head in ["Content-Length: 1073741824", "Connection: close"] {
        let (sent, mut ended) = tokio::sync::mpsc::channel(1);
        let url = server(move |mut stream, _| {
            let sent = sent.clone();
            async move {
                read_request(&mut stream).await?;
                stream
                    .write_all(format!("HTTP/1.1 500 Big\r\n{head}\r\n\r\n").as_bytes())
                    .await?;
                let mut total = 0_usize;
                while let Ok(written) = stream.write(&[b'x'; 64 * 1024]).await {
                    total += written;
                }
                sent.send(total).await.map_err(io::Error::other)
            }
        })
        .await;
        assert_eq!(reason(&url).await, "status 500");
        let total = ended.recv().await.unwrap();
        assert!(total < 32 * 1024 * 1024, "{total} bytes were taken");
    }
}

#[tokio::test]
async fn header_bombs_are_bounded() {
    let many = "X-Filler: filler\r\n".repeat(6_000);
    let long = format!("X-Filler: {}\r\n", "f".repeat(1024 * 1024));
    for (bomb, told) in [(many, "status 500"), (long, "head of the response is too large")] {
        let url = answering(&format!("HTTP/1.1 500 Sick\r\n{bomb}Content-Length: 0\r\n\r\n")).await;
        assert_eq!(reason(&url).await, told);
    }
}

#[tokio::test]
async fn connections_that_end_early_say_how() {
    let closing = server(|mut stream, _| async move { read_request(&mut stream).await.map(drop) }).await;
    assert_eq!(reason(&closing).await, "connection closed before a response");

    let halfway = server(|mut stream, _| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-").await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut Vec::new()).await.map(drop)
    })
    .await;
    assert_eq!(reason(&halfway).await, "connection closed before a response");

    let resetting = server(|mut stream, _| async move {
        read_request(&mut stream).await?;
        reset(&stream);
        Ok(())
    })
    .await;
    assert_eq!(reason(&resetting).await, "connection reset");

    let garbage = answering("SSH-2.0-OpenSSH_9.2p1\r\n\r\n").await;
    assert_eq!(reason(&garbage).await, "head of the response is not valid HTTP");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(reason(&nobody).await, "connection refused");
}

/// A receiver that half-closes after a whole answer, one that cuts its body short, one that speaks HTTP/1.0.
#[tokio::test]
async fn an_answer_with_a_whole_head_counts() {
    let endings = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
        "HTTP/1.0 200 OK\r\n\r\nok",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ];
    for answer in endings {
        let url = server(move |mut stream, _| async move {
            read_request(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        })
        .await;
        delivered(support::client().attempt(&endpoint(&url), &message(), now()).await);
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_a_dns_failure() {
    let lookup = Arc::new(|_| std::future::ready(Err(io::Error::other("no such host"))).boxed());
    let client = Client::with_lookup(support::policy(), lookup).unwrap();
    let outcome = client
        .attempt(&endpoint("http://receiver.test/"), &message(), now())
        .await;
    assert_eq!(failure(outcome).reason, "dns: no such host");
}

/// The first connection answers once, promises to stay and closes on the next request: keep-alive that ran out.
#[tokio::test]
async fn a_pooled_connection_that_the_server_closed_is_not_the_receivers_failure() {
    for with_reset in [false, true] {
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&requests);
        let url = server(move |mut stream, _| {
            let seen = Arc::clone(&seen);
            async move {
                read_request(&mut stream).await?;
                seen.fetch_add(1, Ordering::SeqCst);
                stream.write_all(OK).await?;
                read_request(&mut stream).await?;
                if with_reset {
                    reset(&stream);
                }
                Ok(())
            }
        })
        .await;
        let client = support::client();
        for _ in 0..10 {
            assert_eq!(delivered(client.attempt(&endpoint(&url), &message(), now()).await), 200);
        }
        assert_eq!(requests.load(Ordering::SeqCst), 10);
    }
}

/// Here the connection is new: one attempt is one request.
#[tokio::test]
async fn a_receiver_that_closes_new_connections_is_asked_once_per_attempt() {
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let url = server(move |mut stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            read_request(&mut stream).await?;
            seen.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .await;
    let client = support::client();
    for attempt in 1..=3 {
        failure(client.attempt(&endpoint(&url), &message(), now()).await);
        assert_eq!(requests.load(Ordering::SeqCst), attempt);
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let url = server(move |mut stream, number| {
        seen.store(number + 1, Ordering::SeqCst);
        async move {
            while read_request(&mut stream).await? {
                stream.write_all(OK).await?;
            }
            Ok(())
        }
    })
    .await;
    let client = support::client();
    for _ in 0..50 {
        delivered(client.attempt(&endpoint(&url), &message(), now()).await);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// Many organizations may have their endpoints at one host: more requests at once than one endpoint gets.
#[tokio::test]
async fn connections_to_a_host_of_many_endpoints_are_used_again() {
    const AT_ONCE: usize = 40;
    let connections = Arc::new(AtomicUsize::new(0));
    let (seen, all_came) = (Arc::clone(&connections), Arc::new(Barrier::new(AT_ONCE)));
    let url = server(move |mut stream, number| {
        seen.store(number + 1, Ordering::SeqCst);
        let all_came = Arc::clone(&all_came);
        async move {
            while read_request(&mut stream).await? {
                all_came.wait().await;
                stream.write_all(OK).await?;
            }
            Ok(())
        }
    })
    .await;
    let (client, endpoint) = (support::client(), endpoint(&url));
    for _ in 0..10 {
        let attempts = (0..AT_ONCE).map(|_| async { delivered(client.attempt(&endpoint, &message(), now()).await) });
        assert_eq!(join_all(attempts).await, [200; AT_ONCE]);
    }
    assert_eq!(connections.load(Ordering::SeqCst), AT_ONCE);
}
