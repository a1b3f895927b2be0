//! Where a target listens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Error;

/// Where a target listens. The text form is `SCHEME:PLACE`, or a plain path for a target on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A target on this machine: the folder in which kvplaned made its vfio-user socket `cntrl`.
    VfioUser(PathBuf),
}

impl Address {
    /// Reads an address: `vfio-user:/run/kvplane/tier`, or a plain path such as `/run/kvplane/tier`.
    ///
    /// # Errors
    /// [`Error::Address`] for an empty place, or for a scheme that this version does not know.
    ///
    /// ```
    /// use kvplane::Address;
    /// let address = Address::parse("vfio-user:/run/kvplane/tier")?;
    /// assert_eq!(address, Address::parse("/run/kvplane/tier")?);
    /// assert!(Address::parse("tcp:10.0.0.1:4420").is_err());
    /// # Ok::<(), kvplane::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Err(Error::Address { text: text.to_owned(), reason: reason.to_owned() });
        let place = match text.split_once(':') {
            Some(("vfio-user", place)) => place,
            Some((scheme, _)) if !scheme.contains('/') => {
                return refuse(&format!("scheme \"{scheme}\" is not supported; use vfio-user:DIR"));
            }
            _ => text,
        };
        if place.is_empty() {
            return refuse("the folder is missing; write vfio-user:DIR");
        }
        Ok(Self::VfioUser(Path::new(place).to_path_buf()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let address = Address::parse("./sockets/a:b").unwrap();
        assert_eq!(address.to_string(), "vfio-user:./sockets/a:b");
        assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
    }

    #[test]
    fn other_schemes_and_empty_places_are_refused_by_name() {
        let refused = Address::parse("rdma:10.0.0.1").unwrap_err().to_string();
        assert!(refused.contains("\"rdma\" is not supported"), "{refused}");
        assert!(Address::parse("").is_err());
        assert!(Address::parse("vfio-user:").is_err());
    }
}
