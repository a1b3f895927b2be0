//! A controller over a message carrier: what Linux's and SPDK's hosts look at (Linux 6.1 drivers/nvme/host/{core,tcp,
//! rdma,fabrics}.c, SPDK lib/nvme/nvme_{ctrlr,fabric}.c), and what only the specification asks.

use super::*;
use crate::nvme::spec::fabrics::{ConnectFields, attributes};

const LIMITS: FabricsLimits = FabricsLimits {
    io_capsule_bytes: 64 + 8192,
    response_bytes: 16,
    in_capsule_offset: 0,
    max_sgl_descriptors: 1,
    keyed_sgl: false,
};

pub(super) fn limits() -> ControllerLimits {
    ControllerLimits { max_queue_entries: 128, io_queues: 8, vectors: 0, cores: 2, fabrics: Some(LIMITS) }
}

pub(super) fn connect(qid: u16, sqsize: u16, keep_alive_ms: u32) -> ConnectFields {
    ConnectFields { record_format: 0, qid, sqsize, attributes: attributes::NO_FLOW_CONTROL, keep_alive_ms }
}

fn disabled(limits: ControllerLimits) -> Controller {
    let mut controller = Controller::new(identity(), vec![namespace(1), namespace(5)], limits);
    controller.connected(&connect(0, 31, 5000));
    controller
}

fn enabled(limits: ControllerLimits) -> Controller {
    let mut controller = disabled(limits);
    assert_eq!(controller.property_set(0x14, false, u64::from(CC)), Ok(RegisterEffect::Ready));
    controller
}

fn refusal(result: Result<(), Completion>) -> (Status, u32) {
    let completion = result.expect_err("taken");
    (completion.status, completion.dword0)
}

#[test]
fn properties_are_those_of_fabrics() {
    let mut controller = disabled(limits());
    let cap = controller.property_get(0x00, true).unwrap();
    // MQES 127; CSS bits 0 and 6, so that Linux sets CC.CSS to 110b and asks namespaces for their command set.
    assert_eq!((cap & 0xFFFF, cap >> 37 & 0xFF), (127, 0b0100_0001));
    assert_eq!(controller.property_get(0x08, false), Ok(0x0002_0000));
    assert_eq!(controller.property_get(0x1C, false), Ok(0), "not ready");
    for (offset, size8) in [(0x00, false), (0x08, true), (0x14, true), (0x24, false), (0x28, true), (0x0C, false)] {
        assert_eq!(controller.property_get(offset, size8), Err(Status::INVALID_FIELD), "{offset:#x}");
    }
    for (offset, size8) in [(0x14, true), (0x1C, false), (0x00, true), (0x24, false), (0x0C, false), (0x20, false)] {
        assert_eq!(controller.property_set(offset, size8, 1), Err(Status::INVALID_FIELD), "{offset:#x}");
    }
    assert_eq!(controller.property_set(0x14, false, u64::from(CC)), Ok(RegisterEffect::Ready), "no AQA, ASQ, ACQ");
    assert_eq!(controller.property_get(0x14, false), Ok(u64::from(CC)));
    assert_eq!(controller.property_get(0x1C, false), Ok(1));
    assert_eq!(controller.property_set(0x14, false, u64::from(CC)), Ok(RegisterEffect::None), "enabled already");
}

#[test]
fn a_configuration_that_is_not_supported_is_fatal() {
    for cc in [CC | (1 << 7), CC | (1 << 11), (CC & !(0b111 << 4)) | (0b001 << 4)] {
        let mut controller = disabled(limits());
        assert_eq!(controller.property_set(0x14, false, u64::from(cc)), Ok(RegisterEffect::None));
        assert_eq!(controller.property_get(0x1C, false), Ok(0b10), "{cc:#x}");
    }
}

#[test]
fn shutdown_and_reset_wait_for_the_carrier() {
    let mut controller = enabled(limits());
    controller.queue_connected(1);
    let shutdown = u64::from(CC | (1 << 14));
    assert_eq!(controller.property_set(0x14, false, shutdown), Ok(RegisterEffect::Shutdown));
    assert_eq!(controller.property_get(0x1C, false), Ok(0b0101), "Linux polls for 10b in SHST");
    let refused = |controller: &Controller| refusal(controller.check_queue(&connect(2, 127, 0))).0;
    assert_eq!(refused(&controller), Status::COMMAND_SEQUENCE_ERROR, "while it shuts down");
    controller.queues_ended();
    assert_eq!(controller.property_get(0x1C, false), Ok(0b1001));
    assert_eq!(refused(&controller), Status::COMMAND_SEQUENCE_ERROR, "after it shut down");
    assert_eq!(controller.property_set(0x14, false, u64::from(CC & !1)), Ok(RegisterEffect::Reset));
    assert_eq!(refused(&controller), Status::COMMAND_SEQUENCE_ERROR, "while it resets");
    controller.queues_ended();
    assert_eq!(controller.property_get(0x1C, false), Ok(0));
    assert_eq!(controller.property_set(0x14, false, u64::from(CC)), Ok(RegisterEffect::Ready));
    assert_eq!(controller.check_queue(&connect(1, 127, 0)), Ok(()), "the queue before the reset is forgotten");
}

/// What Linux's nvme_check_ctrl_fabric_info, nvme_tcp_setup_ctrl and nvme_rdma_setup_ctrl demand.
#[test]
fn identify_controller_is_what_hosts_demand() {
    let mut controller = enabled(limits());
    let data = sent(identify(&mut controller, 0x01, 0, 0));
    let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
    assert_eq!(&data[78..80], &[7, 0], "CNTLID: that of Connect");
    assert_eq!(&data[768..796], b"nqn.2026-01.io.kvplane:tier\0");
    assert_eq!((data[76] & 0b10, data[96] & 1), (0b10, 1), "several controllers; host identifiers of 128 bits");
    assert_eq!(&data[320..322], &[10, 0], "KAS: must not be zero");
    assert_eq!(&data[514..516], &[128, 0], "MAXCMD: must not be zero");
    assert_eq!((word(1792), word(1796)), ((64 + 8192) / 16, 1), "IOCCSZ at least 4, IORCSZ at least 1");
    assert_eq!(&data[1800..1806], &[0, 0, 0, 1, 1, 0], "ICDOFF 0, FCATT 0, MSDBD 1, OFCS bit 0: Disconnect");
    assert_eq!(word(536), 1 | (1 << 20) | (1 << 21), "SGLS: data in the capsule by offset, transport data blocks");
    assert_eq!((data[111], data[262]), (1, 7), "an I/O controller; eight error entries");

    let fabrics = FabricsLimits { io_capsule_bytes: 64, keyed_sgl: true, ..LIMITS };
    let mut keyed = enabled(ControllerLimits { fabrics: Some(fabrics), max_queue_entries: 65_536, ..limits() });
    let data = sent(identify(&mut keyed, 0x01, 0, 0));
    assert_eq!(&data[536..540], &(1u32 | (1 << 2)).to_le_bytes(), "SGLS: keyed, and nothing in the capsule");
    assert_eq!(data[77], 11, "MDTS 8 MiB: a keyed descriptor has 24 bits for the length");
    assert_eq!((&data[514..516], &data[1792..1796]), (&[0xFF, 0xFF][..], &[4, 0, 0, 0][..]));
}

/// Linux's nvme_scan_ns: a namespace of command set 01h becomes a generic device if its descriptors say the command
/// set, and Identify CNS 08h that it is ready; and a second path to it is one only if it is shared.
#[test]
fn namespaces_become_generic_devices_over_more_than_one_path() {
    let mut controller = enabled(limits());
    let descriptors = sent(identify(&mut controller, 0x03, 5, 0));
    assert_eq!(&descriptors[40..46], &[4, 1, 0, 0, 1, 0]);
    let independent = sent(identify(&mut controller, 0x08, 5, 0));
    assert_eq!((independent[1], independent[14]), (1, 1), "NMIC shared, NSTAT ready");
    assert_eq!(sent(identify(&mut controller, 0x05, 5, 1))[26], 1, "NMIC");
    assert_eq!(sent(identify(&mut controller, 0x00, 5, 0))[30], 1, "NMIC");
    let mut local = super::enabled();
    assert_eq!(sent(identify(&mut local, 0x08, 5, 0))[1], 0, "a device of shared memory is one path");
    let effects = sent(controller.admin(&log_page(0x05, 1024, 0, 1)));
    assert_eq!(&effects[1024 + 4..1024 + 8], &[3, 0, 0, 0], "Store");
    assert_eq!(&effects[4..8], &[0; 4], "no Create I/O Submission Queue");
    assert_eq!(&effects[0x18 * 4..0x18 * 4 + 4], &[1, 0, 0, 0], "Keep Alive");
}

#[test]
fn there_are_no_commands_of_shared_memory() {
    let mut controller = enabled(limits());
    for op in [0x00, 0x01, 0x04, 0x05, 0x7C, 0x7F] {
        assert_eq!(status(controller.admin(&create(op, 1, 16, 1, 0x1000))), Status::INVALID_OPCODE, "{op:#x}");
    }
    for fid in [0x08, 0x09] {
        assert_eq!(status(controller.admin(&feature(0x09, fid, 0))), Status::INVALID_FIELD);
        assert_eq!(status(controller.admin(&feature(0x0A, fid, 0))), Status::INVALID_FIELD);
    }
}

#[test]
fn commands_wait_until_the_controller_is_enabled() {
    let mut controller = disabled(limits());
    assert_eq!(status(identify(&mut controller, 0x01, 0, 0)), Status::COMMAND_SEQUENCE_ERROR);
    assert_eq!(status(controller.admin(&Sqe::new(0x18, 0))), Status::COMMAND_SEQUENCE_ERROR, "keep alive");
    assert_eq!(refusal(controller.check_queue(&connect(1, 127, 0))), (Status::COMMAND_SEQUENCE_ERROR, 0));
    assert_eq!(controller.property_set(0x14, false, u64::from(CC)), Ok(RegisterEffect::Ready));
    assert_eq!(dword0(controller.admin(&Sqe::new(0x18, 0))), 0);
}

#[test]
fn connect_is_held_against_the_limits() {
    let controller = enabled(limits());
    for (fields, dword0) in [
        (connect(9, 127, 0), 42), // no such queue
        (connect(1, 128, 0), 44), // one entry too many
        (connect(1, 0, 0), 44),   // one entry is not a queue
        (connect(0, 127, 0), 42), // the admin queue is there already
    ] {
        assert_eq!(refusal(controller.check_queue(&fields)), (Status::CONNECT_INVALID_PARAMETERS, dword0));
    }
    let other = ConnectFields { record_format: 1, ..connect(1, 127, 0) };
    assert_eq!(refusal(controller.check_queue(&other)), (Status::CONNECT_INCOMPATIBLE_FORMAT, 0));
    // The smallest admin queue of a host, whatever the I/O queues have.
    let small = ControllerLimits { max_queue_entries: 16, ..limits() };
    assert_eq!(small.check_connect(&connect(0, 31, 0)), Ok(()));
    assert_eq!(refusal(small.check_connect(&connect(0, 32, 0))), (Status::CONNECT_INVALID_PARAMETERS, 44));
}

#[test]
fn queues_are_known_while_they_are_connected() {
    let mut controller = enabled(limits());
    let queues = feature(0x09, 0x07, 0x00FF_00FF);
    assert_eq!(dword0(controller.admin(&queues)), 0x0007_0007);
    assert_eq!(controller.check_queue(&connect(8, 127, 0)), Ok(()));
    controller.queue_connected(8);
    assert_eq!(refusal(controller.check_queue(&connect(8, 127, 0))), (Status::COMMAND_SEQUENCE_ERROR, 0));
    assert_eq!(status(controller.admin(&queues)), Status::COMMAND_SEQUENCE_ERROR, "too late");
    let abort = |sqid: u32| {
        let mut sqe = Sqe::new(0x08, 0);
        sqe.set_dword(10, sqid);
        sqe
    };
    assert_eq!(dword0(controller.admin(&abort(8))), 1, "not aborted");
    assert_eq!(status(controller.admin(&abort(7))), Status::INVALID_FIELD);
    controller.queue_lost(8);
    assert_eq!(status(controller.admin(&abort(8))), Status::INVALID_FIELD);
    assert_eq!(controller.check_queue(&connect(8, 127, 0)), Ok(()));
}

#[test]
fn keep_alive_is_connects_until_the_host_sets_another() {
    let mut controller = Controller::new(identity(), Vec::new(), limits());
    assert_eq!(controller.keep_alive_ms(), None);
    controller.connected(&connect(0, 31, 4001));
    assert_eq!(controller.keep_alive_ms(), Some(5000), "rounded up to what KAS says");
    assert_eq!(controller.property_set(0x14, false, u64::from(CC)), Ok(RegisterEffect::Ready));
    assert_eq!(dword0(controller.admin(&feature(0x0A, 0x0F, 0))), 5000, "SPDK asks what it became");
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x0F, 15_000))), 0);
    assert_eq!(controller.keep_alive_ms(), Some(15_000));
    assert_eq!(dword0(controller.admin(&feature(0x0A, 0x0F | (1 << 8), 0))), 5000, "the default");
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x0F, u32::MAX))), 0);
    assert_eq!(controller.keep_alive_ms(), Some(4_294_967_000));
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x0F, 0))), 0);
    assert_eq!(controller.keep_alive_ms(), None, "off");
    assert_eq!(controller.property_set(0x14, false, 0), Ok(RegisterEffect::Reset));
    controller.queues_ended();
    assert_eq!(controller.keep_alive_ms(), Some(5000), "a reset returns to Connect's");
}
