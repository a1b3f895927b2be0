//! Standard output, whose reader may go away before the end (`kvplane rpc | head`).

use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// Writes to standard output. A reader that has gone has all it wanted, so that is no error.
///
/// # Errors
/// What the system says, such as a full disk behind it.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        ended => ended.context("cannot write to standard output"),
    }
}
