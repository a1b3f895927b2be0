//! The data of Connect (base, "Connect Command - Submission Queue Entry", "Connect Command - Data").

use super::nqn;

/// CNTLID of a host that takes any controller: the target makes one for it.
pub const DYNAMIC_CONTROLLER: u16 = 0xFFFF;
/// CNTLID of a host that takes any controller of those that exist already.
pub const STATIC_CONTROLLER: u16 = 0xFFFE;

const HOST_ID: usize = 0;
const CONTROLLER_ID: usize = 16;
const SUBSYSTEM_NQN: usize = 256;
const HOST_NQN: usize = 512;

/// Who connects to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectData {
    /// HOSTID.
    pub host_id: [u8; 16],
    /// CNTLID: of the admin queue [`DYNAMIC_CONTROLLER`]; of an I/O queue the controller that it belongs to.
    pub controller_id: u16,
    /// SUBNQN.
    pub subsystem_nqn: String,
    /// HOSTNQN.
    pub host_nqn: String,
}

/// Which field of Connect is not valid, for DW0 of a completion with
/// [`Status::CONNECT_INVALID_PARAMETERS`](super::super::Status::CONNECT_INVALID_PARAMETERS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectInvalid {
    /// IATTR bit 0: whether it is in the data; else in the submission queue entry.
    pub in_data: bool,
    /// IPO: its first byte there.
    pub offset: u16,
}

impl ConnectInvalid {
    /// CNTLID, in the data.
    pub const CONTROLLER_ID: Self = Self { in_data: true, offset: CONTROLLER_ID as u16 };
    /// SUBNQN, in the data.
    pub const SUBSYSTEM_NQN: Self = Self { in_data: true, offset: SUBSYSTEM_NQN as u16 };
    /// HOSTNQN, in the data.
    pub const HOST_NQN: Self = Self { in_data: true, offset: HOST_NQN as u16 };

    /// A field of the submission queue entry.
    #[must_use]
    pub const fn in_entry(offset: u16) -> Self {
        Self { in_data: false, offset }
    }

    /// DW0 of the completion.
    #[must_use]
    pub const fn dword0(self) -> u32 {
        (self.offset as u32) | ((self.in_data as u32) << 16)
    }
}

impl ConnectData {
    /// Bytes of it.
    pub const BYTES: usize = 1024;

    /// The data in the bytes that came with Connect.
    ///
    /// # Errors
    /// Which field is not valid: a name that does not end, is empty, too long, or no text.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, ConnectInvalid> {
        let name = |at: usize| nqn::read(&bytes[at..at + nqn::FIELD_BYTES]);
        let mut host_id = [0; 16];
        host_id.copy_from_slice(&bytes[HOST_ID..HOST_ID + 16]);
        Ok(Self {
            host_id,
            controller_id: u16::from_le_bytes([bytes[CONTROLLER_ID], bytes[CONTROLLER_ID + 1]]),
            subsystem_nqn: name(SUBSYSTEM_NQN).ok_or(ConnectInvalid::SUBSYSTEM_NQN)?,
            host_nqn: name(HOST_NQN).ok_or(ConnectInvalid::HOST_NQN)?,
        })
    }

    /// The bytes to send with Connect. Names are cut to [`MAX_NQN_BYTES`](super::MAX_NQN_BYTES).
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[HOST_ID..HOST_ID + 16].copy_from_slice(&self.host_id);
        bytes[CONTROLLER_ID..CONTROLLER_ID + 2].copy_from_slice(&self.controller_id.to_le_bytes());
        nqn::write(&mut bytes[SUBSYSTEM_NQN..SUBSYSTEM_NQN + nqn::FIELD_BYTES], &self.subsystem_nqn);
        nqn::write(&mut bytes[HOST_NQN..HOST_NQN + nqn::FIELD_BYTES], &self.host_nqn);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DISCOVERY_NQN, MAX_NQN_BYTES};
    use super::*;

    fn data() -> ConnectData {
        ConnectData {
            host_id: *b"0123456789abcdef",
            controller_id: 0x1234,
            subsystem_nqn: DISCOVERY_NQN.into(),
            host_nqn: "nqn.2014-08.org.nvmexpress:uuid:host".into(),
        }
    }

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let bytes = data().encode();
        assert_eq!(&bytes[..18], b"0123456789abcdef\x34\x12");
        assert_eq!(&bytes[256..293], b"nqn.2014-08.org.nvmexpress.discovery\0");
        assert_eq!(&bytes[512..549], b"nqn.2014-08.org.nvmexpress:uuid:host\0");
        assert!(bytes[18..256].iter().chain(&bytes[768..]).all(|byte| *byte == 0));
        assert_eq!(ConnectData::decode(&bytes), Ok(data()));
    }

    #[test]
    fn names_that_are_not_names_are_told_by_their_place() {
        let mut longest = data();
        longest.host_nqn = "n".repeat(MAX_NQN_BYTES);
        assert_eq!(ConnectData::decode(&longest.encode()), Ok(longest.clone()));
        for (at, invalid, dword0) in
            [(256, ConnectInvalid::SUBSYSTEM_NQN, 0x0001_0100), (512, ConnectInvalid::HOST_NQN, 0x0001_0200)]
        {
            assert_eq!(invalid.dword0(), dword0);
            let spoilt: [fn(&mut [u8]); 5] = [
                |field| field.fill(b'n'),        // does not end
                |field| field[0] = 0,            // is empty
                |field| field[..224].fill(b'n'), // is too long by one
                |field| field[4] = 0xFF,         // is not UTF-8
                |field| field[4] = b'\n',        // would spoil a log
            ];
            for spoil in spoilt {
                let mut bytes = data().encode();
                spoil(&mut bytes[at..at + 256]);
                assert_eq!(ConnectData::decode(&bytes), Err(invalid));
            }
        }
        assert_eq!(ConnectInvalid::in_entry(44).dword0(), 44);
    }
}
