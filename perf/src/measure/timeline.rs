//! Throughput over time.

use serde::Serialize;

/// Bins are this long while they are counted, in nanoseconds: 100 ms.
const BIN_NANOS: u64 = 100_000_000;
/// About how many bins a plot should have.
const PLOTTED_BINS: usize = 120;

/// What happened in one bin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bin {
    /// Commands that ended.
    pub ops: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

/// Counts over time since a beginning.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    bins: Vec<Bin>,
}

/// A point of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The middle of the bin, in seconds.
    pub seconds: f64,
    /// Commands a second.
    pub ops_per_s: f64,
    /// Gigabytes (10^9) read a second.
    pub read_gb_per_s: f64,
    /// Gigabytes written a second.
    pub written_gb_per_s: f64,
}

impl Timeline {
    /// Room for this many seconds, so that counting does not allocate.
    #[must_use]
    pub fn with_room(seconds: u64) -> Self {
        Self { bins: Vec::with_capacity((seconds.min(86_400) as usize + 1) * (1_000_000_000 / BIN_NANOS) as usize) }
    }

    /// Counts what ended at `nanos` since the beginning.
    #[inline]
    pub fn count(&mut self, nanos: u64, ops: u64, read: u64, written: u64) {
        let at = (nanos / BIN_NANOS) as usize;
        if at >= self.bins.len() {
            self.bins.resize(at + 1, Bin::default());
        }
        let bin = &mut self.bins[at];
        bin.ops += ops;
        bin.read += read;
        bin.written += written;
    }

    /// Rates over time, in bins of 0.1 s or as much longer (1 s, 10 s, ...) as keeps a plot legible. The last bin is
    /// left out unless it is the only one: it is hardly ever full.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        let mut step = 1;
        while self.bins.len() / step > PLOTTED_BINS {
            step = if step == 5 { 10 } else { step * if step.is_multiple_of(10) || step == 1 { 5 } else { 2 } };
        }
        let full = self.bins.len() - usize::from(self.bins.len() > step);
        let seconds = BIN_NANOS as f64 / 1e9 * step as f64;
        let groups = self.bins[..full].chunks(step).enumerate();
        groups
            .filter(|(at, group)| group.len() == step || *at == 0)
            .map(|(at, group)| {
                let sum = |field: fn(&Bin) -> u64| group.iter().map(field).sum::<u64>() as f64;
                Point {
                    seconds: (at as f64 + 0.5) * seconds,
                    ops_per_s: sum(|bin| bin.ops) / seconds,
                    read_gb_per_s: sum(|bin| bin.read) / 1e9 / seconds,
                    written_gb_per_s: sum(|bin| bin.written) / 1e9 / seconds,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second() {
        let mut line = Timeline::with_room(1);
        line.count(0, 1, 1_000_000_000, 0);
        line.count(BIN_NANOS - 1, 1, 0, 500_000_000);
        line.count(BIN_NANOS, 1, 0, 0);
        let points = line.points();
        assert_eq!(points.len(), 1);
        assert!((points[0].ops_per_s - 20.0).abs() < 1e-9 && (points[0].read_gb_per_s - 10.0).abs() < 1e-9);
        assert!((points[0].written_gb_per_s - 5.0).abs() < 1e-9 && (points[0].seconds - 0.05).abs() < 1e-9);
    }

    #[test]
    fn long_runs_get_longer_bins_and_lose_nothing() {
        for minutes in [1, 10, 60] {
            let mut line = Timeline::default();
            let tenths = minutes * 600;
            (0..=tenths).for_each(|tenth| line.count(tenth * BIN_NANOS, 7, 0, 0));
            let points = line.points();
            assert!((12..=PLOTTED_BINS).contains(&points.len()), "{minutes} minutes: {}", points.len());
            assert!(points.iter().all(|point| (point.ops_per_s - 70.0).abs() < 1e-9), "{minutes}");
        }
    }
}
