//! The daemon on NVMe devices that it drives itself: software models of controllers, which this process plays.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests have no better way to fail")]

use std::time::Instant;

use dataplane::nvme::vfio::model::ModelOptions;
use e2e::daemon::Home;
use e2e::nvme_target::NvmeTarget;
use e2e::rpc::sum_of;
use e2e::values::version_of;
use e2e::{Daemon, Setup, await_that, key, value};
use kvplane::{Client, Error, Status, StoreOptions};
use serde_json::{Value, json};

/// A drive of so many MiB with blocks of 4096 bytes.
fn drive(mebibytes: u64) -> ModelOptions {
    ModelOptions { namespaces: vec![mebibytes << 8], ..ModelOptions::default() }
}

fn target(mebibytes: u64) -> NvmeTarget {
    NvmeTarget::start(drive(mebibytes))
}

/// `--device` for each, in this order, with settings on the first.
fn on(devices: &[&NvmeTarget], settings: &str) -> Setup {
    let mut setup = Setup { store: None, ..Setup::default() };
    for (at, device) in devices.iter().enumerate() {
        let settings = if at == 0 { settings } else { "" };
        let device = format!("vfio-user:{}{settings}", device.folder().display());
        setup = setup.argument("--device").argument(device);
    }
    setup
}

fn put_all(client: &mut Client, keys: std::ops::Range<u64>, version: u64, bytes: usize) {
    for number in keys {
        client.put(key(number), &value(&key(number), version, bytes)).unwrap();
    }
}

/// How many of the keys are there, each as it was stored in this version.
fn count(client: &mut Client, keys: std::ops::Range<u64>, version: u64) -> usize {
    let found = |number: &u64| {
        let found = client.get(key(*number)).unwrap();
        found.is_some_and(|bytes| version_of(&key(*number), &bytes) == Ok(version))
    };
    keys.filter(found).count()
}

fn controller(daemon: &Daemon, at: usize) -> Value {
    daemon.rpc("bdev_nvme_get_controllers", json!({}))[at]["ctrlrs"][0].clone()
}

fn innocent(target: &NvmeTarget) {
    assert_eq!(target.model.violations(), Vec::<String>::new());
}

#[test]
fn values_lie_on_the_drive_and_outlive_the_daemon() {
    let target = target(256);
    let mut daemon = Daemon::start(on(&[&target], ",segment=4M").namespace("tests,class=durable"));
    let mut client = daemon.client();
    put_all(&mut client, 0..24, 1, 300_001);
    assert_eq!(count(&mut client, 0..24, 1), 24);
    assert!(target.model.counters().commands > 48);
    drop(client);
    daemon.restart();
    assert_eq!(count(&mut daemon.client(), 0..24, 1), 24, "after a restart");
    put_all(&mut daemon.client(), 24..48, 1, 65_536);
    daemon.kill9();
    daemon.start_again();
    assert_eq!(count(&mut daemon.client(), 0..48, 1), 48, "after a kill");
    daemon.stop();
    await_that("the controller lost sight of the daemon's memory", || target.model.mappings() == 0);
    innocent(&target);
}

#[test]
fn the_drive_writes_into_clients_memory_and_loses_sight_of_it_when_they_leave() {
    // Over a network a drive reaches the daemon's memory and no client's.
    if !e2e::carrier::is_vfio_user("the_drive_writes_into_clients_memory_and_loses_sight_of_it_when_they_leave") {
        return;
    }
    let target = target(256);
    let daemon = Daemon::start(on(&[&target], ""));
    let own = controller(&daemon, 0)["memory_regions"].as_u64().unwrap();
    let mut client = daemon.client();
    let memory = client.register(4 << 20).unwrap();
    let with_client = controller(&daemon, 0)["memory_regions"].as_u64().unwrap();
    assert!(with_client > own, "{own} regions, then {with_client}");
    let stats = |daemon: &Daemon| {
        let stats = daemon.rpc("pipeline_get_stats", json!({}));
        sum_of(&stats, "copied_bytes") + sum_of(&stats, "staged_bytes")
    };
    let before = stats(&daemon);
    for number in 0..16 {
        let key = key(number);
        memory.write(0, &value(&key, 1, 1 << 20)).unwrap();
        let buffer = memory.slice(0, 1 << 20).unwrap();
        client.submit(kvplane::Request::Store { key, buffer, options: StoreOptions::default() }, 0).unwrap();
        await_one(&mut client);
        let buffer = memory.slice(2 << 20, 1 << 20).unwrap();
        client.submit(kvplane::Request::Retrieve { key, buffer }, 0).unwrap();
        await_one(&mut client);
        let mut found = vec![0; 1 << 20];
        memory.read(2 << 20, &mut found).unwrap();
        assert_eq!(version_of(&key, &found), Ok(1));
    }
    assert_eq!(stats(&daemon), before, "the CPU copied aligned values");
    drop((client, memory));
    await_that("the controller lost sight of the client's memory", || {
        controller(&daemon, 0)["memory_regions"].as_u64() == Some(own)
    });
    innocent(&target);
}

fn await_one(client: &mut Client) {
    let mut events = kvplane::Burst::new();
    while client.poll(&mut events) == 0 {
        client.wait(e2e::PATIENCE).unwrap();
    }
    let outcome = events.remove(0).outcome;
    assert!(!matches!(outcome, kvplane::Outcome::Failed(_)), "{outcome:?}");
}

#[test]
fn memory_that_the_drive_cannot_reach_is_refused_to_the_client_and_to_nobody_else() {
    // Over a network a drive reaches the daemon's memory and no client's.
    if !e2e::carrier::is_vfio_user("memory_that_the_drive_cannot_reach_is_refused_to_the_client_and_to_nobody_else") {
        return;
    }
    let target = target(256);
    let daemon = Daemon::start(on(&[&target], ""));
    let mut client = daemon.client();
    put_all(&mut client, 0..8, 1, 40_000);
    target.limit_mappings(target.model.mappings());
    assert!(daemon.try_client(kvplane::ConnectOptions::default()).is_err(), "there is no room for its queues");
    assert!(daemon.log().contains("a device cannot reach it"), "{}", daemon.log());
    put_all(&mut client, 0..8, 2, 40_000);
    target.limit_mappings(usize::MAX);
    assert_eq!(count(&mut daemon.client(), 0..8, 2), 8);
    innocent(&target);
}

#[test]
fn other_formats_and_two_cores_and_eviction() {
    for (lba_bytes, cpumask) in [(512, "0x1"), (4096, "0x3")] {
        if cpumask == "0x3" && std::thread::available_parallelism().unwrap().get() < 2 {
            e2e::skip::skipped("nvme_device on two cores", "this machine has one");
            continue;
        }
        let namespaces = vec![(48 << 20) / u64::from(lba_bytes)];
        let options = ModelOptions { namespaces, lba_bytes, mdts: 5, sgl: lba_bytes == 512, ..ModelOptions::default() };
        let target = NvmeTarget::start(options);
        let mut daemon = Daemon::start(on(&[&target], ",segment=2M,shards=2").cpumask(cpumask));
        let mut client = daemon.client();
        put_all(&mut client, 0..150, 3, 500_001);
        let there = count(&mut client, 0..150, 3);
        assert!((20..96).contains(&there), "{there} of 150 values are there, on a drive that holds less than 96");
        assert!(target.model.counters().deallocations > 0, "what was evicted is not told to the drive");
        drop(client);
        daemon.restart();
        let again = count(&mut daemon.client(), 0..150, 3);
        assert!(again > there / 2, "{again} of {there} outlived the restart");
        innocent(&target);
    }
}

#[test]
fn a_reset_under_load_loses_nothing() {
    let target = target(256);
    let daemon = Daemon::start(on(&[&target], ""));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut client = daemon.client();
            for round in 1..=10 {
                put_all(&mut client, 0..20, round, 100_000);
                assert_eq!(count(&mut client, 0..20, round), 20, "round {round}");
            }
        });
        let mut resets = 0;
        let written = || daemon.rpc("bdev_get_iostat", json!({}))["bdevs"][0]["num_write_ops"].as_u64().unwrap();
        while !load.is_finished() || resets < 3 {
            // A command that several resets hit is given up at last, so there is some time between them.
            let before = written();
            await_that("more was written", || load.is_finished() || written() >= before + 20);
            assert_eq!(daemon.rpc("bdev_nvme_reset_controller", json!({ "name": "Nvme0" })), json!(true));
            resets += 1;
        }
        load.join().unwrap();
    });
    assert!(controller(&daemon, 0)["resets"].as_u64() >= Some(3));
    assert_eq!(controller(&daemon, 0)["state"], "enabled");
    innocent(&target);
}

#[test]
fn an_unreadable_block_is_told_once_then_a_miss_and_harms_no_neighbour() {
    let target = target(64);
    let mut daemon = Daemon::start(on(&[&target], ",segment=4M").namespace("tests,class=durable"));
    let mut client = daemon.client();
    put_all(&mut client, 0..16, 1, 65_536);
    // The values lie after the metadata of the first segment, one after the other; some blocks in the midst of them.
    let image: Vec<u8> = {
        let mut bytes = vec![0; 8 << 20];
        target.model.peek(1, 0, &mut bytes).unwrap();
        bytes
    };
    let place = |number: u64| {
        let wanted = value(&key(number), 1, 65_536);
        image.chunks(4096).position(|block| block == &wanted[..4096]).unwrap() as u64
    };
    target.model.damage(place(5) + 3, place(5) + 4);
    let told = client.get(key(5));
    assert!(matches!(told, Err(Error::Status(status)) if status == Status::UNRECOVERED_ERROR), "{told:?}");
    assert_eq!(client.get(key(5)).unwrap(), None, "from then on it is not there");
    assert!(daemon.rpc("bdev_get_iostat", json!({}))["bdevs"][0]["io_error"]["total"].as_u64() >= Some(1));
    assert!(sum_of(&daemon.rpc("store_get_stats", json!({})), "lost_blocks") > 0);
    let others = |client: &mut Client| {
        for number in (0..16).filter(|number| *number != 5) {
            assert_eq!(client.get(key(number)).unwrap(), Some(value(&key(number), 1, 65_536)), "key {number}");
        }
    };
    others(&mut client);
    daemon.restart();
    let mut client = daemon.client();
    assert_eq!(client.get(key(5)).unwrap(), None, "nor after a restart");
    client.put(key(5), &value(&key(5), 2, 65_536)).unwrap();
    assert_eq!(client.get(key(5)).unwrap(), Some(value(&key(5), 2, 65_536)), "stored again, it lies elsewhere");
    others(&mut client);
    innocent(&target);
}

#[test]
fn operators_see_their_drives_as_spdk_shows_them() {
    let target = NvmeTarget::start(ModelOptions { namespaces: vec![16 << 8, 64 << 8], ..ModelOptions::default() });
    let setup = Setup { store: None, ..Setup::default() };
    let device = format!("vfio-user:{}/2", target.folder().display());
    let daemon = Daemon::start(setup.argument("--device").argument(device));
    put_all(&mut daemon.client(), 0..4, 1, 65_536);
    assert_eq!(count(&mut daemon.client(), 0..4, 1), 4);
    let bdevs = daemon.rpc("bdev_get_bdevs", json!({ "name": "Nvme0n2" }));
    assert_eq!((&bdevs[0]["block_size"], &bdevs[0]["num_blocks"]), (&json!(4096), &json!(64 << 8)));
    let nvme = &bdevs[0]["driver_specific"]["nvme"][0];
    assert_eq!((&nvme["trid"]["trtype"], &nvme["ns_data"]["id"]), (&json!("VFIOUSER"), &json!(2)));
    let figures = daemon.rpc("bdev_get_iostat", json!({}));
    let figures = &figures["bdevs"][0];
    assert_eq!((figures["name"].as_str(), figures["io_error"].clone()), (Some("Nvme0n2"), json!({})));
    assert!(
        figures["bytes_written"].as_u64() >= Some(4 * 65_536) && figures["bytes_read"].as_u64() >= Some(4 * 65_536)
    );
    let health = daemon.rpc("bdev_nvme_get_controller_health_info", json!({ "name": "Nvme0" }));
    assert_eq!(health["temperature_celsius"], json!(27));
    assert!(target.model.send_event(0x0002_0101));
    await_that("the event was heard", || controller(&daemon, 0)["events"] == json!(1));
    let log = daemon.rpc("bdev_nvme_get_error_log", json!({ "name": "Nvme0" }));
    assert_eq!(log["events"], json!([{ "kind": 1, "information": 1, "log_page": 2 }]));
    let error = daemon.try_rpc("bdev_nvme_reset_controller", json!({ "name": "Nvme7" })).unwrap_err();
    assert_eq!(error.code, -19, "{error:?}");
    innocent(&target);
}

#[test]
fn the_drive_is_told_what_belongs_together() {
    let target = NvmeTarget::start(ModelOptions { placement_handles: 4, ..drive(48) });
    let setup = on(&[&target], ",segment=2M");
    let setup = Setup { namespaces: vec!["one".into(), "two,class=durable".into()], ..setup };
    let daemon = Daemon::start(setup);
    let mut cache = daemon.client();
    // Read again and again, so that eviction moves some on.
    put_all(&mut cache, 0..16, 1, 200_000);
    for number in 16..300 {
        cache.put(key(number), &value(&key(number), 1, 200_000)).unwrap();
        assert!(cache.get(key(number % 4)).is_ok());
    }
    let mut durable =
        daemon.client_with(kvplane::ConnectOptions { namespace: 2, ..kvplane::ConnectOptions::default() });
    put_all(&mut durable, 0..16, 1, 65_536);
    let [cached, moved, metadata, lasting] = target.model.placed()[..] else { panic!("{:?}", target.model.placed()) };
    // In blocks of 4096 bytes.
    assert_eq!(cached, 300 * 49);
    assert_eq!(lasting, 16 * 16);
    assert!(moved > 0 && moved < cached && metadata > 10, "{moved} blocks moved, {metadata} of metadata");
    innocent(&target);
}

#[test]
fn two_drives_hold_one_store_in_whatever_order_they_are_given() {
    let (one, other) = (target(128), target(64));
    let mut daemon = Daemon::start(on(&[&one, &other], ",segment=4M,shards=2").namespace("tests,class=durable"));
    put_all(&mut daemon.client(), 0..100, 1, 300_000);
    for target in [&one, &other] {
        assert!(target.model.counters().commands > 50, "{:?}", target.model.counters());
    }
    daemon.stop();
    daemon.start_again_with(on(&[&other, &one], ""));
    assert_eq!(count(&mut daemon.client(), 0..100, 1), 100);
    daemon.stop();
    let home = daemon.into_home();
    let stranger = target(64);
    for (setup, code, told) in [
        (on(&[&one], ""), 3, "one of the 2 devices"),
        (on(&[&other], ""), 3, "one of the 2 devices"),
        (on(&[&one, &stranger], ""), 3, "none of the devices"),
        (on(&[&one, &other, &stranger], ""), 3, "3 are given"),
        (on(&[&one, &one], ""), 2, "twice"),
    ] {
        let ended = home.run_to_end(&setup);
        assert!(ended.code == Some(code) && ended.stderr.contains(told), "{ended:?}");
        assert_eq!(ended.stderr.lines().last().unwrap().matches("kvplaned: ").count(), 1, "{ended:?}");
    }
    let mut daemon = Daemon::start_at(home, on(&[&one, &other], ""));
    assert_eq!(count(&mut daemon.client(), 0..100, 1), 100, "what was refused was not touched");
    daemon.stop();
    // Begun anew, the one is a store of its own, and the other of use to nobody without it.
    let mut daemon = Daemon::start_at(daemon.into_home(), on(&[&one], ",format=force"));
    assert_eq!(count(&mut daemon.client(), 0..100, 1), 0);
    daemon.restart_on(on(&[&one], ""));
    daemon.stop();
    let ended = daemon.into_home().run_to_end(&on(&[&other], ""));
    assert!(ended.stderr.contains("one of the 2 devices"), "{ended:?}");
    innocent(&one);
    innocent(&other);
}

#[test]
fn a_drive_that_is_pulled_takes_its_values_along_and_no_others() {
    let (one, other) = (target(96), target(96));
    let mut daemon = Daemon::start(on(&[&one, &other], ",segment=4M,shards=2").namespace("tests,class=durable"));
    let mut client = daemon.client();
    put_all(&mut client, 0..60, 1, 200_000);
    assert_eq!(count(&mut client, 0..60, 1), 60);
    other.model.remove();
    await_that("the removal was noticed", || controller(&daemon, 1)["state"] == "deleting");
    let there = count_with_misses(&mut client, 0..60);
    assert!((6..54).contains(&there), "{there} of 60 values are left");
    // The shard on the other drive goes on.
    let begin = Instant::now();
    let mut stored = 0;
    while stored == 0 {
        stored = (60..80).filter(|number| client.put(key(*number), &value(&key(*number), 1, 50_000)).is_ok()).count();
        assert!(begin.elapsed() < e2e::PATIENCE, "nothing can be stored any more\n{}", daemon.log());
    }
    assert_eq!(count_with_misses(&mut client, 0..60), there);
    assert!(count_with_misses(&mut client, 60..80) >= stored);
    assert_eq!(controller(&daemon, 0)["state"], "enabled");
    drop(client);
    // A client that comes later is served as well.
    assert_eq!(count_with_misses(&mut daemon.client(), 0..60), there);
    daemon.await_stop();
    innocent(&one);
}

/// As [`count`], where reading a key may fail as well as miss, and must not give other bytes.
fn count_with_misses(client: &mut Client, keys: std::ops::Range<u64>) -> usize {
    let found = |number: &u64| {
        let Ok(Some(bytes)) = client.get(key(*number)) else { return false };
        assert_eq!(version_of(&key(*number), &bytes), Ok(1), "key {number}");
        true
    };
    keys.filter(found).count()
}

#[test]
fn a_drive_that_lost_power_alone_is_left_until_the_daemon_starts_again() {
    let target = target(96);
    let mut daemon = Daemon::start(on(&[&target], ",segment=4M").namespace("tests,class=durable"));
    let mut client = daemon.client();
    put_all(&mut client, 0..20, 1, 65_536);
    target.model.lose_power();
    await_that("the loss was noticed", || controller(&daemon, 0)["state"] == "failed");
    assert_eq!(count_with_misses(&mut client, 0..20), 0);
    assert!(client.put(key(1), &value(&key(1), 2, 65_536)).is_err());
    let log = daemon.log();
    assert!(log.contains("may have lost its volatile cache") && log.contains("restart the daemon"), "{log}");
    drop(client);
    daemon.restart();
    assert_eq!(count(&mut daemon.client(), 0..20, 1), 20, "what was acknowledged as durable was flushed");
    innocent(&target);
}

#[test]
fn the_controllers_process_dies_and_the_daemon_lives() {
    let target = target(64);
    let mut daemon = Daemon::start(on(&[&target], ",segment=4M"));
    put_all(&mut daemon.client(), 0..20, 1, 65_536);
    target.die();
    await_that("the removal was noticed", || controller(&daemon, 0)["state"] == "deleting");
    let mut client = daemon.client();
    assert_eq!(count_with_misses(&mut client, 0..20), 0);
    assert!(client.put(key(1), &value(&key(1), 2, 65_536)).is_err());
    drop(client);
    daemon.await_stop();
}

#[test]
fn what_cannot_be_driven_is_told_in_one_line() {
    let home = Home::new();
    let small = target(2);
    let setup = |device: &str| Setup { store: None, ..Setup::default() }.argument("--device").argument(device);
    let nsid = format!("vfio-user:{}/9", small.folder().display());
    let small = format!("vfio-user:{}", small.folder().display());
    for (device, code, told) in [
        ("vfio-user:/nowhere/at/all", 3, "is it started"),
        ("vfio:fffe:ff:1f.7", 3, "vfio"),
        (nsid.as_str(), 3, "no active namespace 9; it has [1]"),
        (small.as_str(), 3, "bytes"),
        ("nvme0", 2, "expected vfio:"),
    ] {
        let ended = home.run_to_end(&setup(device));
        assert!(ended.code == Some(code) && ended.stderr.contains(told), "{device}: {ended:?}");
    }
}
