//! Controller properties (base, "Controller Properties") and the enable, disable and shutdown of the controller.

use crate::nvme::spec::Status;

use super::Kind;

/// Offsets of the properties.
pub mod offset {
    /// Controller capabilities, 64 bits.
    pub const CAP: u64 = 0x00;
    /// Version.
    pub const VS: u64 = 0x08;
    /// Interrupt mask set.
    pub const INTMS: u64 = 0x0C;
    /// Interrupt mask clear.
    pub const INTMC: u64 = 0x10;
    /// Controller configuration.
    pub const CC: u64 = 0x14;
    /// Controller status.
    pub const CSTS: u64 = 0x1C;
    /// Admin queue attributes.
    pub const AQA: u64 = 0x24;
    /// Admin submission queue base address, 64 bits.
    pub const ASQ: u64 = 0x28;
    /// Admin completion queue base address, 64 bits.
    pub const ACQ: u64 = 0x30;
}

/// NVMe 2.0.
const VERSION: u32 = 0x0002_0000;
/// CAP.CQR: queues must be contiguous.
const CAP_CQR: u64 = 1 << 16;
/// CAP.TO: the controller is ready within this many half seconds.
const CAP_TO: u64 = 20 << 24;
/// CAP.CSS bit 0: NVM command set (what old drivers insist on).
const CAP_CSS_NVM: u64 = 1 << 37;
/// CAP.CSS bit 6: I/O command sets are told by Identify.
const CAP_CSS_MANY: u64 = 1 << 43;

const CC_ENABLE: u32 = 1;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 1 << 1;
const CSTS_SHUTDOWN: u32 = 0b11 << 2;
const CSTS_SHUTDOWN_DONE: u32 = 0b10 << 2;
/// CC bits that exist: EN, CSS, MPS, AMS, SHN, IOSQES, IOCQES.
const CC_MASK: u32 = 0x00FF_FFF1;

/// Where the admin queues lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdminQueues {
    /// Address of the submission queue.
    pub sq_address: u64,
    /// Its entries.
    pub sq_entries: u32,
    /// Address of the completion queue.
    pub cq_address: u64,
    /// Its entries.
    pub cq_entries: u32,
}

/// What a write to a property asks of the carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum RegisterEffect {
    /// Nothing.
    None,
    /// The controller was enabled: set the admin queues up, or call [`fail`](super::Controller::fail).
    Enable(AdminQueues),
    /// The controller of a message carrier was enabled. Its admin queue is connected already; it takes admin commands
    /// from now on.
    Ready,
    /// The controller was disabled: end every queue (a message carrier keeps the connection of its admin queue), then
    /// call [`queues_ended`](super::Controller::queues_ended).
    Reset,
    /// The host wants to leave: end every I/O queue, then call [`queues_ended`](super::Controller::queues_ended).
    Shutdown,
}

#[derive(Debug)]
pub(super) struct Registers {
    kind: Kind,
    cap: u64,
    interrupt_mask: u32,
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
}

impl Registers {
    pub(super) fn new(kind: Kind, max_queue_entries: u32) -> Self {
        let mqes = u64::from(max_queue_entries.clamp(2, 65_536) - 1);
        // A discovery controller has no I/O command set; hosts and targets agree on the bit for the NVM one there.
        let css = if kind == Kind::Discovery { CAP_CSS_NVM } else { CAP_CSS_NVM | CAP_CSS_MANY };
        let cap = mqes | CAP_CQR | CAP_TO | css;
        Self { kind, cap, interrupt_mask: 0, cc: 0, csts: 0, aqa: 0, asq: 0, acq: 0 }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.csts & (CSTS_READY | CSTS_FATAL) == CSTS_READY
    }

    /// Whether I/O queues may be connected: not while the controller is on its way to a reset, nor from a shutdown until
    /// the next one (base, "Controller Configuration": SHN).
    pub(super) fn takes_queues(&self) -> bool {
        self.is_ready() && self.cc & CC_ENABLE != 0 && !self.shutdown_asked()
    }

    pub(super) fn fail(&mut self) {
        self.csts |= CSTS_FATAL;
    }

    /// Every queue was ended: a reset or a shutdown is complete.
    pub(super) fn settle(&mut self) {
        if self.cc & CC_ENABLE == 0 {
            self.csts = 0;
        } else if self.shutdown_asked() {
            self.csts = (self.csts & !CSTS_SHUTDOWN) | CSTS_SHUTDOWN_DONE;
        }
    }

    fn shutdown_asked(&self) -> bool {
        (self.cc >> 14) & 0b11 != 0
    }

    /// The properties as bytes, up to the end of ACQ.
    fn bytes(&self) -> [u8; 0x38] {
        let mut bytes = [0; 0x38];
        let mut put = |at: u64, value: &[u8]| bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
        put(offset::CAP, &self.cap.to_le_bytes());
        put(offset::VS, &VERSION.to_le_bytes());
        put(offset::INTMS, &self.interrupt_mask.to_le_bytes());
        put(offset::INTMC, &self.interrupt_mask.to_le_bytes());
        put(offset::CC, &self.cc.to_le_bytes());
        put(offset::CSTS, &self.csts.to_le_bytes());
        put(offset::AQA, &self.aqa.to_le_bytes());
        put(offset::ASQ, &self.asq.to_le_bytes());
        put(offset::ACQ, &self.acq.to_le_bytes());
        bytes
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        let bytes = self.bytes();
        for (index, byte) in into.iter_mut().enumerate() {
            let at = offset.checked_add(index as u64).and_then(|at| usize::try_from(at).ok());
            *byte = at.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        }
    }

    /// A property as Property Get reads it (base, "Property Get": what is not defined for fabrics is reserved).
    pub(super) fn property(&self, offset: u32, size8: bool) -> Result<u64, Status> {
        match (u64::from(offset), size8) {
            (offset::CAP, true) => Ok(self.cap),
            (offset::VS, false) => Ok(u64::from(VERSION)),
            (offset::CC, false) => Ok(u64::from(self.cc)),
            (offset::CSTS, false) => Ok(u64::from(self.csts)),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// Property Set. Controller configuration is all that a host may set.
    pub(super) fn set_property(&mut self, offset: u32, size8: bool, value: u64) -> Result<RegisterEffect, Status> {
        if u64::from(offset) != offset::CC || size8 {
            return Err(Status::INVALID_FIELD);
        }
        Ok(self.configure(value as u32 & CC_MASK))
    }

    pub(super) fn write(&mut self, offset: u64, from: &[u8]) -> RegisterEffect {
        match *from {
            [a, b, c, d] if offset.is_multiple_of(4) => self.write32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if offset.is_multiple_of(8) => {
                let low = self.write32(offset, u32::from_le_bytes([a, b, c, d]));
                let high = self.write32(offset + 4, u32::from_le_bytes([e, f, g, h]));
                if low == RegisterEffect::None { high } else { low }
            }
            _ => RegisterEffect::None,
        }
    }

    fn write32(&mut self, offset: u64, value: u32) -> RegisterEffect {
        let low = |old: u64| (old & !0xFFFF_FFFF) | u64::from(value);
        let high = |old: u64| (old & 0xFFFF_FFFF) | (u64::from(value) << 32);
        // The queue attributes are only taken while the controller is disabled.
        let disabled = self.cc & CC_ENABLE == 0;
        match offset {
            offset::INTMS => self.interrupt_mask |= value,
            offset::INTMC => self.interrupt_mask &= !value,
            offset::CC => return self.configure(value & CC_MASK),
            offset::AQA if disabled => self.aqa = value & 0x0FFF_0FFF,
            offset::ASQ if disabled => self.asq = low(self.asq) & !0xFFF,
            0x2C if disabled => self.asq = high(self.asq),
            offset::ACQ if disabled => self.acq = low(self.acq) & !0xFFF,
            0x34 if disabled => self.acq = high(self.acq),
            _ => {}
        }
        RegisterEffect::None
    }

    fn configure(&mut self, value: u32) -> RegisterEffect {
        let before = std::mem::replace(&mut self.cc, value);
        let (was, is) = (before & CC_ENABLE != 0, value & CC_ENABLE != 0);
        if !was && is {
            return self.enable();
        }
        if was && !is {
            return RegisterEffect::Reset;
        }
        if is && self.shutdown_asked() && self.csts & CSTS_SHUTDOWN == 0 {
            // Shutdown processing is occurring, until the carrier says that it is complete.
            self.csts |= 0b01 << 2;
            return RegisterEffect::Shutdown;
        }
        RegisterEffect::None
    }

    fn enable(&mut self) -> RegisterEffect {
        let css = (self.cc >> 4) & 0b111;
        let page_size = (self.cc >> 7) & 0b1111;
        let arbitration = (self.cc >> 11) & 0b111;
        let (sq_entries, cq_entries) = ((self.aqa & 0xFFF) + 1, ((self.aqa >> 16) & 0xFFF) + 1);
        let queues = sq_entries >= 2 && cq_entries >= 2 && self.asq != 0 && self.acq != 0;
        // CAP.CSS has a bit for each value of CC.CSS that there is.
        let command_set = self.cap & (1 << (37 + css)) != 0;
        let valid = command_set && page_size == 0 && arbitration == 0 && (queues || self.kind != Kind::Memory);
        if !valid {
            self.csts |= CSTS_FATAL;
            return RegisterEffect::None;
        }
        self.csts = CSTS_READY;
        match self.kind {
            Kind::Memory => {
                let (sq_address, cq_address) = (self.asq, self.acq);
                RegisterEffect::Enable(AdminQueues { sq_address, sq_entries, cq_address, cq_entries })
            }
            Kind::Fabrics | Kind::Discovery => RegisterEffect::Ready,
        }
    }
}
