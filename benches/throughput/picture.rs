//! The findings as an SVG: throughput as bars, latencies as distributions, growth as a line.

use std::fmt::Write;

use crate::report::{Chart, Curve, Findings, Row, figure};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 730.0;
const PLOT: f64 = 150.0;
const BAR: f64 = 26.0;
/// Where bars begin: their labels, before them, must fit in a wide font too.
const BARS: f64 = 395.0;
/// The first is that of what certhookd is compared with.
const COLORS: [&str; 4] = ["#9aa5b1", "#2f6fde", "#d9822b", "#3a9d5d"];

/// Draws what there is; a case that was left out leaves no gap.
pub fn draw(findings: &Findings) -> String {
    let (mut body, mut y) = (String::new(), 20.0);
    let rates: Vec<_> = findings.rows.iter().filter(|row| row.unit == "events/s").collect();
    if !rates.is_empty() {
        y = bars(&mut body, y, &rates);
    }
    let latency = "Award to request: milliseconds, over the percentage of requests that were faster";
    let growth = "Seconds per 1,000 events, over the events delivered so far";
    for (chart, title) in [(Chart::Latency, latency), (Chart::Growth, growth)] {
        let curves: Vec<_> = findings.curves.iter().filter(|curve| curve.chart == chart).collect();
        if !curves.is_empty() {
            y = plot(&mut body, y, title, &curves);
        }
    }
    let note = format!("{} ({} form)", findings.machine, findings.form);
    text(&mut body, LEFT, y + 6.0, "#666", &note);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n",
        y + 20.0
    )
}

/// A bar a row up to its median, with a whisker from min to max. Returns where the next part begins.
fn bars(out: &mut String, top: f64, rows: &[&Row]) -> f64 {
    text(
        out,
        LEFT,
        top,
        "#000",
        "Events a second: median, and from the least to the most",
    );
    let most = rows.iter().map(|row| row.spread.max).fold(1.0, f64::max);
    let reach = |value: f64| value / most * (RIGHT - BARS);
    for (place, row) in rows.iter().enumerate() {
        let y = top + 12.0 + place as f64 * BAR;
        let is_compared_with = row.what.contains("bare") || row.what.ends_with("the other");
        let color = COLORS[usize::from(!is_compared_with)];
        text(out, LEFT, y + 14.0, "#000", &row.what);
        let (width, from, to) = (reach(row.spread.median), reach(row.spread.min), reach(row.spread.max));
        let _ = writeln!(
            out,
            "<rect x=\"{BARS}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{color}\"/>"
        );
        let middle = y + 9.0;
        path(out, "#000", &[(BARS + from, middle), (BARS + to, middle)]);
        text(out, BARS + 6.0, y + 14.0, "#fff", &figure(row.spread.median));
    }
    top + 40.0 + rows.len() as f64 * BAR
}

/// Curves over one pair of axes, both from 0. Returns where the next part begins.
fn plot(out: &mut String, top: f64, title: &str, curves: &[&Curve]) -> f64 {
    text(out, LEFT, top, "#000", title);
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let right = points().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
    let high = points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    let bottom = top + 15.0 + PLOT;
    let place = |(x, y): &(f64, f64)| (LEFT + x / right * (RIGHT - LEFT), bottom - y / high * PLOT);
    path(out, "#000", &[(LEFT, bottom - PLOT), (LEFT, bottom), (RIGHT, bottom)]);
    text(out, 8.0, bottom - PLOT + 10.0, "#666", &figure(high));
    text(out, RIGHT - 40.0, bottom + 16.0, "#666", &figure(right));
    for (number, curve) in curves.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        path(out, color, &curve.points.iter().map(place).collect::<Vec<_>>());
        text(out, LEFT + 20.0, top + 30.0 + 16.0 * number as f64, color, &curve.label);
    }
    bottom + 45.0
}

fn path(out: &mut String, color: &str, points: &[(f64, f64)]) {
    let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let points = points.join(" ");
    let _ = writeln!(
        out,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>"
    );
}

/// The texts are ours and hold nothing to escape.
fn text(out: &mut String, x: f64, y: f64, color: &str, text: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{color}\">{text}</text>");
}
