//! The work directory of a run: beside the output, locked while the run lives.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use frameloom_core::{Error, Result};
use rustix::fs::{FlockOperation, flock};

/// A locked work directory.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Where a run for `out` keeps its work where nothing else is said: `.NAME.frameloom` beside it.
    pub(crate) fn beside(out: &Path) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(out.file_name().unwrap_or_default());
        name.push(".frameloom");
        out.with_file_name(name)
    }

    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// Conflict where another run holds it; of the file system.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let failed = |e: std::io::Error| Error::io(format!("work directory '{shown}'"), &e);
        fs::create_dir_all(path).map_err(failed)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::conflict(format!(
                "another run is at work in '{shown}'; wait for it, or give another output or --work"
            ))),
            Err(e) => Err(failed(e.into())),
        }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes all that a run has put there, and the directory if nothing else is in it.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn remove(self) -> Result<()> {
        let failed =
            |e: std::io::Error| Error::io(format!("cannot remove '{}'", self.path.display()), &e);
        for part in ["nodes", "jobs", "trash", "spool"] {
            match fs::remove_dir_all(self.path.join(part)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
        fs::remove_file(self.path.join("lock")).map_err(failed)?;
        match fs::remove_dir(&self.path) {
            // Somebody keeps other things there.
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.map_err(failed),
        }
    }
}
