//! Load generation and measurement for kvplane.
//!
//! Every command is a library function over a [`target::Target`], so that the same loop measures a daemon and is
//! tested against values held in memory. Commands print a table for people, and on request a JSON report and SVG
//! plots. Values are made from their key and version ([`value`]), so that every byte that comes back can be checked.

pub mod command;
pub mod limit;
pub mod load;
pub mod measure;
pub mod nvme;
pub mod random;
pub mod replay;
pub mod report;
pub mod rpc;
pub mod size;
pub mod stages;
pub mod target;
pub mod trace;
pub mod value;
