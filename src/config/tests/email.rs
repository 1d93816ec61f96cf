use lettre::transport::smtp::authentication::Credentials;
use serde_json::json;

use super::*;

const SECRET_URL: &str = "smtps://alice:hunter2@mail.test";

fn server(url: &str) -> SmtpServer {
    let given = Given::toml(&format!("email = {{ smtp_url = '{url}', from = 'a@b.test' }}"));
    given.config().email.smtp_url.unwrap()
}

fn rendered(template: &str, certificate: serde_json::Value) -> String {
    Template::compile(template).unwrap().render(certificate).unwrap()
}

#[test]
fn is_off_until_a_server_is_named_and_needs_a_sender_then() {
    assert!(Given::nothing().config().email.smtp_url.is_none());
    assert_eq!(
        one_fault("email.smtp_url = 'smtp://mail.test'"),
        "email.from: expected an address, since email.smtp_url is set, found none (the default)"
    );
    let fault = one_fault("email = { smtp_url = 'smtp://mail.test', from = 'nobody' }");
    assert!(fault.starts_with("email.from: expected an address such as "), "{fault}");
}

#[test]
fn a_server_is_named_by_its_url() {
    let expected = |host: &str, port, encryption, credentials| SmtpServer {
        host: host.into(),
        port,
        encryption,
        credentials,
    };
    let login = Credentials::new("a@b".into(), "p:/ä".into());
    assert_eq!(
        server("smtps://a%40b:p%3A%2F%C3%A4@mail.test"),
        expected("mail.test", 465, Encryption::Implicit, Some(login.clone()))
    );
    assert_eq!(
        server("smtp://a%40b:p%3A%2F%C3%A4@mail.test:25/?tls=required"),
        expected("mail.test", 25, Encryption::Required, Some(login))
    );
    assert_eq!(
        server("smtp://mail.test"),
        expected("mail.test", 587, Encryption::Required, None)
    );
    assert_eq!(
        server("smtp://192.0.2.1?tls=opportunistic"),
        expected("192.0.2.1", 25, Encryption::Opportunistic, None)
    );
    assert_eq!(
        server("smtp://[::1]:2525?tls=none"),
        expected("::1", 2525, Encryption::None, None)
    );
}

#[test]
fn a_url_that_makes_no_sense_says_why_and_is_not_shown() {
    let cases = [
        ("mail.hunter2.test", "not a URL"),
        ("https://hunter2.test", "its scheme is another"),
        ("smtps://:25", "not a URL"),
        ("smtp:hunter2", "it names no host"),
        ("smtp://hunter2.test/path", "it has a path"),
        ("smtp://alice@hunter2.test", "user and password go together"),
        ("smtp://:hunter2@mail.test", "user and password go together"),
        (
            "smtp://alice:hunter2@mail.test?tls=none",
            "the password could travel in the clear",
        ),
        (
            "smtp://alice:hunter2@mail.test?tls=opportunistic",
            "the password could travel in the clear",
        ),
        ("smtp://hunter2.test?tls=maybe", "nothing but smtp://…?tls="),
        ("smtps://hunter2.test?tls=none", "nothing but smtp://…?tls="),
        ("smtps://alice:%FF@hunter2.test", "no UTF-8"),
    ];
    for (url, why) in cases {
        let fault = one_fault(&format!("email.smtp_url = '{url}'"));
        assert!(fault.contains(why) && !fault.contains("hunter2"), "{url}: {fault}");
    }
}

#[test]
fn the_url_may_stand_in_a_file_or_a_credential_which_then_must_hold_one() {
    let given = Given::toml("email.from = 'a@b.test'");
    given.write("smtp-url", &format!("{SECRET_URL}\n"));
    let config = given.config();
    assert_eq!(config.email.smtp_url, Some(server(SECRET_URL)));
    assert!(!all_of(&config).contains("hunter2"));

    given.write("smtp-url", "");
    assert!(given.faults()[0].contains("not a URL (the credential smtp-url)"));

    let twice = Given::toml(&format!("email.smtp_url = '{SECRET_URL}'")).env("CERTHOOKD_EMAIL__SMTP_URL_FILE", "x");
    assert!(twice.faults().iter().any(|fault| fault.starts_with(
        "email.smtp_url: expected one place for the mail server's URL, found email.smtp_url (config.toml:1) and \
         email.smtp_url_file"
    )));
}

#[test]
fn a_template_that_makes_no_sense_is_a_fault_of_its_key() {
    let cases = [
        (
            "email.subject = '{{ certificate.'",
            "email.subject: expected a template such as ",
        ),
        ("email.text = \"a\\n{% if x %}\"", "in line 2"),
        ("email.text = '{{ certificat.expires }}'", "it speaks of \"certificat\""),
        ("email.text = '{{ certificate.expires | uper }}'", "unknown filter"),
        ("email.text = '{{ now() }}'", "it speaks of \"now\""),
        ("email.subject = ' '", "email.subject: expected a template"),
        ("email.address_field = 'a..b'", "expected a field such as email"),
        ("email.address_field = '$email'", "expected a field such as email"),
    ];
    for (toml, expected) in cases {
        let fault = one_fault(toml);
        assert!(fault.contains(expected), "{fault}");
    }
}

#[test]
fn a_value_stays_on_its_line_and_what_is_absent_prints_as_nothing() {
    let certificate = json!({ "name": "a\r\nBcc: b\u{2028}c\u{202e}d\u{0}\te<i>{{ x }}", "none": null, "n": 5 });
    assert_eq!(
        rendered("[{{ certificate.name }}]", certificate.clone()),
        "[a  Bcc: b c d  e<i>{{ x }}]"
    );
    let absent = "[{{ certificate.none }}{{ certificate.no.such.field }}{{ certificate.n }}]";
    assert_eq!(rendered(absent, certificate), "[5]");
}

#[test]
fn a_certificate_that_a_template_does_not_fit_is_not_quoted() {
    let template = Template::compile("a\n{{ certificate.name + 1 }}").unwrap();
    let reason = template.render(json!({ "name": "hunter2" })).unwrap_err();
    assert_eq!(reason, "invalid operation in line 2");
}
