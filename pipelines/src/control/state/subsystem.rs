//! Subsystems: what hosts connect to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::nvme::spec::fabrics::DISCOVERY_NQN;

use super::{ListenAddress, Namespace, Nqn};
use crate::control::ControlError;

/// The most namespaces of a subsystem.
pub const MAX_NAMESPACES_OF_SUBSYSTEM: u32 = 256;
/// How many a subsystem may have if nobody says so (SPDK's default).
pub const DEFAULT_MAX_NAMESPACES: u32 = 32;
/// Serial number if nobody gives one.
const DEFAULT_SERIAL: &str = "KVPLANE0000000000001";
/// Model number if nobody gives one.
const DEFAULT_MODEL: &str = "kvplane KV controller";

/// A host that may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The user id by which it is known on carriers of this machine, which carry no NQN. A host that has one does not
    /// get in over a network: its name can be guessed, and anybody can give it there.
    pub uid: Option<u32>,
}

/// A subsystem.
#[derive(Clone, Debug)]
pub struct Subsystem {
    /// Its name.
    pub nqn: Nqn,
    /// Serial number, 20 ASCII characters at most.
    pub serial: String,
    /// Model number, 40 ASCII characters at most.
    pub model: String,
    /// Whether hosts that are not attached may connect too.
    pub allow_any_host: bool,
    /// The highest namespace identifier.
    pub max_namespaces: u32,
    /// Where it can be reached.
    pub listeners: Vec<ListenAddress>,
    /// The hosts that may connect.
    pub hosts: BTreeMap<Nqn, Host>,
    /// Its namespaces by identifier.
    pub namespaces: BTreeMap<u32, Namespace>,
    /// Changes with everything that may change what a host sees.
    pub(super) generation: Arc<AtomicU64>,
}

impl PartialEq for Subsystem {
    /// Equal in everything that is configured.
    fn eq(&self, other: &Self) -> bool {
        let told = |it: &Self| (it.nqn.clone(), it.serial.clone(), it.model.clone(), it.allow_any_host);
        told(self) == told(other)
            && self.max_namespaces == other.max_namespaces
            && self.listeners == other.listeners
            && self.hosts == other.hosts
            && self.namespaces == other.namespaces
    }
}

impl Subsystem {
    /// The namespaces that a host sees; a host that is attached to the subsystem has a name.
    pub fn visible(&self, host: Option<&Nqn>) -> impl Iterator<Item = (u32, &Namespace)> {
        let attached = host.is_some_and(|host| self.hosts.contains_key(host));
        let entitled = attached || self.allow_any_host;
        let named = host.filter(|_| attached).cloned();
        self.namespaces
            .iter()
            .filter(move |(_, namespace)| {
                entitled
                    && (namespace.auto_visible || named.as_ref().is_some_and(|host| namespace.hosts.contains(host)))
            })
            .map(|(nsid, namespace)| (*nsid, namespace))
    }

    /// The host that has this user id.
    #[must_use]
    pub fn host_of_uid(&self, uid: u32) -> Option<&Nqn> {
        self.hosts.iter().find(|(_, host)| host.uid == Some(uid)).map(|(nqn, _)| nqn)
    }

    /// The host that has this name on networks.
    #[must_use]
    pub fn host_of_name(&self, name: &Nqn) -> Option<&Nqn> {
        self.hosts.get_key_value(name).filter(|(_, host)| host.uid.is_none()).map(|(nqn, _)| nqn)
    }

    pub(super) fn namespace_mut(&mut self, nsid: u32) -> Result<&mut Namespace, ControlError> {
        let nqn = self.nqn.clone();
        self.namespaces
            .get_mut(&nsid)
            .ok_or_else(|| ControlError::Missing(format!("subsystem {nqn} has no namespace {nsid}")))
    }

    /// The lowest identifier that no namespace has.
    pub(super) fn free_nsid(&self) -> Result<u32, ControlError> {
        (1..=self.max_namespaces).find(|nsid| !self.namespaces.contains_key(nsid)).ok_or_else(|| {
            ControlError::Full(format!("subsystem {} has its {} namespaces already", self.nqn, self.max_namespaces))
        })
    }

    pub(super) fn touch(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// What is asked for when a subsystem is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSubsystem {
    /// Its NQN.
    pub nqn: String,
    /// Serial number.
    pub serial: Option<String>,
    /// Model number.
    pub model: Option<String>,
    /// Whether any host may connect.
    pub allow_any_host: bool,
    /// The highest namespace identifier.
    pub max_namespaces: Option<u32>,
}

impl NewSubsystem {
    pub(super) fn check(self) -> Result<Subsystem, ControlError> {
        if self.nqn == DISCOVERY_NQN {
            return Err(ControlError::Exists("the discovery subsystem is there without being made".into()));
        }
        let nqn = Nqn::parse(&self.nqn)?;
        let max_namespaces = match self.max_namespaces {
            None | Some(0) => DEFAULT_MAX_NAMESPACES,
            Some(most) if most <= MAX_NAMESPACES_OF_SUBSYSTEM => most,
            Some(most) => {
                return Err(ControlError::Invalid(format!(
                    "max_namespaces {most} is out of range: 1 to {MAX_NAMESPACES_OF_SUBSYSTEM}"
                )));
            }
        };
        Ok(Subsystem {
            nqn,
            serial: identity("serial_number", self.serial, DEFAULT_SERIAL, 20)?,
            model: identity("model_number", self.model, DEFAULT_MODEL, 40)?,
            allow_any_host: self.allow_any_host,
            max_namespaces,
            listeners: Vec::new(),
            hosts: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            generation: Arc::default(),
        })
    }
}

/// A text of Identify Controller: printable ASCII up to a length.
fn identity(what: &str, given: Option<String>, default: &str, longest: usize) -> Result<String, ControlError> {
    let text = given.unwrap_or_else(|| default.to_owned());
    if (1..=longest).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7E).contains(&byte)) {
        return Ok(text);
    }
    Err(ControlError::Invalid(format!("invalid {what} {text:?}: expected 1 to {longest} printable ASCII characters")))
}
