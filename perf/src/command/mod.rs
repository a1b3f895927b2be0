//! The commands: options in, table, JSON and plots out.

pub mod checking;
pub mod connection;
pub mod generate;
pub mod limit;
pub mod nvme;
pub mod replay;
pub mod run;
pub mod stages;
