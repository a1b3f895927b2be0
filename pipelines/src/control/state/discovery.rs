//! What the discovery subsystem tells a host: the subsystems that it may connect to, and where.

use std::net::{IpAddr, SocketAddr};

use dataplane::fabric::{Discovered, Peer};
use dataplane::nvme::spec::fabrics::{DiscoveryEntry, TransportType};

use super::listener::canonical;
use super::session::standing;
use super::{Control, ListenAddress, State, Transport};

impl Control {
    /// Where the discovery subsystem is reached: at every address of a network.
    #[must_use]
    pub fn discovery_listeners(&self) -> Vec<ListenAddress> {
        self.lock().network_addresses()
    }

    pub(super) fn discovered(&self, peer: &Peer) -> Discovered {
        let state = self.lock();
        let reached = reached(peer);
        // An address has the same number whatever a host may see of it.
        let addresses = state.network_addresses();
        let port_of = |address| addresses.binary_search(address).map_or(0, |at| at as u16 + 1);
        let admitted = state.subsystems.values().filter(|subsystem| standing(subsystem, peer).is_ok());
        let entries = admitted.flat_map(|subsystem| {
            let told = subsystem.listeners.iter().filter_map(|listener| Some((listener, place(listener, reached)?)));
            told.map(|(listener, (transport, address))| {
                DiscoveryEntry::nvme(transport, address, port_of(listener), subsystem.nqn.as_str())
            })
        });
        Discovered { generation: state.generation, entries: entries.collect() }
    }
}

impl State {
    fn network_addresses(&self) -> Vec<ListenAddress> {
        let network = self.addresses().filter(|address| address.transport().is_network());
        let mut addresses: Vec<_> = network.cloned().collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

/// The address of this machine that a peer reached.
pub(super) fn reached(peer: &Peer) -> Option<SocketAddr> {
    peer.listener.parse().ok().map(canonical)
}

/// What a host that reached this machine at an address is told of a listener; `None` if it could not get there. A
/// listener on all addresses is told with the one that the host reached, and one on the loopback device only to who
/// came by that.
fn place(listener: &ListenAddress, reached: Option<SocketAddr>) -> Option<(TransportType, SocketAddr)> {
    let transport = match listener.transport() {
        Transport::Tcp => TransportType::Tcp,
        Transport::Rdma => TransportType::Rdma,
        Transport::VfioUser => return None,
    };
    let own = listener.socket()?;
    let reached = reached.map(|address| address.ip());
    let ip = match own.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => reached.filter(|ip| ip.is_ipv4() && !ip.is_unspecified())?,
        IpAddr::V6(ip) if ip.is_unspecified() => reached.filter(|ip| !ip.is_unspecified())?,
        ip if ip.is_loopback() => reached.filter(IpAddr::is_loopback).map(|_| ip)?,
        ip => ip,
    };
    // A link-local address means nothing without an interface, which the log has no room for.
    if matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
        return None;
    }
    Some((transport, SocketAddr::new(ip, own.port())))
}
