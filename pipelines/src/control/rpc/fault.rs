//! The errors that requests are answered with.

use serde_json::{Value, json};

use crate::control::ControlError;

/// An error as it goes into an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The code: one of JSON-RPC's, or a negative errno.
    pub code: i32,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Fault {
    /// The bytes are not JSON.
    pub const PARSE_ERROR: i32 = -32700;
    /// The JSON is not a request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// There is no such method.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// A parameter is missing, unknown or out of range.
    pub const INVALID_PARAMS: i32 = -32602;
    /// A fault of this program.
    pub const INTERNAL_ERROR: i32 = -32603;
    /// The method may not be called in this state.
    pub const WRONG_STATE: i32 = -1;

    /// An error of a code.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A parameter is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Self::INVALID_PARAMS, message)
    }

    /// The answer to the request of that id.
    #[must_use]
    pub fn answer(&self, id: &Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": id, "error": { "code": self.code, "message": self.message } })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl From<ControlError> for Fault {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Invalid(message) => Self::invalid(message),
            ControlError::NotReady => Self::new(Self::WRONG_STATE, error.to_string()),
            error => Self::new(-error.errno(), error.to_string()),
        }
    }
}
