//! The environment's layer: `CERTHOOKD_SECTION__KEY`.

use super::faults::Fault;
use super::nearest::nearest_key;
use super::raw::Raw;
use super::schema::keys;
use super::settings::Settings;

const PREFIX: &str = "CERTHOOKD_";
const SEPARATOR: &str = "__";

/// Adds what the variables say. Those without prefix or separator, `CERTHOOKD_LOG` among them, are not configuration.
pub(super) fn merge(env: &[(String, String)], settings: &mut Settings) {
    for (variable, value) in env {
        let Some((_, name)) = variable
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once(SEPARATOR))
        else {
            continue;
        };
        match keys().find(|key| variable_of(key) == *variable) {
            Some(key) => settings.give(key, Raw::Untyped(value.clone()), variable.clone()),
            None => {
                let hint = nearest_key(&name.to_lowercase()).map(variable_of);
                let fault = Fault::unknown(
                    variable,
                    "a key's variable",
                    hint.as_deref(),
                    "the environment".to_owned(),
                );
                settings.faults.push(fault);
            }
        }
    }
}

/// The variable that sets `key`.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', SEPARATOR))
}
