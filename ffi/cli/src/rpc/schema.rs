//! What the daemon says of its own methods: `rpc_get_schema`.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use super::connection::{CallError, Connection};

/// JSON-RPC's code for a method that is not there.
const METHOD_NOT_FOUND: i64 = -32601;

/// All methods. Fields that this version does not know are passed over, those that it misses are empty.
#[derive(Debug, Default, Deserialize)]
pub struct Schema {
    methods: Vec<Method>,
}

/// A method.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Method {
    pub name: String,
    aliases: Vec<String>,
    phase: String,
    summary: String,
    pub params: Vec<Param>,
    result: String,
}

/// A parameter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Param {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub required: bool,
    doc: String,
    default: Option<Value>,
    minimum: Option<u64>,
    maximum: Option<u64>,
    choices: Vec<Value>,
    /// Parameters inside an object.
    pub fields: Vec<Param>,
}

impl Schema {
    /// Asks the daemon; `None` from one that describes nothing, such as SPDK's own targets.
    pub fn ask(connection: &mut Connection) -> Result<Option<Self>, CallError> {
        match connection.call("rpc_get_schema", None) {
            Ok(value) => Ok(serde_json::from_value(value).ok()),
            Err(CallError::Refused { code: METHOD_NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A method by its name or one of its aliases.
    pub fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|method| method.name == name || method.aliases.iter().any(|alias| alias == name))
    }

    /// Every method in a line.
    pub fn list(&self) -> String {
        let width = self.methods.iter().map(|method| method.name.len()).max().unwrap_or_default();
        self.methods.iter().map(|method| format!("{:width$}  {}\n", method.name, method.summary)).collect()
    }
}

impl Method {
    /// The method for people.
    pub fn help(&self) -> String {
        let mut text = format!("{}\n\nUsage: kvplane rpc {}", self.summary, self.name);
        for param in &self.params {
            let one = format!("--{} <{}>", param.name, param.kind);
            text += &if param.required { format!(" {one}") } else { format!(" [{one}]") };
        }
        text.push('\n');
        if !self.params.is_empty() {
            text.push_str("\nParameters:\n");
            self.params.iter().for_each(|param| param.describe("", &mut text));
        }
        let mut line = |title: &str, what: &str| {
            if !what.is_empty() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "\n{title}: {what}");
            }
        };
        line("Result", &self.result);
        line("May be called", &self.phase);
        line("Also called", &self.aliases.join(", "));
        text
    }
}

impl Param {
    fn describe(&self, prefix: &str, text: &mut String) {
        let mut notes = vec![self.kind.clone()];
        if self.required {
            notes.push("required".to_owned());
        }
        if let (Some(least), Some(most)) = (self.minimum, self.maximum) {
            notes.push(format!("{least} to {most}"));
        }
        if !self.choices.is_empty() {
            let names = self.choices.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned));
            notes.push(format!("one of {}", names.collect::<Vec<_>>().join(", ")));
        }
        if let Some(default) = &self.default {
            notes.push(format!("default {default}"));
        }
        let _ = writeln!(text, "  --{prefix}{}  {} ({})", self.name, self.doc, notes.join("; "));
        let inner = format!("{prefix}{}.", self.name);
        self.fields.iter().for_each(|field| field.describe(&inner, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_method_is_described_from_its_declaration() {
        let schema: Schema = serde_json::from_value(json!({ "methods": [{
            "name": "add", "aliases": ["plus"], "phase": "runtime", "summary": "Adds.", "result": "true",
            "params": [
                { "name": "size", "type": "bytes", "required": true, "doc": "how much", "minimum": 1, "maximum": 9 },
                { "name": "at", "type": "object", "required": false, "doc": "where", "fields": [
                    { "name": "place", "type": "enum", "required": false, "doc": "which", "choices": ["here"],
                      "default": "here" }] },
            ], "errors": [{ "code": -19, "doc": "unknown to this version" }] }] }))
        .unwrap();
        assert_eq!(schema.list(), "add  Adds.\n");
        let help = schema.method("plus").unwrap().help();
        assert!(help.contains("Usage: kvplane rpc add --size <bytes> [--at <object>]\n"), "{help}");
        assert!(help.contains("  --size  how much (bytes; required; 1 to 9)\n"), "{help}");
        assert!(help.contains("  --at.place  which (enum; one of here; default \"here\")\n"), "{help}");
        assert!(help.contains("Also called: plus"), "{help}");
    }
}
