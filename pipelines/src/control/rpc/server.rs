//! The server: one task a connection, so that a client that is slow or hostile holds up only itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::dispatch::{Message, Request, answer, call, waited};
use super::framer::{BadStream, Framer, MAX_REQUEST_BYTES};
use super::{Action, Fault, RpcSocket};
use crate::control::{Context, Lifecycle};

/// The most connections at once (SPDK's limit).
pub const MAX_CONNECTIONS: usize = 64;
/// The most waits for initialisation of one connection.
const MAX_WAITS: usize = 16;
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// How long to wait after accepting failed, for instance because there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the one line may take that a refused client gets.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

/// A socket that is served.
pub struct Server {
    socket: RpcSocket,
    listener: UnixListener,
    context: Arc<Context>,
}

impl Server {
    /// Prepares to serve a socket. Call it on the runtime that will serve.
    ///
    /// # Errors
    /// If the runtime does not take the socket.
    pub fn new(socket: RpcSocket, context: Arc<Context>) -> io::Result<Self> {
        let listener = UnixListener::from_std(socket.listener()?)?;
        Ok(Self { socket, listener, context })
    }

    /// Serves until it is dropped, which ends all connections and removes the socket.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        tracing::info!(path = %self.socket.path().display(), "RPC socket is open");
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "RPC socket: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let connection = Connection::new(stream, Arc::clone(&self.context));
                    connections.spawn(async move {
                        // Whether it was closed or broke: there is nobody to tell.
                        let _ = connection.serve().await;
                        drop(place);
                    });
                }
                // The socket's buffer is empty, so this takes no time and no place.
                Err(_) => refuse(stream).await,
            }
        }
    }
}

async fn refuse(mut stream: UnixStream) {
    let message = format!("there are {MAX_CONNECTIONS} connections already; close one and try again");
    let fault = Fault::new(-libc::EAGAIN, message);
    tracing::warn!(limit = MAX_CONNECTIONS, "RPC connection refused");
    let _ = tokio::time::timeout(REFUSAL_PATIENCE, write(&mut stream, &fault.answer(&Value::Null))).await;
}

async fn write(stream: &mut UnixStream, value: &Value) -> io::Result<()> {
    let mut line = value.to_string();
    line.push('\n');
    stream.write_all(line.as_bytes()).await
}

struct Connection {
    stream: UnixStream,
    context: Arc<Context>,
    framer: Framer,
    lifecycle: watch::Receiver<Lifecycle>,
    /// Ids of requests that wait for initialisation.
    waiting: Vec<Value>,
}

impl Connection {
    fn new(stream: UnixStream, context: Arc<Context>) -> Self {
        let lifecycle = context.framework.watch();
        Self { stream, context, framer: Framer::default(), lifecycle, waiting: Vec::new() }
    }

    async fn serve(mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            self.answer_waiting().await?;
            match self.framer.take() {
                Ok(Some(value)) => {
                    self.handle(Message::read(&value)).await?;
                    // A client that never pauses must not keep others from being served.
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(None) => (),
                Err(bad) => return self.give_up(bad).await,
            }
            tokio::select! {
                length = self.stream.read(&mut chunk) => match length? {
                    0 => return Ok(()),
                    length => self.framer.push(&chunk[..length]),
                },
                changed = self.lifecycle.changed(), if !self.waiting.is_empty() => {
                    changed.map_err(|_| io::ErrorKind::BrokenPipe)?;
                }
            }
        }
    }

    async fn handle(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Single(request) => {
                if let Some(reply) = self.single(request).await {
                    write(&mut self.stream, &reply).await?;
                }
            }
            Message::Batch(requests) => {
                let mut replies = Vec::new();
                for request in requests {
                    replies.extend(self.run(request).await);
                }
                // A batch of notifications is not answered at all.
                if !replies.is_empty() {
                    write(&mut self.stream, &Value::Array(replies)).await?;
                }
            }
        }
        Ok(())
    }

    async fn single(&mut self, request: Request) -> Option<Value> {
        let waits = matches!(&request.call, Ok((method, _)) if matches!(method.action, Action::WaitForInit));
        if !waits || waited(&self.context.framework.lifecycle()).is_some() {
            return self.run(request).await;
        }
        let id = request.id?;
        if self.waiting.len() >= MAX_WAITS {
            let message = format!("this connection has {MAX_WAITS} waits already");
            return Some(Fault::new(-libc::EAGAIN, message).answer(&id));
        }
        self.waiting.push(id);
        None
    }

    async fn answer_waiting(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let lifecycle = self.lifecycle.borrow_and_update().clone();
        if let Some(outcome) = waited(&lifecycle) {
            for id in std::mem::take(&mut self.waiting) {
                write(&mut self.stream, &answer(&id, outcome.clone())).await?;
            }
        }
        Ok(())
    }

    /// Runs a request on a thread of its own: asking the cores may take a while.
    async fn run(&self, request: Request) -> Option<Value> {
        let outcome = match request.call {
            Err(fault) => Err(fault),
            Ok((method, arguments)) => {
                let context = Arc::clone(&self.context);
                let name = method.name;
                let run = tokio::task::spawn_blocking(move || call(&context, method, &arguments));
                let outcome = run.await.unwrap_or_else(|_| Err(Fault::new(Fault::INTERNAL_ERROR, "Internal error")));
                match &outcome {
                    Ok(_) => tracing::debug!(method = name, "RPC"),
                    Err(fault) => {
                        tracing::info!(method = name, code = fault.code, message = fault.message, "RPC failed")
                    }
                }
                outcome
            }
        };
        request.id.map(|id| answer(&id, outcome))
    }

    async fn give_up(mut self, bad: BadStream) -> io::Result<()> {
        let fault = match bad {
            BadStream::NotJson(why) => Fault::new(Fault::PARSE_ERROR, format!("Parse error: {why}")),
            BadStream::TooLong => {
                let message = format!("Invalid request: it is longer than {MAX_REQUEST_BYTES} bytes");
                Fault::new(Fault::INVALID_REQUEST, message)
            }
        };
        write(&mut self.stream, &fault.answer(&Value::Null)).await
    }
}
