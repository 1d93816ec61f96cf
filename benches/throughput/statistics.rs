//! Smallest, middle and largest of repeated measurements, and the shape of a distribution.

use serde::Serialize;

/// Repeated measurements of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
    /// All of them, in the order in which they were made.
    pub values: Vec<f64>,
}

impl From<Vec<f64>> for Spread {
    fn from(values: Vec<f64>) -> Self {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            min: quantile(&sorted, 0.0),
            median: quantile(&sorted, 0.5),
            max: quantile(&sorted, 1.0),
            values,
        }
    }
}

/// The value below which that part of the sorted values lies: the nearest rank, for the middle of an even number the
/// lower one. 0 of none.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * part) as usize).copied().unwrap_or(0.0)
}

/// Both sides' values, pair by pair.
pub fn ratios(these: &[f64], those: &[f64]) -> Vec<f64> {
    these.iter().zip(those).map(|(this, that)| this / that).collect()
}
