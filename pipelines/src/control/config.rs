//! What is configured, as the calls that would configure it.

use dataplane::nvme::spec::fabrics::DISCOVERY_NQN;
use serde_json::{Map, Value, json};

use super::state::{ListenAddress, Namespace, Nqn, Subsystem, TransportRecord};
use super::{Control, ControlError};

/// The parts of the configuration, each with those it depends on, in the order in which they are set up.
const PARTS: &[(&str, &[&str])] = &[("nvmf", &[])];

impl Control {
    /// The parts of the configuration, as `framework_get_subsystems` answers.
    #[must_use]
    pub fn parts() -> Value {
        PARTS.iter().map(|(name, needs)| json!({ "subsystem": name, "depends_on": needs })).collect()
    }

    /// One part, as a list of calls.
    ///
    /// # Errors
    /// If there is no such part.
    pub fn saved_part(&self, name: &str) -> Result<Value, ControlError> {
        match name {
            "nvmf" => Ok(Value::Array(self.nvmf_calls())),
            _ => Err(ControlError::Missing(format!(
                "there is no subsystem {name:?} of the configuration; there are: {}",
                PARTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// All parts, as a configuration file has them.
    #[must_use]
    pub fn saved(&self) -> Value {
        let part = |(name, _): &(&str, _)| {
            let config = self.saved_part(name).unwrap_or_else(|_| Value::Array(Vec::new()));
            json!({ "subsystem": name, "config": config })
        };
        json!({ "subsystems": PARTS.iter().map(part).collect::<Vec<_>>() })
    }

    fn nvmf_calls(&self) -> Vec<Value> {
        let mut calls: Vec<_> = self.transports().iter().map(transport_create).collect();
        calls.extend(self.subsystems().iter().flat_map(calls_of));
        calls.extend(self.own_discovery_listeners().iter().map(|listener| add_listener(DISCOVERY_NQN, listener)));
        calls
    }
}

/// Listeners come last, so that nobody connects to a subsystem that is half set up.
fn calls_of(subsystem: &Subsystem) -> Vec<Value> {
    let nqn = subsystem.nqn.as_str();
    let mut calls = vec![call(
        "nvmf_create_subsystem",
        json!({
            "nqn": nqn,
            "serial_number": subsystem.serial,
            "model_number": subsystem.model,
            "allow_any_host": subsystem.allow_any_host,
            "max_namespaces": subsystem.max_namespaces,
        }),
    )];
    calls.extend(subsystem.hosts.iter().map(|(name, host)| {
        let mut params = Map::from_iter([("nqn".to_owned(), nqn.into()), ("host".to_owned(), name.as_str().into())]);
        if let Some(uid) = host.uid {
            params.insert("uid".to_owned(), uid.into());
        }
        call("nvmf_subsystem_add_host", Value::Object(params))
    }));
    calls.extend(subsystem.namespaces.iter().map(|(nsid, it)| namespace_create(nqn, *nsid, it)));
    calls.extend(subsystem.listeners.iter().map(|listener| add_listener(nqn, listener)));
    calls
}

fn transport_create(record: &TransportRecord) -> Value {
    let params = json!({ "trtype": record.transport.name(), "max_io_size": record.limits.max_io_bytes });
    call("nvmf_create_transport", params)
}

fn add_listener(nqn: &str, listener: &ListenAddress) -> Value {
    call("nvmf_subsystem_add_listener", json!({ "nqn": nqn, "listen_address": address_json(listener) }))
}

/// An address in SPDK's form, as it goes into calls and comes in answers.
pub(crate) fn address_json(address: &ListenAddress) -> Value {
    json!({
        "trtype": address.transport().name(),
        "adrfam": address.adrfam(),
        "traddr": address.traddr(),
        "trsvcid": address.trsvcid(),
    })
}

fn namespace_create(nqn: &str, nsid: u32, namespace: &Namespace) -> Value {
    let mut params = json!({
        "name": namespace.name,
        "nqn": nqn,
        "nsid": nsid,
        "class": namespace.class.name(),
        "max_value_bytes": namespace.max_value_bytes,
        "auto_visible": namespace.auto_visible,
        "hosts": namespace.hosts.iter().map(Nqn::as_str).collect::<Vec<_>>(),
    });
    if let Some(quota) = namespace.quota_bytes {
        params["quota_bytes"] = quota.into();
    }
    call("namespace_create", params)
}

fn call(method: &str, params: Value) -> Value {
    json!({ "method": method, "params": params })
}
