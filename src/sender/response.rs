//! What a response means.

use std::time::Duration;

use bson::DateTime;
use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use super::mask::Secrets;
use crate::model::{Failure, Outcome, printable};

/// The most of a response's body that is read.
const MAX_BODY: usize = 64 * 1024;
/// The longest that the rest of a response is waited for. Its status has decided by then; the rest is only read so that
/// the connection can be used again, which is not worth more.
const DRAIN: Duration = Duration::from_millis(250);
/// This much of a response is shown and kept, in bytes.
const EXCERPT: usize = 1024;
/// The longest `Retry-After` that is taken at its word.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What follows a response's head; nothing where the head couldn't be parsed.
pub(super) type Body = Either<Incoming, Empty<Bytes>>;

/// What the response's head says of the attempt that took `elapsed`, `connect` of it until there was a connection: the status decides, whatever the body does.
pub(super) fn judge(head: &Response<Body>, now: DateTime, elapsed: Duration, connect: Duration) -> Outcome {
    let (status, connect) = (head.status(), Some(connect));
    if status.is_success() {
        return Outcome::Delivered {
            status: status.as_u16(),
            elapsed,
            connect,
        };
    }
    let failure = Failure {
        status: Some(status.as_u16()),
        reason: reason(status),
        retry_after: retry_after(status, head.headers(), now),
        elapsed,
        connect,
        ..Failure::default()
    };
    if status == StatusCode::GONE {
        Outcome::Gone(failure)
    } else {
        Outcome::TransientFailure(failure)
    }
}

fn reason(status: StatusCode) -> String {
    let code = status.as_u16();
    if status.is_redirection() {
        format!("status {code}, redirects are not followed")
    } else {
        format!("status {code}")
    }
}

/// `Retry-After` (RFC 9110, 10.2.3) of a 429 or 503: seconds, or a date compared with `now`. A past date is zero, more than
/// a day is a day, anything else is as if it weren't there.
fn retry_after(status: StatusCode, headers: &HeaderMap, now: DateTime) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(now.to_system_time()).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Reads what is left of a response, within bounds, and drops it. A body that is longer or slower costs its connection.
pub(super) async fn drain(body: Body, deadline: Instant) {
    read(body, deadline.min(Instant::now() + DRAIN), |_| {}).await;
}

/// The same; how the body begins is kept: see [`excerpt`].
pub(super) async fn drain_to_excerpt(body: Body, deadline: Instant, secrets: &Secrets) -> Option<String> {
    excerpt(body, deadline.min(Instant::now() + DRAIN), secrets).await
}

/// What comes of a body until `deadline`: its first 1 KB, without these secrets and printable. `None` if nothing came.
pub(super) async fn excerpt(body: Body, deadline: Instant, secrets: &Secrets) -> Option<String> {
    let (mut head, most) = (Vec::new(), secrets.reach(EXCERPT));
    read(body, deadline, |data| {
        head.extend_from_slice(&data[..data.len().min(most - head.len())]);
    })
    .await;
    (!head.is_empty()).then(|| printable(&secrets.mask(&head, EXCERPT), EXCERPT))
}

async fn read(mut body: Body, deadline: Instant, mut take: impl FnMut(&[u8])) {
    if body.is_end_stream() {
        return;
    }
    let read = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            let data = frame.data_ref().map_or(&[][..], |data| data);
            take(data);
            length += data.len();
            if length > MAX_BODY {
                return;
            }
        }
    };
    // Running out of time is one of the bounds.
    timeout_at(deadline, read).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// 2025-11-27T10:30:00Z.
    const NOW: DateTime = DateTime::from_millis(1_764_239_400_000);

    fn asked(status: u16, value: &'static str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        retry_after(StatusCode::from_u16(status).unwrap(), &headers, NOW)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_on_429_and_503() {
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(asked(429, "120"), seconds(120));
        assert_eq!(asked(503, " 0 "), seconds(0));
        assert_eq!(asked(503, "Thu, 27 Nov 2025 10:31:30 GMT"), seconds(90));
        assert_eq!(asked(503, "Thursday, 27-Nov-25 10:31:30 GMT"), seconds(90));
        assert_eq!(asked(500, "120"), None);
        assert_eq!(asked(301, "120"), None);
    }

    #[test]
    fn an_absurd_retry_after_is_clamped_and_garbage_ignored() {
        assert_eq!(asked(429, "99999999999999999999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(asked(429, "Fri, 27 Nov 2099 10:31:30 GMT"), Some(MAX_RETRY_AFTER));
        assert_eq!(asked(429, "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        for garbage in [
            "-5",
            "+5",
            "1.5",
            "soon",
            "",
            "5 minutes",
            "Xyz, 99 Foo 2025 99:99:99 GMT",
        ] {
            assert_eq!(asked(429, garbage), None, "{garbage:?}");
        }
    }
}
