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
