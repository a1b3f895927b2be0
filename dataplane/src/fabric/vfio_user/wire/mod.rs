//! The messages of the vfio-user protocol, version 0.1 (QEMU, docs/interop/vfio-user.rst).
//!
//! Everything is decoded out of a bounded buffer by checked reads; nothing from the wire is believed. The protocol
//! uses the machine's byte order, which is little endian on every machine kvplane runs on.

mod capabilities;
mod header;
mod message;
mod numbers;
mod request;

pub use capabilities::{PeerCapabilities, capabilities};
pub use header::{Header, WireError};
pub use message::Message;
pub use numbers::*;
pub use request::{Request, decode_message, decode_request};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dma_map_matches_literal_bytes() {
        let mut bytes = vec![0x34, 0x12, 2, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&[32, 0, 0, 0, 3, 0, 0, 0]);
        bytes.extend_from_slice(&0x1000u64.to_le_bytes());
        bytes.extend_from_slice(&0x10_0000u64.to_le_bytes());
        bytes.extend_from_slice(&0x20_0000u64.to_le_bytes());
        let (header, request) = decode_message(&bytes).unwrap();
        assert_eq!((header.id, header.command, header.wants_reply()), (0x1234, command::DMA_MAP, true));
        let expected = Request::DmaMap { flags: 3, offset: 0x1000, address: 0x10_0000, size: 0x20_0000 };
        assert_eq!(request, expected);
        let made = Message::command(0x1234, command::DMA_MAP).u32(32).u32(3).u64(0x1000).u64(0x10_0000).u64(0x20_0000);
        assert_eq!(made.finish(), bytes);
    }

    #[test]
    fn size_flags_and_unknown_commands_are_refused() {
        let mut message = Message::command(1, command::DEVICE_RESET).finish();
        assert!(matches!(decode_message(&message), Ok((_, Request::Reset))));
        message[8] = 1;
        assert_eq!(decode_message(&message), Err(WireError::Flags(1)));
        message[8] = 0;
        message[4] = 15;
        assert_eq!(decode_message(&message), Err(WireError::Size(15)));
        let unknown = Message::command(1, 14).finish();
        assert_eq!(decode_message(&unknown), Err(WireError::Unsupported(14)));
        let long = Message::command(1, command::REGION_READ).u64(0).u32(0).u32(MAX_TRANSFER_BYTES + 1).finish();
        assert_eq!(decode_message(&long), Err(WireError::Field(command::REGION_READ)));
    }

    #[test]
    fn capabilities_are_read_tolerantly() {
        let ours = capabilities(128);
        let parsed = PeerCapabilities::parse(&ours[..ours.len() - 1]);
        assert_eq!(parsed, PeerCapabilities { max_msg_fds: 64, max_data_xfer_size: 32768 });
        let defaults = PeerCapabilities { max_msg_fds: 1, max_data_xfer_size: 1 << 20 };
        for odd in [&b""[..], b"{", b"[]", b"{\"capabilities\":7}", b"{\"capabilities\":{\"max_msg_fds\":-1}}"] {
            assert_eq!(PeerCapabilities::parse(odd), defaults);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..256), command in 0u16..20) {
            let _ = decode_message(&bytes);
            if bytes.len() >= HEADER_BYTES {
                let size = bytes.len() as u32;
                bytes[2..4].copy_from_slice(&command.to_le_bytes());
                bytes[4..8].copy_from_slice(&size.to_le_bytes());
                bytes[8..12].fill(0);
                let _ = decode_message(&bytes);
            }
        }
    }
}
