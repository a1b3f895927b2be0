//! `--listen` and `--namespace`: a subsystem for the starting user without a configuration file.

use std::str::FromStr;

use serde_json::{Value, json};

use super::size::parse_size;
use crate::control::state::ListenAddress;

/// The subsystem that the shortcuts make.
pub const DEFAULT_NQN: &str = "nqn.2026-01.io.kvplane:tier";
/// The namespace that it has if none is asked for.
const DEFAULT_NAMESPACE: &str = "default";

/// An address of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOption(pub ListenAddress);

impl FromStr for ListenOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (transport, address) = text.split_once(':').ok_or("expected vfio-user:DIR")?;
        let address = match transport.eq_ignore_ascii_case("vfio-user") {
            // A relative folder is meant from where the daemon is started.
            true => std::path::absolute(address).map_err(|error| error.to_string())?.to_string_lossy().into_owned(),
            false => address.to_owned(),
        };
        ListenAddress::parse(transport, &address).map(Self).map_err(|error| error.to_string())
    }
}

/// A namespace of `--namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceOption {
    name: String,
    quota: Option<u64>,
    class: Option<String>,
    max_value: Option<u64>,
}

impl FromStr for NamespaceOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let name = parts.next().filter(|name| !name.is_empty()).ok_or("the name is missing")?.to_owned();
        let mut option = Self { name, quota: None, class: None, max_value: None };
        for part in parts {
            let (name, value) =
                part.split_once('=').ok_or_else(|| format!("expected name=value instead of {part:?}"))?;
            match (name, value) {
                ("quota", _) => option.quota = Some(parse_size(value)?),
                ("max-value", _) => option.max_value = Some(parse_size(value)?),
                ("class", "cache" | "durable") => option.class = Some(value.to_owned()),
                ("class", _) => return Err(format!("class must be cache or durable, not {value:?}")),
                _ => return Err(format!("unknown setting {name:?}; there are quota, class and max-value")),
            }
        }
        Ok(option)
    }
}

/// The calls that make the default subsystem, to which the user `uid` is attached. None if it is not listened for.
pub(super) fn calls(listen: &[ListenOption], namespaces: &[NamespaceOption], uid: u32) -> Vec<(&'static str, Value)> {
    if listen.is_empty() {
        return Vec::new();
    }
    let host = format!("nqn.2026-01.io.kvplane:uid-{uid}");
    let mut calls = vec![
        ("nvmf_create_subsystem", json!({ "nqn": DEFAULT_NQN })),
        ("nvmf_subsystem_add_host", json!({ "nqn": DEFAULT_NQN, "host": host, "uid": uid })),
    ];
    let default = NamespaceOption { name: DEFAULT_NAMESPACE.into(), quota: None, class: None, max_value: None };
    let default = if namespaces.is_empty() { std::slice::from_ref(&default) } else { namespaces };
    calls.extend(default.iter().map(|it| {
        // Null is as good as absent.
        let params = json!({
            "nqn": DEFAULT_NQN,
            "name": it.name,
            "hosts": [host],
            "quota_bytes": it.quota,
            "class": it.class,
            "max_value_bytes": it.max_value,
        });
        ("namespace_create", params)
    }));
    calls.extend(listen.iter().map(|ListenOption(address)| {
        let address = json!({ "trtype": address.transport.name(), "traddr": address.traddr });
        ("nvmf_subsystem_add_listener", json!({ "nqn": DEFAULT_NQN, "listen_address": address }))
    }));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortcuts_are_read() {
        let listen: ListenOption = "vfio-user:/run/kv".parse().unwrap();
        assert_eq!(listen.0.traddr, "/run/kv");
        assert!("tcp:127.0.0.1".parse::<ListenOption>().unwrap_err().contains("no TCP listener"));
        assert!("/run/kv".parse::<ListenOption>().is_err());
        let namespace: NamespaceOption = "llama,quota=1G,class=durable,max-value=4M".parse().unwrap();
        assert_eq!((namespace.quota, namespace.max_value), (Some(1 << 30), Some(4 << 20)));
        for text in ["", "a,quota=x", "a,class=gold", "a,x=1", "a,x"] {
            assert!(text.parse::<NamespaceOption>().is_err(), "{text}");
        }
        assert!(calls(&[], &[], 0).is_empty());
    }
}
