//! What is given back when: never memory that the controller can still reach. The model notes every access to memory
//! that is not mapped, and every mapping that is taken away under a command or a queue.

use super::super::model::Fault;
use super::*;
use crate::memory::DmaSlice;
use crate::nvme::spec::admin;

#[test]
fn a_queue_that_is_dropped_with_commands_outstanding_is_deleted_first() {
    let mut bench = Bench::new(ModelOptions::default());
    for lba in 0..4 {
        bench.model.inject(Fault::Lose);
        bench.push(BlockOp::Read, lba);
    }
    bench.queue.ring();
    assert_eq!(bench.model.held(), 4);
    let Bench { model, controller, queue, region } = bench;
    drop(queue);
    assert_eq!(model.held(), 0, "deleting the queue ended them");
    assert_eq!(Arc::strong_count(&region), 1);
    assert_eq!(controller.status().mappings, 1, "the admin queue's");
    assert_clean(&model);
}

#[test]
fn a_queue_that_cannot_be_deleted_keeps_its_memory_until_the_reset() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 1);
    bench.queue.ring();
    bench.model.lie(|lies| lies.unanswered.push(admin::opcode::DELETE_SQ));
    let Bench { model, controller, queue, region } = bench;
    drop(queue);
    assert_eq!((model.held(), controller.status().mappings), (1, 3));
    assert!(Arc::strong_count(&region) > 1, "the controller may still write to it");
    model.lie(|lies| lies.unanswered.clear());
    controller.service(Duration::ZERO);
    assert_eq!((controller.status().resets, controller.status().mappings), (1, 1));
    assert_eq!(Arc::strong_count(&region), 1);
    assert_clean(&model);
}

#[test]
fn the_controller_is_stopped_before_anything_is_unmapped() {
    let bench = Bench::new(ModelOptions::default());
    let Bench { model, controller, queue, region } = bench;
    let device = controller.namespace(1).unwrap();
    drop(controller);
    drop(device);
    assert!(model.mappings() > 0, "the queue keeps the controller");
    drop(queue);
    assert_eq!(model.mappings(), 0);
    assert_eq!(Arc::strong_count(&region), 1);
    let mut command = [0; 2];
    model.config_read(pci::config::COMMAND, &mut command).unwrap();
    assert_eq!(u16::from_le_bytes(command) & pci::config::COMMAND_BUS_MASTER, 0);
    assert_eq!(model.read32(0x14) & 1, 0, "disabled");
    assert_clean(&model);
}

#[test]
fn a_region_goes_when_its_last_command_did() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 1);
    bench.queue.ring();
    assert!(matches!(bench.queue.detach(RegionSlot(0)), Err(AttachError::Busy(1))));
    bench.pass_time(1);
    bench.queue.detach(RegionSlot(0)).unwrap();
    assert_eq!(Arc::strong_count(&bench.region), 1);
    assert_clean(&bench.model);
}

#[test]
fn queue_identifiers_are_used_again() {
    let model = Model::new(ModelOptions { queues: 2, ..ModelOptions::default() }).unwrap();
    let device = open(&model).namespace(1).unwrap();
    for _ in 0..50 {
        let one = device.queue(4, 1).unwrap();
        let two = device.queue(8, 1).unwrap();
        assert_eq!((one.qid(), two.qid()), (1, 2));
    }
    assert_clean(&model);
}

#[test]
fn a_new_queue_begins_at_zero_whatever_the_last_one_of_its_identifier_rang() {
    let model = Model::new(ModelOptions { queue_entries: 8, ..ModelOptions::default() }).unwrap();
    let device = open(&model).namespace(1).unwrap();
    for _ in 0..3 {
        let mut queue = device.queue(7, 1).unwrap();
        queue.push(BlockIo { op: BlockOp::Flush, lba: 0, blocks: 0, memory: DmaSlice::EMPTY, token: 0 }).unwrap();
        queue.ring();
        model.step();
        let mut done = Burst::new();
        queue.poll(&mut done);
        // Its last doorbell is that of the completion, at which the controller never looked.
        assert_eq!(done.len(), 1);
    }
}
