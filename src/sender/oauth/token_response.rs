//! What a token server's response means (RFC 6749, 5).

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;

/// How long a token is used whose server doesn't say how long it lasts (`expires_in` is only recommended): short for a token,
/// and one that is good for less still costs no event, because a 401 renews it.
const UNTOLD: Duration = Duration::from_secs(5 * 60);
/// No token is used for longer, whatever its server says.
const MAX_USE: Duration = Duration::from_secs(24 * 60 * 60);
/// A token is renewed this long before it expires, so that it is still good on arrival; short-lived ones a tenth before.
const MARGIN: Duration = Duration::from_secs(30);
/// The errors that are told to the operator: those of RFC 6749 (5.2 and 4.1.2.1) and RFC 8707. Another text could be anything,
/// also the secret.
const ERRORS: [&str; 10] = [
    "access_denied",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "server_error",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
];

/// The statuses with which a server refuses a client whose credentials it looks for elsewhere. Some send an error with a 200.
const ELSEWHERE: [u16; 6] = [200, 400, 401, 403, 422, 500];
/// The names of Bearer that servers use, in lower case. None at all means Bearer as well.
const BEARER: [&str; 5] = ["", "bearer", "bearertoken", "bearer_token", "bearer token"];
/// What some servers put before their JSON, although it must not be there (RFC 8259, 8.1).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A token as it was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The value of `Authorization`, marked sensitive.
    pub(super) authorization: HeaderValue,
    /// How long it may be used.
    pub(super) usable: Duration,
}

/// Why there is no token. Names no URL and no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::sender) enum NoToken {
    #[error("oauth2: token server: {0}")]
    Broken(String),
    /// The same, where a proxy on the way may have caused it.
    #[error("oauth2: token server: {0}")]
    BrokenInTransit(String),
    #[error("oauth2: the token server did not respond within the endpoint's timeout")]
    Timeout,
    #[error("oauth2: {0}")]
    Failed(String),
    /// It was not asked.
    #[error("{0}")]
    ProxyUnavailable(String),
    #[error("oauth2: token server answered {status}{}", .error.map(|error| format!(" {error}")).unwrap_or_default())]
    Refused { status: u16, error: Option<&'static str> },
    #[error("oauth2: token server answered {0}, redirects are not followed")]
    Redirect(u16),
    #[error("oauth2: token server answered {status} without a usable token: {what}")]
    Unusable { status: u16, what: &'static str },
}

impl NoToken {
    /// Whether a proxy on the way may have caused it.
    pub(in crate::sender) fn may_be_in_transit(&self) -> bool {
        matches!(self, Self::BrokenInTransit(_) | Self::Timeout)
    }

    /// Why the proxy is unavailable, if that is the reason.
    pub(in crate::sender) fn proxy_fault(&self) -> Option<&str> {
        match self {
            Self::ProxyUnavailable(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether the server may not have found the client's credentials where they are. Servers answer that with many statuses,
    /// and with any error.
    pub(super) fn is_about_client(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if ELSEWHERE.contains(status))
    }

    /// How much it tells of what is wrong, beside another refusal.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Refused { error: None, .. } => 0,
            Self::Refused {
                error: Some("invalid_request"),
                ..
            } => 1,
            // The word for wrong credentials, and also for none.
            Self::Refused {
                error: Some("invalid_client"),
                ..
            } => 2,
            _ => 3,
        }
    }
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<Value>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
}

/// The token in a response, or why there is none.
pub(super) fn read(status: StatusCode, body: &[u8]) -> Result<Grant, NoToken> {
    let code = status.as_u16();
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let denied: Option<Denied> = serde_json::from_slice(body).ok();
    let is_denied = denied.is_some();
    if status.is_redirection() {
        return Err(NoToken::Redirect(code));
    }
    match given(body) {
        Ok(grant) if status.is_success() => Ok(grant),
        Err(what) if status.is_success() && !is_denied => Err(NoToken::Unusable { status: code, what }),
        _ => {
            let error = denied.and_then(|Denied { error }| ERRORS.into_iter().find(|known| *known == error));
            Err(NoToken::Refused { status: code, error })
        }
    }
}

fn given(body: &[u8]) -> Result<Grant, &'static str> {
    let given: Given = serde_json::from_slice(body).map_err(|_| "no JSON object with an access_token")?;
    // A type that isn't understood must not be used (RFC 6749, 7.1).
    let token_type = given.token_type.unwrap_or_default().trim().to_ascii_lowercase();
    if !BEARER.contains(&&*token_type) {
        return Err("its token_type is not Bearer");
    }
    if given.access_token.is_empty() {
        return Err("its access_token is empty");
    }
    let mut authorization = HeaderValue::try_from(format!("Bearer {}", given.access_token))
        .map_err(|_| "its access_token holds a character that no header may hold")?;
    authorization.set_sensitive(true);
    Ok(Grant {
        authorization,
        usable: usable(given.expires_in.as_ref()),
    })
}

/// How long a token is used that expires in this many seconds. Some servers write the number as a string.
fn usable(expires_in: Option<&Value>) -> Duration {
    let seconds = match expires_in {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_f64(),
        None => None,
    };
    let Some(seconds) = seconds else { return UNTOLD };
    // NaN, which only a string can hold, counts as 0.
    let lifetime = Duration::from_secs_f64(seconds.max(0.0).min(MAX_USE.as_secs_f64()));
    lifetime - MARGIN.min(lifetime / 10)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn used(expires_in: Value) -> u64 {
        usable(Some(&expires_in)).as_secs()
    }

    #[test]
    fn a_token_is_renewed_shortly_before_it_expires() {
        assert_eq!(used(json!(3600)), 3570);
        assert_eq!(used(json!("3600")), 3570);
        assert_eq!(used(json!(3600.5)), 3570);
        assert_eq!(used(json!(60)), 54);
        assert_eq!(used(json!(0)), 0);
    }

    #[test]
    fn an_absurd_lifetime_is_bounded_and_an_untold_one_short() {
        assert_eq!(used(json!(1e300)), 24 * 3600 - 30);
        assert_eq!(used(json!("inf")), 24 * 3600 - 30);
        assert_eq!((used(json!(-5)), used(json!("NaN"))), (0, 0));
        assert_eq!(
            (used(json!("soon")), used(json!(null)), usable(None)),
            (300, 300, UNTOLD)
        );
    }

    #[test]
    fn only_known_errors_are_told() {
        let told = |body: &str| read(StatusCode::BAD_REQUEST, body.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            told(r#"{"error":"invalid_client","error_description":"s3cret"}"#),
            "oauth2: token server answered 400 invalid_client"
        );
        for other in [r#"{"error":"s3cret"}"#, r#"{"error":{"s3cret":1}}"#, "s3cret", ""] {
            assert_eq!(told(other), "oauth2: token server answered 400");
        }
    }
}
