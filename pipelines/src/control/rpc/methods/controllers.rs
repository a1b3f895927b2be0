//! Methods about who is connected, and what they do: SPDK's names and forms.

use std::net::SocketAddr;

use dataplane::nvme::spec::fabrics::DISCOVERY_NQN;
use serde_json::{Value, json};

use super::nvmf::{NO_SUBSYSTEM, NQN, TARGET};
use crate::control::Context;
use crate::control::config::address_json;
use crate::control::report::{CoreReport, QueuePairReport};
use crate::control::rpc::{Action, Arguments, Fault, Method, Phase};
use crate::control::state::{SessionRecord, Transport, TransportRecord};

pub const METHODS: &[Method] = &[
    Method {
        name: "nvmf_subsystem_get_controllers",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the controllers of a subsystem, one for each connected host. Those of the discovery subsystem are \
                  not kept.",
        params: &[NQN, TARGET],
        result: "list of {cntlid, cntrltype, hostnqn, hostid, num_io_qpairs, session, uid, pid, listen_address, \
                 peer_address}; hostid and peer_address are null over VFIOUSER, uid and pid elsewhere",
        errors: &[NO_SUBSYSTEM],
        action: Action::Run(get_controllers),
    },
    Method {
        name: "nvmf_subsystem_get_qpairs",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows the I/O queue pairs of a subsystem's controllers.",
        params: &[NQN, TARGET],
        result: "list of {cntlid, qid, state, thread, core, entries, outstanding, commands, completions, hostnqn, \
                 listen_address, peer_address}",
        errors: &[NO_SUBSYSTEM],
        action: Action::Run(get_qpairs),
    },
    Method {
        name: "nvmf_get_stats",
        aliases: &[],
        phase: Phase::Runtime,
        summary: "Shows what hosts do on each core, and last, in the group \"control\", how many were let in and turned away \
                  over each transport.",
        params: &[TARGET],
        result: "{tick_rate, poll_groups: [{name, admin_qpairs, io_qpairs, current_admin_qpairs, current_io_qpairs, \
                 current_unassociated_qpairs, pending_bdev_io, completed_nvme_io, transports}]}; admin_qpairs is since the \
                 start, io_qpairs counts those that are there, as current_io_qpairs does; pending_bdev_io is commands taken \
                 and not completed, completed_nvme_io those completed since pipeline_reset_stats; transports of a core: \
                 [{trtype, io_qpairs, outstanding, commands, completions}] of the queue pairs that are there, of control: \
                 [{trtype, controllers, admitted, refused}]",
        errors: &[],
        action: Action::Run(get_stats),
    },
];

/// The sessions of a subsystem.
fn sessions_of(context: &Context, arguments: &Arguments) -> Result<Vec<SessionRecord>, Fault> {
    let nqn = arguments.text("nqn")?;
    if nqn == DISCOVERY_NQN {
        return Ok(Vec::new());
    }
    let subsystem = context.control.subsystem(nqn)?;
    Ok(context.control.sessions().into_iter().filter(|session| session.subsystem == subsystem.nqn).collect())
}

/// The name that a host gave, or else the one under which it is attached.
fn host_name(session: &SessionRecord) -> &str {
    session.host_nqn.as_ref().or(session.host.as_ref()).map_or("", |host| host.as_str())
}

/// Where a host is, in the form of a listener's address.
fn peer_json(session: &SessionRecord) -> Value {
    let shown = |address: SocketAddr| {
        json!({
            "trtype": session.listener.transport().name(),
            "adrfam": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "traddr": address.ip().to_string(),
            "trsvcid": address.port().to_string(),
        })
    };
    session.address.map_or(Value::Null, shown)
}

/// A host identifier as a UUID.
fn uuid(id: &[u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn get_controllers(context: &Context, arguments: &Arguments) -> Result<Value, Fault> {
    let sessions = sessions_of(context, arguments)?;
    let queue_pairs = context.control.engine()?.queue_pairs();
    let controller = |session: &SessionRecord| {
        let own = queue_pairs.iter().filter(|pair| pair.session == session.id && pair.qid != 0);
        json!({
            "cntlid": session.controller_id(),
            "cntrltype": "io",
            "hostnqn": host_name(session),
            "hostid": session.host_id.as_ref().map(uuid),
            "num_io_qpairs": own.count(),
            "session": session.id,
            "uid": session.uid,
            "pid": session.pid,
            "listen_address": address_json(&session.listener),
            "peer_address": peer_json(session),
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
            "commands": pair.commands,
            "completions": pair.completions,
            "hostnqn": host_name(session),
            "listen_address": address_json(&session.listener),
            "peer_address": peer_json(session),
        }))
    };
    Ok(queue_pairs.iter().filter_map(shown).collect())
}

fn get_stats(context: &Context, _: &Arguments) -> Result<Value, Fault> {
    let engine = context.control.engine()?;
    let (sessions, transports) = (context.control.sessions(), context.control.transports());
    let queue_pairs = engine.queue_pairs();
    let carrier_of = |pair: &QueuePairReport| {
        let session = sessions.iter().find(|session| session.id == pair.session);
        session.map(|session| session.listener.transport())
    };
    let mut groups: Vec<_> = engine
        .reports()
        .iter()
        .map(|core| {
            let own: Vec<_> = queue_pairs.iter().filter(|pair| pair.core == core.core).collect();
            let of = |transport| own.iter().copied().filter(move |pair| carrier_of(pair) == Some(transport));
            core_group(
                core,
                &own,
                transports
                    .iter()
                    .map(|it| core_transport(it.transport, &of(it.transport).collect::<Vec<_>>()))
                    .collect(),
            )
        })
        .collect();
    groups.push(control_group(&sessions, &transports));
    Ok(json!({ "tick_rate": engine.shape().tick_rate, "poll_groups": groups }))
}

/// What a core does: it serves I/O queues, and no admin queues.
fn core_group(core: &CoreReport, queue_pairs: &[&QueuePairReport], transports: Vec<Value>) -> Value {
    json!({
        "name": format!("core_{}", core.core),
        "admin_qpairs": 0,
        "io_qpairs": queue_pairs.len(),
        "current_admin_qpairs": 0,
        "current_io_qpairs": queue_pairs.len(),
        "current_unassociated_qpairs": 0,
        "pending_bdev_io": queue_pairs.iter().map(|pair| u64::from(pair.outstanding)).sum::<u64>(),
        "completed_nvme_io": core.operations.iter().map(|operation| operation.count).sum::<u64>(),
        "transports": transports,
    })
}

fn core_transport(transport: Transport, queue_pairs: &[&QueuePairReport]) -> Value {
    json!({
        "trtype": transport.name(),
        "io_qpairs": queue_pairs.len(),
        "outstanding": queue_pairs.iter().map(|pair| u64::from(pair.outstanding)).sum::<u64>(),
        "commands": queue_pairs.iter().map(|pair| pair.commands).sum::<u64>(),
        "completions": queue_pairs.iter().map(|pair| pair.completions).sum::<u64>(),
    })
}

/// What control threads do: they serve admin queues, one for each session.
fn control_group(sessions: &[SessionRecord], transports: &[TransportRecord]) -> Value {
    let by = |transport| sessions.iter().filter(|session| session.listener.transport() == transport).count();
    let transport = |record: &TransportRecord| {
        json!({
            "trtype": record.transport.name(),
            "controllers": by(record.transport),
            "admitted": record.admitted,
            "refused": record.refused,
        })
    };
    json!({
        "name": "control",
        "admin_qpairs": transports.iter().map(|record| record.admitted).sum::<u64>(),
        "io_qpairs": 0,
        "current_admin_qpairs": sessions.len(),
        "current_io_qpairs": 0,
        "current_unassociated_qpairs": 0,
        "pending_bdev_io": 0,
        "completed_nvme_io": 0,
        "transports": transports.iter().map(transport).collect::<Vec<_>>(),
    })
}
