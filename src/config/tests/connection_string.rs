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
