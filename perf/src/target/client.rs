//! A daemon, reached through the client crate.

use std::time::Duration;

use dataplane::Burst;
use kvplane::{Address, Client, ConnectOptions, Event, Keys, Memory, Request, RetryPolicy, StoreOptions, SubmitError};

use super::{Command, Done, Op, Outcome, Span, Target, TargetError};

/// A connection to a daemon.
pub struct ClientTarget {
    client: Client,
    memory: Option<Memory>,
    /// Bytes that were asked for, which may be less than the memory has.
    allocated: usize,
    events: Burst<Event>,
    failure: Option<kvplane::Error>,
}

impl ClientTarget {
    /// Connects, with queues for `depth` commands in flight. Commands are not repeated, so that every latency is one
    /// command's.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect(address: &Address, depth: u32, options: ConnectOptions) -> Result<Self, kvplane::Error> {
        let most = u32::from(ConnectOptions::MAX_QUEUE_DEPTH);
        let options = ConnectOptions {
            queue_depth: depth.clamp(1, most) as u16,
            retry: RetryPolicy::NEVER,
            deadline: Duration::from_secs(30),
            ..options
        };
        Ok(Self {
            client: Client::connect(address, options)?,
            memory: None,
            allocated: 0,
            events: Burst::new(),
            failure: None,
        })
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("allocate comes first")
    }

    fn request(&self, command: &Command) -> Result<Request<'static>, kvplane::OutOfRange> {
        let key = command.key;
        let buffer = |span: Span| self.memory().slice(span.offset, span.bytes);
        Ok(match command.op {
            Op::Exist => Request::Exist { key },
            Op::Retrieve => Request::Retrieve { key, buffer: buffer(command.span)? },
            Op::Store => {
                let options = StoreOptions { parent: command.parent, ..StoreOptions::default() };
                Request::Store { key, buffer: buffer(command.span)?, options }
            }
            Op::Delete => Request::Delete { key },
            Op::Lookup => Request::LookupPrefix { keys: Keys::InPlace(buffer(command.span)?), lease: None },
        })
    }
}

/// What an end means. A failure that is not the end of the connection is kept to be told of.
fn outcome(outcome: kvplane::Outcome, failure: &mut Option<kvplane::Error>) -> Result<Outcome, TargetError> {
    Ok(match outcome {
        kvplane::Outcome::Stored => Outcome::Hit(0),
        kvplane::Outcome::Retrieved { value_bytes, .. } => Outcome::Hit(value_bytes),
        kvplane::Outcome::Exists(true) | kvplane::Outcome::Deleted(true) => Outcome::Hit(0),
        kvplane::Outcome::Missing | kvplane::Outcome::Exists(false) | kvplane::Outcome::Deleted(false) => Outcome::Miss,
        kvplane::Outcome::Prefix { hits, .. } => Outcome::Prefix(hits),
        kvplane::Outcome::Failed(error) => {
            let gone = matches!(error, kvplane::Error::Disconnected | kvplane::Error::TimedOut);
            if gone {
                return Err(TargetError::Gone(error.to_string()));
            }
            *failure = Some(error);
            Outcome::Failed
        }
        // Answers to commands that are never sent from here.
        _ => Outcome::Failed,
    })
}

impl Target for ClientTarget {
    fn allocate(&mut self, bytes: usize) -> Result<(), TargetError> {
        let refused = |error: kvplane::Error| TargetError::Memory { bytes, cause: error.to_string() };
        // Registering costs the daemon's cores some time, which short rounds of a measurement would feel.
        if self.memory.is_some() && self.allocated == bytes {
            return Ok(());
        }
        if let Some(old) = self.memory.take() {
            self.client.unregister(&old).map_err(refused)?;
        }
        self.memory = Some(self.client.register(bytes).map_err(refused)?);
        self.allocated = bytes;
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) {
        self.memory().write(offset, from).expect("the caller stays inside what it allocated");
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        self.memory().read(offset, into).expect("the caller stays inside what it allocated");
    }

    fn submit(&mut self, command: Command) -> Result<bool, TargetError> {
        let gone = |reason: String| TargetError::Gone(reason);
        let request = self.request(&command).map_err(|error| gone(error.to_string()))?;
        match self.client.submit(request, u64::from(command.token)) {
            Ok(_) => Ok(true),
            Err((_, SubmitError::QueueFull | SubmitError::ListsFull)) => Ok(false),
            Err((_, error)) => Err(gone(error.to_string())),
        }
    }

    fn ring(&mut self) {
        self.client.ring();
    }

    fn poll(&mut self, done: &mut Burst<Done>) -> Result<(), TargetError> {
        // The burst stays where it is: it is an array, and taking it out would copy it at every poll.
        let Self { client, events, failure, .. } = self;
        if done.is_empty() {
            client.poll(events);
        }
        for event in events.drain(..) {
            let outcome = outcome(event.outcome, failure)?;
            done.push(Done { token: event.user as u32, outcome });
        }
        Ok(())
    }

    fn last_failure(&self) -> Option<String> {
        self.failure.as_ref().map(ToString::to_string)
    }
}
