//! JSON-RPC 2.0 over a unix socket, as SPDK speaks it: values one after the other, without framing.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Object;

/// Why a call has no result.
#[derive(Debug)]
pub enum CallError {
    /// The daemon answered an error.
    Refused {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
    },
    /// The daemon did not answer, or not in JSON-RPC.
    Broken(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { code, message } => write!(f, "{message} ({code})"),
            Self::Broken(reason) => write!(f, "the control socket broke off: {reason}"),
        }
    }
}

impl std::error::Error for CallError {}

/// An open control socket.
pub struct Connection {
    stream: BufReader<UnixStream>,
    last_id: u64,
}

impl Connection {
    /// Connects; every later read and write is bounded by `timeout`.
    pub fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream: BufReader::new(stream), last_id: 0 })
    }

    /// Calls a method and waits for its result.
    pub fn call(&mut self, method: &str, params: Option<Object>) -> Result<Value, CallError> {
        self.last_id += 1;
        let mut request = json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method });
        if let Some(params) = params {
            request["params"] = Value::Object(params);
        }
        writeln!(self.stream.get_mut(), "{request}").map_err(|error| CallError::Broken(error.to_string()))?;
        let mut answers = serde_json::Deserializer::from_reader(&mut self.stream).into_iter::<Value>();
        let answer = match answers.next() {
            Some(Ok(answer)) => answer,
            Some(Err(error)) if error.io_error_kind() == Some(io::ErrorKind::WouldBlock) => {
                return Err(CallError::Broken("no answer within the time; -t gives it more".to_owned()));
            }
            Some(Err(error)) => return Err(CallError::Broken(error.to_string())),
            None => return Err(CallError::Broken("the daemon hung up".to_owned())),
        };
        self.take_result(answer)
    }

    fn take_result(&self, mut answer: Value) -> Result<Value, CallError> {
        if let Some(error) = answer.get("error") {
            return Err(CallError::Refused {
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"].as_str().unwrap_or("no message").to_owned(),
            });
        }
        if answer.get("id").and_then(Value::as_u64) != Some(self.last_id) {
            return Err(CallError::Broken("the answer is not to the question".to_owned()));
        }
        let result = answer.get_mut("result").map(Value::take);
        result.ok_or_else(|| CallError::Broken("the answer has neither a result nor an error".to_owned()))
    }
}
