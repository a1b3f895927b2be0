//! The changes that can be made to what is configured.

use super::listening::warn_of_access;
use super::{
    Control, Host, MAX_HOSTS, MAX_NAMESPACES, MAX_SUBSYSTEMS, NewNamespace, NewSubsystem, Nqn, SessionRecord, State,
    ns28,
};
use crate::control::ControlError;
use dataplane::fabric::SessionId;

impl Control {
    /// Makes a subsystem that listens nowhere and that nobody may connect to.
    ///
    /// # Errors
    /// If something about it is not valid, or its name is taken.
    pub fn create_subsystem(&self, new: NewSubsystem) -> Result<(), ControlError> {
        self.change(|state, _| {
            let subsystem = new.check()?;
            if state.subsystems.contains_key(&subsystem.nqn) {
                return Err(ControlError::Exists(format!("there is a subsystem {} already", subsystem.nqn)));
            }
            if state.subsystems.len() >= MAX_SUBSYSTEMS {
                return Err(ControlError::Full(format!("there are {MAX_SUBSYSTEMS} subsystems already")));
            }
            state.subsystems.insert(subsystem.nqn.clone(), subsystem);
            Ok(())
        })
    }

    /// Removes a subsystem: its listeners end and its hosts are disconnected. It must have no namespaces any more, so
    /// that values are not forgotten by accident.
    ///
    /// # Errors
    /// If there is none, or it has namespaces.
    pub fn delete_subsystem(&self, nqn: &str) -> Result<(), ControlError> {
        let lost = self.change(|state, engine| {
            let subsystem = state.subsystem(nqn)?.clone();
            if let Some(namespace) = subsystem.namespaces.values().next() {
                return Err(ControlError::Busy(format!(
                    "subsystem {nqn} still has namespace {}: call namespace_delete first",
                    namespace.name
                )));
            }
            state.subsystems.remove(&subsystem.nqn);
            for listener in &subsystem.listeners {
                state.let_go(listener, engine)?;
            }
            subsystem.touch();
            Ok(state.revoke(|session| session.subsystem == subsystem.nqn))
        })?;
        self.disconnect(&lost)
    }

    /// Lets a host connect. With a `uid` it is a process of that user on this machine, where no NQN is carried, and does
    /// not get in over a network, where anybody can give its name; without, it is a host of a network, known by its NQN.
    ///
    /// # Errors
    /// If a name is not valid, there is no such subsystem, or the host or the uid is attached to it already.
    pub fn add_host(&self, nqn: &str, host: &str, uid: Option<u32>) -> Result<(), ControlError> {
        self.change(|state, _| {
            let host = Nqn::parse(host)?;
            let subsystem = state.subsystem_mut(nqn)?;
            if subsystem.hosts.contains_key(&host) {
                return Err(ControlError::Exists(format!("host {host} is attached to {nqn} already")));
            }
            if let Some((uid, other)) = uid.and_then(|uid| Some((uid, subsystem.host_of_uid(uid)?))) {
                return Err(ControlError::Exists(format!("uid {uid} is host {other} of {nqn} already")));
            }
            if subsystem.hosts.len() >= MAX_HOSTS {
                return Err(ControlError::Full(format!("{nqn} has {MAX_HOSTS} hosts already")));
            }
            subsystem.hosts.insert(host, Host { uid });
            subsystem.touch();
            Ok(())
        })
    }

    /// Takes a host's right to connect, also from the namespaces, and disconnects it.
    ///
    /// # Errors
    /// If there is no such subsystem or host.
    pub fn remove_host(&self, nqn: &str, host: &str) -> Result<(), ControlError> {
        let lost = self.change(|state, _| {
            let host = Nqn::parse(host)?;
            let subsystem = state.subsystem_mut(nqn)?;
            if subsystem.hosts.remove(&host).is_none() {
                return Err(ControlError::Missing(format!("host {host} is not attached to {nqn}")));
            }
            for namespace in subsystem.namespaces.values_mut() {
                namespace.hosts.remove(&host);
            }
            subsystem.touch();
            let nqn = subsystem.nqn.clone();
            Ok(state.revoke(|session| session.subsystem == nqn && session.host.as_ref() == Some(&host)))
        })?;
        self.disconnect(&lost)
    }

    /// Lets any host connect, or only attached ones; then others are disconnected.
    ///
    /// # Errors
    /// If there is no such subsystem.
    pub fn allow_any_host(&self, nqn: &str, allow: bool) -> Result<(), ControlError> {
        let lost = self.change(|state, _| {
            let subsystem = state.subsystem_mut(nqn)?;
            subsystem.allow_any_host = allow;
            subsystem.touch();
            if allow {
                subsystem.listeners.iter().for_each(|address| warn_of_access(subsystem, address));
            }
            let nqn = subsystem.nqn.clone();
            Ok(state.revoke(|session| !allow && session.subsystem == nqn && session.host.is_none()))
        })?;
        self.disconnect(&lost)
    }

    /// Makes a namespace and says its identifier in the subsystem. Values that the store holds under its name are in
    /// it.
    ///
    /// # Errors
    /// If something about it is not valid, its name or identifier is taken, its name cannot be told from another's, or
    /// a host is not attached to the subsystem.
    pub fn create_namespace(&self, new: &NewNamespace) -> Result<u32, ControlError> {
        self.change(|state, engine| {
            let index = state.free_index()?;
            let mut namespace = new.check(index, &engine.shape())?;
            state.distinct(&new.name, namespace.ns28)?;
            let subsystem = state.subsystem_mut(&new.nqn)?;
            let nsid = match new.nsid {
                None => subsystem.free_nsid()?,
                Some(nsid) if nsid == 0 || nsid > subsystem.max_namespaces => {
                    return Err(ControlError::Invalid(format!(
                        "nsid {nsid} is out of range: 1 to {} (max_namespaces of {})",
                        subsystem.max_namespaces, subsystem.nqn
                    )));
                }
                Some(nsid) => nsid,
            };
            if let Some(other) = subsystem.namespaces.get(&nsid) {
                return Err(ControlError::Exists(format!("nsid {nsid} of {} is {}", subsystem.nqn, other.name)));
            }
            for host in &new.hosts {
                namespace.hosts.insert(attached(subsystem, host)?);
            }
            subsystem.namespaces.insert(nsid, namespace);
            subsystem.touch();
            Ok(nsid)
        })
    }

    /// Removes a namespace and, with `purge`, forgets its values; else they stay until they are evicted, and a
    /// namespace of the same name has them again. Says how many bytes were freed.
    ///
    /// # Errors
    /// If there is none of that name, or the engine could not forget its values: the namespace is gone all the same.
    pub fn delete_namespace(&self, name: &str, purge: bool) -> Result<u64, ControlError> {
        let number = ns28(name);
        let removed = self.change(|state, _| {
            let found = state.namespaces().find(|(_, _, it)| it.name == name);
            let (nqn, nsid) = found
                .map(|(subsystem, nsid, _)| (subsystem.nqn.to_string(), nsid))
                .ok_or_else(|| ControlError::Missing(format!("there is no namespace {name}")))?;
            let subsystem = state.subsystem_mut(&nqn)?;
            subsystem.namespaces.remove(&nsid);
            subsystem.touch();
            if purge {
                state.purging.insert(number);
            }
            Ok(())
        });
        let freed = match removed {
            Ok(()) if purge => self.engine().and_then(|engine| Ok(engine.purge_namespace(number)?)),
            other => other.map(|()| 0),
        };
        if purge {
            self.lock().purging.remove(&number);
        }
        freed
    }

    /// Removes the namespace of that identifier. Its values stay until they are evicted, and a namespace of the same name
    /// has them again.
    ///
    /// # Errors
    /// If there is no such subsystem or namespace.
    pub fn remove_namespace(&self, nqn: &str, nsid: u32) -> Result<(), ControlError> {
        self.change(|state, _| {
            let subsystem = state.subsystem_mut(nqn)?;
            if subsystem.namespaces.remove(&nsid).is_none() {
                return Err(ControlError::Missing(format!("subsystem {nqn} has no namespace {nsid}")));
            }
            subsystem.touch();
            Ok(())
        })
    }

    /// Lets an attached host see a namespace.
    ///
    /// # Errors
    /// If there is no such subsystem or namespace, or the host is not attached to the subsystem or sees it already.
    pub fn namespace_add_host(&self, nqn: &str, nsid: u32, host: &str) -> Result<(), ControlError> {
        self.change(|state, _| {
            let subsystem = state.subsystem_mut(nqn)?;
            let host = attached(subsystem, host)?;
            if !subsystem.namespace_mut(nsid)?.hosts.insert(host.clone()) {
                return Err(ControlError::Exists(format!("host {host} sees namespace {nsid} of {nqn} already")));
            }
            subsystem.touch();
            Ok(())
        })
    }

    /// Hides a namespace from a host again.
    ///
    /// # Errors
    /// If there is no such subsystem or namespace, or the namespace has no such host.
    pub fn namespace_remove_host(&self, nqn: &str, nsid: u32, host: &str) -> Result<(), ControlError> {
        self.change(|state, _| {
            let host = Nqn::parse(host)?;
            let subsystem = state.subsystem_mut(nqn)?;
            if !subsystem.namespace_mut(nsid)?.hosts.remove(&host) {
                return Err(ControlError::Missing(format!("namespace {nsid} of {nqn} has no host {host}")));
            }
            subsystem.touch();
            Ok(())
        })
    }

    /// Without the lock: the engine may drop a session before it answers.
    pub(super) fn disconnect(&self, sessions: &[SessionId]) -> Result<(), ControlError> {
        let engine = self.engine()?;
        sessions.iter().for_each(|session| engine.close_session(*session));
        Ok(())
    }
}

impl State {
    /// Takes all grants from sessions, and names them.
    pub(super) fn revoke(&mut self, which: impl Fn(&SessionRecord) -> bool) -> Vec<SessionId> {
        let lost = self.sessions.values_mut().filter(|session| which(session));
        lost.map(|session| {
            session.revoked = true;
            SessionId(session.id)
        })
        .collect()
    }

    fn free_index(&self) -> Result<u16, ControlError> {
        let mut taken = vec![false; MAX_NAMESPACES];
        self.namespaces().for_each(|(_, _, namespace)| taken[usize::from(namespace.index)] = true);
        let free = taken.iter().position(|taken| !taken);
        free.map(|index| index as u16)
            .ok_or_else(|| ControlError::Full(format!("there are {MAX_NAMESPACES} namespaces already")))
    }

    /// A namespace's name and number must be its own.
    fn distinct(&self, name: &str, ns28: u32) -> Result<(), ControlError> {
        if self.purging.contains(&ns28) {
            return Err(ControlError::Busy(format!("the values of namespace {name} are being forgotten; try again")));
        }
        match self.namespaces().find(|(_, _, other)| other.ns28 == ns28) {
            None => Ok(()),
            Some((subsystem, nsid, other)) if other.name == name => {
                Err(ControlError::Exists(format!("namespace {name} is nsid {nsid} of {}", subsystem.nqn)))
            }
            Some((_, _, other)) => Err(ControlError::Exists(format!(
                "the store cannot tell {name} from namespace {} (both hash to {ns28:07x}h); choose another name",
                other.name
            ))),
        }
    }
}

fn attached(subsystem: &super::Subsystem, host: &str) -> Result<Nqn, ControlError> {
    let host = Nqn::parse(host)?;
    if subsystem.hosts.contains_key(&host) {
        return Ok(host);
    }
    Err(ControlError::Missing(format!(
        "host {host} is not attached to {}: call nvmf_subsystem_add_host first",
        subsystem.nqn
    )))
}
