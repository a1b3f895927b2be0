//! Figures that only the daemon has, over its JSON-RPC socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Calls a method without parameters.
///
/// # Errors
/// If the socket does not answer, or answers with an error.
pub fn call(socket: &Path, method: &str) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot reach kvplaned's RPC socket {}; is it running?", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method});
    stream.write_all(serde_json::to_string(&request)?.as_bytes())?;
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let bytes = stream.read(&mut piece).with_context(|| format!("{method}: no answer"))?;
        text.extend_from_slice(&piece[..bytes]);
        match serde_json::from_slice::<Value>(&text) {
            Ok(mut answer) => {
                if let Some(error) = answer.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(answer["result"].take());
            }
            // Answers are not framed: an end that comes too early means that there is more to read.
            Err(error) if error.is_eof() && bytes > 0 => {}
            Err(error) => bail!("{method}: not an answer: {error}"),
        }
    }
}

/// Bytes written to flash since the daemon began: the sum of every field `flash_bytes_written` in the answer to
/// `store_get_stats`, however it is grouped.
///
/// # Errors
/// As [`call`], or if there is no such field.
pub fn flash_bytes_written(socket: &Path) -> anyhow::Result<u64> {
    let stats = call(socket, "store_get_stats")?;
    sum(&stats, "flash_bytes_written").context("store_get_stats has no field flash_bytes_written")
}

/// A total at the top counts alone; otherwise the parts are added up.
fn sum(value: &Value, name: &str) -> Option<u64> {
    let parts: Vec<u64> = match value {
        Value::Object(fields) => match fields.get(name).and_then(Value::as_u64) {
            Some(total) => return Some(total),
            None => fields.values().filter_map(|field| sum(field, name)).collect(),
        },
        Value::Array(entries) => entries.iter().filter_map(|entry| sum(entry, name)).collect(),
        _ => Vec::new(),
    };
    (!parts.is_empty()).then(|| parts.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn answered(with: &'static [&'static str]) -> anyhow::Result<u64> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let bytes = stream.read(&mut request).unwrap();
            assert!(std::str::from_utf8(&request[..bytes]).unwrap().contains("store_get_stats"));
            for piece in with {
                stream.write_all(piece.as_bytes()).unwrap();
            }
        });
        let result = flash_bytes_written(&path);
        server.join().unwrap();
        result
    }

    #[test]
    fn totals_and_parts_are_read_even_in_pieces() {
        assert_eq!(answered(&[r#"{"jsonrpc":"2.0","id":1,"re"#, r#"sult":{"flash_bytes_written":5}}"#]).unwrap(), 5);
        const PARTS: &str = r#"{"result":{"shards":[{"flash_bytes_written":2},{"flash_bytes_written":3}]}}"#;
        assert_eq!(answered(&[PARTS]).unwrap(), 5);
    }

    #[test]
    fn failures_name_their_cause() {
        let message = |with| format!("{:#}", answered(with).unwrap_err());
        assert!(message(&[r#"{"error":{"code":-32601,"message":"Method not found"}}"#]).contains("Method not found"));
        assert!(message(&[r#"{"result":{}}"#]).contains("no field flash_bytes_written"));
        assert!(message(&["{]"]).contains("not an answer"));
        assert!(message(&[r#"{"result":"#]).contains("not an answer"));
        let nobody = flash_bytes_written(Path::new("/nonexistent/s")).unwrap_err();
        assert!(format!("{nobody:#}").contains("/nonexistent/s; is it running?"));
    }
}
