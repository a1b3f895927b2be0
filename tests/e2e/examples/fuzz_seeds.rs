//! Writes inputs that fuzzing can begin with, so that seconds are enough to get past the first checks:
//! `cargo run -p e2e --example fuzz_seeds -- FOLDER` makes FOLDER/TARGET/... for every target of `tests/fuzz`.
#![allow(clippy::unwrap_used, reason = "a chore that is run by hand and by CI")]

use std::path::{Path, PathBuf};

use dataplane::fabric::tcp::wire::{
    Alignment, C2hData, CapsuleCmd, CapsuleResp, Digests, End, Framing, H2cData, HEAD_BYTES, Head, IcReq, IcResp,
    PduFault, R2t, TermReq,
};
use dataplane::nvme::spec::{Cqe, Sqe, Status};
use e2e::nvme::{Command, kv};
use e2e::{Daemon, Setup, key, value};

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("the folder of the corpora"));
    for (target, seeds) in [
        ("wire", wire()),
        ("cursor", cursor()),
        ("rpc", rpc()),
        ("recover", recover()),
        ("capsules", capsules()),
        ("fabrics_admin", fabrics_admin()),
        ("tcp_pdu", tcp_pdu()),
        ("tcp_initiator", tcp_initiator()),
    ] {
        write(&folder.join(target), &seeds);
        println!("{target}: {} seeds", seeds.len());
    }
}

fn write(folder: &Path, seeds: &[Vec<u8>]) {
    std::fs::create_dir_all(folder).unwrap();
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:03}")), seed).unwrap();
    }
}

/// Every message that a client may send, with a body that fits.
fn wire() -> Vec<Vec<u8>> {
    let numbers = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let bodies = [
        (1, b"\0\0\x01\0{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":4096}}\0".to_vec()),
        (2, numbers(&[32, 3, 0, 0, 0x10_0000, 0, 0x1000, 0])),
        (3, numbers(&[24, 0, 0x10_0000, 0, 0x1000, 0])),
        (4, numbers(&[16, 0, 0, 0])),
        (5, numbers(&[32, 0, 0, 0, 0, 0, 0, 0])),
        (7, numbers(&[16, 0, 2, 0])),
        (8, numbers(&[20, 36, 2, 0, 1])),
        (9, numbers(&[0, 0, 0, 8])),
        (10, numbers(&[0x14, 0, 0, 4, 1])),
        (13, Vec::new()),
    ];
    let message = |(command, body): (u16, Vec<u8>)| {
        let mut bytes = vec![1, 0];
        bytes.extend(command.to_le_bytes());
        bytes.extend((16 + body.len() as u32).to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    };
    bodies.into_iter().map(message).collect()
}

/// Commands with every kind of data pointer into client memory that lies at 0, and lists for them.
fn cursor() -> Vec<Vec<u8>> {
    let store = |bytes: u32| Command::of_key(kv::STORE, 1, b"key").dword(10, bytes);
    let list: Vec<u8> = [0x2000u64, 0x3000, 0x4000, 0xF000].iter().flat_map(|it| it.to_le_bytes()).collect();
    let mut descriptors = Vec::new();
    for (address, bytes, kind) in [(0x1000u64, 100u32, 0u8), (0x8000, 5000, 0), (0, 32, 0x30)] {
        descriptors.extend(address.to_le_bytes());
        descriptors.extend(bytes.to_le_bytes());
        descriptors.extend([0, 0, 0, kind]);
    }
    let with = |command: Command, content: &[u8]| [&command.0[..], content].concat();
    vec![
        with(store(100).prp(0x1000, 0), &[]),
        with(store(8192).prp(0x1000, 0x2000), &[7]),
        with(store(5000).prp(0x1FFC, 0x3000), &[7]),
        with(store(16 << 10).prp(0x1100, 0), &list),
        with(store(4096).sgl(0x8000, 4096, 0), &[]),
        with(store(5100).sgl(0, 48, 0x20), &descriptors),
        with(store(5100).sgl(0, 32, 0x30), &descriptors),
    ]
}

/// Every PDU, for the end that receives it, behind two bytes that say what was agreed: without and with digests and
/// alignment.
fn tcp_pdu() -> Vec<Vec<u8>> {
    let sqe = Sqe::new(0x01, 7);
    let cqe = Cqe { dword0: 1, dword1: 2, sq_head: 3, sq_id: 0, cid: 7, status: Status::SUCCESS };
    let mut seeds = Vec::new();
    // Bits: received by the host, initialized, header digest, data digest.
    for (digests, dwords) in [(0u8, 0u8), (0b1100, 15)] {
        let framing = Framing {
            digests: Digests { header: digests & 4 != 0, data: digests & 8 != 0 },
            alignment: Alignment::from_field(dwords).unwrap(),
        };
        let (alignment, asked) = (framing.alignment, framing.digests);
        let mut head = [0; HEAD_BYTES];
        let mut add = |setting: u8, bytes: usize, head: &Head| {
            seeds.push([&[setting | digests, dwords], &head[..bytes]].concat());
        };
        let bytes = IcReq { alignment, digests: asked, max_r2t: 3 }.encode(&mut head);
        add(0, bytes, &head);
        let bytes = IcResp { alignment, digests: asked, max_h2c_data: 8192 }.encode(&mut head);
        add(1, bytes, &head);
        for (setting, from) in [(3, End::Controller), (2, End::Host)] {
            let bytes = TermReq::from(PduFault::invalid(4)).encode(from, &[0; 24], &mut head);
            add(setting, bytes, &head);
        }
        for data in [0, 512] {
            let bytes = CapsuleCmd { sqe, data }.encode(framing, &mut head);
            add(2, bytes, &head);
        }
        let bytes = CapsuleResp { cqe }.encode(framing, &mut head);
        add(3, bytes, &head);
        let bytes = H2cData { cid: 7, tag: 1, offset: 4096, length: 4096, last: true }.encode(framing, &mut head);
        add(2, bytes, &head);
        let bytes = C2hData { cid: 7, offset: 0, length: 100, last: true, success: true }.encode(framing, &mut head);
        add(3, bytes, &head);
        let bytes = R2t { cid: 7, tag: 1, offset: 0, length: 4096 }.encode(framing, &mut head);
        add(3, bytes, &head);
    }
    seeds
}

/// Programs of four bytes a step: what to do in the low bits of the first, then its arguments. Commands are given
/// identifiers from 0 on.
fn tcp_initiator() -> Vec<Vec<u8>> {
    let (store, retrieve, state) = ([0, 0, 0, 100], [0, 1, 1, 200], [0, 3, 2, 64]);
    let (open, poll) = ([5, 0, 255, 255], [7, 0, 0, 0]);
    let ends = |cid: u8| [1, cid, 0, 0];
    let asks = |cid: u8, bytes: u8| [2, cid, 0, bytes - 1];
    let gives = |cid: u8, bytes: u8| [3 | 64, cid, 0, bytes - 1];
    let steps = [
        vec![store, open, asks(0, 100), poll, poll, ends(0), poll],
        vec![retrieve, open, gives(0, 200), ends(0), poll, poll, poll],
        vec![retrieve, open, [3 | 192, 0, 0, 99], poll, poll],
        vec![state, open, asks(0, 64), poll, gives(0, 64), ends(0), poll, poll],
        vec![store, retrieve, open, asks(0, 50), gives(1, 4), poll, [2, 0, 13, 47], [3, 1, 1, 7], poll, ends(1), poll],
        vec![retrieve, open, gives(5, 4), poll],
        vec![open, [4, 1, 0, 0], poll],
    ];
    let program = |setting: u8| move |steps: &Vec<[u8; 4]>| [&[setting, 0][..], &steps.concat()].concat();
    (0..8).flat_map(|setting| steps.iter().map(program(setting)).collect::<Vec<_>>()).collect()
}

fn rpc() -> Vec<Vec<u8>> {
    let call = |method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#).into_bytes()
    };
    let plain = |method: &str| format!(r#" {{"jsonrpc":"2.0","id":"a","method":"{method}"}}"#).into_bytes();
    let nqn = r#""nqn":"nqn.2026-01.io.kvplane:a""#;
    let listen = r#""listen_address":{"trtype":"VFIOUSER","traddr":"/tmp/a"}"#;
    let tcp = r#""listen_address":{"trtype":"TCP","adrfam":"ipv6","traddr":"::1","trsvcid":"4420"}"#;
    let mut seeds = vec![
        br#"[{"jsonrpc":"2.0","id":1,"method":"rpc_get_methods"},{"method":"log_get_level"}]"#.to_vec(),
        call("rpc_get_methods", r#"{"current":true,"include_aliases":true}"#),
        call("log_set_level", r#"{"level":"DEBUG"}"#),
        call("nvmf_create_subsystem", &format!(r#"{{{nqn},"serial_number":"1","allow_any_host":true}}"#)),
        call("nvmf_subsystem_add_host", &format!(r#"{{{nqn},"host":"nqn.2026-01.io.kvplane:h","uid":0}}"#)),
        call("nvmf_subsystem_add_listener", &format!("{{{nqn},{listen}}}")),
        call("nvmf_subsystem_add_listener", &format!("{{{nqn},{tcp}}}")),
        call("namespace_create", &format!(r#"{{"name":"n",{nqn},"quota_bytes":"64M","class":"durable"}}"#)),
        call("namespace_delete", r#"{"name":"n","purge":false}"#),
        call("nvmf_create_transport", r#"{"trtype":"RDMA","max_io_size":65536}"#),
        call("nvmf_subsystem_remove_listener", &format!("{{{nqn},{tcp}}}")),
        call("trace_dump", r#"{"core":0,"limit":5}"#),
        call("framework_get_config", r#"{"name":"nvmf"}"#),
    ];
    seeds.extend(
        [
            "framework_start_init",
            "save_config",
            "rpc_get_schema",
            "pipeline_get_stats",
            "nvmf_get_stats",
            "nvmf_get_subsystems",
        ]
        .map(plain),
    );
    // What one call makes, the next ones find.
    seeds.push(seeds[3..11].concat());
    seeds
}

/// What the target puts onto a device: a whole image (0), or pages with records of every kind behind a superblock
/// that is right (2).
fn recover() -> Vec<Vec<u8>> {
    let mut daemon = Daemon::start(Setup::default().store("file:{store},size=16M,segment=1M"));
    daemon.client().put(key(1), &value(&key(1), 1, 5000)).unwrap();
    daemon.stop();
    let mut image = std::fs::read(daemon.home.store()).unwrap();
    image.truncate((1 << 20) + (64 << 10));
    image.insert(0, 0);

    // A segment that was opened (kind 0), then pages of records (kind 2), in two generations.
    let mut pages = vec![2];
    for (segment, generation) in [(0u8, 1u64), (1, 2), (0, 3)] {
        pages.extend(page_head(segment, 0, 0, 0, 0, generation, 10 * generation));
        pages.extend(page_head(segment, 1, 2, 4, 0, generation, 10 * generation + 4));
        for (kind, sequence) in [(1u8, 1), (2, 2), (3, 3), (4, 4)] {
            pages.extend(record(u64::from(segment), kind, 10 * generation + sequence));
        }
    }
    vec![image, pages.clone(), [&[1], &pages[1..]].concat()]
}

/// Segment, slot, kind, count; page; generation; sequence.
fn page_head(segment: u8, slot: u8, kind: u8, count: u8, page: u32, generation: u64, sequence: u64) -> Vec<u8> {
    let mut head = vec![segment, slot, kind, count];
    head.extend(page.to_le_bytes());
    head.extend(generation.to_le_bytes());
    head.extend(sequence.to_le_bytes());
    head.resize(32, 0);
    head
}

/// A record as ARCHITECTURE.md draws it: a key, its space, 4000 bytes from unit 8 on.
fn record(number: u64, kind: u8, sequence: u64) -> Vec<u8> {
    let mut record = key(number).bytes().to_vec();
    for word in [(1u32 << 4) | 15, 4000, 8] {
        record.extend(word.to_le_bytes());
    }
    record.extend([kind, 0, 0, 0]);
    for word in [0, 0, sequence, 0] {
        record.extend(word.to_le_bytes());
    }
    record
}

/// Commands one after the other, each with its data pointer at the front of the client's memory.
fn capsules() -> Vec<Vec<u8>> {
    let of =
        |opcode, name: &[u8], bytes| Command::of_key(opcode, 1, name).dword(10, bytes).prp(0x1000, 0x2000).0.to_vec();
    let all: Vec<Vec<u8>> = [
        (kv::STORE, 4096),
        (kv::RETRIEVE, 4096),
        (kv::EXIST, 0),
        (kv::DELETE, 0),
        (kv::LIST, 4096),
        (0xC0, 1),
        (0xC1, 32),
        (0xC3, 32),
        (0xC5, 32),
    ]
    .into_iter()
    .map(|(opcode, bytes)| of(opcode, b"sixteen byte key", bytes))
    .collect();
    let chain = all.concat();
    all.into_iter().chain([chain]).collect()
}

/// What a host does to a controller over the network, and what belongs to each step: commands (0), an event (3), a
/// change of what can be discovered (4) or of the namespaces (5), Connect's data (7).
fn fabrics_admin() -> Vec<Vec<u8>> {
    let command = |opcode: u8, nsid: u32, dwords: [u32; 4]| {
        let mut bytes = vec![0, opcode, 0, 1, 0];
        bytes.extend(nsid.to_le_bytes());
        bytes.resize(1 + 40, 0);
        bytes.extend(dwords.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize(1 + 64, 0);
        bytes
    };
    // Property Set of CC, Property Get of CSTS, Connect of the admin queue and of an I/O queue.
    let begin = |cc: u32| {
        let connect = command(0x7F, 1, [0, 31, 5000, 0]);
        [connect, command(0x7F, 0, [0, 0x14, cc, 0]), command(0x7F, 4, [0, 0x1C, 0, 0])].concat()
    };
    let queue = command(0x7F, 1, [1 << 16, 127, 0, 0]);
    let identify =
        [0x00, 0x01, 0x02, 0x03, 0x05, 0x08, 0x1C].map(|cns| command(0x06, 1, [cns, 1 << 24, 0, 0])).concat();
    let logs = [0x01, 0x02, 0x04, 0x05].map(|page| command(0x02, u32::MAX, [page | (127 << 16), 0, 0, 0])).concat();
    let features = [0x07, 0x0B, 0x0F].map(|fid| command(0x09, 0, [fid, 0x100, 0, 0])).concat();
    let event = [command(0x0C, 0, [0; 4]), command(0x09, 0, [0x0B, (1 << 31) | (1 << 8), 0, 0])].concat();
    let discovery = |offset| command(0x02, u32::MAX, [0x70 | (1023 << 16), 0, offset, 0]);
    let mut connect = vec![7];
    connect.extend([0x11; 16]);
    connect.extend([0xFF, 0xFF]);
    connect.resize(1 + 256, 0);
    connect.extend(b"nqn.2014-08.org.nvmexpress.discovery");
    connect.resize(1 + 512, 0);
    connect.extend(b"nqn.2026-01.io.kvplane:host");
    connect.resize(1 + 1024, 0);
    let host = |kind: u8| [vec![kind], begin(0x46_0061), queue.clone(), identify.clone(), logs.clone()].concat();
    vec![
        host(1),
        host(4 | 1),
        [vec![1], begin(0x46_0061), features, event.clone(), vec![5, 0b101, 3]].concat(),
        [vec![3], begin(0x46_0001), event, vec![4, 3], discovery(0), vec![4, 4, 3], discovery(1024)].concat(),
        [vec![1], connect].concat(),
    ]
}
