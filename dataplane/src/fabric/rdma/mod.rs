//! NVMe over RDMA (NVMe-oF, RDMA transport): commands and completions as messages, values by RDMA READ and WRITE.

pub mod verbs;
