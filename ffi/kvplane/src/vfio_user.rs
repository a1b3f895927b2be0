//! The vfio-user carrier: a target on this machine, through shared memory.

use std::os::fd::BorrowedFd;
use std::path::Path;

use dataplane::Burst;
use dataplane::fabric::NamespaceInfo;
use dataplane::fabric::vfio_user::ConnectOptions as InitiatorOptions;
use dataplane::fabric::vfio_user::{ChannelError, ClientMemory, ConnectError, Initiator, InitiatorQueue, Iova};
use dataplane::nvme::spec::{Cqe, Sqe};

use crate::transport::{Backing, Mapping, Transport, queue_pairs};
use crate::wait::drain;
use crate::{ConnectOptions, Error, Identity};

/// A controller that this process drives.
pub(crate) struct VfioUser {
    initiator: Initiator,
    queues: Vec<InitiatorQueue>,
}

impl VfioUser {
    /// Connects to the target in a folder and opens a queue pair to each of its cores, or one if it says nothing of
    /// cores.
    pub fn connect(folder: &Path, options: &ConnectOptions) -> Result<Self, Error> {
        let failed = |error: ConnectError| Error::Connect {
            address: format!("vfio-user:{}", folder.display()),
            reason: match error {
                // Says once more what could not be connected to.
                ConnectError::Channel(ChannelError::Connect { source, .. }) => {
                    format!("{source}; is the daemon running, and does it listen there?")
                }
                error => error.to_string(),
            },
        };
        let how = InitiatorOptions { timeout: options.deadline };
        let mut initiator = Initiator::connect(folder, &how).map_err(failed)?;
        let identity = initiator.identity();
        let pairs = queue_pairs(identity, options.queue_depth)?;
        let mut queues = Vec::new();
        for _ in 0..pairs {
            queues.push(initiator.create_queue(u32::from(options.queue_depth), options.interrupt).map_err(failed)?);
        }
        Ok(Self { initiator, queues })
    }
}

impl Transport for VfioUser {
    fn identity(&self) -> Identity {
        Identity::from(self.initiator.identity())
    }

    fn namespaces(&mut self) -> Result<Vec<NamespaceInfo>, Error> {
        self.initiator.namespaces().map_err(asked)
    }

    fn queues(&self) -> usize {
        self.queues.len()
    }

    fn allocate(&mut self, bytes: usize, hugepages: bool) -> Result<Mapping, Error> {
        let failed = |reason: String| Error::Register { bytes, reason };
        let huge = hugepages.then(|| ClientMemory::new(bytes as u64, true).ok()).flatten();
        let memory = match huge {
            Some(memory) => memory,
            None => ClientMemory::new(bytes as u64, false).map_err(|error| failed(error.to_string()))?,
        };
        let iova = self.initiator.register(&memory).map_err(|error| failed(error.to_string()))?.0;
        Ok(Mapping { region: memory.region().clone(), iova, backing: Backing::VfioUser(memory) })
    }

    fn register_again(&mut self, mapping: &mut Mapping) -> Result<(), Error> {
        let bytes = mapping.region.bytes();
        match &mapping.backing {
            Backing::VfioUser(memory) => match self.initiator.register(memory) {
                Ok(iova) => mapping.iova = iova.0,
                Err(error) => return Err(Error::Register { bytes, reason: error.to_string() }),
            },
            _ => return Err(Error::UnknownMemory),
        }
        Ok(())
    }

    fn unregister(&mut self, mapping: &Mapping) -> Result<(), Error> {
        self.initiator.unregister(Iova(mapping.iova)).map_err(asked)
    }

    #[inline]
    fn push(&mut self, queue: usize, sqe: Sqe) -> Result<u16, Sqe> {
        self.queues[queue].push(sqe)
    }

    #[inline]
    fn ring(&mut self, queue: usize) {
        self.queues[queue].ring();
    }

    #[inline]
    fn poll(&mut self, queue: usize, completions: &mut Burst<Cqe>) {
        self.queues[queue].poll(completions);
    }

    fn interrupt(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.queues[queue].eventfd()
    }

    fn interrupted(&self, queue: usize) {
        if let Some(eventfd) = self.queues[queue].eventfd() {
            drain(eventfd);
        }
    }

    fn is_alive(&mut self) -> bool {
        self.initiator.is_alive()
    }

    fn strays(&self) -> u64 {
        self.queues.iter().map(InitiatorQueue::stray_completions).sum()
    }
}

/// What a living connection answered to a question that is not about values.
fn asked(error: ConnectError) -> Error {
    match error {
        ConnectError::Admin { status, .. } => Error::Status(status),
        ConnectError::TimedOut { .. } => Error::TimedOut,
        ConnectError::Channel(_) | ConnectError::Failed => Error::Disconnected,
        _ => Error::Protocol("it refused a question that every controller answers"),
    }
}
