//! Methods about namespaces.

use serde_json::{Value, json};

use super::nvmf::{NQN, TARGET, done};
use crate::control::Context;
use crate::control::rpc::{Action, Arguments, Fault, Kind, Method, Param, Phase};
use crate::control::state::{MAX_HOSTS, MAX_NAMESPACES_OF_SUBSYSTEM, Namespace, NewNamespace, Nqn};
use crate::policy::table::Durability;

const NAME: Param = Param::required("name", Kind::Text(255), "the namespace's name, unique in the store");

const NSIDS: Kind = Kind::Integer { least: 1, most: MAX_NAMESPACES_OF_SUBSYSTEM as u64 };
const TAKEN: (i32, &str) = (-17, "the name or nsid is taken, or the store cannot tell the name from another");
const BEING_FORGOTTEN: (i32, &str) = (-16, "the values of a namespace of that name are being forgotten");

pub const METHODS: &[Method] = &[
    Method {
        name: "namespace_create",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Makes a namespace. Values that the store holds under its name from earlier are in it.",
        params: &[
            NAME,
            Param::required("nqn", Kind::Text(223), "the subsystem that it belongs to"),
            Param::optional("nsid", NSIDS, "its identifier in the subsystem; else the lowest free one"),
            Param::optional("quota_bytes", Kind::Bytes { least: 4096, most: u64::MAX }, "bytes that it may hold"),
            Param::optional(
                "class",
                Kind::Choice(&["cache", "durable"]),
                "cache: a Store is acknowledged once its value is written; durable: once it survives a power cut",
            )
            .or("\"cache\""),
            Param::optional(
                "max_value_bytes",
                Kind::Bytes { least: 1, most: u32::MAX as u64 },
                "the longest value; else as long as the store takes",
            ),
            Param::optional("auto_visible", Kind::Flag, "let every host that may connect see it").or("false"),
            Param::optional("hosts", Kind::Texts(MAX_HOSTS), "NQNs of attached hosts that see it").or("[]"),
        ],
        result: "its nsid",
        errors: &[
            (-19, "there is no such subsystem or attached host"),
            TAKEN,
            BEING_FORGOTTEN,
            (-28, "there are too many"),
        ],
        action: Action::Run(create),
    },
    Method {
        name: "nvmf_subsystem_add_ns",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Makes a namespace as SPDK's clients do: like namespace_create, of the class cache and without a quota, and \
                  seen by every host that may connect.",
        params: &[
            NQN,
            TARGET,
            Param::required(
                "namespace",
                Kind::Group(&[
                    Param::required("bdev_name", Kind::Text(255), "the namespace's name: all share one store"),
                    Param::optional("nsid", NSIDS, "its identifier in the subsystem; else the lowest free one"),
                    Param::optional("no_auto_visible", Kind::Flag, "let only hosts of nvmf_ns_add_host see it")
                        .or("false"),
                ]),
                "the namespace",
            ),
        ],
        result: "its nsid",
        errors: &[(-19, "there is no such subsystem"), TAKEN, BEING_FORGOTTEN, (-28, "there are too many")],
        action: Action::Run(add_ns),
    },
    Method {
        name: "nvmf_subsystem_remove_ns",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Removes a namespace. Its values stay until they are evicted, and a new namespace of its name has them; \
                  namespace_delete forgets them.",
        params: &[NQN, TARGET, Param::required("nsid", NSIDS, "its identifier in the subsystem")],
        result: "true",
        errors: &[(-19, "there is no such subsystem or namespace")],
        action: Action::Run(|context, arguments| {
            let nsid = arguments.number32("nsid")?.unwrap_or(0);
            done(context.control.remove_namespace(arguments.text("nqn")?, nsid))
        }),
    },
    Method {
        name: "namespace_list",
        aliases: &["namespace_get"],
        phase: Phase::Runtime,
        summary: "Shows namespaces and how full they are.",
        params: &[Param::optional("nqn", Kind::Text(223), "only those of this subsystem")],
        result: "list of {name, nqn, nsid, ns28, index, class, quota_bytes, used_bytes, max_value_bytes, auto_visible, \
                 hosts, nguid}",
        errors: &[(-19, "there is no such subsystem")],
        action: Action::Run(list),
    },
    Method {
        name: "namespace_delete",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Removes a namespace and forgets its values.",
        params: &[
            NAME,
            Param::optional(
                "purge",
                Kind::Flag,
                "forget its values; else they stay until they are evicted, and a new namespace of that name has them",
            )
            .or("true"),
        ],
        result: "{freed_bytes}",
        errors: &[(-19, "there is no such namespace")],
        action: Action::Run(|context, arguments| {
            let freed = context.control.delete_namespace(arguments.text("name")?, arguments.flag("purge"))?;
            Ok(json!({ "freed_bytes": freed }))
        }),
    },
];

fn create(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let class = match arguments.text("class")? {
        "durable" => Durability::Durable,
        _ => Durability::Cache,
    };
    let nsid = context.control.create_namespace(&NewNamespace {
        name: arguments.text("name")?.to_owned(),
        nqn: arguments.text("nqn")?.to_owned(),
        nsid: arguments.number32("nsid")?,
        class,
        quota_bytes: arguments.number("quota_bytes"),
        max_value_bytes: arguments.number32("max_value_bytes")?,
        auto_visible: arguments.flag("auto_visible"),
        hosts: arguments.texts("hosts"),
    })?;
    Ok(nsid.into())
}

fn add_ns(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let namespace = arguments.group("namespace");
    let nsid = context.control.create_namespace(&NewNamespace {
        name: namespace.text("bdev_name")?.to_owned(),
        nqn: arguments.text("nqn")?.to_owned(),
        nsid: namespace.number32("nsid")?,
        auto_visible: !namespace.flag("no_auto_visible"),
        ..NewNamespace::default()
    })?;
    Ok(nsid.into())
}

fn list(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let subsystems = match arguments.optional_text("nqn") {
        Some(nqn) => vec![context.control.subsystem(nqn)?],
        None => context.control.subsystems(),
    };
    let engine = context.control.engine()?;
    let shown = |nqn: &Nqn, nsid: u32, namespace: &Namespace| {
        json!({
            "name": namespace.name,
            "nqn": nqn.as_str(),
            "nsid": nsid,
            "ns28": namespace.ns28,
            "index": namespace.index,
            "class": namespace.class.name(),
            "quota_bytes": namespace.quota_bytes,
            "used_bytes": engine.namespace_used(namespace.ns28),
            "max_value_bytes": namespace.max_value_bytes,
            "auto_visible": namespace.auto_visible,
            "hosts": namespace.hosts.iter().map(Nqn::as_str).collect::<Vec<_>>(),
            "nguid": hex(&namespace.nguid()),
        })
    };
    let all = subsystems.iter().flat_map(|it| it.namespaces.iter().map(|(nsid, ns)| shown(&it.nqn, *nsid, ns)));
    Ok(all.collect())
}

/// Bytes in hexadecimal, as SPDK shows an NGUID.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
