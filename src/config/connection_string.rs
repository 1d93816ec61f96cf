//! The connection string, as far as it can be judged without asking anybody: which part or option is wrong, which options mean
//! nothing here, and the database in its path. Names of options are shown, values never: they may hold a password.

use mongodb::error::ErrorKind;
use mongodb::options::ConnectionString;

use super::faults::Fault;
use super::nearest::nearest;
use super::raw::{Raw, shown};
use super::secrets::URI_KEY;
use super::settings::{Given, Settings};

/// The key that the path of a connection string may set.
const DATABASE_KEY: &str = "mongodb.database";

/// The usual path of a connection string whose user is known there: it says nothing about where the certificates are.
const AUTH_DATABASE: &str = "admin";

/// The options that the driver takes. It refuses a string with any other, where the
/// [specification](https://github.com/mongodb/specifications/blob/master/source/connection-string/connection-string-spec.md#keys)
/// asks for a warning. An option comes after those that it relies on.
const KNOWN: [&str; 41] = [
    "tls",
    "ssl",
    "readPreference",
    "authSource",
    "authMechanismProperties",
    "authMechanism",
    "appName",
    "connectTimeoutMS",
    "directConnection",
    "enableOverloadRetargeting",
    "heartbeatFrequencyMS",
    "journal",
    "loadBalanced",
    "localThresholdMS",
    "maxAdaptiveRetries",
    "maxConnecting",
    "maxIdleTimeMS",
    "maxPoolSize",
    "maxStalenessSeconds",
    "minPoolSize",
    "proxyHost",
    "proxyPassword",
    "proxyPort",
    "proxyUsername",
    "readConcernLevel",
    "readPreferenceTags",
    "replicaSet",
    "retryReads",
    "retryWrites",
    "serverMonitoringMode",
    "serverSelectionTimeoutMS",
    "srvMaxHosts",
    "srvServiceName",
    "tlsAllowInvalidCertificates",
    "tlsCAFile",
    "tlsCertificateKeyFile",
    "tlsCertificateKeyFilePassword",
    "tlsInsecure",
    "w",
    "waitQueueTimeoutMS",
    "wTimeoutMS",
];

/// Known to the specification, without effect here: nothing is compressed, no UUID is written, and the driver has no
/// `socketTimeoutMS`: it reads one, and then refuses to connect.
const WITHOUT_EFFECT: [&str; 4] = [
    "compressors",
    "zlibCompressionLevel",
    "uuidRepresentation",
    "socketTimeoutMS",
];

/// Leaves out what means nothing, one warning each, and takes the database from the path where nothing else names it.
pub(super) fn resolve(settings: &mut Settings) {
    let Some(Given { raw, origin }) = settings.take(URI_KEY) else {
        return;
    };
    let raw = match raw {
        Raw::Secret(text) => Raw::Secret(without_unknown(&text, &origin, &mut settings.warnings)),
        other => other,
    };
    if let Some(path) = raw.as_text().and_then(database) {
        set_database(path, settings);
    }
    settings.give(URI_KEY, raw, origin);
}

/// Why the driver refuses that text; `None` if it doesn't.
pub(super) fn why_refused(text: &str) -> Option<String> {
    let (base, options) = split(text);
    if let Some(why) = base_refused(base, options) {
        return Some(why);
    }
    if ConnectionString::parse(text).is_ok() {
        return None;
    }
    let options = pairs(options);
    let refused = refused_options(base, &options);
    if refused.is_empty() {
        return Some("its options contradict each other".into());
    }
    Some(refused.join(" and "))
}

/// The part before the options, and the options.
fn split(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

fn pairs(options: &str) -> Vec<&str> {
    options.split('&').filter(|pair| !pair.is_empty()).collect()
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

fn parses(text: &str) -> bool {
    ConnectionString::parse(text).is_ok()
}

/// What is wrong before the options. What comes after an unexpected `?` may be a part of the password.
fn base_refused(base: &str, options: &str) -> Option<String> {
    let encode = "percent-encode user and password, such as %40 for @";
    let Some((scheme, rest)) = base.split_once("://").filter(|(scheme, _)| known_scheme(scheme)) else {
        return Some("it begins with neither mongodb:// nor mongodb+srv://".into());
    };
    if base.contains(char::is_whitespace) || options.contains(char::is_control) {
        return Some("there is white space in it".into());
    }
    if !rest.contains('@') && options.contains('@') {
        return Some(format!("there is an @ after the first question mark: {encode}"));
    }
    let (user, after_user) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(user, rest)| (Some(user), rest));
    let hosts = after_user.split('/').next().unwrap_or_default();
    if !parses(&format!("{scheme}://{hosts}")) {
        return Some("a host or its port makes no sense".into());
    }
    if user.is_some_and(|user| !parses(&format!("{scheme}://{user}@{hosts}"))) {
        // The user name may be in a certificate.
        let by_certificate = user == Some("") && options.contains("authMechanism");
        return (!by_certificate).then(|| format!("the user or the password makes no sense: {encode}"));
    }
    (!parses(base)).then(|| "the database in its path makes no sense".into())
}

fn known_scheme(scheme: &str) -> bool {
    matches!(scheme, "mongodb" | "mongodb+srv")
}

/// What is wrong with each option that can't be added to the others.
fn refused_options(base: &str, options: &[&str]) -> Vec<String> {
    let rank = |pair: &&&str| {
        let name = name_of(pair);
        KNOWN.iter().position(|known| known.eq_ignore_ascii_case(name))
    };
    let mut ordered: Vec<_> = options.iter().collect();
    ordered.sort_by_key(rank);
    let mut accepted = format!("{base}?");
    let mut refused = Vec::new();
    for pair in ordered {
        let more = format!("{accepted}&{pair}").replace("?&", "?");
        match ConnectionString::parse(&more) {
            Ok(_) => accepted = more,
            Err(error) => refused.push(reason(pair, &error.kind)),
        }
    }
    refused
}

/// The driver's reason, unless it quotes the value.
fn reason(pair: &str, error: &ErrorKind) -> String {
    let name = printable(name_of(pair));
    let Some((_, value)) = pair.split_once('=') else {
        return format!("the option {name} has no value");
    };
    match error {
        ErrorKind::InvalidArgument { message, .. } if !message.to_lowercase().contains(&value.to_lowercase()) => {
            format!("the option {name} is refused: {message}")
        }
        _ => format!("the option {name} has a value that makes no sense"),
    }
}

/// The same connection string without what the driver does not know. One that is refused for its beginning stays as it is.
fn without_unknown(text: &str, origin: &str, warnings: &mut Vec<String>) -> String {
    let (base, options) = split(text);
    if options.is_empty() || base_refused(base, options).is_some() {
        return text.to_owned();
    }
    let mut kept = Vec::new();
    for pair in pairs(options) {
        match warning(pair) {
            Some(warning) => warnings.push(format!("{URI_KEY}: {warning} ({origin})")),
            None => kept.push(pair),
        }
    }
    format!("{base}?{}", kept.join("&"))
}

/// What is said of an option that is left out.
fn warning(pair: &str) -> Option<String> {
    let name = name_of(pair);
    let is = |known: &&str| known.eq_ignore_ascii_case(name);
    if WITHOUT_EFFECT.iter().any(&is) {
        return Some(format!("the option {name} has no effect here and is ignored"));
    }
    if KNOWN.iter().any(is) {
        return None;
    }
    let hint = nearest(name, KNOWN.into_iter(), |known| known).map(|known| format!("; did you mean {known}?"));
    let name = printable(name);
    let hint = hint.unwrap_or_default();
    Some(format!("the option {name} is unknown and ignored{hint}"))
}

/// A name, cut short, that can't break its line.
fn printable(name: &str) -> String {
    const LONGEST: usize = 40;
    name.chars().take(LONGEST).flat_map(char::escape_debug).collect()
}

/// The database in the path, unless it says nothing.
fn database(text: &str) -> Option<String> {
    let path = ConnectionString::parse(text).ok()?.default_database?;
    (path != AUTH_DATABASE).then_some(path)
}

fn set_database(path: String, settings: &mut Settings) {
    let Some(given) = settings.given(DATABASE_KEY) else {
        let origin = "the path of the connection string".to_owned();
        settings.give(DATABASE_KEY, Raw::Untyped(path), origin);
        return;
    };
    // The key's own rule reports what is no text.
    if given.raw.as_text().is_none_or(|named| named == path) {
        return;
    }
    let problem = format!(
        "expected {}, as in the path of the connection string, found {}",
        shown(&path),
        given.raw
    );
    let fault = Fault::new(DATABASE_KEY, problem, Some(given.origin.clone()));
    settings.faults.push(fault);
}
