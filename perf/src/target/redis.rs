//! A Redis server, to compare with: GET, SET, EXISTS and DEL, pipelined over one connection (RESP 2).
//!
//! As fair as can be: no thread of its own, many commands in one system call, and values are received straight into the
//! memory where they belong.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use dataplane::Burst;
use dataplane::nvme::spec::kv::Key;

use super::{Command, Done, Op, Outcome, Span, Target, TargetError};

/// Bytes asked for where a reply begins: its first line, and not much of the value behind it.
const LINE_BYTES: usize = 64;

/// A command that waits for its reply.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    token: u32,
    op: Op,
    span: Span,
}

/// A value that is coming in.
#[derive(Clone, Copy, Debug)]
struct Body {
    /// Bytes of it, and how many have come.
    bytes: usize,
    come: usize,
}

/// A connection to a Redis server.
#[derive(Debug)]
pub struct RedisTarget {
    stream: TcpStream,
    memory: Vec<u8>,
    /// Commands that were not sent yet, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    waiting: VecDeque<Waiting>,
    /// What came in and was not looked at: less than a line.
    line: Vec<u8>,
    body: Option<Body>,
    failure: Option<String>,
}

impl RedisTarget {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (out, line) = (Vec::with_capacity(1 << 16), Vec::with_capacity(2 * LINE_BYTES));
        let (memory, waiting) = (Vec::new(), VecDeque::with_capacity(4096));
        Ok(Self { stream, memory, out, sent: 0, waiting, line, body: None, failure: None })
    }

    fn put(&mut self, name: &str, key: &Key, value: Option<Span>) {
        let arguments = if value.is_some() { 3 } else { 2 };
        self.out.extend(format!("*{arguments}\r\n${}\r\n{name}\r\n$16\r\n", name.len()).as_bytes());
        self.out.extend(key.bytes());
        self.out.extend(b"\r\n");
        if let Some(Span { offset, bytes }) = value {
            self.out.extend(format!("${bytes}\r\n").as_bytes());
            self.out.extend(&self.memory[offset as usize..][..bytes as usize]);
            self.out.extend(b"\r\n");
        }
    }

    /// Sends as much as the socket takes.
    fn send(&mut self) -> std::io::Result<()> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Receives some bytes where they belong; false if there are none now.
    fn receive(&mut self) -> Result<bool, TargetError> {
        let span = self.waiting.front().map_or(Span::EMPTY, |waiting| waiting.span);
        let read = match self.body {
            Some(body) if body.come < body.bytes => {
                let into = &mut self.memory[span.offset as usize + body.come..span.offset as usize + body.bytes];
                self.stream.read(into)
            }
            _ => {
                let at = self.line.len();
                self.line.resize(at + LINE_BYTES, 0);
                let read = self.stream.read(&mut self.line[at..]);
                self.line.truncate(at + read.as_ref().copied().unwrap_or(0));
                return self.received(read);
            }
        };
        if let (Ok(bytes), Some(body)) = (&read, &mut self.body) {
            body.come += bytes;
        }
        self.received(read)
    }

    fn received(&self, read: std::io::Result<usize>) -> Result<bool, TargetError> {
        match read {
            Ok(0) => Err(TargetError::Gone("the server closed the connection".into())),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(TargetError::Gone(error.to_string())),
        }
    }

    /// Looks at what has come in: the end of a command, if it is all there.
    fn reply(&mut self) -> Result<Option<Done>, TargetError> {
        let Some(&Waiting { token, op, span }) = self.waiting.front() else { return Ok(None) };
        if self.body.is_none() {
            let Some(end) = self.line.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
            let line: Vec<u8> = self.line.drain(..end + 2).take(end).collect();
            let number = || std::str::from_utf8(&line[1..]).ok().and_then(|text| text.parse::<i64>().ok());
            let outcome = match line.first() {
                Some(b'+') => Outcome::Hit(span.bytes),
                Some(b':') if number() == Some(0) => Outcome::Miss,
                Some(b':') => Outcome::Hit(0),
                Some(b'$') if number() == Some(-1) => Outcome::Miss,
                Some(b'$') => {
                    let bytes = number().and_then(|bytes| usize::try_from(bytes).ok());
                    let bytes = bytes.filter(|bytes| op == Op::Retrieve && *bytes <= span.bytes as usize);
                    let bytes = bytes.ok_or_else(|| TargetError::Gone("a value of another length came".into()))?;
                    self.body = Some(Body { bytes, come: 0 });
                    return self.reply();
                }
                _ => {
                    self.failure.get_or_insert_with(|| String::from_utf8_lossy(&line).into_owned());
                    Outcome::Failed
                }
            };
            self.waiting.pop_front();
            return Ok(Some(Done { token, outcome }));
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        let there = self.line.len().min(body.bytes - body.come);
        let at = span.offset as usize + body.come;
        self.memory[at..at + there].copy_from_slice(&self.line[..there]);
        self.line.drain(..there);
        body.come += there;
        if body.come < body.bytes || self.line.len() < 2 {
            return Ok(None);
        }
        let bytes = body.bytes as u32;
        self.line.drain(..2);
        self.body = None;
        self.waiting.pop_front();
        Ok(Some(Done { token, outcome: Outcome::Hit(bytes) }))
    }
}

impl Target for RedisTarget {
    fn allocate(&mut self, bytes: usize) -> Result<(), TargetError> {
        self.memory = vec![0; bytes];
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) {
        self.memory[offset as usize..][..from.len()].copy_from_slice(from);
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        into.copy_from_slice(&self.memory[offset as usize..][..into.len()]);
    }

    fn submit(&mut self, command: Command) -> Result<bool, TargetError> {
        let Command { op, key, span, token, .. } = command;
        match op {
            Op::Retrieve => self.put("GET", &key, None),
            Op::Store => self.put("SET", &key, Some(span)),
            Op::Exist => self.put("EXISTS", &key, None),
            Op::Delete => self.put("DEL", &key, None),
            Op::Lookup => return Err(TargetError::Gone("Redis has no lookup of a prefix".into())),
        }
        self.waiting.push_back(Waiting { token, op, span });
        Ok(true)
    }

    fn ring(&mut self) {
        // A connection that is lost shows at the next poll.
        let _ = self.send();
    }

    fn poll(&mut self, done: &mut Burst<Done>) -> Result<(), TargetError> {
        self.send().map_err(|error| TargetError::Gone(error.to_string()))?;
        while !done.is_full() && !self.waiting.is_empty() {
            match self.reply()? {
                Some(end) => done.push(end),
                None if self.receive()? => {}
                None => break,
            }
        }
        Ok(())
    }

    fn last_failure(&self) -> Option<String> {
        self.failure.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that says `reply` to whoever connects, in pieces of so many bytes.
    fn server(reply: &'static [u8], piece: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            reply.chunks(piece).for_each(|part| stream.write_all(part).unwrap());
            // Until the other end is through.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        address
    }

    fn ends_of(ops: &[Op], reply: &'static [u8], piece: usize) -> (Vec<Outcome>, Vec<u8>) {
        let mut target = RedisTarget::connect(&server(reply, piece)).unwrap();
        target.allocate(64).unwrap();
        for (token, &op) in (0..).zip(ops) {
            let span = Span { offset: u64::from(token) * 8, bytes: 8 };
            target.submit(Command { op, key: Key::new([1; 16]), span, parent: None, token }).unwrap();
        }
        let mut ends = Vec::new();
        while ends.len() < ops.len() {
            let mut done = Burst::new();
            target.poll(&mut done).unwrap();
            ends.extend(done);
        }
        let tokens: Vec<u32> = ends.iter().map(|end| end.token).collect();
        assert!(tokens.iter().copied().eq(0..ops.len() as u32));
        (ends.into_iter().map(|end| end.outcome).collect(), target.memory)
    }

    #[test]
    fn replies_are_read_however_they_come() {
        let reply = b"+OK\r\n$5\r\nab\r\nc\r\n$-1\r\n:1\r\n:0\r\n-ERR no\r\n$8\r\n01234567\r\n";
        let ops = [Op::Store, Op::Retrieve, Op::Retrieve, Op::Exist, Op::Delete, Op::Store, Op::Retrieve];
        for piece in [1, 2, 7, 1000] {
            let (ends, memory) = ends_of(&ops, reply, piece);
            let (hit, miss) = (Outcome::Hit, Outcome::Miss);
            assert_eq!(ends, [hit(8), hit(5), miss, hit(0), miss, Outcome::Failed, hit(8)]);
            assert_eq!((&memory[8..13], &memory[48..56]), (&b"ab\r\nc"[..], &b"01234567"[..]));
        }
    }

    #[test]
    fn a_value_that_does_not_fit_ends_the_run() {
        let mut target = RedisTarget::connect(&server(b"$9\r\n", 100)).unwrap();
        target.allocate(8).unwrap();
        let span = Span { offset: 0, bytes: 8 };
        target.submit(Command { op: Op::Retrieve, key: Key::new([1; 16]), span, parent: None, token: 0 }).unwrap();
        let gone = std::iter::repeat_with(|| target.poll(&mut Burst::new())).find_map(Result::err);
        assert!(matches!(gone, Some(TargetError::Gone(_))));
    }
}
