//! Finding the addresses of a target in bounded time.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// The addresses of a host, in the order in which they are to be tried. The system looks names up for as long as it likes:
/// beyond `time` that goes on in a thread that is left behind.
///
/// # Errors
/// What the system says, `TimedOut`, or `NotFound` for a name without addresses.
pub fn resolve(host: &str, port: u16, time: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let host = host.to_owned();
    within(time, move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect)).and_then(
        |addresses: Vec<SocketAddr>| {
            if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
        },
    )
}

/// What a question brings that is asked in a thread of its own, if it brings it in time.
fn within<T: Send + 'static>(time: Duration, ask: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (tell, told) = sync_channel(1);
    // Whoever no longer waits for the answer is no reason to stop.
    std::thread::Builder::new().name("resolve".into()).spawn(move || drop(tell.send(ask())))?;
    told.recv_timeout(time).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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
        let (never, waits) = sync_channel::<()>(1);
        let error = within(Duration::from_millis(1), move || Ok(waits.recv().is_ok())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(never);
    }
}
