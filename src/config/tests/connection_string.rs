use super::*;

#[test]
fn may_be_in_a_file_of_its_own_or_in_a_credential() {
    let given = Given::nothing();
    let path = given.write("secret", &format!("{SECRET_URI}\r\n"));
    let named = Given::nothing().env("CERTHOOKD_MONGODB__URI_FILE", path.to_str().unwrap());
    assert_eq!(named.config().mongodb.uri.expose_secret(), SECRET_URI);

    let credential = Given::toml(SHIPPED);
    credential.write("mongodb-uri", &format!("{SECRET_URI}\n"));
    assert_eq!(credential.config().mongodb.uri.expose_secret(), SECRET_URI);
}

#[test]
fn given_nowhere_is_a_fault_that_names_the_places() {
    let expected = "mongodb.uri: expected the connection string at mongodb.uri, in the file that mongodb.uri_file names or in the \
                    systemd credential mongodb-uri (/etc/credstore/mongodb-uri), found none";
    for given in [Given::nothing(), Given::toml(""), Given::toml(SHIPPED)] {
        assert_eq!(given.load_as_it_is(&[]).unwrap_err().to_string(), expected);
    }
    // With another fault, beside it.
    let faults = Given::toml("queue.capacity = 0").load_as_it_is(&[]).unwrap_err();
    assert_eq!(
        faults.iter().map(Fault::key).collect::<Vec<_>>(),
        ["mongodb.uri", "queue.capacity"]
    );
    // A file that can't be parsed may hold it.
    let faults = Given::toml("mongodb.uri = ").load_as_it_is(&[]).unwrap_err();
    assert_eq!(faults.iter().count(), 1, "{faults}");
}

/// URIs and what the fault says of them.
const REFUSED: [(&str, &str); 19] = [
    (
        "alice:hunter2@db.test",
        "it begins with neither mongodb:// nor mongodb+srv://",
    ),
    (
        "\"mongodb://alice:hunter2@db.test\"",
        "it begins with neither mongodb:// nor mongodb+srv://",
    ),
    (
        "http://alice:hunter2@db.test/",
        "it begins with neither mongodb:// nor mongodb+srv://",
    ),
    (
        "mongodb://alice:hunter2@x@db.test/",
        "the user or the password makes no sense: {encode}",
    ),
    (
        "mongodb://alice:hunter2/x@db.test/",
        "the user or the password makes no sense: {encode}",
    ),
    (
        "mongodb://alice:hunter2%@db.test/",
        "the user or the password makes no sense: {encode}",
    ),
    (
        "mongodb://alice:1?hunter2=x@db.test/",
        "there is an @ after the first question mark: {encode}",
    ),
    (
        "mongodb://alice:hunter2@db.test:port/",
        "a host or its port makes no sense",
    ),
    ("mongodb://alice:hunter2@db1,,db2/", "a host or its port makes no sense"),
    ("mongodb://alice:hunter2@db1, db2/", "there is white space in it"),
    (
        "mongodb://alice:hunter2@db1/?replicaSet=rs0\nfoo",
        "there is white space in it",
    ),
    (
        "mongodb://alice:hunter2@db1/a$b",
        "the database in its path makes no sense",
    ),
    (
        "mongodb://alice:hunter2@db1/?replicaSet=rs0&retryWrites=yes",
        "the option retryWrites is refused: connection string `retrywrites` option must be a boolean",
    ),
    (
        "mongodb://alice:hunter2@db1/?maxPoolSize=hunter2&tls=1",
        "the option tls is refused: connection string `tls` option must be a boolean and the option maxPoolSize is \
             refused: connection string `maxpoolsize` argument must be a positive integer",
    ),
    (
        "mongodb://alice:hunter2@db1/?readPreference=hunter2",
        "the option readPreference has a value that makes no sense",
    ),
    (
        "mongodb://alice:hunter2@db1/?readPreferenceTags=dc:east",
        "the option readPreferenceTags is refused: cannot set read preference tags without also setting read preference mode",
    ),
    ("mongodb://alice:hunter2@db1/?tls", "the option tls has no value"),
    (
        "mongodb://alice:hunter2@db1/?w=1&w=2",
        "the option w is refused: repeated options are not allowed in the connection string",
    ),
    (
        "mongodb://alice:hunter2@db1/?tlsCertificateKeyFilePassword=hunter2",
        "the option tlsCertificateKeyFilePassword is refused: the cert-key-password feature must be enabled to specify \
             tlsCertificateKeyFilePassword in the URI",
    ),
];

#[test]
fn that_is_refused_says_which_part_or_option_and_quotes_nothing() {
    let encode = "percent-encode user and password, such as %40 for @";
    for (uri, why) in REFUSED {
        let why = why.replace("{encode}", encode);
        let given = Given::nothing().env("CERTHOOKD_MONGODB__URI", uri);
        let faults = given.faults();
        assert_eq!(faults.len(), 1, "{uri}: {faults:?}");
        assert!(
            faults[0].starts_with("mongodb.uri: expected a connection string ("),
            "{faults:?}"
        );
        assert!(
            faults[0].ends_with(&format!("password): {why} (CERTHOOKD_MONGODB__URI)")),
            "{uri}\n{}\n{why}",
            faults[0]
        );
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }
}

/// Options, those that are left, and a warning for each of the others.
const OPTIONS: [(&str, &str, &[&str]); 9] = [
    ("replicaSet=rs0", "replicaSet=rs0", &[]),
    ("REPLICASET=rs0&", "REPLICASET=rs0", &[]),
    ("foo=bar", "", &["foo is unknown and ignored"]),
    (
        "compressors=zstd&replicaSet=rs0",
        "replicaSet=rs0",
        &["compressors has no effect here and is ignored"],
    ),
    (
        "uuidRepresentation=standard&zlibCompressionLevel=3",
        "",
        &[
            "uuidRepresentation has no effect here and is ignored",
            "zlibCompressionLevel has no effect here and is ignored",
        ],
    ),
    (
        "socketTimeoutMS=360000&sockettimeoutms=1",
        "",
        &[
            "socketTimeoutMS has no effect here and is ignored",
            "sockettimeoutms has no effect here and is ignored",
        ],
    ),
    (
        "replicaSet=rs0&retryWrits=true&slaveOk=hunter2",
        "replicaSet=rs0",
        &[
            "retryWrits is unknown and ignored; did you mean retryWrites?",
            "slaveOk is unknown and ignored",
        ],
    ),
    ("flag&tls=true", "tls=true", &["flag is unknown and ignored"]),
    ("a\u{1b}b=c", "", &[]),
];

#[test]
fn options_that_nobody_knows_are_left_out_with_one_warning_each() {
    for (options, left, warnings) in OPTIONS {
        let given = Given::nothing().env("CERTHOOKD_MONGODB__URI", &format!("mongodb://db1/?{options}"));
        if options.contains('\u{1b}') {
            assert!(given.faults()[0].contains("there is white space in it"));
            continue;
        }
        let config = given.config();
        assert_eq!(
            config.mongodb.uri.expose_secret(),
            format!("mongodb://db1/?{left}"),
            "{options}"
        );
        let told: Vec<_> = warnings
            .iter()
            .map(|warning| format!("mongodb.uri: the option {warning} (CERTHOOKD_MONGODB__URI)"))
            .collect();
        assert_eq!(config.warnings, told, "{options}");
    }
}

/// The path, the file, and the database or what the fault says.
const PATHS: [(&str, &str, Result<&str, &str>); 13] = [
    ("", "", Ok("beedeez")),
    ("badges", "", Ok("badges")),
    ("b%61dges", "", Ok("badges")),
    ("badges", "mongodb.database = 'badges'", Ok("badges")),
    ("admin", "", Ok("beedeez")),
    ("admin", "mongodb.database = 'badges'", Ok("badges")),
    (
        "badges",
        "mongodb.database = 'beedeez'",
        Err("expected \"badges\", as in the path of the connection string, found \"beedeez\" (config.toml:1)"),
    ),
    (
        "Badges",
        "mongodb.database = 'badges'",
        Err("expected \"Badges\", as in the path of the connection string, found \"badges\" (config.toml:1)"),
    ),
    ("badges", "mongodb.database = 3", Err("expected a database name, ")),
    ("a.b", "", Err("(the path of the connection string)")),
    ("local", "", Err("expected the platform's database, found \"local\"")),
    ("config", "", Err("config is MongoDB's own")),
    (
        "",
        "mongodb.database = 'admin'",
        Err("admin is MongoDB's own (config.toml:1)"),
    ),
];

#[test]
fn its_path_names_the_database_where_nothing_else_does() {
    for (path, set, database) in PATHS {
        let uri = format!("mongodb://alice:hunter2@db.test/{path}?authSource=admin");
        let given = Given::toml(set).env("CERTHOOKD_MONGODB__URI", &uri);
        match database {
            Ok(name) => assert_eq!(given.config().mongodb.database, name, "{path} {set}"),
            Err(fault) => {
                let faults = given.faults();
                assert_eq!(faults.len(), 1, "{faults:?}");
                assert!(
                    faults[0].starts_with("mongodb.database: ") && faults[0].contains(fault),
                    "{faults:?}"
                );
            }
        }
    }
}

#[test]
fn in_two_places_is_a_fault_that_names_both() {
    let given = Given::toml("mongodb.uri_file = 'secret'").env("CERTHOOKD_MONGODB__URI", SECRET_URI);
    given.write("mongodb-uri", SECRET_URI);
    let fault = &given.faults()[0];
    assert_eq!(
        fault,
        "mongodb.uri: expected one place for the connection string, found mongodb.uri (CERTHOOKD_MONGODB__URI) \
         and mongodb.uri_file (config.toml:1) and the credential mongodb-uri"
    );
}

#[test]
fn that_cannot_be_read_is_a_fault() {
    let fault = one_fault("[mongodb]\nuri_file = '/nonexistent/uri'");
    assert!(
        fault
            .starts_with("mongodb.uri_file: expected the path of a readable file, found \"/nonexistent/uri\": No such")
    );
    assert!(fault.ends_with("(config.toml:2)"));

    let given = Given::nothing();
    given.write("mongodb-uri", "\n");
    assert!(given.faults()[0].contains("found an empty one (the credential mongodb-uri)"));

    let given = Given::nothing();
    fs::create_dir(given.directory.path().join("mongodb-uri")).unwrap();
    assert!(given.faults()[0].starts_with("mongodb.uri: expected a readable credential mongodb-uri: "));
}

#[test]
fn is_never_shown() {
    let config = Given::nothing().env("CERTHOOKD_MONGODB__URI", SECRET_URI).config();
    assert!(!format!("{config:?}").contains("hunter2"));

    let misplaced = [
        format!("mongodb.uri = '{SECRET_URI}&maxPoolSize=many'"),
        format!("mongodb.uri = {SECRET_URI}"),
        "mongodb.uri = 'alice:hunter2@db.test'".to_owned(),
        format!("mongodb.uri = ['{SECRET_URI}']"),
        format!("mongodb.uri_file = '{SECRET_URI}'"),
        format!("mongodb.url = '{SECRET_URI}'"),
        format!("mongodb.database = '{SECRET_URI}'"),
        format!("mongodb = '{SECRET_URI}'"),
        format!("url = '{SECRET_URI}'"),
        format!("scan.schedule = '{SECRET_URI} * * * *'"),
        format!("scan.timezone = '{SECRET_URI}'"),
        format!("delivery.allow_networks = ['{SECRET_URI}']"),
        format!("[mongodb]\nuri = '{SECRET_URI}'\nuri = '{SECRET_URI}'"),
    ];
    for toml in misplaced {
        let faults = Given::toml(&toml).load().unwrap_err();
        let shown = format!("{faults} {faults:?}").to_lowercase();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
