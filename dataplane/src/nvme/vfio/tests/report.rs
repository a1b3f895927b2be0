//! What the controller tells, and what is told of it: events, health, status.

use super::*;
use crate::nvme::spec::{Status, admin};

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
