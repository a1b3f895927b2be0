//! Request traces of an LLM service in the JSONL format of Mooncake: one object a line, in the order of arrival.
//!
//! ```json
//! {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48]}
//! ```
//!
//! A hash id names a block of 512 tokens together with all that stands before it, so two requests share a prefix
//! exactly as far as their ids are equal.

mod generate;
mod summary;

use std::io::BufRead;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use generate::{GenerateOptions, generate};
pub use summary::Summary;

/// Tokens in a block of the trace.
pub const BLOCK_TOKENS: u64 = 512;

/// One request to the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Arrival, in milliseconds since the trace's beginning.
    pub timestamp: u64,
    /// Tokens of the prompt.
    pub input_length: u64,
    /// Tokens of the answer.
    pub output_length: u64,
    /// The prompt's blocks, first to last; the last one may be only partly filled.
    pub hash_ids: Vec<u64>,
}

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be opened or read.
    #[error("{path}: {cause}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A line is not a request.
    #[error(
        "{path}: line {line}: {cause} (expected {{\"timestamp\": ms, \"input_length\": tokens, \
         \"output_length\": tokens, \"hash_ids\": [...]}})"
    )]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// There is no request in it.
    #[error("{path}: holds no request")]
    Empty {
        /// The file.
        path: String,
    },
}

/// Reads the first `limit` requests of a file.
///
/// # Errors
/// See [`TraceError`].
pub fn read(path: &Path, limit: usize) -> Result<Vec<Request>, TraceError> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|cause| TraceError::Read { path: name.clone(), cause })?;
    parse(&name, std::io::BufReader::new(file), limit)
}

/// Reads the first `limit` requests. `path` is for messages only. Blank lines are passed over.
///
/// # Errors
/// See [`TraceError`].
pub fn parse(path: &str, mut lines: impl BufRead, limit: usize) -> Result<Vec<Request>, TraceError> {
    let mut requests: Vec<Request> = Vec::new();
    let mut text = Vec::new();
    let mut line = 0;
    while requests.len() < limit {
        text.clear();
        let bytes =
            lines.read_until(b'\n', &mut text).map_err(|cause| TraceError::Read { path: path.to_owned(), cause })?;
        if bytes == 0 {
            break;
        }
        line += 1;
        if text.trim_ascii().is_empty() {
            continue;
        }
        let refuse = |cause: String| TraceError::Line { path: path.to_owned(), line, cause };
        let request: Request = serde_json::from_slice(&text).map_err(|error| refuse(cause(&error)))?;
        check(&request, requests.last()).map_err(refuse)?;
        requests.push(request);
    }
    if requests.is_empty() { Err(TraceError::Empty { path: path.to_owned() }) } else { Ok(requests) }
}

/// The parser's message without its own line number, which always says 1.
fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    format!("column {}: {message}", error.column())
}

fn check(request: &Request, before: Option<&Request>) -> Result<(), String> {
    if let Some(before) = before.filter(|before| before.timestamp > request.timestamp) {
        return Err(format!("timestamp {} lies before {} of the request above", request.timestamp, before.timestamp));
    }
    let most = request.input_length.div_ceil(BLOCK_TOKENS);
    if request.hash_ids.len() as u64 > most {
        let (ids, tokens) = (request.hash_ids.len(), request.input_length);
        return Err(format!("{ids} hash_ids, but {tokens} tokens fill only {most} blocks of {BLOCK_TOKENS}"));
    }
    Ok(())
}

/// Writes requests, one a line.
///
/// # Errors
/// As the writer.
pub fn write(requests: &[Request], mut out: impl std::io::Write) -> std::io::Result<()> {
    for request in requests {
        serde_json::to_writer(&mut out, request)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"timestamp": 5, "input_length": 513, "output_length": 2, "hash_ids": [0, 1]}"#;

    fn refused(text: &str) -> String {
        parse("t.jsonl", text.as_bytes(), usize::MAX).unwrap_err().to_string()
    }

    #[test]
    fn reads_the_published_format_and_writes_it_back() {
        let text = format!("{GOOD}\n\n{}\n", GOOD.replace("[0, 1]", "[0, 2]"));
        let requests = parse("t", text.as_bytes(), usize::MAX).unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[1].hash_ids, [0, 2]);
        let mut out = Vec::new();
        write(&requests, &mut out).unwrap();
        assert_eq!(parse("t", &out[..], usize::MAX).unwrap(), requests);
        assert_eq!(parse("t", text.as_bytes(), 1).unwrap().len(), 1);
    }

    #[test]
    fn names_the_line_and_the_cause() {
        let message = refused(&format!("{GOOD}\n{}\n", GOOD.replace("\"hash_ids\"", "\"ids\"")));
        assert!(message.contains("t.jsonl: line 2:"), "{message}");
        assert!(message.contains("missing field `hash_ids`"), "{message}");
        let message = refused(&format!("\n{GOOD}\n{}", &GOOD[..40]));
        assert!(message.contains("line 3: column 40: EOF"), "{message}");
        let message = refused(&GOOD.replace("513", "-1"));
        assert!(message.contains("line 1:") && message.contains("invalid value: integer `-1`"), "{message}");
        assert!(refused("\u{fffd}\n").contains("line 1: column 1: expected value"));
    }

    #[test]
    fn refuses_what_cannot_be_a_trace() {
        let back = format!("{GOOD}\n{}", GOOD.replace("\"timestamp\": 5", "\"timestamp\": 4"));
        assert!(refused(&back).contains("line 2: timestamp 4 lies before 5"), "{}", refused(&back));
        let many = GOOD.replace("513", "512");
        assert!(refused(&many).contains("2 hash_ids, but 512 tokens fill only 1 blocks"), "{}", refused(&many));
        assert_eq!(refused("\n\n"), "t.jsonl: holds no request");
        assert!(read(Path::new("/nonexistent/t"), 1).unwrap_err().to_string().starts_with("/nonexistent/t: No such"));
    }
}
