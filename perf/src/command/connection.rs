//! Which target a command drives, and on which core.

use anyhow::{Context, bail};
use clap::Args;
use kvplane::{Address, ConnectOptions, NetworkOptions};

use crate::target::{ClientTarget, MemoryTarget, RedisTarget};

/// Where the values go.
// The texts are those of --help, where brackets mean what they do on command lines.
#[allow(rustdoc::broken_intra_doc_links)]
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// Where kvplaned listens (vfio-user:DIR, DIR, tcp://HOST[:PORT][/NQN] or rdma://HOST[:PORT][/NQN]). To compare with:
    /// redis://HOST:PORT, a Redis server; "memory" keeps the values in this process, to try things out
    #[arg(long, value_name = "ADDRESS", default_value = "memory")]
    pub connect: String,
    /// Namespace to use
    #[arg(long, default_value_t = 1, value_name = "NSID")]
    pub namespace: u32,
    /// Pin this program to a core
    #[arg(long, value_name = "CORE")]
    pub cpu: Option<usize>,
    /// Across a network: the NQN under which this host is let in [default: that of /etc/nvme/hostnqn, or one made from
    /// /etc/machine-id]
    #[arg(long, value_name = "NQN")]
    pub host_nqn: Option<String>,
    /// With tcp://: guard headers and data on the wire by digests, where the target does
    #[arg(long)]
    pub digests: bool,
}

/// One of the targets.
pub enum AnyTarget {
    /// This process's memory.
    Memory(MemoryTarget),
    /// A daemon.
    Client(Box<ClientTarget>),
    /// A Redis server.
    Redis(Box<RedisTarget>),
}

impl Connection {
    /// Pins the thread, then connects with queues for `depth` commands. Memory lies in hugepages if some are free.
    ///
    /// # Errors
    /// If the core does not exist or the target cannot be reached.
    pub fn open(&self, depth: u32) -> anyhow::Result<AnyTarget> {
        self.open_with(depth, true)
    }

    /// As [`open`](Self::open), with memory out of ordinary pages unless `hugepages`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(&self, depth: u32, hugepages: bool) -> anyhow::Result<AnyTarget> {
        pin(self.cpu)?;
        if self.connect == "memory" {
            return Ok(AnyTarget::Memory(MemoryTarget::new()));
        }
        if let Some(server) = self.connect.strip_prefix("redis://") {
            let target = RedisTarget::connect(server).with_context(|| format!("cannot connect to {}", self.connect))?;
            return Ok(AnyTarget::Redis(Box::new(target)));
        }
        let address = Address::parse(&self.connect).context("--connect")?;
        let network = NetworkOptions {
            host_nqn: self.host_nqn.clone(),
            header_digest: self.digests,
            data_digest: self.digests,
            ..NetworkOptions::default()
        };
        let namespace = self.namespace;
        let options = ConnectOptions { namespace, hugepages, network, ..ConnectOptions::default() };
        Ok(AnyTarget::Client(Box::new(ClientTarget::connect(&address, depth, options)?)))
    }
}

/// Pins this thread to a core, if one is named.
///
/// # Errors
/// If there is no such core for this process.
pub(super) fn pin(core: Option<usize>) -> anyhow::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let Some(id) = cores.iter().find(|id| id.id == core) else {
        let known: Vec<usize> = cores.iter().map(|id| id.id).collect();
        bail!("--cpu {core}: no such core; this process may use {known:?}");
    };
    if !core_affinity::set_for_current(*id) {
        bail!("--cpu {core}: the system refused to pin this thread");
    }
    Ok(())
}

/// Runs an expression with whichever target it is, so that the loop is compiled for each of them.
#[macro_export]
macro_rules! with_target {
    ($any:expr, $target:ident => $body:expr) => {
        match $any {
            $crate::command::connection::AnyTarget::Memory($target) => $body,
            $crate::command::connection::AnyTarget::Client(boxed) => {
                let $target = boxed.as_mut();
                $body
            }
            $crate::command::connection::AnyTarget::Redis(boxed) => {
                let $target = boxed.as_mut();
                $body
            }
        }
    };
}
