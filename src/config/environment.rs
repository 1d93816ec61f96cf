//! The environment's layer: `CERTHOOKD_SECTION__KEY`.

use super::faults::Fault;
use super::nearest::{nearest, nearest_key};
use super::raw::Raw;
use super::schema::keys;
use super::settings::Settings;

const NAME: &str = "CERTHOOKD";
const PREFIX: &str = "CERTHOOKD_";
const SEPARATOR: &str = "__";

/// Variables that are no keys.
const OTHERS: [&str; 2] = ["CERTHOOKD_CONFIG", "CERTHOOKD_LOG"];

/// Adds what the variables say. One that is like a key's name without being one is a warning and ignored: others set variables
/// that begin like ours.
pub(super) fn merge(env: &[(String, String)], settings: &mut Settings) {
    for (variable, value) in env {
        if let Some(key) = keys().find(|key| variable_of(key) == *variable) {
            settings.give(key, Raw::Untyped(value.clone()), variable.clone());
            continue;
        }
        if OTHERS.contains(&&**variable) || is_of_kubernetes(variable) {
            continue;
        }
        if let Some((_, name)) = variable
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once(SEPARATOR))
        {
            let hint = nearest_key(&name.to_lowercase()).map(variable_of);
            let origin = "the environment".to_owned();
            let fault = Fault::unknown(variable, "a key's variable", hint.as_deref(), origin);
            settings.faults.push(fault);
        } else if let Some(meant) = meant(variable) {
            let variable = variable.escape_debug();
            settings.warnings.push(format!(
                "{variable}: not a key's variable and ignored; did you mean {meant}?"
            ));
        }
    }
}

/// The variable that sets `key`.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', SEPARATOR))
}

/// Whether Kubernetes sets it in every container beside a service whose name begins as ours:
/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`, `NAME_SERVICE_PORT_WEB`, `NAME_PORT`, `NAME_PORT_9464_TCP_ADDR`.
fn is_of_kubernetes(variable: &str) -> bool {
    let words: Vec<_> = variable.split('_').collect();
    let is_port = |words: &[&str]| match words {
        ["PORT"] => true,
        ["PORT", number, "TCP" | "UDP" | "SCTP", rest @ ..] => {
            number.parse::<u16>().is_ok() && matches!(rest, [] | ["PROTO" | "PORT" | "ADDR"])
        }
        _ => false,
    };
    words.first() == Some(&NAME)
        && (1..words.len()).any(|place| match &words[place..] {
            ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] => true,
            rest => is_port(rest),
        })
}

/// The variable that was probably meant: the same letters apart from case and separators, or nearly so.
fn meant(variable: &str) -> Option<String> {
    let words = plain(variable);
    let (first, name) = words.split_once('_')?;
    if strsim::osa_distance(first, NAME) > 2 {
        return None;
    }
    let known: Vec<_> = keys().map(variable_of).chain(OTHERS.map(str::to_owned)).collect();
    let names: Vec<_> = known.iter().map(|known| plain(known)).collect();
    let full = format!("{NAME}_{name}");
    let is_meant = |known: &String| *known == full;
    let place = names
        .iter()
        .position(is_meant)
        .or_else(|| sectionless(name))
        .or_else(|| {
            // Of names, the prefix apart: it would make any two of them alike.
            let bare = |known: &String| known.split_once('_').map_or(String::new(), |(_, name)| name.to_owned());
            let bare: Vec<_> = names.iter().map(bare).collect();
            let near = nearest(name, bare.iter().map(String::as_str), |known| known)?;
            let close = strsim::osa_distance(name, near) <= 2;
            bare.iter().position(|known| close && known == near)
        })?;
    Some(known[place].clone())
}

/// The place, among the keys and then [`OTHERS`], of the key that is named without its section, or of the variable that is
/// named with a word too many, as in `CERTHOOKD_LOG_LEVEL`.
fn sectionless(name: &str) -> Option<usize> {
    let bare = |key: &str| plain(key.split_once('.').map_or(key, |(_, name)| name));
    keys().position(|key| bare(key) == name).or_else(|| {
        let begins = |other: &str| name.starts_with(&format!("{}_", &other[PREFIX.len()..]));
        let other = OTHERS.iter().position(|other| begins(other))?;
        Some(keys().count() + other)
    })
}

/// In capitals, with one underscore between words.
fn plain(variable: &str) -> String {
    let words = variable.split(|c: char| !c.is_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_uppercase).collect();
    words.join("_")
}
