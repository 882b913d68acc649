//! `frames/JOB`: frames that are tasks of their own, between a node and Celery workers.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Store, io};

/// Largest answer and sign of life of a worker that is read, in bytes.
const MOST_SMALL: u64 = 64 << 10;

/// A job's frames in the store.
#[derive(Debug)]
pub struct FrameDir<'a> {
    store: &'a Store,
    relative: PathBuf,
}

/// A worker's sign of life.
#[derive(Deserialize)]
struct Counter {
    counter: u64,
}

impl Store {
    /// The place of a job's frames.
    pub fn frames(&self, id: JobId) -> FrameDir<'_> {
        FrameDir { store: self, relative: PathBuf::from("frames").join(id.to_string()) }
    }
}

impl FrameDir<'_> {
    fn path(&self) -> PathBuf {
        self.store.root.join(&self.relative)
    }

    /// Makes the directories where they are not there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn make(&self) -> Result<()> {
        let path = self.path();
        if path.join("results").exists() {
            return Ok(());
        }
        for part in ["claims", "beats", "cancelled", "results"] {
            let part = path.join(part);
            fs::create_dir_all(&part).map_err(io(format!("cannot make '{}'", part.display())))?;
        }
        Ok(())
    }

    /// Whether the job has frames.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// A new file for a frame. It can be made again, so it is not synchronised with the disk; who
    /// reads it is told of it only once it is written.
    ///
    /// # Errors
    /// Of the file system.
    pub fn create(&self, name: &str) -> Result<File> {
        let path = self.path().join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        file.map_err(io(format!("cannot make '{}'", path.display())))
    }

    /// Opens a frame that came back; `None` where it is not there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(&self, name: &str) -> Result<Option<File>> {
        self.store.open_file(&self.relative.join(name))
    }

    /// What a worker says of an attempt; `None` where it has said nothing yet.
    ///
    /// # Errors
    /// Internal where it is malformed.
    pub fn answer<T: DeserializeOwned>(&self, attempt: AttemptId) -> Result<Option<T>> {
        let name = format!("{attempt}.json");
        self.store.read_json(&self.relative.join("results").join(name), MOST_SMALL)
    }

    /// Whether a worker has taken the attempt.
    pub fn is_claimed(&self, attempt: AttemptId) -> bool {
        self.path().join("claims").join(attempt.to_string()).exists()
    }

    /// The counter of a worker's sign of life.
    pub fn beat(&self, attempt: AttemptId) -> Option<u64> {
        let relative = self.relative.join("beats").join(attempt.to_string());
        // One that cannot be read is one that did not come.
        let read: Option<Counter> = self.store.read_json(&relative, MOST_SMALL).ok().flatten();
        read.map(|read| read.counter)
    }

    /// Tells workers that an attempt is of no use any more.
    ///
    /// # Errors
    /// Of the file system.
    pub fn cancel(&self, attempt: AttemptId) -> Result<()> {
        let path = self.path().join("cancelled").join(attempt.to_string());
        File::create(&path).map(drop).map_err(io(format!("cannot write '{}'", path.display())))
    }

    /// Removes files that are of no use any more, as far as they are there.
    pub fn remove(&self, names: &[PathBuf]) {
        let path = self.path();
        for name in names {
            // What stays is removed with the job.
            drop(fs::remove_file(path.join(name)));
        }
    }

    /// Removes all of it: the job is over. Workers drop what they still hold.
    ///
    /// # Errors
    /// Of the file system.
    pub fn drop_all(&self) -> Result<()> {
        let from = self.path();
        let name = self.relative.file_name().unwrap_or_default();
        let to =
            self.store.root.join("trash").join(format!("{}.frames", Path::new(name).display()));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == Io::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(format!("cannot remove '{}'", from.display()), &e)),
            Ok(()) => {}
        }
        fs::remove_dir_all(&to).map_err(io(format!("cannot remove '{}'", to.display())))
    }
}
