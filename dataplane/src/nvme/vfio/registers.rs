//! The controller's registers, as bits (base, "Controller Properties").

use std::time::Duration;

/// Offsets in BAR0.
pub mod offset {
    /// Controller Capabilities, 64 bits.
    pub const CAP: u32 = 0x00;
    /// Version.
    pub const VS: u32 = 0x08;
    /// Controller Configuration.
    pub const CC: u32 = 0x14;
    /// Controller Status.
    pub const CSTS: u32 = 0x1C;
    /// Admin Queue Attributes.
    pub const AQA: u32 = 0x24;
    /// Admin Submission Queue Base Address, 64 bits.
    pub const ASQ: u32 = 0x28;
    /// Admin Completion Queue Base Address, 64 bits.
    pub const ACQ: u32 = 0x30;
    /// Controller Ready Timeouts.
    pub const CRTO: u32 = 0x68;
    /// The first doorbell.
    pub const DOORBELLS: u32 = 0x1000;
}

/// What every register of a function that is gone reads as.
pub const GONE: u32 = u32::MAX;

/// CAP.TO and CRTO count these.
const TIMEOUT_UNIT: Duration = Duration::from_millis(500);
/// The most that CAP.TO can say, and the most that CRTO, which can say 9 hours, is believed.
const MAX_TIMEOUT_UNITS: u32 = 255;

/// Bytes of the pages that the driver tells the controller to use.
pub const PAGE_BYTES: u64 = 4096;

/// CAP: what the controller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Entries of the longest queue (MQES, which is zero-based).
    #[must_use]
    pub const fn max_queue_entries(self) -> u32 {
        (self.0 & 0xFFFF) as u32 + 1
    }

    /// The longest that a change of readiness takes, in units of 500 ms (TO).
    #[must_use]
    pub const fn timeout_units(self) -> u32 {
        ((self.0 >> 24) & 0xFF) as u32
    }

    /// Bytes from one doorbell to the next (DSTRD).
    #[must_use]
    pub const fn doorbell_stride(self) -> u64 {
        4 << ((self.0 >> 32) & 0xF)
    }

    /// Whether it has a reset of the whole subsystem, and CSTS tells of one (NSSRS).
    #[must_use]
    pub const fn subsystem_reset(self) -> bool {
        self.0 & (1 << 36) != 0
    }

    /// Whether it speaks the NVM command set (CSS bit 0).
    #[must_use]
    pub const fn nvm_command_set(self) -> bool {
        self.0 & (1 << 37) != 0
    }

    /// Whether Identify tells its command sets (CSS bit 6).
    #[must_use]
    pub const fn many_command_sets(self) -> bool {
        self.0 & (1 << 43) != 0
    }

    /// Bytes of its smallest page (MPSMIN).
    #[must_use]
    pub const fn min_page_bytes(self) -> u64 {
        4096 << ((self.0 >> 48) & 0xF)
    }

    /// How long a change of readiness may take: the longer of CAP.TO and, if there is such a register, CRTO.CRWMT (ready
    /// with media), within two minutes or so.
    #[must_use]
    pub fn ready_limit(self, crto: u32) -> Duration {
        let with_media = if self.has_ready_timeouts() { crto & 0xFFFF } else { 0 };
        TIMEOUT_UNIT * self.timeout_units().max(with_media).clamp(1, MAX_TIMEOUT_UNITS)
    }

    /// Whether the register CRTO exists (CRMS).
    #[must_use]
    pub const fn has_ready_timeouts(self) -> bool {
        (self.0 >> 59) & 0b11 != 0
    }
}

/// CSTS: how the controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerStatus(pub u32);

impl ControllerStatus {
    /// Whether it takes commands (RDY).
    #[must_use]
    pub const fn ready(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it gave up (CFS).
    #[must_use]
    pub const fn fatal(self) -> bool {
        self.0 & (1 << 1) != 0
    }

    /// Whether it finished shutting down (SHST = 10b).
    #[must_use]
    pub const fn shut_down(self) -> bool {
        (self.0 >> 2) & 0b11 == 0b10
    }

    /// Whether the subsystem was reset while it had power, and nobody took note yet (NSSRO).
    #[must_use]
    pub const fn subsystem_was_reset(self) -> bool {
        self.0 & CSTS_SUBSYSTEM_RESET != 0
    }

    /// Whether it is not there at all: all ones is no state of a controller.
    #[must_use]
    pub const fn gone(self) -> bool {
        self.0 == GONE
    }
}

/// CSTS.NSSRO, which is cleared by writing it.
pub const CSTS_SUBSYSTEM_RESET: u32 = 1 << 4;
/// CC: enable.
pub const CC_ENABLE: u32 = 1;
/// CC.SHN: shut down in order.
pub const CC_SHUTDOWN_NORMAL: u32 = 0b01 << 14;
const CC_SHUTDOWN_MASK: u32 = 0b11 << 14;

/// The configuration that enables a controller: entries of 64 and 16 bytes, pages of 4096 bytes, round robin.
#[must_use]
pub const fn enabling(capabilities: Capabilities) -> u32 {
    // CSS: 000b is the NVM command set, 110b whatever Identify tells.
    let command_sets = if capabilities.nvm_command_set() { 0 } else { 0b110 << 4 };
    (4 << 20) | (6 << 16) | command_sets | CC_ENABLE
}

/// A configuration with the wish to shut down.
#[must_use]
pub const fn shutting_down(configuration: u32) -> u32 {
    (configuration & !CC_SHUTDOWN_MASK) | CC_SHUTDOWN_NORMAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        // QEMU's controller: MQES 2047, CQR, TO 15, CSS 1 and 6, CMBS and more; and NSSRS.
        let cap = Capabilities(0x0204_0030_0F01_07FF | 1 << 43);
        assert_eq!(cap.max_queue_entries(), 2048);
        assert_eq!(cap.timeout_units(), 15);
        assert_eq!(cap.doorbell_stride(), 4);
        assert!(cap.nvm_command_set() && cap.many_command_sets() && !cap.has_ready_timeouts());
        assert_eq!(Capabilities(1 << 48 | 2 << 32).min_page_bytes(), 8192);
        assert_eq!(Capabilities(1 << 48 | 2 << 32).doorbell_stride(), 16);
        assert!(cap.subsystem_reset() && !Capabilities(!(1 << 36)).subsystem_reset());
        let csts = ControllerStatus(0b1011);
        assert!(ControllerStatus(0x10).subsystem_was_reset() && !csts.subsystem_was_reset());
        assert!(csts.ready() && csts.fatal() && csts.shut_down() && !csts.gone());
        assert_eq!(enabling(cap), 0x0046_0001);
        assert_eq!(enabling(Capabilities(1 << 43)), 0x0046_0061);
        assert_eq!(shutting_down(0x0046_8001), 0x0046_4001);
    }

    #[test]
    fn nobody_waits_for_hours() {
        let limit = |cap: u64, crto| Capabilities(cap).ready_limit(crto).as_millis();
        let crms = 1 << 59;
        assert_eq!((limit(0, 0), limit(15 << 24, 0), limit(255 << 24, 0)), (500, 7500, 127_500));
        assert_eq!(limit(15 << 24, 100), 7500, "there is no such register");
        assert_eq!((limit(crms | 15 << 24, 100), limit(crms | 255 << 24, 100)), (50_000, 127_500));
        assert_eq!(
            (limit(crms, 0xFFFF), limit(crms, u32::MAX), limit(u64::MAX, u32::MAX)),
            (127_500, 127_500, 127_500)
        );
    }
}
