//! Signals to this process itself.
#![allow(unsafe_code)]

/// Sends a signal to this process.
pub(super) fn send_to_self(signal: i32) {
    // SAFETY: kill() takes two numbers and touches no memory; the pid is this process's own, and its handlers are
    // the ones that tokio installed, which are made for this.
    let sent = unsafe { libc::kill(libc::getpid(), signal) };
    if sent != 0 {
        tracing::error!(signal, error = %std::io::Error::last_os_error(), "signal was not sent");
    }
}
