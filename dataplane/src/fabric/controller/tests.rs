//! Against literal bytes and the specification's rules.

mod discovery;
mod fabrics;
mod random;

use super::*;
use crate::fabric::Completion;
use crate::nvme::spec::vendor::OwnerMap;

fn namespace(nsid: u32) -> NamespaceInfo {
    NamespaceInfo {
        nsid,
        size_bytes: 0x1122_3344_5566,
        used_bytes: 0x1000,
        max_value_bytes: 1 << 24,
        max_keys: 9,
        granularity: 4096,
        nguid: *b"0123456789abcdef",
    }
}

fn identity() -> ControllerIdentity {
    ControllerIdentity {
        subsystem_nqn: "nqn.2026-01.io.kvplane:tier".into(),
        serial: "SN1".into(),
        model: "kvplane".into(),
        firmware: "1.0".into(),
        controller_id: 7,
        max_transfer_bytes: 16 << 20,
        owners: OwnerMap { shards: 4, cores: 2 },
    }
}

fn controller() -> Controller {
    let limits = ControllerLimits { max_queue_entries: 1024, io_queues: 64, vectors: 64, cores: 2, fabrics: None };
    Controller::new(identity(), vec![namespace(1), namespace(5)], limits)
}

fn read32(controller: &Controller, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    controller.read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn write32(controller: &mut Controller, offset: u64, value: u32) -> RegisterEffect {
    controller.write(offset, &value.to_le_bytes())
}

/// Entry sizes, the command set 110b, enable.
const CC: u32 = (4 << 20) | (6 << 16) | (0b110 << 4) | 1;

fn enabled() -> Controller {
    let mut controller = controller();
    let _ = write32(&mut controller, offset::AQA, 0x001F_000F);
    let _ = controller.write(offset::ASQ, &0x1_0000_1000u64.to_le_bytes());
    let _ = controller.write(offset::ACQ, &0x1_0000_2000u64.to_le_bytes());
    let effect = write32(&mut controller, offset::CC, CC);
    let queues = AdminQueues { sq_address: 0x1_0000_1000, sq_entries: 16, cq_address: 0x1_0000_2000, cq_entries: 32 };
    assert_eq!(effect, RegisterEffect::Enable(queues));
    assert!(controller.is_ready());
    controller
}

fn status(action: AdminAction) -> Status {
    match action {
        AdminAction::Complete(completion) => completion.status,
        other => panic!("not a completion: {other:?}"),
    }
}

fn sent(action: AdminAction) -> Vec<u8> {
    match action {
        AdminAction::Send(bytes) => bytes,
        other => panic!("no data: {other:?}"),
    }
}

fn dword0(action: AdminAction) -> u32 {
    match action {
        AdminAction::Complete(Completion { status: Status::SUCCESS, dword0, .. }) => dword0,
        other => panic!("no success: {other:?}"),
    }
}

fn identify(controller: &mut Controller, cns: u8, nsid: u32, csi: u8) -> AdminAction {
    let mut sqe = Sqe::new(0x06, 1);
    sqe.set_nsid(nsid);
    sqe.set_dword(10, u32::from(cns));
    sqe.set_dword(11, u32::from(csi) << 24);
    controller.admin(&sqe)
}

#[test]
fn capabilities_say_what_linux_needs_for_kv() {
    let controller = controller();
    let mut bytes = [0; 8];
    controller.read(offset::CAP, &mut bytes);
    // MQES 1023, CQR, TO 10 s, CSS bits 0 and 6, DSTRD and MPS zero.
    assert_eq!(bytes, [0xFF, 0x03, 0x01, 20, 0x20, 0x08, 0, 0]);
    assert_eq!(read32(&controller, offset::VS), 0x0002_0000);
    assert_eq!(read32(&controller, 0x500), 0);
    assert_eq!(read32(&controller, u64::MAX - 3), 0);
}

#[test]
fn enabling_checks_what_the_host_set_up() {
    for (aqa, asq, cc) in [(0x001F_0000, 0x1000, CC), (0x001F_000F, 0, CC), (0x001F_000F, 0x1000, CC | (1 << 7))] {
        let mut controller = controller();
        let _ = write32(&mut controller, offset::AQA, aqa);
        let _ = write32(&mut controller, offset::ASQ, asq);
        let _ = write32(&mut controller, offset::ACQ, 0x2000);
        assert_eq!(write32(&mut controller, offset::CC, cc), RegisterEffect::None);
        assert_eq!(read32(&controller, offset::CSTS), 0b10, "fatal");
        assert_eq!(write32(&mut controller, offset::CC, 0), RegisterEffect::Reset);
        controller.queues_ended();
        assert_eq!(read32(&controller, offset::CSTS), 0, "mended by a reset");
    }
}

#[test]
fn shutdown_and_reset_wait_for_the_carrier() {
    let mut controller = enabled();
    let _ = write32(&mut controller, offset::AQA, 0);
    assert_eq!(read32(&controller, offset::AQA), 0x001F_000F, "fixed while enabled");
    assert_eq!(write32(&mut controller, offset::CC, CC | (1 << 14)), RegisterEffect::Shutdown);
    assert_eq!(read32(&controller, offset::CSTS), 0b0101);
    controller.queues_ended();
    assert_eq!(read32(&controller, offset::CSTS), 0b1001);
    assert_eq!(write32(&mut controller, offset::CC, CC & !1), RegisterEffect::Reset);
    assert_eq!(read32(&controller, offset::CSTS) & 1, 1, "ready until the queues have ended");
    controller.queues_ended();
    assert_eq!(read32(&controller, offset::CSTS), 0);
}

#[test]
fn accesses_of_odd_size_or_place_change_nothing() {
    let mut controller = controller();
    for (at, bytes) in [(offset::ASQ + 4, 8), (offset::ASQ + 2, 4), (offset::ASQ, 3), (offset::ASQ, 16)] {
        assert_eq!(controller.write(at, &vec![0xFF; bytes]), RegisterEffect::None);
    }
    assert_eq!(read32(&controller, offset::ASQ), 0);
    let _ = write32(&mut controller, offset::INTMS, 0b11);
    let _ = write32(&mut controller, offset::INTMC, 0b01);
    assert_eq!(read32(&controller, offset::INTMS), 0b10);
}

#[test]
fn identify_controller_matches_the_specification() {
    let data = sent(identify(&mut enabled(), 0x01, 0, 0));
    assert_eq!(&data[4..24], b"SN1                 ");
    assert_eq!(&data[24..32], b"kvplane ");
    assert_eq!((data[77], data[78], data[111]), (12, 7, 1));
    assert_eq!(&data[80..84], &[0, 0, 2, 0]);
    assert_eq!(&data[256..262], &[0, 0, 3, 3, 3, 6]);
    assert_eq!(&data[512..520], &[0x66, 0x44, 0, 0, 0, 4, 0, 0]);
    assert_eq!(&data[536..540], &[1, 0, 0, 0]);
    assert_eq!(&data[768..796], b"nqn.2026-01.io.kvplane:tier\0");
    assert_eq!(&data[3072..3088], b"kvplane1\x04\0\0\0\x02\0\0\0");
}

#[test]
fn identify_namespace_says_key_value() {
    let mut controller = enabled();
    let data = sent(identify(&mut controller, 0x05, 5, 1));
    assert_eq!(&data[0..8], &0x1122_3344_5566u64.to_le_bytes());
    assert_eq!(&data[16..24], &0x1000u64.to_le_bytes());
    assert_eq!(&data[32..36], &4096u32.to_le_bytes());
    assert_eq!(&data[48..64], b"0123456789abcdef");
    assert_eq!(&data[72..88], &[16, 0, 0, 0, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0]);
    let list = sent(identify(&mut controller, 0x03, 1, 0));
    assert_eq!(&list[0..4], &[2, 16, 0, 0]);
    assert_eq!(&list[20..22], &[3, 16]);
    assert_eq!(&list[40..46], &[4, 1, 0, 0, 1, 0]);
    assert_eq!(sent(identify(&mut controller, 0x08, 1, 0))[14], 1);
    assert_eq!(sent(identify(&mut controller, 0x02, 0, 0))[..12], [1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(sent(identify(&mut controller, 0x07, 1, 1))[..8], [5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(sent(identify(&mut controller, 0x07, 0, 0))[..4], [0; 4]);
    assert_eq!(sent(identify(&mut controller, 0x1C, 0, 0))[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert!(sent(identify(&mut controller, 0x00, 2, 0)).iter().all(|byte| *byte == 0), "inactive");
    for (cns, nsid, csi) in [(0x03, 2, 0), (0x08, 0, 0), (0x00, 0, 0), (0x02, u32::MAX, 0)] {
        assert_eq!(status(identify(&mut controller, cns, nsid, csi)), Status::INVALID_NAMESPACE, "{cns:#x}");
    }
    assert_eq!(status(identify(&mut controller, 0x05, 1, 2)), Status::INVALID_FIELD);
    assert_eq!(status(identify(&mut controller, 0x99, 1, 0)), Status::INVALID_FIELD);
}

fn create(op: u8, qid: u16, size: u32, flags: u32, address: u64) -> Sqe {
    let mut sqe = Sqe::new(op, 2);
    sqe.set_prp(address, 0);
    sqe.set_dword(10, u32::from(qid) | ((size - 1) << 16));
    sqe.set_dword(11, flags);
    sqe
}

#[test]
fn queues_are_made_and_ended_in_the_right_order() {
    let mut controller = enabled();
    let cq = |qid, size, flags, address| create(0x05, qid, size, flags, address);
    for (sqe, expected) in [
        (cq(0, 16, 1, 0x1000), Status::INVALID_QUEUE_ID),
        (cq(65, 16, 1, 0x1000), Status::INVALID_QUEUE_ID),
        (cq(1, 1, 1, 0x1000), Status::INVALID_QUEUE_SIZE),
        (cq(1, 1025, 1, 0x1000), Status::INVALID_QUEUE_SIZE),
        (cq(1, 16, 0, 0x1000), Status::INVALID_FIELD),
        (cq(1, 16, 1, 0x1004), Status::PRP_OFFSET_INVALID),
        (cq(1, 16, 0b11 | (64 << 16), 0x1000), Status::INVALID_INTERRUPT_VECTOR),
        (create(0x01, 1, 16, 1 | (1 << 16), 0x1000), Status::COMPLETION_QUEUE_INVALID),
        (create(0x01, 1, 16, 1, 0x1000), Status::INVALID_QUEUE_ID),
        (create(0x00, 1, 1, 0, 0), Status::INVALID_QUEUE_ID),
        (create(0x04, 1, 1, 0, 0), Status::INVALID_QUEUE_ID),
    ] {
        assert_eq!(status(controller.admin(&sqe)), expected, "{sqe:?}");
    }
    let AdminAction::CreateCompletionQueue(queue) = controller.admin(&cq(1, 16, 0b11 | (3 << 16), 0x1000)) else {
        panic!("refused")
    };
    assert_eq!(queue, NewCompletionQueue { qid: 1, entries: 16, address: 0x1000, vector: Some(3) });
    controller.completion_queue_made(&queue);
    assert_eq!(status(controller.admin(&cq(1, 16, 1, 0x1000))), Status::INVALID_QUEUE_ID);
    // Queue 2 is another core's.
    assert_eq!(status(controller.admin(&create(0x01, 2, 16, 1 | (1 << 16), 0x1000))), Status::INVALID_FIELD);
    for qid in [1, 3] {
        let AdminAction::CreateSubmissionQueue(queue) = controller.admin(&create(0x01, qid, 16, 1 | (1 << 16), 0x1000))
        else {
            panic!("refused")
        };
        controller.submission_queue_made(&queue);
    }
    for qid in [1, 3] {
        assert_eq!(status(controller.admin(&create(0x04, 1, 1, 0, 0))), Status::INVALID_QUEUE_DELETION);
        assert_eq!(controller.admin(&create(0x00, qid, 1, 0, 0)), AdminAction::DeleteSubmissionQueue(qid));
        controller.submission_queue_ended(qid);
    }
    assert_eq!(controller.admin(&create(0x04, 1, 1, 0, 0)), AdminAction::DeleteCompletionQueue(1));
    controller.completion_queue_ended(1);
}

fn feature(op: u8, fid: u32, value: u32) -> Sqe {
    let mut sqe = Sqe::new(op, 3);
    sqe.set_dword(10, fid);
    sqe.set_dword(11, value);
    sqe
}

#[test]
fn features_are_kept_or_refused() {
    let mut controller = enabled();
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x07, 0x0003_0001))), 0x0003_0001);
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x07, 0xFFFE_FFFE))), 0x003F_003F);
    assert_eq!(status(controller.admin(&feature(0x09, 0x07, 0xFFFF))), Status::INVALID_FIELD);
    assert_eq!(dword0(controller.admin(&feature(0x0A, 0x07, 0))), 0x003F_003F);
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x0F, 5000))), 0);
    assert_eq!(dword0(controller.admin(&feature(0x0A, 0x0F, 0))), 5000);
    assert_eq!(dword0(controller.admin(&feature(0x0A, 0x0F | (1 << 8), 0))), 0, "the default");
    assert_eq!(dword0(controller.admin(&feature(0x0A, 0x0F | (3 << 8), 0))), 0b100, "changeable");
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x19, 0))), 0);
    assert_eq!(status(controller.admin(&feature(0x09, 0x19, 1))), Status::INVALID_FIELD);
    assert_eq!(status(controller.admin(&feature(0x09, 0x0F | (1 << 31), 1))), Status::FEATURE_NOT_SAVEABLE);
    assert_eq!(status(controller.admin(&feature(0x09, 0x06, 1))), Status::FEATURE_NOT_CHANGEABLE);
    assert_eq!(status(controller.admin(&feature(0x0A, 0x7F, 0))), Status::INVALID_FIELD);
}

fn log_page(page: u8, dwords: u32, offset: u64, csi: u8) -> Sqe {
    let mut sqe = Sqe::new(0x02, 4);
    sqe.set_dword(10, u32::from(page) | ((dwords - 1) << 16));
    sqe.set_dword(11, (dwords - 1) >> 16);
    sqe.set_quadword(12, offset);
    sqe.set_dword(14, u32::from(csi) << 24);
    sqe
}

#[test]
fn logs_honour_length_and_offset() {
    let mut controller = enabled();
    let effects = sent(controller.admin(&log_page(0x05, 1024, 0, 1)));
    assert_eq!(effects.len(), 4096);
    assert_eq!(&effects[6 * 4..6 * 4 + 4], &[1, 0, 0, 0], "Identify");
    assert_eq!(&effects[1024 + 4..1024 + 8], &[3, 0, 0, 0], "Store");
    assert_eq!(&effects[1024 + 8..1024 + 12], &[1, 0, 0, 0], "Retrieve");
    assert_eq!(sent(controller.admin(&log_page(0x05, 1, 1024 + 4, 1))), [3, 0, 0, 0]);
    assert_eq!(sent(controller.admin(&log_page(0x05, 2, 4092, 1))), [0; 8], "padded");
    assert_eq!(status(controller.admin(&log_page(0x05, 1, 8192, 1))), Status::INVALID_FIELD);
    assert_eq!(status(controller.admin(&log_page(0x05, 1, 2, 1))), Status::INVALID_FIELD);
    assert_eq!(status(controller.admin(&log_page(0x02, 1 << 30, 0, 0))), Status::INVALID_FIELD);
    assert_eq!(status(controller.admin(&log_page(0x7E, 1, 0, 0))), Status::INVALID_LOG_PAGE);
    let errors = sent(controller.admin(&log_page(0x01, 16, 0, 0)));
    assert_eq!((errors[0], errors[10]), (4, 4), "four refusals, the last of command 4");
    assert_eq!(&sent(controller.admin(&log_page(0x03, 4, 0, 0)))[8..16], b"1.0     ");
}

#[test]
fn the_error_log_keeps_the_last_refusals() {
    let mut controller = enabled();
    let counts = |controller: &mut Controller| -> Vec<(u8, u8)> {
        let log = sent(controller.admin(&log_page(0x01, 8 * 16, 0, 0)));
        log.chunks_exact(64).map(|entry| (entry[0], entry[10])).collect()
    };
    for cid in 1..=2 {
        assert_eq!(status(controller.admin(&Sqe::new(0x80, cid))), Status::INVALID_OPCODE);
    }
    assert_eq!(counts(&mut controller)[..3], [(2, 2), (1, 1), (0, 0)], "the youngest first; none has the count 0");
    for cid in 3..=20 {
        assert_eq!(status(controller.admin(&Sqe::new(0x80, cid))), Status::INVALID_OPCODE);
    }
    assert_eq!(counts(&mut controller), (13..=20).rev().map(|count| (count, count)).collect::<Vec<_>>());
    let data = sent(identify(&mut controller, 0x01, 0, 0));
    assert_eq!(data[262], 7, "ELPE, 0's based");
}

#[test]
fn events_wait_for_requests_and_requests_for_events() {
    let mut controller = enabled();
    let request = |cid| Sqe::new(0x0C, cid);
    for cid in 0..4 {
        assert_eq!(controller.admin(&request(cid)), AdminAction::Wait);
    }
    assert_eq!(status(controller.admin(&request(4))), Status::AER_LIMIT_EXCEEDED);
    assert_eq!(controller.take_event(), None);
    // Not asked for yet: no event, but the list is kept.
    controller.set_namespaces(vec![namespace(1)]);
    assert_eq!(controller.take_event(), None);
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x0B, 1 << 8))), 0);
    controller.set_namespaces(vec![namespace(1), namespace(9)]);
    assert_eq!(controller.take_event(), Some((0, 0x0004_0002)));
    controller.set_namespaces(vec![namespace(9)]);
    assert_eq!(controller.take_event(), None, "masked until the log is read");
    let changed = sent(controller.admin(&log_page(0x04, 4, 0, 0)));
    assert_eq!(changed, [1, 0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    let mut fuller = namespace(9);
    fuller.used_bytes += 1;
    controller.set_namespaces(vec![fuller]);
    assert_eq!(controller.take_event(), None, "usage is no event");
    controller.invalid_doorbell();
    assert_eq!(controller.take_event(), Some((1, 0x0001_0100)));
    controller.queues_ended();
    controller.invalid_doorbell();
    assert_eq!(controller.take_event(), None, "a reset forgets the requests");
}

#[test]
fn what_is_not_supported_is_said_to_be() {
    let mut controller = enabled();
    for op in [0x03, 0x0D, 0x10, 0x11, 0x14, 0x15, 0x19, 0x1C, 0x7C, 0x80, 0x81, 0xC0, 0xFF] {
        assert_eq!(status(controller.admin(&Sqe::new(op, 0))), Status::INVALID_OPCODE, "{op:#x}");
    }
    assert_eq!(dword0(controller.admin(&Sqe::new(0x18, 0))), 0, "keep alive");
    assert_eq!(dword0(controller.admin(&Sqe::new(0x08, 0))), 1, "not aborted");
    let mut fused = Sqe::new(0x06, 0);
    fused.set_dword(0, fused.dword(0) | (1 << 8));
    assert_eq!(status(controller.admin(&fused)), Status::INVALID_FIELD);
}
