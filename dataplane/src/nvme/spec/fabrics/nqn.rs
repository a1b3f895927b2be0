//! NVMe qualified names in fields of 256 bytes (base, "NVMe Qualified Names").

/// The name of every discovery service.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// The longest name, in bytes, without the null that ends it.
pub const MAX_NQN_BYTES: usize = 223;

/// Bytes of a field that holds a name.
pub(super) const FIELD_BYTES: usize = 256;

/// The name in a field: UTF-8, ended by a null, of at most [`MAX_NQN_BYTES`]. `None` for anything else, for nothing,
/// and for control characters, which would spoil a log.
pub(super) fn read(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0).filter(|end| (1..=MAX_NQN_BYTES).contains(end))?;
    let name = std::str::from_utf8(field.get(..end)?).ok()?;
    (!name.chars().any(char::is_control)).then(|| name.to_owned())
}

/// Puts a name into a field of zeros, cut to [`MAX_NQN_BYTES`].
pub(super) fn write(field: &mut [u8], name: &str) {
    for (to, byte) in field.iter_mut().zip(name.bytes().take(MAX_NQN_BYTES)) {
        *to = byte;
    }
}
