//! Messages of the vfio-user socket: whatever comes, it is decoded into something whose fields lie inside the message,
//! or refused.
#![no_main]

use dataplane::fabric::vfio_user::wire::{self, HEADER_BYTES, Header, Message, PeerCapabilities, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = PeerCapabilities::parse(bytes);
    let Some((first, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = Header::decode(first) else { return };
    // A reply to anything can be made, and is itself a message of the length it says.
    for reply in [Message::reply(&header).bytes(payload).finish(), Message::error(&header, 22).finish()] {
        let said = u32::from_le_bytes([reply[4], reply[5], reply[6], reply[7]]);
        assert_eq!(said as usize, reply.len());
    }
    let _ = wire::decode_message(bytes);
    if let Ok(Request::RegionWrite { data, .. }) = wire::decode_request(&header, payload) {
        assert!(data.len() <= payload.len());
    }
});
