//! The work directory of a run: beside the output, locked while the run lives.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind as Io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use frameloom_core::{Error, Result};
use rustix::fs::{FlockOperation, flock};

/// Its lock, made before all else: what tells a work directory from any other.
const LOCK: &str = "frameloom.lock";

/// What is left of a directory that Celery workers know: they look for it where they start.
const NAME: &str = "store.json";

/// What of a job's directory tells that it is done.
const DONE: [&str; 2] = ["job.json", "journal"];

/// A locked work directory.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    lock: File,
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
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
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

    /// Whether it is still there: the directory that was locked.
    pub(crate) fn is_there(&self) -> bool {
        self.locked() == Some(true)
    }

    /// Whether the lock that lies there is this one; `None` where none does.
    fn locked(&self) -> Option<bool> {
        match (fs::metadata(self.path.join(LOCK)), self.lock.metadata()) {
            (Ok(there), Ok(own)) => Some((own.dev(), own.ino()) == (there.dev(), there.ino())),
            (Err(e), _) if e.kind() == Io::NotFound => None,
            // What cannot be looked at now is not gone.
            _ => Some(true),
        }
    }

    /// The error of a run whose work directory is not there any more.
    pub(crate) fn gone(&self) -> Error {
        Error::not_found(format!(
            "work directory '{}' was removed while the run was at work; run the same command again",
            self.path.display()
        ))
    }

    /// Removes what the run of a job has made but for what tells that it is done: a run that is killed while it cleans up
    /// is known to be done until next to nothing is left.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn strip(&self) -> Result<()> {
        let strip = || -> std::io::Result<()> {
            for job in fs::read_dir(self.path.join("jobs"))? {
                for entry in fs::read_dir(job?.path())? {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        fs::remove_dir_all(entry.path())?;
                    } else if !DONE.iter().any(|name| entry.file_name() == *name) {
                        fs::remove_file(entry.path())?;
                    }
                }
            }
            Ok(())
        };
        let name = self.path.display();
        strip().map_err(|e| Error::io(format!("cannot remove what lies in '{name}'"), &e))
    }

    /// Removes all that a run has put there, and the directory if nothing else is in it; a directory that
    /// Celery workers know stays, with its name. What another run has made there since is left.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn remove(self) -> Result<()> {
        if self.locked() == Some(false) {
            return Ok(());
        }
        let failed =
            |e: std::io::Error| Error::io(format!("cannot remove '{}'", self.path.display()), &e);
        for part in ["nodes", "jobs", "frames", "trash", "spool"] {
            match fs::remove_dir_all(self.path.join(part)) {
                Err(e) if e.kind() != Io::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
        match fs::remove_file(self.path.join(LOCK)) {
            Err(e) if e.kind() != Io::NotFound => return Err(failed(e)),
            _ => {}
        }
        match fs::remove_dir(&self.path) {
            // Somebody keeps other things there, or has removed it.
            Err(e) if matches!(e.kind(), Io::DirectoryNotEmpty | Io::NotFound) => Ok(()),
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
        fs::create_dir_all(path.join("jobs/1/results")).unwrap();
        for name in ["job.json", "journal", "source", "results/a"] {
            fs::write(path.join("jobs/1").join(name), "").unwrap();
        }
        assert_eq!(WorkDir::open(&path).unwrap_err().kind(), ErrorKind::Conflict);
        work.strip().unwrap();
        assert_eq!(fs::read_dir(path.join("jobs/1")).unwrap().count(), 2);
        drop(work);
        WorkDir::open(&path).unwrap().remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_was_removed_is_missed_and_what_another_run_made_there_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("work");
        let work = WorkDir::open(&path).unwrap();
        assert!(work.is_there());
        fs::remove_dir_all(&path).unwrap();
        assert!(!work.is_there());
        let other = WorkDir::open(&path).unwrap();
        fs::create_dir_all(path.join("jobs/1")).unwrap();
        assert!(!work.is_there() && other.is_there());
        work.remove().unwrap();
        assert!(path.join("jobs/1").exists());
        // Half of it was removed, the lock with it.
        fs::remove_file(path.join(LOCK)).unwrap();
        other.remove().unwrap();
        assert!(!path.exists());
    }
}
