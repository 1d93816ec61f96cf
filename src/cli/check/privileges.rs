//! Every privilege of the role.

use super::{Finding, say};
use crate::config::Config;
use crate::store::{Login, needed};

/// A line for each resource: what is granted there, or the line to add to the role.
pub(super) fn compare(config: &Config, login: &Login) -> Finding {
    let point = "privilege";
    if login.users.is_empty() {
        for needed in needed(config) {
            say(Finding::Good, point, &needed.to_string());
        }
        return say(Finding::Good, point, "all are granted: this MongoDB asks for no login");
    }
    let compared = |needed| match login.missing(&needed) {
        None => say(
            Finding::Good,
            point,
            &format!("{needed}: MongoDB doesn't say whether it is granted"),
        ),
        Some(missing) if missing.is_empty() => say(Finding::Good, point, &needed.to_string()),
        Some(missing) => {
            let text = format!("{missing} is missing; add to the role: {}", missing.role_line());
            say(Finding::Misconfigured, point, &text)
        }
    };
    needed(config).into_iter().map(compared).max().unwrap_or(Finding::Good)
}
