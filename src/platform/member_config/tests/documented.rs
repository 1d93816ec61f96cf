//! docs/integrate.md tells of each field that is read, and of the limits that hold.

use super::super::{MAX_ENDPOINTS, address, endpoint, headers};
use super::*;

const PAGE: &str = include_str!("../../../../docs/integrate.md");

/// The row of the page that begins with that field.
fn row(field: &str) -> &'static str {
    let row = PAGE.lines().find(|line| line.starts_with(&format!("| `{field}` |")));
    row.unwrap_or_else(|| panic!("docs/integrate.md has no row for {field}"))
}

#[test]
fn each_field_has_its_row_with_its_limits() {
    for field in endpoint::FIELDS {
        row(field);
    }
    let thousands = |n: usize| format!("{},{:03}", n / 1000, n % 1000);
    for (field, limit) in [
        ("timeout", format!("| {} |", endpoint::DEFAULT_TIMEOUT_MS)),
        (
            "timeout",
            format!("{} to {}", endpoint::MIN_TIMEOUT_MS, endpoint::MAX_TIMEOUT_MS),
        ),
        ("name", format!("longer than {} characters", endpoint::MAX_NAME)),
        (
            "headers",
            format!("at most {}, of {} KB", headers::MAX_COUNT, headers::MAX_BYTES >> 10),
        ),
        ("url", format!("at most {} characters", thousands(address::MAX_LENGTH))),
    ] {
        assert!(row(field).contains(&limit), "{field}: {limit}");
    }
    assert!(PAGE.contains(&format!("at most {} endpoints", thousands(MAX_ENDPOINTS))));
}

/// With the fields that the page names an endpoint is served, and without the first of them it isn't.
#[test]
fn each_kind_of_authentication_takes_the_fields_of_its_row() {
    let (_, rows) = PAGE
        .split_once("| `auth.authType` | fields |\n| --- | --- |\n")
        .unwrap();
    let rows: Vec<_> = rows.lines().take_while(|row| row.starts_with('|')).collect();
    assert_eq!(rows.len(), 5);
    for row in rows {
        let mut names = row.split('`').skip(1).step_by(2);
        let auth_type = names.next().unwrap();
        let mut auth = doc! { "authType": auth_type };
        // What begins with a capital, or is in parentheses, is a value.
        let fields: Vec<_> = names
            .filter(|name| name.starts_with(char::is_lowercase) && *name != "url")
            .collect();
        for field in &fields {
            let value = if *field == "tokenUrl" {
                "https://token.example/"
            } else {
                "x"
            };
            auth.insert(*field, value);
        }
        let served = |auth: &Document| sound(&parse_endpoints([with("auth", auth.clone())], &HTTPS_ONLY)).len() == 1;
        assert!(served(&auth), "{auth}");
        if let Some(first) = fields.first() {
            auth.remove(first);
            assert!(!served(&auth), "{auth}");
        }
    }
}
