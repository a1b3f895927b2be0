//! Methods about subsystems, listeners, hosts and controllers: SPDK's names and forms.

use serde_json::{Value, json};

use crate::control::report::QueuePairReport;
use crate::control::rpc::{Action, Arguments, Fault, Kind, Method, Param, Phase};
use crate::control::state::{ListenAddress, MAX_NAMESPACES_OF_SUBSYSTEM, NewSubsystem, SessionRecord, Subsystem};
use crate::control::{Context, ControlError};

const MOST_UID: u64 = u32::MAX as u64 - 1;
const NQN: Param = Param::required("nqn", Kind::Text(223), "the subsystem's NQN");
const HOST: Param = Param::required("host", Kind::Text(223), "the host's NQN");
const TARGET: Param = Param::optional("tgt_name", Kind::Text(255), "accepted for SPDK's clients: there is one target");
const NO_SUBSYSTEM: (i32, &str) = (-19, "there is no such subsystem");
const ADDRESS: Param = Param::required(
    "listen_address",
    Kind::Group(&[
        Param::required("trtype", Kind::Text(32), "VFIOUSER"),
        Param::required("traddr", Kind::Text(256), "for VFIOUSER the absolute path of a folder that exists"),
        Param::optional("trsvcid", Kind::Text(32), "not used by VFIOUSER"),
        Param::optional("adrfam", Kind::Text(32), "not used by VFIOUSER"),
    ]),
    "where to listen",
);
const NSID: Param = Param::required(
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
        summary: "Shows all subsystems, or one.",
        params: &[Param::optional("nqn", Kind::Text(223), "only this one"), TARGET],
        result: "list of {nqn, subtype, listen_addresses, allow_any_host, hosts: [{nqn, uid}], serial_number, \
                 model_number, max_namespaces, min_cntlid, max_cntlid, namespaces: [{nsid, name, nguid, uuid}]}",
        errors: &[NO_SUBSYSTEM],
        action: Action::Run(get_subsystems),
    },
    Method {
        name: "nvmf_subsystem_add_listener",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Lets a subsystem be reached at an address.",
        params: &[
            NQN,
            TARGET,
            ADDRESS,
            Param::optional("secure_channel", Kind::AlwaysFalse, "accepted for SPDK's clients"),
        ],
        result: "true",
        errors: &[NO_SUBSYSTEM, (-17, "the address is taken"), (-95, "the transport is not there")],
        action: Action::Run(|context, arguments| {
            done(context.control.add_listener(arguments.text("nqn")?, &address(arguments)?))
        }),
    },
    Method {
        name: "nvmf_subsystem_remove_listener",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Ends a listener; hosts that came in by it stay connected.",
        params: &[NQN, TARGET, ADDRESS],
        result: "true",
        errors: &[(-19, "there is no such subsystem or listener")],
        action: Action::Run(|context, arguments| {
            done(context.control.remove_listener(arguments.text("nqn")?, &address(arguments)?))
        }),
    },
    Method {
        name: "nvmf_subsystem_get_listeners",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows where a subsystem can be reached.",
        params: &[NQN, TARGET],
        result: "list of {address: {trtype, adrfam, traddr, trsvcid}}",
        errors: &[NO_SUBSYSTEM],
        action: Action::Run(|context, arguments| {
            let subsystem = context.control.subsystem(arguments.text("nqn")?)?;
            Ok(subsystem.listeners.iter().map(|it| json!({ "address": address_json(it) })).collect())
        }),
    },
    Method {
        name: "nvmf_subsystem_add_host",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Attaches a host: it may connect. A process on this machine, which has no NQN, is known by its uid.",
        params: &[
            NQN,
            HOST,
            TARGET,
            Param::optional(
                "uid",
                Kind::Integer { least: 0, most: MOST_UID },
                "user id under which the host's process runs; VFIOUSER needs it",
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
                  auto_visible only.",
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
    Method {
        name: "nvmf_subsystem_get_controllers",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the controllers of a subsystem, one for each connected host.",
        params: &[NQN, TARGET],
        result: "list of {cntlid, hostnqn, num_io_qpairs, session, uid, pid, listen_address}",
        errors: &[NO_SUBSYSTEM],
        action: Action::Run(get_controllers),
    },
    Method {
        name: "nvmf_subsystem_get_qpairs",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the queue pairs of a subsystem's controllers.",
        params: &[NQN, TARGET],
        result: "list of {cntlid, qid, state, thread, core, entries, outstanding, hostnqn, listen_address}",
        errors: &[NO_SUBSYSTEM],
        action: Action::Run(get_qpairs),
    },
];

fn done(outcome: Result<(), ControlError>) -> Result<Value, Fault> {
    Ok(outcome.map(|()| Value::Bool(true))?)
}

fn address(arguments: &Arguments) -> Result<ListenAddress, Fault> {
    let given = arguments.group("listen_address");
    Ok(ListenAddress::parse(given.text("trtype")?, given.text("traddr")?)?)
}

fn address_json(address: &ListenAddress) -> Value {
    json!({ "trtype": address.transport.name(), "adrfam": "IPv4", "traddr": address.traddr, "trsvcid": "0" })
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
    let subsystems = match arguments.optional_text("nqn") {
        Some(nqn) => vec![context.control.subsystem(nqn)?],
        None => context.control.subsystems(),
    };
    Ok(subsystems.iter().map(subsystem_json).collect())
}

fn subsystem_json(subsystem: &Subsystem) -> Value {
    let hosts = subsystem.hosts.iter().map(|(nqn, host)| match host.uid {
        Some(uid) => json!({ "nqn": nqn.as_str(), "uid": uid }),
        None => json!({ "nqn": nqn.as_str() }),
    });
    let namespaces = subsystem.namespaces.iter().map(|(nsid, namespace)| {
        let nguid = super::namespaces::hex(&namespace.nguid());
        let uuid = [&nguid[..8], &nguid[8..12], &nguid[12..16], &nguid[16..20], &nguid[20..]].join("-").to_lowercase();
        json!({ "nsid": nsid, "name": namespace.name, "nguid": nguid, "uuid": uuid })
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

/// The sessions of a subsystem.
fn sessions_of(context: &Context, arguments: &Arguments) -> Result<Vec<SessionRecord>, Fault> {
    let subsystem = context.control.subsystem(arguments.text("nqn")?)?;
    Ok(context.control.sessions().into_iter().filter(|session| session.subsystem == subsystem.nqn).collect())
}

fn host_name(session: &SessionRecord) -> &str {
    session.host.as_ref().map_or("", |host| host.as_str())
}

fn get_controllers(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let sessions = sessions_of(context, arguments)?;
    let queue_pairs = context.control.engine()?.queue_pairs();
    let controller = |session: &SessionRecord| {
        let own = queue_pairs.iter().filter(|pair| pair.session == session.id && pair.qid != 0);
        json!({
            "cntlid": session.controller_id(),
            "hostnqn": host_name(session),
            "num_io_qpairs": own.count(),
            "session": session.id,
            "uid": session.uid,
            "pid": session.pid,
            "listen_address": address_json(&session.listener),
        })
    };
    Ok(sessions.iter().map(controller).collect())
}

fn get_qpairs(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let sessions = sessions_of(context, arguments)?;
    let queue_pairs = context.control.engine()?.queue_pairs();
    let shown = |pair: &QueuePairReport| {
        let session = sessions.iter().find(|session| session.id == pair.session)?;
        Some(json!({
            "cntlid": session.controller_id(),
            "qid": pair.qid,
            "state": pair.state,
            "thread": format!("core_{}", pair.core),
            "core": pair.core,
            "entries": pair.entries,
            "outstanding": pair.outstanding,
            "hostnqn": host_name(session),
            "listen_address": address_json(&session.listener),
        }))
    };
    Ok(queue_pairs.iter().filter_map(shown).collect())
}
