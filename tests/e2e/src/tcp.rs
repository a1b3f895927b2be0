//! NVMe/TCP: a daemon that listens on loopback, clients of it, and a host that sends what it is told to, PDU by PDU.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use dataplane::fabric::tcp::wire::{
    Alignment, C2hData, CapsuleCmd, CapsuleResp, DIGEST_BYTES, DataDigest, Decoder, Digests, End, Framing, H2cData,
    HEAD_BYTES, IcReq, Padded, Pdu, Received, TermReq,
};
use dataplane::nvme::spec::fabrics::{ConnectData, ConnectFields, DYNAMIC_CONTROLLER, FabricsCommand};
use dataplane::nvme::spec::{Cqe, SglDescriptor, Sqe};
use kvplane::{Address, Client, ConnectOptions, NetworkOptions};

pub use crate::carrier::HOST_NQN;
use crate::daemon::DEFAULT_NQN;
use crate::{PATIENCE, Setup};

const HOST_ID: [u8; 16] = *b"e2e tests' host!";

/// A free port of loopback.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A daemon that also listens on a port of loopback, for [`HOST_NQN`].
#[must_use]
pub fn setup(port: u16) -> Setup {
    let address = format!("tcp://127.0.0.1:{port}");
    Setup::default().argument("--listen").argument(address).argument("--host").argument(HOST_NQN)
}

/// The address of [`setup`].
#[must_use]
pub fn address(port: u16) -> Address {
    Address::Tcp { host: "127.0.0.1".into(), port, nqn: DEFAULT_NQN.into() }
}

/// Options of [`HOST_NQN`].
#[must_use]
pub fn options(header_digest: bool, data_digest: bool) -> ConnectOptions {
    let network =
        NetworkOptions { host_nqn: Some(HOST_NQN.into()), header_digest, data_digest, ..NetworkOptions::default() };
    ConnectOptions { network, ..ConnectOptions::default() }
}

/// A client of [`setup`].
///
/// # Panics
/// If it cannot connect.
#[must_use]
pub fn client(port: u16) -> Client {
    Client::connect(&address(port), options(false, false)).unwrap_or_else(|error| panic!("{error}"))
}

/// A connection on which every PDU is made by hand.
pub struct RawHost {
    stream: TcpStream,
    digests: Digests,
    decoder: Decoder,
    outgoing: Framing,
}

impl RawHost {
    /// A TCP connection, on which nothing was said yet.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn dial(port: u16, digests: Digests) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, digests, decoder: Decoder::new(End::Host), outgoing: Framing::INITIAL })
    }

    /// A connection that is initialized.
    ///
    /// # Panics
    /// If the target does not answer as it should.
    #[must_use]
    pub fn initialized(port: u16, digests: Digests) -> Self {
        let mut host = Self::dial(port, digests).unwrap();
        let mut head = [0; HEAD_BYTES];
        let bytes = IcReq { alignment: Alignment::DWORD, digests, max_r2t: 0 }.encode(&mut head);
        host.send(&head[..bytes]).unwrap();
        let Some(Pdu::IcResp(answer)) = host.receive().map(|(pdu, _)| pdu) else { panic!("no ICResp") };
        assert_eq!(answer.enabled(digests), Ok(digests));
        host.decoder.initialized = true;
        host.decoder.framing = Framing { digests, alignment: Alignment::DWORD };
        host.outgoing = Framing { digests, alignment: answer.alignment };
        host
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// As `send(2)`.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The framing of what this end sends.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.outgoing
    }

    /// Sends a capsule with its data; `spoil` is what the data digest is changed by.
    pub fn capsule(&mut self, sqe: Sqe, data: &[u8], spoil: u32) {
        let mut head = [0; HEAD_BYTES];
        let bytes = CapsuleCmd { sqe, data: data.len() as u32 }.encode(self.outgoing, &mut head);
        self.with_data(&head[..bytes], data, spoil);
    }

    /// Sends data for an R2T; `spoil` is what the data digest is changed by.
    pub fn data(&mut self, pdu: H2cData, data: &[u8], spoil: u32) {
        let mut head = [0; HEAD_BYTES];
        let bytes = pdu.encode(self.outgoing, &mut head);
        self.with_data(&head[..bytes], data, spoil);
    }

    fn with_data(&mut self, head: &[u8], data: &[u8], spoil: u32) {
        let mut all = head.to_vec();
        all.extend_from_slice(data);
        if self.digests.data && !data.is_empty() {
            let mut digest = DataDigest::new();
            digest.update(data);
            all.extend_from_slice(&(digest.finish(Padded::No) ^ spoil).to_le_bytes());
        }
        // The target may have closed; what it answered says more.
        let _ = self.send(&all);
    }

    /// The next PDU and its data; `None` at the end of the connection.
    ///
    /// # Panics
    /// If nothing comes for [`PATIENCE`], or what comes is no PDU.
    pub fn receive(&mut self) -> Option<(Pdu, Vec<u8>)> {
        let mut header = [0; 132];
        self.exactly(&mut header[..8])?;
        let length = self.decoder.header_length(header.first_chunk().unwrap()).unwrap();
        self.exactly(&mut header[8..length])?;
        let Received { pdu, payload } = self.decoder.decode(&header[..length]).unwrap();
        let mut bytes = vec![0; payload.bytes()];
        self.exactly(&mut bytes)?;
        let from = usize::from(payload.padding);
        let end = from + payload.data as usize;
        if payload.digest {
            let mut digest = DataDigest::new();
            digest.update(&bytes[from..end]);
            let found = u32::from_le_bytes(bytes[end..end + DIGEST_BYTES].try_into().unwrap());
            assert!(digest.check(found).is_some(), "a data digest is wrong");
        }
        Some((pdu, bytes[from..end].to_vec()))
    }

    fn exactly(&mut self, into: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(into) {
            Ok(()) => Some(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                ) =>
            {
                None
            }
            Err(error) => panic!("the target neither answers nor closes: {error}"),
        }
    }

    /// Reads on to the end of the connection; the termination that came before it, if one did.
    ///
    /// # Panics
    /// If the target does not close within [`PATIENCE`].
    pub fn terminated(&mut self) -> Option<TermReq> {
        let mut said = None;
        while let Some((pdu, _)) = self.receive() {
            if let Pdu::TermReq(why) = pdu {
                said = Some(why);
            }
        }
        said
    }

    /// The completion of a command that moves no data to the host, or whose data does not matter.
    ///
    /// # Panics
    /// If something else comes.
    pub fn completion(&mut self) -> Cqe {
        loop {
            match self.receive() {
                Some((Pdu::CapsuleResp(CapsuleResp { cqe }), _)) => return cqe,
                Some((Pdu::C2hData(C2hData { .. }), _)) => {}
                other => panic!("{other:?} instead of a completion"),
            }
        }
    }

    /// Sends Connect and says how it ended.
    pub fn connect(&mut self, qid: u16, controller_id: u16, host_nqn: &str, keep_alive_ms: u32) -> Cqe {
        let fields = ConnectFields { record_format: 0, qid, sqsize: 31, attributes: 0, keep_alive_ms };
        let data = ConnectData {
            host_id: HOST_ID,
            controller_id,
            subsystem_nqn: DEFAULT_NQN.into(),
            host_nqn: host_nqn.into(),
        };
        let mut sqe = FabricsCommand::Connect(fields).encode(1);
        sqe.set_sgl(SglDescriptor::in_capsule(0, ConnectData::BYTES as u32));
        self.capsule(sqe, &data.encode(), 0);
        self.completion()
    }

    /// Carries out a command without data.
    pub fn run(&mut self, mut sqe: Sqe) -> Cqe {
        sqe.set_sgl(SglDescriptor::transport(0));
        self.capsule(sqe, &[], 0);
        self.completion()
    }

    /// An admin queue whose controller is enabled, and the controller's identifier.
    ///
    /// # Panics
    /// If the target refuses.
    #[must_use]
    pub fn admin(port: u16, digests: Digests, keep_alive_ms: u32) -> (Self, u16) {
        let mut admin = Self::initialized(port, digests);
        let cqe = admin.connect(0, DYNAMIC_CONTROLLER, HOST_NQN, keep_alive_ms);
        assert!(cqe.status.is_success(), "{}", cqe.status);
        let value = (4 << 20) | (6 << 16) | (0b110 << 4) | 1;
        let enable = FabricsCommand::PropertySet { offset: 0x14, size8: false, value };
        let enabled = admin.run(enable.encode(2));
        assert!(enabled.status.is_success(), "{}", enabled.status);
        (admin, cqe.dword0 as u16)
    }

    /// An I/O queue of a controller.
    ///
    /// # Panics
    /// If the target refuses.
    #[must_use]
    pub fn io(port: u16, digests: Digests, qid: u16, controller_id: u16) -> Self {
        let mut queue = Self::initialized(port, digests);
        let cqe = queue.connect(qid, controller_id, HOST_NQN, 0);
        assert!(cqe.status.is_success(), "{}", cqe.status);
        queue
    }
}
