//! Calls of kvplaned's control socket.

mod connection;
mod params;
mod schema;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::end::{End, UsageError};
use crate::output;
use connection::{CallError, Connection};
use schema::Schema;

/// What `kvplane rpc --help` begins with.
pub const ABOUT: &str = "\
Call a method of kvplaned's control socket (JSON-RPC 2.0, SPDK's conventions) and print its result as JSON; without \
a method, list them. Options of this command stand before the method, for all that follows it belongs to it.

Parameters follow the method: --name value, --name=value, --flag for a boolean, --group.name value inside an object, \
a repeated --name for a list. Dashes in names stand for underscores. Their types come from the daemon, which describes \
its methods itself (kvplane rpc METHOD --help prints that).";

/// The line of a call.
#[derive(Debug, clap::Args)]
pub struct CallArgs {
    /// The control socket: kvplaned's --rpc-socket.
    #[arg(short, long, env = "KVPLANE_RPC_SOCKET", default_value = "/var/tmp/kvplane.sock", value_name = "PATH")]
    pub socket: PathBuf,
    /// Seconds to wait for the answer.
    #[arg(short, long, default_value = "60", value_name = "SECONDS", value_parser = crate::args::seconds)]
    pub timeout: Duration,
    /// All parameters at once, as a JSON object. Those that follow the method are added to it.
    #[arg(long, value_name = "JSON")]
    pub json_params: Option<String>,
    /// The method to call, and its parameters. --help among them describes the method instead of calling it.
    // One list, so that nothing behind the method is taken for an option of this command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "METHOD [--PARAM VALUE]")]
    pub call: Vec<String>,
}

/// Calls the method, describes it, or lists all.
pub fn run(args: &CallArgs) -> anyhow::Result<End> {
    let call = args.call.split_first();
    if let Some((option, _)) = call.filter(|(name, _)| name.starts_with('-')) {
        return Err(UsageError(format!("kvplane rpc has no option {option}; parameters follow the method")).into());
    }
    let mut connection = connect(args)?;
    let schema = Schema::ask(&mut connection)?;
    let Some((name, params)) = call else {
        let list = list(&mut connection, schema.as_ref())?;
        output::print(|out| out.write_all(list.as_bytes()))?;
        return Ok(End::Done);
    };
    let method = schema.as_ref().and_then(|schema| schema.method(name));
    if params.iter().any(|param| param == "--help" || param == "-h") {
        match method {
            Some(method) => output::print(|out| out.write_all(method.help().as_bytes()))?,
            None if schema.is_some() => {
                return Err(UsageError(format!("there is no method {name}; kvplane rpc lists all")).into());
            }
            None => bail!("this daemon does not describe its methods (it has no rpc_get_schema)"),
        }
        return Ok(End::Done);
    }
    let params = params::object(args.json_params.as_deref(), params, method)?;
    match connection.call(name, params) {
        Ok(result) => {
            output::print(|out| writeln!(out, "{result:#}"))?;
            Ok(End::Done)
        }
        Err(CallError::Refused { code, message }) => bail!("{name}: {message} ({code})"),
        Err(error) => Err(error.into()),
    }
}

fn connect(args: &CallArgs) -> anyhow::Result<Connection> {
    Connection::open(&args.socket, args.timeout).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => "is kvplaned running? -s says where its socket is",
            ErrorKind::PermissionDenied => "the socket belongs to another user",
            _ => "the control socket does not answer",
        };
        anyhow::Error::new(error).context(format!("cannot open {}: {hint}", args.socket.display()))
    })
}

fn list(connection: &mut Connection, schema: Option<&Schema>) -> anyhow::Result<String> {
    if let Some(schema) = schema {
        return Ok(schema.list());
    }
    let names = connection.call("rpc_get_methods", None)?;
    let names: Vec<String> = serde_json::from_value(names).context("rpc_get_methods did not answer a list of names")?;
    Ok(names.iter().map(|name| format!("{name}\n")).collect())
}

/// A JSON object's fields.
type Object = serde_json::Map<String, Value>;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// A daemon that answers calls with what `answer` makes of them, until the client hangs up.
    fn with_daemon(line: &str, answer: fn(&str, &Value) -> Result<Value, Value>) -> anyhow::Result<End> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            let mut buffer = [0; 7];
            loop {
                // The client may hang up with an answer unread, which shows as an error here.
                let count = stream.read(&mut buffer).unwrap_or(0);
                if count == 0 {
                    return;
                }
                bytes.extend_from_slice(&buffer[..count]);
                let Ok(request) = serde_json::from_slice::<Value>(&bytes) else { continue };
                bytes.clear();
                let mut reply = json!({ "jsonrpc": "2.0", "id": request["id"] });
                match answer(request["method"].as_str().unwrap(), &request["params"]) {
                    Ok(result) => reply["result"] = result,
                    Err(error) => reply["error"] = error,
                }
                writeln!(stream, "{reply}").unwrap();
            }
        });
        let line = format!("kvplane rpc -s {} {line}", path.display());
        let args = crate::args::Args::try_parse_from(line.split_whitespace()).unwrap();
        let crate::args::Command::Rpc(call) = args.command else { panic!("not a call") };
        let ended = run(&call);
        thread.join().unwrap();
        ended
    }

    fn unknown() -> Value {
        json!({ "code": -32601, "message": "Method not found" })
    }

    #[test]
    fn parameters_are_typed_by_the_daemons_schema() {
        let ended = with_daemon("make --name 12 --size 34", |method, params| match method {
            "rpc_get_schema" => Ok(json!({ "methods": [{ "name": "make", "params": [
                { "name": "name", "type": "string", "required": true },
                { "name": "size", "type": "integer", "required": false },
            ] }] })),
            "make" => {
                assert_eq!(*params, json!({ "name": "12", "size": 34 }));
                Ok(json!(true))
            }
            _ => Err(unknown()),
        });
        assert_eq!(ended.unwrap(), End::Done);
    }

    #[test]
    fn a_daemon_without_a_schema_can_be_called() {
        let ended = with_daemon("log_set_level --level NOTICE --count 3", |method, params| match method {
            "log_set_level" => {
                assert_eq!(*params, json!({ "level": "NOTICE", "count": 3 }));
                Ok(json!(true))
            }
            _ => Err(unknown()),
        });
        assert_eq!(ended.unwrap(), End::Done);
    }

    #[test]
    fn refusals_say_why() {
        let refused = with_daemon("nothing", |_, _| Err(unknown())).unwrap_err();
        assert_eq!(refused.to_string(), "nothing: Method not found (-32601)");
    }

    #[test]
    fn a_missing_socket_is_explained() {
        let args = crate::args::Args::try_parse_from(["kvplane", "rpc", "-s", "/nonexistent/x.sock"]).unwrap();
        let crate::args::Command::Rpc(call) = args.command else { panic!("not a call") };
        assert!(run(&call).unwrap_err().to_string().contains("is kvplaned running?"));
    }
}
