//! Commands in the bits of the wire.

use std::time::Duration;

use dataplane::nvme::spec::kv::{KeyFields, opcode};
use dataplane::nvme::spec::vendor::{self, HintKind};
use dataplane::nvme::spec::{SglDescriptor, Sqe};

use crate::{Key, StoreOptions};

/// Where a command's data lies, as the target addresses it.
#[derive(Clone, Copy)]
pub(crate) struct Data {
    pub address: u64,
    pub bytes: u32,
}

fn command(opcode: u8, namespace: u32) -> Sqe {
    let mut sqe = Sqe::new(opcode, 0);
    sqe.set_nsid(namespace);
    sqe
}

fn set_data(sqe: &mut Sqe, data: Data) {
    sqe.set_sgl(SglDescriptor::data_block(data.address, data.bytes));
    sqe.set_dword(10, data.bytes);
}

/// A command that has a key and no data.
fn of_key(opcode: u8, namespace: u32, key: &Key) -> Sqe {
    let mut sqe = command(opcode, namespace);
    sqe.set_key(key.bytes());
    sqe
}

pub(crate) fn store(namespace: u32, key: &Key, data: Data, options: &StoreOptions, checksum: Option<u64>) -> Sqe {
    let mut sqe = of_key(opcode::STORE, namespace, key);
    set_data(&mut sqe, data);
    let mut flags = (u32::from(options.must_exist) << 8) | (u32::from(options.must_not_exist) << 9);
    if let Some(checksum) = checksum {
        flags |= vendor::STORE_HAS_CHECKSUM;
        sqe.set_quadword(12, checksum);
    }
    if let Some(parent) = &options.parent {
        flags |= vendor::STORE_HAS_PARENT;
        sqe.set_quadword(4, vendor::parent_link(parent));
    }
    sqe.set_dword(11, sqe.dword(11) | flags);
    sqe
}

pub(crate) fn retrieve(namespace: u32, key: &Key, data: Data) -> Sqe {
    let mut sqe = of_key(opcode::RETRIEVE, namespace, key);
    set_data(&mut sqe, data);
    sqe
}

pub(crate) fn exist(namespace: u32, key: &Key) -> Sqe {
    of_key(opcode::EXIST, namespace, key)
}

pub(crate) fn delete(namespace: u32, key: &Key) -> Sqe {
    of_key(opcode::DELETE, namespace, key)
}

pub(crate) fn lookup_prefix(namespace: u32, list: Data, lease: Option<Duration>) -> Sqe {
    let mut sqe = command(vendor::opcode::LOOKUP_PREFIX, namespace);
    set_data(&mut sqe, list);
    if let Some(time) = lease {
        let millis = time.as_nanos().div_ceil(1_000_000);
        sqe.set_dword(11, vendor::LOOKUP_TAKE_LEASE);
        sqe.set_dword(12, u32::try_from(millis).unwrap_or(u32::MAX));
    }
    sqe
}

pub(crate) fn lookup_state(namespace: u32, list: Data) -> Sqe {
    let mut sqe = command(vendor::opcode::LOOKUP_STATE, namespace);
    set_data(&mut sqe, list);
    sqe
}

pub(crate) fn release(namespace: u32, lease: u32) -> Sqe {
    let mut sqe = command(vendor::opcode::RELEASE, namespace);
    sqe.set_dword(10, lease);
    sqe
}

pub(crate) fn hint(namespace: u32, list: Data, kind: HintKind, argument: u32) -> Sqe {
    let mut sqe = command(vendor::opcode::HINT, namespace);
    set_data(&mut sqe, list);
    sqe.set_dword(11, kind as u32);
    sqe.set_dword(12, argument);
    sqe
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn a_store_with_everything_matches_literal_bytes() {
        let options =
            StoreOptions { must_not_exist: true, must_exist: false, parent: Some(Key::new(*b"TTTTabcdefghijkl")) };
        let data = Data { address: 0x1000, bytes: 0x0001_0000 };
        let sqe = store(3, &Key::new(*b"0123456789abcdef"), data, &options, Some(0x0807_0605_0403_0201));
        let mut bytes = [0u8; 64];
        bytes[..8].copy_from_slice(&[0x01, 0x40, 0, 0, 3, 0, 0, 0]);
        bytes[8..16].copy_from_slice(b"01234567");
        bytes[16..24].copy_from_slice(b"abcdefgh");
        bytes[25] = 0x10; // the SGL's address, 1000h
        bytes[34] = 0x01; // its length, 64 KiB
        bytes[42] = 0x01; // value size
        bytes[44..48].copy_from_slice(&[16, 0b10, 0b11, 0]);
        bytes[48..56].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        bytes[56..64].copy_from_slice(b"89abcdef");
        assert_eq!(sqe.as_bytes(), bytes);
    }

    #[test]
    fn lease_times_are_rounded_up_and_bounded() {
        let list = Data { address: 0, bytes: 16 };
        let millis = |time| lookup_prefix(1, list, Some(time)).dword(12);
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_millis(250)), 250);
        assert_eq!(millis(Duration::MAX), u32::MAX);
        assert_eq!(lookup_prefix(1, list, None).dword(11), 0);
    }
}
