//! The part of the C interface of libibverbs and librdmacm that kvplane uses: numbers, structures and signatures.
//!
//! Source: `infiniband/verbs.h` and `rdma/rdma_cma.h` of rdma-core. Both libraries promise that programs built against
//! an older version go on working (symbol versions `IBVERBS_1.1` and `RDMACM_1.0`), so what is here holds for every
//! version since 2008. A test compiles it against the headers where they are installed.
//!
//! Structures that the libraries allocate are declared up to the last field that is read; they are only ever behind a
//! pointer that a library gave.

use std::ffi::{c_char, c_int, c_void};

/// `struct ibv_device_attr`, as `ibv_query_device` fills it in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DeviceAttr {
    pub fw_ver: [c_char; 64],
    pub node_guid: u64,
    pub sys_image_guid: u64,
    pub max_mr_size: u64,
    pub page_size_cap: u64,
    pub vendor_id: u32,
    pub vendor_part_id: u32,
    pub hw_ver: u32,
    pub max_qp: c_int,
    pub max_qp_wr: c_int,
    pub device_cap_flags: u32,
    pub max_sge: c_int,
    pub max_sge_rd: c_int,
    pub max_cq: c_int,
    pub max_cqe: c_int,
    pub max_mr: c_int,
    pub max_pd: c_int,
    pub max_qp_rd_atom: c_int,
    pub max_ee_rd_atom: c_int,
    pub max_res_rd_atom: c_int,
    pub max_qp_init_rd_atom: c_int,
    pub max_ee_init_rd_atom: c_int,
    pub atomic_cap: u32,
    pub max_ee: c_int,
    pub max_rdd: c_int,
    pub max_mw: c_int,
    pub max_raw_ipv6_qp: c_int,
    pub max_raw_ethy_qp: c_int,
    pub max_mcast_grp: c_int,
    pub max_mcast_qp_attach: c_int,
    pub max_total_mcast_qp_attach: c_int,
    pub max_ah: c_int,
    pub max_fmr: c_int,
    pub max_map_per_fmr: c_int,
    pub max_srq: c_int,
    pub max_srq_wr: c_int,
    pub max_srq_sge: c_int,
    pub max_pkeys: u16,
    pub local_ca_ack_delay: u8,
    pub phys_port_cnt: u8,
}

/// `struct ibv_context_ops`: the calls that the C header makes through the context instead of the library.
#[repr(C)]
pub struct ContextOps {
    before_poll_cq: [*const c_void; 11],
    pub poll_cq: Option<unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int>,
    pub req_notify_cq: Option<unsafe extern "C" fn(*mut Cq, c_int) -> c_int>,
    before_post_srq_recv: [*const c_void; 7],
    pub post_srq_recv: Option<unsafe extern "C" fn(*mut Srq, *mut RecvWr, *mut *mut RecvWr) -> c_int>,
    before_post_send: [*const c_void; 4],
    pub post_send: Option<unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int>,
    pub post_recv: Option<unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int>,
    after_post_recv: [*const c_void; 5],
}

/// `struct ibv_context`.
#[repr(C)]
pub struct Context {
    device: *mut c_void,
    pub ops: ContextOps,
    cmd_fd: c_int,
    pub async_fd: c_int,
}

/// `struct ibv_pd`: opaque here.
#[repr(C)]
pub struct Pd {
    context: *mut Context,
}

/// `struct ibv_mr`.
#[repr(C)]
pub struct Mr {
    context: *mut Context,
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

/// `struct ibv_comp_channel`.
#[repr(C)]
pub struct CompChannel {
    context: *mut Context,
    pub fd: c_int,
}

/// `struct ibv_cq`: opaque here.
#[repr(C)]
pub struct Cq {
    context: *mut Context,
}

/// `struct ibv_srq`: opaque here.
#[repr(C)]
pub struct Srq {
    context: *mut Context,
}

/// `struct ibv_qp`.
#[repr(C)]
pub struct Qp {
    context: *mut Context,
    qp_context: *mut c_void,
    pd: *mut Pd,
    send_cq: *mut Cq,
    recv_cq: *mut Cq,
    srq: *mut Srq,
    handle: u32,
    pub qp_num: u32,
}

/// `struct ibv_wc`: a work completion.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Wc {
    pub wr_id: u64,
    pub status: u32,
    pub opcode: u32,
    pub vendor_err: u32,
    pub byte_len: u32,
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: u32,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

/// `struct ibv_sge`: bytes of registered memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

/// `struct ibv_send_wr`, with the union `wr` as its RDMA variant.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SendWr {
    pub wr_id: u64,
    pub next: *mut SendWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
    pub opcode: u32,
    pub send_flags: u32,
    /// Immediate data, or the key that `SEND_WITH_INV` invalidates.
    pub invalidate_rkey: u32,
    pub remote_addr: u64,
    pub rkey: u32,
    rest_of_wr: [u64; 2],
    xrc: u32,
    bind_mw_or_tso: [u64; 6],
}

impl SendWr {
    /// One that says nothing yet.
    pub const EMPTY: Self = Self {
        wr_id: 0,
        next: std::ptr::null_mut(),
        sg_list: std::ptr::null_mut(),
        num_sge: 0,
        opcode: 0,
        send_flags: 0,
        invalidate_rkey: 0,
        remote_addr: 0,
        rkey: 0,
        rest_of_wr: [0; 2],
        xrc: 0,
        bind_mw_or_tso: [0; 6],
    };
}

/// `struct ibv_recv_wr`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RecvWr {
    pub wr_id: u64,
    pub next: *mut RecvWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
}

/// `struct ibv_qp_cap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct QpCap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

/// `struct ibv_qp_init_attr`.
#[repr(C)]
pub struct QpInitAttr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut Cq,
    pub recv_cq: *mut Cq,
    pub srq: *mut Srq,
    pub cap: QpCap,
    pub qp_type: u32,
    pub sq_sig_all: c_int,
}

/// `struct ibv_srq_init_attr`, with `struct ibv_srq_attr` in it.
#[repr(C)]
pub struct SrqInitAttr {
    pub srq_context: *mut c_void,
    pub max_wr: u32,
    pub max_sge: u32,
    pub srq_limit: u32,
}

/// `struct ibv_qp_attr` up to its first field, with room for the rest: only the state is ever set.
#[repr(C, align(8))]
pub struct QpAttr {
    pub qp_state: u32,
    rest: [u32; 35],
}

impl QpAttr {
    /// Attributes that ask for a state and nothing else.
    pub const fn state(qp_state: u32) -> Self {
        Self { qp_state, rest: [0; 35] }
    }
}

/// `struct rdma_event_channel`.
#[repr(C)]
pub struct EventChannel {
    pub fd: c_int,
}

/// `struct rdma_cm_id`, up to the addresses of its route.
#[repr(C)]
pub struct CmId {
    pub verbs: *mut Context,
    channel: *mut EventChannel,
    pub context: *mut c_void,
    pub qp: *mut Qp,
    pub src_addr: libc::sockaddr_storage,
    pub dst_addr: libc::sockaddr_storage,
}

/// `struct rdma_conn_param`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnParam {
    pub private_data: *const c_void,
    pub private_data_len: u8,
    pub responder_resources: u8,
    pub initiator_depth: u8,
    pub flow_control: u8,
    pub retry_count: u8,
    pub rnr_retry_count: u8,
    pub srq: u8,
    pub qp_num: u32,
}

/// `struct rdma_cm_event`, with the union `param` as its connection variant.
#[repr(C)]
pub struct CmEvent {
    pub id: *mut CmId,
    pub listen_id: *mut CmId,
    pub event: u32,
    pub status: c_int,
    pub conn: ConnParam,
}

/// `enum ibv_access_flags`.
pub mod access {
    pub const LOCAL_WRITE: u32 = 1;
    pub const REMOTE_WRITE: u32 = 1 << 1;
    pub const REMOTE_READ: u32 = 1 << 2;
}

/// `enum ibv_wr_opcode`.
pub mod wr_opcode {
    pub const RDMA_WRITE: u32 = 0;
    pub const SEND: u32 = 2;
    pub const RDMA_READ: u32 = 4;
    pub const SEND_WITH_INV: u32 = 9;
}

/// `enum ibv_send_flags`.
pub mod send_flags {
    pub const SIGNALED: u32 = 1 << 1;
    pub const INLINE: u32 = 1 << 3;
}

/// `enum ibv_wc_opcode`: set in completions of receives.
pub const WC_RECV: u32 = 1 << 7;
/// `enum ibv_qp_type`.
pub const QPT_RC: u32 = 2;
/// `enum ibv_qp_state`.
pub const QPS_ERR: u32 = 6;
/// `enum ibv_qp_attr_mask`.
pub const QP_STATE: c_int = 1;
/// `enum rdma_port_space`.
pub const RDMA_PS_TCP: u32 = 0x0106;
/// `RDMA_OPTION_ID` and `RDMA_OPTION_ID_REUSEADDR`.
pub const OPTION_ID: c_int = 0;
pub const OPTION_ID_REUSEADDR: c_int = 1;
/// `RDMA_OPTION_ID_ACK_TIMEOUT`.
pub const OPTION_ID_ACK_TIMEOUT: c_int = 3;

/// `enum rdma_cm_event_type`.
pub mod cm_event {
    pub const ADDR_RESOLVED: u32 = 0;
    pub const ADDR_ERROR: u32 = 1;
    pub const ROUTE_RESOLVED: u32 = 2;
    pub const ROUTE_ERROR: u32 = 3;
    pub const CONNECT_REQUEST: u32 = 4;
    pub const CONNECT_ERROR: u32 = 6;
    pub const UNREACHABLE: u32 = 7;
    pub const REJECTED: u32 = 8;
    pub const ESTABLISHED: u32 = 9;
    pub const DISCONNECTED: u32 = 10;
    pub const DEVICE_REMOVAL: u32 = 11;
    pub const ADDR_CHANGE: u32 = 14;
    pub const TIMEWAIT_EXIT: u32 = 15;
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;
    use std::mem::{offset_of, size_of};
    use std::process::{Command, Stdio};

    use super::*;

    /// A line of C that fails to compile if a field lies elsewhere.
    macro_rules! fields {
        ($into:ident, $c:literal, $rust:ty, $($c_field:literal = $field:ident),+) => {$(
            writeln!($into, "_Static_assert(offsetof(struct {}, {}) == {}, \"\");", $c, $c_field, offset_of!($rust, $field)).unwrap();
        )+};
    }

    fn structures(c: &mut String) {
        macro_rules! size {
            ($name:literal, $rust:ty) => {
                writeln!(c, "_Static_assert(sizeof(struct {}) == {}, \"\");", $name, size_of::<$rust>()).unwrap();
            };
        }
        size!("ibv_device_attr", DeviceAttr);
        size!("ibv_context_ops", ContextOps);
        size!("ibv_wc", Wc);
        size!("ibv_sge", Sge);
        size!("ibv_send_wr", SendWr);
        size!("ibv_recv_wr", RecvWr);
        size!("ibv_qp_cap", QpCap);
        size!("ibv_qp_init_attr", QpInitAttr);
        size!("ibv_srq_init_attr", SrqInitAttr);
        size!("rdma_conn_param", ConnParam);
        writeln!(c, "_Static_assert(sizeof(struct ibv_qp_attr) <= {}, \"\");", size_of::<QpAttr>()).unwrap();
        fields!(c, "ibv_device_attr", DeviceAttr, "max_sge" = max_sge, "max_cqe" = max_cqe, "max_srq_wr" = max_srq_wr);
        fields!(c, "ibv_device_attr", DeviceAttr, "max_qp_rd_atom" = max_qp_rd_atom, "max_qp_wr" = max_qp_wr);
        fields!(c, "ibv_device_attr", DeviceAttr, "max_qp_init_rd_atom" = max_qp_init_rd_atom);
        fields!(c, "ibv_context_ops", ContextOps, "poll_cq" = poll_cq, "req_notify_cq" = req_notify_cq);
        fields!(c, "ibv_context_ops", ContextOps, "post_srq_recv" = post_srq_recv, "post_send" = post_send);
        fields!(c, "ibv_context_ops", ContextOps, "post_recv" = post_recv);
        fields!(c, "ibv_context", Context, "ops" = ops, "async_fd" = async_fd);
        fields!(c, "ibv_mr", Mr, "lkey" = lkey, "rkey" = rkey);
        fields!(c, "ibv_comp_channel", CompChannel, "fd" = fd);
        fields!(c, "ibv_qp", Qp, "qp_num" = qp_num);
        fields!(c, "ibv_wc", Wc, "status" = status, "opcode" = opcode, "byte_len" = byte_len, "qp_num" = qp_num);
        fields!(c, "ibv_wc", Wc, "invalidated_rkey" = imm_data, "wc_flags" = wc_flags);
        fields!(c, "ibv_send_wr", SendWr, "next" = next, "sg_list" = sg_list, "num_sge" = num_sge, "opcode" = opcode);
        fields!(c, "ibv_send_wr", SendWr, "send_flags" = send_flags, "invalidate_rkey" = invalidate_rkey);
        fields!(c, "ibv_send_wr", SendWr, "wr.rdma.remote_addr" = remote_addr, "wr.rdma.rkey" = rkey);
        fields!(c, "ibv_recv_wr", RecvWr, "next" = next, "sg_list" = sg_list, "num_sge" = num_sge);
        fields!(c, "ibv_qp_init_attr", QpInitAttr, "cap" = cap, "qp_type" = qp_type, "sq_sig_all" = sq_sig_all);
        fields!(c, "ibv_srq_init_attr", SrqInitAttr, "attr.max_wr" = max_wr, "attr.max_sge" = max_sge);
        fields!(c, "rdma_event_channel", EventChannel, "fd" = fd);
        fields!(c, "rdma_cm_id", CmId, "verbs" = verbs, "context" = context, "qp" = qp);
        fields!(c, "rdma_cm_id", CmId, "route.addr.src_storage" = src_addr, "route.addr.dst_storage" = dst_addr);
        fields!(c, "rdma_conn_param", ConnParam, "private_data_len" = private_data_len, "qp_num" = qp_num);
        fields!(c, "rdma_conn_param", ConnParam, "rnr_retry_count" = rnr_retry_count, "srq" = srq);
        fields!(c, "rdma_cm_event", CmEvent, "listen_id" = listen_id, "event" = event, "status" = status);
        fields!(c, "rdma_cm_event", CmEvent, "param.conn" = conn);
    }

    fn numbers(c: &mut String) {
        for (name, value) in [
            ("IBV_ACCESS_LOCAL_WRITE", access::LOCAL_WRITE),
            ("IBV_ACCESS_REMOTE_WRITE", access::REMOTE_WRITE),
            ("IBV_ACCESS_REMOTE_READ", access::REMOTE_READ),
            ("IBV_WR_RDMA_WRITE", wr_opcode::RDMA_WRITE),
            ("IBV_WR_SEND", wr_opcode::SEND),
            ("IBV_WR_RDMA_READ", wr_opcode::RDMA_READ),
            ("IBV_WR_SEND_WITH_INV", wr_opcode::SEND_WITH_INV),
            ("IBV_SEND_SIGNALED", send_flags::SIGNALED),
            ("IBV_SEND_INLINE", send_flags::INLINE),
            ("IBV_WC_RECV", WC_RECV),
            ("IBV_QPT_RC", QPT_RC),
            ("IBV_QPS_ERR", QPS_ERR),
            ("IBV_QP_STATE", QP_STATE as u32),
            ("RDMA_PS_TCP", RDMA_PS_TCP),
            ("RDMA_OPTION_ID", OPTION_ID as u32),
            ("RDMA_OPTION_ID_REUSEADDR", OPTION_ID_REUSEADDR as u32),
            ("RDMA_OPTION_ID_ACK_TIMEOUT", OPTION_ID_ACK_TIMEOUT as u32),
            ("RDMA_CM_EVENT_ADDR_RESOLVED", cm_event::ADDR_RESOLVED),
            ("RDMA_CM_EVENT_ADDR_ERROR", cm_event::ADDR_ERROR),
            ("RDMA_CM_EVENT_ROUTE_RESOLVED", cm_event::ROUTE_RESOLVED),
            ("RDMA_CM_EVENT_ROUTE_ERROR", cm_event::ROUTE_ERROR),
            ("RDMA_CM_EVENT_CONNECT_REQUEST", cm_event::CONNECT_REQUEST),
            ("RDMA_CM_EVENT_CONNECT_ERROR", cm_event::CONNECT_ERROR),
            ("RDMA_CM_EVENT_UNREACHABLE", cm_event::UNREACHABLE),
            ("RDMA_CM_EVENT_REJECTED", cm_event::REJECTED),
            ("RDMA_CM_EVENT_ESTABLISHED", cm_event::ESTABLISHED),
            ("RDMA_CM_EVENT_DISCONNECTED", cm_event::DISCONNECTED),
            ("RDMA_CM_EVENT_DEVICE_REMOVAL", cm_event::DEVICE_REMOVAL),
            ("RDMA_CM_EVENT_ADDR_CHANGE", cm_event::ADDR_CHANGE),
            ("RDMA_CM_EVENT_TIMEWAIT_EXIT", cm_event::TIMEWAIT_EXIT),
            ("IBV_WC_SUCCESS", 0),
            ("IBV_WC_WR_FLUSH_ERR", super::super::completion::FLUSHED),
        ] {
            writeln!(c, "_Static_assert({name} == {value}, \"\");").unwrap();
        }
    }

    /// Run by `tests/testbed/rdma.sh` and wherever libibverbs-dev and librdmacm-dev are installed
    /// (`KVPLANE_RDMA_HEADERS` names another folder than /usr/include).
    #[test]
    #[ignore = "needs a C compiler and the headers of libibverbs and librdmacm"]
    fn declarations_agree_with_the_c_headers() {
        let folder = std::env::var("KVPLANE_RDMA_HEADERS").unwrap_or_else(|_| "/usr/include".to_owned());
        let mut c = String::from("#include <stddef.h>\n#include <rdma/rdma_cma.h>\n#include <infiniband/verbs.h>\n");
        structures(&mut c);
        numbers(&mut c);
        let mut compiler = Command::new("cc")
            .args(["-fsyntax-only", "-x", "c", "-I", &folder, "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        compiler.stdin.take().unwrap().write_all(c.as_bytes()).unwrap();
        assert!(compiler.wait().unwrap().success());
    }
}
