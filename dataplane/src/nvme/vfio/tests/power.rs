//! Drives that lose their volatile cache alone.

use super::super::model::Fault;
use super::*;
use crate::memory::DmaSlice;
use crate::nvme::spec::{Status, admin};

/// A queue that wrote a block that no flush followed, and has another write and a flush outstanding while `harm` is done
/// to the drive. How the two end, in order.
fn after(options: ModelOptions, harm: impl FnOnce(&Bench)) -> (Vec<Result<(), BlockError>>, Bench) {
    let mut bench = Bench::new(options);
    assert_eq!(bench.run(WRITE, 1), Ok(()));
    (0..2).for_each(|_| bench.model.inject(Fault::Lose));
    bench.push(WRITE, 2);
    bench.queue.push(BlockIo { token: 99, ..conformance::io(BlockOp::Flush, 0, 0, DmaSlice::EMPTY) }).unwrap();
    bench.queue.ring();
    harm(&bench);
    let mut done = bench.pass_time(2);
    done.sort_by_key(|done| done.token);
    assert_clean(&bench.model);
    (done.into_iter().map(|done| done.result).collect(), bench)
}

fn why(bench: &Bench) -> String {
    match bench.state() {
        ControllerState::Failed(why) => why,
        state => panic!("{state:?}"),
    }
}

#[test]
fn a_drive_that_lost_its_cache_is_gone_and_says_why() {
    type Harm = fn(&Model);
    let harms: [(Harm, &str); 3] = [
        (Model::lose_power, "2 power cycles and 1 unsafe shutdowns, 1 and 0 before"),
        (Model::reset_subsystem, "CSTS.NSSRO"),
        (
            |model| {
                model.lose_power();
                model.lie(|lies| lies.refused.push((admin::opcode::GET_LOG_PAGE, Status::INVALID_LOG_PAGE)));
            },
            "does not tell any more",
        ),
    ];
    for (harm, cause) in harms {
        let (results, mut bench) = after(ModelOptions::default(), |bench| harm(&bench.model));
        assert_eq!(results, [Err(BlockError::Gone); 2], "a flush that ends well would promise what is lost");
        let why = why(&bench);
        assert!(why.contains(cause) && why.contains("restart the daemon"), "{why}");
        assert_eq!(bench.run(BlockOp::Read, 1), Err(BlockError::Gone), "what was there before is not what was written");
        // Whoever opens it anew gets what is there.
        let Bench { model, controller, queue, region } = bench;
        drop((controller, queue, region));
        model.lie(|lies| lies.refused.clear());
        let mut bench = Bench { controller: open(&model), ..Bench::new(ModelOptions::default()) };
        bench.queue =
            Stepped { queue: bench.controller.namespace(1).unwrap().queue(8, 2).unwrap(), model: model.clone() };
        bench.region = conformance::attach(&mut bench.queue, 0);
        assert_eq!(bench.run(BlockOp::Read, 1), Ok(()));
        bench.controller.reset().unwrap();
        bench.push(BlockOp::Read, 1);
        bench.model = model;
        assert_eq!(bench.pass_time(1)[0].result, Ok(()), "what happened before it was opened does not count");
    }
}

/// The trace of a reset of the subsystem outlasts an attempt that failed before it was judged, and the reset of the
/// function that follows it.
#[test]
fn a_lost_cache_is_noticed_although_the_health_log_came_late() {
    let late = |bench: &Bench| {
        bench.model.lie(|lies| lies.mute_once = vec![admin::opcode::GET_LOG_PAGE]);
        bench.model.reset_subsystem();
    };
    let (results, bench) = after(ModelOptions::default(), late);
    assert_eq!(results, [Err(BlockError::Gone); 2]);
    assert!(why(&bench).contains("CSTS.NSSRO"), "{}", why(&bench));
    assert_eq!(bench.model.counters().function_resets, 1, "the first attempt failed");
    // Without such a reset, the second attempt is all it takes.
    let (results, bench) = after(ModelOptions::default(), |bench| {
        bench.model.lie(|lies| lies.mute_once = vec![admin::opcode::GET_LOG_PAGE]);
        bench.model.fail();
    });
    assert_eq!((results, bench.state()), (vec![Ok(()); 2], ControllerState::Ready));
}

#[test]
fn a_drive_without_a_cache_comes_through() {
    for harm in [Model::lose_power, Model::reset_subsystem] {
        let options = ModelOptions { volatile_cache: false, ..ModelOptions::default() };
        let (results, bench) = after(options, |bench| harm(&bench.model));
        assert_eq!((results, bench.state()), (vec![Ok(()); 2], ControllerState::Ready));
    }
}

#[test]
fn other_resets_leave_the_cache_alone() {
    let harms: [fn(&Bench); 3] = [
        |bench| bench.model.fail(),
        |bench| PciFunction::reset(&bench.model).unwrap(),
        |bench| bench.controller.reset().unwrap(),
    ];
    for harm in harms {
        let (results, bench) = after(ModelOptions::default(), harm);
        assert_eq!((results, bench.state()), (vec![Ok(()); 2], ControllerState::Ready));
    }
}

#[test]
fn a_drive_that_never_tells_is_driven_all_the_same() {
    let model = Model::new(ModelOptions::default()).unwrap();
    model.lie(|lies| lies.refused.push((admin::opcode::GET_LOG_PAGE, Status::INVALID_LOG_PAGE)));
    let controller = open(&model);
    controller.reset().unwrap();
    assert_eq!(controller.state(), ControllerState::Ready);
    // One that gives no answer is not.
    model.lie(|lies| (lies.refused, lies.mute) = (Vec::new(), vec![admin::opcode::GET_LOG_PAGE]));
    assert!(matches!(controller.reset(), Err(OpenError::TimedOut { .. })));
    assert_clean(&model);
}
