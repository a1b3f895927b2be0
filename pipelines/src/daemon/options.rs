//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser};
use dataplane::core::{CoreMask, IdlePolicy};

use super::{
    DeviceOption, DeviceOptions, Exit, HostOption, ListenOption, LogFormat, NamespaceOption, StartError, StoreOption,
};
use crate::control::LogLevel;

const EXAMPLES: &str = "\
Examples:
  Keep blocks in a file, and serve them to processes of this user on this machine:
    kvplaned -m 0x1 --store file:/var/lib/kvplane/store,size=16G --listen vfio-user:/run/kvplane/tier
  Serve two hosts of a storage network by NVMe/TCP:
    kvplaned -m 0x3 --store file:/dev/nvme0n1 --listen tcp://192.0.2.7 \\
      --host nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6 --host nqn.2026-01.com.example:gpu2
  Two cores, and a configuration that was saved with `kvplane rpc save_config`:
    kvplaned -m [0,2] --store file:/dev/nvme0n1 -c /etc/kvplane.json
  Two NVMe drives that the daemon drives itself, without the kernel on the way:
    kvplaned -m 0x3 --device vfio:0000:01:00.0 --device vfio:0000:02:00.0 --listen vfio-user:/run/kvplane/tier
  Configure by hand before anything is touched:
    kvplaned --wait-for-rpc --store ram:1G
    kvplane rpc framework_start_init

Exit codes:
  0 ended by a signal, everything drained   1 failure   2 command line   3 store not there, not ours, damaged, of
  another version or too small (left unchanged)   4 store or device in use   5 cores   6 memory   7 RPC socket   8 configuration file
  9 a second signal cut the drain short";

/// Pinned cores serve KV-cache blocks from flash to inference hosts.
// The texts are those of --help, where brackets mean what they do on command lines.
#[allow(rustdoc::broken_intra_doc_links)]
#[derive(Clone, Debug, Parser)]
#[command(name = "kvplaned", version, disable_version_flag = true, after_help = EXAMPLES, max_term_width = 120)]
pub struct Options {
    /// Cores to poll on: a hex mask or a list such as [0,2-3].
    #[arg(short = 'm', long, value_name = "MASK", default_value = "0x1", value_parser = CoreMask::parse, help_heading = "Cores")]
    pub cpumask: CoreMask,
    /// The main core, one of the mask; else the lowest.
    #[arg(short = 'p', long, value_name = "CORE", help_heading = "Cores")]
    pub main_core: Option<u32>,
    /// What a core does when it finds no work: spin, adaptive (spin, pause, sleep) or sleep.
    #[arg(long, value_name = "POLICY", default_value = "adaptive", help_heading = "Cores")]
    pub idle: IdlePolicy,
    /// Let other processes poll on the same cores.
    #[arg(long, help_heading = "Cores")]
    pub disable_cpumask_locks: bool,

    /// Memory for data on its way, in MiB, over all cores; else what the cores need.
    #[arg(short = 's', long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1 << 24), help_heading = "Memory")]
    pub mem_size: Option<u64>,
    /// Use ordinary locked pages instead of hugepages.
    #[arg(long, help_heading = "Memory")]
    pub no_huge: bool,

    /// What to keep values on: file:PATH[,size=2G][,segment=64M][,shards=N][,format=never|if-empty|force] (a file or
    /// block device), ram:SIZE, or null:SIZE (for measuring).
    #[arg(long, value_name = "STORE", help_heading = "Store")]
    pub store: Option<StoreOption>,

    /// Keep values on an NVMe drive that the daemon drives itself, instead of --store: vfio:0000:01:00.0[/NSID] (bind it
    /// first with scripts/setup.sh bind 0000:01:00.0), or vfio-user:DIR[/NSID] for a controller that is another process,
    /// then [,segment=64M][,shards=N][,format=never|if-empty|force]. Can be repeated: the drives then hold one store, and
    /// are to be given together, in any order.
    #[arg(long, value_name = "DEVICE", conflicts_with = "store", help_heading = "Store")]
    pub device: Vec<DeviceOption>,

    /// Serve processes and VMs of this machine by a controller in this folder (vfio-user:DIR), or hosts of a network at
    /// this IP address and port (tcp://ADDR:PORT or rdma://ADDR:PORT; 0.0.0.0 or [::] for all of this machine's; 4420 if
    /// there is no port). Makes the subsystem nqn.2026-01.io.kvplane:tier, to which processes of the starting user are
    /// attached; hosts of a network need --host. Can be repeated.
    #[arg(long, value_name = "ADDRESS", help_heading = "Serving")]
    pub listen: Vec<ListenOption>,
    /// A namespace of that subsystem: NAME[,quota=64G][,class=cache|durable][,max-value=4M]. Can be repeated; else there is
    /// one called default.
    #[arg(long, value_name = "NAMESPACE", requires = "listen", help_heading = "Serving")]
    pub namespace: Vec<NamespaceOption>,

    /// Attach a host of a network to that subsystem, by the NQN that it gives (on Linux /etc/nvme/hostnqn). A name proves
    /// nothing: let only such hosts reach the address. Can be repeated; without, nobody may connect over a network.
    #[arg(long, value_name = "NQN", requires = "listen", help_heading = "Serving")]
    pub host: Vec<HostOption>,
    /// Let everybody connect to that subsystem, and see its namespaces, who can reach it.
    #[arg(long, requires = "listen", help_heading = "Serving")]
    pub allow_any_host: bool,

    /// The RPC socket.
    #[arg(short = 'r', long, value_name = "PATH", default_value = "/var/tmp/kvplane.sock", help_heading = "Control")]
    pub rpc_socket: PathBuf,
    /// A JSON file of calls, {"subsystems": [{"subsystem", "config": [{"method", "params"}]}]}, made at start-up.
    #[arg(short = 'c', long, visible_alias = "json", value_name = "FILE", help_heading = "Control")]
    pub config: Option<PathBuf>,
    /// Wait for framework_start_init by RPC before anything is touched.
    #[arg(long, help_heading = "Control")]
    pub wait_for_rpc: bool,

    /// How much to log: ERROR, WARNING, NOTICE, INFO or DEBUG.
    #[arg(long, value_name = "LEVEL", default_value = "NOTICE", value_parser = log_level, help_heading = "Log")]
    pub log_level: LogLevel,
    /// Log everything of a part of the program; see log_get_flags. Can be repeated.
    #[arg(short = 'L', long, value_name = "FLAG", value_parser = super::logging::check_flag, help_heading = "Log")]
    pub logflag: Vec<String>,
    /// How to log to standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text", help_heading = "Log")]
    pub log_format: LogFormat,

    /// Print the methods of the RPC socket as Markdown and exit.
    #[arg(long)]
    pub rpc_docs: bool,
    /// Print the version and exit.
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

impl Options {
    /// Checks what one option alone cannot tell. Touches nothing.
    ///
    /// # Errors
    /// What does not fit together, or that this process may not use the cores.
    pub fn check(&self) -> Result<(), StartError> {
        if self.store.is_none() && self.device.is_empty() {
            let message = "--store is missing: say what to keep values on, for example --store \
                           file:/var/lib/kvplane/store,size=16G, or --device vfio:0000:01:00.0 (see --help)";
            return Err(StartError::new(Exit::Usage, message));
        }
        DeviceOptions::of(&self.device).map_err(|error| StartError::new(Exit::Usage, error))?;
        if let Some(core) = self.main_core.filter(|core| !self.cpumask.contains(*core)) {
            let message = format!("-p {core}: the main core must be one of the core mask");
            return Err(StartError::new(Exit::Usage, message));
        }
        self.cpumask.check_available().map_err(|error| StartError::new(Exit::Cores, error))
    }
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    LogLevel::parse(text).ok_or_else(|| format!("expected one of {}", LogLevel::NAMES.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once("kvplaned").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_as_spdk_has_it() {
        Options::command().debug_assert();
        let options =
            parse("-m [0,2-3] -p 2 -r /tmp/s -c x.json -s 512 --no-huge -L rpc --store ram:1G --idle spin").unwrap();
        assert_eq!(options.cpumask.iter().collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!((options.main_core, options.mem_size, options.no_huge), (Some(2), Some(512), true));
        assert!(parse("--json x.json --listen vfio-user:/run/kv --namespace a --namespace b,class=durable").is_ok());
        let network = "--listen tcp://10.0.0.1 --listen rdma://[::]:5 --host nqn.2026-01.io.kvplane:a --host \
                       nqn.2026-01.io.kvplane:b --allow-any-host";
        let network = parse(network).unwrap();
        assert_eq!((network.listen.len(), network.host.len(), network.allow_any_host), (2, 2, true));
        assert_eq!(parse("-v").unwrap_err().kind(), clap::error::ErrorKind::DisplayVersion);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for line in [
            "--store ram:1G --device vfio:01:00.0",
            "--device nvme0",
            "-m 0",
            "-m x",
            "-s 0",
            "--idle nap",
            "-L nonsense",
            "--store tape:x",
            "--namespace a",
            "--listen tcp:x",
            "--listen tcp://kv.example",
            "--listen rdma://10.0.0.1:0",
            "--host nqn.2026-01.io.kvplane:a",
            "--listen tcp://10.0.0.1 --host a",
            "--allow-any-host",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let check = |line| parse(line).unwrap().check().map_err(|error| error.exit);
        assert_eq!(check(""), Err(Exit::Usage));
        assert_eq!(check("--store ram:1G -m 1 -p 1"), Err(Exit::Usage));
        assert_eq!(check("--device vfio:01:00.0,shards=1 --device vfio:02:00.0,shards=2"), Err(Exit::Usage));
        assert_eq!(check("--store ram:1G -m [127]"), Err(Exit::Cores));
    }
}
