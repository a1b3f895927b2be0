//! What control threads ask of a core's end, and what both know of a host.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use super::staging::StagingMap;
use crate::fabric::SessionId;
use crate::fabric::rdma::target::RdmaOrder;
use crate::fabric::tcp::target::NewTcpQueue;

/// What a core and the control thread of a host tell each other besides orders.
#[derive(Debug, Default)]
pub struct HostLink {
    host: Arc<str>,
    lost: AtomicBool,
    /// Counts the times that all I/O queues were ended.
    epoch: AtomicU32,
    /// I/O queues that the host ended by itself, one bit each.
    ended: AtomicU64,
}

impl HostLink {
    /// Of the host with this NQN.
    #[must_use]
    pub fn of(host: &str) -> Self {
        Self { host: host.into(), ..Self::default() }
    }

    /// The host's NQN, by which cores know what is one host's, over all of its sessions.
    #[must_use]
    pub fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// The host broke the protocol or is gone: its controller is to end.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.begin_epoch();
    }

    /// All I/O queues are about to be ended: one that is on its way to its core since before is not to stay there.
    pub fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Which epoch this is.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The host ended an I/O queue by itself, with Disconnect or by closing its connection. It may connect it again.
    pub fn end_queue(&self, qid: u16) {
        self.ended.fetch_or(1 << (qid.saturating_sub(1) % 64), Ordering::AcqRel);
    }

    /// The I/O queues that ended so since the last call.
    pub fn take_ended(&self) -> impl Iterator<Item = u16> + use<> {
        let ended = self.ended.swap(0, Ordering::AcqRel);
        (0..64).filter(move |bit| ended & (1 << bit) != 0).map(|bit| bit + 1)
    }

    /// Whether the controller is to end.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

/// Why a core could not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The core has no staging memory yet.
    #[error("the core has no staging memory")]
    NotOpen,
    /// The core's tables are full.
    #[error("the core serves as many connections or commands as it can; connect with fewer or shorter queues")]
    NoRoom,
    /// There are queues on the device.
    #[error("the core has queues on the device")]
    InUse,
    /// The device's queue refused the staging memory.
    #[error("the device refused the staging memory: {0}")]
    Attach(String),
    /// The system refused.
    #[error("{0}")]
    System(String),
}

/// Where a core answers.
pub type Answer = SyncSender<Result<(), CoreError>>;

/// What is asked of a core's end. `T` is what carries TCP: a socket, but for the simulator.
#[derive(Debug)]
pub enum CoreCommand<T = TcpStream> {
    /// Take staging memory into use, of every core. Once.
    Open(StagingMap, Answer),
    /// Serve an I/O queue over TCP.
    TakeTcp(Box<NewTcpQueue<T>>, Answer),
    /// Something about queues over RDMA.
    Rdma(RdmaOrder),
    /// End every connection of a session; answered when none is left.
    CloseSession(SessionId, Answer),
    /// Look for peers that have done nothing since the last time although it was their turn, and end them.
    Sweep,
}
