//! An admin queue over RDMA: one command at a time, on a thread that may wait.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use zerocopy::transmute;

use super::devices::RdmaDevices;
use crate::fabric::CarrierKind;
use crate::fabric::message::{AdminCapsule, Answer, Channel, ChannelError, CoreCommand, QueueTerms};
use crate::fabric::rdma::verbs::{
    Access, CompletionQueue, Domain, Endpoint, INLINE_BYTES, QueuePairParts, ReceiveList, RegisteredMemory,
    RemotePlace, SendList, VerbsError, Work, WorkDone,
};
use crate::fabric::rdma::wire::{COMMAND_BYTES, RESPONSE_BYTES};
use crate::memory::{Region, RegionSlot};
use crate::nvme::spec::fabrics::{CapsuleData, FABRICS_OPCODE, FabricsCommand};
use crate::nvme::spec::{Cqe, DataPointer, Sqe};

/// How long a host may take to answer a READ, or to take a response.
const PATIENCE: Duration = Duration::from_secs(10);
/// Data that may come in a capsule.
const CAPSULE_DATA: u32 = 8192;
/// Bytes of a receive.
const RECEIVE_BYTES: u32 = COMMAND_BYTES + CAPSULE_DATA;
/// Data that is moved at once.
const DATA_BYTES: u32 = 64 << 10;
/// Marks the identifier of a receive.
const RECEIVE: u64 = 1 << 63;

/// An admin queue's connection.
pub(super) struct AdminChannel {
    devices: RdmaDevices,
    pub endpoint: Arc<Endpoint>,
    /// Set when the connection is at its end.
    pub gone: Arc<AtomicBool>,
    completions: Arc<CompletionQueue>,
    /// Receives, then data.
    memory: RegisteredMemory,
    region: Arc<Region>,
    data_at: u64,
    sends: SendList,
    receives: ReceiveList,
    arrived: VecDeque<(u32, u32)>,
    max_transfer_bytes: u32,
    /// Whether a work request ended since the last was posted.
    worked: bool,
}

/// What an admin queue needs besides its connection.
pub(super) struct AdminParts {
    completions: Arc<CompletionQueue>,
    memory: RegisteredMemory,
    region: Arc<Region>,
    data_at: u64,
    entries: u32,
}

impl AdminParts {
    /// Makes the queue pair of a request, for `entries` commands. It is still to be accepted.
    pub fn make(endpoint: &mut Endpoint, entries: u32) -> Result<Self, VerbsError> {
        let device = endpoint.device()?.ok_or(VerbsError::Unsupported("a request that came over no device"))?;
        let domain = Domain::new(device)?;
        let completions = Arc::new(CompletionQueue::with_channel(device, 2 * entries + 16)?);
        let data_at = u64::from(entries * RECEIVE_BYTES).next_multiple_of(4096);
        let bytes = data_at as usize + DATA_BYTES as usize;
        let no_memory = |cause| VerbsError::Call { what: "make room for admin commands", cause };
        let region = Arc::new(Region::anonymous(bytes, RegionSlot(0)).map_err(no_memory)?);
        let memory = RegisteredMemory::new(&domain, &region, Access::Local)?;
        endpoint.make_queue_pair(&QueuePairParts {
            domain: &domain,
            sends: &completions,
            receives: &completions,
            shared: None,
            send_entries: 8,
            receive_entries: entries,
            inline_bytes: INLINE_BYTES as u32,
        })?;
        Ok(Self { completions, memory, region, data_at, entries })
    }
}

impl AdminChannel {
    /// The channel of a connection that is about to be accepted: it can receive already.
    pub fn new(
        devices: &RdmaDevices,
        endpoint: Arc<Endpoint>,
        parts: AdminParts,
        max_transfer_bytes: u32,
    ) -> Result<Self, VerbsError> {
        let AdminParts { completions, memory, region, data_at, entries } = parts;
        let mut channel = Self {
            devices: devices.clone(),
            endpoint,
            gone: Arc::default(),
            completions,
            memory,
            region,
            data_at,
            sends: SendList::new(4),
            receives: ReceiveList::new(1),
            arrived: VecDeque::new(),
            max_transfer_bytes,
            worked: false,
        };
        for index in 0..entries {
            channel.post_receive(index)?;
        }
        Ok(channel)
    }

    fn post_receive(&mut self, index: u32) -> Result<(), VerbsError> {
        let piece = self.memory.piece(u64::from(index * RECEIVE_BYTES), RECEIVE_BYTES).unwrap_or_default();
        let _ = self.receives.push(RECEIVE | u64::from(index), &[piece]);
        self.endpoint.post_receives(&mut self.receives)
    }

    /// Takes what has ended; waits for it, `wait` at most, if there is nothing.
    fn take(&mut self, wait: Duration) -> Result<(), ChannelError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(ChannelError::Closed);
        }
        let mut done = [WorkDone::default(); 16];
        for armed in [false, true] {
            let count = self.completions.poll(&mut done).map_err(|_| ChannelError::Closed)?;
            for done in &done[..count] {
                if done.failed().is_some() {
                    return Err(ChannelError::Closed);
                }
                match done.received() {
                    Some(bytes) => self.arrived.push_back(((done.id() & !RECEIVE) as u32, bytes)),
                    None => self.worked = true,
                }
            }
            if count > 0 || armed {
                break;
            }
            self.completions.arm().map_err(|_| ChannelError::Closed)?;
        }
        if self.arrived.is_empty() && !self.worked {
            self.completions.wait(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))?;
        }
        Ok(())
    }

    /// Posts what is in the list, and waits until it ended.
    fn run(&mut self) -> Result<(), ChannelError> {
        self.sends.signal_last();
        self.worked = false;
        self.endpoint.post(&mut self.sends).map_err(|_| ChannelError::Closed)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.worked {
            if Instant::now() > deadline {
                return Err(ChannelError::Stuck(PATIENCE));
            }
            // With commands waiting, this does not wait.
            if !self.arrived.is_empty() {
                std::thread::sleep(Duration::from_micros(50));
            }
            self.take(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// The command that arrived first, with its data.
    fn capsule(&mut self) -> Result<Option<AdminCapsule>, ChannelError> {
        let Some((index, bytes)) = self.arrived.pop_front() else { return Ok(None) };
        let at = u64::from(index * RECEIVE_BYTES);
        let mut words = [0u64; 8];
        let read = self.region.read_words(at, &mut words);
        let along = bytes.checked_sub(COMMAND_BYTES);
        let (Some(()), Some(along)) = (read, along) else {
            return Err(ChannelError::Protocol(format!("a capsule of {bytes} bytes")));
        };
        let sqe: Sqe = transmute!(words);
        let wanted = if moves_to_controller(&sqe) { place_of(&sqe) } else { None };
        let mut data = Vec::new();
        match wanted {
            Some(CapsuleData::InCapsule { offset, length }) => {
                let end = offset.checked_add(u64::from(length));
                if end.is_none_or(|end| end > u64::from(along)) {
                    return Err(ChannelError::Protocol("data beyond the end of its capsule".to_owned()));
                }
                data.resize(length as usize, 0);
                let _ = self.region.read(at + u64::from(COMMAND_BYTES) + offset, &mut data);
            }
            Some(CapsuleData::Keyed { address, length, key, .. }) if length > 0 && length <= CAPSULE_DATA => {
                let piece = self.memory.piece(self.data_at, length).unwrap_or_default();
                let _ = self.sends.push(0, Work::Read(RemotePlace { address, key }), &[piece], true);
                self.run()?;
                data.resize(length as usize, 0);
                let _ = self.region.read(self.data_at, &mut data);
            }
            _ => {}
        }
        self.post_receive(index).map_err(|_| ChannelError::Closed)?;
        Ok(Some(AdminCapsule { sqe, data }))
    }
}

/// Whether a command has data for the controller (bits 1:0 of the opcode; of the Fabrics commands only Connect).
fn moves_to_controller(sqe: &Sqe) -> bool {
    if sqe.opcode() == FABRICS_OPCODE {
        return matches!(FabricsCommand::decode(sqe), Ok(FabricsCommand::Connect(_)));
    }
    sqe.opcode() & 0b11 == 0b01
}

fn place_of(sqe: &Sqe) -> Option<CapsuleData> {
    match sqe.data_pointer() {
        Some(DataPointer::Sgl(descriptor)) => descriptor.capsule_data(),
        _ => None,
    }
}

impl Channel for AdminChannel {
    fn carrier(&self) -> CarrierKind {
        CarrierKind::Rdma
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.endpoint.peer_address()
    }

    fn max_transfer_bytes(&self) -> u32 {
        self.max_transfer_bytes
    }

    fn receive(&mut self, wait: Duration) -> Result<Option<AdminCapsule>, ChannelError> {
        if self.arrived.is_empty() {
            self.worked = false;
            self.take(wait)?;
        }
        self.capsule()
    }

    fn respond(&mut self, command: &Sqe, data: &[u8], completion: Cqe) -> Result<(), ChannelError> {
        let place = place_of(command);
        let mut invalidate = None;
        if let Some(CapsuleData::Keyed { address, length, key, invalidate: asked }) = place {
            invalidate = asked.then_some(key);
            let data = &data[..data.len().min(length as usize)];
            for (index, chunk) in (0u64..).zip(data.chunks(DATA_BYTES as usize)) {
                let at = address.wrapping_add(index * u64::from(DATA_BYTES));
                let _ = self.region.write(self.data_at, chunk);
                let piece = self.memory.piece(self.data_at, chunk.len() as u32).unwrap_or_default();
                let _ = self.sends.push(0, Work::Write(RemotePlace { address: at, key }), &[piece], true);
                self.run()?;
            }
        } else if !data.is_empty() {
            return Err(ChannelError::Protocol("data is asked for without a key to write it by".to_owned()));
        }
        let words = completion.to_quadwords(false);
        let bytes: [u8; RESPONSE_BYTES as usize] = transmute!(words);
        let work = invalidate.map_or(Work::Send, Work::SendAndInvalidate);
        let _ = self.sends.push_inline(0, work, &bytes, true);
        self.run()
    }

    fn hand_over(&mut self, _terms: QueueTerms, _answer: Answer) -> io::Result<CoreCommand> {
        Err(io::Error::other("the connection was asked for as an admin queue, and Connect says an I/O queue"))
    }
}

impl Drop for AdminChannel {
    fn drop(&mut self) {
        self.endpoint.disconnect();
        self.devices.remove(self.endpoint.id());
    }
}
