//! Write placement hints: which placement identifier a write of each kind carries (base, "Flexible Data Placement").
//!
//! A namespace's identifiers stand in the status of its reclaim unit handles, which is an I/O command, so the queue asks
//! for it itself before it goes to its core.

use std::time::{Duration, Instant};

use super::OpenError;
use super::dma_memory::DmaMemory;
use super::queue::VfioQueue;
use super::registers::PAGE_BYTES;
use crate::Burst;
use crate::nvme::spec::nvm;
use crate::nvme::{BlockIo, BlockOp, BlockQueue, WriteHint};

const NAP: Duration = Duration::from_micros(50);

impl VfioQueue {
    /// Asks which placements there are, and uses them from then on. A namespace that has none, or only one, is written to
    /// without. Waits for the controller; the queue must be fresh.
    pub(super) fn learn_placements(&mut self, limit: Duration) -> Result<(), OpenError> {
        let memory = DmaMemory::new(PAGE_BYTES as usize, &self.shared.space).map_err(OpenError::Memory)?;
        if self.ask(nvm::handle_status(self.nsid, memory.iova(), PAGE_BYTES as u32), limit)? {
            let mut status = [0; PAGE_BYTES as usize];
            let _ = memory.region().read(0, &mut status);
            let identifiers: Vec<u16> = nvm::placement_identifiers(&status).collect();
            self.set_placements(&identifiers);
        }
        memory.unmap(&self.shared.space).map_err(OpenError::Memory)
    }

    fn set_placements(&mut self, identifiers: &[u16]) {
        let Some(last) = identifiers.len().checked_sub(1).filter(|last| *last > 0) else { return };
        for (kind, placement) in self.placements.iter_mut().skip(1).take(usize::from(WriteHint::KINDS)).enumerate() {
            *placement = nvm::placement(identifiers[kind.min(last)]);
        }
    }

    /// Carries out a command that is no block command; whether it succeeded.
    fn ask(&mut self, sqe: crate::nvme::spec::Sqe, limit: Duration) -> Result<bool, OpenError> {
        let Some(index) = self.free.pop() else { return Ok(false) };
        // A flush to the rest of the queue: it names no memory.
        let memory = crate::memory::DmaSlice::EMPTY;
        self.slots[usize::from(index)].io = BlockIo { op: BlockOp::Flush, lba: 0, blocks: 0, memory, token: 0 };
        let mut sqe = sqe;
        sqe.set_cid(self.rename(index, 0));
        self.put(sqe.to_quadwords());
        self.ring();
        let deadline = Instant::now() + limit;
        loop {
            let mut done = Burst::new();
            self.poll(&mut done);
            if let Some(done) = done.first() {
                return Ok(done.result.is_ok());
            }
            if Instant::now() > deadline {
                // The queue is deleted with it, and the page stays mapped until the controller was stopped.
                return Err(OpenError::TimedOut { what: "tell its placement handles", waited: limit, csts: 0 });
            }
            std::thread::sleep(NAP);
        }
    }
}
