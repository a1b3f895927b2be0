//! Keeps two processes off one core, by lock files in SPDK's manner.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::CoreMask;

/// Where the lock files lie.
const FOLDER: &str = "/var/tmp";

/// The claim of this process on one core, until it is dropped.
#[derive(Debug)]
pub struct CoreLock {
    core: u32,
    _file: File,
}

/// Why a core was not claimed.
#[derive(Debug, thiserror::Error)]
pub enum CoreLockError {
    /// Another process has it.
    #[error(
        "core {core} is in use by {holder} ({path} is locked); choose another core mask, or turn core locks off if \
         sharing the core is meant"
    )]
    Taken {
        /// The core.
        core: u32,
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as far as is known.
        holder: String,
    },
    /// The lock file cannot be opened.
    #[error("cannot lock core {core} by {path}: {cause}")]
    System {
        /// The core.
        core: u32,
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl CoreLock {
    /// Claims a core: locks `/var/tmp/kvplane_cpu_lock_NNN` and writes the process id there.
    ///
    /// # Errors
    /// [`CoreLockError::Taken`] if another holder lives.
    pub fn claim(core: u32) -> Result<Self, CoreLockError> {
        Self::claim_in(Path::new(FOLDER), core)
    }

    /// Claims every core of a mask, or none.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), for the first core that cannot be had.
    pub fn claim_all(mask: CoreMask) -> Result<Vec<Self>, CoreLockError> {
        mask.iter().map(Self::claim).collect()
    }

    fn claim_in(folder: &Path, core: u32) -> Result<Self, CoreLockError> {
        let path = folder.join(format!("kvplane_cpu_lock_{core:03}"));
        let failed = |cause| CoreLockError::System { core, path: path.clone(), cause };
        let mut file = open_or_create(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                return Err(CoreLockError::Taken { core, path, holder });
            }
        }
        note_holder(&path);
        Ok(Self { core, _file: file })
    }

    /// The core.
    #[must_use]
    pub fn core(&self) -> u32 {
        self.core
    }
}

/// Opens the lock file to lock it, which needs no right to write: it may be another user's, left behind when that
/// user's process ended. One that is there is opened without O_CREAT, which the kernel refuses for another user's
/// file in a sticky folder (fs.protected_regular).
fn open_or_create(path: &Path) -> io::Result<File> {
    loop {
        // Anyone may write into the folder: what another user put there as a link must not be followed, and a FIFO must
        // not make this wait.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        match File::options().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let mut options = File::options();
        match options.read(true).write(true).create_new(true).mode(0o644).custom_flags(flags).open(path) {
            // Somebody else made it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created,
        }
    }
}

/// Writes this process's id into the lock file, for who finds the core taken. Not possible in a file of another
/// user; the lock holds all the same.
fn note_holder(path: &Path) {
    let mut options = File::options();
    let opened = options.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    if let Ok(mut file) = opened
        && file.set_len(0).is_ok()
    {
        let _ = writeln!(file, "{}", std::process::id());
    }
}

/// Who holds the lock, as the file says.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) if read.is_ok() => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_claimed_once_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let lock = CoreLock::claim_in(folder.path(), 7).unwrap();
        assert_eq!(lock.core(), 7);
        let refused = CoreLock::claim_in(folder.path(), 7).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(refused.contains(&format!("core 7 is in use by process {pid}")), "{refused}");
        assert!(refused.contains("kvplane_cpu_lock_007"), "{refused}");
        assert!(CoreLock::claim_in(folder.path(), 8).is_ok());
        drop(lock);
        assert!(CoreLock::claim_in(folder.path(), 7).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_locked_all_the_same() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvplane_cpu_lock_003");
        std::fs::write(&path, "4711\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
        let _lock = CoreLock::claim_in(folder.path(), 3).unwrap();
        assert!(matches!(CoreLock::claim_in(folder.path(), 3), Err(CoreLockError::Taken { .. })));
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join("kvplane_cpu_lock_001")).unwrap();
        assert!(matches!(CoreLock::claim_in(folder.path(), 1), Err(CoreLockError::System { .. })));
        assert_eq!(std::fs::read_to_string(target).unwrap(), "kept");
    }
}
