//! PRP lists and SGLs: whatever a client writes, the windows lie in its own memory and the walk ends.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = dataplane::fabric::vfio_user::target::fuzzing::walk_data_pointer(bytes);
});
