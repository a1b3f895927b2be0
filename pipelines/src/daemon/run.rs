//! From options to a daemon that serves, and back.

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dataplane::fabric::Admission;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::config_file::{self, Call};
use super::shortcuts::Shortcuts;
use super::{Exit, Logging, Options, StartError, signal::send_to_self};
use crate::control::rpc::{RpcSocket, Server};
use crate::control::{Context, Control, Engine, Framework, Lifecycle};

/// How long commands that were accepted may take to end at shutdown.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer to a failed `framework_start_init` may take to reach its client before the process ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Builds the engine: cores, memory, devices, carriers. The engine is not started yet, and connections are to be shown
/// to the admission. Nothing is left behind on an error.
pub type Assemble =
    Box<dyn FnOnce(&Options, Arc<dyn Admission>) -> Result<Arc<dyn Engine>, StartError> + Send + 'static>;

/// Runs the daemon until a signal ends it. Errors are one line on standard error.
#[must_use]
pub fn run(options: Options, assemble: Assemble) -> ExitCode {
    match try_run(options, assemble) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvplaned: {error}");
            ExitCode::from(error.exit as u8)
        }
    }
}

fn try_run(options: Options, assemble: Assemble) -> Result<(), StartError> {
    options.check()?;
    let calls = read_calls(&options)?;
    let log = Arc::new(Logging::start(options.log_level, &options.logflag, options.log_format));
    let socket = RpcSocket::bind(&options.rpc_socket).map_err(|error| StartError::new(Exit::Socket, error))?;
    let failed = |error: std::io::Error| StartError::new(Exit::Failure, format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let daemon = Daemon::new(options, assemble, calls, log)?;
    let outcome = runtime.block_on(daemon.serve(socket));
    // Calls that still run must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// The calls of the configuration file and of the shortcuts, checked.
pub(super) fn read_calls(options: &Options) -> Result<Vec<Call>, StartError> {
    let mut calls = options.config.as_deref().map_or_else(|| Ok(Vec::new()), config_file::read)?;
    let process = std::fs::metadata("/proc/self");
    let uid = process.map_err(|error| StartError::new(Exit::Failure, format!("/proc/self: {error}")))?.uid();
    let shortcuts = Shortcuts {
        listen: &options.listen,
        namespaces: &options.namespace,
        hosts: &options.host,
        allow_any_host: options.allow_any_host,
    };
    for (method, params) in shortcuts.calls(uid) {
        calls.push(Call::check("--listen and what belongs to it".to_owned(), method, Some(&params))?);
    }
    Ok(calls)
}

/// A daemon that has not begun to serve.
pub(super) struct Daemon {
    context: Arc<Context>,
    wait_for_rpc: bool,
    /// Why start-up failed, with its exit code.
    failure: Arc<Mutex<Option<StartError>>>,
}

impl Daemon {
    /// Makes the calls that come before cores and devices, and prepares for the rest.
    pub(super) fn new(
        options: Options,
        assemble: Assemble,
        calls: Vec<Call>,
        log: Arc<Logging>,
    ) -> Result<Self, StartError> {
        let wait_for_rpc = options.wait_for_rpc;
        let failure = Arc::new(Mutex::new(None));
        let (early, late): (Vec<_>, Vec<_>) = calls.into_iter().partition(Call::is_early);
        let told = Arc::clone(&failure);
        let context = Arc::new_cyclic(|context: &Weak<Context>| {
            let context = context.clone();
            let starter = move || {
                let Some(context) = context.upgrade() else { return Ok(()) };
                start_up(&context, &options, assemble, &late).map_err(|error| {
                    let message = error.message.clone();
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    message
                })
            };
            Context {
                control: Control::new(),
                framework: Arc::new(Framework::new(Box::new(starter))),
                log,
                kill: Box::new(send_to_self),
            }
        });
        early.iter().try_for_each(|call| call.make(&context))?;
        Ok(Self { context, wait_for_rpc, failure })
    }

    #[cfg(test)]
    pub(super) fn context(&self) -> Arc<Context> {
        Arc::clone(&self.context)
    }

    async fn serve(self, socket: RpcSocket) -> Result<(), StartError> {
        let failed = |error: std::io::Error| StartError::new(Exit::Failure, format!("cannot start: {error}"));
        let mut signals = Signals::new().map_err(failed)?;
        let server = Server::new(socket, Arc::clone(&self.context)).map_err(failed)?;
        tokio::select! {
            () = server.run() => Ok(()),
            outcome = self.live(&mut signals) => outcome,
        }
    }

    /// Start-up, service and shutdown, while the socket is served beside it.
    async fn live(&self, signals: &mut Signals) -> Result<(), StartError> {
        let framework = Arc::clone(&self.context.framework);
        let mut lifecycle = framework.watch();
        if self.wait_for_rpc {
            tracing::info!("waiting for framework_start_init");
        } else {
            // It tells by the lifecycle how it went.
            drop(tokio::task::spawn_blocking(move || framework.start()));
        }
        let signalled = tokio::select! {
            started = started(&mut lifecycle) => match started {
                Ok(()) => {
                    tracing::info!("ready");
                    notify(&[NotifyState::Ready]);
                    signals.next().await
                }
                Err(why) => return Err(self.failed(why).await),
            },
            name = signals.next() => name,
        };
        tracing::info!(signal = signalled, "stopping");
        notify(&[NotifyState::Stopping]);
        tokio::select! {
            outcome = self.stop(&mut lifecycle) => outcome,
            name = signals.next() => {
                Err(StartError::new(Exit::Forced, format!("{name} again: ended without waiting for commands to end")))
            }
        }
    }

    async fn failed(&self, why: String) -> StartError {
        // The client that asked for the start is told before the process ends.
        tokio::time::sleep(LAST_WORDS).await;
        let told = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        told.unwrap_or_else(|| StartError::new(Exit::Failure, why))
    }

    async fn stop(&self, lifecycle: &mut watch::Receiver<Lifecycle>) -> Result<(), StartError> {
        // What is being set up must be there before it can be taken down.
        let settled = lifecycle.wait_for(|now| *now != Lifecycle::Starting).await.map(|now| now.clone());
        if let Ok(Lifecycle::Failed(why)) = settled {
            return Err(self.failed(why).await);
        }
        self.context.framework.stopping();
        let Some(engine) = self.context.control.detach() else { return Ok(()) };
        let stopped = tokio::task::spawn_blocking(move || engine.stop(DRAIN_PATIENCE)).await;
        match stopped {
            Ok(Ok(())) => {
                tracing::info!("stopped");
                Ok(())
            }
            Ok(Err(error)) => Err(StartError::new(Exit::Failure, format!("not everything ended: {error}"))),
            Err(error) => Err(StartError::new(Exit::Failure, format!("shutdown failed: {error}"))),
        }
    }
}

/// Waits until start-up has ended.
async fn started(lifecycle: &mut watch::Receiver<Lifecycle>) -> Result<(), String> {
    let over = lifecycle.wait_for(|now| matches!(now, Lifecycle::Ready | Lifecycle::Failed(_))).await;
    match over.as_deref() {
        Ok(Lifecycle::Failed(why)) => Err(why.clone()),
        Ok(_) => Ok(()),
        Err(_) => Err("start-up was given up".to_owned()),
    }
}

/// Sets up cores and devices and makes the calls that need them. All of it, or nothing is left.
fn start_up(context: &Context, options: &Options, assemble: Assemble, calls: &[Call]) -> Result<(), StartError> {
    let engine = assemble(options, Arc::new(context.control.clone()))?;
    let started = engine.start().map_err(|error| StartError::new(Exit::Failure, error));
    let configured = started.and_then(|()| {
        context.control.attach(Arc::clone(&engine));
        calls.iter().try_for_each(|call| call.make(context))
    });
    configured.inspect_err(|_| {
        context.control.detach();
        if let Err(error) = engine.stop(DRAIN_PATIENCE) {
            tracing::error!(%error, "what was started did not stop");
        }
    })
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!(%error, "systemd was not told");
    }
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
