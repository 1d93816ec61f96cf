use super::*;

#[test]
fn may_stand_in_a_file_of_its_own_or_in_a_credential() {
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

#[test]
fn that_is_refused_says_which_part_or_option_and_quotes_nothing() {
    let encode = "percent-encode user and password, such as %40 for @";
    let cases = [
        ("alice:hunter2@db.test", "it begins with neither mongodb:// nor mongodb+srv://".to_owned()),
        ("\"mongodb://alice:hunter2@db.test\"", "it begins with neither mongodb:// nor mongodb+srv://".to_owned()),
        ("http://alice:hunter2@db.test/", "it begins with neither mongodb:// nor mongodb+srv://".to_owned()),
        ("mongodb://alice:hunter2@x@db.test/", format!("the user or the password makes no sense: {encode}")),
        ("mongodb://alice:hunter2/x@db.test/", format!("the user or the password makes no sense: {encode}")),
        ("mongodb://alice:hunter2%@db.test/", format!("the user or the password makes no sense: {encode}")),
        ("mongodb://alice:1?hunter2=x@db.test/", format!("there is an @ after the first question mark: {encode}")),
        ("mongodb://alice:hunter2@db.test:port/", "a host or its port makes no sense".to_owned()),
        ("mongodb://alice:hunter2@db1,,db2/", "a host or its port makes no sense".to_owned()),
        ("mongodb://alice:hunter2@db1, db2/", "there is white space in it".to_owned()),
        ("mongodb://alice:hunter2@db1/?replicaSet=rs0\nfoo", "there is white space in it".to_owned()),
        ("mongodb://alice:hunter2@db1/a$b", "the database in its path makes no sense".to_owned()),
        (
            "mongodb://alice:hunter2@db1/?replicaSet=rs0&retryWrites=yes",
            "the option retryWrites is refused: connection string `retrywrites` option must be a boolean".to_owned(),
        ),
        (
            "mongodb://alice:hunter2@db1/?maxPoolSize=hunter2&tls=1",
            "the option tls is refused: connection string `tls` option must be a boolean and the option maxPoolSize is \
             refused: connection string `maxpoolsize` argument must be a positive integer"
                .to_owned(),
        ),
        (
            "mongodb://alice:hunter2@db1/?readPreference=hunter2",
            "the option readPreference has a value that makes no sense".to_owned(),
        ),
        (
            "mongodb://alice:hunter2@db1/?readPreferenceTags=dc:east",
            "the option readPreferenceTags is refused: cannot set read preference tags without also setting read preference mode"
                .to_owned(),
        ),
        ("mongodb://alice:hunter2@db1/?tls", "the option tls has no value".to_owned()),
        (
            "mongodb://alice:hunter2@db1/?w=1&w=2",
            "the option w is refused: repeated options are not allowed in the connection string".to_owned(),
        ),
        (
            "mongodb://alice:hunter2@db1/?tlsCertificateKeyFilePassword=hunter2",
            "the option tlsCertificateKeyFilePassword is refused: the cert-key-password feature must be enabled to specify \
             tlsCertificateKeyFilePassword in the URI"
                .to_owned(),
        ),
    ];
    for (uri, why) in cases {
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

#[test]
fn options_that_nobody_knows_are_left_out_with_one_warning_each() {
    let unknown = |name: &str| format!("mongodb.uri: the option {name} is unknown and ignored");
    let useless = |name: &str| format!("mongodb.uri: the option {name} has no effect here and is ignored");
    for (options, left, warnings) in [
        ("replicaSet=rs0", "replicaSet=rs0", vec![]),
        ("REPLICASET=rs0&", "REPLICASET=rs0", vec![]),
        ("foo=bar", "", vec![unknown("foo")]),
        (
            "compressors=zstd&replicaSet=rs0",
            "replicaSet=rs0",
            vec![useless("compressors")],
        ),
        (
            "uuidRepresentation=standard&zlibCompressionLevel=3",
            "",
            vec![useless("uuidRepresentation"), useless("zlibCompressionLevel")],
        ),
        (
            "socketTimeoutMS=360000&sockettimeoutms=1",
            "",
            vec![useless("socketTimeoutMS"), useless("sockettimeoutms")],
        ),
        (
            "replicaSet=rs0&retryWrits=true&slaveOk=hunter2",
            "replicaSet=rs0",
            vec![
                unknown("retryWrits") + "; did you mean retryWrites?",
                unknown("slaveOk"),
            ],
        ),
        ("flag&tls=true", "tls=true", vec![unknown("flag")]),
        ("a\u{1b}b=c", "", vec![]),
    ] {
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
            .map(|warning| format!("{warning} (CERTHOOKD_MONGODB__URI)"))
            .collect();
        assert_eq!(config.warnings, told, "{options}");
    }
}

#[test]
fn its_path_names_the_database_where_nothing_else_does() {
    for (path, set, database) in [
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
    ] {
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
