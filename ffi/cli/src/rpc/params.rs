//! A method's parameters from the command line.

use serde_json::Value;

use super::Object;
use super::schema::{Method, Param};
use crate::end::UsageError;

fn bad<T>(reason: String) -> Result<T, UsageError> {
    Err(UsageError(reason))
}

/// The object to send: the JSON object given, with the words of the line added. `None` if there is nothing to send.
pub fn object(json: Option<&str>, words: &[String], method: Option<&Method>) -> Result<Option<Object>, UsageError> {
    let mut object = match json.map(serde_json::from_str::<Value>) {
        None => Object::new(),
        Some(Ok(Value::Object(object))) => object,
        Some(Ok(_)) => return bad("--json-params wants an object: {\"name\": value, ...}".to_owned()),
        Some(Err(error)) => return bad(format!("--json-params is not JSON: {error}")),
    };
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix("--").filter(|option| !option.is_empty()) else {
            return bad(format!("\"{word}\" is no parameter; parameters are written --name value"));
        };
        let (name, mut value) = match option.split_once('=') {
            Some((name, value)) => (name.replace('-', "_"), Some(value)),
            None => (option.replace('-', "_"), None),
        };
        let path: Vec<&str> = name.split('.').collect();
        let declared = method.map(|method| declaration(method, &path)).transpose()?;
        // A flag needs no value, but may have one.
        if value.is_none() {
            let flag = declared.is_none_or(|param| param.kind == "boolean");
            let takes = |next: &&str| {
                if declared.is_some() && flag { matches!(*next, "true" | "false") } else { !next.starts_with("--") }
            };
            value = words.next_if(takes);
            if value.is_none() && !flag {
                return bad(format!("--{name} wants a value"));
            }
        }
        let value = typed(&name, value.unwrap_or("true"), declared)?;
        insert(&mut object, &path, value, declared.is_some_and(|param| param.kind == "list"))?;
    }
    check_required(&object, method)?;
    Ok((!object.is_empty()).then_some(object))
}

fn declaration<'a>(method: &'a Method, path: &[&str]) -> Result<&'a Param, UsageError> {
    let mut params = &method.params;
    let mut found = None;
    for (depth, name) in path.iter().enumerate() {
        let Some(param) = params.iter().find(|param| param.name == *name) else {
            let prefix = path[..depth].iter().map(|part| format!("{part}.")).collect::<String>();
            let known: Vec<_> = params.iter().map(|param| format!("--{prefix}{}", param.name)).collect();
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            return bad(format!("{} has no parameter --{prefix}{name}; it takes: {known}", method.name));
        };
        params = &param.fields;
        found = Some(param);
    }
    found.ok_or_else(|| UsageError("a parameter needs a name".to_owned()))
}

/// The value as the declaration wants it; without one, as JSON if it reads as JSON and as text otherwise.
fn typed(name: &str, text: &str, declared: Option<&Param>) -> Result<Value, UsageError> {
    let guess = || serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let Some(param) = declared else { return Ok(guess()) };
    match param.kind.as_str() {
        "string" | "enum" => Ok(Value::from(text)),
        "integer" => match text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)) {
            Ok(number) => Ok(number),
            Err(_) => bad(format!("--{name} wants a whole number, not \"{text}\"")),
        },
        "boolean" => match text {
            "true" => Ok(Value::from(true)),
            "false" => Ok(Value::from(false)),
            _ => bad(format!("--{name} wants true or false, not \"{text}\"")),
        },
        // Text such as 64M is for the daemon to read.
        "bytes" => Ok(text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)),
        "list" => match serde_json::from_str(text) {
            Ok(Value::Array(list)) => Ok(Value::Array(list)),
            _ => Ok(Value::Array(vec![Value::from(text)])),
        },
        "object" => match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Value::Object(object)),
            _ => bad(format!("--{name} wants a JSON object, or its parts as --{name}.PART value")),
        },
        _ => Ok(guess()),
    }
}

/// Puts a value at its place, making the objects on the way. A list takes more values, everything else only one.
fn insert(object: &mut Object, path: &[&str], value: Value, list: bool) -> Result<(), UsageError> {
    let Some((name, rest)) = path.split_first() else { return Ok(()) };
    if !rest.is_empty() {
        let inner = object.entry(*name).or_insert_with(|| Value::Object(Object::new()));
        return match inner {
            Value::Object(inner) => insert(inner, rest, value, list),
            _ => bad(format!("--{name} has a value already, so it cannot have parts")),
        };
    }
    match (object.get_mut(*name), value) {
        (Some(Value::Array(have)), Value::Array(more)) if list => have.extend(more),
        (Some(_), _) => return bad(format!("--{name} is given twice")),
        (None, value) => {
            object.insert((*name).to_owned(), value);
        }
    }
    Ok(())
}

fn check_required(object: &Object, method: Option<&Method>) -> Result<(), UsageError> {
    let Some(method) = method else { return Ok(()) };
    match method.params.iter().find(|param| param.required && !object.contains_key(&param.name)) {
        Some(missing) => {
            bad(format!("{} wants --{}; kvplane rpc {} --help says more", method.name, missing.name, method.name))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn method() -> Method {
        let fields = json!([{ "name": "trtype", "type": "string" }, { "name": "traddr", "type": "string" }]);
        from_value(json!({ "name": "m", "params": [
            { "name": "name", "type": "string", "required": true },
            { "name": "size", "type": "bytes" },
            { "name": "count", "type": "integer" },
            { "name": "allow_any_host", "type": "boolean" },
            { "name": "hosts", "type": "list" },
            { "name": "listen_address", "type": "object", "fields": fields },
        ] }))
        .unwrap()
    }

    fn typed_as(line: &str) -> Result<Value, UsageError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        object(None, &words, Some(&method())).map(|object| object.map_or(Value::Null, Value::Object))
    }

    #[test]
    fn declared_types_decide() {
        let line = "--name 007 --size 64M --count=-5 --allow-any-host --hosts a --hosts b \
                    --listen_address.trtype VFIOUSER --listen-address.traddr /run/x";
        let expected = json!({
            "name": "007", "size": "64M", "count": -5, "allow_any_host": true, "hosts": ["a", "b"],
            "listen_address": { "trtype": "VFIOUSER", "traddr": "/run/x" },
        });
        assert_eq!(typed_as(line).unwrap(), expected);
        assert_eq!(
            typed_as("--allow_any_host false --name x").unwrap(),
            json!({ "allow_any_host": false, "name": "x" })
        );
        assert_eq!(typed_as("--name -1 --size 4096").unwrap(), json!({ "name": "-1", "size": 4096 }));
    }

    #[test]
    fn mistakes_are_named() {
        let says = |line: &str, what: &str| {
            let said = typed_as(line).unwrap_err().to_string();
            assert!(said.contains(what), "{line}: {said}");
        };
        says("", "wants --name");
        says("--nmae x", "no parameter --nmae; it takes: --name, --size");
        says("--name", "--name wants a value");
        says("--name x --count many", "whole number");
        says("--name x --name y", "given twice");
        says("--name x stray", "\"stray\" is no parameter");
        says("--name x --listen_address.port 1", "no parameter --listen_address.port");
        says("--name x --listen_address 5", "wants a JSON object");
    }

    #[test]
    fn without_a_declaration_values_are_guessed() {
        let words = ["--a", "1", "--b", "text", "--c", "--d", "[1]"].map(str::to_owned);
        let made = object(Some(r#"{"z": null}"#), &words, None).unwrap().unwrap();
        assert_eq!(Value::Object(made), json!({ "z": null, "a": 1, "b": "text", "c": true, "d": [1] }));
        assert_eq!(object(None, &[], None).unwrap(), None);
        assert!(object(Some("[1]"), &[], None).is_err());
    }
}
