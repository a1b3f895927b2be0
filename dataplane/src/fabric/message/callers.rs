//! The connections of a listener that have a thread each: how many there may be, and whose.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;

/// Admin queues at once.
const MAX_ADMIN: usize = 512;
/// Connections at once that have not been let in: of all peers, and of one [`place`], so that a stranger leaves the door
/// open for others. Those that were told to go, and are not gone yet, may be as many again.
const MAX_STRANGERS: (usize, usize) = (512, 64);
/// Bits of an IPv6 address that one peer has for itself (RFC 4291, section 2.5.4: the interface identifier).
const INTERFACE_BITS: u32 = 64;

/// Where a connection stands: what its thread and the listener tell each other.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// 0 until it has said what it wants, for which it has little time.
    rank: AtomicU8,
    sent_away: AtomicBool,
}

impl Standing {
    /// Asks the discovery service, which anybody may for as long as there is room.
    const ASKER: u8 = 1;
    /// Connect let it in.
    const HOST: u8 = 2;

    /// Connect let it in.
    pub(super) fn let_in(&self) {
        self.rank.store(Self::HOST, Ordering::Release);
    }

    /// It asks the discovery service: it may stay, but others that come may want its place.
    pub(super) fn let_ask(&self) {
        self.rank.store(Self::ASKER, Ordering::Release);
    }

    /// Whether others want its place.
    pub(super) fn is_sent_away(&self) -> bool {
        self.sent_away.load(Ordering::Acquire)
    }

    fn is(&self, rank: u8) -> bool {
        self.rank.load(Ordering::Acquire) == rank
    }
}

/// What counts as one peer: an IPv4 address, or the network of an IPv6 address.
fn place(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> INTERFACE_BITS << INTERFACE_BITS).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A connection and the thread that has it.
pub(crate) struct Caller<T> {
    place: IpAddr,
    standing: Arc<Standing>,
    pub thread: JoinHandle<()>,
    /// What the carrier keeps of it.
    pub held: T,
}

impl<T> Caller<T> {
    fn is_stranger(&self) -> bool {
        !self.standing.is(Standing::HOST)
    }
}

/// Why there is no room for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Crowded {
    #[error("{all} connections have not been let in yet, {of_peer} of its address")]
    Strangers { all: usize, of_peer: usize },
    #[error("{MAX_ADMIN} hosts are connected, as many as may be")]
    Hosts,
}

/// The connections of a listener, in the order in which they came.
pub(crate) struct Callers<T = ()> {
    live: Vec<Caller<T>>,
}

impl<T> Default for Callers<T> {
    fn default() -> Self {
        Self { live: Vec::new() }
    }
}

impl<T> Callers<T> {
    /// Joins the threads that have ended.
    pub fn join_ended(&mut self) {
        for done in self.live.extract_if(.., |live| live.thread.is_finished()) {
            let _ = done.thread.join();
        }
    }

    /// Makes room for one more of this address, if there can be. Of those that have not been let in, the one that has asked
    /// the discovery service for longest goes, if need be; its host may come back. One that has not sent Connect yet goes
    /// soon by itself.
    pub fn make_room(&self, peer: IpAddr) -> Result<(), Crowded> {
        let place = place(peer);
        let strangers = || self.live.iter().filter(|live| live.is_stranger());
        let (going, staying): (Vec<_>, Vec<_>) = strangers().partition(|live| live.standing.is_sent_away());
        let all = staying.len();
        let of_peer = staying.iter().filter(|live| live.place == place).count();
        if self.live.len() - all - going.len() >= MAX_ADMIN {
            return Err(Crowded::Hosts);
        }
        if all < MAX_STRANGERS.0 && of_peer < MAX_STRANGERS.1 {
            return Ok(());
        }
        let may_go = |live: &&&Caller<T>| {
            live.standing.is(Standing::ASKER) && (of_peer < MAX_STRANGERS.1 || live.place == place)
        };
        match staying.iter().find(may_go).filter(|_| going.len() < MAX_STRANGERS.0) {
            Some(asker) => {
                asker.standing.sent_away.store(true, Ordering::Release);
                Ok(())
            }
            None => Err(Crowded::Strangers { all, of_peer }),
        }
    }

    /// Takes one in, whose thread tells where it stands.
    pub fn add(&mut self, peer: IpAddr, standing: Arc<Standing>, thread: JoinHandle<()>, held: T) {
        self.live.push(Caller { place: place(peer), standing, thread, held });
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// All of them, which are forgotten.
    pub fn take(&mut self) -> Vec<Caller<T>> {
        std::mem::take(&mut self.live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections without a network, which leave when they are sent away.
    #[derive(Default)]
    struct Crowd {
        stop: Arc<AtomicBool>,
        callers: Callers<Arc<Standing>>,
    }

    impl Crowd {
        fn come(&mut self, peer: impl Into<IpAddr>) -> Result<Arc<Standing>, Crowded> {
            let peer = peer.into();
            self.callers.make_room(peer)?;
            let standing = Arc::new(Standing::default());
            let (stop, theirs) = (Arc::clone(&self.stop), Arc::clone(&standing));
            let stay = move || {
                while !stop.load(Ordering::Acquire) && !theirs.is_sent_away() {
                    std::thread::park();
                }
            };
            let thread = std::thread::Builder::new().stack_size(16 << 10).spawn(stay).unwrap();
            self.callers.add(peer, Arc::clone(&standing), thread, Arc::clone(&standing));
            Ok(standing)
        }

        fn come_to_ask(&mut self, peer: impl Into<IpAddr>) -> Result<Arc<Standing>, Crowded> {
            self.come(peer).inspect(|standing| standing.let_ask())
        }

        /// Waits until nobody is left who was sent away.
        fn join_sent_away(&mut self) {
            while self.callers.live.iter().any(|live| live.held.is_sent_away()) {
                self.callers.live.iter().for_each(|live| live.thread.thread().unpark());
                self.callers.join_ended();
            }
        }
    }

    impl Drop for Crowd {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Release);
            for live in self.callers.take() {
                live.thread.thread().unpark();
                let _ = live.thread.join();
            }
            assert!(self.callers.is_empty());
        }
    }

    fn v4(net: u8, host: u8) -> [u8; 4] {
        [192, 0, net, host]
    }

    fn v6(net: u16, host: u16) -> [u16; 8] {
        [0x2001, 0xDB8, 0, net, host, 0, 0, host]
    }

    #[test]
    fn strangers_of_one_address_leave_room_for_others() {
        let mut crowd = Crowd::default();
        for _ in 0..MAX_STRANGERS.1 {
            crowd.come(v4(2, 1)).unwrap();
        }
        let crowded = Some(Crowded::Strangers { all: 64, of_peer: 64 });
        assert_eq!(crowd.come(v4(2, 1)).err(), crowded);
        let mapped = Ipv6Addr::from([0, 0, 0, 0, 0, 0xFFFF, 0xC000, 0x0201]);
        assert_eq!(crowd.come(mapped).err(), crowded, "the same address");
        crowd.come(v4(2, 2)).unwrap().let_in();
        crowd.come(v4(2, 2)).unwrap();
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let mut crowd = Crowd::default();
        for host in 0..MAX_STRANGERS.1 as u16 {
            crowd.come(v6(1, host)).unwrap();
        }
        assert_eq!(crowd.come(v6(1, 99)).err(), Some(Crowded::Strangers { all: 64, of_peer: 64 }));
        crowd.come(v6(2, 0)).unwrap();
    }

    #[test]
    fn strangers_fill_no_place_of_a_host_and_hosts_none_of_theirs() {
        let mut crowd = Crowd::default();
        for host in 0..MAX_ADMIN {
            crowd.come(v4(2, host as u8)).unwrap().let_in();
        }
        assert_eq!(crowd.come(v4(3, 0)).err(), Some(Crowded::Hosts));
        crowd.callers.live[0].held.sent_away.store(true, Ordering::Release);
        crowd.join_sent_away();
        for stranger in 0..MAX_STRANGERS.0 {
            crowd.come(v4(3, stranger as u8)).unwrap();
        }
        assert_eq!(crowd.come(v4(4, 0)).err(), Some(Crowded::Strangers { all: 512, of_peer: 0 }));
    }

    #[test]
    fn who_has_asked_for_longest_makes_room() {
        let mut crowd = Crowd::default();
        let stranger = crowd.come(v4(2, 1)).unwrap();
        let askers: Vec<_> = (1..MAX_STRANGERS.0).map(|at| crowd.come_to_ask(v4(3, at as u8)).unwrap()).collect();
        let sent_away = || askers.iter().map(|asker| asker.is_sent_away());
        crowd.come_to_ask(v4(4, 1)).unwrap();
        crowd.come_to_ask(v4(4, 2)).unwrap();
        assert!(sent_away().take(2).all(|gone| gone) && !sent_away().skip(2).any(|gone| gone));
        assert!(!stranger.is_sent_away(), "it has its time for Connect");
        // Those of an address that has its share make room for each other.
        for _ in 0..MAX_STRANGERS.1 {
            crowd.come_to_ask(v4(5, 1)).unwrap();
        }
        let others = sent_away().filter(|gone| *gone).count();
        crowd.come_to_ask(v4(5, 1)).unwrap();
        assert_eq!(sent_away().filter(|gone| *gone).count(), others);
        // Those that are told to go and do not are not any number.
        let more = (0..).map_while(|at: usize| crowd.come_to_ask(v4(6, at as u8)).ok()).count();
        assert!(more < MAX_STRANGERS.0, "{more}");
        crowd.join_sent_away();
        crowd.come_to_ask(v4(6, 1)).unwrap();
    }
}
