//! One client: its socket, its controller, its memory. Runs on a thread of its own.

mod admin_queue;
mod device;
mod interrupts;

use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::fabric::controller::{Controller, ControllerLimits, RegisterEffect};
use crate::fabric::{CorePort, Session};

use super::super::pci::{BAR4_BYTES, ConfigSpace};
use super::super::shared_memory::SharedMemory;
use super::super::socket::{self, Assembler, Inbound, ReceiveError};
use super::super::wire::{Message, Request, decode_request};
use super::super::{BAR0_BYTES, MAX_IO_QUEUES, VECTORS};
use super::dma::{AskError, ClientMemoryMap, Cores, DmaLimits};
use super::link::Link;
use super::orders::{CoreCommand, Order};
use admin_queue::AdminQueue;
use interrupts::Interrupts;

/// How long a client may take until it has negotiated the protocol's version.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait for messages before looking at the admin doorbell, in milliseconds: after activity, and at most.
const WAIT_MS: (i32, i32) = (1, 20);

/// What a connection is given by its target.
pub(super) struct Terms {
    pub cores: Arc<dyn CorePort<CoreCommand>>,
    pub max_queue_entries: u32,
    pub dma: DmaLimits,
    pub stop: Arc<AtomicBool>,
}

/// A client and everything that belongs to it.
pub(super) struct Connection {
    stream: Arc<UnixStream>,
    assembler: Assembler,
    negotiated: bool,
    controller: Controller,
    config: ConfigSpace,
    msix_table: Vec<u8>,
    /// BAR0 as the client may map it; only the page of doorbells is used.
    doorbells: SharedMemory,
    link: Arc<Link>,
    interrupts: Interrupts,
    memory: ClientMemoryMap,
    cores: Cores,
    admin: Option<AdminQueue>,
    generation: u64,
    /// Memory requests refused so far, to bound the log.
    refusals: u32,
    stop: Arc<AtomicBool>,
    /// Ends last: only when the cores have forgotten it, and never if one of them did not.
    session: Arc<dyn Session>,
}

impl Connection {
    pub(super) fn new(stream: Arc<UnixStream>, session: Box<dyn Session>, terms: Terms) -> std::io::Result<Self> {
        let cores = Cores::new(terms.cores, session.id());
        let limits = ControllerLimits {
            max_queue_entries: terms.max_queue_entries,
            io_queues: MAX_IO_QUEUES,
            vectors: VECTORS,
            cores: cores.count(),
            fabrics: None,
        };
        Ok(Self {
            stream,
            assembler: Assembler::default(),
            negotiated: false,
            generation: session.generation(),
            controller: Controller::new(session.identity(), session.namespaces(), limits),
            config: ConfigSpace::default(),
            msix_table: vec![0; BAR4_BYTES as usize],
            doorbells: SharedMemory::create("kvplane-bar0", BAR0_BYTES, false)?,
            link: Arc::new(Link::new()?),
            interrupts: Interrupts::default(),
            memory: ClientMemoryMap::new(terms.dma),
            cores,
            admin: None,
            refusals: 0,
            stop: terms.stop,
            session: Arc::from(session),
        })
    }

    /// Serves the client until it leaves, breaks the protocol, or the target stops.
    pub(super) fn run(mut self) {
        let session = self.session.id().0;
        match self.serve() {
            Ok(()) => info!(session, "vfio-user client disconnected by the target"),
            Err(ReceiveError::Closed) => info!(session, "vfio-user client left"),
            Err(error) => warn!(session, %error, "vfio-user client was disconnected"),
        }
    }

    fn serve(&mut self) -> Result<(), ReceiveError> {
        let deadline = Instant::now() + HANDSHAKE;
        let mut wait_ms = WAIT_MS.0;
        while !self.stop.load(Ordering::Acquire) {
            let [readable, _woken] = socket::wait_readable([self.stream.as_fd(), self.link.fd()], wait_ms)?;
            let mut active = false;
            if readable {
                while let Some(inbound) = self.assembler.receive(&self.stream)? {
                    self.answer(inbound)?;
                    active = true;
                }
            }
            if !self.negotiated && Instant::now() > deadline {
                return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            }
            self.interrupts.deliver(&self.link);
            active |= self.poll_controller();
            if self.memory.poisoned() {
                // Zeros stand in for what it took away; there is no going on from there.
                return Err(ReceiveError::MemoryGone);
            }
            wait_ms = if active { WAIT_MS.0 } else { (wait_ms * 2).min(WAIT_MS.1) };
        }
        Ok(())
    }

    /// Decodes a message, carries it out, replies.
    fn answer(&mut self, inbound: Inbound) -> std::io::Result<()> {
        let Inbound { header, payload, fds } = inbound;
        let outcome = match decode_request(&header, &payload) {
            Ok(request) if self.negotiated != matches!(request, Request::Version { .. }) => {
                self.carry_out(&header, request, fds)
            }
            Ok(_) => Err(libc::EINVAL as u32),
            Err(error) => {
                debug!(%error, "vfio-user message refused");
                Err(error.errno())
            }
        };
        if !header.wants_reply() {
            return Ok(());
        }
        match outcome {
            Ok(reply) => {
                let fds: Vec<_> = reply.with_doorbells.then(|| self.doorbells.fd()).into_iter().collect();
                socket::send(&self.stream, &reply.message.finish(), &fds)
            }
            Err(errno) => socket::send(&self.stream, &Message::error(&header, errno).finish(), &[]),
        }
    }

    /// Looks after everything that does not come by message. Says whether there was anything.
    fn poll_controller(&mut self) -> bool {
        for _ in 0..self.link.take_faults().min(1) {
            self.controller.invalid_doorbell();
        }
        let generation = self.session.generation();
        if generation != self.generation {
            self.generation = generation;
            self.controller.set_namespaces(self.session.namespaces());
        }
        self.poll_admin()
    }

    /// Does what a write to a property asks for.
    fn apply(&mut self, effect: RegisterEffect) {
        match effect {
            RegisterEffect::None | RegisterEffect::Ready => {}
            RegisterEffect::Enable(queues) => {
                self.admin = AdminQueue::new(self.memory.table(), &self.doorbells, &queues);
                if self.admin.is_none() {
                    warn!(session = self.session.id().0, "the admin queues are not in mapped memory");
                    self.controller.fail();
                }
            }
            RegisterEffect::Reset => {
                self.admin = None;
                self.end_queues();
            }
            RegisterEffect::Shutdown => {
                // With the doorbells back at zero, what still lies in its ring would look new and be executed again.
                self.admin = None;
                self.end_queues();
            }
        }
    }

    /// Ends the I/O queues on every core and waits for their commands. Says whether every core did.
    fn end_queues(&mut self) -> bool {
        let ended = self.cores.ask_all(|| Order::CloseQueues);
        if let Err(error) = &ended {
            warn!(session = self.session.id().0, %error, "the queues of a client could not be ended everywhere");
        }
        self.controller.queues_ended();
        // A queue made anew begins with doorbells of zero.
        for offset in (0..super::super::DOORBELL_BYTES).step_by(4) {
            if let Some(word) = self.doorbells.region().word32(super::super::DOORBELL_OFFSET + offset) {
                word.store(0, Ordering::Release);
            }
        }
        self.resume_if_allowed();
        ended.is_ok()
    }

    /// Stops new commands, waits for those in flight. All cores or none: if one cannot, the others go on.
    fn quiesce(&self) -> Result<(), AskError> {
        let quiet = self.cores.ask_all(|| Order::Quiesce);
        if quiet.is_err() {
            self.resume_if_allowed();
        }
        quiet
    }

    /// Lets commands begin again, unless the client has taken bus mastering away.
    fn resume_if_allowed(&self) {
        if self.config.bus_master()
            && let Err(error) = self.cores.ask_all(|| Order::Resume)
        {
            warn!(session = self.session.id().0, %error, "a core did not go on with a client");
        }
    }
}

impl Drop for Connection {
    /// Leaves nothing behind: no queue, no region, no slot. Also when the thread panics.
    ///
    /// Where a core did not do its part (it has stopped), the session is kept for good: were its number given to
    /// another client, that one would reach what the core still holds of this one.
    fn drop(&mut self) {
        // Kept until all went well, so that a panic in here keeps it too.
        let kept = ManuallyDrop::new(Arc::clone(&self.session));
        self.admin = None;
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let mut clean = self.end_queues();
        for iova in self.memory.addresses() {
            if let Err(error) = self.memory.unmap(&self.cores, iova) {
                warn!(session = self.session.id().0, %error, "memory of a client could not be given back");
            }
        }
        if let Err(error) = self.cores.ask_all(|| Order::Forget) {
            warn!(session = self.session.id().0, %error, "a core did not forget a client");
            clean = false;
        }
        if clean && !self.memory.kept() {
            drop(ManuallyDrop::into_inner(kept));
        } else {
            warn!(session = self.session.id().0, "a session is kept: a core may still know it");
        }
    }
}
