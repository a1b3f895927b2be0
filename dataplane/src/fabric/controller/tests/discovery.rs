//! The discovery controller, as Linux's host, nvme-cli and SPDK's initiator use it.

use super::fabrics::{connect, limits};
use super::*;
use crate::nvme::spec::fabrics::{DISCOVERY_NQN, DiscoveryEntry, TransportType, read_discovery_header};

fn enabled() -> Controller {
    let mut controller = Controller::discovery(identity(), limits());
    controller.connected(&connect(0, 31, 0));
    // Entry sizes, the NVM command set (000b), enable.
    let cc = u64::from(CC & !(0b111 << 4));
    assert_eq!(controller.property_set(0x14, false, cc), Ok(RegisterEffect::Ready));
    controller
}

fn entries(count: u16) -> Vec<DiscoveryEntry> {
    let address = "192.0.2.1:4420".parse().unwrap();
    (0..count).map(|port| DiscoveryEntry::nvme(TransportType::Tcp, address, port, "nqn.x")).collect()
}

fn read(controller: &mut Controller, bytes: u32, offset: u64, retain: bool) -> Vec<u8> {
    let mut sqe = log_page(0x70, bytes / 4, offset, 0);
    sqe.set_dword(10, sqe.dword(10) | (u32::from(retain) << 15));
    assert!(Controller::reads_discovery(&sqe));
    sent(controller.admin(&sqe))
}

#[test]
fn it_says_that_it_is_one() {
    let mut controller = enabled();
    let cap = controller.property_get(0x00, true).unwrap();
    assert_eq!(cap >> 37 & 0xFF, 1, "no command sets to ask for");
    let data = sent(identify(&mut controller, 0x01, 0, 0));
    assert_eq!((data[111], &data[78..80], &data[92..96]), (2, &[7, 0][..], &[0, 0, 0, 0x80][..]));
    assert_eq!(&data[768..805], format!("{DISCOVERY_NQN}\0").as_bytes());
    assert_eq!((data[261], &data[320..322], &data[514..516]), (0b100, &[10, 0][..], &[128, 0][..]));
    assert_eq!(&data[516..520], &[0; 4], "no namespaces");
    assert!(data[1792..1806].iter().chain(&data[3072..]).all(|byte| *byte == 0), "nothing of an I/O controller");
    let mut css = Controller::discovery(identity(), limits());
    assert_eq!(css.property_set(0x14, false, u64::from(CC)), Ok(RegisterEffect::None), "110b is not offered");
}

#[test]
fn it_has_no_queues_and_no_namespaces() {
    let mut controller = enabled();
    let refusal = controller.check_queue(&connect(1, 31, 0)).unwrap_err();
    assert_eq!((refusal.status, refusal.dword0), (Status::CONNECT_INVALID_PARAMETERS, 42));
    for cns in [0x00, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x1C] {
        assert_eq!(status(identify(&mut controller, cns, 1, 1)), Status::INVALID_FIELD, "{cns:#x}");
    }
    for fid in [0x01, 0x02, 0x04, 0x07, 0x19] {
        assert_eq!(status(controller.admin(&feature(0x0A, fid, 0))), Status::INVALID_FIELD, "{fid:#x}");
        assert_eq!(status(controller.admin(&feature(0x09, fid, 0))), Status::INVALID_FIELD, "{fid:#x}");
    }
    for page in [0x02, 0x03, 0x04, 0x05] {
        assert_eq!(status(controller.admin(&log_page(page, 4, 0, 0))), Status::INVALID_LOG_PAGE, "{page:#x}");
    }
    for op in [0x00, 0x01, 0x04, 0x05, 0x7C] {
        assert_eq!(status(controller.admin(&Sqe::new(op, 0))), Status::INVALID_OPCODE, "{op:#x}");
    }
    assert_eq!(dword0(controller.admin(&Sqe::new(0x18, 0))), 0, "keep alive");
    assert_eq!(
        status(super::enabled().admin(&log_page(0x70, 4, 0, 0))),
        Status::INVALID_LOG_PAGE,
        "and no other has it"
    );
}

/// nvme-cli: the header, then everything, then the header again; the generation must not have changed between.
#[test]
fn the_log_can_be_read_as_nvme_cli_does() {
    let mut controller = enabled();
    assert_eq!(
        read_discovery_header(&read(&mut controller, 1024, 0, true)),
        Some((0, 0)),
        "nothing is told by default"
    );
    controller.set_discovery(7, entries(3));
    let header = read(&mut controller, 1024, 0, true);
    assert_eq!(read_discovery_header(&header), Some((7, 3)));
    let whole = read(&mut controller, 1024 + 3 * 1024, 0, false);
    assert_eq!(whole[..1024], header);
    let told: Vec<_> =
        whole[1024..].chunks_exact(1024).map(|it| DiscoveryEntry::decode(it.try_into().unwrap()).unwrap()).collect();
    assert_eq!(told, entries(3));
    controller.set_discovery(8, entries(3));
    assert_eq!(read(&mut controller, 1024, 0, true), header, "nothing that concerns this host has changed");
    controller.set_discovery(9, entries(2));
    assert_eq!(read_discovery_header(&read(&mut controller, 20, 0, true)), Some((9, 2)));
}

/// SPDK: 4096 bytes at a time, at offsets that go on behind the entries read.
#[test]
fn the_log_can_be_read_as_spdk_does() {
    let mut controller = enabled();
    controller.set_discovery(1, entries(5));
    let first = read(&mut controller, 4096, 0, false);
    assert_eq!(read_discovery_header(&first), Some((1, 5)));
    let rest = read(&mut controller, 4096, 4096, false);
    let mut both = first;
    both.extend(rest);
    assert_eq!(both.len(), 8192);
    for (entry, bytes) in entries(5).iter().zip(both[1024..].chunks_exact(1024)) {
        assert_eq!(bytes, entry.encode());
    }
    assert!(both[6 * 1024..].iter().all(|byte| *byte == 0), "padded");
    assert_eq!(status(controller.admin(&log_page(0x70, 4, 7 * 1024, 0))), Status::INVALID_FIELD, "beyond the log");
}

#[test]
fn a_change_is_told_to_hosts_that_ask() {
    let mut controller = enabled();
    assert_eq!(controller.admin(&Sqe::new(0x0C, 5)), AdminAction::Wait);
    assert_eq!(controller.admin(&Sqe::new(0x0C, 6)), AdminAction::Wait);
    controller.set_discovery(1, entries(1));
    assert_eq!(controller.take_event(), None, "not asked for");
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x0B, 1 << 31))), 0);
    assert_eq!(dword0(controller.admin(&feature(0x0A, 0x0B, 0))), 1 << 31);
    controller.set_discovery(2, entries(1));
    assert_eq!(controller.take_event(), None, "no change");
    controller.set_discovery(3, entries(2));
    assert_eq!(controller.take_event(), Some((5, 0x0070_F002)));
    let _ = read(&mut controller, 1024, 0, true);
    controller.set_discovery(4, entries(3));
    assert_eq!(controller.take_event(), None, "masked: the event was retained");
    let _ = read(&mut controller, 1024, 0, false);
    controller.set_discovery(5, entries(4));
    assert_eq!(controller.take_event(), Some((6, 0x0070_F002)));
}

#[test]
fn a_host_that_stays_is_kept_alive() {
    let mut controller = Controller::discovery(identity(), limits());
    controller.connected(&connect(0, 31, 30_000));
    assert_eq!(controller.keep_alive_ms(), Some(30_000));
    let mut controller = enabled();
    assert_eq!(controller.keep_alive_ms(), None, "nvme discover asks once and leaves");
    assert_eq!(dword0(controller.admin(&feature(0x09, 0x0F, 120_000))), 0);
    assert_eq!(controller.keep_alive_ms(), Some(120_000));
}
