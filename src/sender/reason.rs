//! What a failed request says to the operator: one line, the class first, without URL, secret or payload.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use super::proxy::NoTunnel;
use super::resolve::Unresolved;

/// The longest text that is taken over from elsewhere: a certificate can hold a thousand names.
const MAX_LENGTH: usize = 160;

const INVALID_HEAD: &str = "head of the response is not valid HTTP";

/// The reason why a request failed, found by the types in the error's chain, the innermost known one first.
pub(crate) fn of(error: &(dyn Error + 'static)) -> String {
    let chain: Vec<&(dyn Error + 'static)> = std::iter::successors(Some(error), |error| inner(*error)).collect();
    let known = chain.iter().rev().find_map(|error| known(*error));
    known.unwrap_or_else(|| one_line(&chain[chain.len() - 1].to_string()))
}

/// Whether a connection broke, which something between the two sides may have caused as well: not a name, an address, a
/// certificate, or what a proxy or the other side said.
pub(super) fn is_in_transit(error: &(dyn Error + 'static)) -> bool {
    find::<NoTunnel>(error).is_none()
        && find::<Unresolved>(error).is_none()
        && find::<rustls::Error>(error).is_none()
        && (find::<io::Error>(error).is_some()
            || find::<h2::Error>(error).is_some_and(h2::Error::is_io)
            || find::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message))
}

/// The first error of type `T` in `error`'s chain.
pub(super) fn find<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    std::iter::successors(Some(error), |error| inner(*error)).find_map(|error| error.downcast_ref())
}

/// The kinds of all `io::Error`s in `error`'s chain: one often carries another of a kind that says more.
pub(super) fn io_kinds(error: &(dyn Error + 'static)) -> impl Iterator<Item = io::ErrorKind> {
    let chain = std::iter::successors(Some(error), |error| inner(*error));
    chain.filter_map(|error| error.downcast_ref().map(io::Error::kind))
}

/// An error's cause. An `io::Error` that merely carries another one hides it from `source`.
fn inner<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

fn known(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<Unresolved>() {
        Some(one_line(&error.to_string()))
    } else if let Some(error) = error.downcast_ref::<NoTunnel>() {
        Some(one_line(&error.to_string()))
    } else if let Some(error) = error.downcast_ref::<rustls::Error>() {
        Some(format!("tls: {}", tls(error)))
    } else if let Some(error) = error.downcast_ref::<h2::Error>() {
        Some(format!("http/2: {}", http2(error)))
    } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
        http(error).map(str::to_owned)
    } else {
        error.downcast_ref::<io::Error>().and_then(io).map(str::to_owned)
    }
}

fn tls(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    let text = match error {
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => "certificate has expired",
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "certificate is not valid yet"
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "certificate is for another name"
        }
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => "certificate's issuer is not trusted",
        rustls::Error::InvalidMessage(_) => "the response is not TLS",
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the receiver asks for a client's certificate"
        }
        rustls::Error::AlertReceived(alert) if is_about_certificate(*alert) => {
            return format!("the receiver refuses the client's certificate: {alert:?}");
        }
        other => return one_line(&other.to_string()),
    };
    text.to_owned()
}

/// A server that says so of a certificate speaks of the client's.
fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    [
        Alert::UnknownCA,
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::AccessDenied,
    ]
    .contains(&alert)
}

fn http2(error: &h2::Error) -> String {
    // Before a response there is no other fault of a single stream that we find.
    if error.is_library() && error.is_reset() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR) {
        return INVALID_HEAD.to_owned();
    }
    one_line(&error.to_string())
}

fn http(error: &hyper::Error) -> Option<&'static str> {
    if error.is_incomplete_message() {
        Some("connection closed before a response")
    } else if error.is_parse_too_large() {
        Some("head of the response is too large")
    } else if error.is_parse() {
        Some(INVALID_HEAD)
    } else {
        None
    }
}

fn io(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some("connection refused"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Some("connection reset"),
        io::ErrorKind::HostUnreachable => Some("host unreachable"),
        io::ErrorKind::NetworkUnreachable => Some("network unreachable"),
        io::ErrorKind::TimedOut => Some("connection timed out"),
        io::ErrorKind::UnexpectedEof => Some("connection closed"),
        _ => None,
    }
}

/// Bounds a text that came from elsewhere, and takes its line breaks and other control characters out.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(MAX_LENGTH)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_one_bounded_line() {
        let reason = of(&io::Error::other(format!(
            "first\r\nsecond\u{1b}[31m{}",
            "é".repeat(1000)
        )));
        assert!(reason.starts_with("first  second [31mé"), "{reason}");
        assert_eq!(reason.chars().count(), MAX_LENGTH);
    }

    #[test]
    fn what_a_server_says_of_a_client_s_certificate_is_told() {
        use AlertDescription as Alert;
        for (alert, reason) in [
            (
                Alert::CertificateRequired,
                "tls: the receiver asks for a client's certificate",
            ),
            (
                Alert::UnknownCA,
                "tls: the receiver refuses the client's certificate: UnknownCA",
            ),
            (
                Alert::CertificateExpired,
                "tls: the receiver refuses the client's certificate: CertificateExpired",
            ),
            (Alert::HandshakeFailure, "tls: received fatal alert: HandshakeFailure"),
        ] {
            let error = io::Error::other(rustls::Error::AlertReceived(alert));
            assert_eq!(of(&error), reason);
        }
    }

    #[test]
    fn what_an_io_error_carries_decides() {
        let carried = io::Error::other(rustls::Error::InvalidCertificate(CertificateError::Expired));
        assert_eq!(of(&io::Error::other(carried)), "tls: certificate has expired");
        assert_eq!(of(&io::Error::from(io::ErrorKind::ConnectionReset)), "connection reset");
    }
}
