//! Values in this process's memory: to try the commands without a daemon, and to prove that they notice faults.

use std::collections::{HashMap, VecDeque};

use dataplane::Burst;
use dataplane::nvme::spec::kv::Key;

use super::{Command, Done, Op, Outcome, Span, Target, TargetError};

/// What goes wrong, on every [`MemoryTarget::with_fault`]-th retrieve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One bit of the byte at this offset (modulo the length) is turned.
    FlipBit(usize),
    /// The value of the key stored before last is handed out.
    OtherValue,
    /// Only half of the value is handed out.
    Short,
    /// The command fails.
    Fail,
    /// The key is forgotten before it is retrieved.
    Evict,
}

/// Values in memory; every command ends at the next poll.
#[derive(Debug, Default)]
pub struct MemoryTarget {
    memory: Vec<u8>,
    values: HashMap<Key, Vec<u8>>,
    order: VecDeque<Key>,
    capacity: Option<usize>,
    done: VecDeque<Done>,
    fault: Option<(Fault, u64)>,
    retrieves: u64,
    stalled: bool,
}

impl MemoryTarget {
    /// A target that keeps everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps at most this many values; the oldest goes first.
    #[must_use]
    pub fn with_capacity(mut self, values: usize) -> Self {
        self.capacity = Some(values);
        self
    }

    /// Every `every`-th retrieve goes wrong.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault, every: u64) -> Self {
        self.fault = Some((fault, every.max(1)));
        self
    }

    /// While stalled, commands are taken but none ends.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Number of values held.
    #[must_use]
    pub fn values(&self) -> usize {
        self.values.len()
    }

    fn span(&self, span: Span) -> &[u8] {
        &self.memory[span.offset as usize..][..span.bytes as usize]
    }

    fn store(&mut self, command: &Command) -> Outcome {
        let value = self.span(command.span).to_vec();
        if self.values.insert(command.key, value).is_none() {
            self.order.push_back(command.key);
        }
        if self.capacity.is_some_and(|most| self.values.len() > most)
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        Outcome::Hit(command.span.bytes)
    }

    fn retrieve(&mut self, command: &Command) -> Outcome {
        self.retrieves += 1;
        let fault = self.fault.filter(|(_, every)| self.retrieves.is_multiple_of(*every)).map(|(fault, _)| fault);
        let key = match fault {
            Some(Fault::Fail) => return Outcome::Failed,
            Some(Fault::Evict) => {
                self.values.remove(&command.key);
                command.key
            }
            Some(Fault::OtherValue) => *self.order.iter().find(|key| **key != command.key).unwrap_or(&command.key),
            _ => command.key,
        };
        let Some(value) = self.values.get(&key) else { return Outcome::Miss };
        let into = &mut self.memory[command.span.offset as usize..][..command.span.bytes as usize];
        let bytes = value.len().min(into.len());
        into[..bytes].copy_from_slice(&value[..bytes]);
        match fault {
            Some(Fault::FlipBit(at)) if bytes > 0 => into[at % bytes] ^= 1,
            Some(Fault::Short) => return Outcome::Hit(bytes as u32 / 2),
            _ => {}
        }
        Outcome::Hit(value.len() as u32)
    }

    fn remove(&mut self, key: &Key) -> Outcome {
        if self.values.remove(key).is_none() {
            return Outcome::Miss;
        }
        self.order.retain(|kept| kept != key);
        Outcome::Hit(0)
    }

    fn lookup(&self, command: &Command) -> Outcome {
        let (keys, _) = self.span(command.span).as_chunks::<16>();
        Outcome::Prefix(keys.iter().take_while(|key| self.values.contains_key(&Key::new(**key))).count() as u32)
    }
}

impl Target for MemoryTarget {
    fn allocate(&mut self, bytes: usize) -> Result<(), TargetError> {
        self.memory = vec![0; bytes];
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) {
        self.memory[offset as usize..][..from.len()].copy_from_slice(from);
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        into.copy_from_slice(&self.memory[offset as usize..][..into.len()]);
    }

    fn submit(&mut self, command: Command) -> Result<bool, TargetError> {
        let outcome = match command.op {
            Op::Store => self.store(&command),
            Op::Retrieve => self.retrieve(&command),
            Op::Exist if self.values.contains_key(&command.key) => Outcome::Hit(0),
            Op::Exist => Outcome::Miss,
            Op::Delete => self.remove(&command.key),
            Op::Lookup => self.lookup(&command),
        };
        self.done.push_back(Done { token: command.token, outcome });
        Ok(true)
    }

    fn ring(&mut self) {}

    fn poll(&mut self, done: &mut Burst<Done>) -> Result<(), TargetError> {
        while !self.stalled && !done.is_full() {
            let Some(end) = self.done.pop_front() else { break };
            done.push(end);
        }
        Ok(())
    }

    fn last_failure(&self) -> Option<String> {
        self.fault.map(|(fault, every)| format!("the fault {fault:?} was asked for on every {every}. retrieve"))
    }
}
