//! From what is configured to the table that the cores read.

use std::collections::BTreeMap;

use dataplane::fabric::SessionId;

use super::State;
use crate::policy::table::{Grant, PolicyTable};

impl State {
    /// The policy for a store of so many shards.
    pub(super) fn compile(&self, shards: u32) -> PolicyTable {
        let mut builder = PolicyTable::builder();
        let mut views = BTreeMap::new();
        for session in self.sessions.values().filter(|session| !session.revoked) {
            let Some(subsystem) = self.subsystems.get(&session.subsystem) else { continue };
            let view = *views.entry((&session.subsystem, &session.host)).or_insert_with(|| {
                builder.view(subsystem.visible(session.host.as_ref()).map(|(nsid, namespace)| {
                    let grant = Grant {
                        ns28: namespace.ns28,
                        namespace: namespace.index,
                        class: namespace.class,
                        quota_bytes: namespace.quota_per_shard(shards),
                        max_value_bytes: namespace.max_value_bytes,
                        writable: true,
                    };
                    (nsid, grant)
                }))
            });
            builder.session(SessionId(session.id), view);
        }
        builder.build()
    }
}
