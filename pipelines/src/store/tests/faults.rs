//! Device errors.
