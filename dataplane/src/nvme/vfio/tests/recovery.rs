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
fn a_namespace_that_changed_does_not_come_back() {
    let mut bench = Bench::new(ModelOptions::default());
    bench.push(WRITE, 1);
    bench.model.lie(|lies| lies.namespace.push((0, vec![0, 8])));
    bench.controller.reset().unwrap();
    assert_eq!(bench.pass_time(1)[0].result, Err(BlockError::Gone));
    assert_eq!(bench.state(), ControllerState::Ready, "others may be driven still");
}

/// A queue that carries a command out, is altered behind its back and reset. How its next command ends.
fn after_a_change(options: ModelOptions, change: impl FnOnce(&Model)) -> (Result<(), BlockError>, Bench) {
    let mut bench = Bench::new(options);
    assert_eq!(bench.run(WRITE, 1), Ok(()));
    change(&bench.model);
    bench.controller.reset().unwrap();
    bench.push(WRITE, 2);
    let result = bench.pass_time(1)[0].result;
    assert_eq!((bench.state(), bench.queue.in_flight()), (ControllerState::Ready, 0));
    assert_clean(&bench.model);
    (result, bench)
}

#[test]
fn a_queue_does_not_outlive_what_it_was_made_upon() {
    let base = ModelOptions::default();
    let shadows = ModelOptions { shadow_doorbells: true, ..base.clone() };
    let sgl = ModelOptions { sgl: true, ..base.clone() };
    let safe = ModelOptions { volatile_cache: false, ..base.clone() };
    type Change = fn(&Model);
    let changes: [(&ModelOptions, Change); 6] = [
        (&shadows, |model| model.lie(|lies| lies.refuses_shadows = true)),
        (&shadows, |model| model.alter(|options| options.shadow_doorbells = false)),
        (&base, |model| model.alter(|options| options.doorbell_stride = 1)),
        (&base, |model| model.alter(|options| options.mdts = 2)),
        (&sgl, |model| model.alter(|options| options.sgl = false)),
        (&safe, |model| model.alter(|options| options.volatile_cache = true)),
    ];
    for (number, (options, change)) in changes.into_iter().enumerate() {
        let (result, mut bench) = after_a_change(options.clone(), change);
        assert_eq!(result, Err(BlockError::Gone), "change {number}");
        // Whoever opens the namespace anew gets a queue that fits.
        bench.queue.detach(RegionSlot(0)).unwrap();
        bench.queue.queue = bench.controller.namespace(1).unwrap().queue(8, 2).unwrap();
        bench.region = conformance::attach(&mut bench.queue, 0);
        assert_eq!(bench.run(WRITE, 3), Ok(()), "change {number}");
        assert_clean(&bench.model);
    }
}

#[test]
fn what_a_queue_does_not_rely_on_may_change() {
    let base = ModelOptions::default();
    type Change = fn(&Model);
    let changes: [Change; 5] = [
        // Shadow doorbells that come later are not used: queues that are there ring registers.
        |model| model.alter(|options| options.shadow_doorbells = true),
        |model| model.alter(|options| options.mdts = 0),
        |model| model.alter(|options| options.sgl = true),
        |model| model.alter(|options| options.volatile_cache = false),
        |model| model.alter(|options| options.queues = 7),
    ];
    for change in changes {
        assert_eq!(after_a_change(base.clone(), change).0, Ok(()));
    }
}

#[test]
fn a_queue_is_not_made_upon_what_is_no_more() {
    let model = Model::new(ModelOptions { lba_bytes: 512, ..ModelOptions::default() }).unwrap();
    let controller = open(&model);
    let device = controller.namespace(1).unwrap();
    model.alter(|options| options.lba_bytes = 4096);
    controller.reset().unwrap();
    let error = device.queue(4, 1).unwrap_err();
    assert!(matches!(error, OpenError::Changed { nsid: 1, .. }), "{error}");
    assert_eq!(controller.namespace(1).unwrap().queue(4, 1).unwrap().geometry().lba_bytes, 4096);
    model.alter(|options| options.mdts = 1);
    let device = controller.namespace(1).unwrap();
    controller.reset().unwrap();
    assert!(matches!(device.queue(4, 1), Err(OpenError::Changed { .. })));
    model.alter(|options| options.namespaces.clear());
    controller.reset().unwrap();
    assert!(matches!(device.queue(4, 1), Err(OpenError::Changed { .. })));
    assert_clean(&model);
}

#[test]
fn a_namespace_that_is_formatted_loses_its_queues_and_others_keep_theirs() {
    let model = Model::new(ModelOptions { namespaces: vec![4096, 4096], ..ModelOptions::default() }).unwrap();
    let controller = open(&model);
    let mut queues = [1, 2].map(|nsid| {
        let queue = controller.namespace(nsid).unwrap().queue(4, 1).unwrap();
        Stepped { queue, model: model.clone() }
    });
    let regions = queues.each_mut().map(|queue| conformance::attach(queue, 0));
    model.inject(Fault::Lose);
    let memory = conformance::blocks_of(&queues[0], &regions[0], 0, 1);
    queues[0].push(conformance::io(BlockOp::Read, 1, 1, memory)).unwrap();
    queues[0].ring();
    model.alter(|options| options.namespaces[0] = 2048);
    // Notice, attached namespace attribute changed; its log page is 04h.
    assert!(model.send_event(0x0004_0002));
    controller.service(Duration::ZERO);
    assert_eq!(model.held(), 0, "deleting the queue ended what it had under way");
    let mut done = Burst::new();
    queues[0].poll(&mut done);
    assert_eq!(done.first().map(|done| done.result), Some(Err(BlockError::Gone)));
    let memory = conformance::blocks_of(&queues[1], &regions[1], 0, 1);
    assert_eq!(conformance::run(&mut queues[1], conformance::io(WRITE, 1, 1, memory)), Ok(()));
    assert_eq!((controller.status().resets, controller.namespaces()[0].blocks), (0, 2048));
    drop(queues);
    assert_clean(&model);
}

#[test]
fn events_are_heard_and_asked_for_again() {
    let bench = Bench::new(ModelOptions::default());
    // Health; its log page is health.
    for information in 0..10 {
        assert!(bench.model.send_event(0x0002_0001 | information << 8), "{information}");
        bench.controller.service(Duration::ZERO);
    }
    let events = bench.controller.take_events();
    assert_eq!(events.len(), 10);
    assert_eq!(events[1], ControllerEvent { kind: 1, information: 1, log_page: 2 });
    assert!(bench.controller.take_events().is_empty());
    assert_clean(&bench.model);
}

#[test]
fn an_event_that_comes_again_and_again_is_counted_and_heard_once_in_a_while() {
    let bench = Bench::new(ModelOptions::default());
    for _ in 0..50 {
        while bench.model.send_event(0x0002_0101) {}
        bench.controller.service(Duration::from_millis(100));
    }
    assert_eq!(bench.controller.status().events, 200);
    // Five seconds.
    assert!((4..=6).contains(&bench.controller.take_events().len()));
    // Nor do ever different ones become a flood.
    for information in 0..50 {
        while bench.model.send_event(0x0002_0001 | information << 8) {}
        bench.controller.service(Duration::from_millis(1));
    }
    assert!(bench.controller.take_events().len() <= 17);
    assert_clean(&bench.model);
}

#[test]
fn a_controller_that_refuses_event_requests_is_not_asked_for_ever() {
    let model = Model::new(ModelOptions::default()).unwrap();
    model.lie(|lies| lies.refused.push((admin::opcode::ASYNC_EVENT, Status::AER_LIMIT_EXCEEDED)));
    let controller = open(&model);
    controller.service(Duration::ZERO);
    let before = model.counters().admin_commands;
    for _ in 0..20 {
        controller.service(Duration::from_millis(100));
    }
    assert_eq!(model.counters().admin_commands, before);
    // The next reset begins anew.
    model.lie(|lies| lies.refused.clear());
    controller.reset().unwrap();
    assert!(model.send_event(0x0002_0101));
    assert_clean(&model);
}

#[test]
fn status_does_not_wait_for_a_reset() {
    let bench = Bench::new(ModelOptions::default());
    // Half a second, and once more after the function's reset.
    bench.model.lie(|lies| lies.never_ready = true);
    let controller = bench.controller.clone();
    let reset = std::thread::spawn(move || controller.reset().is_err());
    let state = loop {
        let state = bench.state();
        if state != ControllerState::Ready {
            break state;
        }
        std::thread::yield_now();
    };
    assert_eq!(state, ControllerState::Resetting);
    assert!(matches!(bench.controller.health(), Err(OpenError::Resetting)));
    assert_eq!((bench.controller.namespaces().len(), bench.controller.info().controller_id), (1, 1));
    assert!(reset.join().unwrap());
    assert!(matches!(bench.controller.errors(), Err(OpenError::Failed(_))));
}

#[test]
fn health_can_be_asked_for() {
    let mut bench = Bench::new(ModelOptions::default());
    assert_eq!(bench.run(BlockOp::Read, 0), Ok(()));
    let health = bench.controller.health().unwrap();
    assert_eq!((health.temperature, health.power_cycles, health.host_read_commands), (300, 1, 1));
    assert_eq!(bench.controller.errors().unwrap(), []);
    let info = bench.controller.info();
    assert_eq!((info.serial.as_str(), info.model.as_str()), ("MODEL0001", "kvplane controller model"));
}

#[test]
fn a_thread_of_its_own_looks_after_it() {
    let mut bench = Bench::new(ModelOptions::default());
    let attendant = Attendant::start(bench.controller.clone(), Duration::from_millis(1)).unwrap();
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
