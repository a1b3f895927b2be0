//! What each key may hold. The judge of every answer.

use std::collections::BTreeMap;

/// A version of a value; `None` for no value.
pub type Version = Option<u32>;

/// What one key may hold now.
#[derive(Clone, Debug, Default)]
struct KeyState {
    /// The versions that a read may return.
    possible: Vec<Version>,
    /// The version a write under way would leave.
    pending: Option<Version>,
    /// Every version that was ever written.
    ever: Vec<u32>,
}

/// One tenant's keys.
#[derive(Debug, Default)]
pub struct Oracle {
    keys: BTreeMap<u32, KeyState>,
    next_version: u32,
    /// Whether a block may vanish: a cache that evicts, or a device that loses.
    pub may_vanish: bool,
    /// Whether acknowledged writes outlive a power cut.
    pub durable: bool,
}

impl Oracle {
    /// Nothing is stored.
    #[must_use]
    pub fn new(may_vanish: bool, durable: bool) -> Self {
        Self { keys: BTreeMap::new(), next_version: 1, may_vanish, durable }
    }

    fn state(&mut self, key: u32) -> &mut KeyState {
        self.keys.entry(key).or_insert_with(|| KeyState { possible: vec![None], pending: None, ever: Vec::new() })
    }

    /// Whether a write of the key is under way.
    pub fn is_busy(&mut self, key: u32) -> bool {
        self.state(key).pending.is_some()
    }

    /// A Store begins; the version it writes.
    pub fn store_begins(&mut self, key: u32) -> u32 {
        let version = self.next_version;
        self.next_version += 1;
        let state = self.state(key);
        state.pending = Some(Some(version));
        state.ever.push(version);
        version
    }

    /// A Delete begins.
    pub fn delete_begins(&mut self, key: u32) {
        self.state(key).pending = Some(None);
    }

    /// The write under way ended. After an error either may be the case.
    pub fn write_ended(&mut self, key: u32, success: bool) {
        let may_vanish = self.may_vanish;
        let state = self.state(key);
        let Some(version) = state.pending.take() else { return };
        if success {
            state.possible.clear();
        }
        state.possible.push(version);
        if may_vanish {
            state.possible.push(None);
        }
    }

    /// The write under way was refused: nothing has happened.
    pub fn write_refused(&mut self, key: u32) {
        self.state(key).pending = None;
    }

    /// All keys were removed.
    pub fn purged(&mut self) {
        self.keys.values_mut().for_each(|state| state.possible = vec![None]);
    }

    /// What a read may return that begins now.
    pub fn readable(&mut self, key: u32) -> Vec<Version> {
        let may_vanish = self.may_vanish;
        let state = self.state(key);
        let mut versions = state.possible.clone();
        versions.extend(state.pending);
        if may_vanish {
            versions.push(None);
        }
        versions
    }

    /// The power went, or the client died: writes under way happened or not, and without durability any older
    /// state may be back.
    pub fn interrupted(&mut self, power_cut: bool) {
        let forget = power_cut && !self.durable;
        for state in self.keys.values_mut() {
            if let Some(version) = state.pending.take() {
                state.possible.push(version);
            }
            if forget {
                state.possible.push(None);
                state.possible.extend(state.ever.iter().map(|&version| Some(version)));
            }
            state.possible.sort_unstable();
            state.possible.dedup();
        }
    }

    /// Every key that was ever touched.
    #[must_use]
    pub fn keys(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }
}
