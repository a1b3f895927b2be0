//! PDUs of NVMe/TCP: whatever comes, it is refused, or read into something that fits the limits and is read again from
//! what it would be written as.
#![no_main]

use dataplane::fabric::tcp::wire::{
    Alignment, Decoder, Digests, End, Framing, HEAD_BYTES, Limits, MAX_TERM_DATA_BYTES, Pdu, TermReq,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The first two bytes say what was agreed.
    let Some((&[setting, dwords], bytes)) = bytes.split_first_chunk::<2>() else { return };
    let bit = |number: u8| setting & (1 << number) != 0;
    let alignment = Alignment::from_field(dwords & 31).unwrap();
    let framing = Framing { digests: Digests { header: bit(2), data: bit(3) }, alignment };
    let receiver = if bit(0) { End::Host } else { End::Controller };
    let limits = Limits { capsule_data: 16384, h2c_data: 1 << 20 };
    let decoder = Decoder { receiver, initialized: bit(1), framing, limits };
    let _ = decoder.decode(bytes);
    let Some(first) = bytes.first_chunk() else { return };
    let Ok(length) = decoder.header_length(first) else { return };
    let Some(header) = bytes.get(..length) else { return };
    let received = match decoder.decode(header) {
        Ok(received) => received,
        Err(fault) => {
            // The request that says so is one that the other end can read.
            let mut head = [0; HEAD_BYTES];
            let written = TermReq::from(fault).encode(receiver, header, &mut head);
            let across = Decoder { receiver: receiver.peer(), ..decoder };
            let length = across.header_length(head.first_chunk().unwrap()).unwrap();
            let read = across.decode(&head[..length]).unwrap();
            assert_eq!(read.pdu, Pdu::TermReq(TermReq { fes: fault.fes, fei: fault.fei }));
            assert_eq!(read.payload.data as usize, written - length);
            return;
        }
    };
    let mut head = [0; HEAD_BYTES];
    let written = match received.pdu {
        Pdu::IcReq(pdu) => pdu.encode(&mut head),
        Pdu::IcResp(pdu) => pdu.encode(&mut head),
        Pdu::TermReq(_) => return assert!(received.payload.data <= MAX_TERM_DATA_BYTES),
        Pdu::CapsuleCmd(pdu) => pdu.encode(framing, &mut head),
        Pdu::CapsuleResp(pdu) => pdu.encode(framing, &mut head),
        Pdu::H2cData(pdu) => pdu.encode(framing, &mut head),
        Pdu::C2hData(pdu) => pdu.encode(framing, &mut head),
        Pdu::R2t(pdu) => pdu.encode(framing, &mut head),
    };
    assert!(received.payload.data <= limits.h2c_data || receiver == End::Host);
    assert!(length <= written);
    let again = decoder.decode(&head[..length]).unwrap();
    assert_eq!((again.pdu, again.payload.data), (received.pdu, received.payload.data));
});
