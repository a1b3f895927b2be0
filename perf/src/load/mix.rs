//! Shares of commands.

use std::str::FromStr;

use crate::random::Random;
use crate::target::Op;

/// Which share of the commands does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Command and the sum of weights up to it.
    edges: Vec<(Op, u64)>,
}

impl Mix {
    /// Nothing but one kind of command.
    #[must_use]
    pub fn only(op: Op) -> Self {
        Self { edges: vec![(op, 1)] }
    }

    /// A command's kind.
    #[inline]
    pub fn draw(&self, random: &mut Random) -> Op {
        let (last, total) = self.edges[self.edges.len() - 1];
        if self.edges.len() == 1 {
            return last;
        }
        let point = random.below(total);
        self.edges.iter().find(|(_, edge)| point < *edge).map_or(last, |(op, _)| *op)
    }

    /// The kinds that occur.
    pub fn ops(&self) -> impl Iterator<Item = Op> {
        self.edges.iter().map(|(op, _)| *op)
    }

    /// Whether values change while it runs.
    #[must_use]
    pub fn changes_values(&self) -> bool {
        self.ops().any(|op| matches!(op, Op::Store | Op::Delete))
    }
}

impl FromStr for Mix {
    type Err = String;

    /// Reads "retrieve" or "retrieve=70,store=25,delete=5".
    fn from_str(text: &str) -> Result<Self, String> {
        let mut edges: Vec<(Op, u64)> = Vec::new();
        let mut total = 0;
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let op = Op::ALL.into_iter().find(|op| op.name() == name.trim()).ok_or_else(|| {
                let known = Op::ALL.map(Op::name).join(", ");
                format!("\"{name}\" is not a command; there are {known}")
            })?;
            let weight: u32 = weight.trim().trim_end_matches('%').parse().map_err(|_| {
                format!("\"{part}\" has no whole number as its share; write for example retrieve=70,store=30")
            })?;
            if edges.iter().any(|(known, _)| *known == op) {
                return Err(format!("{name} is named twice"));
            }
            total += u64::from(weight);
            if weight > 0 {
                edges.push((op, total));
            }
        }
        if edges.is_empty() { Err("every share is zero".to_owned()) } else { Ok(Self { edges }) }
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut before = 0;
        for (place, (op, edge)) in self.edges.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{}={}", op.name(), edge - before)?;
            before = *edge;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept() {
        let mix: Mix = "retrieve=70,store=25%,delete=5,exist=0".parse().unwrap();
        assert_eq!(mix.to_string(), "retrieve=70,store=25,delete=5");
        let mut random = Random::new(1);
        let mut counts = [0u32; Op::ALL.len()];
        for _ in 0..100_000 {
            counts[mix.draw(&mut random).index()] += 1;
        }
        assert!((69_000..71_000).contains(&counts[0]) && (24_000..26_000).contains(&counts[1]), "{counts:?}");
        assert_eq!(counts[Op::Exist.index()] + counts[Op::Lookup.index()], 0);
        assert!(mix.changes_values() && !Mix::only(Op::Exist).changes_values());
    }

    #[test]
    fn nonsense_is_named() {
        for (text, part) in [("read", "\"read\" is not"), ("store=x", "whole number"), ("store=0", "zero"), ("", "not")]
        {
            assert!(text.parse::<Mix>().unwrap_err().contains(part), "{text}");
        }
        assert!("store,store".parse::<Mix>().unwrap_err().contains("twice"));
    }
}
