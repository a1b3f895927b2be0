//! NVMe Qualified Names (base, "NVMe Qualified Names").

use std::fmt;

use crate::control::ControlError;

/// The longest NQN, in bytes.
const MAX_BYTES: usize = 223;
/// The prefix of the form that ends in a UUID.
const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// A valid NQN.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nqn(String);

impl Nqn {
    /// Checks a name: `nqn.yyyy-mm.reverse.domain:name`, or the form with a UUID, of 223 bytes at most.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        match check(text) {
            Ok(()) => Ok(Self(text.to_owned())),
            Err(fault) => Err(ControlError::Invalid(format!(
                "invalid NQN {text:?}: {fault}; expected nqn.yyyy-mm.reverse.domain:name, for example \
                 nqn.2026-01.io.kvplane:tier"
            ))),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_BYTES {
        return Err("it is longer than 223 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("it contains a control character");
    }
    if let Some(uuid) = text.strip_prefix(UUID_PREFIX) {
        return if is_uuid(uuid) { Ok(()) } else { Err("what follows uuid: is not a UUID") };
    }
    let rest = text.strip_prefix("nqn.").ok_or("it does not begin with nqn.")?;
    let (date, rest) = rest.split_at_checked(7).ok_or("the date is missing")?;
    if !is_year_and_month(date) {
        return Err("the date is not yyyy-mm");
    }
    let rest = rest.strip_prefix('.').ok_or("no dot follows the date")?;
    let (domain, name) = rest.split_once(':').ok_or("no :name follows the domain")?;
    if name.is_empty() {
        return Err("the name after the colon is empty");
    }
    if domain.split('.').all(is_label) { Ok(()) } else { Err("the reversed domain is not valid") }
}

fn is_year_and_month(date: &str) -> bool {
    let bytes = date.as_bytes();
    let digits = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
    bytes.len() == 7
        && digits(0..4)
        && bytes[4] == b'-'
        && digits(5..7)
        && matches!(&bytes[5..], [b'0', b'1'..=b'9'] | [b'1', b'0'..=b'2'])
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_forms_are_taken() {
        for name in [
            "nqn.2026-01.io.kvplane:tier",
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2014-08.com.example:nvme:nvm-subsystem-sn-d78432",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2020-12.xn--p1ai.a-b:\u{00fc}",
        ] {
            assert_eq!(Nqn::parse(name).map(|nqn| nqn.to_string()), Ok(name.to_owned()));
        }
        let longest = format!("nqn.2026-01.io.kvplane:{}", "x".repeat(200));
        assert_eq!(longest.len(), 223);
        assert!(Nqn::parse(&longest).is_ok());
        assert!(Nqn::parse(&format!("{longest}x")).is_err());
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        for (name, reason) in [
            ("", "begin with nqn."),
            ("iqn.2026-01.io.kvplane:tier", "begin with nqn."),
            ("nqn.2026-1.io.kvplane:tier", "date"),
            ("nqn.2026-13.io.kvplane:tier", "date"),
            ("nqn.2026-00.io.kvplane:tier", "date"),
            ("nqn.2026-0\u{00fc}.io.kvplane:tier", "date"),
            ("nqn.2026", "date"),
            ("nqn.2026-01io.kvplane:tier", "dot"),
            ("nqn.2026-01.io.kvplane", ":name"),
            ("nqn.2026-01.io.kvplane:", "empty"),
            ("nqn.2026-01.io..kvplane:tier", "domain"),
            ("nqn.2026-01.-io:tier", "domain"),
            ("nqn.2026-01.:tier", "domain"),
            ("nqn.2026-01.io.kvplane:a\nb", "control"),
            ("nqn.2014-08.org.nvmexpress:uuid:f81d4fae", "UUID"),
            ("nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bfg", "UUID"),
        ] {
            let error = Nqn::parse(name).expect_err(name).to_string();
            assert!(error.contains(reason), "{name:?}: {error}");
        }
    }
}
