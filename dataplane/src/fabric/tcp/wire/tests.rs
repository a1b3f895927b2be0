//! Against literal bytes of the specification's figures, against themselves, and against every wrong field.

use proptest::prelude::*;

use super::*;
use crate::nvme::spec::{Cqe, Sqe, Status};

const EVERY_DIGEST: Digests = Digests { header: true, data: true };

fn decoder(receiver: End, framing: Framing) -> Decoder {
    let limits = Limits { capsule_data: 8192, h2c_data: 65536 };
    Decoder { receiver, initialized: true, framing, limits }
}

fn plain(receiver: End) -> Decoder {
    decoder(receiver, Framing::INITIAL)
}

/// As a receiver does it: first the common header, then the rest.
fn decode(decoder: &Decoder, bytes: &[u8]) -> Result<Received, PduFault> {
    let length = decoder.header_length(bytes.first_chunk().unwrap())?;
    decoder.decode(&bytes[..length])
}

fn encode(pdu: &Pdu, framing: Framing, from: End) -> Vec<u8> {
    let mut head = [0xEE; HEAD_BYTES];
    let bytes = match pdu {
        Pdu::IcReq(it) => it.encode(&mut head),
        Pdu::IcResp(it) => it.encode(&mut head),
        Pdu::TermReq(it) => it.encode(from, &[], &mut head),
        Pdu::CapsuleCmd(it) => it.encode(framing, &mut head),
        Pdu::CapsuleResp(it) => it.encode(framing, &mut head),
        Pdu::H2cData(it) => it.encode(framing, &mut head),
        Pdu::C2hData(it) => it.encode(framing, &mut head),
        Pdu::R2t(it) => it.encode(framing, &mut head),
    };
    head[..bytes].to_vec()
}

fn aligned(bytes: usize) -> Framing {
    Framing { digests: Digests::NONE, alignment: Alignment::from_field((bytes / 4 - 1) as u8).unwrap() }
}

#[test]
fn connection_set_up_matches_literal_bytes() {
    let request = IcReq { alignment: Alignment::from_field(3).unwrap(), digests: EVERY_DIGEST, max_r2t: 0x0403_0201 };
    let bytes = encode(&Pdu::IcReq(request), Framing::INITIAL, End::Host);
    assert_eq!(bytes[..16], [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 3, 3, 1, 2, 3, 4]);
    assert_eq!(bytes[16..], [0; 112]);
    let received = decode(&Decoder::new(End::Controller), &bytes).unwrap();
    assert_eq!(received, Received { pdu: Pdu::IcReq(request), payload: Payload::default() });

    let digests = Digests { header: false, data: true };
    let response = IcResp { alignment: Alignment::DWORD, digests, max_h2c_data: 0x2_0000 };
    let bytes = encode(&Pdu::IcResp(response), Framing::INITIAL, End::Controller);
    assert_eq!(bytes[..16], [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 0]);
    assert_eq!(decode(&Decoder::new(End::Host), &bytes).unwrap().pdu, Pdu::IcResp(response));
    assert_eq!(response.enabled(EVERY_DIGEST), Ok(digests));
    let unasked = response.enabled(Digests { header: true, data: false });
    assert_eq!(unasked, Err(PduFault::invalid(field::DIGESTS)));
}

#[test]
fn capsules_match_literal_bytes() {
    let mut sqe = Sqe::new(0x7F, 0x0102);
    sqe.set_dword(15, 0xA1A2_A3A4);
    let bytes = encode(&Pdu::CapsuleCmd(CapsuleCmd { sqe, data: 1024 }), Framing::INITIAL, End::Host);
    assert_eq!(bytes.len(), 72);
    assert_eq!(bytes[..12], [4, 0, 72, 72, 0x48, 4, 0, 0, 0x7F, 0, 2, 1]);
    assert_eq!(bytes[68..], [0xA4, 0xA3, 0xA2, 0xA1]);
    let received = decode(&plain(End::Controller), &bytes).unwrap();
    assert_eq!(received.pdu, Pdu::CapsuleCmd(CapsuleCmd { sqe, data: 1024 }));
    assert_eq!(received.payload, Payload { padding: 0, data: 1024, digest: false });

    let cqe = Cqe { dword0: 0x0403_0201, dword1: 5, sq_head: 6, sq_id: 0, cid: 7, status: Status::KEY_DOES_NOT_EXIST };
    let bytes = encode(&Pdu::CapsuleResp(CapsuleResp { cqe }), Framing::INITIAL, End::Controller);
    assert_eq!(bytes, [5, 0, 24, 0, 24, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0x0E, 0x81]);
    assert_eq!(decode(&plain(End::Host), &bytes).unwrap().pdu, Pdu::CapsuleResp(CapsuleResp { cqe }));
}

#[test]
fn data_and_requests_for_it_match_literal_bytes() {
    // The alignments and paddings of figures 8 and 9.
    let data = H2cData { cid: 0x0201, tag: 0x0403, offset: 0x100, length: 0x200, last: true };
    let bytes = encode(&Pdu::H2cData(data), aligned(64), End::Host);
    assert_eq!(bytes[..20], [6, 4, 24, 64, 0x40, 2, 0, 0, 1, 2, 3, 4, 0, 1, 0, 0, 0, 2, 0, 0]);
    assert_eq!(bytes[20..], [0; 44]);
    let received = decode(&decoder(End::Controller, aligned(64)), &bytes).unwrap();
    assert_eq!(received.pdu, Pdu::H2cData(data));
    assert_eq!(received.payload, Payload { padding: 40, data: 0x200, digest: false });

    let data = C2hData { cid: 1, offset: 4, length: 3, last: true, success: true };
    let bytes = encode(&Pdu::C2hData(data), aligned(16), End::Controller);
    assert_eq!(bytes[..20], [7, 12, 24, 32, 35, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0]);
    let received = decode(&decoder(End::Host, aligned(16)), &bytes).unwrap();
    assert_eq!((received.pdu, received.payload.padding), (Pdu::C2hData(data), 8));

    let request = R2t { cid: 1, tag: 0x0302, offset: 4, length: 5 };
    let bytes = encode(&Pdu::R2t(request), Framing::INITIAL, End::Controller);
    assert_eq!(bytes, [9, 0, 24, 0, 24, 0, 0, 0, 1, 0, 2, 3, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(decode(&plain(End::Host), &bytes).unwrap().pdu, Pdu::R2t(request));
}

#[test]
fn termination_repeats_the_offending_header() {
    let fault = PduFault::invalid(field::LENGTH);
    let mut head = [0xEE; HEAD_BYTES];
    let bytes = TermReq::from(fault).encode(End::Host, &[9; 24], &mut head);
    assert_eq!(head[..24], [2, 0, 24, 0, 48, 0, 0, 0, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(head[24..bytes], [9; 24]);
    let received = decode(&plain(End::Controller), &head).unwrap();
    assert_eq!(received.pdu, Pdu::TermReq(TermReq { fes: FatalStatus::INVALID_HEADER_FIELD, fei: 16 }));
    assert_eq!(received.payload.data, 24);
    // No more of it than 128 bytes.
    assert_eq!(TermReq::from(fault).encode(End::Controller, &[9; 500], &mut head), HEAD_BYTES);
    assert_eq!(decode(&Decoder::new(End::Host), &head).unwrap().payload.data, 128);
}

#[test]
fn a_termination_of_a_wrong_length_is_not_answered() {
    for length in [0u32, 23, 153, u32::MAX] {
        let mut bytes = [0; HEAD_BYTES];
        TermReq::from(PduFault::SEQUENCE).encode(End::Host, &[], &mut bytes);
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        let fault = decode(&plain(End::Controller), &bytes).unwrap_err();
        assert!(!fault.is_answered());
    }
    assert!(PduFault::SEQUENCE.is_answered());
}

#[test]
fn digests_are_crc_32c() {
    assert_eq!(header_digest(b"123456789"), 0xE306_9283);
    let mut digest = DataDigest::new();
    digest.update(b"1234");
    digest.update(b"");
    digest.update(b"56789");
    assert_eq!(digest.finish(Padded::No), 0xE306_9283);
    assert_eq!(digest.finish(Padded::Yes), header_digest(b"123456789\0\0\0"));
    assert_eq!(digest.check(0xE306_9283), Some(Padded::No));
    assert_eq!(digest.check(header_digest(b"123456789\0\0\0")), Some(Padded::Yes));
    assert_eq!(digest.check(0xE306_9284), None);
    let mut even = DataDigest::new();
    even.update(b"12345678");
    assert_eq!(even.finish(Padded::No), even.finish(Padded::Yes));
}

#[test]
fn a_header_that_does_not_match_its_digest_is_refused_with_that_digest() {
    let framing = Framing { digests: EVERY_DIGEST, alignment: Alignment::DWORD };
    let good = encode(&Pdu::R2t(R2t { cid: 1, tag: 2, offset: 0, length: 4096 }), framing, End::Controller);
    assert_eq!(good.len(), 28);
    let decoder = decoder(End::Host, framing);
    assert!(decode(&decoder, &good).is_ok());
    // The command, the tag, offset and length; and a digest that says otherwise.
    for at in 8..28 {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        let digest = u32::from_le_bytes(bytes[24..28].try_into().unwrap());
        let expected = PduFault { fes: FatalStatus::HEADER_DIGEST_ERROR, fei: digest };
        assert_eq!(decode(&decoder, &bytes), Err(expected), "byte {at}");
    }
}

#[test]
fn only_the_first_pdus_initialize_a_connection() {
    let request = Pdu::IcReq(IcReq { alignment: Alignment::DWORD, digests: Digests::NONE, max_r2t: 0 });
    let request = encode(&request, Framing::INITIAL, End::Host);
    assert_eq!(decode(&plain(End::Controller), &request), Err(PduFault::SEQUENCE));
    let capsule = Pdu::CapsuleCmd(CapsuleCmd { sqe: Sqe::new(1, 1), data: 0 });
    let capsule = encode(&capsule, Framing::INITIAL, End::Host);
    assert_eq!(decode(&Decoder::new(End::Controller), &capsule), Err(PduFault::SEQUENCE));
    assert!(decode(&plain(End::Controller), &capsule).is_ok());
}

#[test]
fn unknown_types_and_those_of_the_own_end_are_refused() {
    for number in 0..=255u8 {
        for receiver in [End::Host, End::Controller] {
            let mut first = [number, 0, 24, 0, 24, 0, 0, 0];
            let known = PduType::from_number(number).filter(|kind| kind.sender() == receiver.peer());
            if let Some(kind) = known {
                first[2] = kind.header_bytes() as u8;
                first[4] = kind.header_bytes() as u8;
            }
            let refused = Err(PduFault::invalid(field::TYPE));
            assert_eq!(plain(receiver).header_length(&first) == refused, known.is_none(), "{number:#x}");
        }
    }
}

/// One wrong field, and what the specification wants to be said of it.
#[test]
fn every_wrong_field_has_its_fault() {
    let invalid = PduFault::invalid;
    let padded = Framing { digests: Digests { header: false, data: true }, alignment: aligned(64).alignment };
    let request = Pdu::IcReq(IcReq { alignment: Alignment::DWORD, digests: Digests::NONE, max_r2t: 0 });
    let response = Pdu::IcResp(IcResp { alignment: Alignment::DWORD, digests: Digests::NONE, max_h2c_data: 4096 });
    let capsule = Pdu::CapsuleCmd(CapsuleCmd { sqe: Sqe::new(1, 1), data: 512 });
    let bare = Pdu::CapsuleCmd(CapsuleCmd { sqe: Sqe::new(1, 1), data: 0 });
    let to_controller = Pdu::H2cData(H2cData { cid: 1, tag: 1, offset: 4096, length: 4096, last: true });
    let to_host = Pdu::C2hData(C2hData { cid: 1, offset: 0, length: 4096, last: false, success: false });
    let ready = Pdu::R2t(R2t { cid: 1, tag: 1, offset: 0, length: 4096 });
    let length = |bytes: u32| bytes.to_le_bytes().to_vec();
    let cases: Vec<(Decoder, &Pdu, usize, Vec<u8>, PduFault)> = vec![
        (Decoder::new(End::Controller), &request, 2, vec![127], invalid(field::HEADER_LENGTH)),
        (Decoder::new(End::Controller), &request, 4, vec![129], invalid(field::PDU_LENGTH)),
        (Decoder::new(End::Controller), &request, 4, vec![127], invalid(field::PDU_LENGTH)),
        (Decoder::new(End::Controller), &request, 8, vec![1], PduFault::unsupported(field::FORMAT_VERSION)),
        (Decoder::new(End::Controller), &request, 10, vec![32], invalid(field::ALIGNMENT)),
        (Decoder::new(End::Host), &response, 8, vec![1], PduFault::unsupported(field::FORMAT_VERSION)),
        (Decoder::new(End::Host), &response, 10, vec![255], invalid(field::ALIGNMENT)),
        (Decoder::new(End::Host), &response, 12, length(4092), invalid(field::MAX_H2C_DATA)),
        (Decoder::new(End::Host), &response, 12, length(4098), invalid(field::MAX_H2C_DATA)),
        (plain(End::Controller), &capsule, 1, vec![1], invalid(field::FLAGS)),
        (plain(End::Controller), &capsule, 1, vec![2], invalid(field::FLAGS)),
        (plain(End::Controller), &capsule, 2, vec![24], invalid(field::HEADER_LENGTH)),
        (plain(End::Controller), &capsule, 3, vec![68], invalid(field::DATA_OFFSET_IN_PDU)),
        (plain(End::Controller), &capsule, 3, vec![73], invalid(field::DATA_OFFSET_IN_PDU)),
        (plain(End::Controller), &capsule, 4, length(72 + 8193), invalid(field::PDU_LENGTH)),
        (plain(End::Controller), &capsule, 4, length(u32::MAX), invalid(field::PDU_LENGTH)),
        (plain(End::Controller), &bare, 4, length(71), invalid(field::PDU_LENGTH)),
        (plain(End::Controller), &bare, 4, length(0), invalid(field::PDU_LENGTH)),
        (decoder(End::Controller, padded), &capsule, 1, vec![0], invalid(field::FLAGS)),
        (decoder(End::Controller, padded), &capsule, 3, vec![100], invalid(field::DATA_OFFSET_IN_PDU)),
        (decoder(End::Controller, padded), &capsule, 4, length(131), invalid(field::PDU_LENGTH)),
        (decoder(End::Controller, padded), &to_controller, 1, vec![4], invalid(field::FLAGS)),
        (plain(End::Controller), &to_controller, 4, length(24), invalid(field::PDU_LENGTH)),
        (plain(End::Controller), &to_controller, 4, length(24 + 4095), invalid(field::PDU_LENGTH)),
        (plain(End::Controller), &to_controller, 12, length(2), invalid(field::OFFSET)),
        (
            plain(End::Controller),
            &to_controller,
            12,
            length(u32::MAX - 3),
            PduFault::plain(FatalStatus::DATA_OUT_OF_RANGE),
        ),
        (plain(End::Controller), &to_controller, 16, length(0), invalid(field::LENGTH)),
        (plain(End::Controller), &to_controller, 16, length(4100), invalid(field::PDU_LENGTH)),
        (plain(End::Host), &to_host, 1, vec![flags::SUCCESS], invalid(field::FLAGS)),
        (plain(End::Host), &to_host, 3, vec![20], invalid(field::DATA_OFFSET_IN_PDU)),
        (plain(End::Host), &to_host, 12, length(1), invalid(field::OFFSET)),
        (plain(End::Host), &ready, 1, vec![1], invalid(field::FLAGS)),
        (plain(End::Host), &ready, 4, length(28), invalid(field::PDU_LENGTH)),
        (plain(End::Host), &ready, 12, length(6), invalid(field::OFFSET)),
        (plain(End::Host), &ready, 16, length(0), invalid(field::LENGTH)),
    ];
    for (number, (decoder, pdu, at, with, expected)) in cases.into_iter().enumerate() {
        let mut bytes = encode(pdu, decoder.framing, decoder.receiver.peer());
        assert!(decode(&decoder, &bytes).is_ok(), "case {number} is refused before it is spoiled");
        bytes[at..at + with.len()].copy_from_slice(&with);
        assert_eq!(decode(&decoder, &bytes), Err(expected), "case {number}");
    }
}

#[test]
fn more_data_than_was_agreed_is_refused() {
    let data = Pdu::H2cData(H2cData { cid: 1, tag: 1, offset: 0, length: 65540, last: true });
    let bytes = encode(&data, Framing::INITIAL, End::Host);
    let fault = PduFault::plain(FatalStatus::DATA_LIMIT_EXCEEDED);
    assert_eq!(decode(&plain(End::Controller), &bytes), Err(fault));
}

fn any_framing() -> impl Strategy<Value = Framing> {
    (any::<(bool, bool)>(), 0..32u8).prop_map(|((header, data), dwords)| Framing {
        digests: Digests { header, data },
        alignment: Alignment::from_field(dwords).unwrap(),
    })
}

/// A PDU that is valid, and whether it comes before a connection is initialized.
fn any_pdu() -> impl Strategy<Value = (Pdu, bool)> {
    let transfer = (any::<u16>(), any::<u16>(), 0..1u32 << 29, 1..65537u32);
    (0..8, any::<[u64; 8]>(), transfer, any::<(bool, bool)>(), any_framing()).prop_map(
        |(kind, words, (cid, tag, offset, length), (last, success), Framing { digests, alignment })| {
            let (offset, fei) = (offset * 4, length);
            let pdu = match kind {
                0 => Pdu::IcReq(IcReq { alignment, digests, max_r2t: offset }),
                1 => Pdu::IcResp(IcResp { alignment, digests, max_h2c_data: 4096 + offset }),
                2 => Pdu::TermReq(TermReq { fes: FatalStatus(tag), fei }),
                3 => Pdu::CapsuleCmd(CapsuleCmd { sqe: Sqe::from_quadwords(words), data: length % 8193 }),
                4 => Pdu::CapsuleResp(CapsuleResp { cqe: Cqe::from_quadwords([words[0], words[1]]).0 }),
                5 => Pdu::H2cData(H2cData { cid, tag, offset, length, last }),
                6 => Pdu::C2hData(C2hData { cid, offset, length, last, success: success && last }),
                _ => Pdu::R2t(R2t { cid, tag, offset, length }),
            };
            (pdu, kind < 2)
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again((pdu, begins) in any_pdu(), framing in any_framing(), to_host in any::<bool>()) {
        let from = match pdu {
            Pdu::TermReq(_) if to_host => End::Controller,
            Pdu::IcResp(_) | Pdu::CapsuleResp(_) | Pdu::C2hData(_) | Pdu::R2t(_) => End::Controller,
            _ => End::Host,
        };
        let decoder = Decoder { initialized: !begins, ..decoder(from.peer(), framing) };
        let bytes = encode(&pdu, framing, from);
        let received = decode(&decoder, &bytes).unwrap();
        prop_assert_eq!(received.pdu, pdu);
        let header = decoder.header_length(bytes.first_chunk().unwrap()).unwrap();
        prop_assert_eq!(bytes.len(), header + usize::from(received.payload.padding));
        let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        prop_assert_eq!(length, header + received.payload.bytes());
        if received.payload.data > 0 && !matches!(pdu, Pdu::TermReq(_)) {
            prop_assert!(bytes.len().is_multiple_of(framing.alignment.bytes()));
            prop_assert_eq!(received.payload.digest, framing.digests.data);
        }
    }

    /// Whatever comes: a fault, or a PDU that fits its limits.
    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 132),
        kind in 0..10u8,
        plausible in any::<bool>(),
        framing in any_framing(),
        (to_host, initialized) in any::<(bool, bool)>(),
    ) {
        let receiver = if to_host { End::Host } else { End::Controller };
        let decoder = Decoder { initialized, ..decoder(receiver, framing) };
        if plausible && let Some(kind) = PduType::from_number(kind) {
            let data = u32::from(bytes[4]);
            let length = framing.alignment.data_offset(kind.header_bytes());
            let flags = bytes[1] & 0xF;
            bytes[..4].copy_from_slice(&[kind as u8, flags, kind.header_bytes() as u8, length as u8]);
            bytes[4..8].copy_from_slice(&(length as u32 + data).to_le_bytes());
        }
        if let Ok(received) = decode(&decoder, &bytes) {
            match received.pdu {
                Pdu::CapsuleCmd(capsule) => prop_assert!(capsule.data <= 8192),
                Pdu::H2cData(data) => prop_assert!(data.length <= 65536 && data.length == received.payload.data),
                Pdu::C2hData(data) => prop_assert_eq!(data.length, received.payload.data),
                Pdu::TermReq(_) => prop_assert!(received.payload.data <= MAX_TERM_DATA_BYTES),
                _ => prop_assert_eq!(received.payload, Payload::default()),
            }
        }
    }

    #[test]
    fn headers_of_any_length_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..132)) {
        let _ = plain(End::Controller).decode(&bytes);
        let _ = plain(End::Host).decode(&bytes);
    }
}
