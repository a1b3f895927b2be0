//! A core's part of one RDMA device: its completion queue, and the receives that its queues share.

use std::sync::Arc;

use zerocopy::transmute;

use super::core_end::Remains;
use super::device_table::{Condition, Wear};
use super::nic::PortDevice;
use crate::fabric::message::{Buffer, HostOptions, KEPT_FOR_CAPSULES, Staging};
use crate::fabric::rdma::verbs::{
    Access, CompletionQueue, Device, DeviceLimits, Domain, Endpoint, Piece, ReceiveList, RegisteredMemory,
    SharedReceiveQueue, VerbsError, WorkDone,
};
use crate::fabric::rdma::wire::COMMAND_BYTES;
use crate::memory::{DmaSlice, Region, RegionSlot};
use crate::nvme::spec::Sqe;

/// Receives that are posted at once.
const BURST: usize = 64;
/// Marks the identifier of a receive.
pub(super) const RECEIVE: u64 = 1 << 63;
/// The most receives of a port.
pub(super) const MAX_RECEIVES: u32 = 1024;
/// Completions that all queues of a port may have at a time, before the core has taken them.
pub(super) const MAX_COMPLETIONS: u32 = 16_384;

/// What the control side makes of a device for one core. Sharing it with the core is what its orders are for.
#[derive(Debug)]
pub struct PortParts {
    /// The protection domain.
    pub domain: Arc<Domain>,
    /// Where everything that the core's queues do is told.
    pub completions: Arc<CompletionQueue>,
    /// Where commands come in.
    pub shared: Arc<SharedReceiveQueue>,
    /// The core's staging memory.
    staging: RegisteredMemory,
    /// Where commands lie: 64 bytes a receive.
    commands: RegisteredMemory,
    commands_region: Arc<Region>,
    receives: u32,
    in_capsule_bytes: u32,
    /// Where connections go that the core is done with.
    remains: Remains,
    wear: Wear,
}

/// Receives of a port, for data of so many bytes each. An eighth of the buffers at most is for data that comes along.
fn receives_of(buffer_bytes: u32, in_capsule_bytes: u32, limits: &DeviceLimits) -> u32 {
    let share = buffer_bytes / 8 / receive_bytes(in_capsule_bytes).max(4096);
    share.clamp(16, MAX_RECEIVES).min(limits.shared_receives.max(1))
}

/// Bytes of the buffer of a receive.
fn receive_bytes(in_capsule_bytes: u32) -> u32 {
    if in_capsule_bytes == 0 { 0 } else { in_capsule_bytes.next_power_of_two().max(4096) }
}

/// Whether another port leaves the buffers that the largest command and data that cannot wait need, of `buffer_bytes` of which
/// the ports that there are keep `held`. Otherwise such a command would wait for ever, and all that come after it.
pub(super) fn check_room(options: &HostOptions, held: u64, limits: &DeviceLimits) -> Result<(), VerbsError> {
    let (all, along) = (options.layout.buffer_bytes, options.in_capsule_bytes);
    let port = u64::from(receives_of(all, along, limits)) * u64::from(receive_bytes(along));
    let largest = u64::from(options.max_transfer_bytes.next_power_of_two());
    if held + port + largest + u64::from(KEPT_FOR_CAPSULES) <= u64::from(all) {
        return Ok(());
    }
    Err(VerbsError::Unsupported(
        "the RDMA devices that are served already leave too little staging memory for another; listen on fewer devices, or with \
         a smaller largest command",
    ))
}

impl PortParts {
    /// Makes them for a core with this staging memory, of which `buffer_bytes` are for data.
    ///
    /// # Errors
    /// What the device said.
    pub fn new(
        device: Device,
        staging: &Arc<Region>,
        buffer_bytes: u32,
        in_capsule_bytes: u32,
        remains: Remains,
    ) -> Result<Self, VerbsError> {
        check_limits(&device.limits())?;
        let domain = Domain::new(device)?;
        let receives = receives_of(buffer_bytes, in_capsule_bytes, &device.limits());
        let bytes = receives as usize * COMMAND_BYTES as usize;
        let no_memory = |cause| VerbsError::Call { what: "make room for commands", cause };
        let commands_region = Arc::new(Region::anonymous(bytes, RegionSlot(0)).map_err(no_memory)?);
        Ok(Self {
            completions: Arc::new(CompletionQueue::new(device, MAX_COMPLETIONS)?),
            shared: Arc::new(SharedReceiveQueue::new(&domain, receives)?),
            staging: RegisteredMemory::new(&domain, staging, Access::Local)?,
            commands: RegisteredMemory::new(&domain, &commands_region, Access::Local)?,
            commands_region,
            domain,
            receives,
            in_capsule_bytes,
            remains,
            wear: Wear::default(),
        })
    }

    /// Bytes of staging buffers that its receives keep.
    pub(super) fn held_bytes(&self) -> u64 {
        u64::from(self.receives) * u64::from(receive_bytes(self.in_capsule_bytes))
    }

    /// Of how much use it is, by what its core noted.
    pub(super) fn condition(&self) -> Condition {
        self.wear.condition()
    }

    /// Whether no connection has any of it, so that all of it goes when it is dropped.
    pub(super) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.shared) == 1 && Arc::strong_count(&self.completions) == 1
    }
}

impl PortDevice for PortParts {
    type Pair = Endpoint;

    #[inline]
    fn poll(&self, into: &mut [WorkDone]) -> Result<usize, VerbsError> {
        self.completions.poll(into)
    }

    #[inline]
    fn post_receives(&self, list: &mut ReceiveList) -> Result<(), VerbsError> {
        self.shared.post(list)
    }

    fn receives(&self) -> u32 {
        self.receives
    }

    #[inline]
    fn in_capsule_bytes(&self) -> u32 {
        self.in_capsule_bytes
    }

    #[inline]
    fn command_piece(&self, index: u16) -> Option<Piece> {
        self.commands.piece(u64::from(index) * u64::from(COMMAND_BYTES), COMMAND_BYTES)
    }

    #[inline]
    fn command(&self, index: u16) -> Option<Sqe> {
        let mut words = [0u64; 8];
        self.commands_region.read_words(u64::from(index) * u64::from(COMMAND_BYTES), &mut words)?;
        Some(transmute!(words))
    }

    #[inline]
    fn staging_piece(&self, slice: DmaSlice) -> Option<Piece> {
        self.staging.piece_of(slice)
    }

    fn remains(&self) -> &Remains {
        &self.remains
    }

    fn note(&self, condition: Condition) {
        self.wear.note(condition);
    }
}

/// Whether a device has what a port takes. Beyond the entries of a completion queue it would fail with all its queues.
fn check_limits(limits: &DeviceLimits) -> Result<(), VerbsError> {
    if limits.completion_entries < MAX_COMPLETIONS {
        return Err(VerbsError::Unsupported("the RDMA device has no completion queue of 16,384 entries"));
    }
    if limits.pieces < 2 {
        return Err(VerbsError::Unsupported("the RDMA device cannot scatter a message to two pieces of memory"));
    }
    Ok(())
}

/// The core's end of them.
///
/// Each receive has one place for data that comes along, for good; all of a port's lie side by side, so that what others take of
/// the staging memory stays in large blocks. While a command uses it, the receive is not posted.
pub(super) struct Port<P> {
    pub parts: Arc<P>,
    /// By receive: the buffer for data that comes along, unless a command has it.
    buffers: Box<[Option<Buffer>]>,
    /// Receives for which there has been no buffer yet.
    bare: Vec<u16>,
    list: ReceiveList,
    /// Receives that may be lost: those that queue pairs had taken which ended in the middle of a message. Devices give them back
    /// late, and soft-RoCE never does.
    perhaps_lost: u32,
    /// Whether the device failed; and whether what follows from that was done.
    pub failed: bool,
    pub ended: bool,
}

impl<P: PortDevice> Port<P> {
    pub fn new(parts: Arc<P>, staging: &mut Staging) -> Self {
        let receives = parts.receives();
        let buffers = (0..receives).map(|_| None).collect();
        let bare = (0..receives as u16).rev().collect();
        let mut port =
            Self { parts, buffers, bare, list: ReceiveList::new(BURST), perhaps_lost: 0, failed: false, ended: false };
        port.refill(staging);
        port
    }

    /// A queue pair is over. It may have taken a receive for a message that did not come to its end: a quarter of them gone is
    /// the time to make new ones for whoever comes next.
    pub fn queue_ended(&mut self) {
        self.perhaps_lost += 1;
        if self.perhaps_lost == (self.parts.receives() / 4).max(1) {
            self.parts.note(Condition::Worn);
        }
    }

    /// The buffers of its receives. Nothing may be left of the device that could write to them when they are used again.
    pub fn into_buffers(self) -> Vec<Buffer> {
        self.buffers.into_iter().flatten().collect()
    }

    /// Whether receives wait for a buffer.
    pub fn is_bare(&self) -> bool {
        !self.bare.is_empty()
    }

    /// Finds buffers for the receives that have none yet, as far as there are any, and posts them.
    pub fn refill(&mut self, staging: &mut Staging) {
        let bytes = self.parts.in_capsule_bytes();
        if bytes > 0 {
            for buffer in staging.take_beside(self.bare.len() as u32, bytes) {
                if let Some(index) = self.bare.pop() {
                    self.put_back(index, buffer, staging);
                }
            }
        } else {
            while let Some(index) = self.bare.pop() {
                self.reuse(index, staging);
            }
        }
        self.post();
    }

    /// The command that had the buffer of a receive is done with it. Posted by [`post`](Self::post).
    pub fn put_back(&mut self, index: u16, buffer: Buffer, staging: &Staging) {
        if let Some(place) = self.buffers.get_mut(usize::from(index)) {
            *place = Some(buffer);
            self.reuse(index, staging);
        }
    }

    /// Makes ready to post a receive whose message was looked at, unless a command has its buffer. It is posted with the
    /// others by [`post`](Self::post).
    pub fn reuse(&mut self, index: u16, staging: &Staging) {
        let Some(held) = self.buffers.get(usize::from(index)) else { return };
        let bytes = self.parts.in_capsule_bytes();
        if held.is_none() && bytes > 0 {
            return;
        }
        let slice = held.as_ref().and_then(|buffer| staging.slice(buffer, 0, bytes));
        let data = slice.and_then(|slice| self.parts.staging_piece(slice));
        let command = self.parts.command_piece(index);
        let Some(command) = command else { return };
        let pieces = [command, data.unwrap_or_default()];
        let pieces = if data.is_some() { &pieces[..] } else { &pieces[..1] };
        if self.list.is_full() {
            self.post();
        }
        let added = self.list.push(RECEIVE | u64::from(index), pieces);
        debug_assert!(added, "room was made");
    }

    /// Posts the receives that are ready.
    pub fn post(&mut self) {
        if !self.list.is_empty() && self.parts.post_receives(&mut self.list).is_err() {
            self.failed = true;
        }
    }

    /// Takes the buffer with the data that came along.
    pub fn take_data(&mut self, index: u16) -> Option<Buffer> {
        self.buffers.get_mut(usize::from(index))?.take()
    }

    /// The buffer with the data that came along, to look at.
    pub fn data(&self, index: u16) -> Option<&Buffer> {
        self.buffers.get(usize::from(index))?.as_ref()
    }

    /// Bytes of a staging buffer, as work requests name them.
    pub fn piece(&self, staging: &Staging, buffer: &Buffer, bytes: u32) -> Option<Piece> {
        self.parts.staging_piece(staging.slice(buffer, 0, bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::message::StagingLayout;

    #[test]
    fn devices_that_have_too_little_are_refused() {
        let enough = DeviceLimits { completion_entries: MAX_COMPLETIONS, pieces: 2, ..DeviceLimits::default() };
        assert!(check_limits(&enough).is_ok());
        assert!(check_limits(&DeviceLimits { completion_entries: MAX_COMPLETIONS - 1, ..enough }).is_err());
        assert!(check_limits(&DeviceLimits { pieces: 1, ..enough }).is_err());
    }

    #[test]
    fn another_device_is_refused_before_the_largest_command_would_wait_for_ever() {
        let layout = StagingLayout { areas: 1, area_bytes: 4096, buffer_bytes: 64 << 20 };
        let options =
            HostOptions { layout, max_queue_entries: 1024, max_transfer_bytes: 8 << 20, in_capsule_bytes: 8192 };
        let limits = DeviceLimits { shared_receives: 1 << 15, ..DeviceLimits::default() };
        let ports = |options: &HostOptions| {
            (0..).take_while(|ports| check_room(options, ports * (8 << 20), &limits).is_ok()).take(100).count()
        };
        // 8 MiB a port: 8 + 4 MiB are to be left.
        assert_eq!(ports(&options), 6);
        assert_eq!(ports(&HostOptions { max_transfer_bytes: 16 << 20, ..options }), 5);
        assert_eq!(receives_of(64 << 20, 8192, &limits) * receive_bytes(8192), 8 << 20);
        // Without data along, receives keep no buffers.
        assert_eq!((receive_bytes(0), receive_bytes(16), receive_bytes(5000)), (0, 4096, 8192));
    }
}
