//! A connection on the control side: ICReq and ICResp, then capsules one at a time, with blocking reads.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::super::socket::notice_silence;
use super::super::wire::{
    Alignment, C2hData, COMMON_BYTES, CapsuleResp, DIGEST_BYTES, DataDigest, Decoder, Digests, End, Framing,
    HEAD_BYTES, IcResp, Limits, Padded, Pdu, PduFault, Received, TermReq,
};
use super::connection::NewTcpQueue;
use crate::fabric::CarrierKind;
use crate::fabric::message::{AdminCapsule, Answer, Channel, ChannelError, CoreCommand, QueueTerms};
use crate::nvme::spec::{Cqe, Sqe, Status};

/// How long a host may take over one PDU, and to take a response.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a host has to close the connection after it was told what it did wrong.
const PARTING: Duration = Duration::from_secs(1);
/// How long a host's machine may acknowledge nothing before its connections end, whatever keep alive it asked for.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest PDU that is not data: ICReq with 128 bytes, a capsule with 8 KiB, padding and digests.
const MAX_PDU: usize = 72 + DIGEST_BYTES + 255 + 8192 + DIGEST_BYTES;
/// MAXH2CDATA: as much as the longest value, so that a value comes as one PDU.
const MAX_H2C_DATA: u32 = 16 << 20;

/// A connection on the control side.
pub struct TcpChannel {
    stream: TcpStream,
    peer: Option<SocketAddr>,
    decoder: Decoder,
    framing: Framing,
    max_transfer_bytes: u32,
    /// Of the PDU that is coming in: never more than belongs to it, for what follows may be for a core.
    inbox: Vec<u8>,
    begun: Option<Instant>,
    padded: Padded,
}

impl TcpChannel {
    /// Takes a connection that was just accepted. Nothing is read yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(stream: TcpStream, in_capsule_bytes: u32, max_transfer_bytes: u32) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        notice_silence(&stream, SILENCE)?;
        let peer = stream.peer_addr().ok();
        let mut decoder = Decoder::new(End::Controller);
        // The admin queue takes 8 KiB in any case; an I/O queue what Identify tells.
        decoder.limits = Limits { capsule_data: in_capsule_bytes.max(8192), h2c_data: MAX_H2C_DATA };
        Ok(Self {
            stream,
            peer,
            decoder,
            framing: Framing::INITIAL,
            max_transfer_bytes,
            inbox: Vec::with_capacity(256),
            begun: None,
            padded: Padded::No,
        })
    }

    /// Reads until the inbox has `bytes`; `false` if they did not all come within `wait`.
    fn fill(&mut self, bytes: usize, wait: Duration) -> Result<bool, ChannelError> {
        while self.inbox.len() < bytes {
            if self.begun.is_some_and(|begun| begun.elapsed() > PATIENCE) {
                return Err(ChannelError::Stuck(PATIENCE));
            }
            self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
            let at = self.inbox.len();
            self.inbox.resize(bytes, 0);
            let read = self.stream.read(&mut self.inbox[at..]);
            self.inbox.truncate(at + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(_) => {
                    self.begun.get_or_insert_with(Instant::now);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(ChannelError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// The next PDU, as long as all of it came within `wait`; the inbox holds it.
    fn next(&mut self, wait: Duration) -> Result<Option<(Received, usize)>, ChannelError> {
        if !self.fill(COMMON_BYTES, wait)? {
            return Ok(None);
        }
        let mut first = [0; COMMON_BYTES];
        first.copy_from_slice(&self.inbox[..COMMON_BYTES]);
        let header = self.decoder.header_length(&first).map_err(|fault| self.end(fault))?;
        if !self.fill(header, wait)? {
            return Ok(None);
        }
        let received = self.decoder.decode(&self.inbox[..header]).map_err(|fault| self.end(fault))?;
        let whole = header + received.payload.bytes();
        if whole > MAX_PDU {
            return Err(self.end(PduFault::SEQUENCE));
        }
        if !self.fill(whole, wait)? {
            return Ok(None);
        }
        self.begun = None;
        Ok(Some((received, header)))
    }

    /// Writes all of it, within the time that a host has for it.
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), ChannelError> {
        let deadline = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ChannelError::Stuck(PATIENCE));
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => return Err(ChannelError::Closed),
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    /// Tells the host what it did wrong.
    fn end(&mut self, fault: PduFault) -> ChannelError {
        if fault.is_answered() {
            let mut head = [0; HEAD_BYTES];
            let request = TermReq { fes: fault.fes, fei: fault.fei };
            let bytes = request.encode(End::Controller, &self.inbox, &mut head);
            // Whoever does not hear it sees the end of the connection.
            let _ = self.write(&head[..bytes]);
            self.part();
        }
        ChannelError::Protocol(fault.to_string())
    }

    /// Waits for the host to close the connection after the last word: were the socket closed with bytes unread, that
    /// would overtake the word.
    fn part(&mut self) {
        let (deadline, mut thrown_away) = (Instant::now() + PARTING, [0; 4096]);
        let _ = self.stream.shutdown(Shutdown::Write);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match self.stream.read(&mut thrown_away) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn initialize(&mut self, host: Digests, alignment: Alignment) -> Result<(), ChannelError> {
        let answer = IcResp { alignment: Alignment::DWORD, digests: host, max_h2c_data: MAX_H2C_DATA };
        let mut head = [0; HEAD_BYTES];
        let bytes = answer.encode(&mut head);
        self.write(&head[..bytes])?;
        self.decoder.initialized = true;
        self.decoder.framing = Framing { digests: host, alignment: Alignment::DWORD };
        self.framing = Framing { digests: host, alignment };
        Ok(())
    }

    /// The capsule in the inbox; its data, unless its digest is wrong.
    fn capsule(&mut self, sqe: Sqe, received: &Received, header: usize) -> Option<AdminCapsule> {
        let from = header + usize::from(received.payload.padding);
        let (data, digest) = self.inbox[from..].split_at(received.payload.data as usize);
        if let Some(digest) = digest.first_chunk() {
            let mut taken = DataDigest::new();
            taken.update(data);
            self.padded = taken.check(u32::from_le_bytes(*digest))?;
        }
        Some(AdminCapsule { sqe, data: data.to_vec() })
    }
}

impl Channel for TcpChannel {
    fn carrier(&self) -> CarrierKind {
        CarrierKind::Tcp
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn max_transfer_bytes(&self) -> u32 {
        self.max_transfer_bytes
    }

    fn receive(&mut self, wait: Duration) -> Result<Option<AdminCapsule>, ChannelError> {
        let Some((received, header)) = self.next(wait)? else { return Ok(None) };
        let capsule = match received.pdu {
            Pdu::IcReq(request) => {
                self.initialize(request.digests, request.alignment)?;
                None
            }
            Pdu::CapsuleCmd(command) => match self.capsule(command.sqe, &received, header) {
                Some(capsule) => Some(capsule),
                None => {
                    let status = Status::TRANSIENT_TRANSPORT_ERROR;
                    let (sq_head, sq_id) = (0, 0);
                    let cqe = Cqe { dword0: 0, dword1: 0, sq_head, sq_id, cid: command.sqe.cid(), status };
                    self.respond(&command.sqe, &[], cqe)?;
                    None
                }
            },
            Pdu::TermReq(request) => {
                return Err(ChannelError::Protocol(format!("the host terminates the connection: {}", request.fes)));
            }
            _ => return Err(self.end(PduFault::SEQUENCE)),
        };
        self.inbox.clear();
        Ok(capsule)
    }

    fn respond(&mut self, command: &Sqe, data: &[u8], completion: Cqe) -> Result<(), ChannelError> {
        let mut out = Vec::with_capacity(data.len() + 2 * HEAD_BYTES);
        let mut head = [0; HEAD_BYTES];
        if !data.is_empty() {
            let (length, cid) = (data.len() as u32, command.cid());
            let pdu = C2hData { cid, offset: 0, length, last: true, success: false };
            let bytes = pdu.encode(self.framing, &mut head);
            out.extend_from_slice(&head[..bytes]);
            out.extend_from_slice(data);
            if self.framing.digests.data {
                let mut digest = DataDigest::new();
                digest.update(data);
                out.extend_from_slice(&digest.finish(self.padded).to_le_bytes());
            }
        }
        let bytes = CapsuleResp { cqe: completion }.encode(self.framing, &mut head);
        out.extend_from_slice(&head[..bytes]);
        self.write(&out)
    }

    fn hang_up(&mut self) {
        // One that the host has ended already is at its end.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn hand_over(&mut self, terms: QueueTerms, answer: Answer) -> io::Result<CoreCommand> {
        let QueueTerms { session, qid, entries, max_transfer_bytes, link } = terms;
        let stream = self.stream.try_clone()?;
        stream.set_read_timeout(None)?;
        let (decoder, framing) = (self.decoder, self.framing);
        let queue = NewTcpQueue { stream, session, qid, entries, decoder, framing, max_transfer_bytes, link };
        Ok(CoreCommand::TakeTcp(Box::new(queue), answer))
    }
}
