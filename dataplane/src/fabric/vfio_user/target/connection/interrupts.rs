//! The client's eventfds, one for each MSI-X vector.

use std::os::fd::{AsFd, OwnedFd};

use super::super::super::VECTORS;
use super::super::super::eventfd::{Signaller, is_eventfd, set_nonblocking};
use super::super::super::wire::irq;
use super::super::link::Link;

/// Which vectors are tied to an eventfd, and which are held back.
pub(super) struct Interrupts {
    fds: [Option<OwnedFd>; VECTORS as usize],
    masked: u64,
    /// Raised while masked: delivered with the unmasking.
    held: u64,
    signaller: Signaller,
}

impl Default for Interrupts {
    fn default() -> Self {
        Self { fds: [const { None }; VECTORS as usize], masked: 0, held: 0, signaller: Signaller::default() }
    }
}

impl Interrupts {
    fn connected(&self) -> u64 {
        self.fds.iter().enumerate().filter(|(_, fd)| fd.is_some()).fold(0, |bits, (vector, _)| bits | (1 << vector))
    }

    /// Signals the vectors that cores asked for.
    pub(super) fn deliver(&mut self, link: &Link) {
        let raised = link.take_raised() | self.held;
        self.held = raised & self.masked;
        self.signal(raised & !self.masked);
    }

    /// Raises a vector from this thread.
    pub(super) fn raise(&mut self, vector: u16) {
        let bit = 1u64 << (vector % VECTORS);
        self.held |= bit & self.masked;
        self.signal(bit & !self.masked);
    }

    fn signal(&mut self, vectors: u64) {
        for (vector, fd) in self.fds.iter().enumerate() {
            if let Some(fd) = fd
                && vectors & (1 << vector) != 0
            {
                self.signaller.signal(vector, fd.as_fd());
            }
        }
    }

    /// DEVICE_SET_IRQS for MSI-X; an errno if it makes no sense.
    pub(super) fn set(
        &mut self,
        flags: u32,
        range: (u32, u32),
        data: &[u8],
        fds: Vec<OwnedFd>,
        link: &Link,
    ) -> Result<(), u32> {
        let invalid = libc::EINVAL as u32;
        let (start, count) = range;
        let end = start.checked_add(count).filter(|&end| end <= u32::from(VECTORS)).ok_or(invalid)?;
        let (start, end) = (start as usize, end as usize);
        let vectors = (start..end).fold(0u64, |bits, vector| bits | (1 << vector));
        let chosen = match flags & (irq::DATA_NONE | irq::DATA_BOOL | irq::DATA_EVENTFD) {
            irq::DATA_NONE | irq::DATA_EVENTFD => vectors,
            irq::DATA_BOOL => {
                let bytes = data.get(..count as usize).ok_or(invalid)?;
                bytes
                    .iter()
                    .zip(start..end)
                    .filter(|(on, _)| **on != 0)
                    .fold(0, |bits, (_, vector)| bits | (1 << vector))
            }
            _ => return Err(invalid),
        };
        let eventfds = flags & irq::DATA_EVENTFD != 0;
        match flags & (irq::ACTION_MASK | irq::ACTION_UNMASK | irq::ACTION_TRIGGER) {
            irq::ACTION_MASK if !eventfds => self.masked |= chosen,
            irq::ACTION_UNMASK if !eventfds => {
                self.masked &= !chosen;
                self.deliver(link);
            }
            irq::ACTION_TRIGGER if eventfds => self.connect(start..end, fds)?,
            // No vectors at all: all eventfds are given back.
            irq::ACTION_TRIGGER if count == 0 => {
                self.signaller.forget();
                self.fds = [const { None }; VECTORS as usize];
            }
            irq::ACTION_TRIGGER => self.signal(chosen),
            _ => return Err(invalid),
        }
        link.arm(self.connected());
        Ok(())
    }

    /// Ties eventfds to vectors; without any, unties the vectors.
    fn connect(&mut self, vectors: std::ops::Range<usize>, fds: Vec<OwnedFd>) -> Result<(), u32> {
        if !fds.is_empty() && fds.len() != vectors.len() {
            return Err(libc::EINVAL as u32);
        }
        for fd in &fds {
            // A pipe or a file of FUSE could make a write wait, whatever its flags, and no ring signals them.
            if !is_eventfd(fd.as_fd()) {
                return Err(libc::EINVAL as u32);
            }
            set_nonblocking(fd.as_fd()).map_err(|_| libc::EINVAL as u32)?;
        }
        self.signaller.forget();
        let mut fds = fds.into_iter();
        for vector in vectors {
            self.fds[vector] = fds.next();
        }
        Ok(())
    }

    /// Forgets everything, as a reset does.
    pub(super) fn reset(&mut self, link: &Link) {
        *self = Self::default();
        link.arm(0);
    }
}
