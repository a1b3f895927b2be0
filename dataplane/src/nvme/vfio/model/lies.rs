//! How a model misbehaves.

use crate::nvme::spec::Status;

/// What is wrong with one I/O command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is fetched, and never heard of again until it is aborted.
    Lose,
    /// It is not carried out, and ends with this status.
    Status(Status),
    /// It is not carried out; it ends with this status, and then once more as if all were well.
    StatusAndSuccess(Status),
    /// It is carried out; its completion has the phase of the ring's last round.
    WrongPhase,
    /// It is carried out; its completion names another command, by an identifier that differs in this bit.
    WrongCid(u8),
    /// It is carried out; its completion names another submission queue.
    WrongQueue,
    /// It is carried out, and completed twice.
    Twice,
}

/// What is wrong with the controller, until told otherwise.
#[derive(Clone, Debug, Default)]
pub struct Lies {
    /// Never becomes ready.
    pub never_ready: bool,
    /// Becomes ready never, and fatal at once.
    pub fatal_on_enable: bool,
    /// Stays ready when disabled, until the function is reset.
    pub never_stops: bool,
    /// Stays ready even when the function is reset.
    pub survives_function_reset: bool,
    /// Its bus mastering cannot be turned off.
    pub keeps_bus_master: bool,
    /// Memory that it was shown cannot be taken away.
    pub keeps_mappings: bool,
    /// Says that it granted this many I/O queues, zero-based, whatever was asked for.
    pub granted: Option<u16>,
    /// Refuses to make this I/O queue.
    pub refused_queue: Option<(u16, Status)>,
    /// Does not answer admin commands of these opcodes.
    pub unanswered: Vec<u8>,
    /// Identify of this namespace ends with this status.
    pub refused_namespace: Option<(u32, Status)>,
    /// Refuses Doorbell Buffer Config, though it says that it takes it.
    pub refuses_shadows: bool,
    /// Carries admin commands of these opcodes out, and does not say so.
    pub mute: Vec<u8>,
    /// The same, for the next command of each opcode only.
    pub mute_once: Vec<u8>,
    /// Ends admin commands of these opcodes so.
    pub refused: Vec<(u8, Status)>,
    /// Says of every Abort that it did not abort.
    pub aborts_nothing: bool,
    /// How an aborted command ends, if not with "abort requested".
    pub abort_status: Option<Status>,
    /// Puts these bytes at these offsets of Identify Controller.
    pub controller: Vec<(usize, Vec<u8>)>,
    /// Puts these bytes at these offsets of Identify Namespace.
    pub namespace: Vec<(usize, Vec<u8>)>,
    /// Puts these bytes at these offsets of the list of active namespaces.
    pub namespace_list: Vec<(usize, Vec<u8>)>,
    /// CRTO, which CAP then says that there is.
    pub ready_timeouts: Option<u32>,
    /// CAP in place of the true one.
    pub capabilities: Option<u64>,
}

/// Puts lies into a structure. What lies beyond its end is left out.
pub(super) fn apply(lies: &[(usize, Vec<u8>)], data: &mut [u8]) {
    for (at, bytes) in lies {
        if let Some(target) = data.get_mut(*at..at.saturating_add(bytes.len())) {
            target.copy_from_slice(bytes);
        }
    }
}
