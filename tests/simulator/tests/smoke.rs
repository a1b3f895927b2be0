//! A few seeds in every test run; soaks run the binary with many.
#![cfg(not(any(feature = "canary", feature = "canary-tcp")))]

use simulator::{Plan, Summary};

fn run(seed: u64) -> Summary {
    simulator::run(seed, 1500).unwrap_or_else(|violation| panic!("{}", violation.0))
}

#[test]
fn nothing_is_violated() {
    let mut total = Summary::default();
    for seed in 1000..1024 {
        let summary = run(seed);
        total.answers += summary.answers;
        total.power_cuts += summary.power_cuts;
        total.evicted += summary.evicted;
        total.by_tcp += summary.by_tcp;
        total.cuts += summary.cuts;
        total.lent += summary.lent;
        total.recalled += summary.recalled;
        total.refused += summary.refused;
        total.purged += summary.purged;
    }
    // Runs in which nothing happens would prove nothing.
    assert!(total.answers > 30_000, "{total:?}");
    assert!(total.power_cuts > 0 && total.evicted > 0, "{total:?}");
    assert!(total.refused > 100 && total.purged > 0, "{total:?}");
    assert!(total.by_tcp > 3000 && total.cuts > 10 && total.lent > 100 && total.recalled > 10, "{total:?}");
}

#[test]
fn a_seed_decides_on_everything() {
    assert_eq!(run(7), run(7));
}

/// The hang that an exhausted store once had: stores took the room that eviction needed.
#[test]
fn eviction_always_has_room_to_move_blocks() {
    let plan = Plan::draw(247, 3000);
    assert!(plan.evicts && plan.cores == 2, "the seed draws another plan now: find one that evicts on two cores");
    let result = simulator::run(247, 3000);
    assert!(result.is_ok(), "{result:?}");
}
