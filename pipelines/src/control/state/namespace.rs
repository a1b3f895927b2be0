//! Namespaces.

use std::collections::BTreeSet;

use crc_fast::{CrcAlgorithm, checksum};

use super::Nqn;
use crate::control::{ControlError, Shape};
use crate::policy::table::Durability;

/// The most namespaces over all subsystems: the indexes of per-namespace statistics are below it.
pub const MAX_NAMESPACES: usize = 1024;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The shortest quota and value limit that make sense: one logical block of most devices.
const SMALLEST_VALUE: u32 = 4096;

/// A namespace: the values of one tenant. Its name is unique in the store and decides where its values are filed, so
/// a namespace that is made again under its name finds what it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// The low 28 bits of the CRC-32C of its name.
    pub ns28: u32,
    /// Its index for statistics.
    pub index: u16,
    /// When Stores are acknowledged.
    pub class: Durability,
    /// Bytes that it may hold, over all shards; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// The longest value, in bytes.
    pub max_value_bytes: u32,
    /// Whether every host that may connect to the subsystem sees it.
    pub auto_visible: bool,
    /// The hosts that see it besides.
    pub hosts: BTreeSet<Nqn>,
}

impl Namespace {
    /// Bytes that it may hold in each of `shards` shards, rounded up.
    #[must_use]
    pub fn quota_per_shard(&self, shards: u32) -> Option<u64> {
        self.quota_bytes.map(|bytes| bytes.div_ceil(u64::from(shards.max(1))))
    }

    /// A globally unique identifier that only depends on the name.
    #[must_use]
    pub fn nguid(&self) -> [u8; 16] {
        let half = |seed: &str| checksum(CrcAlgorithm::Crc64Nvme, format!("{seed}{}", self.name).as_bytes());
        let mut nguid = [0; 16];
        nguid[..8].copy_from_slice(&half("kvplane/0/").to_be_bytes());
        nguid[8..].copy_from_slice(&half("kvplane/1/").to_be_bytes());
        nguid
    }
}

/// What is asked for when a namespace is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewNamespace {
    /// Its name.
    pub name: String,
    /// The subsystem's NQN.
    pub nqn: String,
    /// Its identifier in the subsystem; the lowest free one if `None`.
    pub nsid: Option<u32>,
    /// When Stores are acknowledged.
    pub class: Durability,
    /// Bytes that it may hold; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// The longest value; as long as the store takes if `None`.
    pub max_value_bytes: Option<u32>,
    /// Whether every host that may connect sees it.
    pub auto_visible: bool,
    /// Hosts that see it besides.
    pub hosts: Vec<String>,
}

impl NewNamespace {
    /// The namespace asked for, without hosts.
    ///
    /// # Errors
    /// If the name, the quota or the value limit makes no sense for the store.
    pub(super) fn check(&self, index: u16, shape: &Shape) -> Result<Namespace, ControlError> {
        check_name(&self.name)?;
        let max_value_bytes = self.max_value_bytes.unwrap_or(shape.max_value_bytes);
        if !(SMALLEST_VALUE.min(shape.max_value_bytes)..=shape.max_value_bytes).contains(&max_value_bytes) {
            return Err(ControlError::Invalid(format!(
                "max_value_bytes {max_value_bytes} is out of range: {SMALLEST_VALUE} to {} (the longest that the \
                 store takes)",
                shape.max_value_bytes
            )));
        }
        let smallest = u64::from(max_value_bytes) * u64::from(shape.shards.max(1));
        if let Some(quota) = self.quota_bytes.filter(|quota| *quota < smallest) {
            return Err(ControlError::Invalid(format!(
                "quota_bytes {quota} is too small: each of {} shards gets its part, which must hold one value of \
                 {max_value_bytes} bytes; give at least {smallest}, or a smaller max_value_bytes",
                shape.shards
            )));
        }
        Ok(Namespace {
            name: self.name.clone(),
            ns28: ns28(&self.name),
            index,
            class: self.class,
            quota_bytes: self.quota_bytes,
            max_value_bytes,
            auto_visible: self.auto_visible,
            hosts: BTreeSet::new(),
        })
    }
}

/// The number under which the store files a namespace: the low 28 bits of the CRC-32C of its name.
#[must_use]
pub fn ns28(name: &str) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, name.as_bytes()) as u32 & 0x0FFF_FFFF
}

fn check_name(name: &str) -> Result<(), ControlError> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
        return Ok(());
    }
    Err(ControlError::Invalid(format!(
        "invalid namespace name {name:?}: expected 1 to {MAX_NAME_BYTES} printable ASCII characters without spaces \
         and commas"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stable_number_is_crc32c() {
        // The check value of CRC-32C over "123456789" is E3069283h.
        assert_eq!(ns28("123456789"), 0x0306_9283);
    }

    #[test]
    fn the_identifier_depends_on_the_name_alone() {
        let shape = crate::control::fake::SHAPE;
        let new = |name: &str, quota| NewNamespace { name: name.into(), quota_bytes: quota, ..Default::default() };
        let a = new("a", None).check(0, &shape).unwrap();
        let again = new("a", Some(1 << 40)).check(7, &shape).unwrap();
        assert_eq!(a.nguid(), again.nguid());
        assert_ne!(a.nguid(), new("b", None).check(0, &shape).unwrap().nguid());
    }

    #[test]
    fn names_and_limits_are_checked() {
        let shape = crate::control::fake::SHAPE;
        for name in ["", "a b", "a,b", "\u{00fc}", "a\n", &"x".repeat(256)] {
            assert!(NewNamespace { name: name.into(), ..Default::default() }.check(0, &shape).is_err(), "{name:?}");
        }
        let limited = |quota, value| NewNamespace {
            name: "llama-70b/bf16".into(),
            quota_bytes: quota,
            max_value_bytes: value,
            ..Default::default()
        };
        assert!(limited(None, Some(shape.max_value_bytes + 1)).check(0, &shape).is_err());
        assert!(limited(None, Some(0)).check(0, &shape).is_err());
        let smallest = u64::from(shape.max_value_bytes) * u64::from(shape.shards);
        assert!(limited(Some(smallest - 1), None).check(0, &shape).is_err());
        assert_eq!(
            limited(Some(smallest), None).check(0, &shape).unwrap().quota_per_shard(shape.shards),
            Some(u64::from(shape.max_value_bytes))
        );
    }
}
