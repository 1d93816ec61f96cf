//! Links from one page to another, relative to the first: a proxy may serve them under a path of its own. Ids may hold anything, so
//! every character that could mean something in a link is percent-encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `endpoint/ORGANIZATION/ENDPOINT`; `None` where a browser would take a part for a step up, or for nothing.
pub(super) fn to_endpoint(organization: &str, endpoint: &str) -> Option<String> {
    let is_name = |part: &str| !matches!(part, "" | "." | "..");
    let is_linkable = is_name(organization) && is_name(endpoint);
    is_linkable.then(|| format!("endpoint/{}/{}", encoded(organization), encoded(endpoint)))
}

/// `show?id=ID`
pub(super) fn to_show(id: &str) -> String {
    format!("show?id={}", encoded(id))
}

/// As a part of a path, or a value of a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_can_change_where_a_link_leads() {
        for (organization, endpoint, link) in [
            ("o", "e-1_~.x", Some("endpoint/o/e-1_~.x")),
            ("o/../..", "a?b#c&d=1", Some("endpoint/o%2F..%2F../a%3Fb%23c%26d%3D1")),
            (
                "javascript:x",
                "\"><b>'",
                Some("endpoint/javascript%3Ax/%22%3E%3Cb%3E%27"),
            ),
            ("é\u{202e}", "a b\n%2f", Some("endpoint/%C3%A9%E2%80%AE/a%20b%0A%252f")),
            ("o", "", None),
            ("", "e", None),
            ("o", "..", None),
            (".", "e", None),
        ] {
            assert_eq!(to_endpoint(organization, endpoint).as_deref(), link);
        }
        assert_eq!(to_show("a b/c&id=d+e"), "show?id=a%20b%2Fc%26id%3Dd%2Be");
    }
}
