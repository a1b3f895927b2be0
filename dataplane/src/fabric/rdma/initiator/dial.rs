//! Makes a connection: finds the device and the way, makes a queue pair, asks the target.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{ConnectError, ConnectOptions};
use crate::fabric::host::Deadline;
use crate::fabric::rdma::verbs::{
    CompletionQueue, Domain, Endpoint, Event, EventChannel, EventKind, INLINE_BYTES, QueuePairParts, Reads,
};
use crate::fabric::rdma::wire::{ConnectAnswer, ConnectQuery, Rejection};

/// How long to wait for an event before looking at the clock.
const LOOK: Duration = Duration::from_millis(100);
/// The reason of a rejection that says that nobody listens: invalid service identifier (IBTA, "REJ Reason codes").
const NOBODY_LISTENS: i32 = 8;

/// Whom to connect to, and how.
pub(super) struct Dial<'a> {
    pub target: SocketAddr,
    pub options: &'a ConnectOptions,
    /// The domain of the connections that there are already.
    pub domain: Option<&'a Arc<Domain>>,
    /// When the connection has to be there.
    pub deadline: Deadline,
}

/// One connection.
pub(super) struct Link {
    pub endpoint: Endpoint,
    pub completions: Arc<CompletionQueue>,
    pub domain: Arc<Domain>,
    channel: Arc<EventChannel>,
    lost: bool,
}

impl Dial<'_> {
    /// Finds the way and makes a queue pair for `entries` commands. The target knows nothing yet.
    pub fn prepare(&self, entries: u32, notices: bool) -> Result<Link, ConnectError> {
        let target = self.target;
        let channel = EventChannel::new()?;
        let mut endpoint = Endpoint::new(&channel)?;
        endpoint.resolve_address(target, self.options.from, self.deadline.left())?;
        self.expect(&channel, "find the RDMA device that leads to", |kind| matches!(kind, EventKind::AddressResolved))?;
        endpoint.resolve_route(self.deadline.left())?;
        self.expect(&channel, "find the way to", |kind| matches!(kind, EventKind::RouteResolved))?;
        let device = endpoint.device()?.ok_or(ConnectError::Invalid("the address belongs to no RDMA device"))?;
        let domain = match self.domain {
            Some(domain) if domain.device() != device => {
                return Err(ConnectError::Invalid("the way to the target leads over another RDMA device than before"));
            }
            Some(domain) => Arc::clone(domain),
            None => Domain::new(device)?,
        };
        // Sends and receives, all of which may end at once when the connection does.
        let room = 2 * entries + 2;
        let completions =
            if notices { CompletionQueue::with_channel(device, room)? } else { CompletionQueue::new(device, room)? };
        let completions = Arc::new(completions);
        endpoint.make_queue_pair(&QueuePairParts {
            domain: &domain,
            sends: &completions,
            receives: &completions,
            shared: None,
            send_entries: entries + 1,
            receive_entries: entries + 1,
            inline_bytes: INLINE_BYTES as u32,
        })?;
        Ok(Link { endpoint, completions, domain, channel, lost: false })
    }

    /// Asks the target for the connection. Receives were posted.
    pub fn establish(&self, link: &Link, query: &ConnectQuery) -> Result<(), ConnectError> {
        let answered = link.domain.device().limits().reads_answered;
        link.endpoint.connect(Reads { answered, under_way: 0 }, &query.encode())?;
        let event = self.expect(&link.channel, "connect to", |kind| matches!(kind, EventKind::Established))?;
        ConnectAnswer::decode(&event.private_data)
            .map(|_| ())
            .ok_or(ConnectError::Unsupported("the answer that NVMe over RDMA asks for"))
    }

    fn expect(
        &self,
        channel: &Arc<EventChannel>,
        what: &'static str,
        wanted: impl Fn(&EventKind) -> bool,
    ) -> Result<Event, ConnectError> {
        let failed = |cause: String| ConnectError::Unreachable { what, address: self.target, cause };
        loop {
            match channel.next(LOOK)? {
                Some(event) if wanted(&event.kind) => return Ok(event),
                Some(event) => {
                    if let Some(rejection) = Rejection::decode(&event.private_data) {
                        return Err(ConnectError::Rejected(rejection.reason));
                    }
                    return Err(failed(match event.kind {
                        EventKind::Rejected if event.status == NOBODY_LISTENS => {
                            "nobody listens there; is the daemon running, and does it listen for RDMA?".to_owned()
                        }
                        EventKind::Rejected => format!("rejected with reason {}", event.status),
                        _ => std::io::Error::from_raw_os_error(event.status.saturating_abs()).to_string(),
                    }));
                }
                None if self.deadline.has_passed() => return Err(failed("no answer".to_owned())),
                None => {}
            }
        }
    }
}

impl Link {
    /// Whether the target still holds its end. A system call.
    pub fn is_alive(&mut self) -> bool {
        while !self.lost {
            match self.channel.next(Duration::ZERO) {
                Ok(None) => break,
                Ok(Some(Event { kind: EventKind::Disconnected | EventKind::DeviceGone, .. })) | Err(_) => self.lose(),
                Ok(Some(_)) => {}
            }
        }
        !self.lost
    }

    /// The connection is of no use any more.
    pub fn lose(&mut self) {
        if !std::mem::replace(&mut self.lost, true) {
            self.endpoint.disconnect();
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.lose();
    }
}
