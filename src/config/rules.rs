//! The rules: what a raw value must be to become a type. Each says what it expected in words that an operator can act on.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use base64::Engine as _;
use bson::DateTime;
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use http::HeaderValue;
use ipnet::IpNet;
use lettre::message::Mailbox;
use secrecy::SecretString;
use url::Url;

use super::connection_string::why_refused;
use super::nearest::nearest;
use super::raw::{Raw, shown};
use super::{NoProxy, ProxyServer, SmtpServer, Template};
use crate::envelope::EncryptionKeys;

/// A value that broke its rule.
pub(super) struct Mismatch {
    /// What the rule asks for.
    pub(super) expected: String,
    /// What in particular is wrong, where that helps.
    pub(super) why: Option<String>,
}

impl Mismatch {
    fn new(expected: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            why: None,
        }
    }

    fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }
}

pub(super) fn boolean(raw: &Raw) -> Result<bool, Mismatch> {
    raw.as_boolean().ok_or_else(|| Mismatch::new("true or false"))
}

/// A whole number within `bounds`.
pub(super) fn number<T>(bounds: RangeInclusive<T>) -> impl Fn(&Raw) -> Result<T, Mismatch>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    move |raw| {
        let number = raw.as_integer().and_then(|number| T::try_from(number).ok());
        number
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| Mismatch::new(format!("a whole number from {} to {}", bounds.start(), bounds.end())))
    }
}

/// A duration within `bounds`, both as humantime writes them.
pub(super) fn duration(bounds: RangeInclusive<&'static str>) -> impl Fn(&Raw) -> Result<Duration, Mismatch> {
    move |raw| {
        let parse = |text: &str| humantime::parse_duration(text).ok();
        let within = |given: &Duration| {
            parse(bounds.start()).is_some_and(|least| least <= *given)
                && parse(bounds.end()).is_some_and(|most| *given <= most)
        };
        raw.as_text().and_then(parse).filter(within).ok_or_else(|| {
            Mismatch::new(format!(
                r#"a duration from {} to {}, such as "90s" or "2h 30m""#,
                bounds.start(),
                bounds.end()
            ))
        })
    }
}

/// The same; the empty text is none.
pub(super) fn duration_or_none(
    bounds: RangeInclusive<&'static str>,
) -> impl Fn(&Raw) -> Result<Option<Duration>, Mismatch> {
    let duration = duration(bounds);
    move |raw| match raw.as_text() {
        Some("") => Ok(None),
        _ => duration(raw).map(Some).map_err(|mismatch| Mismatch {
            expected: format!(r#"{}, or "" for none"#, mismatch.expected),
            ..mismatch
        }),
    }
}

/// Six fields, and at least one instant that matches them.
pub(super) fn schedule(raw: &Raw) -> Result<Cron, Mismatch> {
    let mismatch = || Mismatch::new("six cron fields (second minute hour day month weekday)");
    let parser = CronParser::builder()
        .seconds(Seconds::Required)
        .year(Year::Disallowed)
        .build();
    let text = raw.as_text().ok_or_else(mismatch)?;
    let cron = parser
        .parse(text)
        .map_err(|error| mismatch().because(cron_reason(&error)))?;
    // No field names a year and the calendar repeats: what never fires after 1970 never fires.
    match cron.find_next_occurrence(&chrono::DateTime::UNIX_EPOCH, true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(mismatch().because("no day in any year matches, it would never fire")),
    }
}

/// The parser's reason, except where it would quote the text: that may be a URI at a wrong key.
fn cron_reason(error: &CronError) -> String {
    match error {
        CronError::IllegalCharacters(_) => "a character that no field takes".to_owned(),
        other => other.to_string().trim_end_matches('.').to_owned(),
    }
}

/// An IANA time zone.
pub(super) fn zone(raw: &Raw) -> Result<Tz, Mismatch> {
    let mismatch = || Mismatch::new("an IANA time zone such as Europe/Paris");
    let text = raw.as_text().ok_or_else(mismatch)?;
    text.parse().map_err(|_| {
        let zones = TZ_VARIANTS.iter().map(|zone| zone.name());
        match nearest(text, zones, |zone| zone) {
            Some(zone) => mismatch().because(format!("did you mean {zone}?")),
            None => mismatch(),
        }
    })
}

/// An RFC 3339 instant; the empty text is none.
pub(super) fn instant(raw: &Raw) -> Result<Option<DateTime>, Mismatch> {
    optional(
        raw,
        r#"an instant such as 2026-01-31T00:00:00Z, or "" for none"#,
        |text| DateTime::parse_rfc3339_str(text).ok(),
    )
}

/// An IP address and port; the empty text is none.
pub(super) fn listen_address(raw: &Raw) -> Result<Option<SocketAddr>, Mismatch> {
    optional(
        raw,
        r#"an IP address and port such as 127.0.0.1:9464, or "" for none"#,
        |text| text.parse().ok(),
    )
}

/// The beginning of an HTTP URL that paths are appended to; the empty text is none.
pub(super) fn base_url(raw: &Raw) -> Result<Option<Url>, Mismatch> {
    let expected = r#"http:// or https:// with a host and no password, such as http://127.0.0.1:4318, or "" for none"#;
    optional(raw, expected, |text| {
        let url = Url::parse(text).ok()?;
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        (matches!(url.scheme(), "http" | "https") && plain && url.password().is_none()).then_some(url)
    })
}

/// Where notices go. May hold secrets, in its path for example.
pub(super) fn notices_url(raw: &Raw) -> Result<Option<Url>, Mismatch> {
    optional(
        raw,
        r#"https:// with a host (http:// with delivery.allow_http), or "" for no notices"#,
        |text| {
            let url = Url::parse(text).ok()?;
            (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
        },
    )
}

/// A secret of Standard Webhooks.
pub(super) fn signing_secret(raw: &Raw) -> Result<Option<SecretString>, Mismatch> {
    optional(raw, "whsec_ and at least 24 bytes in base64", |text| {
        let key = standardwebhooks_key(text)?;
        (key >= 24).then(|| SecretString::from(text))
    })
}

fn standardwebhooks_key(text: &str) -> Option<usize> {
    let key = text.strip_prefix("whsec_")?;
    base64::engine::general_purpose::STANDARD
        .decode(key)
        .ok()
        .map(|key| key.len())
}

/// Networks in CIDR notation.
pub(super) fn networks(raw: &Raw) -> Result<Vec<IpNet>, Mismatch> {
    let mismatch = || Mismatch::new("a list of networks such as 10.1.0.0/16 or fd00::/8");
    let texts = raw.as_texts().ok_or_else(mismatch)?;
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| mismatch().because(format!("{} is none", shown(text))))
    };
    texts.into_iter().map(parse).collect()
}

/// Names of hosts, without a port. What isn't ASCII is turned into what browsers send.
pub(super) fn host_names(raw: &Raw) -> Result<Vec<String>, Mismatch> {
    let mismatch = || Mismatch::new("a list of host names without a port, such as certhookd.example.org");
    let texts = raw.as_texts().ok_or_else(mismatch)?;
    let parse = |text: &str| match url::Host::parse(text.trim_end_matches('.')) {
        Ok(url::Host::Domain(name)) if !name.contains('*') => Ok(name),
        _ => Err(mismatch().because(format!("{} is none", shown(text)))),
    };
    texts.into_iter().map(parse).collect()
}

/// A header's value that says something.
pub(super) fn header_value(raw: &Raw) -> Result<HeaderValue, Mismatch> {
    filled(raw)
        .filter(|text| text.chars().all(|c| c.is_ascii_graphic() || c == ' '))
        .and_then(|text| HeaderValue::from_str(text).ok())
        .ok_or_else(|| Mismatch::new("a name in printable ASCII"))
}

/// MongoDB's own databases, which have neither change streams nor, for the most part, transactions.
const OWN_DATABASES: [&str; 3] = ["admin", "config", "local"];

/// A database's name, within MongoDB's [limits](https://www.mongodb.com/docs/manual/reference/limits/#naming-restrictions).
pub(super) fn database_name(raw: &Raw) -> Result<String, Mismatch> {
    if let Some(own) = OWN_DATABASES.into_iter().find(|own| raw.as_text() == Some(own)) {
        return Err(Mismatch::new("the platform's database").because(format!("{own} is MongoDB's own")));
    }
    filled(raw)
        .filter(|name| {
            name.len() < 64 && !name.contains(['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0'])
        })
        .map(str::to_owned)
        .ok_or_else(|| Mismatch::new(r#"a database name, under 64 bytes without space or any of /\."$*<>:|?"#))
}

/// A collection's name, within the same limits.
pub(super) fn collection_name(raw: &Raw) -> Result<String, Mismatch> {
    filled(raw)
        .filter(|name| name.len() <= 200 && !name.contains(['$', '\0']) && !name.starts_with("system."))
        .map(str::to_owned)
        .ok_or_else(|| Mismatch::new("a collection name, up to 200 bytes without $ and not under system."))
}

/// The driver's own check of a connection string.
pub(super) fn connection_string(raw: &Raw) -> Result<SecretString, Mismatch> {
    let mismatch = || {
        Mismatch::new(
            "a connection string (mongodb:// or mongodb+srv://, user and password percent-encoded, known options)",
        )
    };
    let text = filled(raw).ok_or_else(mismatch)?;
    match why_refused(text) {
        None => Ok(SecretString::from(text)),
        Some(why) => Err(mismatch().because(why)),
    }
}

/// A mail server's URL; the empty text is none, but an empty file or credential is a mistake.
pub(super) fn smtp_server(raw: &Raw) -> Result<Option<SmtpServer>, Mismatch> {
    let mismatch = || {
        Mismatch::new(
            r#"smtps://USER:PASSWORD@HOST or smtp://HOST (user and password percent-encoded), or "" for no e-mails"#,
        )
    };
    match raw {
        Raw::Text(text) | Raw::Untyped(text) if text.is_empty() => Ok(None),
        raw => {
            let parsed = SmtpServer::parse(raw.as_text().ok_or_else(mismatch)?);
            parsed.map(Some).map_err(|why| mismatch().because(why))
        }
    }
}

/// The keys of encrypted secrets; the empty text is none, but an empty file or credential is a mistake.
pub(super) fn encryption_keys(raw: &Raw) -> Result<EncryptionKeys, Mismatch> {
    let mismatch =
        || Mismatch::new(r#"lines of KEYID:BASE64, as `certhookd encrypt --new-key` prints one, or "" for none"#);
    match raw {
        Raw::Text(text) | Raw::Untyped(text) if text.is_empty() => Ok(EncryptionKeys::NONE),
        raw => EncryptionKeys::parse(raw.as_text().ok_or_else(mismatch)?).map_err(|why| mismatch().because(why)),
    }
}

/// A forward proxy's URL; the empty text is none, but an empty file or credential is a mistake.
pub(super) fn proxy_server(raw: &Raw) -> Result<Option<ProxyServer>, Mismatch> {
    let mismatch = || {
        Mismatch::new(
            r#"http://HOST:PORT or https://HOST:PORT, with USER:PASSWORD@ before the host where it wants a login (percent-encoded), or "" for no proxy"#,
        )
    };
    match raw {
        Raw::Text(text) | Raw::Untyped(text) if text.is_empty() => Ok(None),
        raw => {
            let parsed = ProxyServer::parse(raw.as_text().ok_or_else(mismatch)?);
            parsed.map(Some).map_err(|why| mismatch().because(why))
        }
    }
}

/// Hosts, domains and networks.
pub(super) fn no_proxy(raw: &Raw) -> Result<NoProxy, Mismatch> {
    let mismatch = || {
        Mismatch::new(
            "a list of hosts without a port, domains that begin with a dot, and networks, such as hr.example.com, .example.org or 10.1.0.0/16",
        )
    };
    let mut listed = NoProxy::default();
    for text in raw.as_texts().ok_or_else(mismatch)? {
        let added = listed.add(text);
        added.map_err(|()| mismatch().because(format!("{} is none", shown(text))))?;
    }
    Ok(listed)
}

/// An e-mail address, with a name or without; the empty text is none.
pub(super) fn mailbox(raw: &Raw) -> Result<Option<Mailbox>, Mismatch> {
    let expected = r#"an address such as "Academy <no-reply@example.com>", or "" for none"#;
    optional(raw, expected, super::mailbox::parse)
}

/// A template that compiles.
pub(super) fn template(raw: &Raw) -> Result<Template, Mismatch> {
    let mismatch = || Mismatch::new("a template such as {{ certificate.ruleData.name }}");
    let source = filled(raw).ok_or_else(mismatch)?;
    Template::compile(source).map_err(|why| mismatch().because(why))
}

/// The path of a field, as MongoDB reads it in a projection.
pub(super) fn field_path(raw: &Raw) -> Result<String, Mismatch> {
    filled(raw)
        .filter(|path| {
            path.split('.')
                .all(|part| !part.is_empty() && !part.contains(['$', '\0']))
        })
        .map(str::to_owned)
        .ok_or_else(|| Mismatch::new("a field such as email or profile.email"))
}

/// A text that says something.
fn filled(raw: &Raw) -> Option<&str> {
    raw.as_text().filter(|text| !text.trim().is_empty())
}

/// `None` for the empty text, else what `parse` makes of it.
fn optional<T>(raw: &Raw, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Mismatch> {
    match raw.as_text() {
        Some("") => Ok(None),
        text => text.and_then(parse).map(Some).ok_or_else(|| Mismatch::new(expected)),
    }
}
