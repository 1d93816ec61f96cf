//! Certificates of an endpoint's own.

use bson::DateTime;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, date_time_ymd};

use super::*;
use crate::envelope::Envelopes;

const KEYS: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A certificate that signs itself, and its key, as PEM. It ends with that year.
fn identity(year: i32) -> (String, String) {
    identity_of(year, KeyPair::generate().unwrap())
}

fn identity_of(year: i32, key: KeyPair) -> (String, String) {
    let mut params = CertificateParams::new(["certhookd.test".to_owned()]).unwrap();
    params.not_after = date_time_ymd(year, 12, 31);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn tls(fields: Document) -> Document {
    with("tls", fields)
}

#[test]
fn certificates_are_read_and_the_first_that_ends_is_known() {
    let (one, key) = identity(2040);
    let (other, _) = identity(2030);
    let (edwards, edwards_key) = identity_of(2050, KeyPair::generate_for(&PKCS_ED25519).unwrap());
    let organization = id(9).to_hex();
    let endpoint_key = EndpointKey::from_stored(&format!("{organization}/{}", id(1)));
    let policy = EndpointPolicy {
        keys: EncryptionKeys::parse(KEYS).unwrap(),
        ..HTTPS_ONLY
    };
    let envelopes = Envelopes {
        keys: &policy.keys,
        endpoint: &endpoint_key,
    };
    let encrypted = envelopes.encrypt("tls.clientKey", &key.as_str().into()).unwrap();
    let windows = one.replace('\n', "\r\n");
    let both = format!("ours:\n{one}\nand theirs:\n{other}");
    let chain = format!("{one}{other}");
    let table = [
        (doc! { "ca": &one }, 1, false, ("ca", 2040)),
        (doc! { "ca": both }, 2, false, ("ca", 2030)),
        (
            doc! { "ca": windows, "clientCert": "", "clientKey": null },
            1,
            false,
            ("ca", 2040),
        ),
        (
            doc! { "clientCert": &one, "clientKey": &key },
            0,
            true,
            ("clientCert", 2040),
        ),
        (
            doc! { "clientCert": chain, "clientKey": &key },
            0,
            true,
            ("clientCert", 2030),
        ),
        (
            doc! { "ca": &one, "clientCert": edwards, "clientKey": edwards_key },
            1,
            true,
            ("ca", 2040),
        ),
        (
            doc! { "ca": &other, "clientCert": &one, "clientKey": &encrypted },
            1,
            true,
            ("ca", 2030),
        ),
    ];
    for (fields, authorities, has_identity, (field, year)) in table {
        let config = parse_endpoints([tls(fields.clone())], &policy);
        assert_eq!(config.refused, [], "{fields}");
        let endpoint = &sound(&config)[0];
        let read = endpoint.tls.as_ref().unwrap();
        assert_eq!(
            (read.authorities.len(), read.identity.is_some()),
            (authorities, has_identity),
            "{fields}"
        );
        let at = DateTime::parse_rfc3339_str(format!("{year}-12-31T00:00:00Z")).unwrap();
        let first = read.ending(DateTime::MAX).next().unwrap();
        assert_eq!((first.field, first.at), (field, at), "{fields}");
        assert_eq!(&*first.subject, "CN=rcgen self signed cert");
        assert!(!format!("{endpoint:?}").contains("PRIVATE"));
    }
    for nothing in [Bson::Null, doc! {}.into(), doc! { "ca": " ", "other": 1 }.into()] {
        assert!(
            sound(&parse_endpoints([with("tls", nothing)], &HTTPS_ONLY))[0]
                .tls
                .is_none()
        );
    }
}

macro_rules! openssl {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/data/certificates/", $name, ".pem"))
    };
}

#[test]
fn keys_as_openssl_writes_them_are_read_if_they_can_be_used() {
    let locked = "`tls`: `clientKey` holds no private key in PEM that is not locked by a passphrase";
    let unusable = "`tls`: `clientKey` can't be used: expected RSA of 2048, 3072 or 4096 bits, ECDSA over P-256 or P-384, or Ed25519";
    for (certificate, key, refused) in [
        (openssl!("rsa"), openssl!("rsa-pkcs1-key"), None),
        (openssl!("rsa"), openssl!("rsa-pkcs8-key"), None),
        (openssl!("rsa-3072"), openssl!("rsa-3072-key"), None),
        (openssl!("p384"), openssl!("p384-sec1-key"), None),
        (openssl!("p256"), openssl!("p256-parameters-key"), None),
        (openssl!("ed25519"), openssl!("ed25519-key"), None),
        (openssl!("rsa"), openssl!("rsa-locked-key"), Some(locked)),
        (openssl!("rsa"), openssl!("rsa-locked-pkcs1-key"), Some(locked)),
        (openssl!("rsa-8192"), openssl!("rsa-8192-key"), Some(unusable)),
        (openssl!("rsa-2560"), openssl!("rsa-2560-key"), Some(unusable)),
        (openssl!("p521"), openssl!("p521-sec1-key"), Some(unusable)),
        (openssl!("rsa-1024"), openssl!("rsa-1024-key"), Some(unusable)),
    ] {
        let fields = doc! { "clientCert": certificate, "clientKey": key };
        let config = parse_endpoints([tls(fields)], &HTTPS_ONLY);
        let reason = config.refused.first().map(|refused| refused.reason.as_str());
        assert_eq!(reason, refused);
    }
}

/// As editors, templates and other tools write them: none of the certificates gets lost.
#[test]
fn all_certificates_of_a_field_are_read_or_it_is_refused() {
    let (one, key) = identity(2040);
    let (other, _) = identity(2030);
    let indented = |text: &str| text.lines().map(|line| format!("\t  {line} \n")).collect::<String>();
    let both = format!("{one}{other}");
    let marks = |kind: &str| both.replace("CERTIFICATE-----", &format!("{kind} CERTIFICATE-----"));
    let unlike = Some("`tls`: `ca` holds a block of a certificate that is not BEGIN CERTIFICATE on a line of its own");
    let table = [
        (both.clone(), None),
        (format!("\u{feff}{both}"), None),
        (indented(&both), None),
        (both.replace('\n', "\r"), None),
        (both.replace('\n', " \r\n"), None),
        (format!("{one}\n\u{feff}{other}"), None),
        (format!("{key}{one}{other}"), None),
        (format!("root: {both}"), unlike),
        (format!("{one}next: {other}"), unlike),
        (format!("{one}{}", openssl!("p256-trusted")), unlike),
        (marks("X509"), unlike),
        (
            format!("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n{both}"),
            None,
        ),
    ];
    for (ca, refused) in table {
        let config = parse_endpoints([tls(doc! { "ca": &ca })], &HTTPS_ONLY);
        let reason = config.refused.first().map(|refused| refused.reason.as_str());
        assert_eq!(reason, refused, "{ca}");
        if refused.is_none() {
            assert_eq!(sound(&config)[0].tls.as_ref().unwrap().authorities.len(), 2, "{ca}");
        }
    }
    for (cert, key) in [
        (format!("\u{feff}{both}"), format!("\u{feff}{key}")),
        (indented(&both), indented(&key)),
        (format!("{key}{both}"), format!("{both}{key}")),
    ] {
        let config = parse_endpoints([tls(doc! { "clientCert": cert, "clientKey": key })], &HTTPS_ONLY);
        assert_eq!(config.refused, []);
    }
}

#[test]
fn certificates_that_make_no_sense_take_their_endpoint_out_of_service() {
    let (cert, key) = identity(2040);
    let (_, other_key) = identity(2040);
    let cut = &cert[..cert.len() / 2];
    let damaged = cert.replacen("MII", "!!!", 1);
    let truncated = |pem: &str| {
        let lines: Vec<_> = pem.lines().collect();
        [&lines[..2], &lines[lines.len() - 1..]].concat().join("\n")
    };
    let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let no_passphrase = "`tls`: `clientKey` holds no private key in PEM that is not locked by a passphrase";
    let no_cert = "`tls`: `clientCert` holds no certificate in PEM";
    let no_x509 = "`tls`: `clientCert` holds something that is no certificate (X.509)";
    let unusable = "`tls`: `clientKey` can't be used: expected RSA";
    let pair = |cert: &str, key: &str| doc! { "clientCert": cert, "clientKey": key };
    let secret = |text: &str| format!("{SECRET}{text}");
    let table = [
        (doc! { "ca": 1 }, "`tls`: `ca` is a number, expected a string"),
        (doc! { "ca": SECRET }, "`tls`: `ca` holds no certificate in PEM"),
        (doc! { "ca": &key }, "`tls`: `ca` holds no certificate in PEM"),
        (doc! { "ca": cut }, "`tls`: `ca` is not valid PEM"),
        (doc! { "ca": damaged }, "`tls`: `ca` is not valid PEM"),
        (doc! { "ca": cert.replace('\n', "\\n") }, "`tls`: `ca`"),
        (
            doc! { "ca": truncated(&cert) },
            "`tls`: `ca` holds something that is no certificate (X.509)",
        ),
        (
            doc! { "ca": format!("{cert}{}", truncated(&cert)) },
            "`tls`: `ca` holds something",
        ),
        (doc! { "ca": "x".repeat(70_000) }, "`tls`: `ca` has more than 64 KB"),
        (
            doc! { "clientCert": &cert },
            "`tls`: `clientCert` is there, but no `clientKey`",
        ),
        (
            doc! { "clientKey": &key },
            "`tls`: `clientKey` is there, but no `clientCert`",
        ),
        (
            doc! { "ca": &cert, "clientKey": &key },
            "`tls`: `clientKey` is there, but no `clientCert`",
        ),
        (
            pair(&cert, &other_key),
            "`tls`: `clientKey` is not the key of the first certificate in `clientCert`",
        ),
        (pair(&cert, &secret("")), no_passphrase),
        (pair(&cert, &locked), no_passphrase),
        (pair(&cert, &cert), no_passphrase),
        (pair(&cert, &truncated(&key)), unusable),
        (pair(&key, &key), no_cert),
        (pair(&truncated(&cert), &key), no_x509),
        (
            pair(&cert, "enc:v1:k1:AAAA"),
            "`tls`: `clientKey` is encrypted with the key k1, and no key is configured",
        ),
    ];
    for (fields, reason) in table {
        let config = parse_endpoints([endpoint(2), tls(fields.clone()), endpoint(3)], &HTTPS_ONLY);
        assert_eq!(sound(&config).len(), 2, "{fields}");
        let refused = &config.refused[0].reason;
        assert!(refused.starts_with(reason), "{refused}, not {reason}");
        assert!(
            !refused.contains(SECRET) && !refused.contains('\n') && refused.len() < 200,
            "{refused}"
        );
    }
    let config = parse_endpoints([with("tls", vec![1])], &HTTPS_ONLY);
    assert_eq!(config.refused[0].reason, "`tls` is an array, expected a document");
}

#[test]
fn a_certificate_that_ends_within_fourteen_days_is_told_of() {
    let (cert, _) = identity(2040);
    let config = parse_endpoints([tls(doc! { "ca": cert })], &HTTPS_ONLY);
    let tls = sound(&config)[0].tls.clone().unwrap();
    let end = DateTime::parse_rfc3339_str("2040-12-31T00:00:00Z").unwrap();
    let day = 86_400_000;
    for (before, said) in [
        (15 * day, None),
        (14 * day + 1, None),
        (14 * day, Some("ends")),
        (1, Some("ends")),
        (0, Some("has ended")),
        (-day, Some("has ended")),
    ] {
        let now = DateTime::from_millis(end.timestamp_millis() - before);
        let said = said.map(|said| format!("`tls`: a certificate of `ca` {said}: 2040-12-31T00:00:00Z"));
        assert_eq!(tls.warnings(now), Vec::from_iter(said), "{before}");
    }
}

#[test]
fn one_that_has_ended_hides_none_that_ends_soon() {
    let years = [2030, 2031, 2040, 2040].map(|year| identity(year).0);
    let (cert, key) = identity(2040);
    let fields = doc! { "ca": years.concat(), "clientCert": cert, "clientKey": key };
    let config = parse_endpoints([tls(fields)], &HTTPS_ONLY);
    let tls = sound(&config)[0].tls.clone().unwrap();
    let now = DateTime::parse_rfc3339_str("2040-12-25T00:00:00Z").unwrap();
    let said = [
        "`tls`: a certificate of `ca` has ended: 2030-12-31T00:00:00Z",
        "`tls`: a certificate of `ca` ends: 2040-12-31T00:00:00Z",
        "`tls`: a certificate of `clientCert` ends: 2040-12-31T00:00:00Z",
    ];
    assert_eq!(tls.warnings(now), said);
    let different: std::collections::HashSet<_> = tls.ending(now).map(|end| end.fingerprint).collect();
    assert_eq!(different.len(), 5);
}
