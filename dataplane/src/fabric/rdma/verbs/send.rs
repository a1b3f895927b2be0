//! Lists of work requests for a send queue.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use super::abi::{self, send_flags, wr_opcode};
use super::{Piece, VerbsError};

/// Pieces that one work request gathers from or scatters to.
const PIECES: usize = 2;
/// The longest message that goes along with its work request.
pub const INLINE_BYTES: usize = 64;

/// What a work request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Writes to the peer's memory.
    Write(RemotePlace),
    /// Reads from the peer's memory.
    Read(RemotePlace),
    /// Sends a message into one of the peer's receives.
    Send,
    /// As [`Send`](Self::Send), and takes this key of the peer's back from us.
    SendAndInvalidate(u32),
}

/// Where in the peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemotePlace {
    /// Address, as the peer registered it.
    pub address: u64,
    /// The peer's key for it.
    pub key: u32,
}

/// Work requests of one queue pair, to be posted together.
#[derive(Debug)]
pub struct SendList {
    entries: Box<[Entry]>,
    used: usize,
}

struct Entry {
    raw: abi::SendWr,
    pieces: [abi::Sge; PIECES],
    inline: [u8; INLINE_BYTES],
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("id", &self.raw.wr_id).finish_non_exhaustive()
    }
}

// SAFETY: the pointers in the entries are set and used within one call of `post_with`.
unsafe impl Send for SendList {}

impl SendList {
    /// An empty list with room for `room` work requests.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let empty =
            || Entry { raw: abi::SendWr::EMPTY, pieces: [abi::Sge::default(); PIECES], inline: [0; INLINE_BYTES] };
        Self { entries: (0..room).map(|_| empty()).collect(), used: 0 }
    }

    /// Work requests that still fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.entries.len() - self.used
    }

    /// Whether there is nothing in it.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Work requests in it.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Adds a work request that moves one or two pieces; `signaled` if its end is to be told even when it succeeds.
    /// False, and nothing added, if there is no room or there are more pieces.
    #[inline]
    #[must_use]
    pub fn push(&mut self, id: u64, work: Work, pieces: &[Piece], signaled: bool) -> bool {
        let Some(entry) = self.entries.get_mut(self.used).filter(|_| pieces.len() <= PIECES) else { return false };
        for (into, piece) in entry.pieces.iter_mut().zip(pieces) {
            *into = piece.0;
        }
        entry.raw.num_sge = pieces.len() as i32;
        entry.fill(id, work, if signaled { send_flags::SIGNALED } else { 0 });
        self.used += 1;
        true
    }

    /// Adds a message that is copied into the work request, at most [`INLINE_BYTES`] and what the queue pair was made
    /// for. False, and nothing added, if there is no room or it is longer.
    #[inline]
    #[must_use]
    pub fn push_inline(&mut self, id: u64, work: Work, message: &[u8], signaled: bool) -> bool {
        let Some(entry) = self.entries.get_mut(self.used) else { return false };
        let Some(into) = entry.inline.get_mut(..message.len()) else { return false };
        into.copy_from_slice(message);
        entry.pieces[0].length = message.len() as u32;
        entry.raw.num_sge = 1;
        entry.fill(id, work, send_flags::INLINE | if signaled { send_flags::SIGNALED } else { 0 });
        self.used += 1;
        true
    }

    /// Asks to be told of the end of the last work request added, and so of all before it.
    #[inline]
    pub fn signal_last(&mut self) {
        if let Some(last) = self.used.checked_sub(1) {
            self.entries[last].raw.send_flags |= send_flags::SIGNALED;
        }
    }

    /// Throws away what is in it.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Posts the list by `post` and empties it.
    pub(super) fn post_with(
        &mut self,
        post: impl FnOnce(*mut abi::SendWr, *mut *mut abi::SendWr) -> i32,
    ) -> Result<(), VerbsError> {
        let count = std::mem::take(&mut self.used);
        if count == 0 {
            return Ok(());
        }
        let first = self.entries.as_mut_ptr();
        for index in 0..count {
            // SAFETY: `count` entries are in use, so this one and, unless it is the last, the next are in the slice.
            // Everything below stays behind raw pointers of the same slice.
            unsafe {
                let entry = first.add(index);
                (*entry).raw.next = if index + 1 < count { &raw mut (*first.add(index + 1)).raw } else { null_mut() };
                (*entry).raw.sg_list = (&raw mut (*entry).pieces).cast();
                if (*entry).raw.send_flags & send_flags::INLINE != 0 {
                    // The processor reads this within the call.
                    (*entry).pieces[0].addr = (&raw const (*entry).inline) as u64;
                }
            }
        }
        let mut bad = null_mut();
        // SAFETY: there is a first entry, because the count is not zero.
        let code = post(unsafe { &raw mut (*first).raw }, &raw mut bad);
        if code == 0 { Ok(()) } else { Err(VerbsError::code("post work requests", code)) }
    }
}

impl Entry {
    #[inline]
    fn fill(&mut self, id: u64, work: Work, flags: u32) {
        let raw = &mut self.raw;
        raw.wr_id = id;
        raw.send_flags = flags;
        match work {
            Work::Write(place) | Work::Read(place) => {
                raw.opcode = if matches!(work, Work::Read(_)) { wr_opcode::RDMA_READ } else { wr_opcode::RDMA_WRITE };
                raw.remote_addr = place.address;
                raw.rkey = place.key;
            }
            Work::Send => raw.opcode = wr_opcode::SEND,
            Work::SendAndInvalidate(key) => {
                raw.opcode = wr_opcode::SEND_WITH_INV;
                raw.invalidate_rkey = key;
            }
        }
    }
}

/// A work request that was posted, as a device in a test sees it.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub id: u64,
    pub work: Work,
    /// Where its bytes lie, and how many.
    pub pieces: Vec<(u64, u32)>,
    pub inline: Vec<u8>,
    pub signaled: bool,
}

#[cfg(test)]
impl SendList {
    /// Empties the list into a device that a test scripts.
    pub(crate) fn take_seen(&mut self) -> Vec<Seen> {
        let used = std::mem::take(&mut self.used);
        self.entries[..used].iter().map(Entry::seen).collect()
    }
}

#[cfg(test)]
impl Entry {
    fn seen(&self) -> Seen {
        let raw = &self.raw;
        let place = RemotePlace { address: raw.remote_addr, key: raw.rkey };
        let work = match raw.opcode {
            wr_opcode::RDMA_WRITE => Work::Write(place),
            wr_opcode::RDMA_READ => Work::Read(place),
            wr_opcode::SEND => Work::Send,
            _ => Work::SendAndInvalidate(raw.invalidate_rkey),
        };
        let pieces = &self.pieces[..raw.num_sge as usize];
        let is_inline = raw.send_flags & send_flags::INLINE != 0;
        let inline = if is_inline { self.inline[..pieces[0].length as usize].to_vec() } else { Vec::new() };
        let pieces = pieces.iter().filter(|_| !is_inline).map(|piece| (piece.addr, piece.length)).collect();
        Seen { id: raw.wr_id, work, pieces, inline, signaled: raw.send_flags & send_flags::SIGNALED != 0 }
    }
}
