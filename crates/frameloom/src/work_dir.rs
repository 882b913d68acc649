//! The work directory of a run: beside the output, locked while the run lives.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use frameloom_core::{Error, Result};
use rustix::fs::{FlockOperation, flock};

/// Its lock, made before all else: what tells a work directory from any other.
const LOCK: &str = "frameloom.lock";

/// What is left of a directory that Celery workers know: they look for it where they start.
const NAME: &str = "store.json";

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
    /// A directory that holds things and no lock is somebody else's: `remove` would take what lies
    /// there under the names that a run uses.
    ///
    /// # Errors
    /// Invalid where the directory is not a run's; Conflict where another run holds it; of the file
    /// system.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let failed = |e: std::io::Error| Error::io(format!("work directory '{shown}'"), &e);
        fs::create_dir_all(path).map_err(failed)?;
        let names = fs::read_dir(path)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
            .map_err(failed)?;
        let names: Vec<std::ffi::OsString> = names;
        if names.iter().any(|name| name != NAME) && !names.iter().any(|name| name == LOCK) {
            return Err(Error::invalid(format!(
                "'{shown}' holds other things than a run's work; give --work a new or empty directory"
            )));
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
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

    /// Removes all that a run has put there, and the directory if nothing else is in it; a directory that
    /// Celery workers know stays, with its name.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn remove(self) -> Result<()> {
        let failed =
            |e: std::io::Error| Error::io(format!("cannot remove '{}'", self.path.display()), &e);
        for part in ["nodes", "jobs", "frames", "trash", "spool"] {
            match fs::remove_dir_all(self.path.join(part)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
        fs::remove_file(self.path.join(LOCK)).map_err(failed)?;
        match fs::remove_dir(&self.path) {
            // Somebody keeps other things there.
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::ErrorKind;

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("jobs/mine");
        fs::create_dir_all(precious.parent().unwrap()).unwrap();
        fs::write(&precious, "precious").unwrap();
        let refused = WorkDir::open(dir.path()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.message().contains("--work"), "{refused}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_run_left_is_opened_again_and_removed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("work");
        let work = WorkDir::open(&path).unwrap();
        fs::create_dir_all(path.join("jobs/1")).unwrap();
        assert_eq!(WorkDir::open(&path).unwrap_err().kind(), ErrorKind::Conflict);
        drop(work);
        WorkDir::open(&path).unwrap().remove().unwrap();
        assert!(!path.exists());
    }
}
