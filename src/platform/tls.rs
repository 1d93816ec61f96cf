//! Certificates of an endpoint's own: whom it trusts besides the system's authorities, and what shows it who sends.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use bson::DateTime;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest, Sha256};

/// Who may have to do something about a certificate is told this long before it ends.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// What holds for the connections of one endpoint, and of no other. Kept as DER: what a connection needs is built from it, and much larger.
pub struct Tls {
    /// Trusted besides the system's.
    pub authorities: Vec<CertificateDer<'static>>,
    /// What is shown to a server that asks.
    pub identity: Option<Identity>,
    /// When each of its certificates ends, the first that does first.
    ends: Vec<End>,
    /// The same for the same certificates and key.
    pub fingerprint: [u8; 32],
}

/// A certificate with its chain and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: SecretSlice<u8>,
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The field of `tls` that holds it.
    pub field: &'static str,
    /// Its `notAfter`.
    pub at: DateTime,
    /// Whom it names: text from outside, printable and cut.
    pub subject: Box<str>,
    /// The same for the same certificate in the same field.
    pub fingerprint: i64,
}

impl Tls {
    /// `ends` is of all certificates in it, in any order.
    pub fn new(authorities: Vec<CertificateDer<'static>>, identity: Option<Identity>, mut ends: Vec<End>) -> Self {
        ends.sort_by_key(|end| end.at);
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update(bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        authorities.iter().for_each(|authority| add(authority));
        if let Some(identity) = &identity {
            add(identity.key.expose_secret());
            identity.chain.iter().for_each(|certificate| add(certificate));
        }
        Self {
            fingerprint: hash.finalize().into(),
            authorities,
            identity,
            ends,
        }
    }

    /// Those of its certificates that have ended at `now` or will within 14 days, the first to end first.
    pub fn ending(&self, now: DateTime) -> impl Iterator<Item = &End> {
        let soon = now.saturating_add_duration(SOON);
        self.ends.iter().take_while(move |end| end.at <= soon)
    }

    /// What is said of those that end, at most one line for each field and one more for what has ended already.
    pub fn warnings(&self, now: DateTime) -> Vec<String> {
        let mut said = HashSet::new();
        let first = |end: &&End| said.insert((end.field, end.at <= now));
        let first: Vec<_> = self.ending(now).filter(first).collect();
        first.into_iter().map(|end| end.warning(now)).collect()
    }
}

impl Identity {
    /// `chain` begins with the certificate that `key` belongs to.
    ///
    /// # Errors
    /// The key can't be used, or belongs to another certificate.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Self, rustls::Error> {
        let key = SecretSlice::from(key.secret_der().to_vec());
        let identity = Self { chain, key };
        identity.certified(&rustls::crypto::ring::default_provider())?;
        Ok(identity)
    }

    /// As a connection needs it.
    ///
    /// # Errors
    /// See [`Identity::new`].
    pub fn certified(&self, provider: &CryptoProvider) -> Result<CertifiedKey, rustls::Error> {
        let key = PrivateKeyDer::try_from(self.key.expose_secret());
        let key = key.map_err(|reason| rustls::Error::General(reason.into()))?;
        CertifiedKey::from_der(self.chain.clone(), key.clone_key(), provider)
    }
}

impl End {
    fn warning(&self, now: DateTime) -> String {
        let ends = if self.at > now { "ends" } else { "has ended" };
        let at = self.at.try_to_rfc3339_string().unwrap_or_default();
        format!("`tls`: a certificate of `{}` {ends}: {at}", self.field)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.len())
            .field("identity", &self.identity.is_some())
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}
