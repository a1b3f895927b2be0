//! What the two ends tell each other of themselves with VERSION.

use std::fmt::Write as _;

use super::numbers::{MAX_FDS, MAX_TRANSFER_BYTES};

/// The capabilities text, with its terminating zero, that either end sends with VERSION.
#[must_use]
pub fn capabilities(max_dma_maps: usize) -> Vec<u8> {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{{\"capabilities\":{{\"max_msg_fds\":{MAX_FDS},\"max_data_xfer_size\":{MAX_TRANSFER_BYTES},\
         \"max_dma_maps\":{max_dma_maps},\"pgsizes\":4096}}}}\0"
    );
    text.into_bytes()
}

/// What a peer said of itself; absent or odd entries take the protocol's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCapabilities {
    /// File descriptors that it takes in one message.
    pub max_msg_fds: u32,
    /// Bytes that it takes in one region access.
    pub max_data_xfer_size: u32,
}

impl PeerCapabilities {
    /// Reads the capabilities text of a VERSION message, tolerantly.
    #[must_use]
    pub fn parse(json: &[u8]) -> Self {
        let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        let number = |name: &str, default: u32| {
            let found = value.get("capabilities").and_then(|caps| caps.get(name)).and_then(serde_json::Value::as_u64);
            found.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
        };
        Self { max_msg_fds: number("max_msg_fds", 1), max_data_xfer_size: number("max_data_xfer_size", 1 << 20) }
    }
}
