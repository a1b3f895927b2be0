//! Sizes of values.

use std::str::FromStr;

use crate::random::mix;
use crate::size::parse_value_bytes;

/// Sizes with weights. The size of a value follows from its key and version, so that whoever reads it knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    ranges: Vec<Range>,
    total: u64,
}

/// Sizes from `low` to `high`, up to a sum of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    low: u32,
    high: u32,
    edge: u64,
}

impl Sizes {
    /// All of one size.
    #[must_use]
    pub fn fixed(bytes: u32) -> Self {
        Self { ranges: vec![Range { low: bytes, high: bytes, edge: 1 }], total: 1 }
    }

    /// The size that belongs to a number.
    #[inline]
    #[must_use]
    pub fn of(&self, number: u64) -> u32 {
        let last = self.ranges[self.ranges.len() - 1];
        if self.ranges.len() == 1 && last.low == last.high {
            return last.low;
        }
        let drawn = mix(number ^ 0x5153);
        let point = ((u128::from(drawn) * u128::from(self.total)) >> 64) as u64;
        let range = self.ranges.iter().find(|range| point < range.edge).unwrap_or(&last);
        let span = u64::from(range.high - range.low) + 1;
        range.low + ((u128::from(mix(drawn)) * u128::from(span)) >> 64) as u32
    }

    /// The largest.
    #[must_use]
    pub fn largest(&self) -> u32 {
        self.ranges.iter().map(|range| range.high).max().unwrap_or(0)
    }
}

impl FromStr for Sizes {
    type Err = String;

    /// Reads "64K", "4K-64K", or "64K=8,1M-4M=1".
    fn from_str(text: &str) -> Result<Self, String> {
        let mut sizes = Self { ranges: Vec::new(), total: 0 };
        for part in text.split(',') {
            let (range, weight) = part.split_once('=').unwrap_or((part, "1"));
            let weight: u32 = weight.parse().map_err(|_| format!("\"{part}\" has no whole number as its weight"))?;
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let (low, high) = (parse_value_bytes(low)?, parse_value_bytes(high)?);
            if low > high {
                return Err(format!("\"{range}\" ends before it begins"));
            }
            sizes.total += u64::from(weight);
            if weight > 0 {
                sizes.ranges.push(Range { low, high, edge: sizes.total });
            }
        }
        if sizes.ranges.is_empty() { Err("every weight is zero".to_owned()) } else { Ok(sizes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_ranges_are_kept() {
        let sizes: Sizes = "4K=3,64K-65K=1".parse().unwrap();
        assert_eq!(sizes.largest(), 65 << 10);
        let drawn: Vec<u32> = (0..40_000).map(|number| sizes.of(number)).collect();
        let small = drawn.iter().filter(|bytes| **bytes == 4096).count();
        assert!((29_000..31_000).contains(&small), "{small}");
        assert!(drawn.iter().all(|bytes| *bytes == 4096 || (65_536..=66_560).contains(bytes)));
        assert!(drawn.contains(&65_536) && drawn.contains(&66_560));
        assert_eq!(sizes.of(7), sizes.of(7));
        assert_eq!("1M".parse(), Ok(Sizes::fixed(1 << 20)));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in ["", "0", "8K-4K", "4K=x", "4K=0"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }
}
