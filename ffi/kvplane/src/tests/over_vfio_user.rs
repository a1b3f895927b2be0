//! The client over the real carrier: the target of the data plane, with a hash map behind it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use dataplane::fabric::vfio_user::{CoreCommand, Cursor, Target, TargetOptions, VfioUserFabric};
use dataplane::fabric::{
    Admission, Capsule, Completion, ControllerIdentity, CorePort, Fabric, NamespaceInfo, Peer, Refused, Session,
    SessionId,
};
use dataplane::nvme::null::NullDevice;
use dataplane::nvme::spec::vendor::OwnerMap;

use super::*;
use crate::fake::{ClientData, KvMap, namespace};
use crate::{Address, Checksum, Error, Keys, Tier};

const OWNERS: OwnerMap = OwnerMap { shards: 3, cores: 2 };

struct OneHost(SessionId);

impl Session for OneHost {
    fn id(&self) -> SessionId {
        self.0
    }
    fn identity(&self) -> ControllerIdentity {
        ControllerIdentity {
            subsystem_nqn: "nqn.2026-01.io.kvplane:test".into(),
            serial: "1".into(),
            model: "test".into(),
            firmware: "1".into(),
            controller_id: 1,
            max_transfer_bytes: 1 << 20,
            owners: OWNERS,
        }
    }
    fn namespaces(&self) -> Vec<NamespaceInfo> {
        vec![namespace()]
    }
    fn generation(&self) -> u64 {
        0
    }
}

#[derive(Default)]
struct AnyHost {
    sessions: AtomicU16,
}

impl Admission for AnyHost {
    fn open(&self, _peer: &Peer) -> Result<Box<dyn Session>, Refused> {
        Ok(Box::new(OneHost(SessionId(self.sessions.fetch_add(1, Ordering::Relaxed)))))
    }
}

#[derive(Default)]
struct Mailboxes([Mutex<VecDeque<CoreCommand>>; 2]);

impl CorePort<CoreCommand> for Mailboxes {
    fn cores(&self) -> u16 {
        2
    }
    fn send(&self, core: u16, command: CoreCommand) -> Result<(), CoreCommand> {
        self.0[usize::from(core)].lock().unwrap().push_back(command);
        Ok(())
    }
}

/// A listening target and the thread that plays both of its cores.
struct Server {
    target: Option<Target>,
    stop: Arc<AtomicBool>,
    /// Commands on a queue whose core does not own their key.
    misplaced: Arc<Mutex<usize>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(folder: &Path, store: Arc<Mutex<KvMap>>) -> Self {
        let mailboxes = Arc::new(Mailboxes::default());
        let target =
            Target::listen(folder, TargetOptions::default(), mailboxes.clone(), Arc::<AnyHost>::default()).unwrap();
        let (stop, misplaced) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let thread = std::thread::spawn({
            let (stop, misplaced) = (stop.clone(), misplaced.clone());
            move || {
                // The devices are only attached to: values lie in a map.
                let mut cores = [0, 1].map(|core| (VfioUserFabric::new(core), NullDevice::new(1).queue(1, 1024)));
                while !stop.load(Ordering::Relaxed) {
                    for (core, (fabric, blocks)) in cores.iter_mut().enumerate() {
                        let command = mailboxes.0[core].lock().unwrap().pop_front();
                        if let Some(command) = command {
                            fabric.command(command, blocks);
                        }
                        fabric.settle(blocks);
                        *misplaced.lock().unwrap() += serve(fabric, core as u32, &store);
                    }
                    std::thread::yield_now();
                }
            }
        });
        Self { target: Some(target), stop, misplaced, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The cores must still run while the target gives its clients up.
        self.target.take();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

struct Window<'a> {
    fabric: &'a mut VfioUserFabric,
    data: Cursor,
}

impl ClientData for Window<'_> {
    fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut into = vec![0; bytes];
        self.fabric.copy_from_client(&mut self.data.clone(), &mut into).unwrap();
        into
    }
    fn write(&mut self, from: &[u8]) {
        self.fabric.copy_to_client(&mut self.data.clone(), from).unwrap();
    }
}

/// Carries a burst out; how many commands came to a core that does not own their key.
fn serve(fabric: &mut VfioUserFabric, core: u32, store: &Mutex<KvMap>) -> usize {
    use dataplane::nvme::spec::kv::{KeyFields, opcode};
    let mut capsules = Burst::new();
    fabric.poll(&mut capsules);
    let mut misplaced = 0;
    for capsule in capsules {
        let data = fabric.data(&capsule);
        let Capsule { sqe, permit, .. } = capsule;
        let has_key = matches!(sqe.opcode(), opcode::STORE | opcode::RETRIEVE | opcode::EXIST | opcode::DELETE);
        misplaced += usize::from(has_key && OWNERS.owner_core(Key::new(sqe.key_bytes()).tag()) != core);
        let (dword0, dword1, status) = store.lock().unwrap().execute(&sqe, &mut Window { fabric, data });
        fabric.complete(permit, Completion { dword0, dword1, status });
    }
    fabric.flush();
    misplaced
}

fn connect_to(folder: &Path, options: ConnectOptions) -> Client {
    Client::connect(&Address::parse(folder.to_str().unwrap()).unwrap(), options).unwrap()
}

#[test]
fn every_command_works() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), Arc::default());
    let options = ConnectOptions { checksum: Checksum::Verify, ..ConnectOptions::default() };
    let mut client = connect_to(folder.path(), options);
    assert_eq!(client.identity().owners, Some(OWNERS));
    assert_eq!(client.identity().subsystem_nqn, "nqn.2026-01.io.kvplane:test");
    assert_eq!(client.namespaces().unwrap(), [namespace()]);
    assert_eq!(client.queues(), 2);
    for number in 0..40u64 {
        let value = vec![number as u8; 1 + number as usize * 20_000];
        client.put(key(number), &value).unwrap();
        assert_eq!(client.get(key(number)).unwrap().unwrap(), value);
    }
    assert_eq!(client.get(key(99)).unwrap(), None);
    let chain = [key(0), key(1), key(99)];
    let (hits, lease) = client.lookup_prefix_leased(&chain, Duration::from_secs(1)).unwrap();
    assert_eq!(hits, 2);
    client.release(lease.unwrap()).unwrap();
    let states = client.lookup_state(&chain).unwrap();
    assert_eq!((states[1].tier, states[1].value_bytes, states[2].present), (Tier::Flash, 20_001, false));
    assert!(client.delete(key(0)).unwrap() && !client.exists(key(0)).unwrap());
    assert_eq!(client.stats().failed, 0);
    assert_eq!(*server.misplaced.lock().unwrap(), 0);
}

#[test]
fn a_deep_pipeline_over_two_cores_ends_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::start(folder.path(), Arc::default());
    for interrupt in [false, true] {
        let options = ConnectOptions { queue_depth: 16, interrupt, ..ConnectOptions::default() };
        let mut client = connect_to(folder.path(), options);
        let mut burst = Burst::new();
        let (mut next, mut ended) = (0u64, 0u64);
        while ended < 2000 {
            while next < 2000 && client.submit(Request::Exist { key: key(next) }, next).is_ok() {
                next += 1;
            }
            assert!(client.wait(LONG).unwrap());
            client.poll(&mut burst);
            ended += burst.len() as u64;
            assert!(burst.drain(..).all(|event| event.outcome == Outcome::Exists(false)));
        }
        assert_eq!((client.outstanding(), client.stats().unknown_completions), (0, 0));
    }
}

#[test]
fn a_client_survives_its_targets_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Mutex::new(KvMap::default()));
    let server = Server::start(folder.path(), store.clone());
    let mut client = connect_to(folder.path(), ConnectOptions::default());
    let memory = client.register(8192).unwrap();
    client.put(key(1), b"before").unwrap();
    drop(server);
    client.submit(Request::Exist { key: key(1) }, 0).unwrap();
    assert_eq!(events(&mut client, 1)[0].outcome, Outcome::Failed(Error::Disconnected));
    assert!(matches!(client.reconnect(), Err(Error::Connect { .. })));
    let _server = Server::start(folder.path(), store);
    client.reconnect().unwrap();
    let buffer = memory.slice(4096, 4096).unwrap();
    let got = outcome(&mut client, Request::Retrieve { key: key(1), buffer });
    assert_eq!(got, Outcome::Retrieved { bytes: 6, value_bytes: 6, checksum_ok: false });
    let mut bytes = [0; 6];
    memory.read(4096, &mut bytes).unwrap();
    assert_eq!(&bytes, b"before");
    client.unregister(&memory).unwrap();
}

#[test]
fn an_address_where_nobody_listens_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::parse(folder.path().to_str().unwrap()).unwrap();
    let refused = Client::connect(&address, ConnectOptions::default()).unwrap_err().to_string();
    assert!(refused.contains(folder.path().to_str().unwrap()), "{refused}");
}

/// One round of every command that a loaded engine sends, at depth.
fn busy_round(client: &mut Client, memory: &Memory, keys: &[Key], burst: &mut Burst<Event>) {
    let buffer = memory.slice(0, 4096).unwrap();
    let requests = [
        Request::Store { key: keys[0], buffer, options: StoreOptions::default() },
        Request::Retrieve { key: keys[1], buffer },
        Request::Exist { key: keys[2] },
        Request::LookupPrefix { keys: Keys::Copied(keys), lease: None },
    ];
    for request in requests.iter().cycle().take(20) {
        client.submit(*request, 0).unwrap();
    }
    while client.outstanding() > 0 {
        client.poll(burst);
        burst.clear();
    }
}

#[test]
fn commands_allocate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::start(folder.path(), Arc::default());
    let mut client = connect_to(folder.path(), ConnectOptions { checksum: Checksum::Verify, ..Default::default() });
    let memory = client.register(4096).unwrap();
    let keys: Vec<Key> = (0..3).map(key).collect();
    let mut burst = Burst::new();
    busy_round(&mut client, &memory, &keys, &mut burst);
    let before = allocations::count();
    assert!(before > 0, "the counter counts");
    for _ in 0..50 {
        busy_round(&mut client, &memory, &keys, &mut burst);
    }
    assert_eq!(allocations::count() - before, 0);
    assert_eq!((client.stats().failed, client.stats().completed), (0, 51 * 20));
}
