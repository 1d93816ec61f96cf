//! Token servers over HTTPS are verified as receivers are.

use std::net::IpAddr;
use std::sync::Arc;

use certhookd::sender::Client;
use futures_util::FutureExt;
use tokio_rustls::TlsAcceptor;

use super::support::{Receiver, endpoint, one_answer};
use crate::sender::support::{self, delivered, failure, message, now, server};
use crate::sender::tls::Authority;

const GRANT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"access_token\":\"over-tls\"}";

async fn token_server(acceptor: TlsAcceptor) -> String {
    let url = server(move |stream, _| {
        let acceptor = acceptor.clone();
        async move { one_answer(acceptor.accept(stream).await?, GRANT).await }
    })
    .await;
    url.replace("http://127.0.0.1", "https://id.test")
}

/// Runs itself again with `SSL_CERT_FILE` set, and writes the authority there before the client reads it.
#[tokio::test]
async fn certificates_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.pem").to_str().unwrap().to_owned();
    let name = concat!(module_path!(), "::certificates_are_verified");
    if support::rerun(name, &[("SSL_CERT_FILE", bundle), ("SSL_CERT_DIR", String::new())]) {
        return;
    }
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    std::fs::write(std::env::var("SSL_CERT_FILE").unwrap(), trusted.pem()).unwrap();
    let lookup = |_| std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])).boxed();
    let client = Client::with_lookup(support::policy(), Arc::new(lookup)).unwrap();
    let receiver = Receiver::start().await;

    let refused = [
        (other.acceptor("id.test", 2999, b"http/1.1"), "issuer is not trusted"),
        (trusted.acceptor("id.test", 2020, b"http/1.1"), "has expired"),
        (trusted.acceptor("other.test", 2999, b"http/1.1"), "is for another name"),
    ];
    for (acceptor, expected) in refused {
        let endpoint = endpoint(&receiver, &token_server(acceptor).await);
        let reason = failure(client.attempt(&endpoint, &message(), now()).await).reason;
        assert!(
            reason.starts_with("oauth2: token server: tls: certificate") && reason.ends_with(expected),
            "{reason}"
        );
    }
    assert!(receiver.tokens().is_empty());

    let good = token_server(trusted.acceptor("id.test", 2999, b"http/1.1")).await;
    delivered(client.attempt(&endpoint(&receiver, &good), &message(), now()).await);
    assert_eq!(receiver.tokens(), ["over-tls"]);
}
