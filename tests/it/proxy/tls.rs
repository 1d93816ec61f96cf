//! TLS through the tunnel, and to the proxy itself.

use certhookd::model::Outcome;
use certhookd::sender::Proxy;
use http::Version;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::support::{Scripted, client, proxy};
use super::{back, unavailable};
use crate::sender::support::{endpoint, failure, message, now, rerun, server};
use crate::sender::tls::Authority;

/// Serves HTTP/1.1 or HTTP/2, whichever was agreed on. Returns the port.
async fn receiver(acceptor: TlsAcceptor) -> u16 {
    let url = server(move |stream: TcpStream, _| {
        let acceptor = acceptor.clone();
        async move {
            let stream = hyper_util::rt::TokioIo::new(acceptor.accept(stream).await?);
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(String::from("thanks")))
            });
            let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            builder
                .serve_connection(stream, service)
                .await
                .map_err(std::io::Error::other)
        }
    })
    .await;
    url.rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap()
}

async fn version(proxy: &Proxy, url: &str) -> Version {
    let (outcome, response) = client(proxy).inspect(&endpoint(url), &message(), now()).await;
    assert!(matches!(outcome, Outcome::Delivered { .. }), "{outcome:?}");
    response.unwrap().version
}

/// Runs itself again with `SSL_CERT_FILE` set, and writes the authority there before the client reads it.
#[tokio::test]
async fn both_versions_of_http_go_through_the_tunnel_and_the_endpoint_s_name_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.pem").to_str().unwrap().to_owned();
    let name = concat!(
        module_path!(),
        "::both_versions_of_http_go_through_the_tunnel_and_the_endpoint_s_name_is_checked"
    );
    if rerun(name, &[("SSL_CERT_FILE", bundle), ("SSL_CERT_DIR", String::new())]) {
        return;
    }
    let authority = Authority::new("trusted");
    std::fs::write(std::env::var("SSL_CERT_FILE").unwrap(), authority.pem()).unwrap();
    let plain = Scripted::start().await;
    let encrypted = Scripted::over(Some(authority.acceptor("proxy.test", 2999, b"http/1.1"))).await;
    let encrypted_url = format!("https://proxy.test:{}", encrypted.address.port());
    for proxy in [proxy(&plain.url(), ""), proxy(&encrypted_url, "")] {
        let protocols: [(&[&[u8]], Version); 3] = [
            (&[b"h2", b"http/1.1"], Version::HTTP_2),
            (&[b"http/1.1"], Version::HTTP_11),
            (&[], Version::HTTP_11),
        ];
        for (offered, expected) in protocols {
            let port = receiver(authority.acceptor_of("receiver.test", 2999, offered)).await;
            assert_eq!(
                version(&proxy, &format!("https://receiver.test:{port}/")).await,
                expected
            );
        }
        let port = receiver(authority.acceptor("other.test", 2999, b"http/1.1")).await;
        let hook = endpoint(&format!("https://receiver.test:{port}/"));
        let failed = failure(client(&proxy).attempt(&hook, &message(), now()).await);
        assert_eq!(failed.reason, "tls: certificate is for another name");
        assert!(proxy.outage().is_none());
    }
    assert_eq!((plain.targets().len(), encrypted.targets().len()), (4, 4));

    a_proxy_that_is_not_trusted(&authority).await;
}

async fn a_proxy_that_is_not_trusted(authority: &Authority) {
    let table = [
        (
            authority.acceptor("other.test", 2999, b"http/1.1"),
            "tls: certificate is for another name",
        ),
        (
            authority.acceptor("proxy.test", 2020, b"http/1.1"),
            "tls: certificate has expired",
        ),
        (
            Authority::new("other").acceptor("proxy.test", 2999, b"http/1.1"),
            "tls: certificate's issuer is not trusted",
        ),
    ];
    for (acceptor, expected) in table {
        let scripted = Scripted::over(Some(acceptor)).await;
        let name = format!("proxy.test:{}", scripted.address.port());
        let proxy = proxy(&format!("https://{name}"), "");
        let hook = endpoint("https://127.0.0.1:9/");
        let reason = unavailable(client(&proxy).attempt(&hook, &message(), now()).await);
        assert_eq!(reason, format!("the proxy {name} can't be reached: {expected}"));
        assert_eq!(scripted.asked(), []);
        // Without a proxy the outage is over.
        let none = super::support::configured("", "").delivery;
        proxy.replace(none.proxy, none.no_proxy).unwrap();
        back(&proxy).await;
    }
}
