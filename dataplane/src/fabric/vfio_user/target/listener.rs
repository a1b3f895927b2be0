//! Accepts clients on `DIR/cntrl`.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::core::raise_descriptor_limit;
use crate::fabric::{Admission, CarrierKind, CorePort, Peer, SessionId};

use super::super::socket::{peer_credentials, shut_down};
use super::connection::{Connection, Terms};
use super::dma::DmaLimits;
use super::orders::CoreCommand;
use crate::fabric::refusals::Refusals;
use crate::memory::SlotAccount;

/// Name of the socket in its folder, as SPDK names it.
pub const SOCKET_NAME: &str = "cntrl";
/// Name of the lock beside it: the socket of a process that died can be told from one in use.
const LOCK_NAME: &str = "cntrl.lock";

/// How long a target that ends waits for its connections' threads. One that a client has managed to block is left
/// behind: it holds nothing but what is that client's, and does its duty whenever it comes free.
const FAREWELL: Duration = Duration::from_secs(30);

/// How a target treats its clients.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    /// Permissions of the socket. Whoever may write to it may connect; who is served, admission decides by user id.
    pub socket_mode: u32,
    /// Clients at once.
    pub max_connections: usize,
    /// Clients at once of one user, so that one user cannot keep the others out.
    pub max_connections_per_uid: usize,
    /// Memory regions of one client. What a client maps is cut into regions of 1 GiB at most if it lies in huge pages,
    /// of 128 MiB at most otherwise; the process has 1,023 for all clients.
    pub max_regions: usize,
    /// Memory regions of all clients of one user together, so that one user cannot take all 1,023 from the others.
    pub max_regions_per_uid: usize,
    /// Bytes of registered memory of one client, which are pinned.
    pub max_bytes: u64,
    /// Entries of the longest queue, 2 to 65,536.
    pub max_queue_entries: u32,
    /// Whether to keep the descriptors of clients' memory, for devices that are processes themselves: one a region.
    pub keep_files: bool,
}

impl Default for TargetOptions {
    fn default() -> Self {
        Self {
            socket_mode: 0o600,
            max_connections: 64,
            max_connections_per_uid: 32,
            max_regions: 256,
            max_regions_per_uid: 768,
            max_bytes: 64 << 30,
            max_queue_entries: 4096,
            keep_files: false,
        }
    }
}

/// Why a target cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens here.
    #[error("{0} is in use by another process; stop it or choose another folder")]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("cannot listen on {path}: {source}; check that the folder exists and is writable")]
    System {
        /// What was to be made.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A connection's socket, to end it from outside, and its thread.
struct Live {
    uid: u32,
    session: SessionId,
    stream: Weak<UnixStream>,
    thread: JoinHandle<()>,
}

impl Live {
    fn hang_up(&self) {
        if let Some(stream) = self.stream.upgrade() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Listens for clients until it is dropped. The cores must still run then: they give up the clients' queues and
/// memory.
pub struct Target {
    path: PathBuf,
    /// A duplicate of what the accepting thread waits on, to end its wait whatever became of the socket's file.
    listener: UnixListener,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    live: Arc<Mutex<Vec<Live>>>,
    /// Held for as long as the target listens.
    _lock: File,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("path", &self.path).field("connections", &self.connections()).finish()
    }
}

fn lock_live(live: &Mutex<Vec<Live>>) -> std::sync::MutexGuard<'_, Vec<Live>> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Target {
    /// Listens on `dir/cntrl`; makes the folder if need be.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn listen(
        dir: &Path,
        options: TargetOptions,
        cores: Arc<dyn CorePort<CoreCommand>>,
        admission: Arc<dyn Admission>,
    ) -> Result<Self, ListenError> {
        let path = dir.join(SOCKET_NAME);
        let failed = |source: io::Error| ListenError::System { path: path.clone(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        // Each client costs some descriptors.
        if let Err(error) = raise_descriptor_limit() {
            warn!(%error, "the limit on open files stays where it is");
        }
        let lock =
            File::options().create(true).truncate(false).write(true).open(dir.join(LOCK_NAME)).map_err(failed)?;
        if lock.try_lock().is_err() {
            return Err(ListenError::InUse(path));
        }
        // Nobody holds the lock, so a socket that is there belongs to nobody.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let to_stop = listener.try_clone().map_err(failed)?;
        fs::set_permissions(&path, Permissions::from_mode(options.socket_mode)).map_err(failed)?;
        let (stop, live) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let door = Door {
            listener,
            name: dir.display().to_string(),
            options,
            cores,
            admission,
            stop: Arc::clone(&stop),
            live: Arc::clone(&live),
        };
        let accepting =
            std::thread::Builder::new().name("vfio-user-accept".into()).spawn(move || door.accept()).map_err(failed)?;
        info!(path = %path.display(), "vfio-user target listens");
        Ok(Self { path, listener: to_stop, stop, accepting: Some(accepting), live, _lock: lock })
    }

    /// Clients connected now.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock_live(&self.live).iter().filter(|live| !live.thread.is_finished()).count()
    }

    /// Disconnects the client of a session, if it came in here. Does not wait: its memory and queues go as if it had
    /// left by itself.
    pub fn close_session(&self, session: SessionId) {
        for connection in lock_live(&self.live).iter().filter(|connection| connection.session == session) {
            connection.hang_up();
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread, which then sees that it is to stop.
        shut_down(&self.listener);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let live = std::mem::take(&mut *lock_live(&self.live));
        live.iter().for_each(Live::hang_up);
        let deadline = Instant::now() + FAREWELL;
        for connection in live {
            while !connection.thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if connection.thread.is_finished() {
                let _ = connection.thread.join();
            } else {
                warn!(session = connection.session.0, "a vfio-user client's thread does not end; leaving it behind");
            }
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// What the accepting thread needs.
struct Door {
    listener: UnixListener,
    name: String,
    options: TargetOptions,
    cores: Arc<dyn CorePort<CoreCommand>>,
    admission: Arc<dyn Admission>,
    stop: Arc<AtomicBool>,
    live: Arc<Mutex<Vec<Live>>>,
}

impl Door {
    fn accept(self) {
        let mut next = 0u64;
        let mut refusals = Refusals::new(Instant::now());
        loop {
            let accepted = self.listener.accept();
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            match accepted {
                Ok((stream, _)) => {
                    next += 1;
                    if let Err(error) = self.admit(stream, next)
                        && let Some(unlogged) = refusals.log(Instant::now())
                    {
                        warn!(listener = %self.name, %error, unlogged, "vfio-user client turned away");
                    }
                }
                Err(error) => {
                    warn!(listener = %self.name, %error, "cannot accept; trying again");
                    // Out of descriptors, most likely: they come back when a client leaves.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream, number: u64) -> io::Result<()> {
        let mut live = lock_live(&self.live);
        for done in live.extract_if(.., |live| live.thread.is_finished()) {
            let _ = done.thread.join();
        }
        if live.len() >= self.options.max_connections {
            return Err(io::Error::other(format!("{} clients are connected, as many as may be", live.len())));
        }
        let credentials = peer_credentials(&stream)?;
        let of_user = live.iter().filter(|live| live.uid == credentials.uid).count();
        if of_user >= self.options.max_connections_per_uid {
            let message = format!("user {} has {of_user} clients connected, as many as a user may", credentials.uid);
            return Err(io::Error::other(message));
        }
        let peer = Peer {
            carrier: CarrierKind::VfioUser,
            listener: self.name.clone(),
            subsystem_nqn: None,
            host_nqn: None,
            host_id: None,
            address: None,
            uid: Some(credentials.uid),
            pid: Some(credentials.pid),
        };
        let session = self.admission.open(&peer).map_err(io::Error::other)?;
        info!(listener = %self.name, uid = credentials.uid, pid = credentials.pid, session = session.id().0, "vfio-user client connected");
        let terms = Terms {
            cores: Arc::clone(&self.cores),
            max_queue_entries: self.options.max_queue_entries,
            dma: DmaLimits {
                keep_files: self.options.keep_files,
                regions: self.options.max_regions,
                account: SlotAccount { uid: credentials.uid, most: self.options.max_regions_per_uid },
                bytes: self.options.max_bytes,
            },
            stop: Arc::clone(&self.stop),
        };
        let id = session.id();
        let stream = Arc::new(stream);
        let own = Arc::downgrade(&stream);
        let connection = Connection::new(stream, session, terms)?;
        let thread = std::thread::Builder::new().name(format!("vfio-user-{number}")).spawn(move || connection.run())?;
        live.push(Live { uid: credentials.uid, session: id, stream: own, thread });
        Ok(())
    }
}
