//! Stage 2: may this host do this to this namespace? Asks one flat table and nothing else.

pub mod table;

pub use table::{Durability, Grant, PolicyTable, ViewId};

use dataplane::Burst;
use dataplane::fabric::Completion;
use dataplane::nvme::spec::Status;

use crate::classify::{Classified, Ended, Operation, Origin};

/// The namespace identifier that addresses every namespace (base, "Namespace Identifier").
const BROADCAST_NSID: u32 = 0xFFFF_FFFF;

/// A command that policy lets through. Made only here, and only here: placement takes nothing else, so no command
/// can reach the store around the policy.
///
/// ```compile_fail
/// fn around_the_policy<D>(command: pipelines::classify::Classified<D>) -> pipelines::policy::Admitted<D> {
///     pipelines::policy::Admitted { command } // the fields are private
/// }
/// ```
#[derive(Debug)]
pub struct Admitted<D> {
    pub(crate) origin: Origin,
    pub(crate) data: D,
    pub(crate) operation: Operation,
    pub(crate) grant: Grant,
    _made_here: Seal,
}

#[derive(Debug)]
struct Seal;

impl<D> Admitted<D> {
    /// Puts a command that was taken apart together again, with the grant it already has.
    pub(crate) fn again(origin: Origin, data: D, operation: Operation, grant: Grant) -> Self {
        Self { origin, data, operation, grant, _made_here: Seal }
    }
}

/// Admits a burst. What is refused goes to `ended`: an unknown namespace and one that is not attached to the host
/// are told apart by nobody, so that a host cannot probe for other tenants.
#[inline]
pub fn admit<D>(
    table: &PolicyTable,
    classified: &mut Burst<Classified<D>>,
    out: &mut Burst<Admitted<D>>,
    ended: &mut Burst<Ended>,
) {
    for Classified { origin, data, nsid, operation, .. } in classified.drain(..) {
        if operation == Operation::Flush && nsid == BROADCAST_NSID {
            ended.push(origin.end(Completion::success(0, 0)));
            continue;
        }
        let verdict = table.grant(origin.session, nsid).ok_or(Status::INVALID_NAMESPACE);
        match verdict.and_then(|grant| allow(grant, &operation)) {
            Ok(grant) => out.push(Admitted { origin, data, operation, grant, _made_here: Seal }),
            Err(status) => ended.push(origin.fail(status)),
        }
    }
}

#[inline]
fn allow(grant: &Grant, operation: &Operation) -> Result<Grant, Status> {
    if operation.is_write() && !grant.writable {
        return Err(Status::INVALID_NAMESPACE);
    }
    match operation {
        Operation::Store(request) if request.bytes > grant.max_value_bytes => Err(Status::INVALID_VALUE_SIZE),
        _ => Ok(*grant),
    }
}
