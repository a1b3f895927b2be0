//! How a client connects and behaves. Every default stands here.

use std::time::Duration;

use dataplane::fabric::tcp::initiator::ConnectOptions as TcpOptions;
use dataplane::fabric::tcp::wire::Digests;
use dataplane::nvme::spec::Status;

use crate::{Error, host};

/// Options of [`Client::connect`](crate::Client::connect).
///
/// ```
/// use kvplane::{Checksum, ConnectOptions};
/// let options = ConnectOptions { queue_depth: 32, checksum: Checksum::Verify, ..ConnectOptions::default() };
/// assert_eq!(options.namespace, 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectOptions {
    /// Commands in flight on each queue pair, 1 to 4,096. There is one queue pair per core of the target. Default 128.
    pub queue_depth: u16,
    /// Ask for an interrupt (an eventfd) with every completion, so that [`Client::wait`](crate::Client::wait) can
    /// sleep. Off by default: polling answers sooner and costs the target no system call.
    pub interrupt: bool,
    /// What to do with a command that failed for a passing reason.
    pub retry: RetryPolicy,
    /// What to do when the target went away.
    pub reconnect: ReconnectPolicy,
    /// Whether values are checked from end to end. Off by default.
    pub checksum: Checksum,
    /// The namespace that every command addresses, from 1. Default 1.
    pub namespace: u32,
    /// How long a command may take, and how long connecting may take. A command is given up after this long at the
    /// least and half as long again at the most; the connection is given up with it. 10 ms or more, default 10 s.
    pub deadline: Duration,
    /// Places for lists of keys that are copied (64 KiB each), which bounds how many such commands are in flight.
    /// Default 8.
    pub list_places: u16,
    /// Take hugepages for registered memory where there are free ones, ordinary pages otherwise. Default true.
    pub hugepages: bool,
    /// What targets across a network are told; a target on this machine is not.
    pub network: NetworkOptions,
}

/// What a target across a network is told of this host, and what is asked of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// The NQN of this host, by which the target knows what it may do. Default: that of /etc/nvme/hostnqn, or else one
    /// made from /etc/machine-id.
    pub host_nqn: Option<String>,
    /// The identifier of this host. Default: that of /etc/nvme/hostid, or else one that goes with the NQN.
    pub host_id: Option<[u8; 16]>,
    /// NVMe/TCP: ask for a CRC-32C over every header. The target may do without. Off by default.
    pub header_digest: bool,
    /// NVMe/TCP: ask for a CRC-32C over all data on the wire. Either end then reads every byte once more. The target may
    /// do without. Off by default; see [`Checksum`] for what guards values from end to end.
    pub data_digest: bool,
    /// Have the target end the connection after so long without a word from this client, in whole milliseconds. A client
    /// that is given one has to be polled or waited on several times within it. Default zero: a target notices by TCP
    /// alone that this host is gone.
    pub keep_alive: Duration,
}

impl NetworkOptions {
    pub(crate) fn for_initiator(&self, subsystem_nqn: &str, timeout: Duration) -> TcpOptions {
        let host_nqn = self.host_nqn.clone().unwrap_or_else(host::default_nqn);
        TcpOptions {
            timeout,
            subsystem_nqn: subsystem_nqn.to_owned(),
            host_id: self.host_id.unwrap_or_else(|| host::id_of(&host_nqn)),
            host_nqn,
            digests: Digests { header: self.header_digest, data: self.data_digest },
            keep_alive: self.keep_alive,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |option, reason: &str| Err(Error::Option { option, reason: reason.to_owned() });
        let named = |nqn: &String| nqn.starts_with("nqn.") && nqn.len() <= 223;
        if self.host_nqn.as_ref().is_some_and(|nqn| !named(nqn)) {
            return refuse("network.host_nqn", "must begin with \"nqn.\" and have 223 bytes at most");
        }
        if !self.keep_alive.is_zero() && self.keep_alive < Duration::from_millis(100) {
            return refuse("network.keep_alive", "must be 0 or 100 ms or more");
        }
        Ok(())
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            queue_depth: 128,
            interrupt: false,
            retry: RetryPolicy::default(),
            reconnect: ReconnectPolicy::default(),
            checksum: Checksum::Off,
            namespace: 1,
            deadline: Duration::from_secs(10),
            list_places: 8,
            hugepages: true,
            network: NetworkOptions::default(),
        }
    }
}

impl ConnectOptions {
    /// The longest queue.
    pub const MAX_QUEUE_DEPTH: u16 = 4096;

    /// Checks every option against its range.
    ///
    /// # Errors
    /// [`Error::Option`] with the name of the first option that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |option, reason: &str| Err(Error::Option { option, reason: reason.to_owned() });
        if self.queue_depth == 0 || self.queue_depth > Self::MAX_QUEUE_DEPTH {
            return refuse("queue_depth", "must be 1 to 4096");
        }
        if self.namespace == 0 || self.namespace == u32::MAX {
            return refuse("namespace", "must be 1 to 4294967294");
        }
        if self.deadline < Duration::from_millis(10) {
            return refuse("deadline", "must be 10 ms or more");
        }
        if self.list_places == 0 || self.list_places > 1024 {
            return refuse("list_places", "must be 1 to 1024");
        }
        self.network.check()
    }
}

/// When a command that failed is sent again by the client itself.
///
/// A status is retried if the target left its do-not-retry bit clear (namespace not ready, internal error, data
/// transfer error, aborted). All commands may safely be repeated. Counted in [`Stats::retries`](crate::Stats).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Times a command is sent again at the most; 0 for never. Default 4.
    pub attempts: u8,
    /// Wait before the first repetition. Default 200 us.
    pub first_delay: Duration,
    /// Each further wait doubles, up to this. Default 10 ms.
    pub max_delay: Duration,
}

impl RetryPolicy {
    /// Report every failure at once.
    pub const NEVER: Self = Self { attempts: 0, first_delay: Duration::ZERO, max_delay: Duration::ZERO };

    /// Whether a status is one that a repetition may mend.
    #[must_use]
    pub const fn covers(&self, status: Status) -> bool {
        !status.is_success() && !status.is_final()
    }

    /// The wait before repetition `attempt` (from 0).
    #[must_use]
    pub fn delay(&self, attempt: u8) -> Duration {
        doubled(self.first_delay, self.max_delay, u32::from(attempt))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 4, first_delay: Duration::from_micros(200), max_delay: Duration::from_millis(10) }
    }
}

/// What happens after the target went away. Commands that were in flight fail with [`Error::Disconnected`] either
/// way; memory stays registered, its buffers stay valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconnectPolicy {
    /// Nothing: the caller decides, and calls [`Client::reconnect`](crate::Client::reconnect).
    Manual,
    /// The next submission or blocking call tries to connect, one attempt per call and not before the wait since the
    /// last attempt is over. The attempt takes [`ConnectOptions::deadline`] at the most, so a caller that must not
    /// be held up wants [`Manual`](Self::Manual).
    Automatic {
        /// Wait after the first attempt that failed.
        first_delay: Duration,
        /// Each further wait doubles, up to this.
        max_delay: Duration,
    },
}

impl ReconnectPolicy {
    /// The wait after `failures` attempts (from 1) that failed; `None` if only the caller reconnects.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Option<Duration> {
        match *self {
            Self::Manual => None,
            Self::Automatic { first_delay, max_delay } => {
                Some(doubled(first_delay, max_delay, failures.saturating_sub(1)))
            }
        }
    }
}

impl Default for ReconnectPolicy {
    /// [`Manual`](Self::Manual).
    fn default() -> Self {
        Self::Manual
    }
}

/// Whether values are checked from end to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// No checksum is made or compared.
    #[default]
    Off,
    /// A CRC-64/NVME goes with every Store, and every Retrieve is compared with what was stored. A value that does
    /// not match is reported as [`Error::Corrupt`] and overwritten with zeros in the buffer.
    Verify,
}

fn doubled(first: Duration, max: Duration, times: u32) -> Duration {
    first.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound() {
        let retry = RetryPolicy::default();
        assert_eq!(retry.delay(0), Duration::from_micros(200));
        assert_eq!(retry.delay(2), Duration::from_micros(800));
        assert_eq!(retry.delay(255), Duration::from_millis(10));
        let reconnect =
            ReconnectPolicy::Automatic { first_delay: Duration::from_secs(1), max_delay: Duration::from_secs(3) };
        assert_eq!(reconnect.delay(1), Some(Duration::from_secs(1)));
        assert_eq!(reconnect.delay(3), Some(Duration::from_secs(3)));
        assert_eq!(ReconnectPolicy::Manual.delay(1), None);
    }

    #[test]
    fn only_passing_failures_are_retried() {
        let retry = RetryPolicy::default();
        assert!(retry.covers(Status::NAMESPACE_NOT_READY));
        assert!(!retry.covers(Status::KEY_DOES_NOT_EXIST));
        assert!(!retry.covers(Status::SUCCESS));
    }

    #[test]
    fn options_out_of_range_are_named() {
        assert!(ConnectOptions::default().check().is_ok());
        let refused = ConnectOptions { queue_depth: 0, ..ConnectOptions::default() }.check().unwrap_err();
        assert!(refused.to_string().contains("queue_depth"), "{refused}");
        assert!(ConnectOptions { namespace: 0, ..ConnectOptions::default() }.check().is_err());
        assert!(ConnectOptions { deadline: Duration::ZERO, ..ConnectOptions::default() }.check().is_err());
        let of_host = |host_nqn: &str| NetworkOptions { host_nqn: Some(host_nqn.into()), ..NetworkOptions::default() };
        assert!(ConnectOptions { network: of_host("nqn.2026-01.x:y"), ..ConnectOptions::default() }.check().is_ok());
        assert!(ConnectOptions { network: of_host("me"), ..ConnectOptions::default() }.check().is_err());
        let network = NetworkOptions { keep_alive: Duration::from_millis(1), ..NetworkOptions::default() };
        assert!(ConnectOptions { network, ..ConnectOptions::default() }.check().is_err());
    }
}
