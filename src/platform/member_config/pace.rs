//! How fast an endpoint wants to be sent to. What makes no sense is no reason to stop sending: the default is used, and logged.

use bson::RawBsonRef;

use super::EndpointPolicy;
use super::field::{Fields, number};

/// Requests a second: one a day. Less is a mistake, and waits for it overflow.
const MIN_RATE: f64 = 1.0 / 86_400.0;

/// `concurrency`: parallel requests, at most as many as the operator allows. `None`: as many as that.
pub(super) fn concurrency(
    endpoint: &Fields<'_>,
    policy: &EndpointPolicy,
    changes: &mut Vec<String>,
) -> Result<Option<u32>, String> {
    let whole = |value: RawBsonRef<'_>| number(value).filter(|n| n.fract() == 0.0 || n.is_infinite());
    let Some(value) = endpoint.present("concurrency")? else {
        return Ok(None);
    };
    let reason = match whole(value) {
        None => "is not a whole number",
        Some(n) if n < 1.0 => "is below 1",
        Some(n) if n > policy.concurrency.into() => {
            let allowed = policy.concurrency;
            changes.push(format!(
                "`concurrency` is above delivery.concurrency: {allowed} is used"
            ));
            return Ok(Some(allowed));
        }
        Some(n) => return Ok(Some(n as u32)),
    };
    changes.push(format!("`concurrency` {reason}: delivery.concurrency is used"));
    Ok(None)
}

/// `rateLimit`: requests a second. `None`: no limit.
pub(super) fn rate_limit(endpoint: &Fields<'_>, changes: &mut Vec<String>) -> Result<Option<f64>, String> {
    let Some(value) = endpoint.present("rateLimit")? else {
        return Ok(None);
    };
    let reason = match number(value) {
        None => "is not a number: there is no limit",
        Some(n) if n.is_infinite() || n <= 0.0 => "is not a finite number above 0: there is no limit",
        Some(n) if n < MIN_RATE => {
            changes.push("`rateLimit` is below one request a day: that is used".into());
            return Ok(Some(MIN_RATE));
        }
        Some(n) => return Ok(Some(n)),
    };
    changes.push(format!("`rateLimit` {reason}"));
    Ok(None)
}
