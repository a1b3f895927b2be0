//! The median of repeated measurements, and how far they lie apart.

use serde::Serialize;

/// Repeated measurements of one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one (the mean of the two middle ones).
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Lower end of the 95 % confidence interval of the median; the least, if there are fewer than nine.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
    /// How many there are.
    pub runs: usize,
}

impl Spread {
    /// Of some figures. All zero if there are none.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let Some((&min, &max)) = sorted.first().zip(sorted.last()) else { return Self::default() };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { sorted[middle - 1].midpoint(sorted[middle]) };
        // Order statistics: the binomial distribution with p = 1/2, as a normal one.
        let runs = sorted.len() as f64;
        let rank = (runs.midpoint(1.0) - 0.98 * runs.sqrt()).floor().max(1.0) as usize;
        let (low, high) = (sorted[rank - 1], sorted[sorted.len() - rank]);
        Self { median, min, max, low, high, runs: sorted.len() }
    }

    /// Half the width of the confidence interval, in percent of the median: how far noise may have moved the median.
    #[must_use]
    pub fn noise_percent(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / 2.0 / self.median.abs() * 100.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_outliers_do_not_widen_the_interval() {
        let mut figures: Vec<f64> = (1..=30).map(f64::from).collect();
        (figures[0], figures[29]) = (-1e9, 1e9);
        let spread = Spread::of(figures);
        // Ranks 10 and 21 of 30 hold the median with a probability of 95.7 %.
        assert_eq!((spread.median, spread.low, spread.high, spread.max), (15.5, 10.0, 21.0, 1e9));
    }

    #[test]
    fn median_and_noise() {
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.min, odd.max, odd.runs), (2.0, 1.0, 3.0, 3));
        assert!((odd.noise_percent() - 50.0).abs() < 1e-9);
        assert_eq!(Spread::of([1.0, 2.0]).median, 1.5);
        assert_eq!(Spread::of([]), Spread::default());
        assert_eq!(Spread::of([0.0]).noise_percent(), 0.0);
    }
}
