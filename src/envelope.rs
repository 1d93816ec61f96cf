//! Secrets at rest: values of an endpoint that the platform has encrypted. docs/endpoints.md defines the format for those who write it.
//!
//! An envelope is `enc:v1:KEYID:BASE64`, the base64 of a random nonce of 12 bytes, the ciphertext and the tag of AES-256-GCM. It is
//! bound to its place, `ORGANIZATION/ENDPOINT/FIELD`: a value that was copied elsewhere does not decrypt.

mod keys;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretSlice, SecretString};

use crate::model::EndpointKey;
use keys::{EncryptionKey, is_key_id};
pub use keys::{EncryptionKeys, new_key};

/// Where keys may be given, in words.
const KEYS: &str = "secrets.key_file or the credential secret-keys";

const PREFIX: &str = "enc:v1:";

/// The tag at the end of the ciphertext, in bytes.
const TAG_LEN: usize = 16;

/// The fields of `auth` that may be envelopes: all texts but the type.
pub const AUTH_FIELDS: [&str; 9] = [
    "token",
    "username",
    "password",
    "key",
    "header",
    "tokenUrl",
    "clientId",
    "clientSecret",
    "scope",
];

/// Encrypts values of one endpoint and decrypts them.
#[derive(Clone, Copy)]
pub struct Envelopes<'a> {
    /// What to decrypt with; the first encrypts.
    pub keys: &'a EncryptionKeys,
    /// Whose values.
    pub endpoint: &'a EndpointKey,
}

impl Envelopes<'_> {
    /// The value of that field: decrypted if it is an envelope, else as it is.
    ///
    /// # Errors
    /// It can't be decrypted: why, as the end of a sentence that begins with the field. Names the key, never what the value holds.
    pub fn read(&self, field: &str, text: &str) -> Result<SecretString, String> {
        if !is_envelope(text) {
            return Ok(text.into());
        }
        let (id, base64) = without_blanks(text)
            .strip_prefix(PREFIX)
            .ok_or("is encrypted in a way that this version doesn't know")?
            .split_once(':')
            .filter(|(id, _)| is_key_id(id))
            .ok_or("is not of the form enc:v1:KEYID:BASE64")?;
        let key = self.keys.find(id).ok_or_else(|| match self.keys.is_empty() {
            true => format!("is encrypted with the key {id}, and no key is configured ({KEYS})"),
            false => format!("is encrypted with the key {id}, which is not among those of {KEYS}"),
        })?;
        let sealed = STANDARD
            .decode(base64)
            .map_err(|_| "is encrypted, but what follows the key's name is not base64 with padding")?;
        if sealed.len() < NONCE_LEN + TAG_LEN {
            return Err("is encrypted, but too short to be whole".into());
        }
        let plain = decrypt(key, &sealed, &self.binding(field)).ok_or_else(|| {
            format!(
                "can't be decrypted: it is damaged, was encrypted for another organization, endpoint or field, or with another key named {id}"
            )
        })?;
        let text = str::from_utf8(plain.expose_secret()).map_err(|_| "is not UTF-8 once decrypted")?;
        match is_envelope(text) {
            true => Err("was encrypted twice: once decrypted it is an encrypted value again".into()),
            false => Ok(text.into()),
        }
    }

    /// The envelope of that value. `None`: there is no key, or the system has no random numbers.
    pub fn encrypt(&self, field: &str, value: &SecretString) -> Option<String> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let binding = self.binding(field);
        let mut sealed = value.expose_secret().as_bytes().to_vec();
        let aad = Aad::from(binding.as_bytes());
        let nonce_once = Nonce::assume_unique_for_key(nonce);
        let cipher = cipher(key)?;
        cipher.seal_in_place_append_tag(nonce_once, aad, &mut sealed).ok()?;
        let sealed = STANDARD.encode([&nonce[..], &sealed].concat());
        Some(format!("{PREFIX}{}:{sealed}", key.id))
    }

    /// Unambiguous: both parts of an endpoint's key are lower-case letters and digits.
    fn binding(&self, field: &str) -> String {
        format!("{}/{field}", self.endpoint)
    }
}

/// Whether it is one of any version, with or without blanks around it: what a later version has written, or was pasted with a line break,
/// must not be sent as a secret.
pub fn is_envelope(text: &str) -> bool {
    let version = without_blanks(text)
        .strip_prefix("enc:v")
        .and_then(|rest| rest.split_once(':'));
    version.is_some_and(|(version, _)| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
}

fn without_blanks(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

fn cipher(key: &EncryptionKey) -> Option<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key.bytes.expose_secret()).ok()?;
    Some(LessSafeKey::new(key))
}

/// The plain text is in memory that is wiped when it is dropped.
fn decrypt(key: &EncryptionKey, sealed: &[u8], binding: &str) -> Option<SecretSlice<u8>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut buffer = SecretSlice::from(sealed.to_vec());
    let aad = Aad::from(binding.as_bytes());
    let plain = cipher(key)?.open_in_place(nonce, aad, buffer.expose_secret_mut());
    Some(SecretSlice::from(plain.ok()?.to_vec()))
}

#[cfg(test)]
mod tests;
