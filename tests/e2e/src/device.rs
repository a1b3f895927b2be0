//! NVMe devices in place of store files.
//!
//! `KVPLANE_E2E_DEVICE` names them as `--device` does, for instance `vfio:0000:00:10.0/1`; with `+` between several that
//! are to hold a store together. Tests ask for files of certain sizes, and a device has the size that it has: where
//! there are several choices, with spaces between them, each says which size it stands for, for instance
//! `vfio:0000:00:10.0/1=512M vfio:0000:00:10.0/2=192M`. What is on the devices is lost, and tests that share them must run
//! one at a time.

/// The variable.
pub const VARIABLE: &str = "KVPLANE_E2E_DEVICE";

/// What stands for the path of a test's own file.
const OWN_FILE: &str = "file:{store}";

/// The daemon's arguments for a store, if devices are to take the place of the test's own file. The store is formatted if
/// it is `fresh`, whatever the last test left there.
///
/// # Panics
/// If no device has the size that the test asks for.
#[must_use]
pub fn instead_of(store: &str, fresh: bool) -> Option<Vec<String>> {
    let choices = std::env::var(VARIABLE).ok()?;
    arguments(&choices, store, fresh).unwrap_or_else(|why| panic!("{VARIABLE}={choices}: {why}"))
}

fn arguments(choices: &str, store: &str, fresh: bool) -> Result<Option<Vec<String>>, String> {
    let Some(settings) = store.strip_prefix(OWN_FILE) else { return Ok(None) };
    let (sizes, kept): (Vec<&str>, Vec<&str>) =
        settings.split(',').filter(|setting| !setting.is_empty()).partition(|setting| setting.starts_with("size="));
    let wanted = sizes.first().and_then(|size| size.strip_prefix("size="));
    let fits = |choice: &&str| choice.split_once('=').is_none_or(|(_, size)| Some(size) == wanted);
    let choice = choices.split_whitespace().find(fits);
    let choice = choice.ok_or_else(|| format!("there is no device for a store of {}", wanted.unwrap_or("no size")))?;
    let devices = choice.split_once('=').map_or(choice, |(devices, _)| devices);
    let mut settings: String = kept.iter().map(|setting| format!(",{setting}")).collect();
    if fresh && !settings.contains(",format=") {
        settings.push_str(",format=force");
    }
    let options = devices.split('+').flat_map(|device| ["--device".to_owned(), format!("{device}{settings}")]);
    Ok(Some(options.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_size_becomes_the_device_of_that_size() {
        let choices = "vfio:a/1=512M vfio:a/2+vfio:b=192M";
        let chosen = |store, fresh| arguments(choices, store, fresh).map(|options| options.map(|list| list.join(" ")));
        let of = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(
            chosen("file:{store},size=512M,segment=16M", true),
            of("--device vfio:a/1,segment=16M,format=force")
        );
        assert_eq!(
            chosen("file:{store},size=192M,shards=2", false),
            of("--device vfio:a/2,shards=2 --device vfio:b,shards=2")
        );
        assert_eq!(chosen("file:{store},size=512M,format=never", true), of("--device vfio:a/1,format=never"));
        assert_eq!(chosen("ram:64M", true), Ok(None));
        assert_eq!(chosen("file:/elsewhere,size=512M", true), Ok(None));
        assert!(chosen("file:{store},size=1G", true).unwrap_err().contains("1G"));
        assert!(arguments("vfio:a", "file:{store},size=1G", false).unwrap().is_some(), "without a size it is for all");
    }
}
