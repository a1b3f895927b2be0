//! Hosts that do anything.

use proptest::prelude::*;

use super::super::fuzzing::play;
use super::fabrics::limits;
use super::*;
use crate::nvme::spec::fabrics::{DiscoveryEntry, FabricsCommand, TransportType};

/// A command that is often one that exists.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let admin = prop::sample::select(vec![0x00u8, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x18, 0x7F]);
    let dword10 = prop_oneof![any::<u32>(), 0u32..0x80, (0u32..0x80).prop_map(|low| low | (63 << 16))];
    let words = (admin, any::<u16>(), 0u32..6, dword10, any::<u64>(), 0u64..8192, any::<u32>());
    words.prop_map(|(opcode, cid, nsid, dword10, pointer, offset, dword11)| {
        let mut sqe = Sqe::new(opcode, cid);
        sqe.set_nsid(nsid);
        sqe.set_quadword(6, pointer & !0xFFF);
        sqe.set_dword(10, dword10);
        sqe.set_dword(11, dword11);
        sqe.set_quadword(12, offset);
        zerocopy::IntoBytes::as_bytes(&sqe).to_vec()
    })
}

/// A step and what belongs to it; the controller is enabled now and then.
fn step() -> impl Strategy<Value = Vec<u8>> {
    let enable = FabricsCommand::PropertySet { offset: 0x14, size8: false, value: u64::from(CC & !(0b111 << 4)) };
    let enable = zerocopy::IntoBytes::as_bytes(&enable.encode(0)).to_vec();
    prop_oneof![
        8 => command().prop_map(|command| [&[0][..], &command].concat()),
        2 => Just([&[0][..], &enable].concat()),
        4 => (3u8..7, any::<[u8; 4]>()).prop_map(|(step, bytes)| {
            let bytes: &[u8] = match step { 3 => &[], 6 => &bytes, _ => &bytes[..1] };
            [&[step][..], bytes].concat()
        }),
    ]
}

proptest! {
    #[test]
    fn answers_are_what_they_must_be(kind in 0u8..8, steps in prop::collection::vec(step(), 1..60)) {
        let input = [&[kind][..], &steps.concat()].concat();
        prop_assert_eq!(play(&input) as usize, steps.len());
    }

    #[test]
    fn any_bytes_are_survived(input in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = play(&input);
    }

    #[test]
    fn a_log_read_in_parts_is_the_log(count in 0u16..6, parts in prop::collection::vec(1u32..500, 1..20)) {
        let mut controller = Controller::discovery(identity(), limits());
        let _ = controller.property_set(0x14, false, u64::from(CC & !(0b111 << 4))).unwrap();
        let address = "[2001:db8::1]:4420".parse().unwrap();
        let entries: Vec<_> =
            (0..count).map(|port| DiscoveryEntry::nvme(TransportType::Rdma, address, port, "nqn.x")).collect();
        controller.set_discovery(1, entries);
        let bytes = (u32::from(count) + 1) * 1024;
        let whole = sent(controller.admin(&log_page(0x70, bytes / 4, 0, 0)));
        let mut together = Vec::new();
        for dwords in parts.into_iter().cycle() {
            if together.len() >= whole.len() {
                break;
            }
            together.extend(sent(controller.admin(&log_page(0x70, dwords, together.len() as u64, 0))));
        }
        prop_assert_eq!(&together[..whole.len()], &whole[..]);
        prop_assert!(together[whole.len()..].iter().all(|byte| *byte == 0));
    }
}
