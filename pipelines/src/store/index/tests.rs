use std::collections::HashMap;

use dataplane::nvme::spec::kv::Key;
use proptest::prelude::*;

use super::*;
use crate::store::publish::Class;

fn id(number: u64) -> BlockId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    BlockId::new((number % 3) as u32, Key::new(bytes), 16)
}

fn entry(id: &BlockId, unit: u32) -> Entry {
    Entry::new(id, unit, 4096, u64::from(unit), 0, Class::Cache)
}

#[test]
fn a_block_costs_at_most_48_bytes_at_design_load() {
    let capacity = 200_000;
    let mut index = Index::new(capacity, 1);
    assert!(index.bytes() <= capacity as usize * 48, "{}", index.bytes());
    for number in 0..u64::from(capacity) {
        let id = id(number);
        let hash = index.hash(&id);
        index.insert(hash, entry(&id, number as u32)).unwrap();
    }
    assert_eq!(index.len(), capacity);
    for number in 0..u64::from(capacity) {
        let id = id(number);
        let at = index.find(index.hash(&id), &id).unwrap();
        assert_eq!(index.get(at).unwrap().unit, number as u32);
    }
    let (more, hash) = (id(u64::from(capacity)), index.hash(&id(u64::from(capacity))));
    assert_eq!(index.insert(hash, entry(&more, 0)), Err(IndexFull));
}

#[test]
fn another_seed_hashes_otherwise() {
    let (one, two) = (HashKey::new(1), HashKey::new(2));
    assert!((0..1000).all(|number| one.hash(&id(number)) != two.hash(&id(number))));
}

#[test]
fn spaces_and_lengths_keep_equal_keys_apart() {
    let key = Key::new(*b"ab\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let names = [BlockId::new(1, key, 2), BlockId::new(1, key, 3), BlockId::new(2, key, 2), BlockId::new(1, key, 16)];
    let mut index = Index::new(16, 3);
    for (unit, name) in names.iter().enumerate() {
        let hash = index.hash(name);
        assert_eq!(index.find(hash, name), None);
        index.insert(hash, entry(name, unit as u32)).unwrap();
    }
    for (unit, name) in names.iter().enumerate() {
        let at = index.find(index.hash(name), name).unwrap();
        assert_eq!(index.get(at).unwrap().unit, unit as u32);
    }
}

proptest! {
    #[test]
    fn behaves_as_a_map(seed: u64, steps in proptest::collection::vec((0u8..3, 0u64..200), 1..800)) {
        let mut index = Index::new(64, seed);
        let mut model: HashMap<u64, u32> = HashMap::new();
        for (unit, (what, number)) in (0u32..).zip(steps) {
            let id = id(number);
            let hash = index.hash(&id);
            index.prefetch_bucket(hash);
            index.prefetch_entry(hash);
            let found = index.find(hash, &id);
            prop_assert_eq!(found.map(|at| index.get(at).unwrap().unit), model.get(&number).copied());
            match (what, found) {
                (0, None) => match index.insert(hash, entry(&id, unit)) {
                    Ok(_) => { model.insert(number, unit); }
                    Err(IndexFull) => prop_assert!(model.len() >= 50, "full at {} of 64", model.len()),
                },
                (0, Some(at)) => {
                    index.get_mut(at).unwrap().unit = unit;
                    model.insert(number, unit);
                }
                (1, Some(at)) => {
                    prop_assert_eq!(index.remove(at).map(|entry| entry.id()), Some(id));
                    prop_assert_eq!(index.get(at), None);
                    model.remove(&number);
                }
                _ => {}
            }
            prop_assert_eq!(index.len() as usize, model.len());
        }
    }
}
