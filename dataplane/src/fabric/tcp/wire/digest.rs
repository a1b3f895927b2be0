//! Digests: CRC-32C (section 3.3.1.1).

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// Bytes of a digest on the wire, little endian.
pub const DIGEST_BYTES: usize = 4;

/// The digest of a header.
#[must_use]
pub fn header_digest(header: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, header) as u32
}

/// How an end takes the digest of data whose length is no multiple of four bytes.
///
/// The specification wants lengths that are multiples of dwords and protects the data, nothing else; but values have
/// any length, and SPDK (`lib/nvme/nvme_tcp.c`) takes the digest over the data and zeros up to the next dword, while
/// Linux (`drivers/nvme/host/tcp.c`) takes it over the data alone. For other lengths the two are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padded {
    /// The data alone, as the specification says.
    #[default]
    No,
    /// The data and zeros up to the next dword, which are not on the wire.
    Yes,
}

/// The digest of data, taken piece by piece.
#[derive(Clone, Copy)]
pub struct DataDigest {
    state: Digest,
    bytes: u64,
}

impl Default for DataDigest {
    fn default() -> Self {
        Self::new()
    }
}

impl DataDigest {
    /// Of no data yet.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Digest::new(CrcAlgorithm::Crc32Iscsi), bytes: 0 }
    }

    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.state.update(piece);
        self.bytes += piece.len() as u64;
    }

    /// What is to be sent.
    #[must_use]
    pub fn finish(&self, padded: Padded) -> u32 {
        let mut state = self.state;
        if padded == Padded::Yes {
            let rest = self.bytes.next_multiple_of(4) - self.bytes;
            state.update(&[0; 3][..rest as usize]);
        }
        state.finalize() as u32
    }

    /// Whether the data is what a received digest was taken of, and in which way it was taken; `None` if it is not.
    #[must_use]
    pub fn check(&self, received: u32) -> Option<Padded> {
        [Padded::No, Padded::Yes].into_iter().find(|padded| self.finish(*padded) == received)
    }
}

impl std::fmt::Debug for DataDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDigest").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
