//! SGL descriptors as capsules carry them (base, "Scatter Gather List"; NVMe/TCP and RDMA transport specifications,
//! "SGL Descriptors"): one for each command, in the entry.

use super::super::SglDescriptor;

/// Type and subtype of the descriptors that only fabrics have.
const IN_CAPSULE: u8 = 0x01;
const KEYED: u8 = 0x40;
const KEYED_INVALIDATE: u8 = 0x4F;
const TRANSPORT: u8 = 0x5A;

/// Where the data of a capsule lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapsuleData {
    /// Data block with an offset (0h, 1h): in the capsule itself.
    InCapsule {
        /// Bytes from the beginning of the in-capsule data (ICDOFF is zero) to this data.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Keyed data block (4h): in the host's memory, for RDMA.
    Keyed {
        /// Where, in the memory region of the key.
        address: u64,
        /// Bytes, less than 16 MiB.
        length: u32,
        /// The remote key.
        key: u32,
        /// Whether the key is to be invalidated with the response (subtype Fh).
        invalidate: bool,
    },
    /// Transport data block (5h, Ah): the transport asks for it, or sends it, by the command's identifier.
    Transport {
        /// Bytes.
        length: u32,
    },
}

impl SglDescriptor {
    /// Data in the capsule, `offset` bytes into it.
    #[must_use]
    pub const fn in_capsule(offset: u64, length: u32) -> Self {
        Self { address: offset, length, middle: 0, identifier: IN_CAPSULE }
    }

    /// Data at an address under a remote key; `length` has 24 bits. `invalidate`: the target ends the key's life with
    /// its response.
    #[must_use]
    pub const fn keyed(address: u64, length: u32, key: u32, invalidate: bool) -> Self {
        Self {
            address,
            length: (length & 0x00FF_FFFF) | (key << 24),
            middle: key >> 8,
            identifier: if invalidate { KEYED_INVALIDATE } else { KEYED },
        }
    }

    /// Data that the transport moves: for NVMe/TCP, and with a length of zero for commands without data.
    #[must_use]
    pub const fn transport(length: u32) -> Self {
        Self { address: 0, length, middle: 0, identifier: TRANSPORT }
    }

    /// What the descriptor says to a message carrier. `None` for types and subtypes that capsules do not have.
    #[must_use]
    pub const fn capsule_data(&self) -> Option<CapsuleData> {
        match self.identifier {
            IN_CAPSULE => Some(CapsuleData::InCapsule { offset: self.address, length: self.length }),
            KEYED | KEYED_INVALIDATE => Some(CapsuleData::Keyed {
                address: self.address,
                length: self.length & 0x00FF_FFFF,
                key: (self.length >> 24) | (self.middle << 8),
                invalidate: self.identifier == KEYED_INVALIDATE,
            }),
            TRANSPORT => Some(CapsuleData::Transport { length: self.length }),
            _ => None,
        }
    }
}

impl CapsuleData {
    /// Bytes.
    #[must_use]
    pub const fn length(self) -> u32 {
        match self {
            Self::InCapsule { length, .. } | Self::Keyed { length, .. } | Self::Transport { length } => length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{DataPointer, Sqe};
    use super::*;
    use zerocopy::IntoBytes;

    fn bytes_of(descriptor: SglDescriptor) -> [u8; 16] {
        let mut sqe = Sqe::new(0, 0);
        sqe.set_sgl(descriptor);
        assert_eq!(sqe.data_pointer(), Some(DataPointer::Sgl(descriptor)), "none of it is lost");
        sqe.as_bytes()[24..40].try_into().unwrap()
    }

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let keyed = SglDescriptor::keyed(0x0102_0304_0506_0708, 0x0A_0B0C, 0x1112_1314, false);
        let bytes = [8, 7, 6, 5, 4, 3, 2, 1, 0x0C, 0x0B, 0x0A, 0x14, 0x13, 0x12, 0x11, 0x40];
        assert_eq!(bytes_of(keyed), bytes);
        assert_eq!(bytes_of(SglDescriptor::keyed(0, 0, 0, true))[15], 0x4F);
        let inside = SglDescriptor::in_capsule(0x10, 0x0102_0304);
        assert_eq!(bytes_of(inside), [0x10, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0x01]);
        let transport = SglDescriptor::transport(0x0102_0304);
        assert_eq!(bytes_of(transport), [0, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0x5A]);
    }

    #[test]
    fn descriptors_say_what_was_put_into_them() {
        for key in [0, 1, 0x8000_0000, u32::MAX, 0x1234_5678] {
            for (length, invalidate) in [(0, false), (0xFF_FFFF, true), (4096, false)] {
                let data = CapsuleData::Keyed { address: u64::MAX - 1, length, key, invalidate };
                let descriptor = SglDescriptor::keyed(u64::MAX - 1, length, key, invalidate);
                assert_eq!((descriptor.capsule_data(), data.length()), (Some(data), length));
            }
        }
        let inside = CapsuleData::InCapsule { offset: 64, length: 8192 };
        assert_eq!(SglDescriptor::in_capsule(64, 8192).capsule_data(), Some(inside));
        assert_eq!(SglDescriptor::transport(0).capsule_data(), Some(CapsuleData::Transport { length: 0 }));
    }

    #[test]
    fn addresses_without_key_and_lists_are_no_capsule_data() {
        for identifier in (0..=u8::MAX).filter(|it| ![0x01, 0x40, 0x4F, 0x5A].contains(it)) {
            let descriptor = SglDescriptor { identifier, ..SglDescriptor::data_block(0x1000, 4096) };
            assert_eq!(descriptor.capsule_data(), None, "{identifier:#x}");
        }
    }
}
