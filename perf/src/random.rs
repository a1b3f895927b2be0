//! Seeded random numbers: the same seed gives the same workload on every machine.

/// SplitMix64's output function (Steele, Lea and Flood, 2014): every input bit reaches every output bit.
#[inline]
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A SplitMix64 sequence.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: mix(seed) }
    }

    /// The next 64 bits.
    #[inline]
    pub const fn next(&mut self) -> u64 {
        let out = mix(self.state);
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        out
    }

    /// A number below `bound`; zero if that is zero.
    #[inline]
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// A number in [0, 1).
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An exponentially distributed number: the gap between arrivals of a Poisson process.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// A log-normally distributed number: lengths of prompts and answers look so.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box and Muller, 1958.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.unit();
        median * (sigma * radius * angle.cos()).exp()
    }
}

/// Ranks 0 to n-1, where rank r is drawn with a weight of 1 / (r + 1)^exponent.
#[derive(Clone, Debug)]
pub struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    /// The distribution over `ranks` ranks (at least one is assumed). An exponent of 0 is uniform.
    #[must_use]
    pub fn new(ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=ranks.max(1))
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        Self { cumulative }
    }

    /// A rank.
    pub fn draw(&self, random: &mut Random) -> usize {
        let total = self.cumulative[self.cumulative.len() - 1];
        let point = random.unit() * total;
        self.cumulative.partition_point(|&edge| edge <= point).min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..4).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn numbers_below_a_bound_are_even() {
        let mut random = Random::new(1);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[random.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn means_and_medians_are_as_asked() {
        let mut random = Random::new(2);
        let mean = (0..100_000).map(|_| random.exponential(5.0)).sum::<f64>() / 100_000.0;
        assert!((4.9..5.1).contains(&mean), "{mean}");
        let mut lengths: Vec<f64> = (0..100_001).map(|_| random.log_normal(350.0, 1.0)).collect();
        lengths.sort_by(f64::total_cmp);
        assert!((340.0..360.0).contains(&lengths[50_000]), "{}", lengths[50_000]);
    }

    #[test]
    fn zipf_gives_the_first_rank_its_share() {
        let zipf = Zipf::new(4, 1.0);
        let mut random = Random::new(3);
        let mut counts = [0f64; 4];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut random)] += 1.0;
        }
        // 1 + 1/2 + 1/3 + 1/4 = 25/12.
        let shares = [12.0 / 25.0, 6.0 / 25.0, 4.0 / 25.0, 3.0 / 25.0];
        for (count, share) in counts.iter().zip(shares) {
            assert!((count / 100_000.0 - share).abs() < 0.01, "{counts:?}");
        }
    }
}
