//! Nonsense on the vfio-user socket: the daemon answers or hangs up, and others notice nothing.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::os::fd::AsRawFd;
use std::path::Path;

use e2e::memory::Shared;
use e2e::message::{DMA_MAP, DMA_UNMAP, HEADER, REGION_READ, REGION_WRITE, VERSION, Wire};
use e2e::values::Dice;
use e2e::{Daemon, Setup, key, value};
use kvplane::Client;

/// A client that works throughout.
struct Bystander(Client);

impl Bystander {
    fn new(daemon: &Daemon) -> Self {
        let mut client = daemon.client();
        client.put(key(1), &value(&key(1), 1, 50_000)).unwrap();
        Self(client)
    }

    fn is_served(&mut self) {
        assert!(self.0.get(key(1)).unwrap() == Some(value(&key(1), 1, 50_000)), "the bystander is harmed");
        self.0.put(key(2), b"goes on").unwrap();
    }
}

fn survives(daemon: &mut Daemon, bystander: &mut Bystander) {
    assert!(daemon.is_running(), "the daemon died:\n{}", daemon.log());
    bystander.is_served();
    assert!(daemon.rpc("spdk_get_version", serde_json::Value::Null).is_object());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn noise_on_the_socket_harms_nobody() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let socket = daemon.home.controller_socket();
    let mut dice = Dice::new(21);
    for round in 0..60 {
        let mut noise = vec![0; 1 + dice.below(5000) as usize];
        dice.noise(&mut noise);
        let Ok(mut wire) = (if round % 2 == 0 { Wire::connect(&socket) } else { Wire::negotiated(&socket) }) else {
            continue;
        };
        // The target may hang up in the middle.
        let _ = wire.send(&noise);
    }
    survives(&mut daemon, &mut bystander);
}

#[test]
fn messages_with_wild_headers_end_the_connection_or_are_refused() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let socket = daemon.home.controller_socket();
    for size in [0u32, 1, 15, 16, 17, 65_537, 1 << 24, u32::MAX] {
        for command in [0u16, VERSION, DMA_MAP, REGION_WRITE, 12, 99, u16::MAX] {
            let mut wire = Wire::negotiated(&socket).unwrap();
            let mut message = wire.message(command, &[0; 48]);
            message[4..8].copy_from_slice(&size.to_le_bytes());
            let _ = wire.send(&message);
        }
    }
    // A size that cannot be true ends the connection, because the stream cannot be followed any further.
    for size in [0u32, 15, u32::MAX] {
        let mut wire = Wire::negotiated(&socket).unwrap();
        let mut message = wire.message(REGION_READ, &[0; 16]);
        message[4..8].copy_from_slice(&size.to_le_bytes());
        wire.send(&message).unwrap();
        wire.await_hangup();
    }
    survives(&mut daemon, &mut bystander);
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_message_holds_up_nobody() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let mut halves = Vec::new();
    for bytes in 1..HEADER + 8 {
        let mut wire = Wire::connect(&daemon.home.controller_socket()).unwrap();
        let message = wire.message(VERSION, b"\0\0\x01\0{\"capabilities\":{}}\0");
        wire.send(&message[..bytes]).unwrap();
        halves.push(wire);
    }
    survives(&mut daemon, &mut bystander);
    drop(daemon.client());
    drop(halves);
    survives(&mut daemon, &mut bystander);
}

#[test]
fn versions_and_capabilities_of_no_sense_are_refused() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    for body in [
        &b""[..],
        b"\0\0",
        b"\x09\0\x01\0{}\0",
        b"\0\0\x01\0{\"capabilities\":",
        b"\0\0\x01\0\xFF\xFE\0",
        b"\0\0\x01\0{\"capabilities\":{\"max_data_xfer_size\":-5,\"max_msg_fds\":\"x\"}}\0",
    ] {
        let mut wire = Wire::connect(&daemon.home.controller_socket()).unwrap();
        // Answered by an error, or by the end of the connection; a later message must not make it worse.
        let _ = wire.call(VERSION, body, &[]);
        let _ = wire.call(REGION_READ, &[0; 16], &[]);
    }
    // Before any version was agreed on, nothing else is served.
    let mut wire = Wire::connect(&daemon.home.controller_socket()).unwrap();
    let reply = wire.call(REGION_READ, &region_access(0, 0, 8), &[]);
    assert!(reply.is_err() || reply.is_ok_and(|reply| reply.error.is_some()), "served before the version");
    survives(&mut daemon, &mut bystander);
}

fn region_access(region: u32, offset: u64, bytes: u32) -> Vec<u8> {
    let mut body = offset.to_le_bytes().to_vec();
    body.extend(region.to_le_bytes());
    body.extend(bytes.to_le_bytes());
    body
}

#[test]
fn accesses_outside_of_regions_are_refused() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let mut wire = Wire::negotiated(&daemon.home.controller_socket()).unwrap();
    for (region, offset, bytes) in [
        (0, u64::MAX, 8),
        (0, u64::MAX - 3, 8),
        (0, 1 << 40, 4),
        (7, 4090, 64),
        (7, 1 << 33, 4),
        (1, 0, 4),
        (8, 0, 4),
        (9, 0, 4),
        (u32::MAX, 0, 4),
        (0, 0, u32::MAX),
        (7, 0, 60_000),
    ] {
        let reply = wire.call(REGION_READ, &region_access(region, offset, bytes), &[]);
        match reply {
            Ok(reply) => assert!(reply.error.is_some(), "read {bytes} at {offset:#x} of region {region}: {reply:?}"),
            Err(_) => wire = Wire::negotiated(&daemon.home.controller_socket()).unwrap(),
        }
        let mut body = region_access(region, offset, bytes);
        body.extend(vec![0xFF; bytes.min(64) as usize]);
        match wire.call(REGION_WRITE, &body, &[]) {
            Ok(reply) => assert!(reply.error.is_some(), "write {bytes} at {offset:#x} of region {region}: {reply:?}"),
            Err(_) => wire = Wire::negotiated(&daemon.home.controller_socket()).unwrap(),
        }
    }
    survives(&mut daemon, &mut bystander);
}

#[test]
fn registers_take_any_write() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let mut dice = Dice::new(4);
    let mut wire = Wire::negotiated(&daemon.home.controller_socket()).unwrap();
    for _ in 0..3000 {
        let region = [0, 0, 0, 7, 4][dice.below(5) as usize];
        let offset = dice.below(if region == 0 { 0x1100 } else { 0x200 });
        let bytes = [1, 2, 4, 8][dice.below(4) as usize];
        let mut body = region_access(region, offset, bytes);
        let mut noise = [0; 8];
        dice.noise(&mut noise);
        body.extend(&noise[..bytes as usize]);
        if wire.call(REGION_WRITE, &body, &[]).is_err() {
            wire = Wire::negotiated(&daemon.home.controller_socket()).unwrap();
        }
    }
    survives(&mut daemon, &mut bystander);
}

/// Maps that must be refused, each asked for on a connection that goes on working.
#[test]
fn wild_dma_maps_are_refused() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let memory = Shared::new(1 << 20);
    let mut wire = Wire::negotiated(&daemon.home.controller_socket()).unwrap();
    let good = wire.dma_map(0, 0x10_0000, 1 << 20, Some(memory.fd())).unwrap();
    assert_eq!(good.error, None);
    let fd = Some(memory.fd());
    for (what, offset, iova, bytes, fd) in [
        ("overlap from below", 0, 0xF_F000, 0x2000, fd),
        ("the same again", 0, 0x10_0000, 1 << 20, fd),
        ("inside another", 0, 0x14_0000, 0x1000, fd),
        ("overlap from above", 0, 0x1F_F000, 0x2000, fd),
        ("longer than the file", 0, 0x100_0000, 2 << 20, fd),
        ("beyond the file", 1 << 20, 0x100_0000, 0x1000, fd),
        ("an offset that wraps", u64::MAX - 0xFFF, 0x100_0000, 0x2000, fd),
        ("an address that wraps", 0, u64::MAX - 0xFFF, 0x2000, fd),
        ("nothing", 0, 0x100_0000, 0, fd),
        ("huge", 0, 0x100_0000, 1 << 62, fd),
        ("an address that is not aligned", 0, 0x100_0123, 0x1000, fd),
        ("a size that is not aligned", 0, 0x100_0000, 0x1001, fd),
        ("an offset that is not aligned", 0x10, 0x100_0000, 0x1000, fd),
        ("no file", 0, 0x100_0000, 0x1000, None),
    ] {
        match wire.dma_map(offset, iova, bytes, fd) {
            Ok(reply) => assert!(reply.error.is_some(), "{what} was taken"),
            Err(error) => panic!("{what}: the connection ended ({error})"),
        }
    }
    let folder = std::fs::File::open(Path::new("/")).unwrap();
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let only_read = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for fd in [folder.as_raw_fd(), null.as_raw_fd(), only_read.as_raw_fd(), end.as_raw_fd()] {
        let reply = wire.dma_map(0, 0x200_0000, 0x1000, Some(fd)).unwrap();
        assert!(reply.error.is_some(), "a file that cannot be memory was taken");
    }
    let mut unmap = Vec::new();
    unmap.extend(24u32.to_le_bytes());
    unmap.extend(0u32.to_le_bytes());
    unmap.extend(0x777_0000u64.to_le_bytes());
    unmap.extend(0x1000u64.to_le_bytes());
    let reply = wire.call(DMA_UNMAP, &unmap, &[]).unwrap();
    assert!(reply.error.is_some(), "what is not mapped was unmapped");
    survives(&mut daemon, &mut bystander);
}

#[test]
fn a_client_that_maps_without_end_is_stopped_and_leaves_nothing() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let memory = Shared::new(4096);
    let mut wire = Wire::negotiated(&daemon.home.controller_socket()).unwrap();
    let refused = (0..5000u64).find(|number| {
        wire.dma_map(0, 0x1_0000_0000 + number * 0x10_0000, 4096, Some(memory.fd()))
            .map_or(true, |reply| reply.error.is_some())
    });
    assert!(refused.is_some(), "5000 maps were taken");
    survives(&mut daemon, &mut bystander);
    drop(wire);
    e2e::await_that("the next client can map again", || {
        let mut next = Wire::negotiated(&daemon.home.controller_socket()).unwrap();
        next.dma_map(0, 0x10_0000, 4096, Some(memory.fd())).is_ok_and(|reply| reply.error.is_none())
    });
    survives(&mut daemon, &mut bystander);
}

#[test]
fn more_descriptors_than_a_message_may_carry_leak_nowhere() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let descriptors = |daemon: &Daemon| std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let before = descriptors(&daemon);
    let files: Vec<_> = (0..100).map(|_| e2e::memory::eventfd()).collect();
    let fds: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    for _ in 0..20 {
        let Ok(mut wire) = Wire::negotiated(&daemon.home.controller_socket()) else { continue };
        let _ = wire.call(REGION_READ, &region_access(0, 0, 8), &fds);
    }
    e2e::await_that("the descriptors are closed", || descriptors(&daemon) <= before);
    survives(&mut daemon, &mut bystander);
}

/// The 65th connection, or whichever is one too many, is turned away; the ones before it work on.
#[test]
fn too_many_connections_are_turned_away() {
    let mut daemon = Daemon::start(Setup::default());
    let mut bystander = Bystander::new(&daemon);
    let mut open = Vec::new();
    let refused = (0..300).any(|_| match Wire::negotiated(&daemon.home.controller_socket()) {
        Ok(wire) => {
            open.push(wire);
            false
        }
        Err(_) => true,
    });
    assert!(refused, "300 connections were taken");
    // One user has half of the connections, so that there is room for others.
    assert!(open.len() >= 24, "only {} connections were taken", open.len());
    survives(&mut daemon, &mut bystander);
    for wire in &mut open {
        assert_eq!(wire.call(REGION_READ, &region_access(0, 0, 8), &[]).unwrap().error, None);
    }
    drop(open);
    e2e::await_that("a connection is taken again", || Wire::negotiated(&daemon.home.controller_socket()).is_ok());
    survives(&mut daemon, &mut bystander);
}
