//! An address that requests go to: an endpoint's own, or its token server's.

use url::Url;

use super::EndpointPolicy;

/// The address that stands as `text` in the field `name`, without its fragment, which is never sent.
pub(super) fn read(name: &str, text: &str, policy: &EndpointPolicy) -> Result<Url, String> {
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
        Err(_) => Err(format!(
            "`{name}` is too long or holds characters that HTTP can't carry"
        )),
    }
}
