//! A deterministic simulator of kvplane's pipelines.
//!
//! One seed decides on everything: how many cores, shards and clients there are, what they do, in which order cores
//! have their turns and device commands complete, what goes wrong and when the power fails. The very pipelines that
//! run in the daemon run here, on a simulated disk, carrier and clock. Some clients come by NVMe/TCP: with our initiator, to
//! our target, over streams that split, delay, stand still and are cut.
//!
//! What must hold: an answer is never another key's, another tenant's or a torn value; what was acknowledged as
//! durable survives power cuts; every command is completed exactly once; nothing leaks.

pub mod carriers;
pub mod client;
pub mod disk;
pub mod fabric;
pub mod link;
pub mod oracle;
pub mod plan;
pub mod random;
pub mod wire;
pub mod world;

pub use client::Violation;
pub use plan::Plan;
pub use world::{Summary, World};

/// Runs one seed with about `commands` commands.
///
/// # Errors
/// What was violated, with the plan of the run.
pub fn run(seed: u64, commands: u64) -> Result<Summary, Violation> {
    let plan = Plan::draw(seed, commands);
    let shown = format!("{plan:#?}");
    World::new(plan).run().map_err(|Violation(what)| Violation(format!("seed {seed}: {what}\n{shown}")))
}
