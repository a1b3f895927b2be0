//! How many empty commands pass, and how long one takes. Not a test of anything: run it by name, in release mode.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use dataplane::Burst;
use dataplane::fabric::vfio_user::{CoreCommand, InitiatorQueue, Target, TargetOptions, VfioUserFabric};
use dataplane::fabric::{Completion, CorePort, Fabric};
use dataplane::nvme::null::NullDevice;
use dataplane::nvme::spec::Sqe;

use crate::harness::Rig;

struct OnePort(mpsc::SyncSender<CoreCommand>);

impl CorePort<CoreCommand> for OnePort {
    fn cores(&self) -> u16 {
        1
    }
    fn send(&self, _core: u16, command: CoreCommand) -> Result<(), CoreCommand> {
        self.0.send(command).map_err(|error| error.0)
    }
}

fn pin(core: usize) {
    if let Some(ids) = core_affinity::get_core_ids() {
        core_affinity::set_for_current(ids[core % ids.len()]);
    }
}

fn serve(commands: &mpsc::Receiver<CoreCommand>, stop: &AtomicBool) {
    pin(0);
    let mut fabric = VfioUserFabric::new(0);
    let mut blocks = NullDevice::new(1 << 20).queue(128, 1024);
    let mut capsules = Burst::new();
    let mut turn = 0u32;
    loop {
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(1024) {
            if let Ok(command) = commands.try_recv() {
                fabric.command(command, &mut blocks);
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
        fabric.settle(&mut blocks);
        fabric.poll(&mut capsules);
        if capsules.is_empty() {
            std::hint::spin_loop();
            continue;
        }
        for capsule in capsules.drain(..) {
            fabric.complete(capsule.permit, Completion::success(capsule.sqe.dword(10), 0));
        }
        fabric.flush();
    }
}

fn load(queue: &mut InitiatorQueue, depth: usize, span: Duration) -> f64 {
    let (mut done, mut completed) = (Burst::new(), 0u64);
    let mut sqe = Sqe::new(0xC0, 0);
    sqe.set_dword(10, 7);
    let begin = Instant::now();
    while begin.elapsed() < span {
        for _ in 0..1000 {
            while queue.in_flight() < depth {
                queue.push(sqe).unwrap();
            }
            queue.ring();
            queue.poll(&mut done);
            completed += done.len() as u64;
            done.clear();
        }
    }
    let rate = completed as f64 / begin.elapsed().as_secs_f64();
    while queue.in_flight() > 0 {
        queue.poll(&mut done);
        done.clear();
    }
    rate
}

#[test]
#[ignore = "measures rather than tests; run with --release --ignored --nocapture"]
fn empty_commands() {
    let gate = Rig::gate();
    let (sender, receiver) = sync_channel(64);
    let stop = Arc::new(AtomicBool::new(false));
    let own = Arc::clone(&stop);
    let core = std::thread::spawn(move || serve(&receiver, &own));
    let dir = tempfile::tempdir().unwrap();
    let target = Target::listen(dir.path(), TargetOptions::default(), Arc::new(OnePort(sender)), gate).unwrap();
    pin(1);
    let mut initiator = dataplane::fabric::vfio_user::Initiator::connect(dir.path(), &Default::default()).unwrap();
    let mut queue = initiator.create_queue(128, false).unwrap();
    for round in 0..3 {
        for depth in [1, 8, 32, 128] {
            let rate = load(&mut queue, depth, Duration::from_millis(500));
            println!("round {round} depth {depth}: {:.2} M/s, {:.0} ns each", rate / 1e6, 1e9 / rate);
        }
    }
    let mut times: Vec<u64> = (0..200_000).map(|_| one(&mut queue)).collect();
    times.sort_unstable();
    println!("depth 1: p50 {} ns, p99 {} ns", times[times.len() / 2], times[times.len() * 99 / 100]);
    drop((queue, initiator));
    drop(target);
    stop.store(true, Ordering::Relaxed);
    core.join().unwrap();
}

fn one(queue: &mut InitiatorQueue) -> u64 {
    let begin = Instant::now();
    queue.push(Sqe::new(0xC0, 0)).unwrap();
    queue.ring();
    let mut done: Burst<_> = Burst::new();
    while done.is_empty() {
        queue.poll(&mut done);
    }
    begin.elapsed().as_nanos() as u64
}
