//! Subsystems on networks, set up and shown as SPDK's clients do.

use dataplane::fabric::{Admission, CarrierKind, Peer};
use serde_json::{Value, json};

use super::run;
use crate::control::Context;
use crate::control::fake::ready;
use crate::control::state::Transport;

const NQN: &str = "nqn.2016-06.io.spdk:cnode1";
const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
const HOST_ID: [u8; 16] =
    [0xF8, 0x1D, 0x4F, 0xAE, 0x7D, 0xEC, 0x11, 0xD0, 0xA7, 0x65, 0x00, 0xA0, 0xC9, 0x1E, 0x6B, 0xF6];

fn listener() -> Value {
    json!({ "trtype": "TCP", "adrfam": "IPv4", "traddr": "192.0.2.7", "trsvcid": "4420" })
}

/// A subsystem with a namespace, a host and a listener.
fn set_up(context: &Context) {
    let call = |method: &str, params: Value| run(context, method, &params).unwrap();
    call("nvmf_create_subsystem", json!({ "nqn": NQN, "serial_number": "SPDK00000000000001" }));
    let namespace = json!({ "bdev_name": "Malloc0" });
    assert_eq!(call("nvmf_subsystem_add_ns", json!({ "nqn": NQN, "namespace": namespace })), 1);
    call("nvmf_subsystem_add_host", json!({ "nqn": NQN, "host": HOST }));
    call("nvmf_subsystem_add_listener", json!({ "nqn": NQN, "listen_address": listener() }));
}

fn host() -> Peer {
    Peer {
        carrier: CarrierKind::Tcp,
        listener: "192.0.2.7:4420".into(),
        subsystem_nqn: Some(NQN.into()),
        host_nqn: Some(HOST.into()),
        host_id: Some(HOST_ID),
        address: Some("[2001:db8::9]:50000".parse().unwrap()),
        uid: None,
        pid: None,
    }
}

#[test]
fn transports_are_made_and_shown() {
    let (context, engine) = ready();
    let call = |method: &str, params: Value| run(&context, method, &params);
    // What is fixed or unknown here is taken all the same.
    let wanted =
        json!({ "trtype": "tcp", "io_unit_size": 16_384, "max_io_qpairs_per_ctrlr": 8, "max_io_size": 131_072 });
    assert_eq!(call("nvmf_create_transport", wanted.clone()), Ok(json!(true)));
    assert_eq!(call("nvmf_create_transport", wanted).unwrap_err().code, -libc::EEXIST);
    let shown = json!([{
        "trtype": "TCP", "max_queue_depth": 128, "max_io_qpairs_per_ctrlr": 64, "in_capsule_data_size": 8192,
        "max_io_size": 131_072, "max_aq_depth": 32,
    }]);
    assert_eq!(call("nvmf_get_transports", json!({})), Ok(shown.clone()));
    assert_eq!(call("nvmf_get_transports", json!({ "trtype": "TCP" })), Ok(shown));
    assert_eq!(call("nvmf_get_transports", json!({ "trtype": "RDMA" })).unwrap_err().code, -libc::ENODEV);
    engine.lacking.lock().unwrap().insert(Transport::Rdma);
    assert_eq!(call("nvmf_create_transport", json!({ "trtype": "RDMA" })).unwrap_err().code, -libc::EPROTONOSUPPORT);
}

#[test]
fn the_discovery_subsystem_comes_first_and_listens_everywhere() {
    let (context, engine) = ready();
    set_up(&context);
    let call = |method: &str, params: Value| run(&context, method, &params);
    let subsystems = call("nvmf_get_subsystems", json!({})).unwrap();
    let first = json!({
        "nqn": DISCOVERY, "subtype": "Discovery", "listen_addresses": [listener()], "allow_any_host": true, "hosts": [],
    });
    assert_eq!((&subsystems[0], &subsystems[1]["listen_addresses"]), (&first, &json!([listener()])));
    assert_eq!(call("nvmf_get_subsystems", json!({ "nqn": DISCOVERY })), Ok(json!([first])));
    for nqn in [NQN, DISCOVERY] {
        let listeners = call("nvmf_subsystem_get_listeners", json!({ "nqn": nqn }));
        assert_eq!(listeners, Ok(json!([{ "address": listener() }])));
    }
    // SPDK's clients give it a listener of its own, by its short name.
    let own = json!({ "nqn": "discovery", "listen_address": listener() });
    for method in ["nvmf_subsystem_add_listener", "nvmf_subsystem_remove_listener"] {
        assert_eq!(call(method, own.clone()), Ok(json!(true)));
        assert_eq!(engine.listeners.lock().unwrap().len(), 1);
    }
    assert_eq!(call("nvmf_subsystem_get_qpairs", json!({ "nqn": DISCOVERY })), Ok(json!([])));
}

#[test]
fn controllers_tell_whose_they_are_and_where_from() {
    let (context, _) = ready();
    set_up(&context);
    let call = |method: &str| run(&context, method, &json!({ "nqn": NQN })).unwrap();
    let session = context.control.open(&host()).unwrap();
    let from = json!({ "trtype": "TCP", "adrfam": "IPv6", "traddr": "2001:db8::9", "trsvcid": "50000" });
    let controller = json!({
        "cntlid": 1, "cntrltype": "io", "hostnqn": HOST, "hostid": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "num_io_qpairs": 1, "session": 0, "uid": null, "pid": null, "listen_address": listener(), "peer_address": from,
    });
    assert_eq!(call("nvmf_subsystem_get_controllers"), json!([controller]));
    let pairs = call("nvmf_subsystem_get_qpairs");
    assert_eq!(
        (&pairs[0]["qid"], &pairs[0]["state"], &pairs[0]["commands"], &pairs[0]["peer_address"]),
        (&json!(1), &json!("enabled"), &json!(10), &from)
    );
    drop(session);
    assert_eq!(call("nvmf_subsystem_get_controllers"), json!([]));
}

#[test]
fn figures_are_told_for_each_core_and_the_control_threads() {
    let (context, _) = ready();
    set_up(&context);
    let _session = context.control.open(&host()).unwrap();
    let stats = run(&context, "nvmf_get_stats", &json!({})).unwrap();
    let groups = stats["poll_groups"].as_array().unwrap();
    assert_eq!(groups.iter().map(|group| &group["name"]).collect::<Vec<_>>(), ["core_0", "core_1", "control"]);
    let seen = |group: usize, name: &str| groups[group][name].as_u64().unwrap();
    assert_eq!((seen(0, "current_io_qpairs"), seen(0, "pending_bdev_io"), seen(0, "completed_nvme_io")), (1, 3, 40));
    assert_eq!((seen(1, "current_io_qpairs"), seen(2, "current_admin_qpairs"), seen(2, "admin_qpairs")), (0, 1, 1));
    assert_eq!(
        (&groups[0]["transports"], &groups[2]["transports"]),
        (
            &json!([{ "trtype": "TCP", "io_qpairs": 1, "outstanding": 3, "commands": 10, "completions": 7 }]),
            &json!([{ "trtype": "TCP", "controllers": 1, "admitted": 1, "refused": 0 }])
        )
    );
}

#[test]
fn a_namespace_that_is_removed_as_spdk_does_keeps_its_values() {
    let (context, engine) = ready();
    set_up(&context);
    let remove = || run(&context, "nvmf_subsystem_remove_ns", &json!({ "nqn": NQN, "nsid": 1 }));
    assert_eq!(remove(), Ok(json!(true)));
    assert_eq!(remove().unwrap_err().code, -libc::ENODEV);
    assert!(engine.purged.lock().unwrap().is_empty());
}
