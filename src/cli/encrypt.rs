//! `certhookd encrypt`: a secret of an endpoint as the platform may store it, and keys for that.

use std::io::Read;

use anyhow::Context;
use bson::RawBsonRef;
use secrecy::{ExposeSecret, SecretString};

use super::Usage;
use crate::config::Config;
use crate::envelope::{AUTH_FIELDS, EncryptionKeys, Envelopes, is_envelope, new_key};
use crate::model::{EndpointKey, id_part};
use crate::run::Misconfigured;
use crate::service::one_line;

const NO_KEY: &str = "no key is configured: expected secrets.key_file, or the systemd credential secret-keys \
     (/etc/credstore/secret-keys); `certhookd encrypt --new-key` prints a new one";

/// What to encrypt: the value itself comes from standard input, without the line break at its end.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The organization, as `certhookd status` prints it.
    #[arg(long, value_name = "ID", value_parser = id, required_unless_present = "new_key")]
    organization: Option<String>,
    /// The endpoint, as `certhookd status` prints it: only there the value can be decrypted.
    #[arg(long, value_name = "ID", value_parser = id, required_unless_present = "new_key")]
    endpoint: Option<String>,
    /// The field that will hold it: auth.token, auth.password, auth.key, auth.clientSecret, signingSecrets, tls.clientKey, headers.NAME, …
    #[arg(long, value_name = "FIELD", value_parser = field, required_unless_present = "new_key")]
    field: Option<String>,
    /// Print a line with a new key for the file of keys.
    #[arg(long, conflicts_with_all = ["organization", "endpoint", "field"])]
    new_key: bool,
}

/// Prints the envelope, or the new key.
pub(super) fn run(load: impl FnOnce() -> anyhow::Result<Config>, args: Args) -> anyhow::Result<()> {
    let (Some(organization), Some(endpoint), Some(field)) = (args.organization, args.endpoint, args.field) else {
        say!("{}", new_key().context("the system has no random numbers")?);
        return Ok(());
    };
    let keys = load()?.secrets.key;
    if keys.is_empty() {
        return Err(Misconfigured(NO_KEY.into()).into());
    }
    let endpoint = EndpointKey::from_stored(&format!("{organization}/{endpoint}"));
    say!("{}", encrypt(&keys, &endpoint, &field)?);
    Ok(())
}

fn encrypt(keys: &EncryptionKeys, endpoint: &EndpointKey, field: &str) -> anyhow::Result<String> {
    let mut input = String::new();
    std::io::stdin()
        .read_to_string(&mut input)
        .context("expected a value in UTF-8 on standard input")?;
    let input = SecretString::from(input);
    let value = input.expose_secret();
    let value = value.strip_suffix('\n').unwrap_or(value);
    let value = SecretString::from(value.strip_suffix('\r').unwrap_or(value));
    if value.expose_secret().is_empty() {
        return Err(Usage("expected the value on standard input, found nothing".into()).into());
    }
    if is_envelope(value.expose_secret()) {
        return Err(Usage("expected a plain value on standard input, found one that is encrypted".into()).into());
    }
    let envelopes = Envelopes { keys, endpoint };
    envelopes
        .encrypt(field, &value)
        .context("the system has no random numbers")
}

/// An id as it is in the key of an endpoint.
fn id(text: &str) -> Result<String, String> {
    let is_hex = |text: &str| text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex(text) {
        return Ok(id_part(RawBsonRef::String(text)));
    }
    let hash = text.strip_prefix(['h', 'u']).filter(|hash| is_hex(hash));
    hash.map(|_| text.to_owned())
        .ok_or_else(|| "expected 24 hex digits, or the id as `certhookd status` prints it".into())
}

/// The name of a field as it is bound to the value.
fn field(name: &str) -> Result<String, String> {
    let is_of_auth = name
        .strip_prefix("auth.")
        .is_some_and(|name| AUTH_FIELDS.contains(&name));
    if is_of_auth || ["signingSecrets", "tls.clientKey"].contains(&name) {
        return Ok(name.to_owned());
    }
    let header = name.strip_prefix("headers.").map(str::parse::<http::HeaderName>);
    if let Some(Ok(header)) = header {
        return Ok(format!("headers.{header}"));
    }
    let known = AUTH_FIELDS.map(|name| format!("auth.{name}")).join(", ");
    Err(format!(
        "expected {known}, signingSecrets, tls.clientKey or headers.NAME, found {}",
        one_line(name)
    ))
}
