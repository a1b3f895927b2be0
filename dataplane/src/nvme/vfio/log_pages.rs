//! Log pages: health and errors (base, "Get Log Page command").

use crate::nvme::spec::Status;

/// Bytes of the health log page.
pub const HEALTH_BYTES: usize = 512;
/// Bytes of one entry of the error log page.
pub const ERROR_ENTRY_BYTES: usize = 64;

/// SMART / Health Information (log page 02h) of the whole controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthInfo {
    /// Critical warning bits: 0 spare below threshold, 1 temperature, 2 reliability degraded, 3 read only, 4 volatile
    /// memory backup failed, 5 persistent memory unreliable.
    pub critical_warning: u8,
    /// Composite temperature in kelvins.
    pub temperature: u16,
    /// Spare left, in percent.
    pub available_spare: u8,
    /// The spare below which there is a warning, in percent.
    pub available_spare_threshold: u8,
    /// Estimate of the endurance used, in percent; may go beyond 100.
    pub percentage_used: u8,
    /// Units of 1000 times 512 bytes read.
    pub data_units_read: u128,
    /// Units of 1000 times 512 bytes written.
    pub data_units_written: u128,
    /// Read commands.
    pub host_read_commands: u128,
    /// Write commands.
    pub host_write_commands: u128,
    /// Minutes busy.
    pub controller_busy_minutes: u128,
    /// Power cycles.
    pub power_cycles: u128,
    /// Hours powered on.
    pub power_on_hours: u128,
    /// Power losses without a shutdown.
    pub unsafe_shutdowns: u128,
    /// Media and data integrity errors.
    pub media_errors: u128,
    /// Entries ever written to the error log.
    pub error_log_entries: u128,
    /// Minutes above the warning temperature.
    pub warning_temperature_minutes: u32,
    /// Minutes above the critical temperature.
    pub critical_temperature_minutes: u32,
    /// Temperature sensors in kelvins; 0 for those that are not there.
    pub sensors: [u16; 8],
}

fn bytes<const N: usize>(data: &[u8; HEALTH_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|index| data[at + index])
}

impl HealthInfo {
    /// Reads the page.
    #[must_use]
    pub fn parse(data: &[u8; HEALTH_BYTES]) -> Self {
        let wide = |at| u128::from_le_bytes(bytes(data, at));
        Self {
            critical_warning: data[0],
            temperature: u16::from_le_bytes(bytes(data, 1)),
            available_spare: data[3],
            available_spare_threshold: data[4],
            percentage_used: data[5],
            data_units_read: wide(32),
            data_units_written: wide(48),
            host_read_commands: wide(64),
            host_write_commands: wide(80),
            controller_busy_minutes: wide(96),
            power_cycles: wide(112),
            power_on_hours: wide(128),
            unsafe_shutdowns: wide(144),
            media_errors: wide(160),
            error_log_entries: wide(176),
            warning_temperature_minutes: u32::from_le_bytes(bytes(data, 192)),
            critical_temperature_minutes: u32::from_le_bytes(bytes(data, 196)),
            sensors: std::array::from_fn(|sensor| u16::from_le_bytes(bytes(data, 200 + 2 * sensor))),
        }
    }
}

/// One entry of Error Information (log page 01h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEntry {
    /// Number of the error, from 1 over the controller's life.
    pub count: u64,
    /// Submission queue of the command.
    pub sqid: u16,
    /// Command identifier.
    pub cid: u16,
    /// How the command ended.
    pub status: Status,
    /// First logical block that failed.
    pub lba: u64,
    /// Namespace.
    pub nsid: u32,
}

impl ErrorEntry {
    /// Reads an entry; `None` for one that is empty.
    #[must_use]
    pub fn parse(data: &[u8; ERROR_ENTRY_BYTES]) -> Option<Self> {
        let word16 = |at: usize| u16::from_le_bytes([data[at], data[at + 1]]);
        let word32 = |at: usize| u32::from(word16(at)) | (u32::from(word16(at + 2)) << 16);
        let word64 = |at: usize| u64::from(word32(at)) | (u64::from(word32(at + 4)) << 32);
        let entry = Self {
            count: word64(0),
            sqid: word16(8),
            cid: word16(10),
            status: Status::from_bits(word16(12) >> 1),
            lba: word64(16),
            nsid: word32(24),
        };
        (entry.count != 0).then_some(entry)
    }
}

/// What an asynchronous event was about (base, "Asynchronous Event Request command", DW0 of its completion).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerEvent {
    /// Type: 0 error, 1 health, 2 notice, 6 I/O command set, 7 vendor.
    pub kind: u8,
    /// What exactly, within the type.
    pub information: u8,
    /// The log page that tells more.
    pub log_page: u8,
}

impl ControllerEvent {
    /// Reads DW0.
    #[must_use]
    pub const fn parse(dword0: u32) -> Self {
        Self { kind: (dword0 & 0b111) as u8, information: (dword0 >> 8) as u8, log_page: (dword0 >> 16) as u8 }
    }

    /// Whether it is the notice that an attached namespace changed.
    #[must_use]
    pub const fn is_namespace_change(&self) -> bool {
        self.kind == 2 && self.information == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_lies_where_the_specification_puts_it() {
        let mut data = [0; HEALTH_BYTES];
        data[0] = 4;
        data[1..3].copy_from_slice(&310_u16.to_le_bytes());
        data[5] = 7;
        data[32] = 9;
        data[160] = 3;
        data[192] = 2;
        data[202] = 5;
        let health = HealthInfo::parse(&data);
        assert_eq!((health.critical_warning, health.temperature, health.percentage_used), (4, 310, 7));
        assert_eq!((health.data_units_read, health.media_errors, health.warning_temperature_minutes), (9, 3, 2));
        assert_eq!(health.sensors, [0, 5, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn errors_and_events_lie_where_the_specification_puts_them() {
        let mut data = [0; ERROR_ENTRY_BYTES];
        assert_eq!(ErrorEntry::parse(&data), None);
        data[0] = 1;
        data[8] = 2;
        data[10] = 3;
        data[12..14].copy_from_slice(&(0x281_u16 << 1).to_le_bytes());
        data[16] = 0x80;
        data[24] = 1;
        let entry = ErrorEntry::parse(&data).unwrap();
        assert_eq!((entry.count, entry.sqid, entry.cid, entry.lba, entry.nsid), (1, 2, 3, 0x80, 1));
        assert_eq!((entry.status.code_type(), entry.status.code()), (2, 0x81));
        let event = ControllerEvent::parse(0x0002_0101);
        assert_eq!(event, ControllerEvent { kind: 1, information: 1, log_page: 2 });
    }
}
