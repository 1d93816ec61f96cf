use super::*;

const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "k2:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn keys(lines: &[&str]) -> EncryptionKeys {
    EncryptionKeys::parse(&lines.join("\n")).unwrap()
}

fn encrypted(keys: &EncryptionKeys, endpoint: &str, value: &str) -> String {
    let endpoint = EndpointKey::from_stored(endpoint);
    let envelopes = Envelopes {
        keys,
        endpoint: &endpoint,
    };
    envelopes.encrypt("auth.token", &value.into()).unwrap()
}

fn read(keys: &EncryptionKeys, endpoint: &str, field: &str, text: &str) -> Result<String, String> {
    let endpoint = EndpointKey::from_stored(endpoint);
    let envelopes = Envelopes {
        keys,
        endpoint: &endpoint,
    };
    envelopes
        .read(field, text)
        .map(|value| value.expose_secret().to_owned())
}

#[test]
fn what_is_encrypted_is_read_and_what_is_plain_stays_as_it_is() {
    let keys = keys(&[KEY]);
    for value in ["hunter2", "", "Sécurité 🏅\n", &"x".repeat(100_000)] {
        let envelope = encrypted(&keys, "o/e", value);
        assert!(envelope.starts_with("enc:v1:k1:"));
        assert_eq!(read(&keys, "o/e", "auth.token", &envelope).as_deref(), Ok(value));
    }
    for plain in [
        "",
        "hunter2",
        "enc:",
        "enc:v",
        "enc:v:",
        "enc:v1",
        "enc:vx:a",
        "ENC:v1:a",
        "a enc:v1:k1:",
    ] {
        assert_eq!(
            read(&EncryptionKeys::NONE, "o/e", "auth.token", plain).as_deref(),
            Ok(plain)
        );
    }
    assert_ne!(
        encrypted(&keys, "o/e", "a"),
        encrypted(&keys, "o/e", "a"),
        "another nonce"
    );
}

#[test]
fn blanks_around_an_envelope_do_not_count() {
    let keys = keys(&[KEY]);
    let good = encrypted(&keys, "o/e", " hunter2\n");
    for (before, after) in [
        ("", "\n"),
        ("", "\r\n"),
        (" ", ""),
        ("\t\n", " "),
        ("\u{feff}", ""),
        ("\u{a0}", ""),
    ] {
        let text = format!("{before}{good}{after}");
        assert_eq!(
            read(&keys, "o/e", "auth.token", &text).as_deref(),
            Ok(" hunter2\n"),
            "{text:?}"
        );
    }
}

/// Made with another implementation: `createCipheriv("aes-256-gcm", …)` of Node.js, with a nonce of twelve 7.
#[test]
fn the_format_is_the_documented_one() {
    const MADE: &str = "enc:v1:k1:BwcHBwcHBwcHBwcHZx/IKAp95TlhHFV6PDAmD+MXUJcnWG4=";
    assert_eq!(read(&keys(&[KEY]), "o/e", "auth.token", MADE).as_deref(), Ok("hunter2"));
}

#[test]
fn what_can_not_be_decrypted_says_why_and_not_what_it_holds() {
    let both = keys(&[KEY, OTHER]);
    let good = encrypted(&both, "o/e", "hunter2");
    let body = good.strip_prefix("enc:v1:k1:").unwrap();
    let bytes = STANDARD.decode(body).unwrap();
    let with = |bytes: &[u8]| format!("enc:v1:k1:{}", STANDARD.encode(bytes));
    let changed = |index: usize| {
        let mut bytes = bytes.clone();
        bytes[index] ^= 1;
        with(&bytes)
    };
    let form = "is not of the form enc:v1:KEYID:BASE64";
    let damaged = "can't be decrypted: it is damaged, was encrypted for another organization, endpoint or field, or with another key named k1";
    let base64 = "is encrypted, but what follows the key's name is not base64 with padding";
    let short = "is encrypted, but too short to be whole";
    let unknown = "is encrypted in a way that this version doesn't know";
    let table = [
        ("a later version", good.replace("enc:v1", "enc:v2"), unknown),
        ("another way to write 1", good.replace("enc:v1", "enc:v01"), unknown),
        ("nothing after the version", "enc:v1:".into(), form),
        ("no key", format!("enc:v1:{body}"), form),
        ("an empty key", format!("enc:v1::{body}"), form),
        ("a long key", format!("enc:v1:{}:{body}", "k".repeat(33)), form),
        ("a key with a line break", format!("enc:v1:k\n1:{body}"), form),
        ("the first byte of the nonce", changed(0), damaged),
        ("the first byte of the ciphertext", changed(NONCE_LEN), damaged),
        ("the last byte of the tag", changed(bytes.len() - 1), damaged),
        ("cut", with(&bytes[..bytes.len() - 1]), damaged),
        ("no tag", with(&bytes[..NONCE_LEN + TAG_LEN - 1]), short),
        ("nothing", with(&[]), short),
        ("no padding", good.trim_end_matches('=').to_owned(), base64),
        (
            "a line break within",
            format!("{}\n{}", &good[..20], &good[20..]),
            base64,
        ),
        (
            "a blank before a later version",
            good.replace("enc:v1", " enc:v2"),
            unknown,
        ),
        ("encrypted twice", encrypted(&both, "o/e", &good), "was encrypted twice"),
        (
            "with a blank",
            encrypted(&both, "o/e", &format!(" {good}\n")),
            "was encrypted twice",
        ),
        ("another alphabet", format!("enc:v1:k1:-_{}", &body[2..]), base64),
        ("the other key's name", good.replace(":k1:", ":k2:"), "named k2"),
        (
            "an unknown key",
            good.replace(":k1:", ":k3:"),
            "is encrypted with the key k3, which is not among",
        ),
    ];
    for (what, text, reason) in table {
        let refused = read(&both, "o/e", "auth.token", &text).expect_err(what);
        assert!(
            refused.contains(reason) && !refused.contains("hunter2"),
            "{what}: {refused}"
        );
    }
    for (endpoint, field) in [
        ("o/f", "auth.token"),
        ("p/e", "auth.token"),
        ("o/e", "auth.key"),
        ("o/e/auth", "token2"),
    ] {
        assert_eq!(
            read(&both, endpoint, field, &good),
            Err(damaged.into()),
            "{endpoint} {field}"
        );
    }
    let none = read(&EncryptionKeys::NONE, "o/e", "auth.token", &good);
    assert_eq!(
        none,
        Err(
            "is encrypted with the key k1, and no key is configured (secrets.key_file or the credential secret-keys)"
                .into()
        )
    );
}

#[test]
fn an_old_key_decrypts_as_long_as_it_is_there() {
    let old = encrypted(&keys(&[KEY]), "o/e", "hunter2");
    let rotated = keys(&[OTHER, KEY]);
    assert_eq!(read(&rotated, "o/e", "auth.token", &old).as_deref(), Ok("hunter2"));
    assert!(encrypted(&rotated, "o/e", "a").starts_with("enc:v1:k2:"));
    assert!(read(&keys(&[OTHER]), "o/e", "auth.token", &old).is_err());
}

#[test]
fn a_file_of_keys_is_read_or_says_which_line_is_wrong() {
    let fine = format!("\n# new\r\n  {KEY}  \r\n\n{OTHER}");
    let read = EncryptionKeys::parse(&fine).unwrap();
    assert_eq!(read, keys(&[KEY, OTHER]));
    assert_ne!(read, keys(&[OTHER, KEY]));
    assert!(!format!("{read:?}").contains("AAEC"));
    let new = new_key().unwrap();
    assert_eq!(EncryptionKeys::parse(&new).unwrap().first().unwrap().id.len(), 9);
    for (lines, why) in [
        ("", "there is no key in it"),
        ("# nothing\n\n", "there is no key in it"),
        ("hunter2", "line 1 is not KEYID:BASE64"),
        (
            &format!("{KEY}\n{}", KEY.replace("k1", "k 1")),
            "line 2 has an id that is not 1 to 32 of",
        ),
        (":AAEC", "line 1 has an id that is not 1 to 32 of"),
        ("k1:AAEC", "line 1 is not the base64 of 32 bytes after its id"),
        ("k1:hunter2!", "line 1 is not the base64 of 32 bytes after its id"),
        (&format!("{KEY}\n#\n{KEY}"), "line 3 has the id of a line before it"),
    ] {
        let refused = EncryptionKeys::parse(lines).unwrap_err();
        assert!(refused.starts_with(why) && !refused.contains("hunter2"), "{refused}");
    }
}
