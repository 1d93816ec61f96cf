//! An address that requests go to: an endpoint's own, or its token server's.

use url::Url;

use super::EndpointPolicy;

/// In characters.
pub(super) const MAX_LENGTH: usize = 2048;

/// The address in `text`, the value of the field `name`, without its fragment, which is never sent.
pub(super) fn read(name: &str, text: &str, policy: &EndpointPolicy) -> Result<Url, String> {
    if text.chars().nth(MAX_LENGTH).is_some() {
        return Err(format!("`{name}` is longer than {MAX_LENGTH} characters"));
    }
    // The texts of url::ParseError are fixed: they quote nothing.
    let mut url = Url::parse(text).map_err(|error| format!("`{name}` is not a valid address: {error}"))?;
    match url.scheme() {
        "https" => {}
        "http" if policy.allow_http => {}
        "http" => {
            return Err(format!("`{name}` is http, expected https (delivery.allow_http is off)"));
        }
        _ => return Err(format!("`{name}` is not https")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "`{name}` holds a user name or password, which belong in fields of `auth`"
        ));
    }
    url.set_fragment(None);
    match url.as_str().parse::<http::Uri>() {
        Ok(_) => Ok(url),
        Err(_) => Err(format!("`{name}` holds characters that HTTP can't carry")),
    }
}
