//! `kvplaned` as a child process.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvplane::{Address, Client, ConnectOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::carrier::Place;
use crate::rpc::{Rpc, RpcError};
use crate::{PATIENCE, binaries, carrier, device};

/// NQN of the subsystem that `--listen` and `--namespace` make.
pub const DEFAULT_NQN: &str = "nqn.2026-01.io.kvplane:tier";

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Core mask.
    pub cpumask: String,
    /// `--store`, in which `{store}` stands for the path of the store file; `None` leaves the option out. Devices take the
    /// file's place where [`device`] is told so.
    pub store: Option<String>,
    /// Values of `--namespace`. With at least one, `--listen` is given too.
    pub namespaces: Vec<String>,
    /// Further arguments.
    pub more: Vec<OsString>,
}

impl Default for Setup {
    /// One core, a file store of 512 MiB and one namespace of the cache class.
    fn default() -> Self {
        Self {
            cpumask: "0x1".to_owned(),
            store: Some("file:{store},size=512M,segment=16M".to_owned()),
            namespaces: vec!["tests".to_owned()],
            more: Vec::new(),
        }
    }
}

impl Setup {
    /// The same with another store.
    #[must_use]
    pub fn store(self, store: &str) -> Self {
        Self { store: Some(store.to_owned()), ..self }
    }

    /// The same with one namespace, given as on the command line.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        Self { namespaces: vec![namespace.to_owned()], ..self }
    }

    /// The same on other cores.
    #[must_use]
    pub fn cpumask(self, cpumask: &str) -> Self {
        Self { cpumask: cpumask.to_owned(), ..self }
    }

    /// The same with a further argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.more.push(argument.into());
        self
    }
}

/// How a daemon ended that did not start.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// The files of a daemon, which outlive it.
#[derive(Debug)]
pub struct Home {
    sockets: TempDir,
    data: TempDir,
    place: Place,
    /// Whether no daemon has been started on it yet.
    fresh: AtomicBool,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// Folders of its own. Sockets lie in the folder for temporary files, because their paths must be short; the
    /// store lies in `target`, because temporary files may lie in memory.
    #[must_use]
    pub fn new() -> Self {
        let data = binaries::target().join("e2e");
        std::fs::create_dir_all(&data).unwrap();
        let sockets = tempfile::Builder::new().prefix("kvp").tempdir().unwrap();
        Self {
            place: Place::new(sockets.path().join("v")),
            sockets,
            data: tempfile::Builder::new().prefix("store").tempdir_in(data).unwrap(),
            fresh: AtomicBool::new(true),
        }
    }

    /// The control socket.
    #[must_use]
    pub fn rpc_socket(&self) -> PathBuf {
        self.sockets.path().join("rpc.sock")
    }

    /// The folder of the vfio-user socket, where that is the carrier.
    #[must_use]
    pub fn listen(&self) -> PathBuf {
        self.sockets.path().join("v")
    }

    /// The vfio-user socket.
    #[must_use]
    pub fn controller_socket(&self) -> PathBuf {
        self.listen().join("cntrl")
    }

    /// The store file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.data.path().join("store")
    }

    /// A path for a test's own file.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    /// Another place to listen at, by the same carrier.
    #[must_use]
    pub fn another_place(&self, name: &str) -> Place {
        Place::new(self.sockets.path().join(name))
    }

    fn command(&self, setup: &Setup) -> Command {
        let mut command = Command::new(binaries::kvplaned());
        command.args(["--no-huge", "--idle", "adaptive", "--disable-cpumask-locks", "-m", &setup.cpumask]);
        command.arg("-r").arg(self.rpc_socket());
        if let Some(store) = &setup.store {
            match device::instead_of(store, self.fresh.swap(false, Ordering::Relaxed)) {
                Some(devices) => command.args(devices),
                None => command.arg("--store").arg(store.replace("{store}", self.store().to_str().unwrap())),
            };
        }
        if !setup.namespaces.is_empty() {
            command.args(self.place.options());
        }
        for namespace in &setup.namespaces {
            command.arg("--namespace").arg(namespace);
        }
        command.args(&setup.more).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    /// Runs a daemon that is expected to end by itself.
    ///
    /// # Panics
    /// If it still runs after [`PATIENCE`].
    #[must_use]
    pub fn run_to_end(&self, setup: &Setup) -> Ended {
        let log = self.file("refused.log");
        let mut child = self
            .command(setup)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("kvplaned can be started");
        let status = wait(&mut child);
        let stderr = std::fs::read_to_string(&log).unwrap();
        let Some(status) = status else {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("kvplaned should have refused to start, but runs: {stderr}");
        };
        Ended { code: status.code(), stderr }
    }
}

/// A running daemon. Dropping it kills it; its log is printed if the test failed.
#[derive(Debug)]
pub struct Daemon {
    /// Its files.
    pub home: Home,
    setup: Setup,
    child: Child,
}

impl Daemon {
    /// Starts a daemon and waits until it serves.
    #[must_use]
    pub fn start(setup: Setup) -> Self {
        Self::start_at(Home::new(), setup)
    }

    /// As [`start`](Self::start), with files that are there already.
    ///
    /// # Panics
    /// If it does not start, with its log.
    #[must_use]
    pub fn start_at(home: Home, setup: Setup) -> Self {
        let mut daemon = Self::spawn(home, setup);
        daemon.await_ready();
        daemon
    }

    /// Starts a daemon and waits until its control socket can be reached, which may be before it serves.
    ///
    /// # Panics
    /// If the socket does not come.
    #[must_use]
    pub fn spawn(home: Home, setup: Setup) -> Self {
        let child = launch(&home, &setup);
        let mut daemon = Self { home, setup, child };
        daemon.await_socket();
        daemon
    }

    fn await_socket(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Rpc::connect(&self.home.rpc_socket()).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("kvplaned did not start ({status}):\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "kvplaned opened no control socket:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// If it ends instead, with its log.
    pub fn await_ready(&mut self) {
        let answer = self.connect_rpc().try_call("framework_wait_init", &Value::Null);
        assert!(matches!(answer, Ok(Ok(_))), "kvplaned does not serve ({answer:?}):\n{}", self.log());
    }

    /// Calls a method of the control socket.
    ///
    /// # Panics
    /// If it is answered by an error.
    pub fn rpc(&self, method: &str, params: Value) -> Value {
        self.try_rpc(method, params).unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    /// Calls a method of the control socket.
    ///
    /// # Errors
    /// The error it was answered with.
    pub fn try_rpc(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        self.connect_rpc().call(method, &params)
    }

    /// A connection to the control socket.
    #[must_use]
    pub fn connect_rpc(&self) -> Rpc {
        Rpc::connect(&self.home.rpc_socket()).unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    /// A client of the first namespace, with options as they are by default.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_with(ConnectOptions::default())
    }

    /// A client.
    ///
    /// # Panics
    /// If it cannot connect.
    #[must_use]
    pub fn client_with(&self, options: ConnectOptions) -> Client {
        self.try_client(options).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// A client, if it can connect.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn try_client(&self, options: ConnectOptions) -> Result<Client, kvplane::Error> {
        Client::connect(&self.address(), carrier::introduce(options))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Address {
        self.home.place.address(DEFAULT_NQN)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it with SIGTERM and checks that it ended in order.
    ///
    /// # Panics
    /// If it did not end within [`PATIENCE`], or not with exit code 0.
    pub fn stop(&mut self) {
        signal(self.child.id(), libc::SIGTERM);
        let status = wait(&mut self.child);
        let Some(status) = status else { panic!("kvplaned does not stop on SIGTERM:\n{}", self.log()) };
        assert_eq!(status.code(), Some(0), "kvplaned ended with {status}:\n{}", self.log());
    }

    /// Stops it in order and starts it again on the same files.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill9(&mut self) {
        signal(self.child.id(), libc::SIGKILL);
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it had ended before ({status}):\n{}", self.log());
    }

    /// Waits until it has ended, in whatever way.
    pub fn await_end(&mut self) {
        assert!(wait(&mut self.child).is_some(), "kvplaned does not end:\n{}", self.log());
    }

    /// Starts it after it ended, on the same files, and does not wait until it serves.
    pub fn launch_again(&mut self) {
        self.child = launch(&self.home, &self.setup);
    }

    /// Starts it after it ended, on the same files.
    pub fn start_again(&mut self) {
        self.launch_again();
        self.await_socket();
        self.await_ready();
    }

    /// Starts it after it ended, with another setup on the same files.
    pub fn start_again_with(&mut self, setup: Setup) {
        self.setup = setup;
        self.start_again();
    }

    /// Stops it in order and starts it with another setup on the same files.
    pub fn restart_on(&mut self, setup: Setup) {
        self.stop();
        self.start_again_with(setup);
    }

    /// Ends it with SIGTERM and waits until it has ended, in whatever way: a device that is gone leaves work undone.
    pub fn await_stop(&mut self) {
        signal(self.child.id(), libc::SIGTERM);
        self.await_end();
    }

    /// Gives its files up, which stay, and kills it if it still runs.
    #[must_use]
    pub fn into_home(mut self) -> Home {
        std::mem::take(&mut self.home)
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.home.file("daemon.log")).unwrap_or_default()).into_owned()
    }

    /// How many sessions and regions the cores still hold, as the control socket tells.
    #[must_use]
    pub fn queue_pairs(&self) -> usize {
        let answer = self.rpc("nvmf_subsystem_get_qpairs", json!({ "nqn": DEFAULT_NQN }));
        answer.as_array().expect("a list of queue pairs").len()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of kvplaned {} ----\n{}----", self.child.id(), self.log());
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(home: &Home, setup: &Setup) -> Child {
    let log = File::options().create(true).append(true).open(home.file("daemon.log")).unwrap();
    // What a process that was killed left behind must not pass for the new one's.
    if Path::new(&home.rpc_socket()).exists() && Rpc::connect(&home.rpc_socket()).is_err() {
        std::fs::remove_file(home.rpc_socket()).unwrap();
    }
    let mut command = home.command(setup);
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("kvplaned can be started")
}

/// Waits for a process to end; `None` if it still runs after [`PATIENCE`].
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal to a child that was not waited for yet.
fn signal(pid: u32, signal: i32) {
    crate::memory::send_signal(pid, signal);
}
