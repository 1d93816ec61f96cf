//! What was found: rows for people, the same as JSON, and what the picture is drawn from.

use std::fmt::Write;

use serde::Serialize;

use crate::statistics::Spread;

/// What a row must reach.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// One measured thing.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub spread: Spread,
    pub target: Option<Target>,
    /// Whether the median reached the target.
    pub met: Option<bool>,
}

/// A line of the picture.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub chart: Chart,
    pub label: String,
    pub points: Vec<(f64, f64)>,
}

/// Where a curve belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chart {
    /// Milliseconds over the part of the requests that were faster, in percent.
    Latency,
    /// Seconds per 1,000 events over the events so far.
    Growth,
}

/// All that was found.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    pub machine: String,
    pub form: &'static str,
    pub rows: Vec<Row>,
    pub curves: Vec<Curve>,
}

impl Findings {
    /// Adds a row without a target.
    pub fn note(&mut self, what: &str, unit: &'static str, values: Vec<f64>) {
        self.add(what, unit, values, None);
    }

    /// Adds a row with a target for its median.
    pub fn judge(&mut self, what: &str, unit: &'static str, values: Vec<f64>, target: Target) {
        self.add(what, unit, values, Some(target));
    }

    fn add(&mut self, what: &str, unit: &'static str, values: Vec<f64>, target: Option<Target>) {
        let spread = Spread::from(values);
        let met = target.map(|target| target.met(spread.median));
        let row = Row {
            what: what.to_owned(),
            unit,
            spread,
            target,
            met,
        };
        println!("{}", row.line());
        self.rows.push(row);
    }

    /// The table, for people.
    pub fn table(&self) -> String {
        let head = format!(
            "{:<66} {:>10} {:>10} {:>10} {:<9} {:<10}\n",
            "", "min", "median", "max", "", "target"
        );
        let title = format!("{} ({} form)\n", self.machine, self.form);
        self.rows.iter().fold(title + &head, |mut table, row| {
            let _ = writeln!(table, "{}", row.line());
            table
        })
    }
}

impl Row {
    fn line(&self) -> String {
        let Spread { min, median, max, .. } = &self.spread;
        let numbers = [min, median, max]
            .map(|value| format!("{:>10}", figure(*value)))
            .join(" ");
        let target = self.target.map(Target::text).unwrap_or_default();
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let line = format!("{:<66} {numbers} {:<9} {target:<10} {met}", self.what, self.unit);
        line.trim_end().to_owned()
    }
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// A number as people read it: three digits that count.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
