//! Stage 1: what does the command ask for? Reads the 64 bytes and nothing else.

use dataplane::core::Ticks;
use dataplane::fabric::{Completion, Permit, SessionId};
use dataplane::nvme::spec::kv::{self, Key, KeyFields, StoreOptions};
use dataplane::nvme::spec::{Sqe, Status, vendor};

use crate::lines::{CapsuleBurst, Lanes, Lines};

/// Who asked, for what, and when. Travels with a command through every stage and ends as an [`Ended`].
#[derive(Debug)]
#[must_use = "every accepted command must be completed"]
pub struct Origin {
    pub(crate) permit: Permit,
    pub(crate) session: SessionId,
    pub(crate) kind: OperationKind,
    pub(crate) received: Ticks,
}

/// A command that has its answer and only needs to be told to the client.
#[derive(Debug)]
#[must_use = "every accepted command must be completed"]
pub struct Ended {
    pub(crate) origin: Origin,
    pub(crate) completion: Completion,
    pub(crate) value_bytes: u32,
}

impl Origin {
    /// Takes it out of a command that is given up where it lies.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        Self { permit: self.permit.take(), session: self.session, kind: self.kind, received: self.received }
    }

    /// Ends the command with a completion that moved no value.
    #[inline]
    pub fn end(self, completion: Completion) -> Ended {
        Ended { origin: self, completion, value_bytes: 0 }
    }

    /// Ends the command without success.
    #[inline]
    pub fn fail(self, status: Status) -> Ended {
        self.end(Completion::failed(status))
    }
}

/// What a command asks for, with its fields checked for themselves (not yet against any policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write a value.
    Store(StoreRequest),
    /// Read a value into at most `buffer_bytes`.
    Retrieve {
        /// Which block.
        key: WireKey,
        /// Room at the client, in bytes.
        buffer_bytes: u32,
    },
    /// Is there a value?
    Exist {
        /// Which block.
        key: WireKey,
    },
    /// Remove a value.
    Delete {
        /// Which block.
        key: WireKey,
    },
    /// The keys of the namespace.
    List {
        /// The key to begin at; `None` for the first.
        start: Option<WireKey>,
        /// Room at the client, in bytes.
        buffer_bytes: u32,
    },
    /// How many leading keys of a list are present.
    LookupPrefix {
        /// Keys in the list.
        keys: u32,
        /// Hold the keys found for that many milliseconds.
        lease_ms: Option<u32>,
    },
    /// State of each key of a list.
    LookupState {
        /// Keys in the list.
        keys: u32,
    },
    /// Give a lease back.
    Release {
        /// The lease.
        lease: u32,
    },
    /// What the engine expects to do.
    Hint {
        /// What kind of hint.
        kind: vendor::HintKind,
        /// Keys in the list.
        keys: u32,
        /// Its argument.
        argument: u32,
    },
    /// Flush: nothing to do, because no acknowledgement here depends on a volatile cache.
    Flush,
}

/// A key and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireKey {
    /// The key, padded with zeros.
    pub key: Key,
    /// Its length in bytes, 1 to 16.
    pub length: u8,
}

/// The fields of a Store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreRequest {
    /// Which block.
    pub key: WireKey,
    /// Length of the value in bytes.
    pub bytes: u32,
    /// Conditions on what is there already.
    pub options: StoreOptions,
    /// The client's checksum, 0 for none.
    pub checksum: u64,
    /// Link to the chain's parent, 0 for none.
    pub parent: u64,
}

/// The kinds of operations that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OperationKind {
    /// Store.
    Store,
    /// Retrieve.
    Retrieve,
    /// Exist.
    Exist,
    /// Delete.
    Delete,
    /// List.
    List,
    /// Lookup Prefix.
    LookupPrefix,
    /// Lookup State.
    LookupState,
    /// Release.
    Release,
    /// Hint.
    Hint,
    /// Anything else, and what could not be classified.
    Other,
}

impl OperationKind {
    /// Every kind, in order.
    pub const ALL: [Self; 10] = [
        Self::Store,
        Self::Retrieve,
        Self::Exist,
        Self::Delete,
        Self::List,
        Self::LookupPrefix,
        Self::LookupState,
        Self::Release,
        Self::Hint,
        Self::Other,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Retrieve => "retrieve",
            Self::Exist => "exist",
            Self::Delete => "delete",
            Self::List => "list",
            Self::LookupPrefix => "lookup_prefix",
            Self::LookupState => "lookup_state",
            Self::Release => "release",
            Self::Hint => "hint",
            Self::Other => "other",
        }
    }

    /// Whether it changes what is stored.
    #[inline]
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Store | Self::Delete)
    }
}

impl Operation {
    /// Its kind.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> OperationKind {
        match self {
            Self::Store(_) => OperationKind::Store,
            Self::Retrieve { .. } => OperationKind::Retrieve,
            Self::Exist { .. } => OperationKind::Exist,
            Self::Delete { .. } => OperationKind::Delete,
            Self::List { .. } => OperationKind::List,
            Self::LookupPrefix { .. } => OperationKind::LookupPrefix,
            Self::LookupState { .. } => OperationKind::LookupState,
            Self::Release { .. } => OperationKind::Release,
            Self::Hint { .. } => OperationKind::Hint,
            Self::Flush => OperationKind::Other,
        }
    }
}

/// A burst of commands that are understood, those that could not be among the ended. Made only here.
#[derive(Debug)]
pub struct ClassifiedBurst(Box<Lines>);

impl ClassifiedBurst {
    #[inline]
    pub(crate) fn into_lines(self) -> Box<Lines> {
        self.0
    }
}

/// Classifies a burst that was received at `now`. What cannot be understood ends with the status that says why.
#[inline]
#[must_use]
pub fn classify(now: Ticks, burst: CapsuleBurst) -> ClassifiedBurst {
    let mut lines = burst.into_lines();
    lines.open = Lanes::first(lines.capsules.len());
    for lane in lines.open {
        lines.notes[lane].received = now;
        match decode(&lines.capsules[lane].sqe) {
            Ok(operation) => lines.notes[lane].kind = operation.kind(),
            Err(status) => {
                lines.notes[lane].kind = OperationKind::Other;
                lines.end(lane, Completion::failed(status));
            }
        }
    }
    ClassifiedBurst(lines)
}

/// What a command asks for. Classification asks whether it can be understood; later stages read the fields anew from
/// the command, which costs less than to carry them along.
#[inline]
pub(crate) fn decode(sqe: &Sqe) -> Result<Operation, Status> {
    if sqe.fuse() != 0 {
        return Err(Status::INVALID_FIELD);
    }
    match sqe.opcode() {
        kv::opcode::EXIST => Ok(Operation::Exist { key: key_of(sqe)? }),
        kv::opcode::RETRIEVE => decode_retrieve(sqe),
        kv::opcode::STORE => decode_store(sqe),
        kv::opcode::DELETE => Ok(Operation::Delete { key: key_of(sqe)? }),
        kv::opcode::LIST => decode_list(sqe),
        vendor::opcode::LOOKUP_PREFIX => decode_lookup_prefix(sqe),
        vendor::opcode::LOOKUP_STATE => Ok(Operation::LookupState { keys: keys_of(sqe)? }),
        vendor::opcode::RELEASE => Ok(Operation::Release { lease: sqe.dword(10) }),
        vendor::opcode::HINT => decode_hint(sqe),
        0x00 => Ok(Operation::Flush),
        _ => Err(Status::INVALID_OPCODE),
    }
}

#[inline]
pub(crate) fn key_of(sqe: &Sqe) -> Result<WireKey, Status> {
    let length = sqe.key_length();
    let key = Key::from_wire(sqe.key_bytes(), length).ok_or(Status::INVALID_KEY_SIZE)?;
    Ok(WireKey { key, length })
}

#[inline]
fn decode_retrieve(sqe: &Sqe) -> Result<Operation, Status> {
    // Bit 0 asks for the raw value; values are never compressed, so it always is.
    if sqe.options() & !1 != 0 {
        return Err(Status::INVALID_FIELD);
    }
    Ok(Operation::Retrieve { key: key_of(sqe)?, buffer_bytes: sqe.buffer_bytes() })
}

#[inline]
fn decode_store(sqe: &Sqe) -> Result<Operation, Status> {
    let options = kv::store_options(sqe.options()).ok_or(Status::INVALID_FIELD)?;
    let extras = sqe.dword(11);
    let checksum = if extras & vendor::STORE_HAS_CHECKSUM != 0 { sqe.quadword(12) } else { 0 };
    let parent = if extras & vendor::STORE_HAS_PARENT != 0 { sqe.quadword(4) } else { 0 };
    let bytes = sqe.buffer_bytes();
    if bytes == 0 {
        return Err(Status::INVALID_VALUE_SIZE);
    }
    Ok(Operation::Store(StoreRequest { key: key_of(sqe)?, bytes, options, checksum, parent }))
}

fn decode_list(sqe: &Sqe) -> Result<Operation, Status> {
    let start = if sqe.key_length() == 0 { None } else { Some(key_of(sqe)?) };
    if sqe.buffer_bytes() < 4 {
        return Err(Status::INVALID_FIELD);
    }
    Ok(Operation::List { start, buffer_bytes: sqe.buffer_bytes() })
}

fn keys_of(sqe: &Sqe) -> Result<u32, Status> {
    let bytes = sqe.buffer_bytes();
    let keys = bytes / vendor::LIST_ENTRY_BYTES;
    if bytes == 0 || !bytes.is_multiple_of(vendor::LIST_ENTRY_BYTES) || keys > vendor::MAX_LIST_KEYS {
        return Err(Status::INVALID_FIELD);
    }
    Ok(keys)
}

fn decode_lookup_prefix(sqe: &Sqe) -> Result<Operation, Status> {
    let wanted = sqe.dword(11) & vendor::LOOKUP_TAKE_LEASE != 0;
    let lease_ms = wanted.then(|| sqe.dword(12));
    if lease_ms == Some(0) {
        return Err(Status::INVALID_FIELD);
    }
    Ok(Operation::LookupPrefix { keys: keys_of(sqe)?, lease_ms })
}

fn decode_hint(sqe: &Sqe) -> Result<Operation, Status> {
    let kind = vendor::HintKind::from_bits(sqe.dword(11) as u8).ok_or(Status::INVALID_FIELD)?;
    Ok(Operation::Hint { kind, keys: keys_of(sqe)?, argument: sqe.dword(12) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_key(opcode: u8, length: usize) -> Sqe {
        let mut sqe = Sqe::new(opcode, 1);
        sqe.set_key(&[7; 16][..length]);
        sqe
    }

    #[test]
    fn every_command_of_the_language_is_understood() {
        let mut store = with_key(kv::opcode::STORE, 16);
        store.set_dword(10, 4096);
        store.set_dword(11, store.dword(11) | vendor::STORE_HAS_CHECKSUM | vendor::STORE_HAS_PARENT | (0b10 << 8));
        store.set_quadword(12, 0xC0FFEE);
        store.set_quadword(4, 0xFA7E);
        let Ok(Operation::Store(request)) = decode(&store) else { panic!("not a store") };
        assert_eq!((request.bytes, request.checksum, request.parent), (4096, 0xC0FFEE, 0xFA7E));
        assert!(request.options.must_not_exist);

        assert!(matches!(decode(&with_key(kv::opcode::EXIST, 3)), Ok(Operation::Exist { key }) if key.length == 3));
        let mut lookup = Sqe::new(vendor::opcode::LOOKUP_PREFIX, 1);
        lookup.set_dword(10, 64);
        lookup.set_dword(11, vendor::LOOKUP_TAKE_LEASE);
        lookup.set_dword(12, 500);
        assert_eq!(decode(&lookup), Ok(Operation::LookupPrefix { keys: 4, lease_ms: Some(500) }));
    }

    #[test]
    fn what_is_not_valid_is_named() {
        assert_eq!(decode(&Sqe::new(0x77, 1)), Err(Status::INVALID_OPCODE));
        assert_eq!(decode(&with_key(kv::opcode::EXIST, 0)), Err(Status::INVALID_KEY_SIZE));
        assert_eq!(decode(&with_key(kv::opcode::STORE, 16)), Err(Status::INVALID_VALUE_SIZE));
        let mut long = Sqe::new(vendor::opcode::LOOKUP_STATE, 1);
        long.set_dword(10, (vendor::MAX_LIST_KEYS + 1) * 16);
        assert_eq!(decode(&long), Err(Status::INVALID_FIELD));
        let mut ragged = Sqe::new(vendor::opcode::LOOKUP_STATE, 1);
        ragged.set_dword(10, 17);
        assert_eq!(decode(&ragged), Err(Status::INVALID_FIELD));
        let mut fused = with_key(kv::opcode::EXIST, 16);
        fused.set_dword(0, fused.dword(0) | 1 << 8);
        assert_eq!(decode(&fused), Err(Status::INVALID_FIELD));
    }
}
