//! The blocking face: one command at a time, copied in and out.

use std::time::{Duration, Instant};

use dataplane::nvme::spec::vendor::{LIST_ENTRY_BYTES, MAX_LIST_KEYS};

use crate::{
    Buffer, Client, Error, Key, KeyState, Keys, Lease, Memory, Outcome, ReconnectPolicy, Request, StoreOptions,
    SubmitError, Ticket,
};

/// The scratch memory of a client that has moved small values only.
const FIRST_SCRATCH: usize = 64 << 10;

impl Client {
    /// Stores a value under a key, over what was there.
    ///
    /// # Errors
    /// Whatever kept the value from being stored; it may have been stored nonetheless after
    /// [`Error::Disconnected`] and [`Error::TimedOut`].
    pub fn put(&mut self, key: Key, value: &[u8]) -> Result<(), Error> {
        self.put_with(key, value, StoreOptions::default()).map(|_| ())
    }

    /// Stores a value under a key if the options allow it, and says whether it did.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_with(&mut self, key: Key, value: &[u8], options: StoreOptions) -> Result<bool, Error> {
        let max = self.max_value_bytes();
        let bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
        if bytes > max || value.len() > bytes as usize {
            return Err(SubmitError::ValueTooLong { bytes, max }.into());
        }
        let (memory, buffer) = self.scratch(bytes)?;
        memory.write(0, value)?;
        match self.run(&Request::Store { key, buffer, options })? {
            Outcome::Stored => Ok(true),
            Outcome::KeyExists | Outcome::Missing => Ok(false),
            other => Err(unexpected(other)),
        }
    }

    /// The value of a key; `None` if it has none.
    ///
    /// # Errors
    /// Whatever kept the value from being read, [`Error::Corrupt`] included. An engine takes all of them as a miss.
    pub fn get(&mut self, key: Key) -> Result<Option<Vec<u8>>, Error> {
        let has = self.scratch.as_ref().map_or(FIRST_SCRATCH as u64, Memory::len);
        let mut room = u32::try_from(has).unwrap_or(u32::MAX);
        // Another client may replace the value by a longer one between two tries, but hardly every time.
        for _ in 0..8 {
            let (memory, buffer) = self.scratch(room)?;
            match self.run(&Request::Retrieve { key, buffer })? {
                Outcome::Missing => return Ok(None),
                Outcome::Retrieved { bytes, value_bytes, .. } if bytes == value_bytes => {
                    let mut value = vec![0; bytes as usize];
                    memory.read(0, &mut value)?;
                    return Ok(Some(value));
                }
                Outcome::Retrieved { value_bytes, .. } => room = value_bytes,
                other => return Err(unexpected(other)),
            }
        }
        Err(Error::Protocol("the value kept growing while it was read"))
    }

    /// Whether a key has a value.
    ///
    /// # Errors
    /// What the target answered, or that it did not.
    pub fn exists(&mut self, key: Key) -> Result<bool, Error> {
        match self.run(&Request::Exist { key })? {
            Outcome::Exists(exists) => Ok(exists),
            other => Err(unexpected(other)),
        }
    }

    /// Removes a key and its value; whether there was one.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn delete(&mut self, key: Key) -> Result<bool, Error> {
        match self.run(&Request::Delete { key })? {
            Outcome::Deleted(existed) => Ok(existed),
            other => Err(unexpected(other)),
        }
    }

    /// How many leading keys of a chain are present. A chain of any length.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn lookup_prefix(&mut self, keys: &[Key]) -> Result<usize, Error> {
        let mut found = 0;
        for part in keys.chunks(MAX_LIST_KEYS as usize) {
            let (hits, _) = self.lookup_part(part, None)?;
            found += hits;
            if hits < part.len() {
                break;
            }
        }
        Ok(found)
    }

    /// How many leading keys of a chain of at most 4,096 are present, with a lease on them.
    ///
    /// # Errors
    /// As [`exists`](Self::exists); [`SubmitError::BadList`] for an empty or a longer chain.
    pub fn lookup_prefix_leased(&mut self, keys: &[Key], time: Duration) -> Result<(usize, Option<Lease>), Error> {
        self.lookup_part(keys, Some(time))
    }

    fn lookup_part(&mut self, keys: &[Key], lease: Option<Duration>) -> Result<(usize, Option<Lease>), Error> {
        match self.run(&Request::LookupPrefix { keys: Keys::Copied(keys), lease })? {
            Outcome::Prefix { hits, lease } => Ok((hits as usize, lease)),
            other => Err(unexpected(other)),
        }
    }

    /// The state of every key of a list of any length, in order.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn lookup_state(&mut self, keys: &[Key]) -> Result<Vec<KeyState>, Error> {
        let mut states = Vec::with_capacity(keys.len());
        for part in keys.chunks(MAX_LIST_KEYS as usize) {
            let (memory, buffer) = self.scratch(part.len() as u32 * LIST_ENTRY_BYTES)?;
            memory.write_keys(0, part)?;
            match self.run(&Request::LookupState { buffer })? {
                Outcome::States { .. } => {}
                other => return Err(unexpected(other)),
            }
            for index in 0..part.len() as u32 {
                let state = memory.key_state(0, index);
                states.push(state.ok_or(Error::Protocol("an entry is not the state of a key"))?);
            }
        }
        Ok(states)
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn release(&mut self, lease: Lease) -> Result<(), Error> {
        match self.run(&Request::Release { lease })? {
            Outcome::Released => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Runs one command to its end. The events of other commands that end meanwhile stay for `poll`.
    fn run(&mut self, request: &Request<'_>) -> Result<Outcome, Error> {
        let begun = Instant::now();
        loop {
            self.connected(begun)?;
            match self.submit_waiting(request, begun).and_then(|ticket| self.outcome_of(ticket)) {
                // Every command may be repeated, so what a lost connection took with it is.
                Err(Error::Disconnected | Error::Submit(SubmitError::Disconnected))
                    if self.options.reconnect != ReconnectPolicy::Manual => {}
                Err(Error::Submit(SubmitError::Disconnected)) => return Err(Error::Disconnected),
                other => return other,
            }
        }
    }

    /// Sees to it that there is a connection, as far as the policy goes, until the deadline after `begun`.
    fn connected(&mut self, begun: Instant) -> Result<(), Error> {
        while self.link.is_none() && self.reconnect_if_due().is_err() {
            let over = begun.elapsed() >= self.options.deadline;
            if over || self.options.reconnect == ReconnectPolicy::Manual {
                return Err(Error::Disconnected);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Submits, waiting for room where there is none.
    fn submit_waiting(&mut self, request: &Request<'_>, begun: Instant) -> Result<Ticket, Error> {
        loop {
            match self.try_submit(request, 0) {
                Err(SubmitError::QueueFull | SubmitError::ListsFull) if begun.elapsed() / 2 < self.options.deadline => {
                    self.harvest();
                    // The queue is full of events that only the caller can take.
                    if self.slots.in_use() == 0 {
                        return Err(SubmitError::QueueFull.into());
                    }
                }
                other => return other.map_err(Error::from),
            }
        }
    }

    fn outcome_of(&mut self, ticket: Ticket) -> Result<Outcome, Error> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.ready.iter().skip(seen).position(|event| event.ticket == ticket) {
                return match self.ready.remove(seen + at).map(|event| event.outcome) {
                    Some(Outcome::Failed(error)) => Err(error),
                    Some(outcome) => Ok(outcome),
                    None => Err(Error::Disconnected),
                };
            }
            seen = self.ready.len();
            self.wait_for_more()?;
        }
    }

    /// Scratch memory with room for so many bytes, and a buffer of them.
    fn scratch(&mut self, bytes: u32) -> Result<(Memory, Buffer), Error> {
        self.connected(Instant::now())?;
        if self.scratch.as_ref().is_none_or(|memory| memory.len() < u64::from(bytes)) {
            if let Some(small) = self.scratch.take() {
                self.unregister(&small)?;
            }
            let room = (bytes as usize).next_power_of_two().max(FIRST_SCRATCH);
            self.scratch = Some(self.register(room)?);
        }
        let memory = self.scratch.clone().ok_or(Error::Disconnected)?;
        let buffer = memory.slice(0, bytes)?;
        Ok((memory, buffer))
    }
}

/// An outcome that does not belong to the command; the state machine never makes one.
fn unexpected(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Failed(error) => error,
        _ => Error::Protocol("the outcome belongs to another kind of command"),
    }
}
