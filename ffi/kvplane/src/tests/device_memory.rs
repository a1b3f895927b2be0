//! Memory of a device, for which a file stands that only the target maps.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::{Checksum, DeviceMemory, DmaBuf, Error, HintKind, Keys, OutOfRange, SubmitError};

const OFFSET: u64 = 8192;
const BYTES: usize = 16_384;

/// A device whose memory holds a byte of its own at each place.
fn device() -> File {
    let device = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..OFFSET as usize + BYTES + 4096).map(pattern).collect();
    device.write_all_at(&bytes, 0).unwrap();
    device
}

fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

fn content(device: &File) -> Vec<u8> {
    let mut bytes = vec![0; device.metadata().unwrap().len() as usize];
    device.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn register(client: &mut Client, device: &File) -> DeviceMemory {
    let file = device.try_clone().unwrap().into();
    client.register_dma_buf(DmaBuf { file, offset: OFFSET, bytes: BYTES }).unwrap()
}

fn stored(client: &mut Client, memory: &DeviceMemory, offset: u64, bytes: u32, number: u64) -> Outcome {
    let buffer = memory.slice(offset, bytes).unwrap();
    outcome(client, Request::Store { key: key(number), buffer, options: StoreOptions::default() })
}

#[test]
fn values_go_to_and_from_a_devices_memory() {
    let (target, device) = (FakeTarget::new(2, 2), device());
    let mut client = plain(&target);
    let memory = register(&mut client, &device);
    assert_eq!((memory.len(), memory.is_empty()), (BYTES as u64, false));
    assert_eq!(stored(&mut client, &memory, 4096, 5000, 1), Outcome::Stored);
    let expected: Vec<u8> = (OFFSET as usize + 4096..).take(5000).map(pattern).collect();
    assert!(target.lock().store.values[key(1).bytes()].bytes == expected, "what lies there is stored");
    let mut after = content(&device);
    let request = Request::Retrieve { key: key(1), buffer: memory.slice(100, 6000).unwrap() };
    let retrieved = outcome(&mut client, request);
    assert_eq!(retrieved, Outcome::Retrieved { bytes: 5000, value_bytes: 5000, checksum_ok: false });
    after[OFFSET as usize + 100..][..5000].copy_from_slice(&expected);
    assert!(content(&device) == after, "the value is there, and nothing beside it changed");
}

#[test]
fn a_devices_memory_is_known_to_the_next_connection_until_it_is_unregistered() {
    let (target, device) = (FakeTarget::new(1, 1), device());
    let mut client = plain(&target);
    let memory = register(&mut client, &device);
    client.reconnect().unwrap();
    assert_eq!(stored(&mut client, &memory, 0, 4096, 1), Outcome::Stored);
    target.lock().hold = true;
    let buffer = memory.slice(0, 4096).unwrap();
    client.submit(Request::Retrieve { key: key(1), buffer }, 0).unwrap();
    client.ring();
    assert_eq!(client.unregister_dma_buf(&memory), Err(Error::MemoryBusy { commands: 1 }));
    target.lock().hold = false;
    events(&mut client, 1);
    client.unregister_dma_buf(&memory).unwrap();
    assert_eq!(client.unregister_dma_buf(&memory), Err(Error::UnknownMemory));
    let refused = client.submit(Request::Retrieve { key: key(1), buffer }, 0).unwrap_err().1;
    assert_eq!(refused, SubmitError::UnknownBuffer);
}

#[test]
fn what_the_process_would_have_to_see_is_refused() {
    let (target, device) = (FakeTarget::new(1, 1), device());
    let mut client = connect(&target, ConnectOptions { checksum: Checksum::Verify, ..ConnectOptions::default() });
    let memory = register(&mut client, &device);
    let outside = OutOfRange { offset: 1, bytes: BYTES as u64, size: BYTES as u64 };
    assert_eq!(memory.slice(1, BYTES as u32), Err(outside));
    let buffer = memory.slice(0, 4096).unwrap();
    for request in [
        Request::Store { key: key(1), buffer, options: StoreOptions::default() },
        Request::Retrieve { key: key(1), buffer },
        Request::LookupState { buffer },
        Request::LookupPrefix { keys: Keys::InPlace(buffer), lease: None },
        Request::Hint { keys: Keys::InPlace(buffer), kind: HintKind::Pin, argument: 0 },
    ] {
        assert_eq!(client.submit(request, 0).unwrap_err().1, SubmitError::DeviceMemory, "{request:?}");
    }
    let file = device.try_clone().unwrap().into();
    let empty = client.register_dma_buf(DmaBuf { file, offset: 0, bytes: 0 });
    assert!(matches!(empty, Err(Error::Register { bytes: 0, .. })));
}
