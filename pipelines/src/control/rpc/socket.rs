//! The unix socket: one owner, mode 0600, gone when its owner is gone.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path that a unix socket can be bound to.
const MAX_PATH: usize = 107;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody else has it.
    #[error("RPC socket {0} is in use by another process; stop it or choose another path with -r")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is not a socket; choose another path with -r")]
    NotASocket(PathBuf),
    /// The path cannot be bound.
    #[error("the path of the RPC socket, {0}, is empty or longer than {MAX_PATH} bytes")]
    BadPath(PathBuf),
    /// The system refused.
    #[error("cannot make RPC socket {path}: {error}")]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A socket that listens. Dropping it removes it and its lock file.
#[derive(Debug)]
pub struct RpcSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    /// Held for as long as the socket is.
    _lock: LockFile,
}

impl RpcSocket {
    /// Makes the socket with a lock file beside it. A socket that a process left behind is replaced.
    ///
    /// # Errors
    /// If somebody has it, something else is there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        // The lock's and the temporary name are longer, but only the latter is bound.
        let temporary = beside(path, &format!(".{}", std::process::id()));
        if path.file_name().is_none() || temporary.as_os_str().len() > MAX_PATH {
            return Err(SocketError::BadPath(path.to_owned()));
        }
        let failed = |error| SocketError::Io { path: path.to_owned(), error };
        let lock = LockFile::take(path)?;
        check_place(path)?;
        remove_if_there(&temporary).map_err(failed)?;
        // Bound under another name, so that nobody can connect before the mode is right.
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        let named = fs::set_permissions(&temporary, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::symlink_metadata(path));
        match named {
            Ok(metadata) => Ok(Self { listener, path: path.to_owned(), inode: metadata.ino(), _lock: lock }),
            Err(error) => {
                let _ = remove_if_there(&temporary);
                Err(failed(error))
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, which does not block.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for RpcSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The lock file beside the socket. It is removed while it is locked; who had opened it meanwhile notices that it is
/// no longer there and makes a new one.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    _file: File,
}

impl LockFile {
    fn take(socket: &Path) -> Result<Self, SocketError> {
        let path = beside(socket, ".lock");
        let failed = |error| SocketError::Io { path: socket.to_owned(), error };
        loop {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => (),
                Err(TryLockError::WouldBlock) => return Err(SocketError::InUse(socket.to_owned())),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let locked = file.metadata().map_err(failed)?;
            if fs::symlink_metadata(&path).is_ok_and(|there| there.ino() == locked.ino()) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What is at the path may be nothing, or a socket that nobody listens on: a program that does not know our lock file
/// could have made it.
fn check_place(path: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::Io { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
            Ok(_) => Err(SocketError::InUse(path.to_owned())),
        },
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_it_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        let socket = RpcSocket::bind(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(RpcSocket::bind(&path), Err(SocketError::InUse(_))));
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        drop(UnixListener::bind(&path).unwrap());
        drop(RpcSocket::bind(&path).unwrap());

        let foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(RpcSocket::bind(&path), Err(SocketError::InUse(_))));
        drop(foreign);
        fs::remove_file(&path).unwrap();

        fs::write(&path, "precious").unwrap();
        assert!(matches!(RpcSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = folder.path().join("x".repeat(120));
        assert!(matches!(RpcSocket::bind(&long), Err(SocketError::BadPath(_))));
        assert!(matches!(RpcSocket::bind(&folder.path().join("no/such")), Err(SocketError::Io { .. })));
    }
}
