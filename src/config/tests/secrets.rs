//! Where secrets may come from, and how they are read.

use super::*;

const SMTP: &str = "smtps://bob:hunter2@mail.test";

const FROM: (&str, &str) = ("CERTHOOKD_EMAIL__FROM", "a@b.test");

/// What editors and `echo` leave around a secret.
const AROUND: [(&str, &str); 6] = [
    ("", "\n"),
    ("", "\r\n"),
    ("  ", "  "),
    ("\n\n", "\n\n"),
    ("\t", "\u{a0}\n"),
    ("\u{feff}", ""),
];

#[test]
fn white_space_at_the_ends_is_no_part_of_a_secret() {
    for (before, after) in AROUND {
        let wrap = |secret: &str| format!("{before}{secret}{after}");
        let files = Given::nothing().env(FROM.0, FROM.1);
        files.write("mongodb-uri", &wrap(SECRET_URI));
        files.write("smtp-url", &wrap(SMTP));
        let others = Given::nothing();
        let uri_file = others.write("uri", &wrap(SECRET_URI));
        let smtp_file = others.write("smtp", &wrap(SMTP));
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let variables = |uri: &str, smtp: &str| {
            Given::nothing()
                .env("CERTHOOKD_MONGODB__URI", uri)
                .env("CERTHOOKD_EMAIL__SMTP_URL", smtp)
                .env(FROM.0, FROM.1)
        };
        let named = Given::nothing()
            .env("CERTHOOKD_MONGODB__URI_FILE", &path(&uri_file))
            .env("CERTHOOKD_EMAIL__SMTP_URL_FILE", &path(&smtp_file))
            .env(FROM.0, FROM.1);
        for given in [&files, &variables(&wrap(SECRET_URI), &wrap(SMTP)), &named] {
            let config = given.config();
            assert_eq!(config.mongodb.uri.expose_secret(), SECRET_URI, "{before:?} {after:?}");
            assert_eq!(
                format!("{:?}", config.email.smtp_url),
                format!("{:?}", Some(SmtpServer::parse(SMTP).unwrap()))
            );
        }
        let toml = format!("mongodb.uri = {}", serde_json::Value::from(wrap(SECRET_URI)));
        assert_eq!(
            Given::toml(&toml).config().mongodb.uri.expose_secret(),
            SECRET_URI,
            "{toml}"
        );
    }
}

#[test]
fn the_stores_of_systemd_are_read_for_what_is_given_nowhere_else() {
    let (first, second) = (Given::nothing(), Given::nothing());
    second.write("mongodb-uri", &format!("{SECRET_URI}\n"));
    let directory = |given: &Given| given.directory.path().to_owned();
    let credentials = Credentials {
        given: None,
        stores: vec!["/nonexistent".into(), directory(&first), directory(&second)],
    };
    let load = |env: &[(String, String)]| Config::load(None, env, &credentials).unwrap();
    let found = load(&[]);
    assert_eq!(found.mongodb.uri.expose_secret(), SECRET_URI);
    assert_eq!(
        found.connection_string_from,
        format!("{}/mongodb-uri", directory(&second).display())
    );
    // The first of them.
    first.write("mongodb-uri", DEFAULT_URI);
    assert_eq!(load(&[]).mongodb.uri.expose_secret(), DEFAULT_URI);
    // Given elsewhere, that counts.
    let env = [("CERTHOOKD_MONGODB__URI".to_owned(), SECRET_URI.to_owned())];
    assert_eq!(load(&env).mongodb.uri.expose_secret(), SECRET_URI);
    assert_eq!(load(&env).connection_string_from, "CERTHOOKD_MONGODB__URI");
}

#[test]
fn a_store_that_can_not_be_read_is_named() {
    let given = Given::nothing();
    fs::create_dir(given.directory.path().join("mongodb-uri")).unwrap();
    let store = given.directory.path().to_owned();
    let path = format!("; {} can't be read: ", store.join("mongodb-uri").display());
    let credentials = Credentials {
        given: None,
        stores: vec![store],
    };
    let fault = Config::load(None, &[], &credentials).unwrap_err().to_string();
    assert!(fault.contains("found none") && fault.contains(&path), "{fault}");
}

const KEY: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[test]
fn the_keys_of_encrypted_secrets_are_in_a_file_or_a_credential() {
    let file = Given::nothing();
    let path = file.write("keys", &format!("# ours\n{KEY}\n"));
    let of_file = Given::nothing().env("CERTHOOKD_SECRETS__KEY_FILE", path.to_str().unwrap());
    let credential = Given::toml(SHIPPED);
    credential.write("secret-keys", &format!("{KEY}\n"));
    let variable = Given::nothing().env("CERTHOOKD_SECRETS__KEY", KEY);
    let expected = of_file.config().secrets.key;
    assert!(!expected.is_empty());
    for given in [credential, variable] {
        assert_eq!(given.config().secrets.key, expected);
    }
    assert!(Given::toml("secrets.key = ''").config().secrets.key.is_empty());
    assert_eq!(restart_needed(&Given::nothing().config(), &of_file.config()), [""; 0]);
}

#[test]
fn keys_that_make_no_sense_are_a_fault_that_shows_none_of_them() {
    for (text, why) in [
        ("", "found an empty one: there is no key in it"),
        ("hunter2", "line 1 is not KEYID:BASE64"),
        ("k1:hunter2", "line 1 is not the base64 of 32 bytes after its id"),
    ] {
        let given = Given::nothing();
        given.write("secret-keys", text);
        let faults = given.faults();
        assert!(
            faults[0].starts_with("secrets.key: expected lines of KEYID:BASE64"),
            "{faults:?}"
        );
        assert!(faults[0].contains(why) && !faults[0].contains("hunter2"), "{faults:?}");
    }
    let given = Given::toml("secrets.key_file = '/nonexistent/keys'");
    assert!(given.faults()[0].starts_with("secrets.key_file: expected the path of a readable file"));
    given.write("secret-keys", KEY);
    assert_eq!(given.faults().len(), 2, "{:?}", given.faults());
}

#[test]
fn what_config_toml_leaves_empty_may_be_a_credential() {
    let given = Given::toml(include_str!("../../../config.toml"))
        .env("CERTHOOKD_MONGODB__URI", SECRET_URI)
        .env(FROM.0, FROM.1);
    let key = crate::envelope::new_key().unwrap();
    let secrets = [
        ("smtp-url", SMTP),
        ("notices-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("proxy-url", "http://bob:hunter2@proxy.test:3128"),
        ("secret-keys", &key),
    ];
    for (credential, secret) in secrets {
        given.write(credential, secret);
    }
    let config = given.config();
    assert!(config.email.smtp_url.is_some() && config.notices.secret.is_some() && config.delivery.proxy.is_some());
    assert!(format!("{:?}", config.secrets).contains("Some"));
}
