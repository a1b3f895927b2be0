//! A target of NVMe/TCP in this process: two queues over a hash map, with every setting that a target may choose, and
//! with lies.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use dataplane::fabric::tcp::wire::*;
use dataplane::nvme::spec::fabrics::{CapsuleData, ConnectData, FABRICS_OPCODE, FabricsCommand};
use dataplane::nvme::spec::vendor::OwnerMap;
use dataplane::nvme::spec::{Cqe, DataPointer, Sqe, Status};
use zerocopy::IntoBytes;

use crate::fake::{ClientData, KvMap, namespace};

pub(super) const OWNERS: OwnerMap = OwnerMap { shards: 3, cores: 2 };
pub(super) const NQN: &str = "nqn.2026-01.io.kvplane:fake";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    None,
    /// Takes connections and says nothing.
    Silent,
    /// Closes every connection at once.
    Closes,
    /// Answers ICReq by a termination.
    Terminates,
    /// These bytes of the ICResp are other ones.
    Greeting(usize, u8),
    /// Connect ends so.
    Refuses(Status, u32),
    /// Every second C2HData has a wrong digest.
    SpoilsDigests,
    /// C2HData goes on behind the end of the command's buffer.
    Overruns,
    /// Half of a value, then the end of the connection.
    Breaks,
    /// No admin command is answered once the queues are there.
    AdminStalls,
    /// The list of namespaces is told once only.
    ListsOnce,
    /// Takes so long over every admin command.
    Slow(std::time::Duration),
}

/// What the target chooses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub digests: Digests,
    pub alignment: u8,
    pub max_h2c_data: u32,
    pub capsule_data: u32,
    pub r2t_bytes: u32,
    pub r2ts: usize,
    pub c2h_bytes: u32,
    pub success_flag: bool,
    pub lie: Lie,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            digests: Digests { header: true, data: true },
            alignment: 0,
            max_h2c_data: 128 << 10,
            capsule_data: 8192,
            r2t_bytes: 1 << 20,
            r2ts: 1,
            c2h_bytes: 1 << 20,
            success_flag: false,
            lie: Lie::None,
        }
    }
}

#[derive(Default)]
struct Shared {
    settings: Mutex<Settings>,
    store: Mutex<KvMap>,
    streams: Mutex<Vec<TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    connects: Mutex<Vec<ConnectData>>,
    keep_alives: AtomicUsize,
    stop: AtomicBool,
}

pub(super) struct TcpTarget {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TcpTarget {
    pub fn start(settings: Settings) -> Self {
        let shared = Arc::new(Shared::default());
        *shared.settings.lock().unwrap() = settings;
        Self::listen("127.0.0.1:0".parse().unwrap(), shared)
    }

    fn listen(address: SocketAddr, shared: Arc<Shared>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        shared.stop.store(false, Ordering::Relaxed);
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    stream.set_nodelay(true).unwrap();
                    shared.streams.lock().unwrap().push(stream.try_clone().unwrap());
                    let settings = *shared.settings.lock().unwrap();
                    let of_thread = shared.clone();
                    let serve = move || {
                        // It ends with an error when the client goes, or is sent away.
                        let _ = Connection::serve(stream, settings, &of_thread);
                    };
                    shared.threads.lock().unwrap().push(std::thread::spawn(serve));
                }
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Ends and listens again, with the same values.
    pub fn restart(self) -> Self {
        let (address, shared) = (self.address, self.shared.clone());
        drop(self);
        Self::listen(address, shared)
    }

    pub fn set(&self, settings: Settings) {
        *self.shared.settings.lock().unwrap() = settings;
    }

    pub fn store(&self) -> &Mutex<KvMap> {
        &self.shared.store
    }

    pub fn connects(&self) -> Vec<ConnectData> {
        self.shared.connects.lock().unwrap().clone()
    }

    pub fn keep_alives(&self) -> usize {
        self.shared.keep_alives.load(Ordering::Relaxed)
    }
}

impl Drop for TcpTarget {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let threads: Vec<_> = self.shared.threads.lock().unwrap().drain(..).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

/// A command whose data comes.
struct Pending {
    sqe: Sqe,
    data: Vec<u8>,
    length: u32,
    asked: u32,
    open: usize,
}

struct Connection<'a> {
    stream: TcpStream,
    settings: Settings,
    shared: &'a Shared,
    decoder: Decoder,
    outgoing: Framing,
    pending: HashMap<u16, Pending>,
    qid: u16,
    data_pdus: usize,
    /// Lists of namespaces that were asked for.
    lists: usize,
}

struct Buffers<'a> {
    from: &'a [u8],
    into: Vec<u8>,
    room: usize,
}

impl ClientData for Buffers<'_> {
    fn read(&mut self, bytes: usize) -> Vec<u8> {
        assert_eq!(self.from.len(), bytes);
        self.from.to_vec()
    }

    fn write(&mut self, from: &[u8]) {
        self.into.extend_from_slice(&from[..from.len().min(self.room)]);
    }
}

impl<'a> Connection<'a> {
    fn serve(stream: TcpStream, settings: Settings, shared: &'a Shared) -> io::Result<()> {
        let decoder = Decoder::new(End::Controller);
        let outgoing = Framing::INITIAL;
        let pending = HashMap::new();
        let mut connection =
            Self { stream, settings, shared, decoder, outgoing, pending, qid: 0, data_pdus: 0, lists: 0 };
        match settings.lie {
            Lie::Closes => return connection.stream.shutdown(Shutdown::Both),
            Lie::Silent => {
                while connection.stream.read(&mut [0; 4096])? > 0 {}
                return Ok(());
            }
            _ => {}
        }
        connection.greet()?;
        while let Some((pdu, data)) = connection.receive()? {
            match pdu {
                Pdu::CapsuleCmd(capsule) => connection.command(capsule.sqe, data)?,
                Pdu::H2cData(header) => connection.data(&header, &data)?,
                other => panic!("the client sent {other:?}"),
            }
        }
        Ok(())
    }

    /// A PDU and its data; `None` at the end.
    fn receive(&mut self) -> io::Result<Option<(Pdu, Vec<u8>)>> {
        let mut header = [0; 132];
        if self.stream.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut header[1..8])?;
        let length = self.decoder.header_length(header.first_chunk().unwrap()).expect("a header");
        self.stream.read_exact(&mut header[8..length])?;
        let Received { pdu, payload } = self.decoder.decode(&header[..length]).expect("a PDU");
        let mut bytes = vec![0; payload.bytes()];
        self.stream.read_exact(&mut bytes)?;
        let from = usize::from(payload.padding);
        let data = bytes[from..from + payload.data as usize].to_vec();
        if payload.digest {
            let mut digest = DataDigest::new();
            digest.update(&data);
            let found = u32::from_le_bytes(*bytes.last_chunk().unwrap());
            assert_eq!(digest.check(found), Some(Padded::No), "a data digest");
        }
        if let Pdu::TermReq(_) = pdu {
            return Ok(None);
        }
        Ok(Some((pdu, data)))
    }

    fn greet(&mut self) -> io::Result<()> {
        let Some((Pdu::IcReq(request), _)) = self.receive()? else { return Ok(()) };
        let mut head = [0; HEAD_BYTES];
        if self.settings.lie == Lie::Terminates {
            let bytes = TermReq::from(PduFault::unsupported(11)).encode(End::Controller, &[1; 128], &mut head);
            return self.stream.write_all(&head[..bytes]);
        }
        let digests = request.digests.both(self.settings.digests);
        let alignment = Alignment::from_field(self.settings.alignment).unwrap();
        let bytes = IcResp { alignment, digests, max_h2c_data: self.settings.max_h2c_data }.encode(&mut head);
        if let Lie::Greeting(at, byte) = self.settings.lie {
            head[at] = byte;
        }
        self.outgoing = Framing { digests, alignment: request.alignment };
        self.decoder.initialized = true;
        self.decoder.framing = Framing { digests, alignment };
        self.decoder.limits = Limits { capsule_data: 8192, h2c_data: self.settings.max_h2c_data };
        self.stream.write_all(&head[..bytes])
    }

    fn command(&mut self, sqe: Sqe, data: Vec<u8>) -> io::Result<()> {
        let Some(DataPointer::Sgl(descriptor)) = sqe.data_pointer() else { panic!("no SGL") };
        let place = descriptor.capsule_data().expect("a descriptor of capsules");
        let to_controller = sqe.opcode() != FABRICS_OPCODE && sqe.opcode() & 1 != 0;
        match place {
            CapsuleData::InCapsule { offset: 0, length } => {
                assert_eq!(length as usize, data.len());
                self.execute(&sqe, &data, length)
            }
            CapsuleData::Transport { length } if to_controller && length > 0 => {
                let pending = Pending { sqe, data: Vec::new(), length, asked: 0, open: 0 };
                self.pending.insert(sqe.cid(), pending);
                self.ask(sqe.cid())
            }
            CapsuleData::Transport { length } => self.execute(&sqe, &[], length),
            other => panic!("{other:?}"),
        }
    }

    /// As many R2Ts as may be open.
    fn ask(&mut self, cid: u16) -> io::Result<()> {
        let pending = self.pending.get_mut(&cid).unwrap();
        while pending.open < self.settings.r2ts && pending.asked < pending.length {
            let length = (pending.length - pending.asked).min(self.settings.r2t_bytes);
            let mut head = [0; HEAD_BYTES];
            let r2t = R2t { cid, tag: cid ^ 0x5555, offset: pending.asked, length };
            let bytes = r2t.encode(self.outgoing, &mut head);
            pending.asked += length;
            pending.open += 1;
            self.stream.write_all(&head[..bytes])?;
        }
        Ok(())
    }

    fn data(&mut self, header: &H2cData, data: &[u8]) -> io::Result<()> {
        let pending = self.pending.get_mut(&header.cid).expect("data of a command");
        assert_eq!((header.tag, header.offset as usize), (header.cid ^ 0x5555, pending.data.len()));
        pending.data.extend_from_slice(data);
        if header.last {
            pending.open -= 1;
        }
        if pending.data.len() < pending.length as usize {
            return self.ask(header.cid);
        }
        let Pending { sqe, data, length, .. } = self.pending.remove(&header.cid).unwrap();
        self.execute(&sqe, &data, length)
    }

    fn execute(&mut self, sqe: &Sqe, from: &[u8], room: u32) -> io::Result<()> {
        let mut data = Buffers { from, into: Vec::new(), room: room as usize };
        let ((dword0, dword1, status), answers) = match (sqe.opcode(), self.qid) {
            (FABRICS_OPCODE, _) => (self.fabrics(sqe, from), true),
            (_, 0) => {
                let lists = (sqe.opcode(), sqe.dword(10) as u8) == (0x06, 0x07);
                self.lists += usize::from(lists);
                let keeps_silent = match self.settings.lie {
                    Lie::AdminStalls => sqe.opcode() == 0x18,
                    Lie::ListsOnce => lists && self.lists > 1,
                    _ => false,
                };
                (self.admin(sqe, &mut data), !keeps_silent)
            }
            _ => (self.shared.store.lock().unwrap().execute(sqe, &mut data), true),
        };
        if !answers {
            return Ok(());
        }
        if let Lie::Slow(time) = self.settings.lie
            && self.qid == 0
        {
            std::thread::sleep(time);
        }
        let into = data.into;
        let ends = self.settings.success_flag && (dword0, dword1, status) == (0, 0, Status::SUCCESS);
        if self.settings.lie == Lie::Breaks && self.qid > 0 && !into.is_empty() {
            self.transfer(sqe.cid(), &into, 0, into.len() as u32 / 2, false)?;
            return self.stream.shutdown(Shutdown::Both);
        }
        if self.settings.lie == Lie::Overruns && self.qid > 0 && !into.is_empty() {
            return self.transfer(sqe.cid(), &vec![0xEE; room as usize + 64], 0, room + 64, false);
        }
        let mut done = 0;
        while done < into.len() as u32 {
            let length = (into.len() as u32 - done).min(self.settings.c2h_bytes);
            self.transfer(sqe.cid(), &into, done, length, ends)?;
            done += length;
        }
        if ends && !into.is_empty() {
            return Ok(());
        }
        let cqe = Cqe { dword0, dword1, sq_head: 0, sq_id: 0, cid: sqe.cid(), status };
        let mut head = [0; HEAD_BYTES];
        let bytes = CapsuleResp { cqe }.encode(self.outgoing, &mut head);
        self.stream.write_all(&head[..bytes])
    }

    fn transfer(&mut self, cid: u16, all: &[u8], offset: u32, length: u32, ends: bool) -> io::Result<()> {
        let last = (offset + length) as usize == all.len();
        let data = &all[offset as usize..(offset + length) as usize];
        let mut head = [0; HEAD_BYTES];
        let bytes = C2hData { cid, offset, length, last, success: ends && last }.encode(self.outgoing, &mut head);
        self.stream.write_all(&head[..bytes])?;
        self.stream.write_all(data)?;
        if !self.outgoing.digests.data {
            return Ok(());
        }
        let mut digest = DataDigest::new();
        digest.update(data);
        self.data_pdus += usize::from(self.qid > 0);
        let spoilt = self.settings.lie == Lie::SpoilsDigests && self.data_pdus % 2 == 1;
        self.stream.write_all(&(digest.finish(Padded::No) ^ u32::from(spoilt)).to_le_bytes())
    }

    fn fabrics(&mut self, sqe: &Sqe, data: &[u8]) -> (u32, u32, Status) {
        match FabricsCommand::decode(sqe).expect("a Fabrics command") {
            FabricsCommand::Connect(fields) => {
                let data = ConnectData::decode(data.try_into().unwrap()).expect("names");
                if let Lie::Refuses(status, dword0) = self.settings.lie {
                    return (dword0, 0, status);
                }
                assert_eq!(data.controller_id, if fields.qid == 0 { 0xFFFF } else { 7 });
                self.qid = fields.qid;
                self.decoder.limits.capsule_data = if fields.qid == 0 { 8192 } else { self.settings.capsule_data };
                self.shared.connects.lock().unwrap().push(data);
                (7, 0, Status::SUCCESS)
            }
            // CAP: queues of 1,024 entries, and more command sets than NVM.
            FabricsCommand::PropertyGet { offset: 0, size8: true } => (1023, 1 << 11, Status::SUCCESS),
            // CSTS: ready.
            FabricsCommand::PropertyGet { offset: 0x1C, size8: false } => (1, 0, Status::SUCCESS),
            FabricsCommand::PropertySet { offset: 0x14, .. } => (0, 0, Status::SUCCESS),
            other => panic!("{other:?}"),
        }
    }

    fn admin(&mut self, sqe: &Sqe, data: &mut Buffers<'_>) -> (u32, u32, Status) {
        let mut page = [0; 4096];
        match (sqe.opcode(), sqe.dword(10) as u8) {
            (0x06, 0x01) => {
                page[4..8].copy_from_slice(b"fake");
                page[768..768 + NQN.len()].copy_from_slice(NQN.as_bytes());
                page[OwnerMap::IDENTIFY_OFFSET..OwnerMap::IDENTIFY_OFFSET + 16].copy_from_slice(&OWNERS.to_bytes());
                let capsule = (64 + self.settings.capsule_data) / 16;
                page[1792..1796].copy_from_slice(&capsule.to_le_bytes());
            }
            (0x06, 0x07) => page[0] = 1,
            (0x06, 0x05) => {
                let told = namespace();
                page[..8].copy_from_slice(told.size_bytes.as_bytes());
                page[32..36].copy_from_slice(told.granularity.as_bytes());
                page[48..64].copy_from_slice(&told.nguid);
                page[76..80].copy_from_slice(told.max_value_bytes.as_bytes());
            }
            // Two queues.
            (0x09, 0x07) => return (0x0001_0001, 0, Status::SUCCESS),
            (0x18, _) => {
                self.shared.keep_alives.fetch_add(1, Ordering::Relaxed);
                return (0, 0, Status::SUCCESS);
            }
            other => panic!("{other:x?}"),
        }
        data.write(&page);
        (0, 0, Status::SUCCESS)
    }
}
