//! Cuts a byte stream into JSON values. There is nothing between them but optional white space, and a value may come
//! in any number of pieces.

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

/// The longest request, or batch of requests, in bytes (SPDK's limit).
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// What makes a stream useless from here on.
#[derive(Debug, PartialEq, Eq)]
pub enum BadStream {
    /// The bytes are not a JSON object or array.
    NotJson(String),
    /// The value is longer than [`MAX_REQUEST_BYTES`].
    TooLong,
}

/// The bytes of a connection that have come and not yet been taken.
#[derive(Default)]
pub struct Framer {
    bytes: Vec<u8>,
    /// How far the value at the front was looked through.
    scanned: usize,
    /// Open brackets there.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The length at which an unfinished value is next checked for being JSON at all. It doubles, so that a client
    /// that sends byte by byte cannot make the server parse the same bytes over and over.
    check_at: usize,
}

impl Framer {
    /// Adds bytes that came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next value, if it is there whole.
    pub fn take(&mut self) -> Result<Option<Value>, BadStream> {
        self.skip_white_space();
        match self.bytes.first() {
            None => return Ok(None),
            Some(b'{' | b'[') => (),
            Some(other) => {
                let shown = char::from(*other).escape_default();
                return Err(BadStream::NotJson(format!("a request cannot begin with '{shown}'")));
            }
        }
        let Some(end) = self.scan() else {
            if self.bytes.len() > MAX_REQUEST_BYTES {
                return Err(BadStream::TooLong);
            }
            return self.check_unfinished().map(|()| None);
        };
        if end > MAX_REQUEST_BYTES {
            return Err(BadStream::TooLong);
        }
        let value =
            serde_json::from_slice(&self.bytes[..end]).map_err(|error| BadStream::NotJson(error.to_string()))?;
        self.bytes.drain(..end);
        (self.scanned, self.check_at) = (0, 0);
        Ok(Some(value))
    }

    fn skip_white_space(&mut self) {
        if self.scanned == 0 {
            let blank = self.bytes.iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
            self.bytes.drain(..blank);
        }
    }

    /// The end of the value at the front. Brackets are only counted, not matched: that is the parser's business.
    fn scan(&mut self) -> Option<usize> {
        for (at, byte) in self.bytes.iter().enumerate().skip(self.scanned) {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => (),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => (),
            }
        }
        self.scanned = self.bytes.len();
        None
    }

    fn check_unfinished(&mut self) -> Result<(), BadStream> {
        if self.bytes.len() < self.check_at {
            return Ok(());
        }
        self.check_at = self.bytes.len() * 2;
        match Deserializer::from_slice(&self.bytes).into_iter::<IgnoredAny>().next() {
            Some(Err(error)) if !error.is_eof() => Err(BadStream::NotJson(error.to_string())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_cut_wherever_the_pieces_end() {
        let stream = br#" {"a":"}]\"[","b":[1,{"c":null}]}[] {"d":"\\"}
            [{"e":"\u00fc"}]"#;
        let expected =
            [json!({"a": "}]\"[", "b": [1, {"c": null}]}), json!([]), json!({"d": "\\"}), json!([{"e": "\u{fc}"}])];
        for piece in 1..stream.len() {
            let mut framer = Framer::default();
            let mut values = Vec::new();
            for bytes in stream.chunks(piece) {
                framer.push(bytes);
                while let Some(value) = framer.take().unwrap() {
                    values.push(value);
                }
            }
            assert_eq!(values, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_not_json_is_noticed_before_it_ends() {
        for bad in
            ["x", "1", "\"a\"", "}", "{garbage", "{\"a\" 1", "{\"a\":1]", "[1 2]", "{\"a\":\"\u{1}\"}", "\u{feff}{}"]
        {
            let mut framer = Framer::default();
            framer.push(bad.as_bytes());
            assert!(matches!(framer.take(), Err(BadStream::NotJson(_))), "{bad:?}");
        }
        let mut deep = Framer::default();
        deep.push(("[".repeat(10_000) + &"]".repeat(10_000)).as_bytes());
        assert!(matches!(deep.take(), Err(BadStream::NotJson(_))));
    }

    #[test]
    fn a_value_has_a_longest_length() {
        let text = |length: usize| format!("[\"{}\"]", "x".repeat(length - 4));
        let mut framer = Framer::default();
        framer.push(text(MAX_REQUEST_BYTES).as_bytes());
        assert!(matches!(framer.take(), Ok(Some(_))));
        framer.push(text(MAX_REQUEST_BYTES + 1).as_bytes());
        assert_eq!(framer.take(), Err(BadStream::TooLong));
        let mut framer = Framer::default();
        framer.push(&text(2 * MAX_REQUEST_BYTES).as_bytes()[..=MAX_REQUEST_BYTES]);
        assert_eq!(framer.take(), Err(BadStream::TooLong));
    }
}
