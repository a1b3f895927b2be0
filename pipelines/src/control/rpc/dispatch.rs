//! From a JSON value to the calls it asks for.

use serde_json::{Map, Value, json};

use super::{Action, Arguments, Fault, Method, Phase, find_method};
use crate::control::{Context, Lifecycle};

/// A request that was read.
pub(super) struct Request {
    /// Its id; `None` if it is a notification, which is not answered.
    pub id: Option<Value>,
    /// What to call, or why not.
    pub call: Result<(&'static Method, Arguments), Fault>,
}

/// What a value from the socket asks for.
pub(super) enum Message {
    /// One request.
    Single(Request),
    /// Several, which are answered together.
    Batch(Vec<Request>),
}

impl Message {
    /// Reads a value.
    pub fn read(value: &Value) -> Self {
        match value {
            Value::Array(list) if list.is_empty() => Self::Single(invalid("the batch is empty")),
            Value::Array(list) => Self::Batch(list.iter().map(read_request).collect()),
            other => Self::Single(read_request(other)),
        }
    }
}

fn invalid(why: &str) -> Request {
    let fault = Fault::new(Fault::INVALID_REQUEST, format!("Invalid request: {why}"));
    Request { id: Some(Value::Null), call: Err(fault) }
}

fn read_request(value: &Value) -> Request {
    let Value::Object(members) = value else { return invalid("it is not an object") };
    let id = members.get("id").cloned();
    let name = match method_name(members) {
        Ok(name) => name,
        Err(why) => {
            // An invalid request is always answered, with its id if that at least is right.
            let id = id.filter(|id| id.is_string() || id.is_number()).unwrap_or(Value::Null);
            return Request { id: Some(id), ..invalid(&why) };
        }
    };
    Request { id, call: check(name, members.get("params")) }
}

fn method_name(members: &Map<String, Value>) -> Result<&str, String> {
    if let Some(unknown) = members.keys().find(|name| !["jsonrpc", "id", "method", "params"].contains(&name.as_str())) {
        return Err(format!("unknown member {:?}", unknown.chars().take(64).collect::<String>()));
    }
    match members.get("jsonrpc") {
        None => (),
        Some(version) if version == "2.0" => (),
        Some(_) => return Err("jsonrpc must be \"2.0\"".to_owned()),
    }
    match members.get("id") {
        None | Some(Value::Null | Value::Number(_) | Value::String(_)) => (),
        Some(_) => return Err("id must be a number or a string".to_owned()),
    }
    members.get("method").and_then(Value::as_str).ok_or_else(|| "method must be a string".to_owned())
}

/// Finds a method by name or alias and checks parameters, without calling it.
///
/// # Errors
/// If there is no such method or the parameters are not as declared.
pub fn check(name: &str, params: Option<&Value>) -> Result<(&'static Method, Arguments), Fault> {
    let method = find_method(name).ok_or_else(|| Fault::new(Fault::METHOD_NOT_FOUND, "Method not found"))?;
    Ok((method, Arguments::check(method.name, method.params, params)?))
}

/// Calls a method if it may be called now. [`Action::WaitForInit`] does not wait: it answers an error if it would have
/// to.
///
/// # Errors
/// As the method declares, or if it may not be called now.
pub fn call(context: &Context, method: &Method, arguments: &Arguments) -> Result<Value, Fault> {
    let lifecycle = context.framework.lifecycle();
    allowed(method.phase, &lifecycle)?;
    match method.action {
        Action::Run(run) => run(context, arguments),
        Action::WaitForInit => match waited(&lifecycle) {
            Some(answer) => answer,
            None => Err(Fault::new(Fault::WRONG_STATE, format!("{} cannot wait inside a batch", method.name))),
        },
    }
}

/// What a wait for the framework's initialisation ends with, if it is over.
pub(super) fn waited(lifecycle: &Lifecycle) -> Option<Result<Value, Fault>> {
    let over = |message: String| Some(Err(Fault::new(Fault::WRONG_STATE, message)));
    match lifecycle {
        Lifecycle::Waiting | Lifecycle::Starting => None,
        Lifecycle::Ready => Some(Ok(Value::Bool(true))),
        Lifecycle::Failed(why) => over(format!("start-up failed: {why}")),
        Lifecycle::Stopping => over("the process is stopping".to_owned()),
    }
}

fn allowed(phase: Phase, lifecycle: &Lifecycle) -> Result<(), Fault> {
    let refuse = |when: &str| {
        let message =
            format!("Method may only be called {when} framework is initialized using framework_start_init RPC.");
        Err(Fault::new(Fault::WRONG_STATE, message))
    };
    match (phase, lifecycle) {
        (Phase::Any, _) | (Phase::Startup, Lifecycle::Waiting) | (Phase::Runtime, Lifecycle::Ready) => Ok(()),
        (_, Lifecycle::Stopping) => Err(Fault::new(Fault::WRONG_STATE, "the process is stopping")),
        (Phase::Startup, _) => refuse("before"),
        (Phase::Runtime, _) => refuse("after"),
    }
}

/// Whether a method may be called now.
pub(super) fn is_allowed(phase: Phase, lifecycle: &Lifecycle) -> bool {
    allowed(phase, lifecycle).is_ok()
}

/// The answer to a request that has an id.
pub(super) fn answer(id: &Value, outcome: Result<Value, Fault>) -> Value {
    match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(fault) => fault.answer(id),
    }
}
