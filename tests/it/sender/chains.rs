//! Chains of certificates, as receivers send them to an endpoint that trusts authorities of its own.

use std::sync::Arc;

use bson::doc;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::own_certificates::{endpoint, reason, receiver, succeeds};
use super::tls::client;

/// An authority and its certificate, which ends with that year.
struct Link {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

fn link(name: &str, year: i32, above: Option<&Link>) -> Link {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = date_time_ymd(year, 12, 31);
    let key = KeyPair::generate().unwrap();
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Link {
        der: certificate.der().clone(),
        pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

/// Sends a certificate for receiver.test by `issuer`, and `chain` after it.
fn sending(issuer: &Link, chain: &[&Link]) -> TlsAcceptor {
    let mut params = CertificateParams::new(["receiver.test".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2999, 12, 31);
    let key = KeyPair::generate().unwrap();
    let mut certificates = vec![params.signed_by(&key, &issuer.issuer).unwrap().der().clone()];
    certificates.extend(chain.iter().map(|link| link.der.clone()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    TlsAcceptor::from(Arc::new(config.with_single_cert(certificates, key).unwrap()))
}

const UNTRUSTED: &str = "tls: certificate's issuer is not trusted";

#[tokio::test]
async fn a_chain_is_followed_to_an_authority_of_the_endpoint_s() {
    let client = client();
    let (root, other) = (link("root", 2999, None), link("other", 2999, None));
    let middle = link("middle", 2999, Some(&root));
    let lapsed = link("lapsed", 2020, Some(&root));
    let former = link("former", 2020, None);
    let ended = Some("tls: certificate has expired");
    let table = [
        // Who is trusted, who issued, what the receiver sends with it.
        ("the whole chain", &[&root][..], &middle, &[&middle][..], None),
        ("with the root", &[&root], &middle, &[&middle, &root], None),
        ("in another order", &[&root], &middle, &[&root, &middle], None),
        ("beside a stranger", &[&other, &root], &middle, &[&other, &middle], None),
        ("the middle left out", &[&root], &middle, &[], Some(UNTRUSTED)),
        ("which is trusted itself", &[&middle], &middle, &[], None),
        ("all of it trusted", &[&root, &middle], &middle, &[], None),
        (
            "to another root",
            &[&other],
            &middle,
            &[&middle, &root],
            Some(UNTRUSTED),
        ),
        ("the middle has ended", &[&root], &lapsed, &[&lapsed], ended),
        ("but is trusted itself", &[&lapsed], &lapsed, &[], None),
        ("the authority has ended", &[&former], &former, &[], None),
    ];
    for (what, trusted, issuer, chain, refused) in table {
        let (url, _) = receiver(sending(issuer, chain)).await;
        let ca: String = trusted.iter().map(|link| link.pem.as_str()).collect();
        let trusting = endpoint(1, &url, doc! { "ca": ca });
        match refused {
            None => succeeds(&client, &trusting).await,
            Some(refused) => assert_eq!(reason(&client, &trusting).await, refused, "{what}"),
        }
    }
}
