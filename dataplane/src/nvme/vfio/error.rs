//! What can go wrong with a controller, apart from single commands.

use std::time::Duration;

use super::pci::{PciError, PciFunction};
use crate::nvme::spec::Status;

/// Why a controller could not be opened, asked or brought back.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The function on the bus.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Memory for queues could not be had.
    #[error("cannot make memory for queues: {0}; raise the memlock limit (ulimit -l, LimitMEMLOCK=)")]
    Memory(std::io::Error),
    /// It is not an NVMe controller.
    #[error("the function has class {0:06x}, not that of an NVMe controller (010802)")]
    NotNvme(u32),
    /// It is not there any more.
    #[error("the controller is gone; was the drive pulled, is it powered down, or did its process end?")]
    Gone,
    /// Every register reads as ones, or nobody answers, and yet it may be there.
    #[error(
        "the controller does not answer, and may reach memory all the same; is its process stopped, or its link down?"
    )]
    Silent,
    /// It lacks something that this driver needs.
    #[error("the controller cannot be driven: {0}")]
    Unusable(String),
    /// What it says of itself cannot be.
    #[error("the controller does not say the truth: {0}; update its firmware or replace it")]
    Absurd(String),
    /// A namespace is formatted in a way that is not driven.
    #[error(
        "namespace {nsid} is formatted with {what}; format it with blocks of 512 or 4096 bytes without metadata \
         (nvme format --lbaf=N)"
    )]
    Format {
        /// Number of the namespace.
        nsid: u32,
        /// What is not driven.
        what: String,
    },
    /// No such namespace.
    #[error("the controller has no active namespace {nsid}; it has {active:?}")]
    NoNamespace {
        /// Number that was asked for.
        nsid: u32,
        /// Numbers that there are.
        active: Vec<u32>,
    },
    /// What was found when the namespace was looked up holds no more: it was formatted, or the controller became another.
    #[error("namespace {nsid} is not what it was any more: {what}; look it up anew")]
    Changed {
        /// Number of the namespace.
        nsid: u32,
        /// What changed.
        what: &'static str,
    },
    /// It did not get where it should in time.
    #[error("the controller did not {what} within {waited:?} (CSTS {csts:#x})")]
    TimedOut {
        /// What it was to do.
        what: &'static str,
        /// How long that was waited for.
        waited: Duration,
        /// Its status register.
        csts: u32,
    },
    /// The drive lost power, or was reset as a whole, with a volatile cache; how that showed.
    #[error(
        "the drive may have lost its volatile cache, and with it what was written since the last flush: {0}; restart the \
         daemon, which recovers what was flushed"
    )]
    CacheLost(String),
    /// CSTS.CFS.
    #[error("the controller says that it failed (CSTS.CFS)")]
    Fatal,
    /// An admin command failed.
    #[error("{command} failed: {status}")]
    Admin {
        /// Which one.
        command: &'static str,
        /// How.
        status: Status,
    },
    /// Every I/O queue that the controller has is in use.
    #[error("all {0} I/O queues of the controller are in use; start on fewer cores")]
    NoQueue(u16),
    /// A depth of 0, or one that the controller's queues do not hold.
    #[error("a queue's depth must be 1 to {0}")]
    Depth(u32),
    /// The controller is being reset.
    #[error("the controller is being reset; try again in a while")]
    Resetting,
    /// The controller was given up.
    #[error("the controller was given up: {0}")]
    Failed(String),
}

impl OpenError {
    /// Why the registers of a function read as ones. That it is gone may be a process's word only: it does not prove that
    /// memory is out of its reach.
    pub(super) fn lost(function: &dyn PciFunction) -> Self {
        if function.is_gone() || function.is_absent() { Self::Gone } else { Self::Silent }
    }

    /// Whether it says that registers read as ones.
    pub(super) const fn is_loss(&self) -> bool {
        matches!(self, Self::Gone | Self::Silent)
    }
}
