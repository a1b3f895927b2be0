//! A store file of arbitrary bytes: recovery and inspection end, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| pipelines::store::fuzz_recover(bytes));
