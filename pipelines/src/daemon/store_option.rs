//! `--store`: what the values are kept on.

use std::path::PathBuf;
use std::str::FromStr;

use super::size::parse_size;

/// Whether the store is formatted at start-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Never: what is there must be a store.
    Never,
    /// If there is nothing yet.
    #[default]
    IfEmpty,
    /// Whatever is there is lost.
    Force,
}

/// What the values are kept on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOption {
    /// A file or a block device.
    File {
        /// Where it is.
        path: PathBuf,
        /// Bytes; needed to make a file, else what is there.
        size: Option<u64>,
        /// Bytes of a segment; the store's default if `None`. Only for formatting.
        segment: Option<u64>,
        /// Shards; as many as cores if `None`. Only for formatting.
        shards: Option<u32>,
        /// Whether to format it.
        format: Format,
    },
    /// Memory: lost at exit.
    Ram {
        /// Bytes.
        size: u64,
    },
    /// Nothing is kept; for measuring.
    Null {
        /// Bytes that it pretends to have.
        size: u64,
    },
}

impl FromStr for StoreOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text
            .split_once(':')
            .ok_or("expected file:PATH[,size=2G][,segment=64M][,shards=N][,format=never|if-empty|force], ram:SIZE or null:SIZE")?;
        match kind {
            "file" => parse_file(rest),
            "ram" => Ok(Self::Ram { size: positive(rest)? }),
            "null" => Ok(Self::Null { size: positive(rest)? }),
            other => Err(format!("unknown kind of store {other:?}; there are file, ram and null")),
        }
    }
}

fn positive(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(|size| if size > 0 { Ok(size) } else { Err("a size must not be zero".to_owned()) })
}

/// How to format a store, as far as that was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FormatSettings {
    pub(super) segment: Option<u64>,
    pub(super) shards: Option<u32>,
    pub(super) format: Option<Format>,
}

impl FormatSettings {
    /// Reads one `name=value`.
    pub(super) fn read(&mut self, part: &str) -> Result<(), String> {
        let (name, value) = setting(part)?;
        match name {
            "segment" => self.segment = Some(positive(value)?),
            "shards" => {
                let number = value.parse().ok().filter(|number| (1..=128).contains(number));
                self.shards = Some(number.ok_or_else(|| format!("shards must be 1 to 128, not {value:?}"))?);
            }
            "format" => self.format = Some(parse_format(value)?),
            other => {
                return Err(format!(
                    "unknown setting {other:?}; there are size (of files), segment, shards and format"
                ));
            }
        }
        Ok(())
    }
}

fn setting(part: &str) -> Result<(&str, &str), String> {
    part.split_once('=').ok_or_else(|| format!("expected name=value instead of {part:?}"))
}

fn parse_file(text: &str) -> Result<StoreOption, String> {
    let mut parts = text.split(',');
    let path = parts.next().filter(|path| !path.is_empty()).ok_or("the path after file: is missing")?;
    let (mut size, mut settings) = (None, FormatSettings::default());
    for part in parts {
        match setting(part)? {
            ("size", value) => size = Some(positive(value)?),
            _ => settings.read(part)?,
        }
    }
    let FormatSettings { segment, shards, format } = settings;
    Ok(StoreOption::File { path: path.into(), size, segment, shards, format: format.unwrap_or_default() })
}

fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "never" => Ok(Format::Never),
        "if-empty" => Ok(Format::IfEmpty),
        "force" => Ok(Format::Force),
        other => Err(format!("format must be never, if-empty or force, not {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read() {
        let file =
            |size, segment, shards, format| StoreOption::File { path: "/x/y".into(), size, segment, shards, format };
        for (text, store) in [
            ("file:/x/y", file(None, None, None, Format::IfEmpty)),
            (
                "file:/x/y,size=2G,segment=64M,shards=4,format=force",
                file(Some(2 << 30), Some(64 << 20), Some(4), Format::Force),
            ),
            ("ram:1G", StoreOption::Ram { size: 1 << 30 }),
            ("null:1T", StoreOption::Null { size: 1 << 40 }),
        ] {
            assert_eq!(text.parse(), Ok(store), "{text}");
        }
        for (text, told) in [
            ("/x/y", "expected file:"),
            ("tape:/x", "unknown kind"),
            ("file:", "path"),
            ("file:/x,size", "name=value"),
            ("file:/x,size=0", "zero"),
            ("file:/x,shards=0", "1 to 128"),
            ("file:/x,format=maybe", "if-empty"),
            ("file:/x,colour=red", "unknown setting"),
            ("ram:much", "not a size"),
        ] {
            let error = text.parse::<StoreOption>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
