//! A host's queue pair over NVMe/TCP between a client and a target that lies: it ends what it was given once, and writes
//! to no memory but that of commands which are outstanding.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| dataplane::fabric::tcp::initiator::fuzzing::drive(bytes));
