//! Certificates of an endpoint's own: they hold for its connections, and for no other's.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bson::{Document, RawDocumentBuf, doc};
use certhookd::envelope::EncryptionKeys;
use certhookd::platform::member_config::parse;
use certhookd::platform::{Auth, Endpoint, EndpointPolicy, EntryState};
use certhookd::sender::Client;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::support::{self, delivered, failure, message, now, read_request, server};
use super::tls::{Authority, acceptor, client, https};
use crate::oauth::support::{credentials, one_answer};

/// An endpoint of that number with these certificates, as it is read from the platform's document.
pub(crate) fn endpoint(number: u8, url: &str, tls: Document) -> Endpoint {
    let mut source = doc! { "_id": format!("{number:024}"), "url": url, "eventTypes": ["certificate_expired"] };
    if !tls.is_empty() {
        source.insert("tls", tls);
    }
    let document = doc! { "_ownerId": "674700000000000000000003", "webHookConfig": { "endpoints": [source] } };
    let policy = EndpointPolicy {
        allow_http: false,
        concurrency: 5,
        keys: EncryptionKeys::NONE,
    };
    let config = parse(&RawDocumentBuf::try_from(&document).unwrap(), &policy);
    match &config.entries[0].state {
        EntryState::Enabled(endpoint) => (**endpoint).clone(),
        other => panic!("{other:?}"),
    }
}

/// A client's certificate by that authority, and its key; behind it `chain`.
pub(crate) fn shown(authority: &Authority, name: &str, chain: &str) -> Document {
    let (certificate, key) = authority.identity(name, 2999);
    doc! { "clientCert": certificate.pem() + chain, "clientKey": key.serialize_pem() }
}

pub(crate) fn with_ca(mut tls: Document, authority: &Authority) -> Document {
    tls.insert("ca", authority.pem());
    tls
}

/// Asks clients for a certificate of that authority, and lets those without one in if it is `optional`.
pub(crate) fn asking(authority: &Authority, optional: bool) -> Arc<dyn rustls::server::danger::ClientCertVerifier> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    let builder = if optional {
        builder.allow_unauthenticated()
    } else {
        builder
    };
    builder.build().unwrap()
}

/// Of each request the number of its connection and the client's certificate.
pub(crate) type Seen = Arc<Mutex<Vec<(usize, Option<Vec<u8>>)>>>;

/// A receiver that notes whose requests come.
pub(crate) async fn receiver(acceptor: TlsAcceptor) -> (String, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let url = server(move |stream, number| {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&noted));
        async move { serve(acceptor.accept(stream).await?, number, &seen).await }
    })
    .await;
    (https(&url), seen)
}

async fn serve(mut stream: TlsStream<TcpStream>, number: usize, seen: &Seen) -> io::Result<()> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().map(|chain| chain[0].to_vec());
    let note = || seen.lock().push((number, certificate.clone()));
    if connection.alpn_protocol() == Some(b"h2") {
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        while let Some(request) = connection.accept().await {
            note();
            let (_, mut respond) = request.map_err(io::Error::other)?;
            let response = http::Response::new(());
            respond.send_response(response, true).map_err(io::Error::other)?;
        }
        return Ok(());
    }
    while read_request(&mut stream).await? {
        note();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await?;
    }
    Ok(())
}

pub(crate) async fn reason(client: &Client, endpoint: &Endpoint) -> String {
    failure(client.attempt(endpoint, &message(), now()).await).reason
}

/// It fails because it shows no certificate. What the other side says before it closes may get lost.
pub(crate) async fn assert_shows_none(client: &Client, endpoint: &Endpoint) {
    let reason = reason(client, endpoint).await;
    let is_said = reason == "tls: the receiver asks for a client's certificate";
    assert!(is_said || reason.starts_with("connection "), "{reason}");
}

pub(crate) async fn assert_refused(client: &Client, endpoint: &Endpoint) {
    let reason = reason(client, endpoint).await;
    assert!(
        reason.contains("the receiver refuses the client's certificate"),
        "{reason}"
    );
}

pub(crate) async fn succeeds(client: &Client, endpoint: &Endpoint) {
    assert_eq!(delivered(client.attempt(endpoint, &message(), now()).await), 200);
}

/// Runs itself again with an authority that the system trusts.
#[tokio::test]
async fn an_authority_is_trusted_besides_the_system_s_and_for_its_endpoint_alone() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.pem").to_str().unwrap().to_owned();
    let name = concat!(
        module_path!(),
        "::an_authority_is_trusted_besides_the_system_s_and_for_its_endpoint_alone"
    );
    if support::rerun(name, &[("SSL_CERT_FILE", bundle), ("SSL_CERT_DIR", String::new())]) {
        return;
    }
    let [system, own, other] = ["system", "own", "other"].map(Authority::new);
    std::fs::write(std::env::var("SSL_CERT_FILE").unwrap(), system.pem()).unwrap();
    let client = client();
    let ca = |authority: &Authority| doc! { "ca": authority.pem() };
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let (url, seen) = receiver(own.acceptor("receiver.test", 2999, alpn)).await;
        let untrusted = "tls: certificate's issuer is not trusted";
        succeeds(&client, &endpoint(1, &url, ca(&own))).await;
        succeeds(&client, &endpoint(1, &url, ca(&own))).await;
        for (number, tls) in [(2, doc! {}), (3, ca(&other)), (1, ca(&other)), (1, doc! {})] {
            assert_eq!(reason(&client, &endpoint(number, &url, tls)).await, untrusted);
        }
        let several = doc! { "ca": format!("{}{}", other.pem(), own.pem()) };
        succeeds(&client, &endpoint(4, &url, several)).await;
        assert_eq!(
            seen.lock().iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            [0, 0, 5]
        );

        let (url, _) = receiver(system.acceptor("receiver.test", 2999, alpn)).await;
        succeeds(&client, &endpoint(5, &url, ca(&own))).await;
        succeeds(&client, &endpoint(6, &url, doc! {})).await;
        for (server, name, year, expected) in [
            (&own, "receiver.test", 2020, "tls: certificate has expired"),
            (&own, "other.test", 2999, "tls: certificate is for another name"),
            (&system, "receiver.test", 2020, "tls: certificate has expired"),
        ] {
            let (url, _) = receiver(server.acceptor(name, year, alpn)).await;
            assert_eq!(reason(&client, &endpoint(7, &url, ca(&own))).await, expected);
        }
    }
}

/// As `openssl req -x509` makes it, for an authority too; without that; of another name; that has ended.
#[tokio::test]
async fn a_certificate_that_signs_itself_is_trusted_as_it_is() {
    let client = client();
    for (is_ca, name, year, expected) in [
        (true, "receiver.test", 2999, None),
        (false, "receiver.test", 2999, None),
        (true, "other.test", 2999, Some("tls: certificate is for another name")),
        (false, "other.test", 2999, Some("tls: certificate is for another name")),
        (true, "receiver.test", 2020, Some("tls: certificate has expired")),
        (false, "receiver.test", 2020, Some("tls: certificate has expired")),
    ] {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 12, 31);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (url, _) = receiver(acceptor(certificate.der().clone(), &key, b"http/1.1")).await;
        let trusting = endpoint(1, &url, doc! { "ca": certificate.pem() });
        match expected {
            None => succeeds(&client, &trusting).await,
            Some(expected) => assert_eq!(reason(&client, &trusting).await, expected, "{is_ca}"),
        }
        let another = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let trusting = endpoint(2, &url, doc! { "ca": another.pem() });
        let refused = reason(&client, &trusting).await;
        assert!(refused.starts_with("tls: "), "{refused}");
    }
}

#[tokio::test]
async fn a_client_s_certificate_is_shown_for_its_endpoint_alone() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let below = clients.intermediate("below");
    let client = client();
    for alpn in [&b"http/1.1"[..], b"h2"] {
        for optional in [true, false] {
            let asking = asking(&clients, optional);
            let (url, seen) = receiver(servers.acceptor_that(asking, "receiver.test", 2999, &[alpn])).await;
            let make = |number, tls| endpoint(number, &url, with_ca(tls, &servers));
            let one = make(1, shown(&clients, "one.test", ""));
            let two = make(2, shown(&below, "two.test", below.pem()));
            let nobody = make(3, doc! {});
            let stranger = make(4, shown(&Authority::new("strangers"), "four.test", ""));
            // All at once, and again while the connections of the others are kept.
            for _ in 0..2 {
                join_all([&one, &two, &one, &two].map(|endpoint| succeeds(&client, endpoint))).await;
                if optional {
                    succeeds(&client, &nobody).await;
                } else {
                    assert_shows_none(&client, &nobody).await;
                }
                assert_refused(&client, &stranger).await;
            }
            let by_connection: HashMap<_, _> = seen.lock().iter().cloned().collect();
            let certificates: Vec<_> = by_connection.values().flatten().collect();
            let different: std::collections::HashSet<_> = certificates.iter().collect();
            assert_eq!(different.len(), 2, "{} connections", by_connection.len());
            let shown_none = seen
                .lock()
                .iter()
                .filter(|(_, certificate)| certificate.is_none())
                .count();
            assert_eq!(shown_none, if optional { 2 } else { 0 });
            assert_eq!(seen.lock().len(), 8 + shown_none);
        }
    }
}

#[tokio::test]
async fn another_certificate_is_shown_over_another_connection() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let client = client();
    let acceptor = servers.acceptor_that(asking(&clients, false), "receiver.test", 2999, &[b"h2"]);
    let (url, seen) = receiver(acceptor).await;
    let before = endpoint(1, &url, with_ca(shown(&clients, "before.test", ""), &servers));
    let after = endpoint(1, &url, with_ca(shown(&clients, "after.test", ""), &servers));
    for endpoint in [&before, &before, &after, &after] {
        succeeds(&client, endpoint).await;
    }
    let seen = seen.lock();
    assert_eq!(seen.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert_ne!(seen[1].1, seen[2].1);
}

/// Gives a token for [`credentials`]. Returns its URL.
pub(crate) async fn token_server(acceptor: TlsAcceptor) -> String {
    const GRANT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"access_token\":\"over-tls\"}";
    let tokens = server(move |stream, _| {
        let acceptor = acceptor.clone();
        async move { one_answer(acceptor.accept(stream).await?, GRANT).await }
    });
    tokens.await.replace("http://", "https://")
}

#[tokio::test]
async fn token_servers_see_the_endpoint_s_certificates_too() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let acceptor = servers.acceptor_that(asking(&clients, false), "id.test", 2999, &[b"http/1.1"]);
    let tokens = token_server(acceptor).await.replace("127.0.0.1", "id.test");
    let client = client();
    let (url, seen) = receiver(servers.acceptor("receiver.test", 2999, b"http/1.1")).await;
    let with = |number, tls| Endpoint {
        auth: Auth::OAuth2(credentials(&tokens)),
        ..endpoint(number, &url, with_ca(tls, &servers))
    };
    succeeds(&client, &with(1, shown(&clients, "one.test", ""))).await;
    // The same credentials: a token that was given to another certificate is not for this one.
    let refused = reason(&client, &with(2, doc! {})).await;
    assert!(refused.starts_with("oauth2: token server: "), "{refused}");
    assert_eq!(seen.lock().len(), 1);
}

/// When a server closes without a word.
#[derive(Clone, Copy, Debug)]
enum Closes {
    BeforeTls,
    AfterTls,
    AfterTheRequest,
}

#[tokio::test]
async fn one_that_closes_without_a_word_may_refuse_the_certificate_it_was_shown() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let client = client();
    for closes in [Closes::BeforeTls, Closes::AfterTls, Closes::AfterTheRequest] {
        let acceptor = servers.acceptor_that(asking(&clients, true), "receiver.test", 2999, &[b"http/1.1"]);
        let url = server(move |mut stream, _| {
            let acceptor = acceptor.clone();
            async move {
                match closes {
                    // Its greeting is read: what is unread at the end would reset the connection.
                    Closes::BeforeTls => stream.read(&mut [0; 4096]).await.map(drop),
                    Closes::AfterTls => acceptor.accept(stream).await.map(drop),
                    Closes::AfterTheRequest => read_request(&mut acceptor.accept(stream).await?).await.map(drop),
                }
            }
        })
        .await;
        let url = https(&url);
        let shown = endpoint(1, &url, with_ca(shown(&clients, "one.test", ""), &servers));
        let refused = reason(&client, &shown).await;
        assert!(
            refused.ends_with(": perhaps the receiver refuses the client's certificate"),
            "{closes:?} {refused}"
        );
        let refused = reason(&client, &endpoint(2, &url, with_ca(doc! {}, &servers))).await;
        assert!(!refused.contains("certificate"), "{closes:?} {refused}");
    }
}
