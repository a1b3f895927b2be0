//! Keys as people write them.

use std::str::FromStr;

use kvplane::Key;

use crate::end::UsageError;

/// A KEY argument. What it means depends on `--text`, which is known when the whole line is.
#[derive(Clone, Debug)]
pub struct KeyArg(String);

impl FromStr for KeyArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl KeyArg {
    /// The key.
    ///
    /// # Errors
    /// What is wrong with it, and how it should look.
    pub fn key(&self, all_text: bool) -> Result<Key, UsageError> {
        let name = if all_text { Some(self.0.as_str()) } else { self.0.strip_prefix("text:") };
        let key = match name {
            Some(name) => of_text(name),
            None => of_hex(&self.0),
        };
        key.ok_or_else(|| {
            let rule = "32 hex digits are wanted, or text:NAME for a name of 1 to 16 bytes, none of them zero";
            UsageError(format!("key \"{}\": {rule}", self.0.escape_default()))
        })
    }

    /// The key as it was written.
    pub fn as_written(&self) -> &str {
        &self.0
    }
}

/// A name, padded with zero bytes. Zero bytes in the name would make two names one key, so they are refused.
fn of_text(name: &str) -> Option<Key> {
    if name.is_empty() || name.len() > 16 || name.contains('\0') {
        return None;
    }
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Some(Key::new(bytes))
}

fn of_hex(text: &str) -> Option<Key> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(Key::new(u128::from_str_radix(text, 16).ok()?.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, all_text: bool) -> Result<Key, UsageError> {
        KeyArg(text.to_owned()).key(all_text)
    }

    #[test]
    fn hex_keys_are_printed_as_they_are_written() {
        let hex = "00112233445566778899aabbccddeeff";
        assert_eq!(key(hex, false).unwrap().to_string(), hex);
        assert_eq!(key(&hex.to_uppercase(), false).unwrap().to_string(), hex);
    }

    #[test]
    fn names_are_padded_with_zeros() {
        assert_eq!(key("text:ab", false).unwrap().bytes(), b"ab\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(key("text:ab", true).unwrap().bytes(), b"text:ab\0\0\0\0\0\0\0\0\0");
        assert_eq!(key("0123456789abcdef", true).unwrap().bytes(), b"0123456789abcdef");
    }

    #[test]
    fn other_keys_are_refused_with_the_rule() {
        for wrong in ["", "ab", "+0112233445566778899aabbccddeeff", "text:", "text:seventeen bytes...", "text:a\0b"] {
            let refused = key(wrong, false).unwrap_err().to_string();
            assert!(refused.contains("1 to 16 bytes"), "{refused}");
        }
    }
}
