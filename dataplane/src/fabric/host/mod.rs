//! What a host does with a controller, whatever carries its commands: asks what it is and what it has, and over fabrics
//! enables it by properties.

mod deadline;
mod fabrics;
mod identify;
mod resolve;

pub(in crate::fabric) use deadline::Deadline;
pub use fabrics::{ControllerState, Enabled, enable, host_id_of};
pub use identify::{InitiatorIdentity, identify_controller, namespaces, number_of_queues};
pub use resolve::resolve;

use crate::nvme::spec::{Cqe, Sqe, Status};

/// What an admin command moves.
#[derive(Debug)]
pub enum AdminData<'a> {
    /// Nothing.
    None,
    /// Controller to host, 8192 bytes at most.
    In(&'a mut [u8]),
    /// Host to controller, 8192 bytes at most.
    Out(&'a [u8]),
}

/// A way to a controller's admin queue, one command at a time.
pub trait AdminPort {
    /// Why a command got no answer, or one that says that it failed.
    type Error;

    /// Carries out an admin command and waits for its completion, which may say that it failed. Command identifier
    /// and data pointer of `sqe` are filled in.
    ///
    /// # Errors
    /// If the target did not answer at all.
    fn admin(&mut self, sqe: Sqe, data: AdminData<'_>) -> Result<Cqe, Self::Error>;

    /// The error for a command that failed.
    fn refused(command: &'static str, status: Status) -> Self::Error;

    /// As [`admin`](Self::admin), with a failed completion as an error.
    ///
    /// # Errors
    /// If the target did not answer, or that the command failed.
    fn admin_checked(&mut self, command: &'static str, sqe: Sqe, data: AdminData<'_>) -> Result<Cqe, Self::Error> {
        let cqe = self.admin(sqe, data)?;
        if cqe.status.is_success() { Ok(cqe) } else { Err(Self::refused(command, cqe.status)) }
    }
}
