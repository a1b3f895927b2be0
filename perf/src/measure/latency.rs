//! Latencies and their percentiles.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency told apart from longer ones, in nanoseconds: 100 s.
const MOST_NANOS: u64 = 100_000_000_000;

/// A histogram of latencies, exact to three digits (0.1 %). It never grows.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

/// Percentiles of a [`Latency`], in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half were quicker.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// 99.99 %.
    pub p9999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// The mean.
    pub mean_us: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { histogram: Histogram::new_with_bounds(1, MOST_NANOS, 3).expect("these bounds are valid") }
    }
}

impl Latency {
    /// Counts one, in nanoseconds. Anything longer than 100 s counts as 100 s.
    #[inline]
    pub fn record(&mut self, nanos: u64) {
        self.histogram.saturating_record(nanos);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds, so this cannot fail.
        let _ = self.histogram.add(&other.histogram);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency below which a share of `quantile` (0 to 1) lies, in microseconds; 0 if none was counted.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p999_us: self.quantile_us(0.999),
            p9999_us: self.quantile_us(0.9999),
            max_us: self.histogram.max() as f64 / 1000.0,
            mean_us: self.histogram.mean() / 1000.0,
        }
    }

    /// Points of the curve latency over percentile, evenly spaced in "nines" (0 = median is at 0.3, 90 % at 1, 99 % at
    /// 2): pairs of nines and microseconds, up to the last percentile that the count supports.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        if self.count() == 0 {
            return Vec::new();
        }
        let most = (self.count() as f64).log10();
        let steps = (most * 20.0).ceil().max(1.0) as u32;
        (0..=steps)
            .map(|step| {
                let nines = most * f64::from(step) / f64::from(steps);
                (nines, self.quantile_us(1.0 - 10f64.powf(-nines)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_set() {
        let mut latency = Latency::default();
        for micros in 1..=10_000u64 {
            latency.record(micros * 1000);
        }
        let found = latency.percentiles();
        let near = |value: f64, expected: f64| assert!((value / expected - 1.0).abs() < 0.002, "{value} {expected}");
        near(found.p50_us, 5_000.0);
        near(found.p90_us, 9_000.0);
        near(found.p99_us, 9_900.0);
        near(found.p999_us, 9_990.0);
        near(found.p9999_us, 9_999.0);
        near(found.max_us, 10_000.0);
        near(found.mean_us, 5_000.5);
        assert_eq!(latency.count(), 10_000);
    }

    #[test]
    fn empty_and_overlong_are_not_errors() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentiles().p99_us, 0.0);
        assert!(latency.curve().is_empty());
        latency.record(u64::MAX);
        assert!((latency.percentiles().max_us / 1e8 - 1.0).abs() < 0.002);
    }

    #[test]
    fn the_curve_rises_and_ends_at_the_last_supported_percentile() {
        let mut latency = Latency::default();
        (1..=1000u64).for_each(|n| latency.record(n * 1000));
        let curve = latency.curve();
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        assert!((curve[curve.len() - 1].0 - 3.0).abs() < 1e-9);
    }

    #[test]
    fn two_together_count_both() {
        let (mut one, mut two) = (Latency::default(), Latency::default());
        one.record(10);
        two.record(20);
        one.add(&two);
        assert_eq!(one.count(), 2);
        one.clear();
        assert_eq!(one.count(), 0);
    }
}
