//! The policy as the cores read it: a flat table that never changes once it is built.
//!
//! The control plane compiles subsystems, hosts and namespaces into a new table after every change and gives each
//! core an `Arc` of it by message. Looking a grant up costs two loads.

use dataplane::fabric::SessionId;

/// The most sessions there can be at once. A [`SessionId`] is below it.
pub const MAX_SESSIONS: usize = 256;

/// What one host sees of one subsystem: a row of the table. Sessions of the same host share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewId(pub u16);

impl ViewId {
    /// The view of a session number that nobody holds: it lies past the end of every table.
    const NONE: Self = Self(u16::MAX);
}

/// When a Store is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the value is written. A power cut may lose it.
    #[default]
    Cache,
    /// After the value's record is durable.
    Durable,
}

impl Durability {
    /// Its name in requests and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Durable => "durable",
        }
    }
}

/// What a session may do with a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The namespace in the store: the low 28 bits of the CRC-32C of its name.
    pub ns28: u32,
    /// Its index for statistics, below [`MAX_NAMESPACES`](crate::control::state::MAX_NAMESPACES).
    pub namespace: u16,
    /// When its Stores are acknowledged.
    pub class: Durability,
    /// Bytes that it may hold in each shard; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// The longest value, in bytes.
    pub max_value_bytes: u32,
    /// Whether Store and Delete are allowed.
    pub writable: bool,
}

impl Grant {
    /// A grant of nothing: what stands where none was given yet.
    pub(crate) const NOTHING: Self = Self {
        ns28: 0,
        namespace: 0,
        class: Durability::Cache,
        quota_bytes: Some(0),
        max_value_bytes: 0,
        writable: false,
    };
}

/// Every session's grants. Immutable; shared by all cores.
#[derive(Debug, PartialEq, Eq)]
pub struct PolicyTable {
    views: Box<[ViewId; MAX_SESSIONS]>,
    /// Row by row, one row a view, `nsids` entries a row.
    grants: Box<[Option<Grant>]>,
    nsids: u32,
}

impl PolicyTable {
    /// A table that grants nothing to anybody.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::builder().build()
    }

    /// Begins a table.
    #[must_use]
    pub fn builder() -> PolicyTableBuilder {
        PolicyTableBuilder { views: [ViewId::NONE; MAX_SESSIONS], rows: Vec::new() }
    }

    /// What a session may do with the namespace that it calls `nsid`; `None` to refuse.
    #[inline]
    #[must_use]
    pub fn grant(&self, session: SessionId, nsid: u32) -> Option<&Grant> {
        let view = self.views.get(usize::from(session.0))?;
        // NSID 0 wraps to the largest number and is refused with the others that are out of range.
        let column = nsid.wrapping_sub(1);
        if column >= self.nsids {
            return None;
        }
        self.grants.get(usize::from(view.0) * self.nsids as usize + column as usize)?.as_ref()
    }

    /// How many different views there are.
    #[must_use]
    pub fn views(&self) -> usize {
        self.grants.len().checked_div(self.nsids as usize).unwrap_or(0)
    }
}

/// Collects views and sessions. Not for the hot path.
#[derive(Debug)]
pub struct PolicyTableBuilder {
    views: [ViewId; MAX_SESSIONS],
    rows: Vec<Vec<(u32, Grant)>>,
}

impl PolicyTableBuilder {
    /// Adds a view with the grants it has, by namespace identifier. Identifiers are from 1 and each occurs once.
    ///
    /// # Panics
    /// If there are more views than sessions, which the one caller cannot do.
    pub fn view(&mut self, grants: impl IntoIterator<Item = (u32, Grant)>) -> ViewId {
        assert!(self.rows.len() < MAX_SESSIONS, "a view exists for a session only");
        self.rows.push(grants.into_iter().filter(|(nsid, _)| *nsid > 0).collect());
        ViewId((self.rows.len() - 1) as u16)
    }

    /// Gives a session a view. A session number out of range is left without.
    pub fn session(&mut self, session: SessionId, view: ViewId) {
        if let Some(place) = self.views.get_mut(usize::from(session.0)) {
            *place = view;
        }
    }

    /// The finished table.
    #[must_use]
    pub fn build(self) -> PolicyTable {
        let nsids = self.rows.iter().flatten().map(|(nsid, _)| *nsid).max().unwrap_or(0);
        let mut grants = vec![None; self.rows.len() * nsids as usize].into_boxed_slice();
        for (view, row) in self.rows.iter().enumerate() {
            for (nsid, grant) in row {
                grants[view * nsids as usize + (*nsid - 1) as usize] = Some(*grant);
            }
        }
        PolicyTable { views: Box::new(self.views), grants, nsids }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(ns28: u32) -> Grant {
        Grant {
            ns28,
            namespace: 0,
            class: Durability::Cache,
            quota_bytes: Some(1 << 30),
            max_value_bytes: 1 << 20,
            writable: true,
        }
    }

    #[test]
    fn a_grant_fills_half_a_cache_line() {
        assert_eq!(size_of::<Option<Grant>>(), 32);
    }

    #[test]
    fn an_empty_table_refuses_everything() {
        let table = PolicyTable::deny_all();
        for session in [0, 1, 255, 256, u16::MAX] {
            for nsid in [0, 1, 2, u32::MAX] {
                assert_eq!(table.grant(SessionId(session), nsid), None);
            }
        }
    }

    #[test]
    fn a_session_finds_its_own_grants_only() {
        let mut builder = PolicyTable::builder();
        let wide = builder.view([(1, grant(10)), (3, grant(30))]);
        let narrow = builder.view([(2, grant(20))]);
        builder.session(SessionId(0), wide);
        builder.session(SessionId(7), wide);
        builder.session(SessionId(255), narrow);
        builder.session(SessionId(256), wide);
        let table = builder.build();
        assert_eq!(table.views(), 2);
        let seen = |session, nsid| table.grant(SessionId(session), nsid).map(|grant| grant.ns28);
        for session in [0, 7] {
            assert_eq!([0, 1, 2, 3, 4].map(|nsid| seen(session, nsid)), [None, Some(10), None, Some(30), None]);
        }
        // NSID 4 of view 0 must not reach into view 1's row.
        assert_eq!([0, 1, 2, 3, 4].map(|nsid| seen(255, nsid)), [None, None, Some(20), None, None]);
        assert_eq!(seen(1, 1), None);
        assert_eq!(seen(256, 1), None);
    }
}
