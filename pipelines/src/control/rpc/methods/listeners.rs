//! Methods about where hosts come in, carriers and listeners: SPDK's names and forms.

use dataplane::nvme::spec::fabrics::DISCOVERY_NQN;
use serde_json::{Value, json};

use super::nvmf::{NO_SUBSYSTEM, NQN, TARGET, done};
use crate::control::Context;
use crate::control::config::address_json;
use crate::control::rpc::{Action, Arguments, Fault, Kind, Method, Param, Phase};
use crate::control::state::{ListenAddress, Transport, TransportRecord};

const TRTYPE: Kind = Kind::Text(32);
const COUNT: Kind = Kind::Integer { least: 0, most: u32::MAX as u64 };
const NOT_BUILT: (i32, &str) = (-93, "this build or this machine does not have the transport");
const SUBSYSTEM: Param =
    Param::required("nqn", Kind::Text(223), "the subsystem's NQN, or \"discovery\" for the discovery subsystem");
const ADDRESS: Param = Param::required(
    "listen_address",
    Kind::Group(&[
        Param::required("trtype", TRTYPE, "VFIOUSER, TCP or RDMA"),
        Param::required(
            "traddr",
            Kind::Text(256),
            "for TCP and RDMA an IP address of this machine, or 0.0.0.0 or :: for all of them; for VFIOUSER the absolute \
             path of a folder that exists",
        ),
        Param::optional("trsvcid", Kind::Text(32), "port, for TCP and RDMA; 4420 if it is not given"),
        Param::optional("adrfam", Kind::Text(32), "IPv4 or IPv6, for TCP and RDMA; what traddr is if it is not given"),
    ]),
    "where to listen",
);

/// A setting of SPDK's that is fixed here.
const fn fixed(name: &'static str) -> Param {
    Param::optional(name, COUNT, "accepted for SPDK's clients: it is fixed, nvmf_get_transports shows it")
}

/// A setting of SPDK's that has no equal here.
const fn ignored(name: &'static str, kind: Kind) -> Param {
    Param::optional(name, kind, "accepted for SPDK's clients, without effect: there is nothing like it to set")
}

pub const METHODS: &[Method] = &[
    Method {
        name: "nvmf_create_transport",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Makes a transport ready for listeners. Only needed for a lower max_io_size: else the first listener of the \
                  transport does it.",
        params: &[
            Param::required("trtype", TRTYPE, "VFIOUSER, TCP or RDMA"),
            TARGET,
            Param::optional(
                "max_io_size",
                COUNT,
                "the most bytes that one command may move, a power of two from 4096; else as many as the transport can. Longer values can be \
                 neither stored nor fetched over this transport",
            ),
            fixed("max_queue_depth"),
            fixed("max_io_qpairs_per_ctrlr"),
            fixed("in_capsule_data_size"),
            fixed("max_aq_depth"),
            Param::optional("dif_insert_or_strip", Kind::AlwaysFalse, "accepted for SPDK's clients"),
            ignored("io_unit_size", COUNT),
            ignored("num_shared_buffers", COUNT),
            ignored("buf_cache_size", COUNT),
            ignored("iobuf_small_cache_size", COUNT),
            ignored("iobuf_large_cache_size", COUNT),
            ignored("zcopy", Kind::Flag),
            ignored("num_cqe", COUNT),
            ignored("max_srq_depth", COUNT),
            ignored("no_srq", Kind::Flag),
            ignored("c2h_success", Kind::Flag),
            ignored("sock_priority", COUNT),
            ignored("acceptor_backlog", COUNT),
            ignored("acceptor_poll_rate", COUNT),
            ignored("abort_timeout_sec", COUNT),
            ignored("no_wr_batching", Kind::Flag),
            ignored("control_msg_num", COUNT),
            ignored("disable_mappable_bar0", Kind::Flag),
            ignored("disable_adaptive_irq", Kind::Flag),
            ignored("disable_shadow_doorbells", Kind::Flag),
            ignored("ack_timeout", COUNT),
            ignored("data_wr_pool_size", COUNT),
            ignored("disable_command_passthru", Kind::Flag),
            ignored("kas", COUNT),
            ignored("min_kato", COUNT),
        ],
        result: "true",
        errors: &[(-17, "it is ready already"), NOT_BUILT],
        action: Action::Run(create_transport),
    },
    Method {
        name: "nvmf_get_transports",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the transports that are ready for listeners, and what they offer.",
        params: &[Param::optional("trtype", TRTYPE, "only this one"), TARGET],
        result: "list of {trtype, max_queue_depth, max_io_qpairs_per_ctrlr, in_capsule_data_size, max_io_size, \
                 max_aq_depth}",
        errors: &[(-19, "the transport is not ready")],
        action: Action::Run(get_transports),
    },
    Method {
        name: "nvmf_subsystem_add_listener",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Lets a subsystem be reached at an address, which subsystems can share on TCP and RDMA. The discovery \
                  subsystem is reached at each of those addresses by itself. Over TCP and RDMA a host is let in by the NQN \
                  that it gives, which proves nothing (there is no DH-HMAC-CHAP and no TLS), and data goes in the clear: \
                  listen on networks that only such hosts can reach.",
        params: &[
            SUBSYSTEM,
            TARGET,
            ADDRESS,
            Param::optional("secure_channel", Kind::AlwaysFalse, "accepted for SPDK's clients"),
        ],
        result: "true",
        errors: &[
            NO_SUBSYSTEM,
            (-17, "the subsystem listens there already, the folder is another's, or the address overlaps with another"),
            (-98, "another process listens there"),
            (-99, "it is no address of this machine"),
            NOT_BUILT,
        ],
        action: Action::Run(|context, arguments| {
            done(context.control.add_listener(subsystem(arguments)?, &address(arguments)?))
        }),
    },
    Method {
        name: "nvmf_subsystem_remove_listener",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Ends a listener of a subsystem, and disconnects the subsystem's hosts that came in by it.",
        params: &[SUBSYSTEM, TARGET, ADDRESS],
        result: "true",
        errors: &[(-19, "there is no such subsystem or listener")],
        action: Action::Run(|context, arguments| {
            done(context.control.remove_listener(subsystem(arguments)?, &address(arguments)?))
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
        action: Action::Run(get_listeners),
    },
];

/// The subsystem of a listener, by its name or by SPDK's short one.
fn subsystem(arguments: &Arguments) -> Result<&str, Fault> {
    let nqn = arguments.text("nqn")?;
    Ok(if nqn == "discovery" { DISCOVERY_NQN } else { nqn })
}

fn address(arguments: &Arguments) -> Result<ListenAddress, Fault> {
    let given = arguments.group("listen_address");
    let (adrfam, trsvcid) = (given.optional_text("adrfam"), given.optional_text("trsvcid"));
    Ok(ListenAddress::parse(given.text("trtype")?, adrfam, given.text("traddr")?, trsvcid)?)
}

fn get_listeners(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let listeners = match subsystem(arguments)? {
        DISCOVERY_NQN => context.control.discovery_listeners(),
        nqn => context.control.subsystem(nqn)?.listeners,
    };
    Ok(listeners.iter().map(|it| json!({ "address": address_json(it) })).collect())
}

fn create_transport(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let transport = Transport::parse(arguments.text("trtype")?)?;
    context.control.create_transport(transport, arguments.number32("max_io_size")?)?;
    let records = context.control.transports();
    if let Some(record) = records.iter().find(|record| record.transport == transport) {
        let shown = transport_json(record);
        for name in ["max_queue_depth", "max_io_qpairs_per_ctrlr", "in_capsule_data_size", "max_aq_depth"] {
            if let Some(asked) = arguments.number(name).filter(|asked| shown[name].as_u64() != Some(*asked)) {
                tracing::info!(
                    "{name} of {} stays {}, which is fixed, though {asked} was asked for",
                    transport.name(),
                    shown[name]
                );
            }
        }
    }
    Ok(Value::Bool(true))
}

fn get_transports(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let wanted = arguments.optional_text("trtype").map(Transport::parse).transpose()?;
    let records = context.control.transports();
    let shown: Vec<_> = records.iter().filter(|it| wanted.is_none_or(|wanted| wanted == it.transport)).collect();
    if let Some(wanted) = wanted.filter(|_| shown.is_empty()) {
        let message =
            format!("No such device: there is no transport {} yet: call nvmf_create_transport", wanted.name());
        return Err(Fault::new(-libc::ENODEV, message));
    }
    Ok(shown.into_iter().map(transport_json).collect())
}

fn transport_json(record: &TransportRecord) -> Value {
    json!({
        "trtype": record.transport.name(),
        "max_queue_depth": record.limits.max_queue_depth,
        "max_io_qpairs_per_ctrlr": record.limits.max_io_queues,
        "in_capsule_data_size": record.limits.in_capsule_bytes,
        "max_io_size": record.limits.max_io_bytes,
        "max_aq_depth": record.limits.max_admin_depth,
    })
}
