//! An endpoint's own certificates: each must be readable, and the key must be that of the certificate.

use std::sync::Arc;

use bson::DateTime;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Error, InconsistentKeys, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Envelopes;
use super::field::{Fields, wrong_type};
use crate::model::printable;
use crate::platform::{End, Identity, Tls};

/// Of each field, in bytes.
const MAX_LENGTH: usize = 64 << 10;

/// What is kept of a subject, in bytes.
const MAX_SUBJECT: usize = 200;

const KEY: &str = "clientKey";

/// The endpoint's `tls`; `None` when it is absent, null or says nothing.
pub(super) fn read(endpoint: &Fields<'_>, envelopes: Envelopes<'_>) -> Result<Option<Arc<Tls>>, String> {
    let Some(value) = endpoint.present("tls")? else {
        return Ok(None);
    };
    let tls = value
        .as_document()
        .ok_or_else(|| wrong_type("tls", value, "a document"))?;
    let fields = Fields::read(tls, &["ca", "clientCert", KEY]);
    let tls = of_fields(&fields, envelopes).map_err(|reason| format!("`tls`: {reason}"))?;
    Ok(tls.map(Arc::new))
}

fn of_fields(fields: &Fields<'_>, envelopes: Envelopes<'_>) -> Result<Option<Tls>, String> {
    let ca = Certificates::read(fields, "ca")?;
    let chain = Certificates::read(fields, "clientCert")?;
    let key = key(fields, envelopes)?;
    if let Some(ca) = &ca {
        check_authorities(&ca.all)?;
    }
    let identity = match (chain, key) {
        (None, None) => None,
        (Some(chain), Some(key)) => Some((chain, key)),
        (Some(_), None) => return Err(format!("`clientCert` is there, but no `{KEY}`")),
        (None, Some(_)) => return Err(format!("`{KEY}` is there, but no `clientCert`")),
    };
    if ca.is_none() && identity.is_none() {
        return Ok(None);
    }
    let (authorities, mut ends) = ca.map_or_else(Default::default, |ca| (ca.all, ca.ends));
    ends.extend(identity.iter().flat_map(|(chain, _)| chain.ends.clone()));
    let identity = identity.map(|(chain, key)| Identity::new(chain.all, &key));
    let identity = identity.transpose().map_err(|error| why_unfit(&error))?;
    Ok(Some(Tls::new(authorities, identity, ends)))
}

/// Those of a field, at least one.
struct Certificates {
    all: Vec<CertificateDer<'static>>,
    ends: Vec<End>,
}

impl Certificates {
    fn read(fields: &Fields<'_>, name: &'static str) -> Result<Option<Self>, String> {
        let Some(text) = text(fields, name)? else {
            return Ok(None);
        };
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(lines(text).as_bytes()).collect();
        let all = all.map_err(|_| format!("`{name}` is not valid PEM"))?;
        if all.len() < blocks(text) {
            return Err(format!(
                "`{name}` holds a block of a certificate that is not BEGIN CERTIFICATE on a line of its own"
            ));
        }
        if all.is_empty() {
            return Err(format!("`{name}` holds no certificate in PEM"));
        }
        let ends: Option<Vec<_>> = all.iter().map(|certificate| end(name, certificate)).collect();
        let ends = ends.ok_or_else(|| format!("`{name}` holds something that is no certificate (X.509)"))?;
        Ok(Some(Self { all, ends }))
    }
}

fn end(field: &'static str, certificate: &CertificateDer<'_>) -> Option<End> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = parsed.validity().not_after.timestamp();
    let hash = Sha256::new().chain_update(field).chain_update(certificate).finalize();
    rest.is_empty().then(|| End {
        field,
        at: DateTime::from_millis(seconds.saturating_mul(1000)),
        subject: printable(parsed.subject().to_string().as_bytes(), MAX_SUBJECT).into(),
        fingerprint: i64::from_be_bytes(*hash.first_chunk().unwrap_or(&[0; 8])),
    })
}

fn check_authorities(authorities: &[CertificateDer<'static>]) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    authorities.iter().enumerate().try_for_each(|(index, authority)| {
        let added = store.add(authority.clone());
        added.map_err(|_| format!("certificate {} of `ca` can't be trusted as an authority", index + 1))
    })
}

fn key(fields: &Fields<'_>, envelopes: Envelopes<'_>) -> Result<Option<PrivateKeyDer<'static>>, String> {
    let Some(text) = text(fields, KEY)? else {
        return Ok(None);
    };
    let pem: SecretString = envelopes
        .read("tls.clientKey", text)
        .map_err(|why| format!("`{KEY}` {why}"))?;
    let pem = SecretString::from(lines(pem.expose_secret()));
    let key = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes());
    key.map(Some)
        .map_err(|_| format!("`{KEY}` holds no private key in PEM that is not locked by a passphrase"))
}

/// Without what editors and templates put at the ends of lines, and a byte order mark: a block that doesn't begin its line is passed over.
fn lines(text: &str) -> String {
    let is_around = |c: char| c.is_whitespace() || c == '\u{feff}';
    // It may be a key: no copy is left behind by growing.
    let mut lines = String::with_capacity(text.len() + 1);
    for line in text.lines() {
        lines.push_str(line.trim_matches(is_around));
        lines.push('\n');
    }
    lines
}

/// How many blocks of certificates there are, of whichever kind.
fn blocks(text: &str) -> usize {
    let labels = text
        .split("-----BEGIN ")
        .skip(1)
        .filter_map(|block| block.split_once("-----"));
    labels.filter(|(label, _)| label.ends_with("CERTIFICATE")).count()
}

/// Blank counts as absent: it is an input left empty.
fn text<'a>(fields: &Fields<'a>, name: &str) -> Result<Option<&'a str>, String> {
    match fields.text(name)?.filter(|text| !text.trim().is_empty()) {
        Some(text) if text.len() > MAX_LENGTH => Err(format!("`{name}` has more than {} KB", MAX_LENGTH >> 10)),
        text => Ok(text),
    }
}

/// The texts of other errors may quote what they found.
fn why_unfit(error: &Error) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            format!("`{KEY}` is not the key of the first certificate in `clientCert`")
        }
        Error::InvalidCertificate(_) => "the first certificate in `clientCert` can't be used".to_owned(),
        _ => format!(
            "`{KEY}` can't be used: expected RSA of 2048, 3072 or 4096 bits, ECDSA over P-256 or P-384, or Ed25519"
        ),
    }
}
