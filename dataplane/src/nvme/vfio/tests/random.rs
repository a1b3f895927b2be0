//! Random commands against an array: block sizes, PRPs and SGLs, boundaries, one queue and two, faults and resets.

use proptest::prelude::*;

use super::super::model::Fault;
use super::*;
use crate::memory::DmaSlice;
use crate::nvme::spec::Status;

const BLOCKS: u64 = 96;
const MEMORY_BLOCKS: u32 = 48;

#[derive(Clone, Copy, Debug)]
struct Step {
    queue: bool,
    op: BlockOp,
    lba: u64,
    blocks: u32,
    at: u32,
    /// Dwords that the memory begins after a block.
    skew: u32,
    value: u8,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Fault(Fault),
    Reset,
    Fail,
    Power,
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        4 => Just(WRITE),
        1 => Just(BlockOp::write(true)),
        4 => Just(BlockOp::Read),
        1 => Just(BlockOp::Flush),
        1 => Just(BlockOp::Deallocate),
    ];
    let trouble = prop_oneof![
        30 => Just(None),
        1 => Just(Some(Trouble::Fault(Fault::Lose))),
        1 => Just(Some(Trouble::Fault(Fault::WrongPhase))),
        1 => Just(Some(Trouble::Fault(Fault::Twice))),
        1 => Just(Some(Trouble::Fault(Fault::WrongCid(12)))),
        1 => Just(Some(Trouble::Fault(Fault::Status(Status::INTERNAL_ERROR)))),
        1 => Just(Some(Trouble::Reset)),
        1 => Just(Some(Trouble::Fail)),
        1 => Just(Some(Trouble::Power)),
    ];
    let place = (0..BLOCKS, 1_u32..40, 0..MEMORY_BLOCKS, prop_oneof![Just(0_u32), 0_u32..128]);
    (any::<bool>(), op, place, any::<u8>(), trouble).prop_map(|(queue, op, (lba, blocks, at, skew), value, trouble)| {
        let blocks = blocks.min((BLOCKS - lba) as u32).min(MEMORY_BLOCKS - at);
        Step { queue, op, lba, blocks, at, skew, value, trouble }
    })
}

fn model_options() -> impl Strategy<Value = ModelOptions> {
    let boundary = prop_oneof![Just(0_u16), Just(16), Just(24), Just(128)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (prop_oneof![Just(512_u32), Just(4096)], flags, boundary, 0_u8..4, 0_u8..3).prop_map(
        |(lba_bytes, (sgl, shadow_doorbells, volatile_cache), optimal_boundary, mdts, doorbell_stride)| ModelOptions {
            volatile_cache,
            namespaces: vec![BLOCKS],
            lba_bytes,
            sgl,
            shadow_doorbells,
            optimal_boundary,
            mdts,
            doorbell_stride,
            ..ModelOptions::default()
        },
    )
}

struct World {
    model: Model,
    controller: Controller,
    queues: Vec<Stepped>,
    regions: Vec<Arc<Region>>,
}

impl World {
    fn new(options: ModelOptions, queues: usize) -> Self {
        let model = Model::new(options).unwrap();
        let controller = open(&model);
        let device = controller.namespace(1).unwrap();
        let mut queues: Vec<_> =
            (0..queues).map(|_| Stepped { queue: device.queue(5, 1).unwrap(), model: model.clone() }).collect();
        let bytes = (MEMORY_BLOCKS + 1) as usize * queues[0].geometry().lba_bytes as usize;
        let regions: Vec<_> =
            queues.iter().map(|_| Arc::new(Region::anonymous(bytes, RegionSlot(0)).unwrap())).collect();
        for (queue, region) in queues.iter_mut().zip(&regions) {
            queue.attach(Arc::clone(region)).unwrap();
        }
        Self { model, controller, queues, regions }
    }

    /// Carries a command out through whatever trouble.
    fn run(&mut self, at: usize, io: BlockIo, trouble: Option<Trouble>) -> Result<(), BlockError> {
        if let Some(Trouble::Fault(fault)) = trouble {
            self.model.inject(fault);
        }
        self.queues[at].push(io).unwrap();
        match trouble {
            Some(Trouble::Reset) => self.controller.reset().unwrap(),
            Some(Trouble::Fail) => self.model.fail(),
            Some(Trouble::Power) => self.model.lose_power(),
            _ => {}
        }
        self.queues[at].ring();
        for round in 0..400 {
            for queue in 0..self.queues.len() {
                let mut done = Burst::new();
                self.queues[queue].poll(&mut done);
                self.model.step();
                if let Some(done) = done.first() {
                    assert_eq!((queue, done.token), (at, io.token));
                    return done.result;
                }
            }
            // Time passes only for those that wait.
            if round > 8 {
                self.controller.service(Duration::from_millis(100));
            }
        }
        panic!("it never ends: {:?}", self.controller.status());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_an_array(
        options in model_options(),
        queues in 1_usize..3,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let lba_bytes = options.lba_bytes;
        let mut expected = vec![0_u8; BLOCKS as usize * lba_bytes as usize];
        let volatile = options.volatile_cache;
        let mut durable = expected.clone();
        let mut world = World::new(options, queues);
        let most = world.queues[0].geometry().max_transfer / lba_bytes;
        for (number, step) in steps.into_iter().enumerate() {
            let at = usize::from(step.queue) % queues;
            let moves = !matches!(step.op, BlockOp::Flush | BlockOp::Deallocate);
            let blocks = if moves { step.blocks.min(most) } else { step.blocks };
            let bytes = blocks * lba_bytes;
            let region = Arc::clone(&world.regions[at]);
            let offset = u64::from(step.at * lba_bytes + 4 * step.skew);
            let memory = if moves { region.slice(offset, bytes).unwrap() } else { DmaSlice::EMPTY };
            let (lba, blocks) = if step.op == BlockOp::Flush { (0, 0) } else { (step.lba, blocks) };
            let data: Vec<u8> = (0..bytes).map(|index| step.value ^ (index / 509) as u8).collect();
            match step.op {
                BlockOp::Write { .. } => region.write(offset, &data).unwrap(),
                _ => region.fill(0, region.bytes(), 0xEE).unwrap(),
            }
            let io = BlockIo { op: step.op, lba, blocks, memory, token: number as u64 };
            let lost = volatile && matches!(step.trouble, Some(Trouble::Power));
            let result = if lost { Err(BlockError::Gone) } else { Ok(()) };
            prop_assert_eq!(world.run(at, io, step.trouble), result, "{:?}", step);
            if lost {
                // Whoever had it says that it is over, rather than to go on with what is left.
                expected.copy_from_slice(&durable);
                break;
            }
            let span = (lba * u64::from(lba_bytes)) as usize..(lba * u64::from(lba_bytes)) as usize + bytes as usize;
            match step.op {
                BlockOp::Write { fua, .. } => {
                    expected[span.clone()].copy_from_slice(&data);
                    if fua || !volatile {
                        durable[span].copy_from_slice(&data);
                    }
                }
                BlockOp::Deallocate => {
                    expected[span.clone()].fill(0);
                    if !volatile {
                        durable[span].fill(0);
                    }
                }
                BlockOp::Flush => durable.copy_from_slice(&expected),
                BlockOp::Read => {
                    let mut seen = vec![0; region.bytes()];
                    region.read(0, &mut seen).unwrap();
                    let end = offset as usize + bytes as usize;
                    prop_assert!(seen[offset as usize..end] == expected[span], "{:?}", step);
                    let around = seen[..offset as usize].iter().chain(&seen[end..]);
                    prop_assert!(around.copied().all(|byte| byte == 0xEE), "{:?}", step);
                }
            }
        }
        let mut seen = vec![0; expected.len()];
        world.model.peek(1, 0, &mut seen).unwrap();
        prop_assert!(seen == expected);
        prop_assert_eq!(world.model.violations(), Vec::<String>::new());
        let model = world.model.clone();
        drop(world);
        prop_assert_eq!((model.violations(), model.mappings()), (Vec::new(), 0));
    }
}
