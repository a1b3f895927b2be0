//! Sizes as people write them.

/// Reads a number of bytes such as `4096`, `64K`, `2G` or `1GiB`: powers of 1024.
///
/// # Errors
/// What is wrong with it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let fault = || format!("{text:?} is not a size; write for example 4096, 64K, 512M or 2G");
    let number: u64 = number.parse().map_err(|_| fault())?;
    let shift = match unit.trim().to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(fault()),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is more than 64 bits can count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65_536),
            ("64k", 65_536),
            ("2G", 2 << 30),
            ("1GiB", 1 << 30),
            ("3 MB", 3 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "1X", "99999999999999999999", "99999999T", "1 2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
