//! The conformance suite of block queues, stepped by hand and with the model on a thread of its own.

use super::super::model::ModelThread;
use super::*;
use crate::nvme::conformance::Keeps;

fn kinds() -> Vec<ModelOptions> {
    let base = ModelOptions::default();
    vec![
        base.clone(),
        ModelOptions { lba_bytes: 512, mdts: 1, volatile_cache: false, deallocate: false, ..base.clone() },
        ModelOptions { sgl: true, doorbell_stride: 2, ..base.clone() },
        ModelOptions { shadow_doorbells: true, ..base.clone() },
        ModelOptions { optimal_boundary: 16, lba_bytes: 4096, ..base.clone() },
        ModelOptions { queue_entries: 65, ..base },
    ]
}

#[test]
fn stepped_by_hand() {
    for kind in kinds() {
        let mut models = Vec::new();
        conformance::check(
            |depth, slots| {
                let stepped = stepped(kind.clone(), depth, slots);
                models.push(stepped.model.clone());
                stepped
            },
            Keeps::Bytes,
        );
        for model in models {
            assert_clean(&model);
            assert_eq!(model.mappings(), 0, "everything was given back: {kind:?}");
        }
    }
}

#[test]
fn on_a_thread_of_its_own() {
    for kind in kinds() {
        let model = Model::new(kind).unwrap();
        let _thread = ModelThread::start(model.clone()).unwrap();
        // One controller, whose first queue comes and goes.
        let device = open(&model).namespace(1).unwrap();
        conformance::check(|depth, slots| device.queue(depth, slots).unwrap(), Keeps::Bytes);
        assert_clean(&model);
    }
}

#[test]
fn geometry_is_what_the_controller_says() {
    let device = |options: ModelOptions| *open(&Model::new(options).unwrap()).namespace(1).unwrap().geometry();
    let base = ModelOptions::default();
    let small = device(ModelOptions { mdts: 1, lba_bytes: 512, volatile_cache: false, ..base.clone() });
    assert_eq!((small.max_transfer, small.lba_bytes, small.volatile_cache), (8192, 512, false));
    let wide = device(ModelOptions { mdts: 0, deallocate: false, ..base.clone() });
    assert_eq!((wide.max_transfer, wide.deallocate, wide.volatile_cache), (1 << 20, false, true));
    let bounded = device(ModelOptions { optimal_boundary: 32, ..base.clone() });
    assert_eq!(bounded.max_transfer, 128 << 10);
    let crumbs = device(ModelOptions { optimal_boundary: 1, ..base });
    assert_eq!(crumbs.max_transfer, 1 << 20, "a boundary that near is not heeded");
}

#[test]
fn one_doorbell_a_burst() {
    let mut bench = Bench::new(ModelOptions::default());
    let before = bench.model.counters().doorbells;
    for lba in 0..8 {
        bench.push(WRITE, lba);
    }
    assert_eq!(conformance::finish(&mut bench.queue).len(), 8);
    assert_eq!(bench.queue.queue.stats().rings, 1);
    // And one for the completions.
    assert_eq!(bench.model.counters().doorbells - before, 2);
}

#[test]
fn shadow_doorbells_spare_the_register() {
    let mut bench = Bench::new(ModelOptions { shadow_doorbells: true, ..ModelOptions::default() });
    for round in 0..100 {
        // Rung twice before the model looks: the second time it need not be told.
        for lba in 0..4 {
            bench.push(WRITE, lba + 4 * (round % 2));
            bench.queue.queue.ring();
        }
        assert_eq!(conformance::finish(&mut bench.queue).len(), 4);
    }
    let rings = bench.queue.queue.stats().rings;
    let doorbells = bench.model.counters().doorbells;
    assert_eq!(rings, 400);
    assert!(doorbells < 250, "{doorbells} writes of the register for {rings} rings");
    assert_clean(&bench.model);
}

#[test]
fn flags_and_pointers_reach_the_controller() {
    let mut bench = Bench::new(ModelOptions { sgl: true, ..ModelOptions::default() });
    assert_eq!(bench.run(BlockOp::write(true), 0), Ok(()));
    let memory = conformance::blocks_of(&bench.queue, &bench.region, 0, 8);
    assert_eq!(conformance::run(&mut bench.queue, conformance::io(WRITE, 0, 8, memory)), Ok(()));
    let deallocate = conformance::io(BlockOp::Deallocate, 0, 8, crate::memory::DmaSlice::EMPTY);
    assert_eq!(conformance::run(&mut bench.queue, deallocate), Ok(()));
    let counters = bench.model.counters();
    assert_eq!((counters.forced, counters.sgls, counters.prp_lists, counters.deallocations), (1, 1, 0, 1));
    assert_clean(&bench.model);
}

#[test]
fn a_flush_and_force_unit_access_outlive_a_loss_of_power() {
    for volatile_cache in [true, false] {
        let mut bench = Bench::new(ModelOptions { volatile_cache, ..ModelOptions::default() });
        assert_eq!(bench.queue.geometry().volatile_cache, volatile_cache);
        let fua = BlockOp::Write { fua: true, hint: crate::nvme::WriteHint::NONE };
        let flush = conformance::io(BlockOp::Flush, 0, 0, crate::memory::DmaSlice::EMPTY);
        for (value, op, lba) in [(1, WRITE, 1), (2, WRITE, 2), (3, fua, 3)] {
            bench.region.fill(0, 64 * 4096, value).unwrap();
            assert_eq!(bench.run(op, lba), Ok(()));
            if lba == 1 {
                assert_eq!(conformance::run(&mut bench.queue, flush), Ok(()));
            }
        }
        bench.model.lose_power();
        let durable = |lba: u64| {
            let mut first = [0];
            bench.model.peek(1, lba * 4096, &mut first).unwrap();
            first[0]
        };
        let second = if volatile_cache { 0 } else { 2 };
        assert_eq!([durable(1), durable(2), durable(3)], [1, second, 3], "volatile: {volatile_cache}");
        // And it comes back, if it did not lose anything.
        bench.push(BlockOp::Read, 1);
        assert_eq!(bench.pass_time(1)[0].result, if volatile_cache { Err(BlockError::Gone) } else { Ok(()) });
        assert_eq!(bench.controller.status().resets, 1);
        assert_clean(&bench.model);
    }
}

#[test]
fn commands_keep_off_boundaries() {
    let mut bench = Bench::new(ModelOptions { optimal_boundary: 16, ..ModelOptions::default() });
    bench.region.fill(0, 16 * 4096, 0x5A).unwrap();
    let memory = conformance::blocks_of(&bench.queue, &bench.region, 0, 16);
    for op in [WRITE, BlockOp::Read] {
        assert_eq!(conformance::run(&mut bench.queue, conformance::io(op, 10, 16, memory)), Ok(()));
    }
    assert_eq!((bench.queue.queue.stats().split, bench.model.counters().commands), (2, 4));
    let mut seen = vec![0; 16 * 4096];
    bench.model.peek(1, 10 * 4096, &mut seen).unwrap();
    assert!(seen.iter().all(|byte| *byte == 0x5A));
    assert_clean(&bench.model);
}

#[test]
fn queues_share_the_mapping_of_a_region() {
    let model = Model::new(ModelOptions::default()).unwrap();
    let device = open(&model).namespace(1).unwrap();
    let (mut one, mut two) = (device.queue(4, 1).unwrap(), device.queue(4, 1).unwrap());
    let before = model.mappings();
    let region = Arc::new(Region::anonymous(1 << 20, RegionSlot(0)).unwrap());
    one.attach(Arc::clone(&region)).unwrap();
    two.attach(Arc::clone(&region)).unwrap();
    assert_eq!(model.mappings(), before + 1);
    one.detach(RegionSlot(0)).unwrap();
    assert_eq!(model.mappings(), before + 1, "the other queue knows it still");
    two.detach(RegionSlot(0)).unwrap();
    assert_eq!((model.mappings(), Arc::strong_count(&region)), (before, 1));
}

#[test]
fn mappings_have_a_limit_that_says_what_to_do() {
    let model = Model::new(ModelOptions { mappings: 3, ..ModelOptions::default() }).unwrap();
    let mut queue = open(&model).namespace(1).unwrap().queue(4, 4).unwrap();
    let region = |slot| Arc::new(Region::anonymous(4096, RegionSlot(slot)).unwrap());
    // Admin queue, I/O queue, and one more.
    queue.attach(region(0)).unwrap();
    let refused = region(1);
    let error = queue.attach(Arc::clone(&refused)).unwrap_err().to_string();
    assert!(error.contains("dma_entry_limit"), "{error}");
    assert_eq!(Arc::strong_count(&refused), 1);
    queue.detach(RegionSlot(0)).unwrap();
    queue.attach(refused).unwrap();
}
