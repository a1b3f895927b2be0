//! Who may do what with which namespace.

pub mod table;
