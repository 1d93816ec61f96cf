//! What is asked for by an id that is none, or that looks like another.

use bson::Bson;
use bson::oid::ObjectId;

use super::show_all;
use crate::fixture::{Fixture, Outcome, certificate};
use crate::layout;

/// As the shell hands it over.
async fn outcome(fixture: &Fixture, arguments: &[&str]) -> Outcome {
    fixture.outcome(&[&["show"], arguments].concat()).await
}

#[tokio::test]
async fn an_id_that_is_odd_is_not_found_in_one_line_that_stays_one() {
    let fixture = Fixture::new().await;
    layout::indexes(&fixture).await;
    let long = "x".repeat(10 * 1024);
    let long_event = format!("certificate_expired_{long}_1");
    let long_delivery = format!("certificate_expired_{}_1/{long}/{long}", ObjectId::new());
    let odd = [
        "",
        " ",
        "/",
        "//",
        "a\nb",
        "\u{1b}[31mred\u{7}",
        "\u{202e}txet",
        "$ne",
        "{\"$ne\": 1}",
        "certificate_expired_",
        "certificate_expired__",
        "certificate_expired_x_9999999999999999999999",
        "certificate_expired_67_-1/a/b/c/d",
        "67470000000000000000000g",
        "6747000000000000000000010",
        &long,
        &long_event,
        &long_delivery,
    ];
    for id in odd {
        for arguments in [&[id][..], &["--json", id]] {
            let shown = outcome(&fixture, arguments).await;
            let what = format!("{:.80?}: {:.600}", id, format!("{shown:?}"));
            assert!([Some(1), Some(2)].contains(&shown.code), "{what}");
            let printed = format!(
                "{}{}",
                shown.stdout,
                shown.log.iter().map(|line| line.to_string()).collect::<String>()
            );
            assert!(!printed.contains('\u{1b}') && !printed.contains('\u{202e}'), "{what}");
            assert!(!printed.contains("panicked"), "{what}");
            assert!(printed.len() < 4 * 1024, "{what}: {} bytes", printed.len());
            assert!(shown.errors().len() <= 1, "{what}");
        }
    }
}

#[tokio::test]
async fn a_certificate_is_found_by_an_id_of_any_type_that_looks_like_another() {
    let fixture = Fixture::new().await;
    layout::indexes(&fixture).await;
    let organization = fixture.organization(vec![fixture.endpoint("/a")]).await;
    let hex = ObjectId::new().to_hex();
    let ids: [Bson; 5] = [
        ObjectId::parse_str(&hex).unwrap().into(),
        "an-id".into(),
        "with blank and é".into(),
        hex.to_uppercase().into(),
        4711.into(),
    ];
    for id in &ids {
        let mut document = certificate(organization, None);
        document.insert("_id", id);
        fixture.badge_users().insert_one(document).await.unwrap();
    }
    let asked = [&*hex, "an-id", "with blank and é", &*hex.to_uppercase(), "4711"];
    let shown = show_all(&fixture, &asked).await;
    for (one, asked) in shown.iter().zip(asked) {
        assert!(
            one["certificates"].as_array().is_some_and(|all| !all.is_empty())
                || !one["notes"].as_array().unwrap().is_empty(),
            "{asked}: {one:#}"
        );
    }
}
