//! Commands about values.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};
use comfy_table::{CellAlignment, Table, presets};
use kvplane::{Checksum, Client, ConnectOptions, Error, Key, KeyState, NetworkOptions, StoreOptions};
use serde_json::{Value, json};

use crate::args::{TargetArgs, ValueCommand};
use crate::end::End;
use crate::key::KeyArg;
use crate::output;

/// Carries a command out.
pub fn run(command: &ValueCommand) -> anyhow::Result<End> {
    match command {
        ValueCommand::Put { key, file, if_absent, target } => put(key, file.as_deref(), *if_absent, target),
        ValueCommand::Get { key, output, target } => get(key, output.as_deref(), target),
        ValueCommand::Exists { key, target } => {
            let key = key.key(target.text)?;
            Ok(hit(connect(target)?.exists(key)?))
        }
        ValueCommand::Rm { key, target } => {
            let key = key.key(target.text)?;
            Ok(hit(connect(target)?.delete(key)?))
        }
        ValueCommand::Lookup { keys, json, target } => lookup(keys, *json, target),
    }
}

fn hit(hit: bool) -> End {
    if hit { End::Done } else { End::Miss }
}

fn connect(target: &TargetArgs) -> anyhow::Result<Client> {
    let network = NetworkOptions {
        host_nqn: target.host_nqn.clone(),
        header_digest: target.digests,
        data_digest: target.digests,
        ..NetworkOptions::default()
    };
    let options = ConnectOptions {
        queue_depth: 8,
        list_places: 1,
        namespace: target.namespace,
        checksum: if target.checksum { Checksum::Verify } else { Checksum::Off },
        deadline: target.timeout,
        network,
        ..ConnectOptions::default()
    };
    Client::connect(&target.connect, options).map_err(|error| match error {
        Error::Connect { .. } => anyhow!("{error} (--connect or KVPLANE_CONNECT says where)"),
        error => error.into(),
    })
}

fn put(key: &KeyArg, file: Option<&Path>, if_absent: bool, target: &TargetArgs) -> anyhow::Result<End> {
    let key = key.key(target.text)?;
    let mut client = connect(target)?;
    let max = u64::from(client.namespace().max_value_bytes);
    let value = match file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            read_value(file, max).with_context(|| format!("cannot take {}", path.display()))?
        }
        _ => read_value(std::io::stdin().lock(), max).context("cannot take standard input")?,
    };
    let options = StoreOptions { must_not_exist: if_absent, ..StoreOptions::default() };
    Ok(hit(client.put_with(key, &value, options)?))
}

/// Reads a value, no further than it takes to see that it is too long. 0 stands for no maximum.
fn read_value(from: impl Read, max: u64) -> anyhow::Result<Vec<u8>> {
    let max = if max == 0 { u64::from(u32::MAX) } else { max };
    let mut value = Vec::new();
    from.take(max + 1).read_to_end(&mut value)?;
    anyhow::ensure!(!value.is_empty(), "it is empty; a value has at least one byte");
    anyhow::ensure!(value.len() as u64 <= max, "it is longer than the {max} bytes that a value may have");
    Ok(value)
}

fn get(key: &KeyArg, output: Option<&Path>, target: &TargetArgs) -> anyhow::Result<End> {
    let key = key.key(target.text)?;
    let Some(value) = connect(target)?.get(key)? else { return Ok(End::Miss) };
    match output {
        Some(path) => std::fs::write(path, value).with_context(|| format!("cannot write {}", path.display()))?,
        None => output::print(|out| out.write_all(&value))?,
    }
    Ok(End::Done)
}

fn lookup(written: &[KeyArg], as_json: bool, target: &TargetArgs) -> anyhow::Result<End> {
    let keys: Vec<Key> = written.iter().map(|key| key.key(target.text)).collect::<Result<_, _>>()?;
    let mut client = connect(target)?;
    let prefix = client.lookup_prefix(&keys)?;
    let states = client.lookup_state(&keys)?;
    output::print(|out| match as_json {
        true => writeln!(out, "{:#}", to_json(&keys, prefix, &states)),
        false => writeln!(out, "prefix: {prefix} of {} keys\n{}", keys.len(), to_table(written, &keys, &states)),
    })?;
    Ok(hit(prefix == keys.len()))
}

/// A checksum for people and programs; nothing for a value that was stored without one.
fn checksum(state: &KeyState) -> Option<String> {
    (state.checksum != 0).then(|| format!("{:016x}", state.checksum))
}

fn tier(state: &KeyState) -> &'static str {
    match state.tier {
        kvplane::Tier::None => "none",
        kvplane::Tier::Dram => "dram",
        kvplane::Tier::Flash => "flash",
        kvplane::Tier::Object => "object",
    }
}

fn to_json(keys: &[Key], prefix: usize, states: &[KeyState]) -> Value {
    let each = keys.iter().zip(states).map(|(key, state)| {
        json!({
            "key": key.to_string(),
            "present": state.present,
            "tier": tier(state),
            "value_bytes": state.value_bytes,
            "checksum": checksum(state),
        })
    });
    json!({ "prefix": prefix, "keys": each.collect::<Vec<_>>() })
}

fn to_table(written: &[KeyArg], keys: &[Key], states: &[KeyState]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["key", "present", "tier", "bytes", "checksum"]);
    if let Some(bytes) = table.column_mut(3) {
        bytes.set_cell_alignment(CellAlignment::Right);
    }
    for ((written, key), state) in written.iter().zip(keys).zip(states) {
        let name = written.as_written();
        let name = if name.starts_with("text:") { name.to_owned() } else { key.to_string() };
        let present = if state.present { "yes" } else { "no" };
        let sum = checksum(state).unwrap_or_else(|| "-".to_owned());
        table.add_row([name, present.to_owned(), tier(state).to_owned(), state.value_bytes.to_string(), sum]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvplane::Tier;

    #[test]
    fn values_are_read_up_to_the_maximum() {
        assert_eq!(read_value(&b"abc"[..], 3).unwrap(), b"abc");
        assert!(read_value(&b"abcd"[..], 3).unwrap_err().to_string().contains("3 bytes"));
        assert!(read_value(std::io::empty(), 3).unwrap_err().to_string().contains("at least one byte"));
    }

    #[test]
    fn states_are_reported_for_programs() {
        let states = [KeyState { present: true, tier: Tier::Flash, value_bytes: 9, checksum: 0xAB }, KeyState::MISSING];
        let keys = [Key::new([0; 16]), Key::new([1; 16])];
        let report = to_json(&keys, 1, &states);
        assert_eq!(report["prefix"], 1);
        assert_eq!(report["keys"][0]["checksum"], "00000000000000ab");
        assert_eq!(report["keys"][0]["tier"], "flash");
        assert_eq!(report["keys"][1]["present"], false);
        assert_eq!(report["keys"][1]["checksum"], Value::Null);
    }
}
