//! Whom connections trust: the system's authorities and, to one endpoint, those that its organization named besides.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::platform::Tls;

/// Sessions that are kept to be resumed, of an endpoint with certificates of its own.
const SESSIONS: usize = 4;

/// A configuration that trusts the system's authorities, read now.
pub(crate) fn tls_config() -> Result<ClientConfig, Error> {
    Trust::of_system()?.config()
}

/// What connections trust by default.
#[derive(Clone)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    system: Arc<Verifier>,
}

impl Trust {
    /// The system's authorities, read now.
    pub(super) fn of_system() -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self {
            system: Arc::new(Verifier::new(Arc::clone(&provider))?),
            provider,
        })
    }

    /// For endpoints and servers without certificates of their own.
    pub(super) fn config(&self) -> Result<ClientConfig, Error> {
        self.config_with(Arc::clone(&self.system) as _)
    }

    /// For the endpoint that `tls` was configured for.
    pub(super) fn config_of(&self, tls: &Tls) -> Result<ClientConfig, Error> {
        let verifier: Arc<dyn ServerCertVerifier> = match &*tls.authorities {
            [] => Arc::clone(&self.system) as _,
            authorities => Arc::new(self.with_authorities(authorities)?),
        };
        let mut config = self.config_with(verifier)?;
        if let Some(identity) = &tls.identity {
            let certified = identity.certified(&self.provider)?;
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        }
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(config)
    }

    fn config_with(&self, verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, Error> {
        Ok(ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth())
    }

    fn with_authorities(&self, authorities: &[CertificateDer<'static>]) -> Result<SystemOrListed, Error> {
        let mut store = RootCertStore::empty();
        for authority in authorities {
            store.add(authority.clone())?;
        }
        let own = WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(&self.provider)).build();
        Ok(SystemOrListed {
            listed: authorities.to_vec(),
            own: own.map_err(|error| Error::General(error.to_string()))?,
            system: Arc::clone(&self.system),
        })
    }
}

/// Trusts a certificate that either of two trusts. The system's 140 authorities are not copied for each endpoint.
#[derive(Debug)]
struct SystemOrListed {
    listed: Vec<CertificateDer<'static>>,
    own: Arc<WebPkiServerVerifier>,
    system: Arc<Verifier>,
}

impl ServerCertVerifier for SystemOrListed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.listed.contains(end_entity) {
            return verify_itself(end_entity, server_name, now);
        }
        let by_own = self
            .own
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(refused) = by_own else { return by_own };
        let by_system = self
            .system
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // Where its own authorities issued the certificate, they say what is wrong with it.
        match refused {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => by_system,
            refused => by_system.map_err(|_| refused),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.own.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.own.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.own.supported_verify_schemes()
    }
}

/// A receiver's certificate that is itself among those to be trusted. `openssl req -x509` makes it an
/// authority's as well, and webpki accepts an authority's certificate from no receiver.
fn verify_itself(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let (validity, now) = (parsed.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    Ok(ServerCertVerified::assertion())
}
