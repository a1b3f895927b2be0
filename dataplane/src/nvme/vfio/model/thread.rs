//! A thread that works a model's queues.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Model;

/// Steps in vain before it begins to sleep between them.
const EAGER_STEPS: u32 = 200;
const NAP: Duration = Duration::from_micros(50);

/// Steps a model until it is dropped.
#[derive(Debug)]
pub struct ModelThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ModelThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(model: Model) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            let mut idle = 0;
            while !stopped.load(Ordering::Relaxed) {
                if model.step() > 0 {
                    idle = 0;
                    continue;
                }
                idle += 1;
                if idle < EAGER_STEPS {
                    std::thread::yield_now();
                } else {
                    // Whoever waits for it may need the processor.
                    std::thread::sleep(NAP);
                }
            }
        };
        let thread = std::thread::Builder::new().name("nvme-model".into()).spawn(work)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for ModelThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
