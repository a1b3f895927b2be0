//! KV blocks: the stages of a request's life, the flash store, the control plane and the daemon.
//!
//! Nothing on the request path here does input or output of its own or reads a clock of its own: it is generic over
//! [`dataplane::nvme::BlockQueue`], [`dataplane::fabric::Fabric`] and [`dataplane::core::Clock`], and so the same
//! code runs on devices and under the simulator.

pub mod accounting;
pub mod classify;
pub mod control;
pub mod core_pipeline;
pub mod daemon;
pub mod dma;
pub mod lines;
pub mod placement;
pub mod policy;
pub mod store;
