//! Whether a drive lost its volatile cache while the driver was busy with it.
//!
//! A reset of the controller leaves the cache alone, so that the driver may send again what was outstanding and go on. A
//! loss of power does not, nor perhaps a reset of the whole subsystem: writes that completed since the last flush are gone
//! then, and nobody is told. Reading their blocks would give what was there before, and a flush that is sent again would
//! promise what is lost. So after every reset the driver looks for the traces that both leave: CSTS.NSSRO where there is
//! such (CAP.NSSRS), and the counts of power cycles and unsafe shutdowns (base, "SMART / Health Information"). A drive
//! that shows one is given up.

use super::OpenError;
use super::control::Control;
use super::registers::{CSTS_SUBSYSTEM_RESET, ControllerStatus, offset};

/// What a drive counts of its losses of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PowerMarks {
    power_cycles: u128,
    unsafe_shutdowns: u128,
}

impl Control {
    /// Notes how a drive stands that was just opened: what was lost before is nobody's loss here.
    pub(super) fn mark_power(&mut self) -> Result<(), OpenError> {
        self.power = self.power_marks()?;
        self.note_subsystem_reset();
        self.forget_subsystem_reset();
        if self.power.is_none() && self.info.volatile_cache {
            tracing::warn!(
                function = self.function.name(),
                "the controller does not tell its health: should the drive alone lose power, nobody will know"
            );
        }
        Ok(())
    }

    /// Looks whether the cache was lost since this last came to a verdict. `cached` is whether there was one until now.
    pub(super) fn check_power(&mut self, cached: bool) -> Result<(), OpenError> {
        self.note_subsystem_reset();
        // Without an answer there is no verdict, and the trace stays for the next try.
        let now = self.power_marks()?;
        let before = std::mem::replace(&mut self.power, now);
        let reset = self.forget_subsystem_reset();
        let how = match (before, now) {
            _ if !cached => return Ok(()),
            _ if reset => "its subsystem was reset (CSTS.NSSRO)".into(),
            (Some(before), Some(now)) if before != now => format!(
                "it counts {} power cycles and {} unsafe shutdowns, {} and {} before",
                now.power_cycles, now.unsafe_shutdowns, before.power_cycles, before.unsafe_shutdowns
            ),
            (Some(_), None) => "it does not tell any more how often it lost power".into(),
            _ => return Ok(()),
        };
        Err(OpenError::CacheLost(how))
    }

    /// What the drive counts, if it has a cache and tells.
    fn power_marks(&mut self) -> Result<Option<PowerMarks>, OpenError> {
        // Also of one whose cache was turned off: what it held before counts.
        if !self.info.volatile_cache && self.power.is_none() {
            return Ok(None);
        }
        match self.health() {
            Ok(health) => {
                let (power_cycles, unsafe_shutdowns) = (health.power_cycles, health.unsafe_shutdowns);
                Ok(Some(PowerMarks { power_cycles, unsafe_shutdowns }))
            }
            Err(OpenError::Admin { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes whether the subsystem was reset, while the register tells: a reset of the function may clear it.
    pub(super) fn note_subsystem_reset(&mut self) {
        let status = ControllerStatus(self.function.read32(offset::CSTS));
        self.subsystem_reset |= self.capabilities.subsystem_reset() && !status.gone() && status.subsystem_was_reset();
    }

    /// Begins to look for the next reset of the subsystem; whether there was one.
    fn forget_subsystem_reset(&mut self) -> bool {
        let reset = std::mem::take(&mut self.subsystem_reset);
        if reset {
            // Cleared by writing a one; the other bits are read-only.
            self.function.write32(offset::CSTS, CSTS_SUBSYSTEM_RESET);
        }
        reset
    }
}
