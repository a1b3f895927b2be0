//! Accepts NVMe/TCP connections, each on a thread of its own until it has found its place.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::super::socket::shut_down;
use super::channel::TcpChannel;
use crate::core::raise_descriptor_limit;
use crate::fabric::message::callers::Callers;
use crate::fabric::message::{Door, Hosts, OpenError};
use crate::fabric::refusals::{Refusals, may_log};

/// How long a target that ends waits for its connections' threads.
const FAREWELL: Duration = Duration::from_secs(30);

/// Why a target cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The operating system refused.
    #[error("cannot listen on tcp://{address}: {source}; is the address one of this machine's, and the port free?")]
    System {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The cores could not be prepared.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Connections by their streams, which are gone when the thread is done with one, or a core has it.
type Live = Callers<Weak<TcpStream>>;

/// Listens for hosts until it is dropped. Their admin queues end with it, and so do their I/O queues. The cores must still
/// run then.
pub struct TcpTarget {
    address: SocketAddr,
    /// A duplicate of what the accepting thread waits on, to end its wait.
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    live: Arc<Mutex<Live>>,
}

impl std::fmt::Debug for TcpTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpTarget").field("address", &self.address).finish_non_exhaustive()
    }
}

fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TcpTarget {
    /// Listens at an address. With port 0 the system chooses one.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn listen(address: SocketAddr, hosts: &Hosts) -> Result<Self, ListenError> {
        let failed = |source: io::Error| ListenError::System { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        hosts.open()?;
        if let Err(error) = raise_descriptor_limit() {
            warn!(%error, "the limit on open files stays where it is");
        }
        let to_stop = listener.try_clone().map_err(failed)?;
        let (stop, live) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Live::default())));
        let refusals = Arc::new(Mutex::new(Refusals::new(Instant::now())));
        let accept =
            Accept { listener, hosts: hosts.clone(), stop: Arc::clone(&stop), live: Arc::clone(&live), refusals };
        let accepting =
            std::thread::Builder::new().name("nvme-tcp-accept".into()).spawn(move || accept.run()).map_err(failed)?;
        info!(%address, "NVMe/TCP target listens");
        Ok(Self { address, listener: to_stop, stop, accepting: Some(accepting), live })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpTarget {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread, which then sees that it is to stop.
        shut_down(&self.listener);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let live = lock(&self.live).take();
        for stream in live.iter().filter_map(|connection| connection.held.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let deadline = Instant::now() + FAREWELL;
        for connection in live {
            while !connection.thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if connection.thread.is_finished() {
                let _ = connection.thread.join();
            } else {
                warn!(address = %self.address, "an NVMe/TCP connection's thread does not end; leaving it behind");
            }
        }
    }
}

/// What the accepting thread needs.
struct Accept {
    listener: TcpListener,
    hosts: Hosts,
    stop: Arc<AtomicBool>,
    live: Arc<Mutex<Live>>,
    refusals: Arc<Mutex<Refusals>>,
}

impl Accept {
    fn run(self) {
        loop {
            let accepted = self.listener.accept();
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            match accepted {
                Ok((stream, peer)) => {
                    if let Err(error) = self.admit(stream, peer)
                        && let Some(unlogged) = may_log(&self.refusals)
                    {
                        warn!(%peer, %error, unlogged, "an NVMe/TCP connection was turned away");
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept; trying again");
                    // Out of descriptors, most likely: they come back when a host leaves.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let mut live = lock(&self.live);
        live.join_ended();
        live.make_room(peer.ip()).map_err(io::Error::other)?;
        // The address that the host reached: with a wildcard the listener has many.
        let listener = stream.local_addr()?.to_string();
        let held = Arc::new(stream.try_clone()?);
        let (to_end, standing) = (Arc::downgrade(&held), Arc::default());
        let options = *self.hosts.options();
        let channel = TcpChannel::new(stream, options.in_capsule_bytes, options.max_transfer_bytes)?;
        let door = Door {
            hosts: self.hosts.clone(),
            listener,
            stop: Arc::clone(&self.stop),
            standing: Arc::clone(&standing),
            refusals: Arc::clone(&self.refusals),
        };
        let serve = move || {
            door.serve(channel);
            drop(held);
        };
        let thread = std::thread::Builder::new().name("nvme-tcp-host".into()).spawn(serve)?;
        live.add(peer.ip(), standing, thread, to_end);
        Ok(())
    }
}
