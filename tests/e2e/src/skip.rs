//! Tests that this machine cannot run. They must not pass unseen.

use std::io::Write;

/// Prints that a test is skipped and appends it to `target/test-skips.txt`, which `scripts/test.sh` counts and shows.
pub fn skipped(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
    let file = crate::binaries::target().join("test-skips.txt");
    let mut list = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    writeln!(list, "{test}: {why}").unwrap();
}
