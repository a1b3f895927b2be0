//! A synthetic trace with the traits that matter to a KV cache: prompts that share their beginning, conversations that
//! grow turn by turn, and arrivals in bursts.
//!
//! A session takes one of a few system prompts (Zipf), then alternates: the user's text joins the context, the model
//! answers, the answer joins the context too, and after a pause the next turn asks again with all of it. Sessions begin as
//! a Poisson process; some bring a burst of others of the same system prompt with them. Medians of lengths follow the
//! published conversation trace of Mooncake (prompt 6.9 k tokens, answer 350).

use std::collections::HashMap;

use clap::Args;

use super::{BLOCK_TOKENS, Request};
use crate::random::{Random, Zipf};

/// Longest context, in tokens.
const MOST_TOKENS: u64 = 128 * 1024;
/// Share of session starts that bring a burst, and the most sessions that come in it.
const BURST_SHARE: f64 = 0.04;
const BURST_SESSIONS: u64 = 12;
/// Milliseconds within which the sessions of a burst begin.
const BURST_SPREAD_MS: u64 = 200;
/// Mean pause between a turn and the next, in milliseconds.
const PAUSE_MS: f64 = 45_000.0;

/// What to generate.
#[derive(Args, Clone, Debug)]
pub struct GenerateOptions {
    /// Number of requests
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub requests: u64,
    /// Number of conversations they belong to [default: a third of the requests]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub sessions: Option<u64>,
    /// Number of system prompts that conversations begin with
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub prompts: u64,
    /// Skew of the system prompts' popularity (Zipf exponent; 0 = all alike)
    #[arg(long, default_value_t = 1.0)]
    pub skew: f64,
    /// Mean requests per second
    #[arg(long, default_value_t = 4.0)]
    pub rate: f64,
    /// The same seed gives the same trace
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A context: blocks that are full, and the tokens in all.
#[derive(Clone)]
struct Context {
    full: Vec<u64>,
    tokens: u64,
}

/// Makes a trace. Block ids are numbered in the order of their first appearance, as in Mooncake's traces.
#[must_use]
pub fn generate(options: &GenerateOptions) -> Vec<Request> {
    let mut maker = Maker::new(options);
    let mut requests = Vec::new();
    let mut start_ms = 0.0;
    while (requests.len() as u64) < options.requests {
        start_ms += maker.random.exponential(maker.session_gap_ms);
        let prompt = maker.popularity.draw(&mut maker.random);
        let burst = if maker.random.unit() < BURST_SHARE { 1 + maker.random.below(BURST_SESSIONS) } else { 0 };
        for _ in 0..=burst {
            let offset = maker.random.below(BURST_SPREAD_MS) as f64;
            maker.session(prompt, start_ms + offset, &mut requests);
        }
        // A burst brings its sessions at once: the pause after it keeps the mean rate.
        start_ms += burst as f64 * maker.session_gap_ms;
    }
    requests.sort_by_key(|request| request.timestamp);
    requests.truncate(options.requests as usize);
    rescale(&mut requests, options.rate);
    renumber(&mut requests);
    requests
}

/// Stretches time so that the mean rate is the one asked for, whatever the sessions drew.
fn rescale(requests: &mut [Request], rate: f64) {
    let Some((first, last)) = requests.first().zip(requests.last()).map(|(a, b)| (a.timestamp, b.timestamp)) else {
        return;
    };
    let wanted_ms = requests.len() as f64 * 1000.0 / rate.max(1e-6);
    let factor = wanted_ms / ((last - first) as f64).max(1.0);
    for request in requests {
        request.timestamp = ((request.timestamp - first) as f64 * factor) as u64;
    }
}

struct Maker {
    random: Random,
    popularity: Zipf,
    prompts: Vec<Context>,
    next_block: u64,
    turns: f64,
    session_gap_ms: f64,
}

impl Maker {
    fn new(options: &GenerateOptions) -> Self {
        let mut random = Random::new(options.seed);
        let sessions = options.sessions.unwrap_or(options.requests / 3).clamp(1, options.requests);
        let turns = options.requests as f64 / sessions as f64;
        let mut next_block = 1;
        let prompts = (0..options.prompts)
            .map(|_| {
                let tokens = (random.log_normal(1800.0, 0.8) as u64).clamp(BLOCK_TOKENS, MOST_TOKENS / 4);
                // All begin with the same block (id 0): the provider's own preamble.
                let own = tokens / BLOCK_TOKENS - 1;
                let full = std::iter::once(0).chain(next_block..next_block + own).collect();
                next_block += own;
                Context { full, tokens }
            })
            .collect();
        Self {
            popularity: Zipf::new(options.prompts as usize, options.skew),
            prompts,
            next_block,
            turns,
            session_gap_ms: turns * 1000.0 / options.rate.max(1e-6),
            random,
        }
    }

    /// One conversation: between 1 and about six times the mean number of turns (geometric).
    fn session(&mut self, prompt: usize, start_ms: f64, requests: &mut Vec<Request>) {
        let mut context = self.prompts[prompt].clone();
        let mut now_ms = start_ms;
        // The first turn is the longest: a document, code, or a history from elsewhere.
        let mut asks = self.random.log_normal(2600.0, 1.3);
        loop {
            self.grow(&mut context, asks as u64);
            let answer = (self.random.log_normal(350.0, 0.9) as u64).clamp(1, 4096);
            requests.push(self.request(&context, now_ms as u64, answer));
            if self.random.unit() >= 1.0 - 1.0 / self.turns || context.tokens >= MOST_TOKENS {
                return;
            }
            self.grow(&mut context, answer);
            // The model takes about 20 ms for a token of the answer; then the user reads and types.
            now_ms += answer as f64 * 20.0 + self.random.exponential(PAUSE_MS);
            asks = self.random.log_normal(250.0, 1.2);
        }
    }

    fn grow(&mut self, context: &mut Context, tokens: u64) {
        context.tokens = (context.tokens + tokens.max(1)).min(MOST_TOKENS);
        while (context.full.len() as u64) < context.tokens / BLOCK_TOKENS {
            context.full.push(self.next_block);
            self.next_block += 1;
        }
    }

    fn request(&mut self, context: &Context, timestamp: u64, output_length: u64) -> Request {
        let mut hash_ids = context.full.clone();
        if !context.tokens.is_multiple_of(BLOCK_TOKENS) {
            // A block that is not full yet has an id of its own: once full, its hash is another.
            hash_ids.push(self.next_block);
            self.next_block += 1;
        }
        Request { timestamp, input_length: context.tokens, output_length, hash_ids }
    }
}

fn renumber(requests: &mut [Request]) {
    let mut numbers: HashMap<u64, u64> = HashMap::new();
    for request in requests {
        for id in &mut request.hash_ids {
            let next = numbers.len() as u64;
            *id = *numbers.entry(*id).or_insert(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Summary, parse, write};

    fn options(seed: u64) -> GenerateOptions {
        GenerateOptions { requests: 3000, sessions: None, prompts: 24, skew: 1.0, rate: 4.0, seed }
    }

    fn bytes(requests: &[Request]) -> Vec<u8> {
        let mut out = Vec::new();
        write(requests, &mut out).unwrap();
        out
    }

    #[test]
    fn a_seed_is_a_trace_to_the_byte() {
        assert_eq!(bytes(&generate(&options(1))), bytes(&generate(&options(1))));
        assert_ne!(bytes(&generate(&options(1))), bytes(&generate(&options(2))));
    }

    #[test]
    fn its_own_reader_takes_it() {
        let trace = generate(&options(3));
        assert_eq!(parse("t", &bytes(&trace)[..], usize::MAX).unwrap(), trace);
        assert!(trace.iter().all(|r| r.hash_ids.len() as u64 == r.input_length.div_ceil(BLOCK_TOKENS)));
    }

    #[test]
    fn looks_like_a_conversation_service() {
        let trace = generate(&options(4));
        let summary = Summary::of(&trace);
        assert_eq!(summary.requests, 3000);
        let rate = summary.requests as f64 * 1000.0 / summary.duration_ms as f64;
        assert!((3.9..4.1).contains(&rate), "{rate} requests/s");
        assert!((0.4..0.8).contains(&summary.ideal_block_hit_rate), "{summary:?}");
        // A Poisson process of 4/s would hardly ever bring 13 in a second.
        assert!(summary.peak_requests_per_s >= 13, "{summary:?}");
        let mut lengths: Vec<u64> = trace.iter().map(|request| request.input_length).collect();
        lengths.sort_unstable();
        assert!((4_000..10_000).contains(&lengths[1500]), "median {}", lengths[1500]);
        assert!(trace.iter().all(|request| request.hash_ids[0] == 0), "the preamble is shared by all");
    }

    #[test]
    fn turns_extend_the_turn_before() {
        let one = GenerateOptions { requests: 20, sessions: Some(1), prompts: 1, skew: 0.0, rate: 1.0, seed: 11 };
        let trace = generate(&one);
        let extends = trace.windows(2).filter(|pair| {
            let full = (pair[0].input_length / BLOCK_TOKENS) as usize;
            full > 1 && pair[1].hash_ids.len() >= full && pair[1].hash_ids[..full] == pair[0].hash_ids[..full]
        });
        assert!(extends.count() >= 10);
    }
}
