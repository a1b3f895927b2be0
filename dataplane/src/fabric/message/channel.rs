//! What the control side asks of a connection: capsules in, responses out, waiting as long as need be.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::orders::{Answer, CoreCommand, HostLink};
use crate::fabric::{CarrierKind, SessionId};
use crate::nvme::spec::{Cqe, Sqe};

/// A command with the data that came along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminCapsule {
    /// The command.
    pub sqe: Sqe,
    /// In-capsule data.
    pub data: Vec<u8>,
}

/// An I/O queue as Connect asked for it.
#[derive(Clone, Debug)]
pub struct QueueTerms {
    /// Whose it is.
    pub session: SessionId,
    /// Its identifier, from 1.
    pub qid: u16,
    /// Its entries.
    pub entries: u32,
    /// The most bytes that a command may move.
    pub max_transfer_bytes: u32,
    /// What its core tells the host's control thread by.
    pub link: Arc<HostLink>,
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The host has left.
    #[error("the host closed the connection")]
    Closed,
    /// The host did not follow the protocol.
    #[error("the host broke the protocol: {0}")]
    Protocol(String),
    /// The host did not go on with what it began.
    #[error("the host did not go on within {0:?}")]
    Stuck(Duration),
    /// The system said so.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A connection on the control side: that of an admin queue, or of an I/O queue until its core has it.
pub trait Channel: Send {
    /// What carries it.
    fn carrier(&self) -> CarrierKind;

    /// Where the host is.
    fn peer(&self) -> Option<SocketAddr>;

    /// The most bytes that one command may move over this carrier.
    fn max_transfer_bytes(&self) -> u32;

    /// Waits for a command, `wait` at most. `None` if there was none.
    ///
    /// # Errors
    /// If the connection is at its end.
    fn receive(&mut self, wait: Duration) -> Result<Option<AdminCapsule>, ChannelError>;

    /// Answers a command: with data, which goes where the command says (as much as it has room for, which was checked),
    /// and with its completion.
    ///
    /// # Errors
    /// If the connection is at its end.
    fn respond(&mut self, command: &Sqe, data: &[u8], completion: Cqe) -> Result<(), ChannelError>;

    /// Ends the connection, also where a core has it already. One whose core learns by itself that an answer could not be
    /// sent need do nothing.
    fn hang_up(&mut self) {}

    /// The order with which a core takes the connection over as an I/O queue. Afterwards only the answer to Connect is
    /// sent from here.
    ///
    /// # Errors
    /// What the system says.
    fn hand_over(&mut self, terms: QueueTerms, answer: Answer) -> io::Result<CoreCommand>;
}
