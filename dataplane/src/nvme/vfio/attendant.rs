//! The thread that looks after a controller.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Controller;

/// Calls [`Controller::service`] at its period until it is dropped.
#[derive(Debug)]
pub struct Attendant {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Attendant {
    /// Starts the thread. A tenth of a second is a good period: time limits of commands are as coarse. `watch` is called
    /// after each turn, to look at what became of the controller.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(
        controller: Controller,
        period: Duration,
        mut watch: impl FnMut(&Controller) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let attend = move || {
            let mut last = Instant::now();
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let now = Instant::now();
                controller.service(now - last);
                watch(&controller);
                last = now;
            }
        };
        let thread = std::thread::Builder::new().name("nvme-control".into()).spawn(attend)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
