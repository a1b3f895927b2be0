//! What a controller says of itself and its namespaces, and whether that can be (base, "Identify Controller data
//! structure"; NVM, "Identify Namespace data structure").

use std::time::Duration;

use super::OpenError;
use super::registers::PAGE_BYTES;

/// Bytes of every structure of Identify.
pub const IDENTIFY_BYTES: usize = 4096;

/// A structure of Identify, as it came.
pub type IdentifyData = [u8; IDENTIFY_BYTES];

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerInfo {
    /// PCI vendor identifier.
    pub vendor: u16,
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// NQN of the subsystem; empty if it does not say.
    pub subsystem_nqn: String,
    /// Controller identifier.
    pub controller_id: u16,
    /// Version that it complies with, from Identify: major, minor, tertiary.
    pub version: (u16, u8, u8),
    /// The most bytes one command may move (MDTS); `None` for no limit.
    pub max_transfer_bytes: Option<u64>,
    /// Whether it has a volatile write cache (VWC).
    pub volatile_cache: bool,
    /// Whether it takes Dataset Management (ONCS bit 2).
    pub dataset_management: bool,
    /// Whether data may be described by SGLs (SGLS), of dword-aligned addresses at least.
    pub sgl: bool,
    /// Whether it takes Doorbell Buffer Config (OACS bit 8).
    pub shadow_doorbells: bool,
    /// Whether it has directives, streams among them (OACS bit 5). Streams are not used: no drive has them without Flexible
    /// Data Placement any more.
    pub directives: bool,
    /// Whether it has Flexible Data Placement (CTRATT bit 19); used where the namespace has handles.
    pub flexible_placement: bool,
    /// Aborts that may be outstanding at once (ACL).
    pub abort_limit: u16,
    /// Asynchronous event requests that may be outstanding at once (AERL).
    pub event_limit: u16,
    /// How long a shutdown takes it (RTD3E); zero if it does not say.
    pub shutdown_time: Duration,
    /// Asynchronous events that it can send and a host must ask for (OAES).
    pub optional_events: u32,
    /// Entries of its error log (ELPE).
    pub error_log_entries: u16,
    /// The highest number of a namespace (NN).
    pub namespaces: u32,
    /// Warning temperature threshold in kelvins; 0 if it does not say.
    pub warning_temperature: u16,
    /// Critical temperature threshold in kelvins; 0 if it does not say.
    pub critical_temperature: u16,
}

/// A namespace of the NVM command set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its number.
    pub nsid: u32,
    /// Capacity in logical blocks (NSZE).
    pub blocks: u64,
    /// Bytes in a logical block.
    pub lba_bytes: u32,
    /// The boundary, in logical blocks, that reads and writes had better not cross (NOIOB); 0 for none.
    pub optimal_boundary: u16,
    /// Whether it can be written to (NSATTR bit 0).
    pub writable: bool,
    /// Globally unique identifier; zeros for none.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier; zeros for none.
    pub eui64: [u8; 8],
}

fn word16(data: &IdentifyData, at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn word32(data: &IdentifyData, at: usize) -> u32 {
    u32::from(word16(data, at)) | (u32::from(word16(data, at + 2)) << 16)
}

fn word64(data: &IdentifyData, at: usize) -> u64 {
    u64::from(word32(data, at)) | (u64::from(word32(data, at + 4)) << 32)
}

/// A text field: ASCII, padded. What is not printable becomes a question mark, for it will be shown on terminals.
fn text(data: &IdentifyData, from: usize, to: usize) -> String {
    let clean = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' };
    let field = data[from..to].split(|byte| *byte == 0).next().unwrap_or_default();
    field.iter().map(clean).collect::<String>().trim().to_owned()
}

impl ControllerInfo {
    /// Reads the structure.
    ///
    /// # Errors
    /// [`OpenError::Unusable`] if the controller cannot do what this driver needs, [`OpenError::Absurd`] if what it
    /// says cannot be.
    pub fn parse(data: &IdentifyData) -> Result<Self, OpenError> {
        let (sq, cq) = (data[512], data[513]);
        let fits = |sizes: u8, shift: u8| sizes & 0xF <= shift && sizes >> 4 >= shift;
        if !fits(sq, 6) || !fits(cq, 4) {
            return Err(OpenError::Absurd(format!(
                "queue entry sizes {sq:#04x} and {cq:#04x} leave out 64 and 16 bytes"
            )));
        }
        // CNTRLTYPE: 0 is not said, 1 an I/O controller.
        if data[111] > 1 {
            return Err(OpenError::Unusable(format!("it is a controller of type {}, not one for I/O", data[111])));
        }
        let (oacs, oncs, sgls) = (word16(data, 256), word16(data, 520), word32(data, 536));
        let version = word32(data, 80);
        Ok(Self {
            vendor: word16(data, 0),
            serial: text(data, 4, 24),
            model: text(data, 24, 64),
            firmware: text(data, 64, 72),
            subsystem_nqn: text(data, 768, 1024),
            controller_id: word16(data, 78),
            version: ((version >> 16) as u16, (version >> 8) as u8, version as u8),
            // In units of the smallest page, which is 4096 bytes or the controller was refused.
            max_transfer_bytes: (data[77] != 0).then(|| PAGE_BYTES << data[77].min(40)),
            volatile_cache: data[525] & 1 != 0,
            dataset_management: oncs & (1 << 2) != 0,
            sgl: matches!(sgls & 0b11, 0b01 | 0b10),
            shadow_doorbells: oacs & (1 << 8) != 0,
            directives: oacs & (1 << 5) != 0,
            flexible_placement: word32(data, 96) & (1 << 19) != 0,
            abort_limit: u16::from(data[258]) + 1,
            event_limit: u16::from(data[259]) + 1,
            shutdown_time: Duration::from_micros(u64::from(word32(data, 88))),
            optional_events: word32(data, 92),
            error_log_entries: u16::from(data[262]) + 1,
            namespaces: word32(data, 516),
            warning_temperature: word16(data, 266),
            critical_temperature: word16(data, 268),
        })
    }
}

impl NamespaceInfo {
    /// Reads the structure.
    ///
    /// # Errors
    /// As [`ControllerInfo::parse`], and [`OpenError::Format`] for a format that this driver does not drive.
    pub fn parse(nsid: u32, data: &IdentifyData) -> Result<Self, OpenError> {
        let (blocks, capacity) = (word64(data, 0), word64(data, 8));
        let formats = data[25];
        let flbas = data[26];
        // Bits 6:5 are the upper bits of the number if there are more than 16 formats.
        let format = (flbas & 0xF) | if formats >= 16 { (flbas >> 1) & 0x30 } else { 0 };
        let absurd = |what: String| OpenError::Absurd(format!("namespace {nsid} {what}"));
        if format > formats || format > 63 {
            return Err(absurd(format!("is formatted with number {format} of {} formats", u16::from(formats) + 1)));
        }
        let entry = word32(data, 128 + 4 * usize::from(format));
        let (metadata, shift) = (entry as u16, (entry >> 16) as u8);
        let refused = |what: String| OpenError::Format { nsid, what };
        if metadata != 0 {
            return Err(refused(format!("{metadata} bytes of metadata per block")));
        }
        if data[29] & 0b111 != 0 {
            return Err(refused("protection information".into()));
        }
        if shift != 9 && shift != 12 {
            return Err(refused(format!("blocks of 2^{shift} bytes")));
        }
        let lba_bytes = 1_u32 << shift;
        let bytes = blocks.checked_mul(u64::from(lba_bytes)).filter(|bytes| *bytes <= i64::MAX as u64);
        if blocks == 0 || bytes.is_none() || capacity > blocks {
            return Err(absurd(format!("says that it has {blocks} blocks, {capacity} of them usable")));
        }
        let mut nguid = [0; 16];
        nguid.copy_from_slice(&data[104..120]);
        let mut eui64 = [0; 8];
        eui64.copy_from_slice(&data[120..128]);
        let (optimal_boundary, writable) = (word16(data, 46), data[99] & 1 == 0);
        Ok(Self { nsid, blocks, lba_bytes, optimal_boundary, writable, nguid, eui64 })
    }
}

/// Reads the list of active namespaces.
///
/// # Errors
/// [`OpenError::Absurd`] if the numbers do not rise or go beyond `highest`.
pub fn parse_namespace_list(data: &IdentifyData, highest: u32) -> Result<Vec<u32>, OpenError> {
    let nsids: Vec<u32> =
        (0..IDENTIFY_BYTES).step_by(4).map(|at| word32(data, at)).take_while(|nsid| *nsid != 0).collect();
    let rises = nsids.windows(2).all(|pair| pair[0] < pair[1]);
    if !rises || nsids.last().is_some_and(|last| *last > highest) {
        return Err(OpenError::Absurd(
            "its list of active namespaces is not in order, or goes beyond their number".into(),
        ));
    }
    Ok(nsids)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn controller() -> IdentifyData {
        let mut data = [0; IDENTIFY_BYTES];
        data[0..2].copy_from_slice(&0x1B36_u16.to_le_bytes());
        data[4..24].copy_from_slice(b"SERIAL-1            ");
        data[24..30].copy_from_slice(b"mo\x1Bdel");
        data[77] = 7;
        data[88..92].copy_from_slice(&8_000_000_u32.to_le_bytes());
        data[80..84].copy_from_slice(&0x0001_0400_u32.to_le_bytes());
        data[258] = 3;
        data[512] = 0x66;
        data[513] = 0x44;
        data[516] = 2;
        data[520] = 1 << 2;
        data[525] = 1;
        data[536] = 1;
        data
    }

    fn namespace() -> IdentifyData {
        let mut data = [0; IDENTIFY_BYTES];
        data[0..8].copy_from_slice(&1000_u64.to_le_bytes());
        data[8..16].copy_from_slice(&1000_u64.to_le_bytes());
        data[25] = 1;
        data[26] = 1;
        data[46] = 64;
        data[128..132].copy_from_slice(&(9_u32 << 16).to_le_bytes());
        data[132..136].copy_from_slice(&(12_u32 << 16).to_le_bytes());
        data
    }

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let info = ControllerInfo::parse(&controller()).unwrap();
        assert_eq!((info.vendor, info.serial.as_str(), info.model.as_str()), (0x1B36, "SERIAL-1", "mo?del"));
        assert_eq!((info.max_transfer_bytes, info.abort_limit, info.version), (Some(512 << 10), 4, (1, 4, 0)));
        assert_eq!(info.shutdown_time, Duration::from_secs(8));
        assert!(info.volatile_cache && info.dataset_management && info.sgl && !info.shadow_doorbells);
        let info = NamespaceInfo::parse(3, &namespace()).unwrap();
        assert_eq!((info.nsid, info.blocks, info.lba_bytes, info.optimal_boundary), (3, 1000, 4096, 64));
    }

    #[test]
    fn what_cannot_be_driven_is_refused_with_its_reason() {
        let change = |at: usize, value: u8| {
            let mut data = namespace();
            data[at] = value;
            NamespaceInfo::parse(1, &data).unwrap_err()
        };
        assert!(change(132, 8).to_string().contains("8 bytes of metadata"), "{}", change(132, 8));
        assert!(change(134, 13).to_string().contains("2^13"));
        assert!(change(29, 1).to_string().contains("protection"));
        for (at, value) in [(26, 2), (7, 0xFF), (9, 0xFF)] {
            assert!(matches!(change(at, value), OpenError::Absurd(_)));
        }
        let mut data = namespace();
        data[0..16].fill(0);
        assert!(matches!(NamespaceInfo::parse(1, &data), Err(OpenError::Absurd(_))));
        for (at, value) in [(512, 0x55), (513, 0x55), (512, 0x77)] {
            let mut data = controller();
            data[at] = value;
            assert!(matches!(ControllerInfo::parse(&data), Err(OpenError::Absurd(_))));
        }
        let mut discovery = controller();
        discovery[111] = 2;
        assert!(matches!(ControllerInfo::parse(&discovery), Err(OpenError::Unusable(_))));
    }

    #[test]
    fn namespace_lists_must_rise() {
        let mut data = [0; IDENTIFY_BYTES];
        data[0] = 1;
        data[4] = 7;
        assert_eq!(parse_namespace_list(&data, 7).unwrap(), [1, 7]);
        assert!(parse_namespace_list(&data, 6).is_err());
        data[8] = 7;
        assert!(parse_namespace_list(&data, 9).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_structures_never_panic(seed in proptest::collection::vec(any::<u8>(), 64), at in 0_usize..4032) {
            for base in [controller(), namespace(), [0xFF; IDENTIFY_BYTES]] {
                let mut data = base;
                data[at..at + 64].copy_from_slice(&seed);
                let _ = ControllerInfo::parse(&data);
                let _ = NamespaceInfo::parse(1, &data);
                let _ = parse_namespace_list(&data, u32::MAX);
            }
        }
    }
}
