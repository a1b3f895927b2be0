//! `kvplane store inspect` on files that the store itself wrote.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use dataplane::Burst;
use dataplane::core::Ticks;
use dataplane::memory::{Arena, ArenaBuffer, HugePages, RegionSlot};
use dataplane::nvme::spec::kv::{Key, StoreOptions};
use dataplane::nvme::uring::{OpenOptions, UringDevice, UringQueue};
use dataplane::nvme::{BlockIo, BlockOp, BlockQueue};
use pipelines::store::{
    BlockId, Class, Deleted, FormatOptions, NewBlock, Published, Shard, ShardConfig, Superblock, format,
};
use serde_json::Value;

const SEGMENT_BYTES: u64 = 256 << 10;
const DEVICE_BYTES: u64 = (1 << 20) + 2 * 4 * SEGMENT_BYTES;
const TOKEN_BASE: u64 = 1 << 56;
const VALUE_BYTES: u32 = 5000;

/// One shard of a store in a file, driven by hand.
struct Filler {
    blocks: UringQueue,
    shard: Shard,
    value: ArenaBuffer,
    written: bool,
    acknowledged: bool,
    now: u64,
}

impl Filler {
    fn new(file: &Path, shard: u32) -> Self {
        // Through the page cache, because a temporary folder may lie in memory.
        let options = OpenOptions { create_bytes: Some(DEVICE_BYTES), direct: false, ..OpenOptions::default() };
        let mut blocks = UringDevice::open(file, options).unwrap().queue(64, 1).unwrap();
        let need = Shard::<()>::STAGING_BYTES as usize;
        let mut arena = Arena::new(need + (64 << 10), HugePages::Off, RegionSlot(0)).unwrap();
        let staging = arena.alloc(need, 4096).unwrap();
        let value = arena.alloc(8192, 4096).unwrap();
        blocks.attach(arena.region().clone()).unwrap();
        let superblock = match pipelines::store::load(&mut blocks, &value) {
            Ok(superblock) => superblock,
            Err(_) => Self::format(&mut blocks, &value),
        };
        let config = ShardConfig { entries: 2000, ..ShardConfig::new(superblock, shard, TOKEN_BASE, 1) };
        let shard = Shard::open(config, staging).unwrap();
        let mut filler = Self { blocks, shard, value, written: false, acknowledged: false, now: 0 };
        filler.until("recovery", |filler| filler.shard.is_ready());
        filler
    }

    fn format(blocks: &mut UringQueue, staging: &ArenaBuffer) -> Superblock {
        let options = FormatOptions {
            segment_bytes: SEGMENT_BYTES,
            mean_value_bytes: 4096,
            max_value_bytes: 64 << 10,
            ..FormatOptions::new(*b"a store of tests", 2)
        };
        format(blocks, staging, &options).unwrap()
    }

    fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !reached(self) {
            assert!(Instant::now() < deadline, "never: {what}; {:?}", self.shard.stats());
            self.now += 1;
            self.shard.poll(Ticks(self.now), &mut self.blocks);
            self.complete();
        }
    }

    fn complete(&mut self) {
        let mut done = Burst::new();
        self.blocks.ring();
        self.blocks.poll(&mut done);
        for ended in done {
            match ended.token {
                token if token >= TOKEN_BASE => self.shard.done(token, ended.result, &mut self.blocks),
                _ => self.written = ended.result.is_ok(),
            }
        }
        let mut tickets = Burst::new();
        self.shard.committed(&mut tickets);
        self.acknowledged |= tickets.iter().any(|&(_, ok)| ok);
        std::thread::yield_now();
    }

    fn put(&mut self, name: &str) {
        let id = id(name);
        let mut extent = None;
        self.until("room", |filler| {
            extent = filler.shard.reserve(id.space.namespace(), VALUE_BYTES, Class::Durable, None).ok();
            extent.is_some()
        });
        let extent = extent.unwrap();
        self.value.fill(0, 8192, name.as_bytes()[0]).unwrap();
        let memory = self.value.sub(0, 8192).unwrap();
        let op = BlockOp::write(false);
        self.blocks.push(BlockIo { op, lba: extent.lba(), blocks: extent.blocks(), memory, token: 1 }).unwrap();
        self.until("the write of a value", |filler| std::mem::take(&mut filler.written));
        let block = NewBlock {
            id,
            hash: self.shard.hash(&id),
            bytes: VALUE_BYTES,
            checksum: 0xAB,
            parent: 0,
            class: Class::Durable,
            condition: StoreOptions::default(),
        };
        assert!(matches!(self.shard.publish(extent, block, 1), Published::Pending));
        self.until("the commit of a value", |filler| std::mem::take(&mut filler.acknowledged));
    }

    fn delete(&mut self, name: &str) {
        let (id, hash) = (id(name), self.shard.hash(&id(name)));
        assert!(matches!(self.shard.delete(hash, &id, Class::Durable, 2), Deleted::Pending));
        self.until("the commit of a deletion", |filler| std::mem::take(&mut filler.acknowledged));
    }

    fn shut_down(mut self) {
        self.until("the end", |filler| filler.shard.drain(Ticks(filler.now), &mut filler.blocks));
    }
}

fn id(name: &str) -> BlockId {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    BlockId::new(7, Key::new(bytes), name.len() as u8)
}

/// A store with five values in shard 0, one stored twice and one deleted, and two in shard 1.
fn filled(folder: &Path) -> PathBuf {
    let file = folder.join("store");
    let mut shard = Filler::new(&file, 0);
    ["ant", "bee", "cow", "dog", "elk", "fox", "bee"].into_iter().for_each(|name| shard.put(name));
    shard.delete("fox");
    shard.shut_down();
    let mut shard = Filler::new(&file, 1);
    ["gnu", "hen"].into_iter().for_each(|name| shard.put(name));
    shard.shut_down();
    file
}

fn inspect(file: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvplane"))
        .args(["store", "inspect"])
        .arg(file)
        .args(options)
        .output()
        .expect("the binary that was just built runs")
}

fn json(file: &Path, options: &[&str], code: i32) -> Value {
    let ended = inspect(file, &[&["--json"], options].concat());
    assert_eq!(ended.status.code(), Some(code), "{}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// Asserts that it ends with `code` and one line that contains `said`.
fn refused(file: &Path, options: &[&str], code: i32, said: &str) {
    let ended = inspect(file, options);
    let line = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(code), "{line}");
    assert!(line.contains(said) && line.lines().count() == 1 && ended.stdout.is_empty(), "{line}");
}

#[test]
fn a_sound_store_is_told_as_it_is_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = filled(folder.path());
    let before = std::fs::read(&file).unwrap();
    let report = json(&file, &["--records"], 0);
    assert_eq!(report["sound"], true);
    assert_eq!(report["superblock"]["uuid"], "61207374-6f72-6520-6f66-207465737473");
    assert_eq!((&report["blocks"], &report["live_bytes"]), (&Value::from(7), &Value::from(7 * VALUE_BYTES)));
    assert_eq!((&report["problem_count"], report["segments"].as_array().unwrap().len()), (&Value::from(0), 8));
    let records = report["record_list"].as_array().unwrap();
    let with = |state| records.iter().filter(|record| record["state"] == state).count();
    assert_eq!((with("live"), with("superseded"), with("tombstone")), (7, 2, 1));
    let ant = records.iter().find(|record| record["key"] == "616e74").unwrap();
    assert_eq!((&ant["namespace"], &ant["value_bytes"]), (&Value::from(7), &Value::from(VALUE_BYTES)));
    assert_eq!((&ant["checksum"], &ant["durable"]), (&Value::from("00000000000000ab"), &Value::from(true)));
    // The value lies where the record says.
    let segment = ant["segment"].as_u64().unwrap();
    let at = (1 << 20) + segment * SEGMENT_BYTES + ant["value_offset"].as_u64().unwrap();
    assert_eq!(before[at as usize..][..VALUE_BYTES as usize], [b'a'; VALUE_BYTES as usize]);

    let text = inspect(&file, &["--records"]);
    let text = (text.status.code(), String::from_utf8(text.stdout).unwrap());
    assert_eq!(text.0, Some(0));
    assert!(text.1.contains("none: the store is sound") && text.1.contains("values    7, together"), "{}", text.1);
    assert!(text.1.contains("616e74") && !text.1.contains("blank  "), "{}", text.1);
    let all = String::from_utf8(inspect(&file, &["--all"]).stdout).unwrap();
    assert!(all.contains("blank  ") && !all.contains("616e74"), "{all}");
    assert!(std::fs::read(&file).unwrap() == before, "an inspection must not write");
}

#[test]
fn one_shard_can_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = filled(folder.path());
    let report = json(&file, &["--shard", "1"], 0);
    assert_eq!((&report["blocks"], report["segments"].as_array().unwrap().len()), (&Value::from(2), 4));
    assert!(report.get("record_list").is_none());
    let text = String::from_utf8(inspect(&file, &["--shard", "1"]).stdout).unwrap();
    assert!(text.contains("shard 1 alone"), "{text}");
    refused(&file, &["--shard", "2"], 2, "shards 0 to 1");
}

#[test]
fn damage_is_found_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = filled(folder.path());
    let segments = json(&file, &[], 0)["segments"].clone();
    let used = segments.as_array().unwrap().iter().position(|segment| segment["records"] != 0).unwrap() as u64;
    let writer = File::options().read(true).write(true).open(&file).unwrap();
    // A byte in the records of each page of this segment that has some; the headers are the first two.
    let mut damaged = 0;
    for page in 2..6 {
        let at = (1 << 20) + used * SEGMENT_BYTES + page * 4096;
        let mut mark = [0; 4];
        writer.read_exact_at(&mut mark, at).unwrap();
        if mark == *b"KVPG" {
            writer.write_all_at(&[0xFF], at + 100).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    writer.write_all_at(&[0xFF], (512 << 10) + 20).unwrap();
    let before = std::fs::read(&file).unwrap();
    let report = json(&file, &[], 1);
    assert_eq!((&report["sound"], &report["blocks"]), (&Value::from(false), &Value::from(2)));
    assert_eq!(report["segments"][used as usize]["damaged_pages"], damaged);
    assert_eq!(report["problem_count"], damaged + 1);
    let text = inspect(&file, &[]);
    assert_eq!(text.status.code(), Some(1));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("the second copy of the superblock is not usable"), "{text}");
    assert!(text.contains(&format!("shard 0 segment {used} page 2 is damaged")), "{text}");
    assert!(std::fs::read(&file).unwrap() == before, "an inspection must not write");
}

#[test]
fn what_is_no_store_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    refused(&file, &[], 3, "cannot open");
    refused(folder.path(), &[], 3, "neither a regular file nor a block device");
    for (bytes, said) in [
        (vec![], "0 bytes: it is not a store"),
        (vec![7; 5], "5 bytes: it is not a store"),
        (vec![7; 8192], "was cut off"),
        (vec![0; 2 << 20], "blank"),
        (vec![7; 2 << 20], "not a kvplane store"),
    ] {
        std::fs::write(&file, &bytes).unwrap();
        refused(&file, &[], 3, said);
        assert!(std::fs::read(&file).unwrap() == bytes, "an inspection must not write");
    }
    let store = filled(folder.path());
    File::options().write(true).open(&store).unwrap().set_len(DEVICE_BYTES - 4096).unwrap();
    refused(&store, &[], 3, "was cut off");
}

#[test]
fn a_store_of_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let mut bytes = std::fs::read(&store).unwrap();
    bytes[8] = 2;
    bytes[12..16].fill(0);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..4096]) as u32;
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&store, &bytes).unwrap();
    refused(&store, &[], 3, "on-disk format 2");
}

#[test]
fn a_store_that_a_daemon_has_open_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let file = filled(folder.path());
    let open = UringDevice::open(&file, OpenOptions { direct: false, ..OpenOptions::default() }).unwrap();
    refused(&file, &[], 3, "stop that kvplaned first");
    drop(open);
    json(&file, &[], 0);
}
