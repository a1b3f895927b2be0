//! The data plane: pinned cores, memory that devices may address, NVMe queues and the fabrics that carry
//! NVMe capsules to and from hosts.
//!
//! This crate moves commands and bytes. It knows nothing about tenants, policies or what a value means; that is
//! the business of `pipelines`, which sits above and reaches devices and hosts only through
//! [`nvme::BlockQueue`] and [`fabric::Fabric`].

pub mod core;
pub mod fabric;
pub mod memory;
pub mod nvme;

/// The most items that one call of a poll function or a pipeline stage handles.
///
/// 32 is the burst that DPDK's graph and most of its drivers settle on: long enough to amortise a doorbell and a
/// clock read, short enough to stay within the first-level cache.
pub const BURST: usize = 32;

/// A burst of items on its way from one stage to the next.
pub type Burst<T> = arrayvec::ArrayVec<T, BURST>;
