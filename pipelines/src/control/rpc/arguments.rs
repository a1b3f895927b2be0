//! A request's parameters, checked against the declaration.

use serde_json::{Map, Value};

use super::{Fault, Kind, Param};
use crate::daemon::size::parse_size;

/// The parameters of a call: everything that is there is as declared, and missing ones have their default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arguments(Map<String, Value>);

impl Arguments {
    /// Checks parameters.
    ///
    /// # Errors
    /// Names the parameter that is unknown, missing or not as declared.
    pub fn check(method: &str, declared: &'static [Param], given: Option<&Value>) -> Result<Self, Fault> {
        match given {
            None | Some(Value::Null) => check_group(method, declared, &Map::new()).map(Self),
            Some(Value::Object(given)) => check_group(method, declared, given).map(Self),
            Some(_) => Err(Fault::invalid(format!("params of {method} must be an object"))),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// If it is not there, which means that the declaration does not require it.
    pub fn text(&self, name: &str) -> Result<&str, Fault> {
        self.optional_text(name).ok_or_else(|| absent(name))
    }

    /// A text that may be missing.
    #[must_use]
    pub fn optional_text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A flag; one without a default that is missing is `false`.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A number that may be missing.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    /// A number of 32 bits that may be missing. The declaration must keep it in range.
    ///
    /// # Errors
    /// If the declaration lets it be greater.
    pub fn number32(&self, name: &str) -> Result<Option<u32>, Fault> {
        let number = self.number(name).map(u32::try_from);
        number.transpose().map_err(|_| Fault::invalid(format!("parameter {name:?} is greater than 32 bits")))
    }

    /// A list of texts; empty if it is missing.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<String> {
        let list = self.0.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// An object with parameters of its own; empty if it is missing.
    #[must_use]
    pub fn group(&self, name: &str) -> Self {
        Self(self.0.get(name).and_then(Value::as_object).cloned().unwrap_or_default())
    }
}

fn absent(name: &str) -> Fault {
    Fault::new(Fault::INTERNAL_ERROR, format!("parameter {name:?} is used but not declared as required"))
}

fn check_group(
    place: &str,
    declared: &'static [Param],
    given: &Map<String, Value>,
) -> Result<Map<String, Value>, Fault> {
    if let Some(unknown) = given.keys().find(|name| declared.iter().all(|param| param.name != name.as_str())) {
        let unknown: String = unknown.chars().take(64).collect();
        return Err(Fault::invalid(if declared.is_empty() {
            format!("unknown parameter {unknown:?}: {place} takes no parameters")
        } else {
            let known: Vec<_> = declared.iter().map(|param| param.name).collect();
            format!("unknown parameter {unknown:?} of {place}; it takes: {}", known.join(", "))
        }));
    }
    let mut checked = Map::new();
    for param in declared {
        // SPDK's clients leave out what is None; others send null for it.
        let value = match given.get(param.name).filter(|value| !value.is_null()) {
            Some(value) => check_value(place, param, value)?,
            None if param.required => {
                let (name, kind) = (param.name, param.kind.name());
                return Err(Fault::invalid(format!("missing parameter {name:?} ({kind}) of {place}: {}", param.doc)));
            }
            None => match param.default.map(serde_json::from_str) {
                Some(Ok(default)) => default,
                _ => continue,
            },
        };
        checked.insert(param.name.to_owned(), value);
    }
    Ok(checked)
}

fn check_value(place: &str, param: &Param, value: &Value) -> Result<Value, Fault> {
    let fault = |expected: String| Fault::invalid(format!("parameter {:?} of {place} must be {expected}", param.name));
    let between = |number: u64, least, most| {
        let fits = (least..=most).contains(&number);
        fits.then(|| Value::from(number)).ok_or_else(|| fault(format!("from {least} to {most}")))
    };
    match (&param.kind, value) {
        (Kind::Flag, Value::Bool(_)) | (Kind::AlwaysFalse, Value::Bool(false)) => Ok(value.clone()),
        (Kind::Flag, _) => Err(fault("true or false".into())),
        (Kind::AlwaysFalse, _) => Err(fault("false: kvplane does not have this".into())),
        (Kind::Integer { least, most }, _) => {
            let number = value.as_u64().ok_or_else(|| fault(format!("a whole number from {least} to {most}")))?;
            between(number, *least, *most)
        }
        (Kind::Bytes { least, most }, Value::String(text)) => {
            let bytes = parse_size(text).map_err(|error| fault(format!("a number of bytes: {error}")))?;
            between(bytes, *least, *most)
        }
        (Kind::Bytes { least, most }, _) => {
            let expected = || fault("a number of bytes, or text such as \"64M\"".into());
            between(value.as_u64().ok_or_else(expected)?, *least, *most)
        }
        (Kind::Text(longest), Value::String(text)) if text.len() <= *longest => Ok(value.clone()),
        (Kind::Text(longest), _) => Err(fault(format!("text of {longest} bytes at most"))),
        (Kind::Choice(names), _) => {
            let known = value.as_str().and_then(|text| names.iter().find(|name| name.eq_ignore_ascii_case(text)));
            known.map(|name| Value::from(*name)).ok_or_else(|| fault(format!("one of {}", names.join(", "))))
        }
        (Kind::Texts(most), Value::Array(list)) if list.len() <= *most && list.iter().all(Value::is_string) => {
            Ok(value.clone())
        }
        (Kind::Texts(most), _) => Err(fault(format!("a list of {most} texts at most"))),
        (Kind::Group(params), Value::Object(given)) => {
            check_group(&format!("{} of {place}", param.name), params, given).map(Value::Object)
        }
        (Kind::Group(_), _) => Err(fault("an object".into())),
    }
}
