//! Socket addresses as the C interface has them.
#![allow(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ptr;

use libc::{sockaddr_in, sockaddr_in6, sockaddr_storage};

pub(super) fn encode(address: SocketAddr) -> sockaddr_storage {
    // SAFETY: every bit pattern is a valid structure of numbers.
    let mut storage: sockaddr_storage = unsafe { std::mem::zeroed() };
    let into = &raw mut storage;
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: as above.
            let mut raw: sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = address.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            // SAFETY: the storage is large enough and aligned for every family.
            unsafe { ptr::write(into.cast(), raw) };
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let mut raw: sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = address.port().to_be();
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = address.scope_id();
            // SAFETY: as above.
            unsafe { ptr::write(into.cast(), raw) };
        }
    }
    storage
}

pub(super) fn decode(storage: &sockaddr_storage) -> Option<SocketAddr> {
    let from = ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is large enough and aligned, and every bit pattern is valid.
            let raw: sockaddr_in = unsafe { ptr::read(from.cast()) };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw: sockaddr_in6 = unsafe { ptr::read(from.cast()) };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in ["10.9.0.1:4420", "[fe80::1%3]:4420", "[2001:db8::7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(address)), Some(address));
        }
    }
}
