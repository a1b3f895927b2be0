//! Stage 2: may this host do this to this namespace? Asks one flat table and nothing else.

pub mod table;

pub use table::{Durability, Grant, PolicyTable, ViewId};

use dataplane::BURST;
use dataplane::fabric::{Capsule, Completion};
use dataplane::nvme::spec::kv::KeyFields;
use dataplane::nvme::spec::{Sqe, Status};

use crate::classify::{ClassifiedBurst, Operation, OperationKind, Origin, decode};
use crate::lines::{CapsuleBurst, Lanes, Lines, Note};

/// The namespace identifier that addresses every namespace (base, "Namespace Identifier").
const BROADCAST_NSID: u32 = 0xFFFF_FFFF;

/// A burst of commands that policy lets through, the others among the ended. Made only here, and only here: placement
/// takes nothing else, so no command can reach the store around the policy.
///
/// ```compile_fail
/// fn around_the_policy() -> pipelines::policy::AdmittedBurst {
///     pipelines::policy::AdmittedBurst(unimplemented!()) // the field is private
/// }
/// ```
#[derive(Debug)]
pub struct AdmittedBurst(Box<Lines>);

/// One command that policy let through, taken out of its burst: to another core, to wait, or among the lists.
#[derive(Debug)]
pub struct Admitted {
    pub(crate) capsule: Capsule,
    note: Note,
    _made_here: Seal,
}

#[derive(Debug)]
struct Seal;

impl AdmittedBurst {
    /// Takes a command out.
    pub(crate) fn take(&mut self, lane: usize) -> Admitted {
        let Capsule { sqe, session, permit } = &mut self.0.capsules[lane];
        let capsule = Capsule { sqe: *sqe, session: *session, permit: permit.take() };
        Admitted { capsule, note: self.0.notes[lane], _made_here: Seal }
    }

    #[inline]
    pub(crate) fn lines(&mut self) -> &mut Lines {
        &mut self.0
    }

    #[inline]
    pub(crate) fn into_lines(self) -> Box<Lines> {
        self.0
    }
}

impl Admitted {
    /// What it asks for.
    pub(crate) fn operation(&self) -> Result<Operation, Status> {
        decode(&self.capsule.sqe)
    }

    /// What its namespace allows it.
    pub(crate) fn grant(&self) -> Grant {
        self.note.grant
    }

    /// Who asked, without the rest.
    pub(crate) fn into_origin(self) -> Origin {
        let Capsule { session, permit, .. } = self.capsule;
        Origin { permit, session, kind: self.note.kind, received: self.note.received }
    }
}

/// Admits a burst. What is refused ends: an unknown namespace and one that is not attached to the host are told apart
/// by nobody, so that a host cannot probe for other tenants.
#[inline]
#[must_use]
pub fn admit(table: &PolicyTable, burst: ClassifiedBurst) -> AdmittedBurst {
    admit_lines(table, burst.into_lines())
}

/// Admits a burst of commands that were admitted before, by the table of now.
#[must_use]
pub(crate) fn admit_again(
    table: &PolicyTable,
    burst: CapsuleBurst,
    commands: impl Iterator<Item = Admitted>,
) -> AdmittedBurst {
    let mut lines = burst.into_lines();
    debug_assert!(lines.capsules.is_empty(), "they are a burst of their own");
    for Admitted { capsule, note, .. } in commands.take(BURST) {
        let lane = lines.capsules.len();
        lines.capsules.push(capsule);
        lines.notes[lane] = note;
    }
    lines.open = Lanes::first(lines.capsules.len());
    admit_lines(table, lines)
}

#[inline(always)]
fn admit_lines(table: &PolicyTable, mut lines: Box<Lines>) -> AdmittedBurst {
    for lane in lines.open {
        let capsule = &lines.capsules[lane];
        let (sqe, kind) = (&capsule.sqe, lines.notes[lane].kind);
        if kind == OperationKind::Other && sqe.nsid() == BROADCAST_NSID {
            // A Flush: the only other command that is understood.
            lines.end(lane, Completion::success(0, 0));
            continue;
        }
        let verdict = table.grant(capsule.session, sqe.nsid()).ok_or(Status::INVALID_NAMESPACE);
        match verdict.and_then(|grant| allow(grant, kind, sqe)) {
            Ok(grant) => lines.notes[lane].grant = *grant,
            Err(status) => lines.end(lane, Completion::failed(status)),
        }
    }
    AdmittedBurst(lines)
}

#[inline]
fn allow<'a>(grant: &'a Grant, kind: OperationKind, sqe: &Sqe) -> Result<&'a Grant, Status> {
    if kind.is_write() && !grant.writable {
        return Err(Status::INVALID_NAMESPACE);
    }
    if kind == OperationKind::Store && sqe.buffer_bytes() > grant.max_value_bytes {
        return Err(Status::INVALID_VALUE_SIZE);
    }
    Ok(grant)
}
