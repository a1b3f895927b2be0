//! A client of the control socket: JSON-RPC 2.0 without framing over a unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

/// A connection to the control socket.
pub struct Rpc {
    stream: UnixStream,
    received: Vec<u8>,
    id: u64,
}

/// The error that a call was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// The code.
    pub code: i64,
    /// The message.
    pub message: String,
}

impl Rpc {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(crate::PATIENCE))?;
        Ok(Self { stream, received: Vec::new(), id: 0 })
    }

    /// Calls a method; its result or error.
    ///
    /// # Errors
    /// The error of the answer.
    ///
    /// # Panics
    /// If there is no answer, or one that is not JSON-RPC.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, RpcError> {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method} was not answered: {error}"))
    }

    /// As [`call`](Self::call), for when the daemon may be gone.
    ///
    /// # Errors
    /// Outside: the connection failed. Inside: the error of the answer.
    pub fn try_call(&mut self, method: &str, params: &Value) -> std::io::Result<Result<Value, RpcError>> {
        self.id += 1;
        let mut request = json!({ "jsonrpc": "2.0", "id": self.id, "method": method });
        if !params.is_null() {
            request["params"] = params.clone();
        }
        self.send(request.to_string().as_bytes())?;
        let answer = self.receive()?;
        assert_eq!(answer["id"], json!(self.id), "an answer to another request: {answer}");
        assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
        if let Some(error) = answer.get("error") {
            let code = error["code"].as_i64().expect("an error has a code");
            let message = error["message"].as_str().expect("an error has a message").to_owned();
            return Ok(Err(RpcError { code, message }));
        }
        Ok(Ok(answer.get("result").expect("an answer has a result or an error").clone()))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next JSON value from the socket.
    ///
    /// # Errors
    /// If the connection ended or nothing came in time.
    pub fn receive(&mut self) -> std::io::Result<Value> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.received).into_iter::<Value>();
            match values.next() {
                Some(Ok(value)) => {
                    let used = values.byte_offset();
                    self.received.drain(..used);
                    return Ok(value);
                }
                Some(Err(error)) if !error.is_eof() => return Err(std::io::Error::other(error)),
                Some(Err(_)) | None => (),
            }
            let mut piece = [0; 4096];
            let bytes = self.stream.read(&mut piece)?;
            if bytes == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.received.extend_from_slice(&piece[..bytes]);
        }
    }
}

/// The sum of every number of a name, wherever in an answer it stands.
///
/// # Panics
/// If there is none: a counter that was renamed must not read as 0.
#[must_use]
pub fn sum_of(answer: &Value, name: &str) -> u64 {
    let mut found = Vec::new();
    collect(answer, name, &mut found);
    assert!(!found.is_empty(), "there is no {name} in {answer:#}");
    found.iter().sum()
}

fn collect(answer: &Value, name: &str, found: &mut Vec<u64>) {
    match answer {
        Value::Object(members) => {
            for (member, value) in members {
                match value.as_u64() {
                    Some(number) if member == name => found.push(number),
                    _ => collect(value, name, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, name, found)),
        _ => (),
    }
}
