//! Devices that are gone for good.

use dataplane::nvme::spec::kv::StoreOptions;

use super::world::{NAMESPACE, World, id};
use crate::store::{Class, NewBlock, Published};

#[test]
fn blocks_on_a_device_that_is_gone_are_misses_for_everybody() {
    let mut world = World::new(8, true, 3);
    world.recover();
    for number in 0..30 {
        assert!(world.put(id(number), number, 20_000, Class::Durable));
    }
    let units: Vec<u32> = (0..30).map(|number| world.find(&id(number)).unwrap().unit).collect();
    let segment = |unit: u32| world.shard.layout().segment_of(unit);
    // The device with the first segment is pulled; those behind it are on another.
    let lost: Vec<u64> = (0..30).filter(|&number| segment(units[number as usize]) == segment(units[0])).collect();
    assert!(lost.len() > 5 && lost.len() < 25, "{lost:?}");
    let first = world.shard.layout().page_lba(segment(units[0]), 0);
    world.medium.borrow_mut().gone = Some(first..first + (256 << 10) / 512);
    world.turn();
    for number in 0..30 {
        assert_eq!(world.find(&id(number)).is_none(), lost.contains(&number), "block {number}");
    }
    let (mut listed, mut keys, mut cursor) = (0, dataplane::Burst::new(), Some(0));
    while let Some(from) = cursor {
        cursor = world.shard.list(NAMESPACE, from, 1000, &mut keys);
        listed += keys.len();
        keys.clear();
    }
    assert_eq!(listed, 30 - lost.len());
    let stats = world.shard.stats();
    assert_eq!((stats.blocks, stats.gone_blocks), (30, lost.len() as u64));
    // They are stored anew, on what is left, also by who says that there must be none.
    let missing = StoreOptions { must_not_exist: true, ..StoreOptions::default() };
    let extent = world.shard.reserve(NAMESPACE, 1000, Class::Cache, None).unwrap();
    let block = NewBlock {
        id: id(lost[0]),
        hash: world.shard.hash(&id(lost[0])),
        bytes: 1000,
        checksum: 77,
        parent: 0,
        class: Class::Cache,
        condition: missing,
    };
    assert_eq!(world.shard.publish(extent, block, 77), Published::Visible);
    assert_eq!(world.find(&id(lost[0])).unwrap().checksum, 77);
    world.crash();
}
