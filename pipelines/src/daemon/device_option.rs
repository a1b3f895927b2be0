//! `--device`: NVMe devices that the daemon drives itself, which together hold one store.

use std::str::FromStr;

use super::Format;
use super::engine::DeviceAddress;
use super::store_option::FormatSettings;

/// One device, and how to format the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOption {
    /// Which.
    pub address: DeviceAddress,
    settings: FormatSettings,
}

impl FromStr for DeviceOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let address = parts.next().unwrap_or_default().parse()?;
        let mut settings = FormatSettings::default();
        parts.try_for_each(|part| settings.read(part))?;
        Ok(Self { address, settings })
    }
}

/// Every device, and how to format the store on them: settings may be given with any device, and hold for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Which.
    pub addresses: Vec<DeviceAddress>,
    /// Bytes of a segment; `None` to choose by the size.
    pub segment: Option<u64>,
    /// Shards; as many as cores if `None`.
    pub shards: Option<u32>,
    /// Whether to format the store.
    pub format: Format,
}

impl DeviceOptions {
    /// Puts options together.
    ///
    /// # Errors
    /// If two devices are given different settings.
    pub fn of(options: &[DeviceOption]) -> Result<Self, String> {
        let segment = one(options, "segment", |settings| settings.segment)?;
        let shards = one(options, "shards", |settings| settings.shards)?;
        let format = one(options, "format", |settings| settings.format)?;
        let addresses = options.iter().map(|option| option.address.clone()).collect();
        Ok(Self { addresses, segment, shards, format: format.unwrap_or_default() })
    }
}

fn one<T: PartialEq + Copy>(
    options: &[DeviceOption],
    name: &str,
    of: impl Fn(&FormatSettings) -> Option<T>,
) -> Result<Option<T>, String> {
    let mut given = options.iter().filter_map(|option| of(&option.settings));
    let first = given.next();
    if given.all(|value| Some(value) == first) {
        return Ok(first);
    }
    Err(format!("--device: {name} is given twice and differs; the devices hold one store, so give it once"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(texts: &[&str]) -> Result<DeviceOptions, String> {
        let options: Result<Vec<DeviceOption>, _> = texts.iter().map(|text| text.parse()).collect();
        DeviceOptions::of(&options?)
    }

    #[test]
    fn settings_hold_for_all_devices() {
        let read = options(&["vfio:0000:01:00.0/2,segment=64M", "vfio-user:/run/ssd,shards=4,format=force"]).unwrap();
        let names: Vec<_> = read.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["vfio:0000:01:00.0/2", "vfio-user:/run/ssd/1"]);
        assert_eq!((read.segment, read.shards, read.format), (Some(64 << 20), Some(4), Format::Force));
        assert!(options(&["vfio:01:00.0,shards=4", "vfio:02:00.0,shards=4"]).is_ok());
        for (texts, told) in [
            (&["vfio:01:00.0,shards=4", "vfio:02:00.0,shards=2"][..], "shards is given twice"),
            (&["vfio:01:00.0,size=4G"], "unknown setting"),
            (&["vfio:01:00"], "not the address"),
            (&["/dev/nvme0n1"], "expected vfio:"),
        ] {
            let error = options(texts).unwrap_err();
            assert!(error.contains(told), "{texts:?}: {error}");
        }
    }
}
