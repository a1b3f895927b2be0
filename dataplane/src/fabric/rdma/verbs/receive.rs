//! Receives: lists of them, and the queue that several queue pairs share.
#![allow(unsafe_code)]

use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::abi::{self, Srq, SrqInitAttr};
use super::{Domain, Piece, VerbsError};

/// Pieces that a message may be scattered to.
pub(super) const RECEIVE_PIECES: usize = 2;

/// Receives to be posted together.
#[derive(Debug)]
pub struct ReceiveList {
    requests: Vec<Receive>,
    raw: Box<[abi::RecvWr]>,
}

#[derive(Debug)]
struct Receive {
    id: u64,
    pieces: [abi::Sge; RECEIVE_PIECES],
    count: i32,
}

// SAFETY: the pointers in `raw` are set, used and forgotten within one call of `post_with`.
unsafe impl Send for ReceiveList {}

impl ReceiveList {
    /// An empty list with room for `room` receives.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let empty = abi::RecvWr { wr_id: 0, next: null_mut(), sg_list: null_mut(), num_sge: 1 };
        Self { requests: Vec::with_capacity(room), raw: vec![empty; room].into_boxed_slice() }
    }

    /// Whether there is no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.requests.len() == self.raw.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Adds a receive into one or two pieces: the second takes what is left over. False, and nothing added, if there is no
    /// room or there are more pieces (a queue pair's own receives have one only).
    #[must_use]
    pub fn push(&mut self, id: u64, pieces: &[Piece]) -> bool {
        if self.is_full() || pieces.len() > RECEIVE_PIECES {
            return false;
        }
        let mut request = Receive { id, pieces: Default::default(), count: pieces.len() as i32 };
        for (into, piece) in request.pieces.iter_mut().zip(pieces) {
            *into = piece.0;
        }
        self.requests.push(request);
        true
    }

    /// Posts the list by `post` and empties it. On an error, those from the first that was not posted on are lost.
    pub(super) fn post_with(
        &mut self,
        mut post: impl FnMut(*mut abi::RecvWr, *mut *mut abi::RecvWr) -> i32,
    ) -> Result<(), VerbsError> {
        let count = self.requests.len();
        if count == 0 {
            return Ok(());
        }
        let raw = self.raw.as_mut_ptr();
        for (index, request) in self.requests.iter_mut().enumerate() {
            // SAFETY: there are at most as many requests as raw entries.
            let next = if index + 1 < count { unsafe { raw.add(index + 1) } } else { null_mut() };
            let sg_list = (&raw mut request.pieces).cast();
            let entry = abi::RecvWr { wr_id: request.id, next, sg_list, num_sge: request.count };
            // SAFETY: as above.
            unsafe { raw.add(index).write(entry) };
        }
        let mut bad = null_mut();
        let code = post(raw, &raw mut bad);
        self.requests.clear();
        if code == 0 { Ok(()) } else { Err(VerbsError::code("post receives", code)) }
    }
}

/// A receive queue that several queue pairs take from.
#[derive(Debug)]
pub struct SharedReceiveQueue {
    domain: Arc<Domain>,
    pub(super) srq: NonNull<Srq>,
    post: unsafe extern "C" fn(*mut Srq, *mut abi::RecvWr, *mut *mut abi::RecvWr) -> i32,
}

// SAFETY: libibverbs lets any thread use a shared receive queue.
unsafe impl Send for SharedReceiveQueue {}
// SAFETY: as above.
unsafe impl Sync for SharedReceiveQueue {}

impl SharedReceiveQueue {
    /// A queue of `entries` receives of up to two pieces each.
    ///
    /// # Errors
    /// What the device said; [`VerbsError::Unsupported`] if it has none.
    pub fn new(domain: &Arc<Domain>, entries: u32) -> Result<Self, VerbsError> {
        let device = domain.device();
        let post = device.ops().post_srq_recv.filter(|_| device.limits().shared_receives >= entries);
        let post = post.ok_or(VerbsError::Unsupported("the RDMA device has no shared receive queue of this size"))?;
        let mut wanted =
            SrqInitAttr { srq_context: null_mut(), max_wr: entries, max_sge: RECEIVE_PIECES as u32, srq_limit: 0 };
        // SAFETY: a live domain, and attributes that are ours.
        let srq = NonNull::new(unsafe { (device.library.ibv_create_srq)(domain.pd.as_ptr(), &raw mut wanted) });
        let srq = srq.ok_or_else(|| VerbsError::last("make a shared receive queue"))?;
        Ok(Self { domain: Arc::clone(domain), srq, post })
    }

    /// The domain it is in.
    #[must_use]
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// Posts receives.
    ///
    /// # Errors
    /// What the device said: most likely that there are more than the queue holds.
    pub fn post(&self, list: &mut ReceiveList) -> Result<(), VerbsError> {
        // SAFETY: a live queue, and a linked list that outlives the call. What the device writes to is registered
        // memory, which its registration keeps alive.
        list.post_with(|first, bad| unsafe { (self.post)(self.srq.as_ptr(), first, bad) })
    }
}

impl Drop for SharedReceiveQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold their shared receive queue alive, so none refers to it.
        let code = unsafe { (self.domain.device().library.ibv_destroy_srq)(self.srq.as_ptr()) };
        debug_assert_eq!(code, 0, "no queue pair is left that refers to it");
    }
}

#[cfg(test)]
impl ReceiveList {
    /// Empties the list into a device that a test scripts: the identifiers, and where each one's bytes go.
    pub(crate) fn take_seen(&mut self) -> Vec<(u64, Vec<(u64, u32)>)> {
        let seen = |receive: Receive| {
            let pieces = receive.pieces[..receive.count as usize].iter();
            (receive.id, pieces.map(|piece| (piece.addr, piece.length)).collect())
        };
        self.requests.drain(..).map(seen).collect()
    }
}
