//! The connections of a listener that have a thread each: how many there may be, and whose.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Admin queues at once.
const MAX_ADMIN: usize = 512;
/// Connections at once that have not been let in yet: of all peers, and of one address, so that a stranger leaves the door
/// open for others.
const MAX_STRANGERS: (usize, usize) = (512, 64);

/// A connection and the thread that has it.
pub(crate) struct Caller<T> {
    peer: IpAddr,
    /// Whether Connect let it in.
    admitted: Arc<AtomicBool>,
    pub thread: JoinHandle<()>,
    /// What the carrier keeps of it.
    pub held: T,
}

/// Why there is no room for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Crowded {
    #[error("{all} connections have not been let in yet, {of_peer} of its address")]
    Strangers { all: usize, of_peer: usize },
    #[error("{MAX_ADMIN} hosts are connected, as many as may be")]
    Hosts,
}

/// The connections of a listener.
pub(crate) struct Callers<T = ()> {
    live: Vec<Caller<T>>,
}

impl<T> Default for Callers<T> {
    fn default() -> Self {
        Self { live: Vec::new() }
    }
}

impl<T> Callers<T> {
    /// Joins the threads that have ended.
    pub fn join_ended(&mut self) {
        for done in self.live.extract_if(.., |live| live.thread.is_finished()) {
            let _ = done.thread.join();
        }
    }

    /// Whether one more of this address may come in.
    pub fn check_room(&self, peer: IpAddr) -> Result<(), Crowded> {
        let strangers = || self.live.iter().filter(|live| !live.admitted.load(Ordering::Acquire));
        let (all, of_peer) = (strangers().count(), strangers().filter(|live| live.peer == peer).count());
        if all >= MAX_STRANGERS.0 || of_peer >= MAX_STRANGERS.1 {
            return Err(Crowded::Strangers { all, of_peer });
        }
        if self.live.len() - all >= MAX_ADMIN { Err(Crowded::Hosts) } else { Ok(()) }
    }

    /// Takes one in, whose thread sets `admitted` when Connect has let it in.
    pub fn add(&mut self, peer: IpAddr, admitted: Arc<AtomicBool>, thread: JoinHandle<()>, held: T) {
        self.live.push(Caller { peer, admitted, thread, held });
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// All of them, which are forgotten.
    pub fn take(&mut self) -> Vec<Caller<T>> {
        std::mem::take(&mut self.live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_of_one_address_leave_room_for_others_and_hosts_count_apart() {
        let (stop, mut callers) = (Arc::new(AtomicBool::new(false)), Callers::default());
        let come = |callers: &mut Callers, last: u8, admitted| {
            let peer = IpAddr::from([192, 0, 2, last]);
            callers.check_room(peer)?;
            let until = Arc::clone(&stop);
            let wait = move || {
                while !until.load(Ordering::Acquire) {
                    std::thread::park();
                }
            };
            callers.add(peer, Arc::new(AtomicBool::new(admitted)), std::thread::spawn(wait), ());
            Ok(())
        };
        for _ in 0..MAX_STRANGERS.1 {
            come(&mut callers, 1, false).unwrap();
        }
        assert_eq!(come(&mut callers, 1, false), Err(Crowded::Strangers { all: 64, of_peer: 64 }));
        // A host that was let in is no stranger; and others still may come.
        come(&mut callers, 2, true).unwrap();
        come(&mut callers, 2, false).unwrap();
        stop.store(true, Ordering::Release);
        for live in callers.take() {
            live.thread.thread().unpark();
            live.thread.join().unwrap();
        }
        assert!(callers.is_empty());
    }
}
