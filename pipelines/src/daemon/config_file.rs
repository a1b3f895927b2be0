//! The configuration file: calls that are made at start-up. All of it is checked before anything is touched.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Exit, StartError};
use crate::control::Context;
use crate::control::rpc::{Action, Arguments, Fault, Method, Phase, check};

/// Methods that make no sense in a file.
const NOT_IN_A_FILE: &[&str] = &["framework_start_init", "framework_wait_init", "spdk_kill_instance"];

/// A call that was checked against its declaration.
pub(super) struct Call {
    /// Where it stands, for messages.
    place: String,
    method: &'static Method,
    arguments: Arguments,
}

impl Call {
    /// Checks a call.
    pub fn check(place: String, method: &str, params: Option<&Value>) -> Result<Self, StartError> {
        if NOT_IN_A_FILE.contains(&method) {
            return Err(fault(&place, method, "this method cannot be called at start-up"));
        }
        let (method, arguments) = check(method, params).map_err(|error| fault(&place, method, error.message))?;
        Ok(Self { place, method, arguments })
    }

    /// Whether it is made before cores and devices are set up.
    pub fn is_early(&self) -> bool {
        self.method.phase != Phase::Runtime
    }

    /// Makes the call, whatever state the framework says it is in.
    pub fn make(&self, context: &Context) -> Result<(), StartError> {
        let outcome: Result<Value, Fault> = match self.method.action {
            Action::Run(run) => run(context, &self.arguments),
            Action::WaitForInit => Ok(Value::Null),
        };
        outcome.map(drop).map_err(|error| fault(&self.place, self.method.name, error))
    }
}

fn fault(place: &str, method: &str, why: impl std::fmt::Display) -> StartError {
    StartError::new(Exit::Config, format!("{place}: {method}: {why}"))
}

/// Reads and checks a file.
pub(super) fn read(path: &Path) -> Result<Vec<Call>, StartError> {
    let bad = |why: String| StartError::new(Exit::Config, format!("{}: {why}", path.display()));
    let text = fs::read(path).map_err(|error| bad(error.to_string()))?;
    let file: Value = serde_json::from_slice(&text).map_err(|error| bad(format!("not valid JSON: {error}")))?;
    let parts = file.get("subsystems").and_then(Value::as_array);
    let parts = parts.ok_or_else(|| bad("expected {\"subsystems\": [{\"subsystem\", \"config\"}]}".to_owned()))?;
    let mut calls = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let name = part.get("subsystem").and_then(Value::as_str);
        let name = name.ok_or_else(|| bad(format!("subsystems[{number}] has no name \"subsystem\"")))?;
        let entries = match part.get("config") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err(bad(format!("config of subsystem {name} is not a list"))),
        };
        for (index, entry) in entries.iter().enumerate() {
            let place = format!("{}: subsystem {name}, config[{index}]", path.display());
            // SPDK's files may group calls into batches.
            let group = entry.as_array().map_or(std::slice::from_ref(entry), Vec::as_slice);
            for call in group {
                let method = call.get("method").and_then(Value::as_str);
                let method = method.ok_or_else(|| fault(&place, "?", "expected {\"method\", \"params\"}"))?;
                calls.push(Call::check(place.clone(), method, call.get("params"))?);
            }
        }
    }
    Ok(calls)
}
