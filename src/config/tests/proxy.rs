use super::*;

const SECRET_URL: &str = "http://alice:hunter2@proxy.test:3128";

fn server(url: &str) -> ProxyServer {
    let given = Given::toml(&format!("delivery.proxy = '{url}'"));
    given.config().delivery.proxy.unwrap()
}

#[test]
fn a_proxy_is_named_by_its_url() {
    assert_eq!(Given::nothing().config().delivery.proxy, None);
    assert_eq!(Given::toml("delivery.proxy = ''").config().delivery.proxy, None);
    let table = [
        ("http://proxy.test:3128", "proxy.test:3128", None),
        ("http://proxy.test", "proxy.test:80", None),
        ("https://PROXY.test/", "proxy.test:443", None),
        ("http://[::1]:8080", "[::1]:8080", None),
        // user:password, and what is percent-encoded.
        (
            "http://bob:s3cret@10.0.0.1:3128",
            "10.0.0.1:3128",
            Some("Basic Ym9iOnMzY3JldA=="),
        ),
        (
            "http://a%40b:p%3A%2F%C3%A4@proxy.test:1",
            "proxy.test:1",
            Some("Basic YUBiOnA6L8Ok"),
        ),
        ("http://token@proxy.test:1", "proxy.test:1", Some("Basic dG9rZW46")),
    ];
    for (url, name, login) in table {
        let server = server(url);
        let authorization = server.authorization.as_ref().map(|value| value.to_str().unwrap());
        assert_eq!((&*server.name, authorization), (name, login), "{url}");
    }
}

#[test]
fn a_url_that_makes_no_sense_says_why_and_is_not_shown() {
    let cases = [
        ("hunter2.test:3128", "its scheme is another"),
        ("hunter2.test", "not a URL"),
        ("socks5://hunter2.test:1080", "its scheme is another"),
        ("http://:3128", "not a URL"),
        ("http://hunter2.test/path", "it has a path"),
        ("http://hunter2.test/?a=b", "it has a path"),
        ("http://:hunter2@proxy.test", "it has a password without a user"),
        ("http://a%3Ab:hunter2@proxy.test", "a user name holds no colon"),
    ];
    for (url, why) in cases {
        let fault = one_fault(&format!("delivery.proxy = '{url}'"));
        assert!(
            fault.starts_with("delivery.proxy: expected http://HOST:PORT or "),
            "{url}: {fault}"
        );
        assert!(fault.contains(why) && !fault.contains("hunter2"), "{url}: {fault}");
    }
}

#[test]
fn the_url_may_stand_in_a_file_or_a_credential_which_then_must_hold_one() {
    let given = Given::nothing();
    given.write("proxy-url", &format!("{SECRET_URL}\n"));
    let config = given.config();
    assert_eq!(config.delivery.proxy, Some(server(SECRET_URL)));
    let shown = all_of(&config);
    for secret in ["hunter2", "alice", "YWxpY2U"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    given.write("proxy-url", "");
    assert!(given.faults()[0].contains("not a URL (the credential proxy-url)"));

    let others = Given::nothing();
    let file = others.write("proxy", SECRET_URL);
    let named = Given::nothing().env("CERTHOOKD_DELIVERY__PROXY_FILE", file.to_str().unwrap());
    assert_eq!(named.config().delivery.proxy, Some(server(SECRET_URL)));
    let twice = Given::toml(&format!("delivery.proxy = '{SECRET_URL}'")).env("CERTHOOKD_DELIVERY__PROXY_FILE", "x");
    assert!(twice.faults().iter().any(|fault| fault.starts_with(
        "delivery.proxy: expected one place for the proxy's URL, found delivery.proxy (config.toml:1) and \
         delivery.proxy_file"
    )));
}

#[test]
fn who_is_reached_directly_is_a_list_of_hosts_domains_and_networks() {
    let listed =
        Given::toml("delivery.no_proxy = ['HR.example.test.', '.Example.org', '10.1.0.0/16', '::1', '[fd00::1]']");
    let listed = listed.config().delivery.no_proxy;
    for (host, expected) in [
        ("hr.example.test", true),
        ("example.test", false),
        ("a.example.org", true),
        ("a.b.example.org.", true),
        ("example.org", false),
        ("badexample.org", false),
    ] {
        assert_eq!(listed.names(host), expected, "{host}");
    }
    for (addresses, expected) in [
        (&["10.1.2.3"][..], true),
        (&["::ffff:10.1.2.3"], true),
        (&["::1", "fd00::1", "10.1.0.1"], true),
        (&["10.1.2.3", "10.2.0.1"], false),
        (&[], false),
    ] {
        let found: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(listed.covers(&found), expected, "{addresses:?}");
    }
    for wrong in ["*", "*.example.org", "a:80", "http://a", "10.0.0.0/40", ".", "a b"] {
        let fault = one_fault(&format!("delivery.no_proxy = ['{wrong}']"));
        assert!(
            fault.starts_with("delivery.no_proxy: expected a list of hosts "),
            "{wrong}: {fault}"
        );
    }
    assert!(one_fault("delivery.no_prox = []").contains("did you mean delivery.no_proxy?"));
}
