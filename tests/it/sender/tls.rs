//! HTTPS for real: a certificate authority of our own, that only `SSL_CERT_FILE` makes trusted.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use certhookd::model::Outcome;
use certhookd::sender::{Client, Policy};
use futures_util::FutureExt;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::support::{self, delivered, endpoint, failure, impatient, message, now, read_request, server};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for `name`, valid until the end of `year`, and its key.
    pub(crate) fn identity(&self, name: &str, year: i32) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A server's configuration with such a certificate.
    pub(crate) fn acceptor(&self, name: &str, year: i32, alpn: &[u8]) -> TlsAcceptor {
        self.acceptor_of(name, year, &[alpn])
    }

    /// The same with several protocols, the best one first.
    pub(crate) fn acceptor_of(&self, name: &str, year: i32, alpn: &[&[u8]]) -> TlsAcceptor {
        self.acceptor_that(WebPkiClientVerifier::no_client_auth(), name, year, alpn)
    }

    /// The same; `clients` says which certificates a client must show.
    pub(crate) fn acceptor_that(
        &self,
        clients: Arc<dyn ClientCertVerifier>,
        name: &str,
        year: i32,
        alpn: &[&[u8]],
    ) -> TlsAcceptor {
        let (certificate, key) = self.identity(name, year);
        acceptor_with(clients, certificate.der().clone(), &key, alpn)
    }
}

/// A server's configuration with that certificate.
pub(crate) fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair, alpn: &[u8]) -> TlsAcceptor {
    acceptor_with(WebPkiClientVerifier::no_client_auth(), certificate, key, &[alpn])
}

fn acceptor_with(
    clients: Arc<dyn ClientCertVerifier>,
    certificate: CertificateDer<'static>,
    key: &KeyPair,
    alpn: &[&[u8]],
) -> TlsAcceptor {
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Resolves every name to this machine. Plain HTTP is off.
pub(crate) fn client() -> Client {
    let policy = Policy {
        allow_http: false,
        ..support::policy()
    };
    Client::with_lookup(
        policy,
        Arc::new(|_| std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])).boxed()),
    )
    .unwrap()
}

pub(crate) fn https(url: &str) -> String {
    url.replace("http://127.0.0.1", "https://receiver.test")
}

async fn https_server(acceptor: TlsAcceptor) -> String {
    let url = server(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            while read_request(&mut stream).await? {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await?;
            }
            Ok(())
        }
    })
    .await;
    https(&url)
}

/// What an HTTP/2 server does when the second request comes over a connection.
#[derive(Clone, Copy)]
enum Then {
    Hang,
    GoAway,
    Close,
}

async fn http2_server(acceptor: TlsAcceptor, then: Then) -> String {
    let url = server(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await?;
            let connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
            one_answer(connection, then).await.map_err(io::Error::other)
        }
    })
    .await;
    https(&url)
}

async fn one_answer(
    mut stream: h2::server::Connection<TlsStream<TcpStream>, Bytes>,
    then: Then,
) -> Result<(), h2::Error> {
    let (_request, mut respond) = stream.accept().await.unwrap()?;
    respond.send_response(http::Response::new(()), true)?;
    let mut unanswered = Vec::new();
    while let Some(request) = stream.accept().await {
        match then {
            Then::Hang => unanswered.push(request?),
            Then::GoAway => {
                let (_request, mut respond) = request?;
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                stream.graceful_shutdown();
            }
            Then::Close => return Ok(()),
        }
    }
    Ok(())
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
    let authority = Authority::new("trusted");
    std::fs::write(std::env::var("SSL_CERT_FILE").unwrap(), &authority.pem).unwrap();
    let client = client();

    let good = https_server(authority.acceptor("receiver.test", 2999, b"http/1.1")).await;
    assert_eq!(
        delivered(client.attempt(&endpoint(&good), &message(), now()).await),
        200
    );

    let refused = [
        (
            authority.acceptor("receiver.test", 2020, b"http/1.1"),
            "tls: certificate has expired",
        ),
        (
            authority.acceptor("other.test", 2999, b"http/1.1"),
            "tls: certificate is for another name",
        ),
        (
            Authority::new("other").acceptor("receiver.test", 2999, b"http/1.1"),
            "tls: certificate's issuer is not trusted",
        ),
    ];
    for (acceptor, expected) in refused {
        let url = https_server(acceptor).await;
        assert_eq!(
            failure(client.attempt(&endpoint(&url), &message(), now()).await).reason,
            expected
        );
    }
    not_tls_at_all(&client).await;
    http2_leaves_a_connection_in_time(&client, &authority).await;
}

async fn not_tls_at_all(client: &Client) {
    let garbage =
        server(|mut stream, _| async move { stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await }).await;
    let failed = failure(client.attempt(&endpoint(&https(&garbage)), &message(), now()).await);
    assert_eq!(failed.reason, "tls: the response is not TLS");

    let silent = server(|mut stream, _| async move {
        stream.read_to_end(&mut Vec::new()).await?;
        std::future::pending().await
    })
    .await;
    let failed = failure(client.attempt(&impatient(&https(&silent)), &message(), now()).await);
    assert_eq!(failed.reason, "timeout after 400 ms: no connection");
}

/// HTTP/2 shares one connection, so a hung one must not be used again; and one that the server closes is not a failure.
async fn http2_leaves_a_connection_in_time(client: &Client, authority: &Authority) {
    let cases = [
        (Then::Hang, [true, false, true, false]),
        (Then::GoAway, [true; 4]),
        (Then::Close, [true; 4]),
    ];
    for (then, expected) in cases {
        let url = http2_server(authority.acceptor("receiver.test", 2999, b"h2"), then).await;
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            outcomes.push(client.attempt(&impatient(&url), &message(), now()).await);
        }
        let delivered: Vec<_> = outcomes
            .iter()
            .map(|outcome| matches!(outcome, Outcome::Delivered { .. }))
            .collect();
        assert_eq!(delivered, expected, "{outcomes:?}");
    }
}
