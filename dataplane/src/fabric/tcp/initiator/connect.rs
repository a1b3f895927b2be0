//! Making a connection: TCP, ICReq and ICResp (TCP transport, 3.1), then Connect.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::wire::{
    Alignment, COMMON_BYTES, Decoder, Digests, End, Framing, HEAD_BYTES, IcReq, IcResp, Pdu, PduFault, TermReq,
};
use super::ConnectError;
use super::commands::MAX_R2TS;
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::pieces::{Incoming, Outgoing};
use super::queue::{InitiatorQueue, Lost, QueueTerms};
use super::stream::{ByteStream, Socket};
use crate::fabric::host::Deadline;

/// The time that is left to `what`.
pub(super) fn left(deadline: Deadline, what: &'static str) -> Result<Duration, ConnectError> {
    let left = deadline.left();
    if left.is_zero() { Err(ConnectError::TimedOut { what, waited: deadline.waited }) } else { Ok(left) }
}

/// Makes a connection that is ready for its Connect command. Nobody who does not take it within `reach` is waited for.
pub(super) fn open(
    address: &SocketAddr,
    asked: Digests,
    terms: QueueTerms,
    wake: bool,
    reach: Duration,
    deadline: Deadline,
) -> Result<InitiatorQueue, ConnectError> {
    let left = left(deadline, "accept a connection")?.min(reach);
    let failed = |source| ConnectError::Connect { address: address.to_string(), source };
    let mut socket = Socket::connect(address, left, deadline.waited, wake).map_err(failed)?;
    let response = initialize(&mut socket, asked, deadline)?;
    let digests = response.enabled(asked).map_err(|fault| refuse(&mut socket, fault, &[]))?;
    let decoder = Decoder {
        initialized: true,
        framing: Framing { digests, alignment: Alignment::DWORD },
        ..Decoder::new(End::Host)
    };
    let outbox = Outbox::new(terms.depth, Framing { digests, alignment: response.alignment }, response.max_h2c_data);
    Ok(InitiatorQueue::new(socket, Inbox::new(decoder), outbox, terms))
}

fn initialize(socket: &mut Socket, digests: Digests, deadline: Deadline) -> Result<IcResp, ConnectError> {
    let mut head = [0; HEAD_BYTES];
    let request = IcReq { alignment: Alignment::DWORD, digests, max_r2t: u32::from(MAX_R2TS) - 1 };
    let bytes = request.encode(&mut head);
    send(socket, &head[..bytes], deadline)?;
    let decoder = Decoder::new(End::Host);
    let mut header = [0; 128];
    let (first, rest) = header.split_at_mut(COMMON_BYTES);
    receive(socket, first, deadline)?;
    let length = match first.first_chunk().map(|first| decoder.header_length(first)) {
        Some(Ok(length)) => length,
        Some(Err(fault)) => return Err(refuse(socket, fault, first)),
        None => return Err(Lost::Closed.into()),
    };
    receive(socket, &mut rest[..length - COMMON_BYTES], deadline)?;
    match decoder.decode(&header[..length]).map(|received| received.pdu) {
        Ok(Pdu::IcResp(response)) => Ok(response),
        Ok(Pdu::TermReq(TermReq { fes, fei })) => Err(Lost::Terminated(PduFault { fes, fei }).into()),
        Ok(_) => Err(refuse(socket, PduFault::SEQUENCE, &header[..length])),
        Err(fault) => Err(refuse(socket, fault, &header[..length])),
    }
}

/// Tells the target what is wrong with what it sent.
fn refuse(socket: &mut Socket, fault: PduFault, header: &[u8]) -> ConnectError {
    if fault.is_answered() {
        let mut head = [0; HEAD_BYTES];
        let bytes = TermReq::from(fault).encode(End::Host, header, &mut head);
        let mut pieces = Outgoing::new();
        pieces.add(&head[..bytes]);
        // Without it, the end of the connection says enough.
        let _ = socket.send(&pieces);
    }
    socket.close();
    Lost::Protocol(fault).into()
}

fn send(socket: &mut Socket, mut bytes: &[u8], deadline: Deadline) -> Result<(), ConnectError> {
    while !bytes.is_empty() {
        let mut pieces = Outgoing::new();
        pieces.add(bytes);
        match socket.send(&pieces) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) => retry(socket, error, true, deadline)?,
        }
    }
    Ok(())
}

fn receive(socket: &mut Socket, mut bytes: &mut [u8], deadline: Deadline) -> Result<(), ConnectError> {
    while !bytes.is_empty() {
        let mut pieces = Incoming::new();
        pieces.add(bytes);
        match socket.receive(&mut pieces) {
            Ok(0) => return Err(Lost::Closed.into()),
            Ok(came) => bytes = &mut bytes[came..],
            Err(error) => retry(socket, error, false, deadline)?,
        }
    }
    Ok(())
}

fn retry(socket: &Socket, error: io::Error, sends: bool, deadline: Deadline) -> Result<(), ConnectError> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            socket.wait(sends, left(deadline, "answer a new connection (is this the port of an NVMe/TCP target?)")?);
            Ok(())
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Err(Lost::Closed.into()),
        _ => Err(Lost::System(error).into()),
    }
}
