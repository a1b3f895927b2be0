//! Taking commands.

use dataplane::nvme::spec::vendor::{LIST_ENTRY_BYTES, MAX_LIST_KEYS};

use crate::encode::{self, Data};
use crate::in_flight::{Asked, InFlight};
use crate::transport::Transport;
use crate::{Buffer, Checksum, Client, Key, Keys, Request, StoreOptions, SubmitError, Ticket};

/// A command on its way into a queue.
struct Prepared {
    sqe: dataplane::nvme::spec::Sqe,
    asked: Asked,
    buffer: Option<Buffer>,
    list_place: Option<u16>,
}

impl Client {
    /// Takes a command and sends it to the core that owns its key. It ends in one [`Event`](crate::Event), which
    /// carries `user` back. The target sees it with the next [`ring`](Self::ring), [`poll`](Self::poll) or
    /// [`wait`](Self::wait). A list goes to the owner of its first key.
    ///
    /// Until its event is handed out, the command's buffer must neither be used by a command that writes to it nor,
    /// if the command writes, be read: the bytes would be a mixture.
    ///
    /// # Errors
    /// The request and why it was not taken; nothing was sent then. Of [`SubmitError`], `QueueFull` and `ListsFull`
    /// pass when events are polled.
    ///
    /// ```no_run
    /// # use kvplane::{Address, Burst, Client, ConnectOptions, Error, Key, Outcome, Request};
    /// # fn main() -> Result<(), Error> {
    /// # let mut client = Client::connect(&Address::parse("/run/kvplane")?, ConnectOptions::default())?;
    /// let memory = client.register(1 << 20)?;
    /// let key = Key::new([7; 16]);
    /// let buffer = memory.slice(0, 1 << 20)?;
    /// let ticket = client.submit(Request::Retrieve { key, buffer }, 42).map_err(|(_, error)| error)?;
    /// let mut events = Burst::new();
    /// while client.poll(&mut events) == 0 {}
    /// assert_eq!((events[0].ticket, events[0].user), (ticket, 42));
    /// if let Outcome::Retrieved { bytes, .. } = events[0].outcome {
    ///     println!("{bytes} bytes at offset {}", buffer.offset());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[allow(clippy::result_large_err, reason = "handing the request back is the point, and costs no allocation")]
    pub fn submit<'a>(&mut self, request: Request<'a>, user: u64) -> Result<Ticket, (Request<'a>, SubmitError)> {
        self.try_submit(&request, user).map_err(|error| (request, error))
    }

    pub(crate) fn try_submit(&mut self, request: &Request<'_>, user: u64) -> Result<Ticket, SubmitError> {
        if self.link.is_none() {
            self.reconnect_if_due()?;
        }
        let queue = self.queue_for(request)?;
        // Events that were not handed out count too, so that they are bounded as well.
        if self.lanes[queue].load >= self.options.queue_depth || self.slots.available() <= self.ready.len() {
            return Err(SubmitError::QueueFull);
        }
        let Prepared { sqe, asked, buffer, list_place } = self.prepare(request)?;
        let sweep = self.liveness.sweep();
        let command = InFlight { sqe, user, asked, queue: queue as u16, attempt: 0, sweep, buffer, list_place };
        let sent = self.send_new(command);
        if sent.is_err()
            && let Some(place) = list_place
        {
            self.lists.give_back(place);
        }
        sent
    }

    fn send_new(&mut self, command: InFlight) -> Result<Ticket, SubmitError> {
        let (queue, sqe, buffer) = (usize::from(command.queue), command.sqe, command.buffer);
        let link = self.link.as_mut().ok_or(SubmitError::Disconnected)?;
        let id = self.slots.insert(command).map_err(|_| SubmitError::QueueFull)?;
        let Ok(cid) = link.push(queue, sqe) else {
            self.slots.remove(id);
            return Err(SubmitError::QueueFull);
        };
        self.lanes[queue].pushed(cid, id);
        self.lanes[queue].load += 1;
        if let Some(buffer) = buffer {
            self.memories.hold(buffer.memory);
        }
        self.stats.submitted += 1;
        Ok(Ticket(id))
    }

    /// Tells the target of the commands that were submitted. A caller that submits many tells it once.
    pub fn ring(&mut self) {
        let Some(link) = &mut self.link else { return };
        for (queue, lane) in self.lanes.iter_mut().enumerate() {
            if std::mem::take(&mut lane.dirty) {
                link.ring(queue);
            }
        }
    }

    fn queue_for(&self, request: &Request<'_>) -> Result<usize, SubmitError> {
        let first = match request {
            Request::Store { key, .. }
            | Request::Retrieve { key, .. }
            | Request::Exist { key }
            | Request::Delete { key } => *key,
            Request::LookupPrefix { keys: Keys::Copied(keys), .. } | Request::Hint { keys: Keys::Copied(keys), .. } => {
                *keys.first().ok_or(SubmitError::BadList)?
            }
            Request::LookupPrefix { keys: Keys::InPlace(buffer), .. }
            | Request::Hint { keys: Keys::InPlace(buffer), .. }
            | Request::LookupState { buffer } => self.first_key(buffer)?,
            Request::Release { lease } => return Ok(usize::from(lease.queue) % self.lanes.len().max(1)),
        };
        Ok(self.queue_of(&first))
    }

    fn first_key(&self, list: &Buffer) -> Result<Key, SubmitError> {
        let memory = self.memories.get(list.memory).ok_or(SubmitError::UnknownBuffer)?.memory()?;
        let mut bytes = [0; LIST_ENTRY_BYTES as usize];
        memory.read(list.offset, &mut bytes).map_err(|_| SubmitError::BadList)?;
        Ok(Key::new(bytes))
    }

    fn prepare(&mut self, request: &Request<'_>) -> Result<Prepared, SubmitError> {
        let nsid = self.options.namespace;
        let plain = |sqe, asked| Prepared { sqe, asked, buffer: None, list_place: None };
        Ok(match request {
            Request::Store { key, buffer, options } => self.prepare_store(key, *buffer, options)?,
            Request::Retrieve { key, buffer } => {
                let max_value_bytes = self.max_value_bytes();
                let part = buffer.first(max_value_bytes);
                if self.options.checksum == Checksum::Verify {
                    self.memories.get(part.memory).ok_or(SubmitError::UnknownBuffer)?.memory()?;
                }
                let sqe = encode::retrieve(nsid, key, self.data(&part)?);
                let asked = Asked::Retrieve { buffer: part, max_value_bytes };
                Prepared { sqe, asked, buffer: Some(*buffer), list_place: None }
            }
            Request::Exist { key } => plain(encode::exist(nsid, key), Asked::Exist),
            Request::Delete { key } => plain(encode::delete(nsid, key), Asked::Delete),
            Request::Release { lease } => plain(encode::release(nsid, lease.id), Asked::Release),
            Request::LookupPrefix { keys, lease } => {
                let (list, list_place) = self.place_list(keys)?;
                let sqe = encode::lookup_prefix(nsid, self.data(&list)?, *lease);
                let asked = Asked::Prefix { keys: list.len() / LIST_ENTRY_BYTES, lease: lease.is_some() };
                Prepared { sqe, asked, buffer: Some(list), list_place }
            }
            Request::LookupState { buffer } => {
                check_list(buffer)?;
                let sqe = encode::lookup_state(nsid, self.data(buffer)?);
                let asked = Asked::States { keys: buffer.len() / LIST_ENTRY_BYTES };
                Prepared { sqe, asked, buffer: Some(*buffer), list_place: None }
            }
            Request::Hint { keys, kind, argument } => {
                let (list, list_place) = self.place_list(keys)?;
                let sqe = encode::hint(nsid, self.data(&list)?, *kind, *argument);
                let asked = Asked::Hint { keys: list.len() / LIST_ENTRY_BYTES };
                Prepared { sqe, asked, buffer: Some(list), list_place }
            }
        })
    }

    fn prepare_store(&self, key: &Key, buffer: Buffer, options: &StoreOptions) -> Result<Prepared, SubmitError> {
        let max = self.max_value_bytes();
        if buffer.len() > max {
            return Err(SubmitError::ValueTooLong { bytes: buffer.len(), max });
        }
        if options.must_exist && options.must_not_exist {
            return Err(SubmitError::Contradiction);
        }
        let data = self.data(&buffer)?;
        let checksum = match self.options.checksum {
            Checksum::Off => None,
            Checksum::Verify => Some(self.checksum(&buffer)?),
        };
        let sqe = encode::store(self.options.namespace, key, data, options, checksum);
        Ok(Prepared { sqe, asked: Asked::Store, buffer: Some(buffer), list_place: None })
    }

    /// The longest value, which a namespace that names none does not bound.
    pub(crate) fn max_value_bytes(&self) -> u32 {
        let unbounded = |bytes: u32| if bytes == 0 { u32::MAX } else { bytes };
        unbounded(self.namespace.max_value_bytes).min(unbounded(self.identity().max_transfer_bytes))
    }

    fn data(&self, buffer: &Buffer) -> Result<Data, SubmitError> {
        Ok(Data { address: self.memories.address(buffer)?, bytes: buffer.len() })
    }

    fn checksum(&self, buffer: &Buffer) -> Result<u64, SubmitError> {
        let entry = self.memories.get(buffer.memory).ok_or(SubmitError::UnknownBuffer)?;
        let sum = entry.memory()?.checksum(buffer.offset, u64::from(buffer.len()));
        sum.map_err(|_| SubmitError::UnknownBuffer)
    }

    fn place_list(&mut self, keys: &Keys<'_>) -> Result<(Buffer, Option<u16>), SubmitError> {
        match keys {
            Keys::Copied(keys) => self.lists.take(keys).map(|(place, list)| (list, Some(place))),
            Keys::InPlace(buffer) => check_list(buffer).map(|()| (*buffer, None)),
        }
    }
}

fn check_list(list: &Buffer) -> Result<(), SubmitError> {
    let whole = list.len().is_multiple_of(LIST_ENTRY_BYTES);
    let fits = (1..=MAX_LIST_KEYS).contains(&(list.len() / LIST_ENTRY_BYTES));
    if whole && fits { Ok(()) } else { Err(SubmitError::BadList) }
}
