//! What can go wrong.

use dataplane::nvme::spec::Status;

use crate::OutOfRange;

/// Why a call or a command failed. A miss is no error: it has outcomes of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be used.
    #[error("address \"{text}\": {reason}")]
    Address {
        /// The address as it was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option has a value out of its range.
    #[error("option {option}: {reason}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection could not be made.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not, and what to do about it.
        reason: String,
    },
    /// The namespace is not attached to this host.
    #[error("namespace {wanted} is not attached to this host; attached: {attached:?}")]
    Namespace {
        /// The namespace asked for.
        wanted: u32,
        /// Those that are attached.
        attached: Vec<u32>,
    },
    /// Memory could not be allocated or registered.
    #[error("cannot register {bytes} bytes with the target: {reason}")]
    Register {
        /// How much.
        bytes: usize,
        /// Why not.
        reason: String,
    },
    /// The memory cannot be unregistered yet.
    #[error("{commands} commands in flight use the memory; poll for their completions first")]
    MemoryBusy {
        /// How many commands.
        commands: u32,
    },
    /// The memory belongs to another client, or was unregistered before.
    #[error("the memory is not registered with this client")]
    UnknownMemory,
    /// A range lies outside its memory.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// The target answered with a status that is neither success nor a miss.
    #[error("the target answered: {0}")]
    Status(Status),
    /// The bytes that came back do not match the checksum that was stored with them. They were not handed out.
    #[error("the value does not match its checksum ({expected:#010x} stored, {found:#010x} found); treat it as a miss")]
    Corrupt {
        /// The low 32 bits of the CRC-64/NVME that the target kept.
        expected: u32,
        /// Those of the bytes that came.
        found: u32,
    },
    /// The target went away. See [`Client::reconnect`](crate::Client::reconnect).
    #[error("the target has gone; the command may or may not have been carried out")]
    Disconnected,
    /// The target did not answer within [`ConnectOptions::deadline`](crate::ConnectOptions::deadline). The
    /// connection is given up with it, because the target may still touch the command's buffer.
    #[error("the target did not answer within the deadline; the connection was given up")]
    TimedOut,
    /// The target answered something that cannot be right.
    #[error("the target broke the protocol: {0}")]
    Protocol(&'static str),
    /// The command was not taken, for instance for a value above the namespace's maximum.
    #[error("{0}")]
    Submit(#[from] SubmitError),
}

/// Why a command was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The queue of the key's owner core is full: poll, then submit again.
    #[error("the queue of the key's owner is full; poll for completions first")]
    QueueFull,
    /// Every scratch place for lists of keys is in use: poll, or put the keys into a buffer of your own.
    #[error("all scratch places for lists of keys are in use; poll for completions first")]
    ListsFull,
    /// The buffer belongs to another client, or to memory that was unregistered.
    #[error("the buffer does not belong to memory that this client registered")]
    UnknownBuffer,
    /// The value is longer than the namespace takes.
    #[error("{bytes} bytes are more than the {max} that one value of this namespace may have")]
    ValueTooLong {
        /// Length asked for, in bytes.
        bytes: u32,
        /// The namespace's maximum, in bytes.
        max: u32,
    },
    /// The client compares checksums, or reads a list of keys, and this is memory of a device, which it cannot see.
    #[error("checksums and lists of keys need memory that this process can read, and this is a device's")]
    DeviceMemory,
    /// A list is empty, is not a multiple of 16 bytes, or has more than 4,096 keys.
    #[error("a list must hold 1 to 4096 keys of 16 bytes")]
    BadList,
    /// A Store both with `must_exist` and with `must_not_exist`.
    #[error("a key cannot have to exist and not to exist at once")]
    Contradiction,
    /// There is no connection. See [`Client::reconnect`](crate::Client::reconnect).
    #[error("not connected; reconnect first")]
    Disconnected,
}
