//! Controllers and namespaces that become others.

use super::super::model::Fault;
use super::*;

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
fn a_queue_is_not_made_upon_what_changed_and_was_not_told() {
    let model =
        Model::new(ModelOptions { lba_bytes: 512, namespaces: vec![64, 64], ..ModelOptions::default() }).unwrap();
    let controller = open(&model);
    let device = controller.namespace(2).unwrap();
    model.alter(|options| options.lba_bytes = 4096);
    assert!(matches!(device.queue(4, 1), Err(OpenError::Changed { nsid: 2, .. })));
    assert_eq!(controller.namespace(2).unwrap().queue(4, 1).unwrap().geometry().lba_bytes, 4096);
    let device = controller.namespace(2).unwrap();
    model.alter(|options| options.namespaces.truncate(1));
    assert!(matches!(device.queue(4, 1), Err(OpenError::Changed { nsid: 2, .. })));
    assert!(controller.namespace(2).is_err());
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
