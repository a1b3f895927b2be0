use super::*;
use crate::target::{Fault, MemoryTarget, Op};
use dataplane::core::{ManualClock, TscClock};

fn settings(mix: &str, ops: u64) -> Settings {
    Settings {
        mix: mix.parse().unwrap(),
        sizes: "100-9000".parse().unwrap(),
        depth: 16,
        arrivals: Arrivals::Closed,
        choice: Choice::Uniform,
        keys: 200,
        lookup_keys: 8,
        verify: Verify::Full,
        seed: 1,
        warm_up: 0,
        duration: 0,
        ops,
    }
}

fn populated(target: &mut MemoryTarget, settings: &Settings) -> Keys {
    let mut keys = Keys::new(settings.keys, settings.seed);
    let stored = populate(target, &TscClock::new(), settings, &mut keys, |_| {}).unwrap();
    assert_eq!(stored.per_op[Op::Store.index()].hits, settings.keys);
    keys
}

fn measured(target: &mut MemoryTarget, settings: &Settings) -> Measured {
    let mut keys = populated(target, settings);
    run(target, &TscClock::new(), settings, &mut keys, |_| {}).unwrap()
}

#[test]
fn a_mix_is_counted_and_every_byte_is_right() {
    let measured =
        measured(&mut MemoryTarget::new(), &settings("retrieve=50,store=30,delete=10,exist=5,lookup=5", 20_000));
    assert_eq!((measured.ops(), measured.wrong_bytes), (20_000, 0));
    let op = |op: Op| &measured.per_op[op.index()];
    assert!((9_500..10_500).contains(&op(Op::Retrieve).ops));
    assert!(op(Op::Retrieve).hits > 0 && op(Op::Retrieve).misses > 0, "deleted keys are missed");
    assert_eq!(op(Op::Store).hits, op(Op::Store).ops);
    assert_eq!(op(Op::Exist).latency.count(), op(Op::Exist).ops);
    assert!(op(Op::Lookup).hits > 0);
}

#[test]
fn faults_are_noticed() {
    let wrong = |fault, mix: &str| {
        let mut target = MemoryTarget::new().with_fault(fault, 10);
        measured(&mut target, &settings(mix, 1000))
    };
    assert_eq!(wrong(Fault::FlipBit(50), "retrieve").wrong_bytes, 100);
    assert!(wrong(Fault::OtherValue, "retrieve").wrong_bytes > 0);
    assert!(wrong(Fault::Short, "retrieve=1,store=1").wrong_bytes > 0);
    let failing = wrong(Fault::Fail, "retrieve");
    assert_eq!((failing.per_op[0].errors, failing.wrong_bytes), (100, 0));
    assert!(failing.failure.is_some());
    let evicting = wrong(Fault::Evict, "retrieve");
    assert!(evicting.per_op[0].misses >= 100 && evicting.wrong_bytes == 0);
}

#[test]
fn a_stale_value_is_wrong() {
    let settings = settings("retrieve=1,store=1", 100);
    let mut target = MemoryTarget::new();
    let mut keys = populated(&mut target, &settings);
    // Another version than the one that the target has.
    for number in 0..settings.keys {
        keys.end_change(number, 2);
    }
    let measured = run(&mut target, &TscClock::new(), &settings, &mut keys, |_| {}).unwrap();
    assert!(measured.wrong_bytes > 0);
}

/// 1,000 commands a second for a second, of which the target is stalled for the middle half: half of the commands
/// start late, and the wait of the worst is half a second.
#[test]
fn an_open_loop_charges_every_command_for_a_stall() {
    let clock = ManualClock::default();
    let mut target = MemoryTarget::new();
    let settings =
        Settings { arrivals: Arrivals::Even(1000.0), duration: 1_000_000_000, depth: 4, ..settings("exist", 0) };
    target.allocate(Engine::memory_bytes(&settings)).unwrap();
    let mut keys = Keys::new(settings.keys, 1);
    let mut engine = Engine::new(&settings, &mut keys, 0);
    let mut over = false;
    for step in 0..4_010 {
        target.stall((1_000..3_000).contains(&step));
        over = engine.turn(&mut target, &clock).unwrap();
        if over {
            break;
        }
        clock.advance(250_000);
    }
    assert!(over);
    let measured = engine.finish();
    let latency = &measured.per_op[Op::Exist.index()].latency;
    assert_eq!((latency.count(), measured.not_started), (1000, 0));
    // A closed loop would have seen 4 slow commands of 1,000. Here 500 waited, 250 ms on average.
    assert!((latency.quantile_us(1.0) / 500_000.0 - 1.0).abs() < 0.01, "{}", latency.quantile_us(1.0));
    let three_quarters = latency.quantile_us(0.75);
    assert!((200_000.0..300_000.0).contains(&three_quarters), "{three_quarters}");
    assert!(latency.quantile_us(0.45) < 1_000.0, "{}", latency.quantile_us(0.45));
}

#[test]
fn what_never_started_is_told() {
    let clock = ManualClock::default();
    let mut target = MemoryTarget::new();
    let settings =
        Settings { arrivals: Arrivals::Even(1000.0), duration: 100_000_000, depth: 4, ..settings("exist", 0) };
    target.allocate(Engine::memory_bytes(&settings)).unwrap();
    let mut keys = Keys::new(settings.keys, 1);
    let mut engine = Engine::new(&settings, &mut keys, 0);
    target.stall(true);
    for _ in 0..400 {
        assert!(!engine.turn(&mut target, &clock).unwrap());
        clock.advance(1_000_000);
    }
    target.stall(false);
    while !engine.turn(&mut target, &clock).unwrap() {}
    assert_eq!((engine.measured().ops(), engine.measured().not_started), (4, 96));
}

#[test]
fn warm_up_does_not_count() {
    let clock = ManualClock::default();
    let mut target = MemoryTarget::new();
    let settings = Settings { warm_up: 1_000_000, duration: 2_000_000, depth: 1, ..settings("exist", 0) };
    target.allocate(Engine::memory_bytes(&settings)).unwrap();
    let mut keys = Keys::new(settings.keys, 1);
    let mut engine = Engine::new(&settings, &mut keys, 0);
    while !engine.turn(&mut target, &clock).unwrap() {
        clock.advance(100_000);
    }
    let measured = engine.finish();
    assert_eq!((measured.ops(), measured.nanos), (20, 2_000_000));
    assert!((measured.per_op[Op::Exist.index()].latency.quantile_us(0.5) / 100.0 - 1.0).abs() < 0.01);
}
