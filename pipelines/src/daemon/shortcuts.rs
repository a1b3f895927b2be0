//! `--listen`, `--namespace`, `--host` and `--allow-any-host`: a subsystem for the starting user, and for hosts of a
//! network, without a configuration file.

use std::str::FromStr;

use serde_json::{Value, json};

use super::size::parse_size;
use crate::control::config::address_json;
use crate::control::state::{ListenAddress, Nqn};

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
        let address = match text.split_at_checked("vfio-user:".len()) {
            // A relative folder is meant from where the daemon is started.
            Some((scheme, folder)) if scheme.eq_ignore_ascii_case("vfio-user:") => {
                let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
                ListenAddress::vfio_user(&folder.to_string_lossy())
            }
            _ => text.parse(),
        };
        address.map(Self).map_err(|error| error.to_string())
    }
}

/// A host of `--host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOption(Nqn);

impl FromStr for HostOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Nqn::parse(text).map(Self).map_err(|error| error.to_string())
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

/// What the shortcuts say of the default subsystem.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shortcuts<'a> {
    /// Where it is reached.
    pub(super) listen: &'a [ListenOption],
    /// Its namespaces.
    pub(super) namespaces: &'a [NamespaceOption],
    /// The hosts of networks that are attached to it.
    pub(super) hosts: &'a [HostOption],
    /// Whether all others may connect, too.
    pub(super) allow_any_host: bool,
}

impl Shortcuts<'_> {
    /// The calls that make the default subsystem, to which the user `uid` is attached. None if it is not listened for.
    pub(super) fn calls(self, uid: u32) -> Vec<(&'static str, Value)> {
        if self.listen.is_empty() {
            return Vec::new();
        }
        let user = format!("nqn.2026-01.io.kvplane:uid-{uid}");
        let mut calls = vec![
            ("nvmf_create_subsystem", json!({ "nqn": DEFAULT_NQN, "allow_any_host": self.allow_any_host })),
            ("nvmf_subsystem_add_host", json!({ "nqn": DEFAULT_NQN, "host": user, "uid": uid })),
        ];
        let names: Vec<&str> = self.hosts.iter().map(|HostOption(nqn)| nqn.as_str()).collect();
        calls.extend(names.iter().map(|name| ("nvmf_subsystem_add_host", json!({ "nqn": DEFAULT_NQN, "host": name }))));
        let seeing: Vec<&str> = std::iter::once(user.as_str()).chain(names).collect();
        let default = NamespaceOption { name: DEFAULT_NAMESPACE.into(), quota: None, class: None, max_value: None };
        let default = if self.namespaces.is_empty() { std::slice::from_ref(&default) } else { self.namespaces };
        calls.extend(default.iter().map(|it| {
            // Null is as good as absent.
            let params = json!({
                "nqn": DEFAULT_NQN,
                "name": it.name,
                "hosts": seeing,
                "auto_visible": self.allow_any_host,
                "quota_bytes": it.quota,
                "class": it.class,
                "max_value_bytes": it.max_value,
            });
            ("namespace_create", params)
        }));
        calls.extend(self.listen.iter().map(|ListenOption(address)| {
            let params = json!({ "nqn": DEFAULT_NQN, "listen_address": address_json(address) });
            ("nvmf_subsystem_add_listener", params)
        }));
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortcuts_are_read() {
        let here = std::env::current_dir().unwrap();
        for (text, shown) in [
            ("vfio-user:/run/kv", "vfio-user:/run/kv".to_owned()),
            ("Vfio-User:kv", format!("vfio-user:{}/kv", here.display())),
            ("tcp://127.0.0.1", "tcp://127.0.0.1:4420".to_owned()),
            ("rdma://[::]:4421", "rdma://[::]:4421".to_owned()),
        ] {
            assert_eq!(text.parse::<ListenOption>().unwrap().0.to_string(), shown);
        }
        for text in ["/run/kv", "tcp:127.0.0.1", "tcp://kv.example", "vfio-user"] {
            assert!(text.parse::<ListenOption>().is_err(), "{text}");
        }
        assert!("host-a".parse::<HostOption>().unwrap_err().contains("invalid NQN"));
        let namespace: NamespaceOption = "llama,quota=1G,class=durable,max-value=4M".parse().unwrap();
        assert_eq!((namespace.quota, namespace.max_value), (Some(1 << 30), Some(4 << 20)));
        for text in ["", "a,quota=x", "a,class=gold", "a,x=1", "a,x"] {
            assert!(text.parse::<NamespaceOption>().is_err(), "{text}");
        }
        assert!(Shortcuts { allow_any_host: true, ..Shortcuts::default() }.calls(0).is_empty());
    }
}
