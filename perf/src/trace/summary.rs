//! What a trace promises before it is replayed.

use std::collections::HashSet;

use super::Request;

/// Figures of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Number of requests.
    pub requests: u64,
    /// Blocks of all prompts.
    pub blocks: u64,
    /// Blocks that differ.
    pub unique_blocks: u64,
    /// Share of blocks that a cache which never evicts would find, as leading blocks of their request.
    pub ideal_block_hit_rate: f64,
    /// From the first to the last arrival, in milliseconds.
    pub duration_ms: u64,
    /// The most requests that arrive in one second.
    pub peak_requests_per_s: u64,
}

impl Summary {
    /// The figures of `requests`, which are in the order of arrival.
    #[must_use]
    pub fn of(requests: &[Request]) -> Self {
        let mut seen = HashSet::new();
        let (mut blocks, mut hits, mut peak, mut from) = (0, 0, 0, 0);
        for (at, request) in requests.iter().enumerate() {
            blocks += request.hash_ids.len() as u64;
            hits += request.hash_ids.iter().take_while(|id| seen.contains(*id)).count() as u64;
            seen.extend(request.hash_ids.iter().copied());
            while request.timestamp - requests[from].timestamp >= 1000 {
                from += 1;
            }
            peak = peak.max((at - from + 1) as u64);
        }
        let ends = requests.first().zip(requests.last());
        Self {
            requests: requests.len() as u64,
            blocks,
            unique_blocks: seen.len() as u64,
            ideal_block_hit_rate: hits as f64 / (blocks as f64).max(1.0),
            duration_ms: ends.map_or(0, |(first, last)| last.timestamp - first.timestamp),
            peak_requests_per_s: peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leading_blocks_count_as_hits() {
        let request = |timestamp, hash_ids: &[u64]| Request {
            timestamp,
            input_length: 512 * hash_ids.len() as u64,
            output_length: 1,
            hash_ids: hash_ids.to_vec(),
        };
        let trace = [request(0, &[0, 1, 2]), request(500, &[0, 1, 3, 2]), request(1000, &[9])];
        let summary = Summary::of(&trace);
        assert_eq!((summary.requests, summary.blocks, summary.unique_blocks), (3, 8, 5));
        assert!((summary.ideal_block_hit_rate - 2.0 / 8.0).abs() < 1e-12);
        assert_eq!((summary.duration_ms, summary.peak_requests_per_s), (1000, 2));
        assert_eq!(Summary::of(&[]), Summary::default());
    }
}
