//! Commands of opcode 7Fh (base, "Fabrics Command Set"). What they do is in FCTYPE, byte 4 of the entry.

use super::super::{Sqe, Status};

/// The opcode of every Fabrics command, on the admin queue and on I/O queues.
pub const FABRICS_OPCODE: u8 = 0x7F;

/// Fabrics command types.
pub mod fctype {
    /// Property Set.
    pub const PROPERTY_SET: u8 = 0x00;
    /// Connect.
    pub const CONNECT: u8 = 0x01;
    /// Property Get.
    pub const PROPERTY_GET: u8 = 0x04;
    /// Disconnect.
    pub const DISCONNECT: u8 = 0x08;
}

/// Bits of Connect's CATTR.
pub mod attributes {
    /// The host asks that the submission queue have no flow control: SQHD is not used.
    pub const NO_FLOW_CONTROL: u8 = 1 << 2;
    /// The host may delete I/O queues one by one, with Disconnect.
    pub const DELETES_QUEUES: u8 = 1 << 3;
}

/// A Fabrics command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricsCommand {
    /// Writes a property of the controller.
    PropertySet {
        /// Its offset, as in the registers of a PCIe controller.
        offset: u32,
        /// Whether it has 8 bytes; else 4.
        size8: bool,
        /// What to write; the low half only, if it has 4 bytes.
        value: u64,
    },
    /// Makes a queue pair out of a connection. Its data is a [`ConnectData`](super::ConnectData).
    Connect(ConnectFields),
    /// Reads a property of the controller, into DW0 and DW1 of the completion.
    PropertyGet {
        /// Its offset.
        offset: u32,
        /// Whether it has 8 bytes; else 4.
        size8: bool,
    },
    /// Ends the I/O queue that it comes on.
    Disconnect,
}

/// What the entry of Connect says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectFields {
    /// RECFMT: the format of command and data. 0 is the only one; the answer to others is
    /// [`Status::CONNECT_INCOMPATIBLE_FORMAT`].
    pub record_format: u16,
    /// QID: 0 for the admin queue.
    pub qid: u16,
    /// SQSIZE: entries of the submission queue, less one.
    pub sqsize: u16,
    /// CATTR: see [`attributes`].
    pub attributes: u8,
    /// KATO: the keep alive timeout, in milliseconds, 0 for none. Only the admin queue's counts.
    pub keep_alive_ms: u32,
}

impl ConnectFields {
    /// Where QID stands in the entry, for [`ConnectInvalid`](super::ConnectInvalid).
    pub const QID_OFFSET: u16 = 42;
    /// Where SQSIZE stands in the entry.
    pub const SQSIZE_OFFSET: u16 = 44;
    /// Where CATTR stands in the entry.
    pub const ATTRIBUTES_OFFSET: u16 = 46;
    /// Where KATO stands in the entry.
    pub const KEEP_ALIVE_OFFSET: u16 = 48;
}

/// Whether a property has 8 bytes: ATTRIB bits 2:0.
fn size8(sqe: &Sqe) -> Result<bool, Status> {
    match sqe.dword(10) & 0b111 {
        0b000 => Ok(false),
        0b001 => Ok(true),
        _ => Err(Status::INVALID_FIELD),
    }
}

impl FabricsCommand {
    /// The Fabrics command in an entry whose opcode is [`FABRICS_OPCODE`].
    ///
    /// # Errors
    /// The status to complete it with: Invalid Opcode for another opcode and a type that is not known here
    /// (authentication among them), Invalid Field for a property of another size, 80h for a Disconnect of another
    /// format.
    pub fn decode(sqe: &Sqe) -> Result<Self, Status> {
        if sqe.opcode() != FABRICS_OPCODE {
            return Err(Status::INVALID_OPCODE);
        }
        match sqe.nsid() as u8 {
            fctype::PROPERTY_SET => {
                let size8 = size8(sqe)?;
                let value = if size8 { sqe.quadword(12) } else { u64::from(sqe.dword(12)) };
                Ok(Self::PropertySet { offset: sqe.dword(11), size8, value })
            }
            fctype::CONNECT => Ok(Self::Connect(ConnectFields {
                record_format: sqe.dword(10) as u16,
                qid: (sqe.dword(10) >> 16) as u16,
                sqsize: sqe.dword(11) as u16,
                attributes: (sqe.dword(11) >> 16) as u8,
                keep_alive_ms: sqe.dword(12),
            })),
            fctype::PROPERTY_GET => Ok(Self::PropertyGet { offset: sqe.dword(11), size8: size8(sqe)? }),
            fctype::DISCONNECT if sqe.dword(10) as u16 == 0 => Ok(Self::Disconnect),
            fctype::DISCONNECT => Err(Status::CONNECT_INCOMPATIBLE_FORMAT),
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// The entry of the command. Where Connect's data lies is for the caller to add, with [`Sqe::set_sgl`].
    #[must_use]
    pub const fn encode(&self, cid: u16) -> Sqe {
        let mut sqe = Sqe::new(FABRICS_OPCODE, cid);
        match *self {
            Self::PropertySet { offset, size8, value } => {
                sqe.set_nsid(fctype::PROPERTY_SET as u32);
                sqe.set_dword(10, size8 as u32);
                sqe.set_dword(11, offset);
                sqe.set_quadword(12, if size8 { value } else { value & 0xFFFF_FFFF });
            }
            Self::Connect(ConnectFields { record_format, qid, sqsize, attributes, keep_alive_ms }) => {
                sqe.set_nsid(fctype::CONNECT as u32);
                sqe.set_dword(10, (record_format as u32) | ((qid as u32) << 16));
                sqe.set_dword(11, (sqsize as u32) | ((attributes as u32) << 16));
                sqe.set_dword(12, keep_alive_ms);
            }
            Self::PropertyGet { offset, size8 } => {
                sqe.set_nsid(fctype::PROPERTY_GET as u32);
                sqe.set_dword(10, size8 as u32);
                sqe.set_dword(11, offset);
            }
            Self::Disconnect => sqe.set_nsid(fctype::DISCONNECT as u32),
        }
        sqe
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    #[test]
    fn connect_lies_where_the_specification_puts_it() {
        let fields = ConnectFields {
            record_format: 0,
            qid: 0x0102,
            sqsize: 0x0304,
            attributes: attributes::NO_FLOW_CONTROL,
            keep_alive_ms: 0x0506_0708,
        };
        let sqe = FabricsCommand::Connect(fields).encode(0xABCD);
        let bytes = sqe.as_bytes();
        assert_eq!(&bytes[..8], &[0x7F, 0, 0xCD, 0xAB, 0x01, 0, 0, 0]);
        assert_eq!(&bytes[40..52], &[0, 0, 2, 1, 4, 3, 0x04, 0, 8, 7, 6, 5]);
        assert_eq!(FabricsCommand::decode(&sqe), Ok(FabricsCommand::Connect(fields)));
    }

    #[test]
    fn properties_lie_where_the_specification_puts_them() {
        let set = FabricsCommand::PropertySet { offset: 0x14, size8: true, value: 0x0102_0304_0506_0708 };
        let sqe = set.encode(1);
        let bytes = sqe.as_bytes();
        assert_eq!((bytes[4], bytes[40]), (0x00, 1));
        assert_eq!(&bytes[44..56], &[0x14, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(FabricsCommand::decode(&sqe), Ok(set));

        let mut bytes = [0u8; 64];
        bytes[0] = 0x7F;
        bytes[44..56].copy_from_slice(&[0x14, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        let sqe = Sqe::read_from_bytes(&bytes).unwrap();
        let set = FabricsCommand::PropertySet { offset: 0x14, size8: false, value: 0x0506_0708 };
        assert_eq!(FabricsCommand::decode(&sqe), Ok(set), "the upper half is reserved");

        let get = FabricsCommand::PropertyGet { offset: 0x1C, size8: false };
        assert_eq!((get.encode(0).as_bytes()[4], get.encode(0).dword(11)), (0x04, 0x1C));
        assert_eq!(FabricsCommand::decode(&get.encode(0)), Ok(get));
        let mut odd = get.encode(0);
        odd.set_dword(10, 0b010);
        assert_eq!(FabricsCommand::decode(&odd), Err(Status::INVALID_FIELD));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let mut sqe = FabricsCommand::Disconnect.encode(0);
        assert_eq!(FabricsCommand::decode(&sqe), Ok(FabricsCommand::Disconnect));
        sqe.set_dword(10, 1);
        assert_eq!(FabricsCommand::decode(&sqe), Err(Status::CONNECT_INCOMPATIBLE_FORMAT));
        // Authentication Send and Receive, and a vendor's own.
        for kind in [0x05, 0x06, 0x02, 0xC0] {
            sqe.set_nsid(kind);
            assert_eq!(FabricsCommand::decode(&sqe), Err(Status::INVALID_OPCODE), "{kind:#x}");
        }
        assert_eq!(FabricsCommand::decode(&Sqe::new(0x02, 0)), Err(Status::INVALID_OPCODE));
    }
}
