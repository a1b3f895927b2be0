//! Finding the addresses of a target in bounded time.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Threads that may look names up at once, of the whole process.
const MOST_AT_ONCE: usize = 16;

/// Those that do.
static AT_ONCE: AtomicUsize = AtomicUsize::new(0);

/// The addresses of a host, in the order in which they are to be tried. The system looks names up for as long as it likes:
/// beyond `time` that goes on in a thread that is left behind, and no more than 16 of them are.
///
/// # Errors
/// What the system says, `TimedOut`, `NotFound` for a name without addresses, or `ResourceBusy` while 16 earlier ones are
/// not answered.
pub fn resolve(host: &str, port: u16, time: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let host = host.to_owned();
    within(&AT_ONCE, time, move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect)).and_then(
        |addresses: Vec<SocketAddr>| {
            if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
        },
    )
}

/// What a question brings that is asked in a thread of its own, if it brings it in time.
fn within<T: Send + 'static>(
    at_once: &'static AtomicUsize,
    time: Duration,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = sync_channel(1);
    let one = Counted::begin(at_once).ok_or(io::ErrorKind::ResourceBusy)?;
    // Whoever no longer waits for the answer is no reason to stop.
    std::thread::Builder::new().name("resolve".into()).spawn(move || {
        let answer = ask();
        drop(one);
        drop(tell.send(answer));
    })?;
    told.recv_timeout(time).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One of the threads that look names up, while it does.
struct Counted(&'static AtomicUsize);

impl Counted {
    fn begin(at_once: &'static AtomicUsize) -> Option<Self> {
        let room = |count| (count < MOST_AT_ONCE).then(|| count + 1);
        // Made only if it counts: it is taken off the count when it is dropped.
        at_once.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok().then(|| Self(at_once))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_they_are_and_names_looked_up() {
        let time = Duration::from_secs(60);
        assert_eq!(resolve("::1", 7, time).unwrap(), ["[::1]:7".parse().unwrap()]);
        assert_eq!(resolve("127.0.0.1", 7, Duration::ZERO).unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        assert!(resolve("localhost", 7, time).unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(resolve("", 7, time).is_err());
    }

    #[test]
    fn a_look_up_without_an_answer_is_left_behind() {
        static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
        let mut answers = Vec::new();
        let mut ask = || {
            let (answer, waits) = sync_channel::<()>(1);
            answers.push(answer);
            within(&AT_ONCE, Duration::from_millis(1), move || Ok(waits.recv().is_ok())).unwrap_err().kind()
        };
        for _ in 0..MOST_AT_ONCE {
            assert_eq!(ask(), io::ErrorKind::TimedOut);
        }
        for _ in 0..2 {
            assert_eq!(ask(), io::ErrorKind::ResourceBusy, "too many are left behind");
        }
        assert_eq!(AT_ONCE.load(Ordering::Relaxed), MOST_AT_ONCE, "a refusal frees no place");
        drop(answers);
        while within(&AT_ONCE, Duration::from_secs(60), || Ok(())).is_err() {}
    }
}
