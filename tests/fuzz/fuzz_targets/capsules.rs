//! Commands of any bits, one after the other, through every stage over a store in memory: each is completed once, the
//! core neither panics nor goes on for ever, and a value that is right stays right beside them.
#![no_main]

use std::cell::RefCell;

use dataplane::nvme::ram::{RamDevice, RamOptions, RamQueue};
use dataplane::nvme::spec::Sqe;
use dataplane::nvme::spec::kv::{KeyFields, opcode};
use e2e::lone_core::{LoneCore, MEMORY_BYTES};
use libfuzzer_sys::fuzz_target;
use pipelines::policy::Durability;

/// Turns within which everything must have ended.
const PATIENCE: u32 = 1_000_000;
/// The witness: its key, and where its value comes from and goes to.
const WITNESS: u64 = u64::MAX;
const WITNESS_BYTES: u32 = 5000;
const FROM: u64 = MEMORY_BYTES as u64 - (64 << 10);
const INTO: u64 = MEMORY_BYTES as u64 - (32 << 10);

thread_local! {
    // One core for many inputs, so that what one leaves behind, later ones meet. Starting one for each would be slow.
    static CORE: RefCell<Option<LoneCore<RamQueue>>> = const { RefCell::new(None) };
}

fn start() -> LoneCore<RamQueue> {
    let device = RamDevice::new(RamOptions { bytes: 16 << 20, lba_bytes: 4096, volatile_cache: true }).unwrap();
    LoneCore::new(device.queue(64, 4), 1 << 20, Durability::Cache)
}

fn end_all(core: &mut LoneCore<RamQueue>, mut expected: usize) {
    for _ in 0..PATIENCE {
        core.poll();
        core.take(|_, _| expected = expected.checked_sub(1).expect("a command was completed twice"));
        if expected == 0 {
            return;
        }
    }
    panic!("{expected} commands are not completed");
}

fn witness(core: &mut LoneCore<RamQueue>, opcode: u8, at: u64) {
    let mut sqe = Sqe::new(opcode, 0);
    sqe.set_nsid(1);
    sqe.set_dword(10, WITNESS_BYTES);
    sqe.set_key(e2e::key(WITNESS).bytes());
    core.submit(sqe, at, WITNESS_BYTES, 4096);
    end_all(core, 1);
}

fuzz_target!(|bytes: &[u8]| {
    CORE.with_borrow_mut(|core| {
        let core = core.get_or_insert_with(start);
        let value = e2e::value(&e2e::key(WITNESS), 1, WITNESS_BYTES as usize);
        core.memory.write(FROM, &value).unwrap();
        witness(core, opcode::STORE, FROM);
        let mut sent = 0;
        for (number, command) in (0..).zip(bytes.chunks_exact(64)) {
            let mut words = [0; 8];
            for (word, piece) in words.iter_mut().zip(command.chunks_exact(8)) {
                *word = u64::from_le_bytes(piece.try_into().unwrap()).to_le();
            }
            let mut sqe = Sqe::from_quadwords(words);
            sqe.set_cid(number);
            // The carrier knows where data lies and how much of it there is; it may be less than the command says.
            let room = (sqe.quadword(8) % (FROM / 2)) as u32;
            core.submit(sqe, sqe.quadword(6) % (FROM / 2), room, 1 + (sqe.quadword(8) >> 40) as u16 % 9000);
            sent += 1;
        }
        end_all(core, sent);
        core.memory.write(INTO, &vec![0; WITNESS_BYTES as usize]).unwrap();
        witness(core, opcode::RETRIEVE, INTO);
        let mut found = vec![0; WITNESS_BYTES as usize];
        core.memory.read(INTO, &mut found).unwrap();
        // The commands may have evicted or deleted it, and they may even have guessed its key; but they cannot have
        // made other bytes that carry its stamp.
        if found[..16] == value[..16] {
            assert_eq!(e2e::values::first_difference(&found, &value), None);
        }
    });
});
