//! Asynchronous events: what happened, and the requests that wait to be told.

use std::collections::VecDeque;

use crate::nvme::spec::admin::log::DISCOVERY;

use super::logs::{CHANGED_NAMESPACES, ERROR};

/// Requests that may wait at once: Identify Controller AERL is one less.
pub(super) const REQUEST_LIMIT: usize = 4;

/// Changed namespaces that are told by number; more are told as "many".
const CHANGED_LIMIT: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Events {
    /// Command identifiers of waiting requests.
    requests: VecDeque<u16>,
    /// Events to report, at most one of each kind: a kind is not reported again until its log page was read.
    pending: Vec<u32>,
    /// Kinds that were reported and whose log page was not read yet.
    masked: Vec<u32>,
    changed: Vec<u32>,
}

/// DW0: type 2h (notice), information 00h (namespace attribute changed), log page 04h.
const NAMESPACE_CHANGED: u32 = 0x02 | ((CHANGED_NAMESPACES as u32) << 16);
/// DW0: type 2h (notice), information F0h (discovery log page changed), log page 70h.
const DISCOVERY_CHANGED: u32 = 0x02 | (0xF0 << 8) | ((DISCOVERY as u32) << 16);
/// DW0: type 0h (error status), information 01h (invalid doorbell write value), log page 01h.
const INVALID_DOORBELL: u32 = (0x01 << 8) | ((ERROR as u32) << 16);

impl Events {
    /// Keeps a request; `false` if too many wait already.
    pub(super) fn request(&mut self, cid: u16) -> bool {
        let room = self.requests.len() < REQUEST_LIMIT;
        if room {
            self.requests.push_back(cid);
        }
        room
    }

    /// Drops the waiting requests, as a reset does.
    pub(super) fn forget_requests(&mut self) {
        *self = Self::default();
    }

    fn happened(&mut self, event: u32) {
        if !self.pending.contains(&event) && !self.masked.contains(&event) {
            self.pending.push(event);
        }
    }

    pub(super) fn invalid_doorbell(&mut self) {
        self.happened(INVALID_DOORBELL);
    }

    pub(super) fn discovery_changed(&mut self, wanted: bool) {
        if wanted {
            self.happened(DISCOVERY_CHANGED);
        }
    }

    pub(super) fn namespaces_changed(&mut self, nsids: &[u32], wanted: bool) {
        for nsid in nsids {
            if !self.changed.contains(nsid) {
                self.changed.push(*nsid);
            }
        }
        if !nsids.is_empty() && wanted {
            self.happened(NAMESPACE_CHANGED);
        }
    }

    /// The changed namespace list, which reading clears.
    pub(super) fn take_changed(&mut self) -> Vec<u32> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        if changed.len() > CHANGED_LIMIT { vec![u32::MAX] } else { changed }
    }

    /// Keeps the list for another reading.
    pub(super) fn put_back(&mut self, changed: Vec<u32>) {
        self.changed = changed;
    }

    /// A log page was read: its events may be reported again.
    pub(super) fn log_read(&mut self, page: u8) {
        self.masked.retain(|event| (event >> 16) as u8 != page);
    }

    /// An event and the request to complete with it.
    pub(super) fn take(&mut self) -> Option<(u16, u32)> {
        let event = *self.pending.first()?;
        let cid = self.requests.pop_front()?;
        self.pending.remove(0);
        self.masked.push(event);
        Some((cid, event))
    }
}
