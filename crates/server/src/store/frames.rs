//! `frames/JOB`: frames that are tasks of their own, between a node and Celery workers.
//!
//! Whoever works on frames can write here, so every way leads beneath the store's root and over no
//! link, and directories are opened anew each time.

use std::fs::{self, File};
use std::io::ErrorKind as Io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Store;

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

    /// Opens a directory beneath the root, over no link.
    fn directory(&self, relative: &Path) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(
            &self.handle,
            relative,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }
}

impl FrameDir<'_> {
    fn failed(&self, what: &str, name: &str) -> impl FnOnce(Errno) -> Error {
        let text = format!("cannot {what} '{}' in the store", self.relative.join(name).display());
        move |e| Error::io(text, &e.into())
    }

    /// Makes the directories where they are not there. The store's own must be: else this is the place
    /// where one was mounted.
    ///
    /// # Errors
    /// Of the file system.
    pub fn make(&self) -> Result<()> {
        let made = |done: rustix::io::Result<()>| match done {
            Err(Errno::EXIST) => Ok(()),
            done => done,
        };
        let mode = Mode::RWXU | Mode::RWXG | Mode::ROTH | Mode::XOTH;
        let name = self.relative.file_name().unwrap_or_default();
        let frames =
            self.store.directory(Path::new("frames")).map_err(self.failed("open", ".."))?;
        made(rustix::fs::mkdirat(&frames, name, mode)).map_err(self.failed("make", ""))?;
        let dir = self.store.directory(&self.relative).map_err(self.failed("open", ""))?;
        for part in ["claims", "beats", "cancelled", "results"] {
            made(rustix::fs::mkdirat(&dir, part, mode)).map_err(self.failed("make", part))?;
        }
        Ok(())
    }

    /// Whether the job has frames.
    pub fn exists(&self) -> bool {
        self.store.directory(&self.relative).is_ok()
    }

    /// Makes a file that is not there yet in a part of the directory.
    fn create_in(&self, part: &str, name: &str) -> rustix::io::Result<File> {
        let dir = self.store.directory(&self.relative.join(part))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH;
        rustix::fs::openat(&dir, name, flags, mode).map(File::from)
    }

    /// A new file for a frame. It can be made again, so it is not synchronised with the disk; who
    /// reads it is told of it only once it is written.
    ///
    /// # Errors
    /// Of the file system; NotFound where the job is over.
    pub fn create(&self, name: &str) -> Result<File> {
        self.create_in("", name).map_err(self.failed("make", name))
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
        let Ok(claims) = self.store.directory(&self.relative.join("claims")) else { return false };
        rustix::fs::statat(&claims, attempt.to_string(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
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
        match self.create_in("cancelled", &attempt.to_string()) {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(self.failed("cancel", &attempt.to_string())(e)),
        }
    }

    /// Removes files that are of no use any more, as far as they are there.
    pub fn remove(&self, names: &[PathBuf]) {
        for path in names {
            let (part, name) = (path.parent(), path.file_name());
            let (Some(part), Some(name)) = (part, name) else { continue };
            let Ok(dir) = self.store.directory(&self.relative.join(part)) else { return };
            if let Err(error) = rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                tracing::trace!(%error, "a frame's file stays until its job ends");
            }
        }
    }

    /// Removes all of it: the job is over. Workers drop what they still hold.
    ///
    /// # Errors
    /// Of the file system.
    pub fn drop_all(&self) -> Result<()> {
        let from = self.store.root.join(&self.relative);
        let name = self.relative.file_name().unwrap_or_default();
        let to =
            self.store.root.join("trash").join(format!("{}.frames", Path::new(name).display()));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == Io::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(format!("cannot remove '{}'", from.display()), &e)),
            Ok(()) => {}
        }
        // A link that somebody put in its place is removed as one.
        let removed = if to.is_symlink() { fs::remove_file(&to) } else { fs::remove_dir_all(&to) };
        removed.map_err(|e| Error::io(format!("cannot remove '{}'", to.display()), &e))
    }
}
