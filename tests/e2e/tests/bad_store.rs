//! Store files that cannot be used: one clear line, an exit code, and not a byte changed.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use e2e::daemon::Home;
use e2e::values::Dice;
use e2e::{Daemon, Setup, key};

const DAMAGED: i32 = 3;
const LOCKED: i32 = 4;
/// Where the second copy of the superblock stands (ARCHITECTURE.md, on-disk format).
const SECOND_COPY: u64 = 512 << 10;

fn digest(path: &Path) -> (u64, u64) {
    let mut file = File::open(path).unwrap();
    let (mut hasher, mut piece, mut length) = (DefaultHasher::new(), vec![0; 1 << 20], 0);
    loop {
        let bytes = file.read(&mut piece).unwrap();
        if bytes == 0 {
            return (length, hasher.finish());
        }
        hasher.write(&piece[..bytes]);
        length += bytes as u64;
    }
}

/// The daemon refuses: right code, one line that has the hint, nothing changed.
fn refuses(home: &Home, setup: &Setup, code: i32, hint: &str) {
    let before = home.store().is_file().then(|| digest(&home.store()));
    let ended = home.run_to_end(setup);
    let after = home.store().is_file().then(|| digest(&home.store()));
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    assert!(ended.stderr.to_lowercase().contains(&hint.to_lowercase()), "no {hint:?} in: {}", ended.stderr);
    let lines: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.to_lowercase().contains("error") || line.starts_with("kvplaned"))
        .collect();
    assert_eq!(lines.len(), 1, "not one clear line: {}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(before == after, "the file was changed");
    assert!(!home.controller_socket().exists() && !home.rpc_socket().exists(), "a socket stayed");
}

/// A store that was formatted and used, and is not open.
fn used() -> Home {
    let mut daemon = Daemon::start(small());
    daemon.client().put(key(1), &e2e::value(&key(1), 1, 50_000)).unwrap();
    daemon.stop();
    daemon.into_home()
}

fn small() -> Setup {
    Setup::default().store("file:{store},size=64M,segment=4M")
}

fn never() -> Setup {
    Setup::default().store("file:{store},format=never")
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_file_that_is_not_ours_is_refused_even_if_a_size_is_given() {
    let home = Home::new();
    let mut noise = vec![0; 80 << 20];
    Dice::new(1).noise(&mut noise[..1 << 20]);
    std::fs::write(home.store(), noise).unwrap();
    refuses(&home, &small(), DAMAGED, "store");
    refuses(&home, &never(), DAMAGED, "store");
}

#[test]
fn a_file_that_is_too_small_is_refused() {
    let home = Home::new();
    std::fs::write(home.store(), vec![7; 5000]).unwrap();
    refuses(&home, &never(), DAMAGED, "are needed");
    refuses(&Home::new(), &Setup::default().store("file:{store},size=64K"), DAMAGED, "are needed");
}

#[test]
fn a_store_that_was_cut_short_is_refused() {
    let home = used();
    File::options().write(true).open(home.store()).unwrap().set_len(8 << 20).unwrap();
    refuses(&home, &never(), DAMAGED, "are needed");
}

#[test]
fn a_damaged_superblock_is_refused() {
    let home = used();
    // One copy may be lost: the other one serves.
    let mut noise = [0; 2048];
    Dice::new(3).noise(&mut noise);
    overwrite(&home.store(), 64, &noise);
    let mut daemon = Daemon::start_at(home, never());
    assert!(daemon.client().get(key(1)).unwrap() == Some(e2e::value(&key(1), 1, 50_000)));
    daemon.stop();
    let home = daemon.into_home();
    overwrite(&home.store(), 64, &noise);
    overwrite(&home.store(), SECOND_COPY + 64, &noise);
    refuses(&home, &never(), DAMAGED, "damaged");
}

#[test]
fn a_store_of_another_format_is_refused() {
    let home = used();
    for copy in [0, SECOND_COPY] {
        let mut block = [0; 4096];
        File::open(home.store()).unwrap().read_exact_at(&mut block, copy).unwrap();
        // Version, then CRC-32C of the block with the checksum's own place at zero.
        block[8..12].copy_from_slice(&999u32.to_le_bytes());
        block[12..16].fill(0);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &block) as u32;
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        overwrite(&home.store(), copy, &block);
    }
    refuses(&home, &never(), DAMAGED, "format 999");
    refuses(&home, &small(), DAMAGED, "format 999");
}

#[test]
fn a_file_that_is_missing_is_refused_unless_it_may_be_made() {
    let home = Home::new();
    refuses(&home, &never(), DAMAGED, "store");
    assert!(!home.store().exists(), "a file was made");
}

#[test]
fn a_folder_is_refused() {
    let home = Home::new();
    std::fs::create_dir(home.store()).unwrap();
    refuses(&home, &small(), DAMAGED, "store");
}

#[test]
fn a_store_that_another_daemon_has_is_refused_and_that_one_goes_on() {
    let daemon = Daemon::start(small());
    let mut client = daemon.client();
    client.put(key(1), b"still here").unwrap();
    let other = Home::new();
    let setup = Setup::default().store(&format!("file:{}", daemon.home.store().display()));
    let ended = other.run_to_end(&setup);
    assert_eq!(ended.code, Some(LOCKED), "{}", ended.stderr);
    assert!(ended.stderr.contains("lock") || ended.stderr.contains("use"), "{}", ended.stderr);
    let forced = Setup::default().store(&format!("file:{},format=force", daemon.home.store().display()));
    assert_eq!(other.run_to_end(&forced).code, Some(LOCKED), "formatting does not go around the lock");
    assert_eq!(client.get(key(1)).unwrap().as_deref(), Some(&b"still here"[..]));
}

#[test]
fn a_store_that_is_not_empty_is_formatted_only_by_force() {
    let home = used();
    let mut daemon = Daemon::start_at(home, small());
    assert!(daemon.client().exists(key(1)).unwrap(), "size and segment on the command line do not format");
    daemon.stop();
    daemon.start_again_with(Setup::default().store("file:{store},size=64M,segment=4M,format=force"));
    assert!(!daemon.client().exists(key(1)).unwrap());
}

#[test]
fn options_that_make_no_sense_are_usage_errors() {
    for (store, hint) in [
        ("floppy:{store}", "floppy"),
        ("file:{store},size=lots", "lots"),
        ("file:{store},segment=3M,size=64M", "segment"),
        ("file:{store},colour=blue", "colour"),
    ] {
        let home = Home::new();
        let ended = home.run_to_end(&Setup::default().store(store));
        assert_eq!(ended.code, Some(2), "{store}: {}", ended.stderr);
        assert!(ended.stderr.contains(hint), "{store}: {}", ended.stderr);
        assert!(!home.store().exists(), "{store} made a file");
    }
    assert_eq!(Home::new().run_to_end(&Setup::default().cpumask("0x0")).code, Some(2));
    assert_eq!(Home::new().run_to_end(&Setup::default().cpumask("[100]")).code, Some(5));
}
