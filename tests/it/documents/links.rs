//! Every relative link and every anchor of the README, docs/ and the alert rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{anchors, files, prose, root};

const ALERTS: &str = include_str!("../../../docs/monitoring/alerts.yml");

fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    pages
}

/// The targets of the links of a page; those within backticks are none.
fn targets(page: &str) -> Vec<&str> {
    let spans = prose(page).flat_map(|line| line.split('`').step_by(2).collect::<Vec<_>>());
    // A link's text may hold code: the target follows it in the next span.
    let after = spans.flat_map(|span| span.split("](").skip(1).collect::<Vec<_>>());
    after.map(|rest| rest.split(')').next().unwrap()).collect()
}

/// Why the link of that page leads nowhere.
fn broken(page: &Path, target: &str) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if file.is_empty() {
        page.to_owned()
    } else {
        page.parent().unwrap().join(file)
    };
    let why = if !file.exists() {
        "no such file"
    } else if !anchor.is_empty()
        && !anchors(&fs::read_to_string(&file).unwrap())
            .iter()
            .any(|one| one == anchor)
    {
        "no such heading"
    } else {
        return None;
    };
    Some(format!("{}: {target}: {why}", page.display()))
}

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let (mut seen, mut faults) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in targets(&text).iter().filter(|target| !target.contains("://")) {
            seen += 1;
            faults.extend(broken(&page, target));
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_page_is_reached_from_the_readme() {
    let mut reached = BTreeSet::new();
    let mut next = vec![root().join("README.md")];
    while let Some(page) = next.pop() {
        if page.extension().is_none_or(|extension| extension != "md") || !reached.insert(page.clone()) {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        let files = targets(&text).into_iter().filter(|target| !target.contains("://"));
        let files = files
            .map(|target| target.split('#').next().unwrap())
            .filter(|file| !file.is_empty());
        next.extend(files.map(|file| page.parent().unwrap().join(file).canonicalize().unwrap()));
    }
    let lost: Vec<_> = pages().into_iter().filter(|page| !reached.contains(page)).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

#[test]
fn the_readme_is_one_screen() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 100, "{lines}");
}

#[test]
fn every_alert_leads_to_what_to_do() {
    let runbooks: Vec<_> = ALERTS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: "))
        .collect();
    assert_eq!(runbooks.len(), ALERTS.matches("- alert: ").count());
    let page = root().join("docs/index.md");
    let faults: Vec<_> = runbooks
        .iter()
        .filter_map(|target| broken(&page, target.strip_prefix("docs/").unwrap()))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// What is no anchor of GitHub's is none here.
#[test]
fn anchors_are_those_of_the_forges() {
    for (heading, anchor) in [
        ("## By log line", "by-log-line"),
        ("### `show`", "show"),
        (
            "## What is stored, where, and for how long",
            "what-is-stored-where-and-for-how-long",
        ),
        ("# The role & the user", "the-role--the-user"),
    ] {
        assert_eq!(anchors(heading), [anchor]);
    }
    assert_eq!(
        targets("[a](b.md) `[c](d)` [`e`](f.md#g), [h](#i)"),
        ["b.md", "f.md#g", "#i"]
    );
    assert_eq!(anchors("```sh\n# no heading\n```\n## One"), ["one"]);
}
