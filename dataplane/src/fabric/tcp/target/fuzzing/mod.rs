//! Entry points for fuzzers. Not part of the interface.

pub(super) mod pipes;

use std::sync::Arc;

use zerocopy::FromBytes;

use super::super::wire::{Alignment, CapsuleCmd, Decoder, Digests, End, Framing, H2cData, HEAD_BYTES, Limits};
use super::connection::NewTcpQueue;
use super::core_end::TcpEnd;
use crate::Burst;
use crate::fabric::message::{HostLink, Staging, StagingLayout, StagingMap};
use crate::fabric::{Completion, SessionId};
use crate::memory::{Region, RegionSlot, SlotId};
use crate::nvme::fault::random::SplitMix64;
use crate::nvme::spec::{Sqe, Status};
use pipes::{Pipe, Pipes};

const LAYOUT: StagingLayout = StagingLayout { areas: 2, area_bytes: 32 << 10, buffer_bytes: 8 << 20 };
const MAX_TRANSFER_BYTES: u32 = 1 << 20;
const ENTRIES: u32 = 8;

/// A connection, and a store that completes commands when it is told to.
struct Play {
    end: TcpEnd<Pipes>,
    staging: Staging,
    framing: Framing,
    /// Commands that were taken: their exchange, their buffer and its length.
    running: Vec<(SlotId, u32, u32)>,
    all_bytes: u32,
}

/// Lets a host do what `input` says: its first two bytes pick the digests and how the stream is split, then come steps of
/// one byte and what belongs to it. In the end the stream is cut, and nothing may be left. Says how many steps there were.
#[must_use]
pub fn play(input: &[u8]) -> u32 {
    let Some(([kind, seed], mut rest)) = input.split_first_chunk::<2>().map(|(first, rest)| (*first, rest)) else {
        return 0;
    };
    let Some(mut play) = Play::new(kind, seed) else { return 0 };
    let mut steps = 0;
    while let Some((step, after)) = rest.split_first() {
        rest = play.step(*step, after);
        steps += 1;
    }
    play.finish();
    steps
}

/// So many bytes, or as many as there are.
fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at(at.min(bytes.len()))
}

impl Play {
    fn new(kind: u8, seed: u8) -> Option<Self> {
        let region = Region::anonymous(LAYOUT.bytes() as usize, RegionSlot(1)).ok()?;
        let mut staging = Staging::new(0, StagingMap::new(LAYOUT, vec![Arc::new(region)])?)?;
        let mut end = TcpEnd::<Pipes>::new(0, &staging).ok()?;
        end.streams_mut().random = SplitMix64::new(u64::from(seed));
        end.streams_mut().pipes.insert(0, Pipe::default());
        let digests = Digests { header: kind & 1 != 0, data: kind & 2 != 0 };
        let framing = Framing { digests, alignment: Alignment::DWORD };
        let mut decoder = Decoder::new(End::Controller);
        (decoder.initialized, decoder.framing) = (true, framing);
        decoder.limits = Limits { capsule_data: 8192, h2c_data: MAX_TRANSFER_BYTES };
        let all_bytes = staging.free_bytes();
        let queue = NewTcpQueue {
            stream: 0,
            session: SessionId(0),
            qid: 1,
            entries: ENTRIES,
            decoder,
            framing,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            link: Arc::new(HostLink::default()),
        };
        end.take(queue, &mut staging).ok()?;
        Some(Self { end, staging, framing, running: Vec::new(), all_bytes })
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(pipe) = self.end.streams_mut().pipes.get_mut(&0) {
            pipe.to_target.extend(bytes);
            // Nobody reads what goes to the host.
            pipe.to_host.clear();
        }
    }

    /// One step; what is left of the input.
    fn step<'a>(&mut self, step: u8, rest: &'a [u8]) -> &'a [u8] {
        let mut head = [0; HEAD_BYTES];
        match step % 8 {
            0 => {
                let (raw, rest) = split(rest, usize::from(step >> 3));
                self.put(raw);
                rest
            }
            1 | 2 => {
                let (command, rest) = split(rest, 64);
                let mut whole = [0; 64];
                whole[..command.len()].copy_from_slice(command);
                let Ok(sqe) = Sqe::read_from_bytes(&whole) else { return rest };
                let (data, rest) = split(rest, usize::from(step >> 3) * 4);
                let bytes = CapsuleCmd { sqe, data: data.len() as u32 }.encode(self.framing, &mut head);
                self.put(&head[..bytes]);
                self.put(data);
                rest
            }
            3 => {
                let (fields, rest) = split(rest, 4);
                let [tag, cid, offset, length] = *fields else { return rest };
                let (offset, length) = (u32::from(offset) * 4, u32::from(length) * 16 + 1);
                let (tag, cid, last) = (u16::from(tag), u16::from(cid), step & 8 != 0);
                let bytes = H2cData { cid, tag, offset, length, last }.encode(self.framing, &mut head);
                self.put(&head[..bytes]);
                self.put(&vec![step; length as usize]);
                rest
            }
            4 => {
                self.complete(usize::from(step >> 3));
                rest
            }
            5 => {
                self.end.sweep(&mut self.staging);
                rest
            }
            _ => {
                self.turn();
                rest
            }
        }
    }

    fn turn(&mut self) {
        let mut capsules = Burst::new();
        self.end.harvest(&mut self.staging);
        self.end.poll(&mut capsules);
        for capsule in capsules {
            let bytes = capsule.sqe.quadword(8) as u32;
            let moves = capsule.sqe.opcode() & 0b11 != 0 && capsule.sqe.dword(10) != 0;
            let unit = capsule.sqe.quadword(6) as u32;
            if moves {
                assert_eq!(bytes, capsule.sqe.dword(10), "a buffer as long as the command says");
                assert!(self.staging.map().slice(0, unit, 0, bytes).is_some(), "a buffer outside of staging memory");
            }
            let (id, _) = capsule.permit.redeem();
            self.running.push((id, unit, if moves { bytes } else { 0 }));
        }
        self.end.flush(&mut self.staging);
        assert!(self.running.len() <= ENTRIES as usize, "more commands than the queue has entries");
    }

    fn complete(&mut self, which: usize) {
        if self.running.is_empty() {
            return;
        }
        let (id, unit, bytes) = self.running.swap_remove(which % self.running.len());
        if bytes > 0 && which.is_multiple_of(2) {
            self.staging.map().note_filled(0, unit, bytes);
        }
        let completion = match which % 3 {
            0 => Completion::failed(Status::KEY_DOES_NOT_EXIST),
            _ => Completion::success(bytes, 0),
        };
        self.end.complete(id, completion, &mut self.staging);
    }

    /// Cuts the stream and ends what is under way: then nothing may be left.
    fn finish(mut self) {
        if let Some(pipe) = self.end.streams_mut().pipes.get_mut(&0) {
            pipe.cut = true;
        }
        for _ in 0..64 {
            self.turn();
            self.complete(0);
        }
        for _ in 0..100_000 {
            if self.end.connections() == 0 {
                break;
            }
            self.turn();
            self.complete(0);
        }
        assert_eq!((self.end.connections(), self.end.outstanding()), (0, 0), "a connection stays");
        assert_eq!(self.staging.free_bytes(), self.all_bytes, "a buffer was lost");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_a_host_does_nothing_is_left(input in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = super::play(&input);
        }

        /// Steps that mostly keep to the protocol get further.
        #[test]
        fn hosts_that_nearly_keep_to_the_protocol(
            kind in 0u8..4,
            steps in proptest::collection::vec((0u8..8, any::<u8>(), any::<[u8; 8]>(), 0u32..20_000), 0..60),
        ) {
            let mut input = vec![kind, 7];
            for (what, how, fields, bytes) in steps {
                input.push(what | (how & 0xF8));
                match what {
                    1 | 2 => {
                        let mut sqe = [0; 64];
                        sqe[0] = [0x01, 0x02, 0x14, 0x10, 0xC3, 0x7F][usize::from(fields[0] % 6)];
                        (sqe[1], sqe[2]) = (0x40, fields[1] % 4);
                        sqe[4] = fields[2] % 9;
                        let bytes = if how & 0xF8 == 0 { bytes } else { u32::from(how >> 3) * 4 };
                        sqe[32..36].copy_from_slice(&bytes.to_le_bytes());
                        sqe[39] = if how & 0xF8 == 0 { 0x5A } else { 0x01 };
                        sqe[40..44].copy_from_slice(&bytes.to_le_bytes());
                        input.extend(sqe);
                        input.extend(std::iter::repeat_n(how, usize::from(how >> 3) * 4));
                    }
                    3 => input.extend([fields[0] % 8, fields[1] % 4, fields[2] % 2, fields[3]]),
                    _ => {}
                }
            }
            let _ = super::play(&input);
        }
    }
}
