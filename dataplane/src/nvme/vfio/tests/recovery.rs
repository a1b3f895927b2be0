//! Time limits, aborts, resets, removal.

use super::super::model::Fault;
use super::*;
use crate::nvme::spec::{Status, admin};

#[test]
fn a_lost_command_is_aborted_and_sent_again() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 3);
    bench.queue.ring();
    assert_eq!(bench.model.held(), 1);
    let done = bench.pass_time(1);
    assert_eq!(done[0].result, Ok(()));
    let status = bench.controller.status();
    assert_eq!((status.aborts, status.resets, bench.queue.queue.stats().retried), (1, 0, 1));
    assert_clean(&bench.model);
}

#[test]
fn nothing_is_aborted_before_its_time() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 3);
    bench.queue.ring();
    // The limit is a second.
    for _ in 0..9 {
        bench.controller.service(Duration::from_millis(100));
        assert!(bench.poll().is_empty());
    }
    assert_eq!(bench.controller.status().aborts, 0);
}

#[test]
fn where_aborting_does_not_help_the_controller_is_reset_and_nothing_is_lost() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.lie(|lies| lies.aborts_nothing = true);
    bench.region.fill(0, 64 * 4096, 0x77).unwrap();
    bench.model.inject(Fault::Lose);
    for lba in 0..4 {
        bench.push(WRITE, lba);
    }
    bench.queue.ring();
    let done = bench.pass_time(4);
    assert!(done.iter().all(|done| done.result == Ok(())));
    let status = bench.controller.status();
    assert_eq!((status.aborts, status.resets, status.state), (1, 1, ControllerState::Ready));
    let stats = bench.queue.queue.stats();
    assert_eq!((stats.resets, stats.resent), (1, 1));
    let mut seen = vec![0; 4 * 4096];
    bench.model.peek(1, 0, &mut seen).unwrap();
    assert!(seen.iter().all(|byte| *byte == 0x77));
    assert_clean(&bench.model);
}

/// Loses `lost` commands on one queue of a controller that answers no Abort.
fn deaf_to_aborts(options: ModelOptions, lost: u64) {
    let mut bench = Bench::new(options);
    bench.model.lie(|lies| lies.unanswered.push(admin::opcode::ABORT));
    for lba in 0..lost {
        bench.model.inject(Fault::Lose);
        bench.push(BlockOp::Read, lba);
    }
    bench.queue.ring();
    assert_eq!(bench.model.held(), lost as usize);
    let done = bench.pass_time(lost as usize);
    assert!(done.iter().all(|done| done.result == Ok(())), "{done:?}");
    assert_eq!((bench.controller.status().resets, bench.state()), (1, ControllerState::Ready));
    assert_clean(&bench.model);
}

#[test]
fn a_controller_that_answers_no_abort_is_reset() {
    for abort_limit in [1, 2, 4, 256] {
        for lost in [1, 5, 8] {
            deaf_to_aborts(ModelOptions { abort_limit, ..ModelOptions::default() }, lost);
        }
    }
}

#[test]
fn no_more_aborts_at_once_than_the_controller_takes_and_none_is_forgotten() {
    let mut bench = Bench::new(ModelOptions { abort_limit: 1, ..ModelOptions::default() });
    for lba in 0..5 {
        bench.model.inject(Fault::Lose);
        bench.push(BlockOp::Read, lba);
    }
    bench.queue.ring();
    assert!(bench.pass_time(5).iter().all(|done| done.result == Ok(())));
    assert_eq!((bench.controller.status().aborts, bench.controller.status().resets), (5, 0));
    assert_clean(&bench.model);
}

#[test]
fn queues_take_turns_where_the_controller_takes_one_abort() {
    let model = Model::new(ModelOptions { abort_limit: 1, ..ModelOptions::default() }).unwrap();
    let controller = open(&model);
    let device = controller.namespace(1).unwrap();
    let mut queues: Vec<_> =
        (0..3).map(|_| Stepped { queue: device.queue(4, 1).unwrap(), model: model.clone() }).collect();
    for queue in &mut queues {
        let region = conformance::attach(queue, 0);
        let memory = conformance::blocks_of(queue, &region, 0, 1);
        model.inject(Fault::Lose);
        queue.push(conformance::io(BlockOp::Read, 1, 1, memory)).unwrap();
        queue.ring();
    }
    let mut ended = 0;
    for _ in 0..40 {
        controller.service(Duration::from_millis(100));
        for queue in &mut queues {
            let mut done = Burst::new();
            queue.poll(&mut done);
            model.step();
            assert!(done.iter().all(|done| done.result == Ok(())));
            ended += done.len();
        }
    }
    assert_eq!((ended, controller.status().aborts, controller.status().resets), (3, 3, 0));
    assert_clean(&model);
}

#[test]
fn an_abort_without_an_answer_leads_to_a_reset_though_its_command_ended() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.lie(|lies| lies.unanswered.push(admin::opcode::ABORT));
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 1);
    bench.queue.ring();
    while bench.controller.status().aborts == 0 {
        bench.controller.service(Duration::from_millis(100));
        assert!(bench.poll().is_empty());
    }
    bench.model.release();
    assert_eq!(bench.pass_time(1)[0].result, Ok(()));
    assert_eq!(bench.controller.status().resets, 0);
    // The admin limit is 300 ms.
    for _ in 0..5 {
        bench.controller.service(Duration::from_millis(100));
        let _ = bench.poll();
    }
    assert_eq!((bench.controller.status().resets, bench.state()), (1, ControllerState::Ready));
    assert_clean(&bench.model);
}

#[test]
fn a_stall_of_the_control_side_is_no_time_of_commands() {
    let mut bench = Bench::new(ModelOptions::default());
    // Done already, but not seen yet: looked for before the time is.
    bench.push(WRITE, 1);
    bench.queue.ring();
    for _ in 0..8 {
        bench.controller.service(Duration::from_secs(10));
    }
    assert_eq!(bench.poll()[0].result, Ok(()));
    // Under way when the control side stalls.
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 2);
    bench.queue.ring();
    bench.controller.service(Duration::from_secs(10));
    assert!(bench.poll().is_empty());
    bench.controller.service(Duration::ZERO);
    assert_eq!(bench.controller.status().aborts, 0);
    bench.model.release();
    assert_eq!(bench.poll().len(), 1);
    bench.controller.service(Duration::ZERO);
    assert_eq!((bench.controller.status().aborts, bench.controller.status().resets), (0, 0));
    assert_clean(&bench.model);
}

#[test]
fn commands_that_wait_for_a_reset_do_not_cause_another() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.push(WRITE, 1);
    bench.controller.reset().unwrap();
    // The queue is polled seldom: between any two polls a command's limit goes by.
    for _ in 0..4 {
        bench.controller.service(Duration::from_secs(2));
        let _ = bench.poll();
    }
    assert_eq!((bench.queue.queue.stats().resets, bench.queue.in_flight()), (1, 0));
    bench.controller.service(Duration::from_secs(2));
    assert_eq!((bench.controller.status().resets, bench.controller.status().aborts), (1, 0));
    assert_clean(&bench.model);
}

#[test]
fn a_command_that_was_aborted_for_its_time_is_sent_again_whatever_the_status_says() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.lie(|lies| lies.abort_status = Some(Status::ABORT_REQUESTED.do_not_retry()));
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 3);
    bench.queue.ring();
    assert_eq!(bench.pass_time(1)[0].result, Ok(()));
    assert_eq!((bench.controller.status().aborts, bench.controller.status().resets), (1, 0));
    // One that nobody asked to abort is final.
    bench.model.inject(Fault::Status(Status::ABORT_REQUESTED.do_not_retry()));
    assert_eq!(bench.run(BlockOp::Read, 3), Err(BlockError::Gone));
    assert_clean(&bench.model);
}

#[test]
fn what_is_not_ready_yet_is_asked_again_later() {
    // Namespace not ready; access state in transition; an internal error with a delay.
    for status in [0x82, 0x303, 0x06 | 0b01 << 11].map(Status::from_bits) {
        let mut bench = Bench::new(ModelOptions::default());
        bench.model.inject(Fault::Status(status));
        bench.push(BlockOp::Read, 3);
        bench.queue.ring();
        for _ in 0..5 {
            assert!(bench.poll().is_empty());
        }
        assert_eq!((bench.model.counters().commands, bench.queue.in_flight()), (1, 1), "{status}");
        bench.controller.service(Duration::from_millis(100));
        assert!(bench.poll().is_empty());
        assert_eq!(bench.poll()[0].result, Ok(()));
        assert_eq!(bench.queue.queue.stats().retried, 1);
        // Through a reset, and given up in the end.
        for round in 0..6 {
            bench.model.inject(Fault::Status(status));
            if round == 0 {
                bench.push(BlockOp::Read, 3);
                bench.queue.ring();
                let _ = bench.poll();
                bench.controller.reset().unwrap();
            }
        }
        assert!(bench.pass_time(1)[0].result.is_err());
        assert_eq!(bench.queue.in_flight(), 0);
        assert_clean(&bench.model);
    }
}

#[test]
fn a_command_that_waits_has_no_name_that_the_controller_knows() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.region.fill(0, 4096, 0x11).unwrap();
    bench.model.inject(Fault::StatusAndSuccess(Status::NAMESPACE_NOT_READY));
    bench.push(WRITE, 0);
    bench.queue.ring();
    for _ in 0..3 {
        assert!(bench.poll().is_empty(), "it was not carried out");
    }
    assert_eq!(bench.queue.queue.stats().strays, 1);
    assert_eq!(bench.pass_time(1)[0].result, Ok(()));
    let mut seen = [0];
    bench.model.peek(1, 0, &mut seen).unwrap();
    assert_eq!(seen, [0x11]);
    assert_clean(&bench.model);
}

#[test]
fn a_wrong_phase_stops_the_ring_until_the_reset() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.inject(Fault::WrongPhase);
    for lba in 0..4 {
        bench.push(WRITE, lba);
    }
    bench.queue.ring();
    assert!(bench.poll().is_empty(), "completions behind it are not seen");
    assert_eq!(bench.pass_time(4).len(), 4);
    assert_eq!(bench.controller.status().resets, 1);
    assert_eq!(bench.run(BlockOp::Read, 9), Ok(()));
    assert_clean(&bench.model);
}

#[test]
fn a_command_that_is_lost_again_and_again_is_given_up() {
    let mut bench = Bench::new(ModelOptions::default());
    for _ in 0..4 {
        bench.model.inject(Fault::Lose);
    }
    bench.push(BlockOp::Read, 3);
    bench.queue.ring();
    assert_eq!(bench.pass_time(1)[0].result, Err(BlockError::Gone));
    assert_eq!(bench.queue.in_flight(), 0);
    assert_eq!(bench.run(BlockOp::Read, 3), Ok(()));
    bench.queue.detach(RegionSlot(0)).unwrap();
    assert_clean(&bench.model);
}

#[test]
fn a_controller_that_fails_is_reset_under_load() {
    let mut bench = Bench::new(ModelOptions::default());
    for lba in 0..8 {
        bench.push(WRITE, lba);
    }
    bench.model.fail();
    // Rung, but the controller does nothing any more.
    bench.queue.ring();
    let done = bench.pass_time(8);
    assert!(done.iter().all(|done| done.result == Ok(())));
    assert_eq!((bench.controller.status().resets, bench.state()), (1, ControllerState::Ready));
    assert_clean(&bench.model);
}

#[test]
fn commands_pushed_during_a_reset_wait_for_its_end() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.push(WRITE, 1);
    // Nobody polls the queue meanwhile.
    bench.controller.reset().unwrap();
    bench.queue.ring();
    assert_eq!(bench.model.counters().commands, 0, "a queue that the controller does not know is not rung");
    assert!(bench.poll().is_empty());
    bench.push(WRITE, 2);
    bench.queue.ring();
    assert!(matches!(bench.queue.detach(RegionSlot(0)), Err(AttachError::Busy(2))));
    assert_eq!(bench.pass_time(2).len(), 2);
    assert_eq!(bench.model.counters().commands, 2);
    assert_clean(&bench.model);
}

#[test]
fn two_resets_while_a_queue_is_on_its_way_back() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.push(WRITE, 1);
    bench.controller.reset().unwrap();
    assert!(bench.poll().is_empty());
    bench.controller.reset().unwrap();
    assert!(bench.poll().is_empty());
    bench.controller.reset().unwrap();
    assert_eq!(bench.pass_time(1)[0].result, Ok(()));
    assert_clean(&bench.model);
}

#[test]
fn other_queues_come_back_as_well() {
    let model = Model::new(ModelOptions { shadow_doorbells: true, ..ModelOptions::default() }).unwrap();
    let controller = open(&model);
    let device = controller.namespace(1).unwrap();
    let mut queues: Vec<_> =
        (0..3).map(|_| Stepped { queue: device.queue(4, 1).unwrap(), model: model.clone() }).collect();
    let regions: Vec<_> = queues.iter_mut().map(|queue| conformance::attach(queue, 0)).collect();
    for _ in 0..3 {
        controller.reset().unwrap();
        for _ in 0..3 {
            controller.service(Duration::from_millis(1));
            queues.iter_mut().for_each(|queue| queue.poll(&mut Burst::new()));
        }
        for (queue, region) in queues.iter_mut().zip(&regions) {
            let memory = conformance::blocks_of(queue, region, 0, 4);
            assert_eq!(conformance::run(queue, conformance::io(WRITE, 8, 4, memory)), Ok(()));
        }
    }
    assert_eq!((controller.status().resets, controller.status().queues), (3, 3));
    drop(queues);
    assert_clean(&model);
}

#[test]
fn a_controller_that_does_not_come_back_is_given_up() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.inject(Fault::Lose);
    bench.push(WRITE, 1);
    bench.queue.ring();
    bench.model.lie(|lies| lies.never_ready = true);
    assert!(bench.controller.reset().is_err());
    assert!(matches!(bench.state(), ControllerState::Failed(_)));
    let done = bench.pass_time(1);
    assert_eq!(done[0].result, Err(BlockError::Gone));
    assert_eq!(bench.run(BlockOp::Read, 2), Err(BlockError::Gone));
    assert!(bench.controller.namespace(1).unwrap().queue(4, 1).is_err());
    assert!(bench.controller.reset().is_err());
    bench.queue.detach(RegionSlot(0)).unwrap();
    assert_clean(&bench.model);
}

#[test]
fn commands_end_only_when_the_controller_reaches_their_memory_no_more() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.model.inject(Fault::Lose);
    bench.push(BlockOp::Read, 1);
    bench.queue.ring();
    bench.model.lie(|lies| {
        (lies.never_stops, lies.survives_function_reset) = (true, true);
        (lies.keeps_bus_master, lies.keeps_mappings) = (true, true);
    });
    assert!(bench.controller.reset().is_err());
    assert!(matches!(bench.state(), ControllerState::Failed(_)));
    for _ in 0..5 {
        bench.controller.service(Duration::from_secs(1));
        assert!(bench.poll().is_empty());
    }
    assert!(matches!(bench.queue.detach(RegionSlot(0)), Err(AttachError::Busy(1))));
    // Turned off as far as the bus goes, but it is on all the same: only the IOMMU helps.
    bench.model.lie(|lies| lies.keeps_mappings = false);
    bench.controller.service(Duration::from_secs(1));
    assert_eq!(bench.model.mappings(), 0);
    assert_eq!(bench.pass_time(1)[0].result, Err(BlockError::Gone));
    bench.queue.detach(RegionSlot(0)).unwrap();
    // A queue that ends everything still takes memory, which the controller is not shown.
    bench.region = conformance::attach(&mut bench.queue, 0);
    assert_eq!((bench.model.mappings(), bench.run(BlockOp::Read, 1)), (0, Err(BlockError::Gone)));
    bench.queue.detach(RegionSlot(0)).unwrap();
    assert_eq!(Arc::strong_count(&bench.region), 1);
}

#[test]
fn memory_that_cannot_be_taken_away_is_leaked() {
    let bench = Bench::new(ModelOptions::default());
    bench.model.lie(|lies| lies.keeps_mappings = true);
    let Bench { controller, queue, region, .. } = bench;
    drop((controller, queue));
    assert!(Arc::strong_count(&region) > 1);
}

#[test]
fn removal_is_survived() {
    let mut bench = Bench::new(ModelOptions::default());
    for lba in 0..4 {
        bench.push(WRITE, lba);
    }
    bench.model.remove();
    bench.queue.ring();
    let done = bench.pass_time(4);
    assert!(done.iter().all(|done| done.result == Err(BlockError::Gone)));
    assert_eq!(bench.state(), ControllerState::Removed);
    assert_eq!(bench.run(BlockOp::Read, 2), Err(BlockError::Gone));
    assert!(matches!(bench.controller.health(), Err(OpenError::Gone | OpenError::Failed(_))));
    bench.queue.detach(RegionSlot(0)).unwrap();
    assert_eq!(Arc::strong_count(&bench.region), 1);
    let Bench { model, controller, queue, .. } = bench;
    drop((controller, queue));
    assert_eq!(model.mappings(), 0);
}

#[test]
fn a_thread_of_its_own_looks_after_it() {
    let mut bench = Bench::new(ModelOptions::default());
    let attendant = Attendant::start(bench.controller.clone(), Duration::from_millis(1), |_| ()).unwrap();
    bench.model.fail();
    bench.push(WRITE, 1);
    let done = conformance::finish(&mut bench.queue);
    assert_eq!(done[0].result, Ok(()));
    drop(attendant);
    assert_eq!(bench.controller.status().resets, 1);
}

#[test]
fn an_admin_queue_that_hangs_in_a_reset_ends_in_giving_up() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.push(WRITE, 1);
    bench.model.lie(|lies| lies.unanswered.push(admin::opcode::CREATE_CQ));
    bench.controller.reset().unwrap();
    // Making the queue gets no answer, so the controller is reset again; then it answers.
    assert!(bench.poll().is_empty());
    bench.controller.service(Duration::ZERO);
    assert!(bench.poll().is_empty());
    bench.controller.service(Duration::ZERO);
    bench.model.lie(|lies| lies.unanswered.clear());
    assert_eq!(bench.pass_time(1)[0].result, Ok(()));
    assert!(bench.controller.status().resets >= 2);
    assert_clean(&bench.model);
}
