//! The status of a response whose head the parser refuses: the receiver has said what it thinks of the delivery, whatever else
//! stands there.

use http::StatusCode;

/// The status in the first bytes of a response over HTTP/1; those of a 100 or 103 before it are passed over.
///
/// What curl or Node takes for a status line is one: any case and version, several spaces.
pub(super) fn status(mut sent: &[u8]) -> Option<StatusCode> {
    loop {
        sent = sent.trim_ascii_start();
        let status = in_line(sent)?;
        if !status.is_informational() {
            return Some(status);
        }
        sent = after_head(sent)?;
    }
}

fn in_line(line: &[u8]) -> Option<StatusCode> {
    let (protocol, rest) = line.split_at_checked("HTTP/".len())?;
    if !protocol.eq_ignore_ascii_case(b"HTTP/") {
        return None;
    }
    let version = rest.iter().position(|byte| *byte == b' ')?;
    if version == 0
        || !rest[..version]
            .iter()
            .all(|byte| byte.is_ascii_digit() || *byte == b'.')
    {
        return None;
    }
    let rest = &rest[version..];
    let code = &rest[rest.iter().position(|byte| *byte != b' ')?..];
    match code {
        [_, _, _, more, ..] if more.is_ascii_digit() => None,
        [_, _, _, _, ..] => StatusCode::from_bytes(&code[..3]).ok(),
        _ => None,
    }
}

/// What follows the empty line.
fn after_head(sent: &[u8]) -> Option<&[u8]> {
    let ends = |at: &usize| sent[*at..].starts_with(b"\n\r\n") || sent[*at..].starts_with(b"\n\n");
    (0..sent.len()).find(ends).map(|at| &sent[at..])
}
