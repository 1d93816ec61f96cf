//! docs/monitoring asks for nothing that a real daemon does not export.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{LISTEN, address, busy, scrape};
use crate::fixture::Fixture;

const ALERTS: &str = include_str!("../../../docs/monitoring/alerts.yml");
const DASHBOARD: &str = include_str!("../../../docs/monitoring/dashboard.json");

/// What Prometheus adds to every series.
const TARGET: [&str; 2] = ["instance", "job"];

/// The values of each label that a metric's series have.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// What is exported, by name.
fn exported(samples: impl Iterator<Item = String>) -> BTreeMap<String, Labels> {
    let mut metrics = BTreeMap::<String, Labels>::new();
    for sample in samples {
        let (name, labels) = sample.split_once('{').unwrap_or((&sample, "}"));
        let metric = metrics.entry(name.to_owned()).or_default();
        for (label, value) in matchers(labels.trim_end_matches('}')) {
            metric.entry(label.to_owned()).or_default().insert(value.to_owned());
        }
    }
    metrics
}

/// `a="x",b!="y"` as pairs.
fn matchers(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (label, value) = pair.split_once('=').unwrap();
        (label.trim().trim_end_matches('!'), value.trim_matches('"'))
    })
}

/// The metrics of an expression, each with the matchers behind it.
fn asked(expression: &str) -> impl Iterator<Item = (&str, Vec<(&str, &str)>)> {
    let starts = ["certhookd_", "process_"].map(|prefix| expression.match_indices(prefix));
    starts.into_iter().flatten().map(|(at, _)| {
        let text = &expression[at..];
        let end = text
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        (
            name,
            inside.map_or(Vec::new(), |(inside, _)| matchers(inside).collect()),
        )
    })
}

/// The labels by which an expression groups.
fn grouped(expression: &str) -> impl Iterator<Item = &str> {
    let groups = expression.split("by (").skip(1);
    groups.flat_map(|rest| rest.split_once(')').unwrap().0.split(", "))
}

fn alerts() -> Vec<String> {
    let lines = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    lines.map(str::to_owned).collect()
}

fn panels() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap().iter());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn alerts_and_dashboard_ask_for_what_a_daemon_exports_and_leave_nothing_out() {
    let fixture = Fixture::new().await.with(LISTEN);
    let daemon = busy(&fixture).await;
    let exported = exported(scrape(address(&daemon).await).await.into_keys());
    let (alerts, panels) = (alerts(), panels());
    assert_eq!(ALERTS.matches("- alert: ").count(), alerts.len());
    let mut seen = BTreeSet::new();
    for expression in alerts.iter().chain(&panels) {
        let mut known = BTreeSet::from(TARGET);
        for (name, labels) in asked(expression) {
            let metric = exported.get(name).unwrap_or_else(|| panic!("{name} in {expression}"));
            for (label, value) in labels.into_iter().filter(|(label, _)| !TARGET.contains(label)) {
                let there = metric.get(label).is_some_and(|values| values.contains(value));
                assert!(there, "{label}={value} in {expression}");
            }
            known.extend(metric.keys().map(String::as_str));
            seen.insert(name.to_owned());
        }
        for label in grouped(expression) {
            assert!(known.contains(label), "{label} in {expression}");
        }
    }
    let is_shown = |name: &String| seen.contains(name) || name.ends_with("_sum") || name.ends_with("_count");
    let left_out: Vec<_> = exported.keys().filter(|name| !is_shown(name)).collect();
    assert!(left_out.is_empty(), "{left_out:?}");
}
