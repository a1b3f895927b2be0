//! The daemon `kvplaned`: options, start-up and shutdown.

pub mod size;
