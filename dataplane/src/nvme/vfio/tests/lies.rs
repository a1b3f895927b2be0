//! Controllers that cannot be, or do not do what they should.

use super::super::model::{Fault, Lies};
use super::*;
use crate::nvme::spec::{Status, admin};

fn lying(change: impl FnOnce(&mut Lies)) -> Model {
    let model = Model::new(ModelOptions::default()).unwrap();
    model.lie(change);
    model
}

fn error_of(change: impl FnOnce(&mut Lies)) -> OpenError {
    let model = lying(change);
    let error = try_open(&model).unwrap_err();
    assert_eq!(model.mappings(), 0, "nothing stays mapped: {error}");
    assert_clean(&model);
    error
}

#[test]
fn a_controller_that_never_gets_ready() {
    let error = error_of(|lies| lies.never_ready = true);
    assert!(matches!(error, OpenError::TimedOut { what: "get ready", .. }), "{error}");
}

#[test]
fn a_controller_that_fails_at_once() {
    assert!(matches!(error_of(|lies| lies.fatal_on_enable = true), OpenError::Fatal));
}

#[test]
fn a_controller_that_never_stops() {
    let model = Model::new(ModelOptions::default()).unwrap();
    let first = open(&model);
    model.lie(|lies| lies.never_stops = true);
    // The function is reset then.
    drop(first);
    assert_eq!((model.counters().function_resets, model.mappings()), (1, 0));
    let second = open(&model);
    // Nor that helps: it is kept from memory, which is what counts.
    model.lie(|lies| lies.survives_function_reset = true);
    drop(second);
    assert_eq!(model.mappings(), 0);
    assert!(matches!(try_open(&model), Err(OpenError::TimedOut { what: "stop", .. })));
    assert_clean(&model);
}

#[test]
fn absurd_registers_and_structures() {
    let cap = |cap: u64| error_of(|lies| lies.capabilities = Some(cap));
    assert!(matches!(cap(u64::MAX), OpenError::Silent));
    assert!(matches!(cap(1 << 37), OpenError::Absurd(_)), "no entries");
    assert!(matches!(cap(1 << 37 | 1 << 48 | 63), OpenError::Unusable(_)), "pages of 8 KiB");
    assert!(matches!(cap(63), OpenError::Unusable(_)), "no command set");
    let controller = |at: usize, bytes: &[u8]| error_of(|lies| lies.controller.push((at, bytes.to_vec())));
    assert!(matches!(controller(512, &[0]), OpenError::Absurd(_)));
    assert!(matches!(controller(111, &[3]), OpenError::Unusable(_)));
    assert!(matches!(error_of(|lies| lies.namespace_list.push((0, vec![0xFF; 4096]))), OpenError::Absurd(_)));
}

#[test]
fn a_controller_that_asks_for_hours_works_when_it_is_ready() {
    let model = lying(|lies| lies.ready_timeouts = Some(u32::MAX));
    let controller = open(&model);
    assert!(controller.namespace(1).unwrap().queue(4, 1).is_ok());
    drop(controller);
    assert_clean(&model);
}

#[test]
fn doorbells_beyond_what_is_mapped() {
    // A stride of 128 KiB.
    let model = lying(|lies| lies.capabilities = Some(1 << 37 | 15 << 32 | 63));
    let refused = open(&model).namespace(1).unwrap().queue(4, 1);
    assert!(matches!(refused, Err(OpenError::Unusable(_))));
}

#[test]
fn namespaces_that_cannot_be_driven_do_not_hinder_others() {
    // One format, with 8 bytes of metadata.
    let model = lying(|lies| lies.namespace.push((128, vec![8, 0, 12, 0])));
    let controller = open(&model);
    assert!(controller.namespaces().is_empty());
    let error = controller.namespace(1).unwrap_err().to_string();
    assert!(error.contains("metadata") && error.contains("nvme format"), "{error}");
    assert_eq!(controller.refused_namespaces().len(), 1);
    let error = controller.namespace(7).unwrap_err();
    assert!(matches!(error, OpenError::NoNamespace { nsid: 7, .. }));
}

#[test]
fn a_namespace_that_cannot_be_identified_does_not_hinder_others() {
    let model = Model::new(ModelOptions { namespaces: vec![64, 64], ..ModelOptions::default() }).unwrap();
    model.lie(|lies| lies.refused_namespace = Some((1, Status::INTERNAL_ERROR)));
    let controller = open(&model);
    assert_eq!(controller.namespaces().iter().map(|info| info.nsid).collect::<Vec<_>>(), [2]);
    let error = controller.namespace(1).unwrap_err().to_string();
    assert!(error.contains("Identify (namespace)"), "{error}");
    controller.reset().unwrap();
    model.lie(|lies| lies.refused_namespace = None);
    controller.reset().unwrap();
    assert_eq!(controller.namespaces().len(), 2);
    assert_clean(&model);
}

#[test]
fn fewer_queues_than_asked_for() {
    let model = Model::new(ModelOptions { queues: 2, ..ModelOptions::default() }).unwrap();
    let controller = open(&model);
    assert_eq!(controller.queues(), 2);
    let device = controller.namespace(1).unwrap();
    let queues = [device.queue(4, 1).unwrap(), device.queue(4, 1).unwrap()];
    let error = device.queue(4, 1).unwrap_err();
    assert!(matches!(error, OpenError::NoQueue(2)) && error.to_string().contains("fewer cores"), "{error}");
    drop(queues);
    assert!(device.queue(4, 1).is_ok(), "queues can be had again");
    drop((device, controller));
    // More than there are, than asked for even: the creation is what counts.
    model.lie(|lies| lies.granted = Some(0xFFFF));
    let controller = open(&model);
    assert_eq!(controller.queues(), options().queues);
}

#[test]
fn queues_that_are_refused() {
    let model = lying(|lies| lies.refused_queue = Some((1, Status::INVALID_QUEUE_SIZE)));
    let device = open(&model).namespace(1).unwrap();
    let mapped = model.mappings();
    assert!(matches!(device.queue(4, 1), Err(OpenError::Admin { .. })));
    assert_eq!(model.mappings(), mapped);
    assert!(matches!(device.queue(0, 1), Err(OpenError::Depth(1023))));
    assert!(matches!(device.queue(1024, 1), Err(OpenError::Depth(1023))));
    model.lie(|lies| lies.refused_queue = None);
    assert!(device.queue(1023, 1).is_ok());
}

#[test]
fn admin_commands_without_an_answer() {
    let error = error_of(|lies| lies.unanswered.push(admin::opcode::IDENTIFY));
    assert!(matches!(error, OpenError::TimedOut { what: "complete an admin command", .. }), "{error}");
    let model = Model::new(ModelOptions::default()).unwrap();
    let controller = open(&model);
    model.lie(|lies| lies.unanswered.push(admin::opcode::GET_LOG_PAGE));
    assert!(matches!(controller.health(), Err(OpenError::TimedOut { .. })));
    assert!(matches!(controller.health(), Err(OpenError::Failed(_))), "nothing is sent before the reset");
    model.lie(|lies| lies.unanswered.clear());
    controller.service(Duration::ZERO);
    assert_eq!(controller.status().resets, 1);
    assert_eq!(controller.health().unwrap().temperature, 300);
}

#[test]
fn another_function_is_not_touched() {
    let model = Model::new(ModelOptions::default()).unwrap();
    model.remove();
    assert!(matches!(try_open(&model), Err(OpenError::Gone)));
}

#[test]
fn completions_that_name_nothing_are_counted_and_change_nothing() {
    for fault in [Fault::WrongCid(0), Fault::WrongCid(13), Fault::WrongCid(11), Fault::WrongQueue] {
        let mut bench = Bench::new(ModelOptions::default());
        bench.model.inject(fault);
        bench.push(WRITE, 1);
        bench.queue.ring();
        assert!(bench.poll().is_empty());
        assert_eq!((bench.queue.in_flight(), bench.queue.queue.stats().strays), (1, 1), "{fault:?}");
        // It takes too long; the abort finds nothing; the controller is reset and the command sent again.
        let done = bench.pass_time(1);
        assert_eq!(done[0].result, Ok(()));
        let status = bench.controller.status();
        assert_eq!((status.state, status.resets, status.stray_completions), (ControllerState::Ready, 1, 1));
        assert_clean(&bench.model);
    }
}

#[test]
fn a_command_completed_twice_ends_once() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.inject(Fault::Twice);
    assert_eq!(bench.run(WRITE, 1), Ok(()));
    // The slot is used again at once: the second completion must not end the next command.
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 2);
    bench.queue.ring();
    assert!(bench.poll().is_empty() && bench.poll().is_empty());
    assert_eq!((bench.queue.in_flight(), bench.queue.queue.stats().strays), (1, 1));
    assert_eq!(bench.pass_time(1)[0].result, Ok(()));
}

#[test]
fn a_flood_of_completions_does_not_hold_the_core() {
    let mut bench = Bench::new(ModelOptions::default());
    for _ in 0..8 {
        bench.model.inject(Fault::Twice);
    }
    for lba in 0..8 {
        bench.push(WRITE, lba);
    }
    let done = conformance::finish(&mut bench.queue);
    assert_eq!(done.len(), 8);
    let _ = bench.poll();
    assert_eq!(bench.queue.queue.stats().strays, 8);
    assert_eq!(bench.run(BlockOp::Read, 3), Ok(()));
}

#[test]
fn statuses_become_errors() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.damage(5, 6);
    assert_eq!(bench.run(BlockOp::Read, 5), Err(BlockError::Media(libc::ENODATA)));
    assert_eq!(bench.run(BlockOp::Read, 6), Ok(()), "its neighbour");
    assert_eq!(bench.run(WRITE, 5), Ok(()));
    let errors = bench.controller.errors().unwrap();
    // It said nothing of not trying again.
    assert_eq!((errors.len(), errors[0].lba, errors[0].sqid, errors[0].nsid), (4, 5, 1, 1));
    assert_eq!(errors[0].status, Status::from_bits(0x281));
    for (status, expected) in [
        (Status::CAPACITY_EXCEEDED, BlockError::Media(libc::ENOSPC)),
        (Status::INVALID_FIELD, BlockError::Media(libc::EINVAL)),
        (Status::INVALID_NAMESPACE, BlockError::Gone),
    ] {
        bench.model.inject(Fault::Status(status));
        assert_eq!(bench.run(WRITE, 1), Err(expected), "{status}");
    }
    // What may pass is tried again, but not for ever.
    bench.model.inject(Fault::Status(Status::INTERNAL_ERROR));
    assert_eq!(bench.run(WRITE, 1), Ok(()));
    assert_eq!(bench.queue.queue.stats().retried, 3 + 1);
    for _ in 0..4 {
        bench.model.inject(Fault::Status(Status::INTERNAL_ERROR));
    }
    assert_eq!(bench.run(WRITE, 1), Err(BlockError::Media(libc::EIO)));
    assert_eq!(bench.run(WRITE, 1), Ok(()));
    assert_clean(&bench.model);
}
