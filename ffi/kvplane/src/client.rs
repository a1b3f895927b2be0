//! The client: how it is made, what it holds, and what it says of itself.

use std::collections::VecDeque;
use std::time::Instant;

use dataplane::fabric::NamespaceInfo;
use dataplane::memory::{SlotId, SlotPool};
use dataplane::nvme::spec::kv::Key;

use crate::in_flight::InFlight;
use crate::lane::Lane;
use crate::lists::{Lists, PLACE_BYTES};
use crate::liveness::Liveness;
use crate::memory::MemoryId;
use crate::registrations::Registrations;
use crate::transport::{Carrier, Dial, Transport};
use crate::{Address, ConnectOptions, DeviceMemory, DmaBuf, Error, Event, Identity, Memory, Stats};

/// A connection to a target, for one namespace.
///
/// A client belongs to one thread at a time (it may move between threads); for more threads, connect more clients.
/// Dropping it gives up what is in flight.
pub struct Client {
    /// `None` while disconnected.
    pub(crate) link: Option<Carrier>,
    pub(crate) slots: SlotPool<InFlight>,
    pub(crate) lanes: Vec<Lane>,
    /// Events not handed out yet.
    pub(crate) ready: VecDeque<Event>,
    /// Commands that are sent again, and when.
    pub(crate) waiting: Vec<(Instant, SlotId)>,
    pub(crate) memories: Registrations,
    pub(crate) lists: Lists,
    pub(crate) liveness: Liveness,
    pub(crate) stats: Stats,
    pub(crate) options: ConnectOptions,
    pub(crate) namespace: NamespaceInfo,
    identity: Identity,
    dial: Dial,
    /// Where the blocking face puts values.
    pub(crate) scratch: Option<Memory>,
}

impl Client {
    /// Connects to a target: opens a queue pair to each of its cores and looks the namespace up.
    ///
    /// # Errors
    /// [`Error::Option`] for an option out of its range, [`Error::Connect`] if nobody answers at the address or
    /// refuses this host, [`Error::Namespace`] if the namespace is not attached, [`Error::Register`] if the scratch
    /// memory cannot be had.
    pub fn connect(address: &Address, options: ConnectOptions) -> Result<Self, Error> {
        Self::dial(Dial::Address(address.clone()), options)
    }

    pub(crate) fn dial(dial: Dial, options: ConnectOptions) -> Result<Self, Error> {
        options.check()?;
        let mut link = dial.connect(&options)?;
        let namespace = find_namespace(&mut link, options.namespace)?;
        link.connected();
        let mut memories = Registrations::default();
        let list_bytes = usize::from(options.list_places) * PLACE_BYTES as usize;
        let lists = memories.add(link.allocate(list_bytes, options.hugepages)?);
        let mut client = Self {
            identity: link.identity(),
            link: None,
            slots: SlotPool::new(1),
            lanes: Vec::new(),
            ready: VecDeque::new(),
            waiting: Vec::new(),
            memories,
            lists: Lists::new(lists, options.list_places),
            liveness: Liveness::new(Instant::now()),
            stats: Stats::default(),
            options,
            namespace,
            dial,
            scratch: None,
        };
        client.attach(link);
        Ok(client)
    }

    /// Takes a fresh connection into use. Nothing may be in flight.
    fn attach(&mut self, link: Carrier) {
        let queues = link.queues();
        let capacity = (queues * usize::from(self.options.queue_depth)).min(usize::from(u16::MAX));
        if queues != self.lanes.len() {
            self.slots = SlotPool::new(capacity as u16);
        }
        self.lanes = (0..queues).map(|_| Lane::new(self.options.queue_depth)).collect();
        self.ready.reserve(capacity.saturating_sub(self.ready.len()));
        self.waiting.reserve(capacity);
        self.identity = link.identity();
        self.liveness = Liveness::new(Instant::now());
        self.link = Some(link);
    }

    /// Connects again after the target went away (or gives a living connection up and makes a new one: what is in
    /// flight then fails with [`Error::Disconnected`]). Memory is registered anew; its buffers stay valid. Events
    /// that were not handed out yet stay.
    ///
    /// # Errors
    /// As [`connect`](Self::connect). The client stays disconnected and may be asked again.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        self.lose(&Error::Disconnected);
        let mut link = self.dial.connect(&self.options)?;
        self.namespace = find_namespace(&mut link, self.options.namespace)?;
        link.connected();
        for entry in self.memories.iter_mut() {
            entry.register_again(&mut link)?;
        }
        self.attach(link);
        self.stats.reconnects += 1;
        Ok(())
    }

    /// Whether there is a connection, as far as is known. A target that died is noticed by
    /// [`poll`](Self::poll) and [`wait`](Self::wait).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// What the target says of itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The namespaces that are attached to this host now. Not for the hot path.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a connection, or what the target answered.
    pub fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, Error> {
        self.link.as_mut().ok_or(Error::Disconnected)?.namespaces()
    }

    /// The namespace that commands address, as it was when the connection was made.
    #[must_use]
    pub fn namespace(&self) -> &NamespaceInfo {
        &self.namespace
    }

    /// The options that the client was made with.
    #[must_use]
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let strays = self.link.as_ref().map_or(0, Transport::strays);
        Stats { unknown_completions: self.stats.unknown_completions + strays, ..self.stats }
    }

    /// Commands taken whose events were not handed out yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.in_use() + self.ready.len()
    }

    /// Queue pairs, one for each core of the target.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.lanes.len()
    }

    /// The queue pair (from 0) that a key's commands go to: that of the core which owns the key, or the first with
    /// a target that says nothing of owners.
    #[must_use]
    pub fn queue_of(&self, key: &Key) -> usize {
        match &self.identity.owners {
            Some(owners) => owners.owner_core(key.tag()) as usize % self.lanes.len().max(1),
            None => 0,
        }
    }

    /// Allocates memory, rounded up to whole pages, and registers it with the target. Not for the hot path.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a connection, [`Error::Register`] if there is no memory or the target
    /// refuses it.
    pub fn register(&mut self, bytes: usize) -> Result<Memory, Error> {
        self.check_register(bytes)?;
        let link = self.link.as_mut().ok_or(Error::Disconnected)?;
        let mapping = link.allocate(bytes, self.options.hugepages)?;
        Ok(self.memories.add(mapping))
    }

    /// Registers memory of a device, such as a GPU, with the target: over RDMA, values then go between the network card
    /// and the device. The file is kept until it is [unregistered](Self::unregister_dma_buf). Not for the hot path.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a connection, [`Error::Register`] over other carriers than RDMA, and where
    /// libibverbs (34 or newer), the kernel's driver of the network card (5.12 or newer) or the device refuses it.
    pub fn register_dma_buf(&mut self, buffer: DmaBuf) -> Result<DeviceMemory, Error> {
        self.check_register(buffer.bytes)?;
        let link = self.link.as_mut().ok_or(Error::Disconnected)?;
        let iova = link.register_dma_buf(&buffer)?;
        Ok(self.memories.add_device(buffer, iova))
    }

    fn check_register(&self, bytes: usize) -> Result<(), Error> {
        if self.link.is_none() {
            return Err(Error::Disconnected);
        }
        if bytes == 0 || !self.memories.has_room() {
            let reason = if bytes == 0 { "there must be some" } else { "4096 registrations are the most" };
            return Err(Error::Register { bytes, reason: reason.to_owned() });
        }
        Ok(())
    }

    /// Takes memory away from the target. Its buffers are refused from then on; the handle still reads and writes.
    ///
    /// # Errors
    /// [`Error::MemoryBusy`] while commands in flight name it, [`Error::UnknownMemory`] for memory of another client
    /// or one that was unregistered before, or what the target answered.
    pub fn unregister(&mut self, memory: &Memory) -> Result<(), Error> {
        self.remove(memory.id)
    }

    /// Takes a device's memory away from the target. Its buffers are refused from then on.
    ///
    /// # Errors
    /// As [`unregister`](Self::unregister).
    pub fn unregister_dma_buf(&mut self, memory: &DeviceMemory) -> Result<(), Error> {
        self.remove(memory.id)
    }

    fn remove(&mut self, id: MemoryId) -> Result<(), Error> {
        let entry = self.memories.get(id).ok_or(Error::UnknownMemory)?;
        if entry.in_flight > 0 {
            return Err(Error::MemoryBusy { commands: entry.in_flight });
        }
        if let Some(link) = &mut self.link {
            entry.unregister(link)?;
        }
        self.memories.remove(id);
        Ok(())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("identity", &self.identity)
            .field("namespace", &self.namespace.nsid)
            .field("connected", &self.is_connected())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

fn find_namespace(link: &mut Carrier, wanted: u32) -> Result<NamespaceInfo, Error> {
    let namespaces = link.namespaces()?;
    match namespaces.iter().find(|namespace| namespace.nsid == wanted) {
        Some(found) => Ok(*found),
        None => Err(Error::Namespace { wanted, attached: namespaces.iter().map(|one| one.nsid).collect() }),
    }
}
