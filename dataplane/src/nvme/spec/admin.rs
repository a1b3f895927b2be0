//! Admin commands that a host sends (base, "Admin Command Set").

use super::Sqe;

/// Opcodes.
pub mod opcode {
    /// Delete I/O Submission Queue.
    pub const DELETE_SQ: u8 = 0x00;
    /// Create I/O Submission Queue.
    pub const CREATE_SQ: u8 = 0x01;
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue.
    pub const DELETE_CQ: u8 = 0x04;
    /// Create I/O Completion Queue.
    pub const CREATE_CQ: u8 = 0x05;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0A;
    /// Asynchronous Event Request.
    pub const ASYNC_EVENT: u8 = 0x0C;
    /// Keep Alive.
    pub const KEEP_ALIVE: u8 = 0x18;
    /// Doorbell Buffer Config.
    pub const DOORBELL_BUFFER_CONFIG: u8 = 0x7C;
}

/// Identify: which structure (CNS).
pub mod cns {
    /// A namespace, NVM command set.
    pub const NAMESPACE: u8 = 0x00;
    /// The controller.
    pub const CONTROLLER: u8 = 0x01;
    /// The list of active namespaces.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
}

/// Feature identifiers.
pub mod feature {
    /// Number of Queues.
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENT_CONFIGURATION: u8 = 0x0B;
    /// Keep Alive Timer.
    pub const KEEP_ALIVE_TIMER: u8 = 0x0F;
}

/// Log page identifiers.
pub mod log {
    /// Error Information.
    pub const ERROR: u8 = 0x01;
    /// SMART / Health Information.
    pub const HEALTH: u8 = 0x02;
    /// Changed Attached Namespace List.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Discovery.
    pub const DISCOVERY: u8 = 0x70;
}

/// Identify, of one structure of 4096 bytes.
#[must_use]
pub const fn identify(cns: u8, nsid: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode::IDENTIFY, 0);
    sqe.set_nsid(nsid);
    sqe.set_dword(10, cns as u32);
    sqe
}

/// Get Log Page, from its beginning, of the whole controller; `bytes` is a multiple of 4.
#[must_use]
pub const fn get_log_page(page: u8, bytes: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode::GET_LOG_PAGE, 0);
    sqe.set_nsid(u32::MAX);
    let dwords = (bytes / 4).wrapping_sub(1);
    // NUMDL in bits 31:16; RAE (bit 15) stays 0, so reading it re-arms the event that it belongs to.
    sqe.set_dword(10, (page as u32) | ((dwords & 0xFFFF) << 16));
    sqe.set_dword(11, dwords >> 16);
    sqe
}

/// Get Log Page of a part of a log, from byte `offset` on, which is a multiple of 4. `retain`: the event that the log
/// belongs to stays reported, because the host is not through with it.
#[must_use]
pub const fn get_log_part(page: u8, bytes: u32, offset: u64, retain: bool) -> Sqe {
    let mut sqe = get_log_page(page, bytes);
    sqe.set_dword(10, sqe.dword(10) | ((retain as u32) << 15));
    sqe.set_quadword(12, offset);
    sqe
}

/// Keep Alive.
#[must_use]
pub const fn keep_alive() -> Sqe {
    Sqe::new(opcode::KEEP_ALIVE, 0)
}

/// Set Features, not saved.
#[must_use]
pub const fn set_features(feature: u8, dword11: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode::SET_FEATURES, 0);
    sqe.set_dword(10, feature as u32);
    sqe.set_dword(11, dword11);
    sqe
}

/// Create I/O Completion Queue: contiguous, without interrupts, `entries` (2 to 65,536) entries at `address`.
#[must_use]
pub const fn create_cq(qid: u16, entries: u32, address: u64) -> Sqe {
    let mut sqe = Sqe::new(opcode::CREATE_CQ, 0);
    sqe.set_prp(address, 0);
    sqe.set_dword(10, (qid as u32) | ((entries - 1) << 16));
    sqe.set_dword(11, 1);
    sqe
}

/// Create I/O Submission Queue: contiguous, completing into the completion queue of the same identifier.
#[must_use]
pub const fn create_sq(qid: u16, entries: u32, address: u64) -> Sqe {
    let mut sqe = Sqe::new(opcode::CREATE_SQ, 0);
    sqe.set_prp(address, 0);
    sqe.set_dword(10, (qid as u32) | ((entries - 1) << 16));
    sqe.set_dword(11, 1 | ((qid as u32) << 16));
    sqe
}

/// Delete I/O Submission Queue or Delete I/O Completion Queue.
#[must_use]
pub const fn delete_queue(opcode: u8, qid: u16) -> Sqe {
    let mut sqe = Sqe::new(opcode, 0);
    sqe.set_dword(10, qid as u32);
    sqe
}

/// Abort of one command of an I/O queue.
#[must_use]
pub const fn abort(sqid: u16, cid: u16) -> Sqe {
    let mut sqe = Sqe::new(opcode::ABORT, 0);
    sqe.set_dword(10, (sqid as u32) | ((cid as u32) << 16));
    sqe
}

/// Doorbell Buffer Config: the page that doorbells are written to, and the one that says when to ring.
#[must_use]
pub const fn doorbell_buffers(shadow: u64, event_index: u64) -> Sqe {
    let mut sqe = Sqe::new(opcode::DOORBELL_BUFFER_CONFIG, 0);
    sqe.set_prp(shadow, event_index);
    sqe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let sqe = get_log_page(log::HEALTH, 512);
        assert_eq!((sqe.opcode(), sqe.nsid(), sqe.dword(10), sqe.dword(11)), (2, u32::MAX, 0x007F_0002, 0));
        let sqe = get_log_part(log::DISCOVERY, 1024, 0x1_0000_0400, true);
        assert_eq!((sqe.dword(10), sqe.dword(12), sqe.dword(13)), (0x00FF_8070, 0x400, 1));
        assert_eq!(keep_alive().opcode(), 0x18);
        let sqe = create_sq(3, 64, 0x1000);
        assert_eq!(
            (sqe.opcode(), sqe.quadword(6), sqe.dword(10), sqe.dword(11)),
            (1, 0x1000, 0x003F_0003, 0x0003_0001)
        );
        let sqe = abort(2, 0x1234);
        assert_eq!((sqe.opcode(), sqe.dword(10)), (8, 0x1234_0002));
        let sqe = identify(cns::NAMESPACE, 5);
        assert_eq!((sqe.opcode(), sqe.nsid(), sqe.dword(10)), (6, 5, 0));
    }
}
