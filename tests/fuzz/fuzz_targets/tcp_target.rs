//! An NVMe/TCP connection of a host that does anything: nothing panics, nothing is lost, nothing is left behind.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = dataplane::fabric::tcp::target::fuzzing::play(bytes);
});
