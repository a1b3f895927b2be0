//! KV blocks.

pub mod control;
pub mod daemon;
pub mod policy;
