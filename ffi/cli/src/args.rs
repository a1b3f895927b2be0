//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::key::KeyArg;
use crate::rpc::CallArgs;
use crate::store::StoreCommand;

const ABOUT: &str = "\
Store, fetch and look up KV-cache blocks by key, drive kvplaned over its control socket, and look into its store.

Values travel where kvplaned listens for them (its --listen), which --connect names: over shared memory in a folder of \
this machine (vfio-user:DIR), or across a network by NVMe/TCP (tcp://HOST:PORT). Calls of rpc go to its control socket \
instead (its --rpc-socket PATH).

KEY is 32 hex digits (16 bytes), or text:NAME for a name of 1 to 16 bytes, which is padded with zero bytes to 16. \
With --text every KEY is a name, so that no prefix is needed.

Exit codes: 0 done, 1 a key has no value (put --if-absent: has one; store inspect: problems found), 2 the command \
line is wrong, 3 anything else went wrong.";

const EXAMPLES: &str = "\
Examples:
  kvplane put text:hello README.md          store a file
  kvplane get text:hello -o copy.md         fetch it again
  kvplane lookup text:hello text:world      which keys of a chain are there, and where
  kvplane rpc                               list the methods of the control socket
  kvplane rpc framework_get_reactors        call one
  kvplane rpc namespace_create --help       what a method takes
  kvplane store inspect /data/kvplane       what is in a store that no daemon uses";

/// Everything that `kvplane` understands.
#[derive(Debug, Parser)]
#[command(name = "kvplane", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Commands about values.
    #[command(flatten)]
    Values(ValueCommand),
    /// Call a method of kvplaned's control socket; without a method, list them.
    #[command(long_about = crate::rpc::ABOUT)]
    Rpc(CallArgs),
    /// Look into a store's file while no daemon runs on it.
    Store {
        /// What to do with it.
        #[command(subcommand)]
        command: StoreCommand,
    },
}

/// Commands about values.
#[derive(Debug, Subcommand)]
pub enum ValueCommand {
    /// Store a value, over what was there.
    Put {
        /// Key: 32 hex digits, or text:NAME.
        key: KeyArg,
        /// File with the value; - or nothing for standard input.
        file: Option<PathBuf>,
        /// Keep what is there: end with 1 if the key has a value already.
        #[arg(long)]
        if_absent: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Fetch a value; to standard output unless a file is named. Ends with 1 if there is none.
    Get {
        /// Key: 32 hex digits, or text:NAME.
        key: KeyArg,
        /// Where to write the value. Not touched on a miss.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Ask whether a key has a value. Prints nothing: ends with 0 if it has one, with 1 if not.
    Exists {
        /// Key: 32 hex digits, or text:NAME.
        key: KeyArg,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Remove a key and its value. Ends with 1 if there was none.
    Rm {
        /// Key: 32 hex digits, or text:NAME.
        key: KeyArg,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Look up a chain of keys: how many leading ones are there, and where each one lies. Ends with 1 unless all are.
    Lookup {
        /// Keys, from the head of the chain on: 32 hex digits each, or text:NAME.
        #[arg(required = true)]
        keys: Vec<KeyArg>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// Which target, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetArgs {
    /// Where kvplaned listens: vfio-user:DIR as in its --listen, or a plain DIR; tcp://HOST[:PORT][/NQN] across a network,
    /// port 4420 and subsystem nqn.2026-01.io.kvplane:tier unless others are named.
    #[arg(long, env = "KVPLANE_CONNECT", default_value = "vfio-user:/var/run/kvplane", value_name = "ADDR")]
    pub connect: kvplane::Address,
    /// Number of the namespace in the subsystem that listens there.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub namespace: u32,
    /// Store a checksum with the value, and check values that were stored with one.
    #[arg(long)]
    pub checksum: bool,
    /// Take every KEY for a name of 1 to 16 bytes, without a prefix.
    #[arg(long)]
    pub text: bool,
    /// Seconds after which a target that does not answer is given up.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
    /// Across a network: the NQN under which this host is let in [default: that of /etc/nvme/hostnqn, or one made from
    /// /etc/machine-id].
    #[arg(long, env = "KVPLANE_HOST_NQN", value_name = "NQN")]
    pub host_nqn: Option<String>,
    /// With tcp://: guard headers and data on the wire by digests, where the target does.
    #[arg(long)]
    pub digests: bool,
}

/// A number of seconds, with a fraction if need be.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    if !(0.01..=86_400.0).contains(&seconds) {
        return Err("must be 0.01 to 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_declaration_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_are_addressed_as_documented() {
        let args = parse("kvplane put text:a - --connect /run/x --namespace 3 --checksum").unwrap();
        let Command::Values(ValueCommand::Put { key, file, if_absent, target }) = args.command else {
            panic!("not a put")
        };
        assert_eq!(key.key(target.text).unwrap().bytes()[..2], *b"a\0");
        assert_eq!(file.unwrap().to_str(), Some("-"));
        assert_eq!(target.connect.to_string(), "vfio-user:/run/x");
        assert_eq!((target.namespace, target.checksum, if_absent), (3, true, false));
        let args = parse("kvplane get text:a --connect tcp://10.0.0.1 --host-nqn nqn.2026-01.x:y --digests").unwrap();
        let Command::Values(ValueCommand::Get { target, .. }) = args.command else { panic!("not a get") };
        assert_eq!(target.connect.to_string(), "tcp://10.0.0.1:4420/nqn.2026-01.io.kvplane:tier");
        assert_eq!((target.host_nqn.as_deref(), target.digests), (Some("nqn.2026-01.x:y"), true));
    }

    #[test]
    fn wrong_lines_end_with_the_usage_code() {
        let lines = [
            "kvplane",
            "kvplane put",
            "kvplane lookup",
            "kvplane get text:a --namespace 0",
            "kvplane get text:a --connect tcp:1.2.3.4:4420",
            "kvplane get text:a --connect tcp://1.2.3.4/tier",
            "kvplane get text:a --timeout 0",
            "kvplane store",
            "kvplane store inspect",
            "kvplane store inspect /tmp/x --shard -1",
            "kvplane frobnicate",
        ];
        for line in lines {
            assert_eq!(parse(line).unwrap_err().exit_code(), crate::end::End::Usage as i32, "{line}");
        }
    }

    #[test]
    fn a_methods_parameters_are_left_to_the_method() {
        let args = parse("kvplane rpc -s /tmp/x.sock namespace_create --name a --help --quota -5").unwrap();
        let Command::Rpc(call) = args.command else { panic!("not a call") };
        assert_eq!(call.socket.to_str(), Some("/tmp/x.sock"));
        assert_eq!(call.call, ["namespace_create", "--name", "a", "--help", "--quota", "-5"]);
        // Names that are options of the command itself belong to the method as well when they follow it.
        for rest in ["--help", "-h", "--timeout 5", "-s x", "--json-params {}"] {
            let args = parse(&format!("kvplane rpc -t 1 any {rest}")).unwrap();
            let Command::Rpc(call) = args.command else { panic!("not a call") };
            assert_eq!(call.call[1..].join(" "), rest);
            assert_eq!(call.timeout, Duration::from_secs(1));
        }
        assert_eq!(parse("kvplane rpc --help").unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
    }
}
