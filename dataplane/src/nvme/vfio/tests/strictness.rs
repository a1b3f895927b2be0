//! The model notices what it is there to notice: a driver that does these things fails its tests.

use std::sync::atomic::Ordering;

use super::super::model::Fault;
use super::*;

/// Writes a doorbell of the model's behind the driver's back.
fn ring(model: &Model, doorbell: u64, value: u32) {
    let area = model.doorbells();
    area.region.word32(area.offset + 4 * doorbell).unwrap().store(value, Ordering::Release);
    model.step();
}

fn assert_noticed(model: &Model, what: &str) {
    let violations = model.violations();
    assert!(violations.iter().any(|violation| violation.contains(what)), "{what}: {violations:?}");
}

#[test]
fn doorbells_of_queues_that_are_not_there() {
    for doorbell in [4, 5] {
        let bench = Bench::new(ModelOptions::default());
        ring(&bench.model, doorbell, 1);
        assert_noticed(&bench.model, "of a queue that is not there");
    }
}

#[test]
fn doorbells_that_claim_too_much() {
    // Depth 8: 9 entries for commands. Both commands are fetched, and only one is completed.
    let claim = |doorbell: u64, value: u32| {
        let mut bench = Bench::new(ModelOptions::default());
        bench.model.inject(Fault::Lose);
        bench.push(BlockOp::Read, 1);
        bench.push(BlockOp::Read, 2);
        bench.queue.ring();
        bench.model.step();
        ring(&bench.model, doorbell, value);
        bench.model
    };
    assert_clean(&claim(3, 1));
    assert_noticed(&claim(3, 2), "beyond what was posted");
    assert_noticed(&claim(2, 9), "of 9 entries");
    // With a completion queue that is full, nothing is fetched, and the ring of commands fills up.
    let mut bench = Bench::new(ModelOptions { queue_entries: 9, ..ModelOptions::default() });
    for lba in 0..8 {
        bench.push(BlockOp::Read, lba);
    }
    bench.queue.ring();
    assert_eq!(bench.model.counters().commands, 8);
    ring(&bench.model, 2, 7);
    assert_clean(&bench.model);
    ring(&bench.model, 2, 8);
    assert_noticed(&bench.model, "overtakes the head");
}

#[test]
fn memory_that_is_taken_away_too_early() {
    let options = ModelOptions { shadow_doorbells: true, ..ModelOptions::default() };
    let windows = Bench::new(options.clone()).model.windows();
    // Admin queue, shadow doorbells, rings with their lists, data.
    assert_eq!(windows.len(), 4);
    for at in 0..windows.len() {
        let mut bench = Bench::new(options.clone());
        bench.model.inject(Fault::Lose);
        // Long enough for a list.
        let memory = conformance::blocks_of(&bench.queue, &bench.region, 0, 8);
        bench.queue.push(conformance::io(BlockOp::Read, 0, 8, memory)).unwrap();
        bench.queue.ring();
        let windows = bench.model.windows();
        let (iova, bytes) = windows[at];
        assert_clean(&bench.model);
        bench.model.unmap(iova, bytes).unwrap();
        assert_noticed(&bench.model, "was taken away under");
    }
}

#[test]
fn a_controller_works_on_until_it_says_that_it_stopped() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.push(WRITE, 1);
    bench.queue.queue.ring();
    bench.model.write32(0x14, 0x0046_0000);
    assert_eq!(bench.model.read32(0x1C), 1);
    assert_eq!(bench.model.counters().commands, 1, "after it was disabled");
    bench.model.write32(0x14, 0x0046_0001);
    assert_noticed(&bench.model, "before it had stopped");
}
