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

/// What each core counts of bytes that its shards write: values as they came in, values that eviction moves on,
/// metadata.
const WRITTEN: [&str; 3] = ["value_bytes_written", "moved_bytes", "meta_bytes_written"];

/// Bytes that the daemon's stores wrote to flash since it began.
///
/// # Errors
/// As [`call`], or if the answer to `store_get_stats` does not hold the counters.
pub fn flash_bytes_written(socket: &Path) -> anyhow::Result<u64> {
    let stats = call(socket, "store_get_stats")?;
    let cores = stats["cores"].as_array().context("store_get_stats: no field \"cores\"")?;
    let mut written = 0;
    for core in cores {
        for name in WRITTEN {
            let counter = core["counters"][name].as_u64();
            written += counter.with_context(|| format!("store_get_stats: no counter \"{name}\""))?;
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn answered(with: &[&str]) -> anyhow::Result<u64> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc");
        let listener = UnixListener::bind(&path).unwrap();
        let with: Vec<String> = with.iter().map(ToString::to_string).collect();
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
    fn counters_of_all_cores_are_added_even_if_the_answer_comes_in_pieces() {
        const HEAD: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"stores":[{"counters":{"moved_bytes":7}}],"cores":["#;
        const ONE: &str = r#"{"counters":{"value_bytes_written":1,"moved_bytes":2,"meta_bytes_written":3}},"#;
        const TWO: &str = r#"{"counters":{"value_bytes_written":10,"moved_bytes":20,"meta_bytes_written":30}}]}}"#;
        assert_eq!(answered(&[HEAD, ONE, TWO]).unwrap(), 66);
    }

    #[test]
    fn failures_name_their_cause() {
        let message = |with: &[&str]| format!("{:#}", answered(with).unwrap_err());
        assert!(message(&[r#"{"error":{"code":-32601,"message":"Method not found"}}"#]).contains("Method not found"));
        assert!(message(&[r#"{"result":{}}"#]).contains("no field \"cores\""));
        let bare = r#"{"result":{"cores":[{"counters":{}}]}}"#;
        assert!(message(&[bare]).contains("no counter \"value_bytes_written\""));
        assert!(message(&["{]"]).contains("not an answer"));
        assert!(message(&[r#"{"result":"#]).contains("not an answer"));
        let nobody = flash_bytes_written(Path::new("/nonexistent/s")).unwrap_err();
        assert!(format!("{nobody:#}").contains("/nonexistent/s; is it running?"));
    }
}
