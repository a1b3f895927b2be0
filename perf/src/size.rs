//! Sizes and times as people write them.

use std::time::Duration;

/// Reads "4096", "64K", "1M", "2GiB": bytes, with binary units.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("\"{text}\" has an unknown unit; use K, M, G or T (binary)")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("\"{text}\" is not a size; write for example 64K"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// Reads the size of one value: 1 byte to 1 GiB.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_value_bytes(text: &str) -> Result<u32, String> {
    match parse_bytes(text)? {
        bytes @ 1..=0x4000_0000 => Ok(bytes as u32),
        _ => Err(format!("\"{text}\" is not a value's size: 1 byte to 1 GiB")),
    }
}

/// Reads "500ms", "10s", "2m" or plain seconds.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("\"{text}\" has an unknown unit; use us, ms, s, m or h")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("\"{text}\" is not a time; write for example 10s"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| format!("\"{text}\" is not a time of this world"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let good = [("0", 0), ("4096", 4096), ("64K", 65536), ("64KiB", 65536), ("1mb", 1 << 20), ("2G", 2 << 30)];
        for (text, bytes) in good {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "K", "-1", "1.5M", "5X", "99999999999T"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_value_bytes("0").is_err() && parse_value_bytes("2G").is_err());
        assert_eq!(parse_value_bytes("1G"), Ok(1 << 30));
    }

    #[test]
    fn times() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("-1s").is_err() && parse_duration("1d").is_err() && parse_duration("s").is_err());
    }
}
