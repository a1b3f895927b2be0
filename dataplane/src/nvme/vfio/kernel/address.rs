//! Addresses on the PCI bus.

use std::path::PathBuf;
use std::str::FromStr;

/// Domain, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BusAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of a PCI function; it looks like 0000:01:00.0")]
pub struct AddressError(String);

impl FromStr for BusAddress {
    type Err = AddressError;

    /// Reads `domain:bus:device.function` in hexadecimal; without a domain, 0000 is meant.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text).ok_or_else(|| AddressError(text.to_owned()))
    }
}

impl BusAddress {
    fn parse(text: &str) -> Option<Self> {
        let hexadecimal = |text: &str, most: usize| {
            let fits = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if fits { u32::from_str_radix(text, 16).ok() } else { None }
        };
        let (rest, function) = text.rsplit_once('.')?;
        let (rest, device) = rest.rsplit_once(':')?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        Some(Self {
            domain: hexadecimal(domain, 8)?,
            bus: hexadecimal(bus, 2)? as u8,
            device: hexadecimal(device, 2).filter(|device| *device < 32)? as u8,
            function: hexadecimal(function, 1).filter(|function| *function < 8)? as u8,
        })
    }

    /// The function's folder in sysfs.
    pub(super) fn folder(&self) -> PathBuf {
        PathBuf::from("/sys/bus/pci/devices").join(self.to_string())
    }
}

impl std::fmt::Display for BusAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in
            [("0000:01:00.0", "0000:01:00.0"), ("01:00.0", "0000:01:00.0"), ("10000:e1:1F.7", "10000:e1:1f.7")]
        {
            assert_eq!(text.parse::<BusAddress>().unwrap().to_string(), written);
        }
        for text in ["", "01", "01:00", "01:00.8", "01:20.0", "../x:00.0", "0000:01:00.0/..", "0:0:0:0.0", "+1:00.0"] {
            assert!(text.parse::<BusAddress>().is_err(), "{text}");
        }
    }
}
