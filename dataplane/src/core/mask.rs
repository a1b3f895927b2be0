//! Which cores to run on, written the way SPDK writes it.

use std::fmt;
use std::str::FromStr;

/// How many cores a mask can name.
const CORES: u32 = u128::BITS;

/// A set of cores, 0 to 127, not empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CoreMask(u128);

/// What is wrong with a mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// Names no core.
    #[error("the core mask names no core; give a hex mask such as 0x3 or a list such as [0,2-3]")]
    Empty,
    /// Not a hex number.
    #[error("'{0}' is neither a hex mask such as 0x3 nor a list such as [0,2-3]")]
    NotHex(String),
    /// A part of a list is not a number or a range.
    #[error("'{part}' in the core list '{list}' is neither a core number nor a range such as 2-3")]
    BadPart {
        /// The part.
        part: String,
        /// The whole list.
        list: String,
    },
    /// A range that ends before it begins.
    #[error("the range '{0}' ends before it begins")]
    Backwards(String),
    /// A core beyond 127.
    #[error("'{0}' names a core beyond 127, the highest that a mask can hold")]
    TooHigh(String),
    /// A core that is not there.
    #[error("core {core} is not online or not allowed for this process (allowed: {allowed})")]
    NotAvailable {
        /// The core.
        core: u32,
        /// The cores that may be used, as a list.
        allowed: String,
    },
    /// The system does not say which cores there are.
    #[error("cannot find out which cores this process may use")]
    Unknown,
}

impl CoreMask {
    /// Reads a hex mask (`0x3`, `3`) or a list (`[0,2-3]`, `0-1`). A bare number is hex, as with SPDK: `10` is core 4.
    ///
    /// # Errors
    /// See [`MaskError`].
    pub fn parse(text: &str) -> Result<Self, MaskError> {
        let text = text.trim();
        let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let bits = match inside {
            Some(list) => parse_list(list)?,
            None if text.contains([',', '-']) => parse_list(text)?,
            None => parse_hex(text)?,
        };
        if bits == 0 { Err(MaskError::Empty) } else { Ok(Self(bits)) }
    }

    /// A mask of one core.
    ///
    /// # Errors
    /// [`MaskError::TooHigh`] beyond core 127.
    pub fn of_core(core: u32) -> Result<Self, MaskError> {
        if core < CORES { Ok(Self(1 << core)) } else { Err(MaskError::TooHigh(core.to_string())) }
    }

    /// How many cores it names.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mask is never empty")]
    pub const fn len(&self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether it names that core.
    #[must_use]
    pub const fn contains(&self, core: u32) -> bool {
        core < CORES && self.0 >> core & 1 == 1
    }

    /// The lowest core, which SPDK calls the main core.
    #[must_use]
    pub const fn main_core(&self) -> u32 {
        self.0.trailing_zeros()
    }

    /// The cores in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        let mask = *self;
        (0..CORES).filter(move |core| mask.contains(*core))
    }

    /// Checks that this process may run on every core of the mask.
    ///
    /// # Errors
    /// [`MaskError::NotAvailable`] names the first core that is not online or not allowed (taskset, cpuset).
    pub fn check_available(&self) -> Result<(), MaskError> {
        let cores = core_affinity::get_core_ids().ok_or(MaskError::Unknown)?;
        let bits = cores.iter().filter(|core| core.id < CORES as usize).fold(0, |bits, core| bits | 1 << core.id);
        self.check_within(Self(bits))
    }

    fn check_within(&self, allowed: Self) -> Result<(), MaskError> {
        match self.iter().find(|core| !allowed.contains(*core)) {
            None => Ok(()),
            Some(core) => {
                let allowed: Vec<_> = allowed.iter().map(|core| core.to_string()).collect();
                Err(MaskError::NotAvailable { core, allowed: allowed.join(",") })
            }
        }
    }
}

fn parse_hex(text: &str) -> Result<u128, MaskError> {
    if text.is_empty() {
        return Err(MaskError::Empty);
    }
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let all_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !all_hex {
        return Err(MaskError::NotHex(text.to_owned()));
    }
    u128::from_str_radix(digits, 16).map_err(|_| MaskError::TooHigh(text.to_owned()))
}

fn parse_list(list: &str) -> Result<u128, MaskError> {
    if list.trim().is_empty() {
        return Err(MaskError::Empty);
    }
    let mut bits = 0;
    for part in list.split(',').map(str::trim) {
        let core = |text: &str| match text.trim() {
            number if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(MaskError::BadPart { part: part.to_owned(), list: list.to_owned() })
            }
            number => match number.parse::<u32>() {
                Ok(core) if core < CORES => Ok(core),
                _ => Err(MaskError::TooHigh(part.to_owned())),
            },
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (core(first)?, core(last)?),
            None => (core(part)?, core(part)?),
        };
        if last < first {
            return Err(MaskError::Backwards(part.to_owned()));
        }
        bits |= (first..=last).fold(0, |bits, core| bits | 1 << core);
    }
    Ok(bits)
}

impl FromStr for CoreMask {
    type Err = MaskError;

    fn from_str(text: &str) -> Result<Self, MaskError> {
        Self::parse(text)
    }
}

impl fmt::Display for CoreMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for CoreMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoreMask({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(text: &str) -> Vec<u32> {
        CoreMask::parse(text).unwrap().iter().collect()
    }

    #[test]
    fn both_ways_of_writing_are_read() {
        assert_eq!(cores("0x3"), [0, 1]);
        assert_eq!(cores("3"), [0, 1]);
        assert_eq!(cores("10"), [4]);
        assert_eq!(cores(" 0XF0 "), [4, 5, 6, 7]);
        assert_eq!(cores("[0,2-3]"), [0, 2, 3]);
        assert_eq!(cores("[ 5 , 1 - 2 ]"), [1, 2, 5]);
        assert_eq!(cores("0-1"), [0, 1]);
        assert_eq!(cores("[127]"), [127]);
        assert_eq!(cores("80000000000000000000000000000000"), [127]);
    }

    #[test]
    fn errors_name_the_part() {
        let message = |text| CoreMask::parse(text).unwrap_err().to_string();
        assert!(message("[0,x]").contains("'x' in the core list '0,x'"));
        assert!(message("[0,,1]").contains("''"));
        assert!(message("3-1").contains("'3-1' ends before"));
        assert!(message("[128]").contains("'128'"));
        assert!(message("[99999999999]").contains("'99999999999'"));
        assert!(message("0xZZ").contains("'0xZZ'"));
        assert!(message("+3").contains("'+3'"));
        assert!(message("0x180000000000000000000000000000000").contains("beyond 127"));
        for empty in ["", "0", "0x0", "[]", "[ ]"] {
            assert_eq!(CoreMask::parse(empty), Err(MaskError::Empty), "{empty:?}");
        }
        assert!(matches!(CoreMask::parse("0x"), Err(MaskError::NotHex(_))));
    }

    #[test]
    fn it_is_shown_as_hex_and_led_by_the_lowest_core() {
        let mask = CoreMask::parse("[2,4]").unwrap();
        assert_eq!((mask.to_string().as_str(), mask.main_core(), mask.len()), ("0x14", 2, 2));
        assert!(mask.contains(4) && !mask.contains(3) && !mask.contains(128));
        assert_eq!(CoreMask::of_core(4).unwrap().to_string(), "0x10");
        assert!(CoreMask::of_core(128).is_err());
    }

    #[test]
    fn cores_that_are_not_there_are_named() {
        let allowed = CoreMask::parse("0x3").unwrap();
        assert_eq!(CoreMask::parse("0x2").unwrap().check_within(allowed), Ok(()));
        let refused = CoreMask::parse("0x6").unwrap().check_within(allowed);
        assert_eq!(refused, Err(MaskError::NotAvailable { core: 2, allowed: "0,1".to_owned() }));
    }
}
