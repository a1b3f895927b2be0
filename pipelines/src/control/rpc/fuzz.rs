//! A way in for fuzzers: what a connection may send, without the connection.

use serde_json::Value;

use super::dispatch::{Message, Request, answer};
use super::framer::Framer;
use super::{Fault, call};
use crate::control::Context;

/// Cuts and reads bytes as the server does, in two pieces, calls what they ask for and makes the answers. Returns how
/// many answers there were. For fuzzers.
#[doc(hidden)]
pub fn fuzz_stream(context: &Context, bytes: &[u8]) -> usize {
    let mut framer = Framer::default();
    let mut answers = 0;
    for piece in bytes.chunks(bytes.len().div_ceil(2).max(1)) {
        framer.push(piece);
        loop {
            match framer.take() {
                Ok(Some(value)) => answers += answer_all(context, &value),
                Ok(None) => break,
                Err(_) => return answers,
            }
        }
    }
    answers
}

fn answer_all(context: &Context, value: &Value) -> usize {
    let requests = match Message::read(value) {
        Message::Single(request) => vec![request],
        Message::Batch(requests) => requests,
    };
    let answered = requests.into_iter().filter_map(|Request { id, call: asked }| {
        let outcome = asked.and_then(|(method, arguments)| call(context, method, &arguments));
        let answer = answer(&id?, outcome);
        // Clients read codes and results out of the text, so it must be text.
        (answer.get("error").map_or(Value::Null, |error| error["code"].clone()) != Fault::INTERNAL_ERROR)
            .then(|| answer.to_string())
    });
    answered.filter(|text| !text.is_empty()).count()
}
