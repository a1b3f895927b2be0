//! The layer on RDMA devices: `tests/testbed/rdma.sh` runs these in a virtual machine with two of software's.
//!
//! `KVPLANE_TEST_RDMA` names two addresses on RDMA devices that reach each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::memory::{Region, RegionSlot};

const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of each end's memory.
const BYTES: usize = 256 << 10;

fn addresses() -> [IpAddr; 2] {
    let named = std::env::var("KVPLANE_TEST_RDMA").expect("KVPLANE_TEST_RDMA names two addresses");
    let mut parts = named.split(',').map(|part| part.parse().unwrap());
    [parts.next().unwrap(), parts.next().unwrap()]
}

/// One end: a domain, memory, a completion queue, and a connection.
struct End {
    channel: Arc<EventChannel>,
    endpoint: Endpoint,
    memory: RegisteredMemory,
    region: Arc<Region>,
    completions: Arc<CompletionQueue>,
    domain: Arc<Domain>,
}

impl End {
    fn equip(
        channel: &Arc<EventChannel>,
        mut endpoint: Endpoint,
        shared: bool,
    ) -> (Self, Option<Arc<SharedReceiveQueue>>) {
        let device = endpoint.device().unwrap().unwrap();
        let domain = Domain::new(device).unwrap();
        let completions = Arc::new(CompletionQueue::with_channel(device, 256).unwrap());
        let region = Arc::new(Region::anonymous(BYTES, RegionSlot(0)).unwrap());
        let memory = RegisteredMemory::new(&domain, &region, Access::Remote).unwrap();
        let shared = shared.then(|| Arc::new(SharedReceiveQueue::new(&domain, 32).unwrap()));
        endpoint
            .make_queue_pair(&QueuePairParts {
                domain: &domain,
                sends: &completions,
                receives: &completions,
                shared: shared.as_ref(),
                send_entries: 32,
                receive_entries: 32,
                inline_bytes: INLINE_BYTES as u32,
            })
            .unwrap();
        (Self { channel: Arc::clone(channel), endpoint, memory, region, completions, domain }, shared)
    }

    fn remote(&self, offset: u64) -> RemotePlace {
        RemotePlace { address: self.memory.address() + offset, key: self.memory.remote_key() }
    }

    fn post(&self, id: u64, work: Work, pieces: &[Piece]) {
        let mut list = SendList::new(1);
        assert!(list.push(id, work, pieces, true));
        self.endpoint.post(&mut list).unwrap();
    }

    /// Waits for `count` completions.
    fn finish(&self, count: usize) -> Vec<WorkDone> {
        let begin = Instant::now();
        let mut all = Vec::new();
        while all.len() < count {
            let mut done = [WorkDone::default(); 8];
            self.completions.arm().unwrap();
            let taken = self.completions.poll(&mut done).unwrap();
            all.extend_from_slice(&done[..taken]);
            if taken == 0 {
                self.completions.wait(1000).unwrap();
            }
            assert!(begin.elapsed() < LIMIT, "{} of {count}", all.len());
        }
        all
    }

    fn finish_well(&self, count: usize) -> Vec<WorkDone> {
        let all = self.finish(count);
        assert!(all.iter().all(|done| done.failed().is_none()), "{:?}", all[0].failed());
        all
    }

    fn receive(&self, id: u64, offset: u64) -> ReceiveList {
        let mut list = ReceiveList::new(1);
        assert!(list.push(id, &[self.memory.piece(offset, 4096).unwrap()]));
        list
    }
}

fn next(channel: &Arc<EventChannel>) -> Event {
    let begin = Instant::now();
    loop {
        if let Some(event) = channel.next(Duration::from_secs(1)).unwrap() {
            return event;
        }
        assert!(begin.elapsed() < LIMIT, "no event");
    }
}

fn listener() -> (Arc<EventChannel>, Endpoint) {
    let channel = EventChannel::new().unwrap();
    let mut listener = Endpoint::new(&channel).unwrap();
    listener.listen(SocketAddr::new(addresses()[1], 0), 8).unwrap();
    (channel, listener)
}

/// An endpoint that knows the way to a listener.
fn on_the_way(to: &Endpoint) -> (Arc<EventChannel>, Endpoint) {
    let channel = EventChannel::new().unwrap();
    let mut endpoint = Endpoint::new(&channel).unwrap();
    endpoint.resolve_address(to.local_address().unwrap(), Some(addresses()[0]), LIMIT).unwrap();
    assert!(matches!(next(&channel).kind, EventKind::AddressResolved));
    endpoint.resolve_route(LIMIT).unwrap();
    let event = next(&channel);
    assert!(matches!(event.kind, EventKind::RouteResolved));
    assert_eq!(event.endpoint, endpoint.id());
    (channel, endpoint)
}

const READS: Reads = Reads { answered: 16, under_way: 16 };

/// A client and a server that are connected, the server with a shared receive queue.
fn connected() -> (End, End, Arc<SharedReceiveQueue>, Endpoint) {
    let (server_channel, listener) = listener();
    let (client_channel, endpoint) = on_the_way(&listener);
    let (client, _) = End::equip(&client_channel, endpoint, false);
    client.endpoint.connect(READS, b"from the client").unwrap();
    let event = next(&server_channel);
    assert_eq!(event.endpoint, listener.id());
    assert!(event.private_data.starts_with(b"from the client"), "{:?}", event.private_data);
    let EventKind::ConnectRequest(request) = event.kind else { panic!("{event:?}") };
    assert_eq!((request.reads, request.peer_reads), (16, 16));
    assert_eq!(request.endpoint.peer_address().unwrap().ip(), addresses()[0]);
    let (server, shared) = End::equip(&server_channel, request.endpoint, true);
    server.endpoint.accept(READS, b"from the server").unwrap();
    let event = next(&client_channel);
    assert!(matches!(event.kind, EventKind::Established), "{event:?}");
    assert!(event.private_data.starts_with(b"from the server"));
    assert!(matches!(next(&server_channel).kind, EventKind::Established));
    (client, server, shared.unwrap(), listener)
}

#[test]
#[ignore = "wants two RDMA devices, see tests/testbed/rdma.sh"]
fn messages_and_memory_move() {
    let (client, server, shared, _listener) = connected();
    shared.post(&mut server.receive(70, 0)).unwrap();
    client.endpoint.post_receives(&mut client.receive(71, 0)).unwrap();

    // A message of two pieces from the client.
    client.region.write(8192, b"a command").unwrap();
    client.region.write(16384, b" and data").unwrap();
    let pieces = [client.memory.piece(8192, 9).unwrap(), client.memory.piece(16384, 9).unwrap()];
    client.post(1, Work::Send, &pieces);
    assert_eq!(client.finish_well(1)[0].id(), 1);
    let done = server.finish_well(1)[0];
    assert_eq!((done.id(), done.received(), Some(done.queue_pair())), (70, Some(18), server.endpoint.number()));
    let mut text = [0; 18];
    server.region.read(0, &mut text).unwrap();
    assert_eq!(&text, b"a command and data");

    // A READ from the client's memory.
    client.region.fill(64 << 10, 64 << 10, 0x5A).unwrap();
    server.post(2, Work::Read(client.remote(64 << 10)), &[server.memory.piece(128 << 10, 64 << 10).unwrap()]);
    assert_eq!(server.finish_well(1)[0].id(), 2);
    let mut bytes = vec![0; 64 << 10];
    server.region.read(128 << 10, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0x5A));

    // A WRITE and a message in one post, of which only the message tells that it ended. Where the message is there,
    // what was written is.
    server.region.fill(0, 64 << 10, 0xA5).unwrap();
    let mut list = SendList::new(2);
    let write = Work::Write(client.remote(128 << 10));
    assert!(list.push(3, write, &[server.memory.piece(0, 64 << 10).unwrap()], false));
    assert!(list.push_inline(4, Work::Send, b"it is there", true));
    assert!(!list.push_inline(5, Work::Send, b"no room", true));
    server.endpoint.post(&mut list).unwrap();
    let done = client.finish_well(1)[0];
    assert_eq!((done.id(), done.received()), (71, Some(11)));
    client.region.read(128 << 10, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0xA5));
    assert_eq!(server.finish_well(1)[0].id(), 4);

    // The end of a connection is told to the peer, and what is outstanding ends as flushed once it agrees.
    client.endpoint.post_receives(&mut client.receive(72, 0)).unwrap();
    server.endpoint.disconnect();
    let event = next(&client.channel);
    assert!(matches!(event.kind, EventKind::Disconnected), "{event:?}");
    assert_eq!(event.endpoint, client.endpoint.id());
    client.endpoint.disconnect();
    let done = client.finish(1)[0];
    assert!(done.id() == 72 && done.failed().is_some_and(WorkFault::is_flushed), "{done:?}");
}

#[test]
#[ignore = "wants two RDMA devices, see tests/testbed/rdma.sh"]
fn a_wrong_key_breaks_its_own_queue_pair_and_no_other() {
    let (client, server, shared, _listener) = connected();
    let (other_client, other_server, _other_shared, _other_listener) = connected();
    let piece = [server.memory.piece(0, 4096).unwrap()];
    // Beyond the end of what the key is for.
    server.post(1, Work::Write(client.remote(BYTES as u64)), &piece);
    let done = server.finish(1)[0];
    assert!(done.id() == 1 && done.failed().is_some_and(|fault| !fault.is_flushed()), "{done:?}");
    // From now on everything is flushed.
    server.post(2, Work::Write(client.remote(0)), &piece);
    assert!(server.finish(1)[0].failed().is_some_and(WorkFault::is_flushed));
    drop((server, shared));

    // A key of another domain, and one that was never given.
    let (third_client, third_server, _third_shared, _third_listener) = connected();
    let theirs = RemotePlace { key: client.memory.remote_key(), ..third_client.remote(0) };
    third_server.post(3, Work::Read(theirs), &[third_server.memory.piece(0, 4096).unwrap()]);
    assert!(third_server.finish(1)[0].failed().is_some());

    other_server.post(4, Work::Write(other_client.remote(0)), &[other_server.memory.piece(0, 4096).unwrap()]);
    assert_eq!(other_server.finish_well(1)[0].id(), 4);
}

#[test]
#[ignore = "wants two RDMA devices, see tests/testbed/rdma.sh"]
fn a_request_can_be_rejected_with_a_reason() {
    let (server_channel, listener) = listener();
    let (client_channel, endpoint) = on_the_way(&listener);
    let (client, _) = End::equip(&client_channel, endpoint, false);
    client.endpoint.connect(READS, b"let me in").unwrap();
    let EventKind::ConnectRequest(request) = next(&server_channel).kind else { panic!("no request") };
    request.endpoint.reject(&[1, 0, 6, 0]).unwrap();
    let event = next(&client_channel);
    assert!(matches!(event.kind, EventKind::Rejected) && event.private_data.starts_with(&[1, 0, 6, 0]), "{event:?}");

    // Nobody listens any more.
    let (client_channel, endpoint) = on_the_way(&listener);
    let (client, _) = End::equip(&client_channel, endpoint, false);
    drop(listener);
    client.endpoint.connect(READS, b"let me in").unwrap();
    let event = next(&client_channel);
    assert!(matches!(event.kind, EventKind::Rejected | EventKind::Failed), "{event:?}");
    assert!(client.domain.device().limits().shared_receives > 0);
}

#[test]
#[ignore = "wants two RDMA devices, see tests/testbed/rdma.sh"]
fn what_the_device_cannot_do_is_told() {
    let (_channel, listener) = listener();
    let (_client_channel, endpoint) = on_the_way(&listener);
    let device = endpoint.device().unwrap().unwrap();
    let domain = Domain::new(device).unwrap();
    // Software's device has no DMA buffers.
    let file = std::fs::File::open("/dev/zero").unwrap();
    let error = RegisteredMemory::dma_buf(&domain, file.into(), (0, 4096), 0, Access::Remote).unwrap_err();
    assert!(error.to_string().contains("DMA buffer"), "{error}");
    let region = Arc::new(Region::anonymous(8192, RegionSlot(0)).unwrap());
    let memory = RegisteredMemory::new(&domain, &region, Access::Local).unwrap();
    assert!(memory.piece(4096, 4096).is_some() && memory.piece(4096, 4097).is_none());
    assert!(memory.piece_of(region.slice(100, 4).unwrap()).is_some_and(|piece| piece.bytes() == 4));
    assert!(SharedReceiveQueue::new(&domain, u32::MAX).is_err());
}

/// A machine without RDMA says what it lacks; one that has everything opens a channel.
#[test]
fn a_machine_without_rdma_says_what_it_lacks() {
    match EventChannel::new() {
        Ok(channel) => assert!(channel.next(Duration::ZERO).unwrap().is_none()),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("install them") || text.contains("rdma_ucm"), "{text}");
        }
    }
}
