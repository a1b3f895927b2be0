//! Admin and Fabrics commands, Connect's data and discovery entries: a controller of any kind answers whatever a host
//! does as it must, and survives it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = dataplane::fabric::controller::fuzzing::play(bytes);
});
