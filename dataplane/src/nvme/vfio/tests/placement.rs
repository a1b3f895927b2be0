//! Write hints, and where they arrive.

use super::super::model::{Fault, ModelThread};
use super::*;
use crate::nvme::WriteHint;
use crate::nvme::conformance::{attach, io, run};
use crate::nvme::spec::Status;

/// Blocks by handle after one block was written with each hint, and one without.
fn placed(handles: u16, options: ControllerOptions) -> Vec<u64> {
    let model = Model::new(ModelOptions { placement_handles: handles, ..ModelOptions::default() }).unwrap();
    // Handles are asked for by a command of the queue's own.
    let work = ModelThread::start(model.clone()).unwrap();
    let controller = Controller::open(Arc::new(model.clone()), options).unwrap();
    let mut queue = controller.namespace(1).unwrap().queue(16, 1).unwrap();
    let region = attach(&mut queue, 0);
    let hints = (1..=WriteHint::KINDS).map(WriteHint::kind).chain([WriteHint::NONE]);
    for (hint, lba) in hints.zip(0..) {
        let fua = lba % 2 == 0;
        let memory = region.slice(0, 4096).unwrap();
        assert_eq!(run(&mut queue, io(BlockOp::Write { fua, hint }, lba, 1, memory)), Ok(()));
    }
    drop((queue, controller, work));
    assert_clean(&model);
    model.placed()
}

#[test]
fn write_hints_arrive_as_the_namespaces_own_placements() {
    let default = ControllerOptions::default();
    assert_eq!(placed(8, default), [1, 1, 1, 1, 1, 1, 1, 0]);
    assert_eq!(placed(3, default), [1, 1, 5], "what it does not tell apart goes to the last");
    // One handle tells nothing apart.
    assert_eq!(placed(1, default), [0]);
    assert_eq!(placed(0, default), Vec::<u64>::new());
    assert_eq!(placed(4, ControllerOptions { placement: false, ..default }), [0; 4]);
}

#[test]
fn a_controller_that_does_not_tell_its_handles_is_written_to_without() {
    let model = Model::new(ModelOptions { placement_handles: 4, ..ModelOptions::default() }).unwrap();
    model.inject(Fault::Status(Status::INVALID_FIELD.do_not_retry()));
    let work = ModelThread::start(model.clone()).unwrap();
    let device = open(&model).namespace(1).unwrap();
    let mut queue = device.queue(16, 1).unwrap();
    let region = attach(&mut queue, 0);
    let op = BlockOp::Write { fua: false, hint: WriteHint::kind(1) };
    assert_eq!(run(&mut queue, io(op, 0, 1, region.slice(0, 4096).unwrap())), Ok(()));
    assert_eq!(model.placed(), [0; 4]);
    // One that does not answer gives no queue, and takes none away.
    drop(queue);
    model.inject(Fault::Lose);
    let hasty = ControllerOptions { admin_timeout: Duration::from_millis(100), ..ControllerOptions::default() };
    drop(device);
    let device = Controller::open(Arc::new(model.clone()), hasty).unwrap().namespace(1).unwrap();
    assert!(matches!(device.queue(16, 1), Err(OpenError::TimedOut { .. })));
    assert!(device.queue(16, 1).is_ok());
    drop((device, work));
    assert_clean(&model);
}

const HINTED: BlockOp = BlockOp::Write { fua: false, hint: WriteHint::kind(1) };

/// A queue on four handles that carries hints, with a thread that works the controller.
fn hinting() -> (Model, ModelThread, Controller, VfioQueue, Arc<Region>) {
    let model = Model::new(ModelOptions { placement_handles: 4, ..ModelOptions::default() }).unwrap();
    let work = ModelThread::start(model.clone()).unwrap();
    let controller = open(&model);
    let mut queue = controller.namespace(1).unwrap().queue(16, 1).unwrap();
    let region = attach(&mut queue, 0);
    assert_eq!(run(&mut queue, io(HINTED, 0, 1, region.slice(0, 4096).unwrap())), Ok(()));
    assert_eq!(model.placed(), [1, 0, 0, 0]);
    (model, work, controller, queue, region)
}

/// Resets, and polls until the queue is back and was told its placements, or was not; how many I/O commands that took.
fn reset(model: &Model, controller: &Controller, queue: &mut VfioQueue) -> u64 {
    let before = model.counters().commands;
    controller.reset().unwrap();
    let resets = queue.stats().resets + 1;
    for _ in 0..1_000_000 {
        controller.service(Duration::ZERO);
        queue.poll(&mut Burst::new());
        if queue.stats().resets == resets && queue.room() == 16 {
            assert_eq!(queue.in_flight(), 0);
            return model.counters().commands - before;
        }
        std::thread::yield_now();
    }
    panic!("the queue does not come back: {:?}", controller.status());
}

#[test]
fn hints_survive_a_reset_and_follow_the_placements() {
    let (model, work, controller, mut queue, region) = hinting();
    let memory = || region.slice(0, 4096).unwrap();
    assert_eq!(reset(&model, &controller, &mut queue), 1, "one question");
    assert_eq!(run(&mut queue, io(HINTED, 1, 1, memory())), Ok(()));
    assert_eq!(model.placed(), [2, 0, 0, 0]);
    model.alter(|options| options.first_placement = 0x100);
    reset(&model, &controller, &mut queue);
    assert_eq!(run(&mut queue, io(HINTED, 2, 1, memory())), Ok(()));
    assert_eq!(model.placed(), [3, 0, 0, 0], "by their new names");
    drop((queue, controller, work));
    assert_clean(&model);
}

#[test]
fn a_queue_goes_on_without_hints_when_the_placements_are_gone() {
    let (model, work, controller, mut queue, region) = hinting();
    let memory = || region.slice(0, 4096).unwrap();
    for handles in [0, 1] {
        model.alter(|options| options.placement_handles = handles);
        reset(&model, &controller, &mut queue);
        assert_eq!(run(&mut queue, io(HINTED, 1, 1, memory())), Ok(()));
        assert_eq!(model.placed(), [1, 0, 0, 0]);
    }
    model.alter(|options| options.placement_handles = 4);
    reset(&model, &controller, &mut queue);
    assert_eq!(run(&mut queue, io(HINTED, 1, 1, memory())), Ok(()));
    assert_eq!(model.placed(), [2, 0, 0, 0], "and takes them up when they come back");
    drop((queue, controller, work));
    assert_clean(&model);
}

#[test]
fn what_is_written_before_the_answer_carries_no_hint() {
    let (model, work, controller, mut queue, region) = hinting();
    drop(work);
    // More than there are slots for, so that the question has to wait for one.
    for lba in 0..16 {
        let memory = region.slice(0, 4096).unwrap();
        queue.push(io(HINTED, lba, 1, memory)).unwrap();
    }
    model.alter(|options| options.first_placement = 0x100);
    controller.reset().unwrap();
    let mut done = 0;
    for _ in 0..20 {
        controller.service(Duration::from_millis(100));
        let mut burst = Burst::new();
        queue.poll(&mut burst);
        assert!(burst.iter().all(|done| done.result.is_ok()));
        done += burst.len();
        model.step();
    }
    assert_eq!((done, queue.room(), queue.in_flight()), (16, 16, 0));
    assert_eq!(model.placed(), [1, 0, 0, 0]);
    let memory = region.slice(0, 4096).unwrap();
    let mut queue = Stepped { queue, model: model.clone() };
    assert_eq!(run(&mut queue, io(HINTED, 1, 1, memory)), Ok(()));
    assert_eq!(model.placed(), [2, 0, 0, 0]);
    drop((queue, controller));
    assert_clean(&model);
}

#[test]
fn a_question_that_is_never_answered_does_not_keep_a_controller_in_resets() {
    let (model, work, controller, queue, region) = hinting();
    drop(work);
    model.lie(|lies| lies.aborts_nothing = true);
    let mut queue = Stepped { queue, model: model.clone() };
    controller.reset().unwrap();
    // It is sent again after each reset that it is the reason for.
    (0..4).for_each(|_| model.inject(Fault::Lose));
    for _ in 0..400 {
        controller.service(Duration::from_millis(100));
        for _ in 0..4 {
            queue.poll(&mut Burst::new());
            model.step();
        }
    }
    assert_eq!((controller.status().resets, model.held()), (5, 0));
    assert_eq!((queue.room(), queue.in_flight()), (16, 0));
    assert_eq!(run(&mut queue, io(HINTED, 1, 1, region.slice(0, 4096).unwrap())), Ok(()));
    assert_eq!(model.placed(), [1, 0, 0, 0]);
    drop((queue, controller));
    assert_clean(&model);
}
