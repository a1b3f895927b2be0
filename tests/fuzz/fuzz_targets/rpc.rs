//! The control socket: any bytes are cut, read, checked and carried out, or refused, on an engine that does nothing.
#![no_main]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::fabric::SessionId;
use libfuzzer_sys::fuzz_target;
use pipelines::control::report::{CoreReport, QueuePairReport, StoreReport, TraceEvent};
use pipelines::control::state::ListenAddress;
use pipelines::control::{Context, Control, Engine, EngineError, Framework, LogControl, LogLevel, Shape};
use pipelines::policy::table::PolicyTable;

struct Idle;

impl Engine for Idle {
    fn shape(&self) -> Shape {
        Shape {
            tick_rate: 1_000_000_000,
            cores: 2,
            shards: 2,
            capacity_bytes: 1 << 40,
            max_value_bytes: 16 << 20,
            max_transfer_bytes: 16 << 20,
            granularity: 4096,
        }
    }
    fn start(&self) -> Result<(), EngineError> {
        Ok(())
    }
    fn stop(&self, _: Duration) -> Result<(), EngineError> {
        Ok(())
    }
    fn set_policy(&self, _: Arc<PolicyTable>) -> Result<(), EngineError> {
        Ok(())
    }
    fn listen(&self, _: &ListenAddress) -> Result<(), EngineError> {
        Ok(())
    }
    fn unlisten(&self, _: &ListenAddress) -> Result<(), EngineError> {
        Ok(())
    }
    fn close_session(&self, _: SessionId) {}
    fn reports(&self) -> Vec<CoreReport> {
        vec![CoreReport::default()]
    }
    fn reset_statistics(&self) {}
    fn purge_namespace(&self, _: u32) -> Result<u64, EngineError> {
        Ok(0)
    }
    fn namespace_used(&self, _: u32) -> u64 {
        0
    }
    fn queue_pairs(&self) -> Vec<QueuePairReport> {
        Vec::new()
    }
    fn trace(&self, _: Option<u32>) -> Vec<TraceEvent> {
        vec![TraceEvent::default(); 3]
    }
    fn stores(&self) -> Vec<StoreReport> {
        vec![StoreReport::default()]
    }
}

struct Log(Mutex<LogLevel>);

impl LogControl for Log {
    fn level(&self) -> LogLevel {
        *self.0.lock().unwrap()
    }
    fn set_level(&self, level: LogLevel) {
        *self.0.lock().unwrap() = level;
    }
    fn flags(&self) -> Vec<(&'static str, bool)> {
        vec![("rpc", false)]
    }
    fn set_flag(&self, flag: &str, _: bool) -> bool {
        flag == "rpc"
    }
}

fuzz_target!(|bytes: &[u8]| {
    let control = Control::new();
    let later = control.clone();
    let framework = Framework::new(Box::new(move || {
        later.attach(Arc::new(Idle));
        Ok(())
    }));
    let context = Context {
        control,
        framework: Arc::new(framework),
        log: Arc::new(Log(Mutex::new(LogLevel::Notice))),
        kill: Box::new(|_| ()),
    };
    // Half of the inputs find a daemon that waits for its start.
    if bytes.first().is_none_or(|first| first % 2 == 1) {
        let _ = context.framework.start();
    }
    pipelines::control::rpc::fuzz_stream(&context, bytes);
});
