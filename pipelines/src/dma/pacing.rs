//! Reads come first; writes are paced.
//!
//! A retrieve stands between a user and the first token, a store does not. While reads are about, only so many
//! bytes of values may be on their way to the device, in pieces small enough that a read never waits behind a
//! large one. When no read has come for a while, writes run free.

use dataplane::core::Ticks;

use super::Direction;

/// The settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacingConfig {
    /// Bytes of values that may be on their way to the device while reads are about.
    pub write_window_bytes: u64,
    /// The largest piece of a write while reads are about, in bytes.
    pub write_piece_bytes: u32,
    /// How long after the last read writes stay paced, in ticks.
    pub quiet_ticks: u64,
}

/// What may be issued now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes in one piece.
    pub piece_bytes: u32,
    /// Places in the device's queue that must stay free: those of whoever comes after.
    pub spare_commands: usize,
}

/// Places in the device's queue that loads leave to saves and to the store's own commands, and that saves leave to the
/// store's own. Without them a flood of reads would keep commits and eviction from the device for as long as it lasts.
const SPARE_FOR_SAVES: usize = 32;
const SPARE_FOR_STORE: usize = 32;

/// What is on its way.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    config: PacingConfig,
    loading_bytes: u64,
    saving_bytes: u64,
    last_load: Option<Ticks>,
}

impl Pacing {
    /// Nothing on its way.
    #[must_use]
    pub const fn new(config: PacingConfig) -> Self {
        Self { config, loading_bytes: 0, saving_bytes: 0, last_load: None }
    }

    /// What may be issued now.
    #[must_use]
    #[inline]
    pub fn allowance(&self, direction: Direction, now: Ticks) -> Allowance {
        let quiet =
            self.loading_bytes == 0 && self.last_load.is_none_or(|last| now.since(last) > self.config.quiet_ticks);
        let spare_commands = match direction {
            Direction::Load => SPARE_FOR_SAVES + SPARE_FOR_STORE,
            Direction::Save => SPARE_FOR_STORE,
        };
        if direction == Direction::Load || quiet {
            return Allowance { bytes: u64::MAX, piece_bytes: u32::MAX, spare_commands };
        }
        Allowance {
            bytes: self.config.write_window_bytes.saturating_sub(self.saving_bytes),
            piece_bytes: self.config.write_piece_bytes,
            spare_commands,
        }
    }

    /// Notes bytes that went to the device's queue.
    #[inline]
    pub fn issued(&mut self, direction: Direction, bytes: u64, now: Ticks) {
        match direction {
            Direction::Load => {
                self.loading_bytes += bytes;
                self.last_load = Some(now);
            }
            Direction::Save => self.saving_bytes += bytes,
        }
    }

    /// Notes bytes whose command came back.
    #[inline]
    pub fn finished(&mut self, direction: Direction, bytes: u64, now: Ticks) {
        match direction {
            Direction::Load => {
                self.loading_bytes = self.loading_bytes.saturating_sub(bytes);
                self.last_load = Some(now);
            }
            Direction::Save => self.saving_bytes = self.saving_bytes.saturating_sub(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PacingConfig = PacingConfig { write_window_bytes: 1000, write_piece_bytes: 100, quiet_ticks: 50 };

    #[test]
    fn writes_run_free_without_reads_and_are_paced_beside_them() {
        let mut pacing = Pacing::new(CONFIG);
        assert_eq!(pacing.allowance(Direction::Save, Ticks(0)).bytes, u64::MAX);
        pacing.issued(Direction::Load, 4096, Ticks(10));
        pacing.issued(Direction::Save, 400, Ticks(10));
        let paced = pacing.allowance(Direction::Save, Ticks(20));
        assert_eq!((paced.bytes, paced.piece_bytes), (600, 100));
        assert_eq!(pacing.allowance(Direction::Load, Ticks(20)).bytes, u64::MAX);
        pacing.finished(Direction::Load, 4096, Ticks(30));
        assert_eq!(pacing.allowance(Direction::Save, Ticks(80)).bytes, 600);
        assert_eq!(pacing.allowance(Direction::Save, Ticks(81)).bytes, u64::MAX);
    }

    #[test]
    fn a_full_window_stops_writes() {
        let mut pacing = Pacing::new(CONFIG);
        pacing.issued(Direction::Load, 1, Ticks(0));
        pacing.issued(Direction::Save, 5000, Ticks(0));
        assert_eq!(pacing.allowance(Direction::Save, Ticks(0)).bytes, 0);
    }
}
