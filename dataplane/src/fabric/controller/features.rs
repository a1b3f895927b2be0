//! Get Features and Set Features (base, "Features").

use crate::fabric::Completion;
use crate::nvme::spec::{Sqe, Status};

use super::{ControllerLimits, Kind};

mod fid {
    pub(super) const ARBITRATION: u8 = 0x01;
    pub(super) const POWER_MANAGEMENT: u8 = 0x02;
    pub(super) const TEMPERATURE_THRESHOLD: u8 = 0x04;
    pub(super) const ERROR_RECOVERY: u8 = 0x05;
    pub(super) const VOLATILE_WRITE_CACHE: u8 = 0x06;
    pub(super) const NUMBER_OF_QUEUES: u8 = 0x07;
    pub(super) const INTERRUPT_COALESCING: u8 = 0x08;
    pub(super) const INTERRUPT_VECTOR: u8 = 0x09;
    pub(super) const WRITE_ATOMICITY: u8 = 0x0A;
    pub(super) const ASYNC_EVENTS: u8 = 0x0B;
    pub(super) const KEEP_ALIVE: u8 = 0x0F;
    pub(super) const COMMAND_SET_PROFILE: u8 = 0x19;
}

/// Asynchronous event configuration: namespace attribute notices.
const NAMESPACE_NOTICES: u32 = 1 << 8;
/// Asynchronous event configuration: discovery log page change notices.
const DISCOVERY_NOTICES: u32 = 1 << 31;
/// The unit of keep alive timeouts, in milliseconds: Identify Controller KAS.
pub(super) const KEEP_ALIVE_UNIT_MS: u32 = 1000;
/// Composite temperature, in kelvin, at which a drive would warn. There is no drive behind it, so it never does.
const DEFAULT_THRESHOLD: u32 = 0x0157;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Values {
    arbitration: u32,
    threshold: Option<u32>,
    error_recovery: u32,
    coalescing: u32,
    write_atomicity: u32,
    async_events: u32,
    keep_alive: u32,
}

#[derive(Debug)]
pub(super) struct Features {
    kind: Kind,
    defaults: Values,
    values: Values,
}

/// A keep alive timeout rounded up to whole units.
fn whole_units(timeout_ms: u32) -> u32 {
    let most = u32::MAX - u32::MAX % KEEP_ALIVE_UNIT_MS;
    timeout_ms.checked_next_multiple_of(KEEP_ALIVE_UNIT_MS).unwrap_or(most)
}

impl Features {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, defaults: Values::default(), values: Values::default() }
    }

    /// Back to the defaults.
    pub(super) fn reset(&mut self) {
        self.values = self.defaults;
    }

    /// Connect's timeout is the default of the feature.
    pub(super) fn set_connected_keep_alive(&mut self, timeout_ms: u32) {
        self.defaults.keep_alive = whole_units(timeout_ms);
        self.values.keep_alive = self.defaults.keep_alive;
    }

    pub(super) fn keep_alive_ms(&self) -> Option<u64> {
        Some(u64::from(self.values.keep_alive)).filter(|timeout| *timeout > 0)
    }

    pub(super) fn discovery_events(&self) -> bool {
        self.values.async_events & DISCOVERY_NOTICES != 0
    }

    /// Whether the kind of controller has a feature.
    fn has(&self, fid: u8) -> bool {
        match self.kind {
            Kind::Memory => true,
            // Interrupts are a matter of PCI Express.
            Kind::Fabrics => !matches!(fid, fid::INTERRUPT_COALESCING | fid::INTERRUPT_VECTOR),
            Kind::Discovery => matches!(fid, fid::ASYNC_EVENTS | fid::KEEP_ALIVE),
        }
    }

    pub(super) fn namespace_events(&self) -> bool {
        self.values.async_events & NAMESPACE_NOTICES != 0
    }

    fn current(values: &Values, fid: u8, dword11: u32, limits: &ControllerLimits) -> Option<u32> {
        Some(match fid {
            fid::ARBITRATION => values.arbitration,
            fid::POWER_MANAGEMENT | fid::COMMAND_SET_PROFILE => 0,
            fid::TEMPERATURE_THRESHOLD => values.threshold.unwrap_or(DEFAULT_THRESHOLD),
            fid::ERROR_RECOVERY => values.error_recovery,
            // Durability is a matter of namespaces and of the store below, which flushes by itself.
            fid::VOLATILE_WRITE_CACHE => 0,
            fid::NUMBER_OF_QUEUES => {
                let most = u32::from(limits.io_queues).saturating_sub(1);
                most | (most << 16)
            }
            fid::INTERRUPT_COALESCING => values.coalescing,
            fid::INTERRUPT_VECTOR => dword11 & 0xFFFF,
            fid::WRITE_ATOMICITY => values.write_atomicity,
            fid::ASYNC_EVENTS => values.async_events,
            fid::KEEP_ALIVE => values.keep_alive,
            _ => return None,
        })
    }

    /// Get Features.
    pub(super) fn get(&self, sqe: &Sqe, limits: &ControllerLimits) -> Result<Completion, Status> {
        let (fid, select) = (sqe.dword(10) as u8, (sqe.dword(10) >> 8) & 0b111);
        if !self.has(fid) {
            return Err(Status::INVALID_FIELD);
        }
        let values = match select {
            0 => &self.values,
            // Default and saved values; nothing is saveable, so saved ones are the defaults.
            1 | 2 => &self.defaults,
            3 => {
                // Supported capabilities: bit 2 changeable; nothing is saveable or specific to a namespace.
                let changeable = u32::from(!matches!(fid, fid::VOLATILE_WRITE_CACHE));
                Self::current(&self.values, fid, 0, limits).ok_or(Status::INVALID_FIELD)?;
                return Ok(Completion::success(changeable << 2, 0));
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        let value = Self::current(values, fid, sqe.dword(11), limits).ok_or(Status::INVALID_FIELD)?;
        Ok(Completion::success(value, 0))
    }

    /// Set Features. `queues_exist`: whether an I/O queue was made since the last reset.
    pub(super) fn set(
        &mut self,
        sqe: &Sqe,
        limits: &ControllerLimits,
        queues_exist: bool,
    ) -> Result<Completion, Status> {
        if sqe.dword(10) & (1 << 31) != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        let value = sqe.dword(11);
        let fid = sqe.dword(10) as u8;
        if !self.has(fid) {
            return Err(Status::INVALID_FIELD);
        }
        match fid {
            fid::ARBITRATION => self.values.arbitration = value,
            fid::POWER_MANAGEMENT if value & 0x1F == 0 => {}
            fid::TEMPERATURE_THRESHOLD => self.values.threshold = Some(value),
            fid::ERROR_RECOVERY => self.values.error_recovery = value & 0xFFFF,
            fid::VOLATILE_WRITE_CACHE => return Err(Status::FEATURE_NOT_CHANGEABLE),
            fid::NUMBER_OF_QUEUES => return Self::number_of_queues(value, limits, queues_exist),
            fid::INTERRUPT_COALESCING => self.values.coalescing = value & 0xFFFF,
            fid::INTERRUPT_VECTOR if value & 0xFFFF < u32::from(limits.vectors) => {}
            fid::WRITE_ATOMICITY => self.values.write_atomicity = value & 1,
            fid::ASYNC_EVENTS => self.values.async_events = value,
            fid::KEEP_ALIVE => self.values.keep_alive = whole_units(value),
            // Profile 0 is the only one: the combination that Identify CNS 1Ch tells.
            fid::COMMAND_SET_PROFILE if value & 0x1FF == 0 => {}
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(Completion::success(0, 0))
    }

    fn number_of_queues(value: u32, limits: &ControllerLimits, queues_exist: bool) -> Result<Completion, Status> {
        if queues_exist {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let (submission, completion) = (value & 0xFFFF, value >> 16);
        if submission == 0xFFFF || completion == 0xFFFF {
            return Err(Status::INVALID_FIELD);
        }
        let most = u32::from(limits.io_queues).saturating_sub(1);
        Ok(Completion::success(submission.min(most) | (completion.min(most) << 16), 0))
    }
}
