//! Methods about subsystems and hosts: SPDK's names and forms.

use dataplane::nvme::spec::fabrics::DISCOVERY_NQN;
use serde_json::{Value, json};

use crate::control::config::address_json;
use crate::control::rpc::{Action, Arguments, Fault, Kind, Method, Param, Phase};
use crate::control::state::{MAX_NAMESPACES_OF_SUBSYSTEM, NewSubsystem, Subsystem};
use crate::control::{Context, ControlError};

const MOST_UID: u64 = u32::MAX as u64 - 1;
pub(super) const NQN: Param = Param::required("nqn", Kind::Text(223), "the subsystem's NQN");
const HOST: Param = Param::required("host", Kind::Text(223), "the host's NQN");
pub(super) const TARGET: Param =
    Param::optional("tgt_name", Kind::Text(255), "accepted for SPDK's clients: there is one target");
pub(super) const NO_SUBSYSTEM: (i32, &str) = (-19, "there is no such subsystem");
pub(super) const NSID: Param = Param::required(
    "nsid",
    Kind::Integer { least: 1, most: MAX_NAMESPACES_OF_SUBSYSTEM as u64 },
    "the namespace's identifier in the subsystem",
);

pub const METHODS: &[Method] = &[
    Method {
        name: "nvmf_create_subsystem",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Makes a subsystem that listens nowhere and to which no host is attached.",
        params: &[
            NQN,
            TARGET,
            Param::optional("serial_number", Kind::Text(20), "serial number of its controllers"),
            Param::optional("model_number", Kind::Text(40), "model number of its controllers"),
            Param::optional("allow_any_host", Kind::Flag, "let hosts connect that are not attached").or("false"),
            Param::optional(
                "max_namespaces",
                Kind::Integer { least: 0, most: MAX_NAMESPACES_OF_SUBSYSTEM as u64 },
                "the highest nsid; 0 for the default",
            )
            .or("32"),
            Param::optional("ana_reporting", Kind::AlwaysFalse, "accepted for SPDK's clients"),
            Param::optional("passthrough", Kind::AlwaysFalse, "accepted for SPDK's clients"),
            Param::optional("enable_nssr", Kind::AlwaysFalse, "accepted for SPDK's clients"),
        ],
        result: "true",
        errors: &[(-17, "there is one of that name"), (-28, "there are too many")],
        action: Action::Run(create_subsystem),
    },
    Method {
        name: "nvmf_delete_subsystem",
        aliases: &["delete_nvmf_subsystem"],
        phase: Phase::Runtime,
        summary: "Removes a subsystem, ends its listeners and disconnects its hosts.",
        params: &[NQN, TARGET],
        result: "true",
        errors: &[NO_SUBSYSTEM, (-16, "it still has namespaces")],
        action: Action::Run(|context, arguments| done(context.control.delete_subsystem(arguments.text("nqn")?))),
    },
    Method {
        name: "nvmf_get_subsystems",
        aliases: &["get_nvmf_subsystems"],
        phase: Phase::Runtime,
        summary: "Shows all subsystems, the discovery subsystem first, or one.",
        params: &[Param::optional("nqn", Kind::Text(223), "only this one"), TARGET],
        result: "list of {nqn, subtype, listen_addresses, allow_any_host, hosts: [{nqn, uid}], serial_number, \
                 model_number, max_namespaces, min_cntlid, max_cntlid, namespaces: [{nsid, bdev_name, name, nguid, uuid}]}; \
                 the discovery subsystem has only the first five",
        errors: &[NO_SUBSYSTEM],
        action: Action::Run(get_subsystems),
    },
    Method {
        name: "nvmf_subsystem_add_host",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Attaches a host: it may connect. A process on this machine, which has no NQN, is known by its uid; a host \
                  of a network by its NQN, which it only needs to say (there is no DH-HMAC-CHAP and no TLS). A host with a \
                  uid does not get in over TCP and RDMA. A host of a network may have 64 controllers at once.",
        params: &[
            NQN,
            HOST,
            TARGET,
            Param::optional(
                "uid",
                Kind::Integer { least: 0, most: MOST_UID },
                "user id under which the host's process runs; VFIOUSER needs it, and TCP and RDMA must not have it",
            ),
        ],
        result: "true",
        errors: &[NO_SUBSYSTEM, (-17, "the host or the uid is attached already")],
        action: Action::Run(|context, arguments| {
            let uid = arguments.number32("uid")?;
            done(context.control.add_host(arguments.text("nqn")?, arguments.text("host")?, uid))
        }),
    },
    Method {
        name: "nvmf_subsystem_remove_host",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Detaches a host from a subsystem and its namespaces, and disconnects it.",
        params: &[
            NQN,
            HOST,
            TARGET,
            Param::optional(
                "timeout_ms",
                Kind::Integer { least: 0, most: u32::MAX as u64 },
                "accepted for SPDK's clients: commands on their way are completed",
            ),
        ],
        result: "true",
        errors: &[(-19, "there is no such subsystem or host")],
        action: Action::Run(|context, arguments| {
            done(context.control.remove_host(arguments.text("nqn")?, arguments.text("host")?))
        }),
    },
    Method {
        name: "nvmf_subsystem_allow_any_host",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Lets any host connect, or only attached ones. A host that is not attached sees namespaces made with \
                  auto_visible only. Over TCP and RDMA that is everybody who can reach the listener.",
        params: &[NQN, TARGET, Param::required("allow_any_host", Kind::Flag, "whether any host may connect")],
        result: "true",
        errors: &[NO_SUBSYSTEM],
        action: Action::Run(|context, arguments| {
            done(context.control.allow_any_host(arguments.text("nqn")?, arguments.flag("allow_any_host")))
        }),
    },
    Method {
        name: "nvmf_ns_add_host",
        aliases: &["nvmf_ns_visible"],
        phase: Phase::Runtime,
        summary: "Lets an attached host see a namespace.",
        params: &[NQN, NSID, HOST, TARGET],
        result: "true",
        errors: &[(-19, "there is no such subsystem, namespace or attached host"), (-17, "it sees it already")],
        action: Action::Run(|context, arguments| {
            let (nqn, host) = (arguments.text("nqn")?, arguments.text("host")?);
            done(context.control.namespace_add_host(nqn, arguments.number32("nsid")?.unwrap_or(0), host))
        }),
    },
    Method {
        name: "nvmf_ns_remove_host",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Hides a namespace from a host.",
        params: &[NQN, NSID, HOST, TARGET],
        result: "true",
        errors: &[(-19, "there is no such subsystem or namespace, or the namespace has no such host")],
        action: Action::Run(|context, arguments| {
            let (nqn, host) = (arguments.text("nqn")?, arguments.text("host")?);
            done(context.control.namespace_remove_host(nqn, arguments.number32("nsid")?.unwrap_or(0), host))
        }),
    },
];

pub(super) fn done(outcome: Result<(), ControlError>) -> Result<Value, Fault> {
    Ok(outcome.map(|()| Value::Bool(true))?)
}

fn create_subsystem(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let text = |name| arguments.optional_text(name).map(str::to_owned);
    done(context.control.create_subsystem(NewSubsystem {
        nqn: arguments.text("nqn")?.to_owned(),
        serial: text("serial_number"),
        model: text("model_number"),
        allow_any_host: arguments.flag("allow_any_host"),
        max_namespaces: arguments.number32("max_namespaces")?,
    }))
}

fn get_subsystems(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let discovery = || {
        json!({
            "nqn": DISCOVERY_NQN,
            "subtype": "Discovery",
            "listen_addresses": context.control.discovery_listeners().iter().map(address_json).collect::<Vec<_>>(),
            "allow_any_host": true,
            "hosts": [],
        })
    };
    match arguments.optional_text("nqn") {
        Some(DISCOVERY_NQN) => Ok(json!([discovery()])),
        Some(nqn) => Ok(json!([subsystem_json(&context.control.subsystem(nqn)?)])),
        None => {
            Ok(std::iter::once(discovery()).chain(context.control.subsystems().iter().map(subsystem_json)).collect())
        }
    }
}

fn subsystem_json(subsystem: &Subsystem) -> Value {
    let hosts = subsystem.hosts.iter().map(|(nqn, host)| match host.uid {
        Some(uid) => json!({ "nqn": nqn.as_str(), "uid": uid }),
        None => json!({ "nqn": nqn.as_str() }),
    });
    let namespaces = subsystem.namespaces.iter().map(|(nsid, namespace)| {
        let nguid = super::namespaces::hex(&namespace.nguid());
        let uuid = [&nguid[..8], &nguid[8..12], &nguid[12..16], &nguid[16..20], &nguid[20..]].join("-").to_lowercase();
        json!({ "nsid": nsid, "bdev_name": namespace.name, "name": namespace.name, "nguid": nguid, "uuid": uuid })
    });
    json!({
        "nqn": subsystem.nqn.as_str(),
        "subtype": "NVMe",
        "listen_addresses": subsystem.listeners.iter().map(address_json).collect::<Vec<_>>(),
        "allow_any_host": subsystem.allow_any_host,
        "hosts": hosts.collect::<Vec<_>>(),
        "serial_number": subsystem.serial,
        "model_number": subsystem.model,
        "max_namespaces": subsystem.max_namespaces,
        "min_cntlid": 1,
        "max_cntlid": crate::policy::table::MAX_SESSIONS,
        "namespaces": namespaces.collect::<Vec<_>>(),
    })
}
