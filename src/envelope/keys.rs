//! The keys that values are encrypted with, as they are in their file: a line each, `KEYID:BASE64`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretBox};

/// Of AES-256, in bytes.
const KEY_LEN: usize = 32;

/// In characters.
const MAX_ID: usize = 32;

/// Keys by their id. The first encrypts, the others are kept until nothing is encrypted with them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptionKeys(Option<Arc<[EncryptionKey]>>);

#[derive(Debug)]
pub(super) struct EncryptionKey {
    pub(super) id: String,
    pub(super) bytes: SecretBox<[u8; KEY_LEN]>,
}

impl EncryptionKeys {
    /// No key: nothing can be decrypted.
    pub const NONE: Self = Self(None);

    /// Reads lines of `KEYID:BASE64`. Blank ones and those that begin with `#` are skipped; at least one key must be there.
    ///
    /// # Errors
    /// What is wrong in which line; never what it holds.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).enumerate();
        let mut keys: Vec<EncryptionKey> = Vec::new();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let number = index + 1;
            let key = EncryptionKey::parse(line).map_err(|why| format!("line {number} {why}"))?;
            if keys.iter().any(|known| known.id == key.id) {
                return Err(format!("line {number} has the id of a line before it"));
            }
            keys.push(key);
        }
        match keys.is_empty() {
            true => Err("there is no key in it".into()),
            false => Ok(Self(Some(keys.into()))),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn find(&self, id: &str) -> Option<&EncryptionKey> {
        self.0.as_deref()?.iter().find(|key| key.id == id)
    }

    pub(super) fn first(&self) -> Option<&EncryptionKey> {
        self.0.as_deref()?.first()
    }
}

impl EncryptionKey {
    fn parse(line: &str) -> Result<Self, &'static str> {
        let (id, base64) = line.split_once(':').ok_or("is not KEYID:BASE64")?;
        if !is_key_id(id) {
            return Err("has an id that is not 1 to 32 of A-Z, a-z, 0-9, - and _");
        }
        let bytes = STANDARD.decode(base64).ok();
        let bytes: Option<[u8; KEY_LEN]> = bytes.and_then(|bytes| bytes.try_into().ok());
        let bytes = bytes.ok_or("is not the base64 of 32 bytes after its id")?;
        Ok(Self {
            id: id.to_owned(),
            bytes: SecretBox::new(Box::new(bytes)),
        })
    }
}

impl PartialEq for EncryptionKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.bytes.expose_secret() == other.bytes.expose_secret()
    }
}

impl Eq for EncryptionKey {}

pub(super) fn is_key_id(id: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(fits)
}

/// A line with a new key. `None`: the system has no random numbers.
pub fn new_key() -> Option<String> {
    let (mut id, mut key) = ([0; 4], [0; KEY_LEN]);
    let random = SystemRandom::new();
    random.fill(&mut id).and_then(|()| random.fill(&mut key)).ok()?;
    Some(format!("k{:08x}:{}", u32::from_be_bytes(id), STANDARD.encode(key)))
}
