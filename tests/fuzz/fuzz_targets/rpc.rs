//! The control socket: any bytes are cut, read, checked and carried out, or refused, on an engine that only remembers
//! what it was told, and that panics when it is told to do what it does already.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipelines::control::fake;
use pipelines::control::rpc::fuzz_stream;

fuzz_target!(|bytes: &[u8]| {
    // Half of the inputs find a daemon that waits for its start.
    let starts = bytes.first().is_none_or(|first| first % 2 == 1);
    let (context, _engine) = if starts { fake::ready() } else { fake::waiting() };
    fuzz_stream(&context, bytes);
});
