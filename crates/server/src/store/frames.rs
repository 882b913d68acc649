//! `frames/JOB`: frames that are tasks of their own, between a node and Celery workers.
//!
//! Whoever works on frames can write here, so every way leads beneath the store's root and over no
//! link, and directories are opened anew each time.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::wire::FrameClaim;
use frameloom_core::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Store;
use super::view::not_stale;

/// Largest answer and sign of life of a worker that is read, in bytes.
const MOST_SMALL: u64 = 64 << 10;

/// A job's frames in the store.
#[derive(Debug)]
pub struct FrameDir<'a> {
    store: &'a Store,
    relative: PathBuf,
}

/// Who may do what with new files.
pub(super) const MODE: Mode =
    Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP).union(Mode::WGRP).union(Mode::ROTH);

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
    pub(super) fn directory(&self, relative: &Path) -> rustix::io::Result<OwnedFd> {
        self.beneath(relative, OFlags::RDONLY | OFlags::DIRECTORY)
    }
}

impl FrameDir<'_> {
    fn failed(&self, what: &str, name: &str) -> impl FnOnce(Errno) -> Error {
        let text = format!("cannot {what} '{}' in the store", self.relative.join(name).display());
        move |e| Error::io(text, &e.into())
    }

    /// Makes the directories where they are not there. The server does, before a job's first task is sent,
    /// and nobody else: what is not there any more is of a job that is over. The store's own must be: else this
    /// is the place where one was mounted.
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

    /// Whether its directory is not there, as far as can be seen: of a store that shows nothing nothing is
    /// known.
    pub fn is_gone(&self) -> bool {
        let seen = self.store.directory(Path::new("frames")).is_ok();
        seen && self.store.directory(&self.relative).is_err_and(|e| e == Errno::NOENT)
    }

    /// Tries whether there is room for a small file.
    ///
    /// # Errors
    /// Of the file system: Exhausted where there is none.
    pub fn try_room(&self, unique: u128) -> Result<()> {
        let name = format!("{unique:032x}.room");
        let mut file = self.create(&name)?;
        let written = file.write_all(&[0; 4096]);
        self.remove(&[name.into()]);
        written.map_err(|e| Error::io("cannot write to the store", &e))
    }

    /// Makes a file that is not there yet in a part of the directory.
    fn create_in(&self, part: &str, name: &str) -> rustix::io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        not_stale(|| {
            let dir = self.store.directory(&self.relative.join(part))?;
            rustix::fs::openat(&dir, name, flags, MODE).map(File::from)
        })
    }

    /// A new file for a frame. It can be made again, so it is not synchronised with the disk; who
    /// reads it is told of it only once it is written.
    ///
    /// # Errors
    /// Of the file system; NotFound where the job is over.
    pub fn create(&self, name: &str) -> Result<File> {
        self.create_in("", name).map_err(self.failed("make", name))
    }

    /// Opens a frame that came back; `None` where it does not show yet.
    ///
    /// # Errors
    /// Of the file system; Internal where something else than a file is there.
    pub fn open(&self, name: &str) -> Result<Option<File>> {
        if !self.may_hold("", name).map_err(self.failed("look for", name))? {
            return Ok(None);
        }
        self.store.open_file(&self.relative.join(name))
    }

    /// Opens a frame that was told to be there; `None` where it is not.
    ///
    /// # Errors
    /// Of the file system; Internal where something else than a file is there.
    pub fn find(&self, name: &str) -> Result<Option<File>> {
        self.store.open_file(&self.relative.join(name))
    }

    /// See [`Store::may_hold`].
    fn may_hold(&self, part: &str, name: &str) -> rustix::io::Result<bool> {
        self.store.may_hold(&self.relative.join(part), name)
    }

    /// A small file that is looked for until it is there; one that cannot be read is one that did not come.
    fn note<T: DeserializeOwned>(&self, part: &str, name: &str) -> Option<T> {
        if !self.may_hold(part, name).unwrap_or(false) {
            return None;
        }
        self.store.read_json(&self.relative.join(part).join(name), MOST_SMALL).ok().flatten()
    }

    /// Puts a frame that is written in its place.
    ///
    /// # Errors
    /// Of the file system; NotFound where the job is over.
    pub fn publish(&self, part: &str, name: &str) -> Result<()> {
        let renamed = not_stale(|| {
            let dir = self.store.directory(&self.relative)?;
            rustix::fs::renameat(&dir, part, &dir, name)
        });
        renamed.map_err(self.failed("rename", name))
    }

    /// Whether a file is there.
    ///
    /// # Errors
    /// Of the file system, where that cannot be told.
    pub fn has(&self, name: &str) -> Result<bool> {
        let there = self.may_hold("", name).and_then(|may| match may {
            true => self.store.holds(&self.relative, name),
            false => Ok(false),
        });
        there.map_err(self.failed("look for", name))
    }

    /// Says that a node works on an attempt. The first one that says so is believed.
    ///
    /// # Errors
    /// Of the file system.
    pub fn claim(&self, attempt: AttemptId, claim: FrameClaim) -> Result<()> {
        match self.write_in("claims", &attempt.to_string(), &claim) {
            Err(error) if error.kind() == frameloom_core::ErrorKind::Conflict => Ok(()),
            made => made,
        }
    }

    /// Which node says that it works on an attempt.
    pub fn claim_of(&self, attempt: AttemptId) -> Option<FrameClaim> {
        self.note("claims", &attempt.to_string())
    }

    /// Says why an attempt's frame does not come back.
    ///
    /// # Errors
    /// Of the file system.
    pub fn say<T: Serialize>(&self, attempt: AttemptId, what: &T) -> Result<()> {
        self.write_in("results", &format!("{attempt}.json"), what)
    }

    /// Writes a small file that is not there yet, by a temporary and a rename.
    fn write_in<T: Serialize>(&self, part: &str, name: &str, value: &T) -> Result<()> {
        let text = serde_json::to_vec(value)
            .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
        let fresh = format!("{name}.tmp");
        let failed = || self.failed("write", name);
        let mut file = self.create_in(part, &fresh).map_err(failed())?;
        file.write_all(&text)
            .map_err(|e| Error::io(format!("cannot write '{name}' in the store"), &e))?;
        let dir = self.store.directory(&self.relative.join(part)).map_err(failed())?;
        rustix::fs::renameat(&dir, &fresh, &dir, name).map_err(failed())
    }

    /// What a worker says of an attempt; `None` where it has said nothing yet.
    ///
    /// # Errors
    /// Internal where it is malformed, or no file; of the file system.
    pub fn answer<T: DeserializeOwned>(&self, attempt: AttemptId) -> Result<Option<T>> {
        let name = format!("{attempt}.json");
        if !self.may_hold("results", &name).map_err(self.failed("look for", &name))? {
            return Ok(None);
        }
        self.store.read_json(&self.relative.join("results").join(name), MOST_SMALL)
    }

    /// Whether a worker has taken the attempt.
    pub fn is_claimed(&self, attempt: AttemptId) -> bool {
        let (dir, name) = (self.relative.join("claims"), attempt.to_string());
        let may = self.may_hold("claims", &name).unwrap_or(false);
        may && self.store.holds(&dir, &name).unwrap_or(false)
    }

    /// The counter of a worker's sign of life.
    pub fn beat(&self, attempt: AttemptId) -> Option<u64> {
        self.note("beats", &attempt.to_string()).map(|read: Counter| read.counter)
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
        self.store.away(&self.relative)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use frameloom_core::ErrorKind;
    use frameloom_core::id::NodeId;

    use super::*;

    #[test]
    fn frames_are_gone_only_where_the_store_shows_that_they_are() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let dir = store.frames(JobId::from_bits(1));
        assert!(dir.is_gone());
        dir.make().unwrap();
        assert!(!dir.is_gone() && !dir.has("a").unwrap());
        dir.create("a").unwrap();
        assert!(dir.has("a").unwrap());
        dir.try_room(7).unwrap();
        assert_eq!(fs::read_dir(root.path().join(&dir.relative)).unwrap().count(), 5);
        // Something else in its place says nothing of the job.
        fs::remove_dir_all(root.path().join(&dir.relative)).unwrap();
        std::os::unix::fs::symlink("/tmp", root.path().join(&dir.relative)).unwrap();
        assert!(!dir.is_gone());
        dir.has("a").unwrap_err();
        fs::remove_dir_all(root.path().join("frames")).unwrap();
        assert!(!dir.is_gone(), "a place where a store was mounted tells nothing");
    }

    #[test]
    fn a_node_tries_the_place_of_frames_too() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let node = NodeId::from_bits(1);
        store.try_out(node).unwrap();
        fs::remove_dir(root.path().join("frames")).unwrap();
        let error = store.try_out(node).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.message().contains("/frames'"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_told_apart_from_a_store_in_trouble() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let dir = store.frames(JobId::from_bits(1));
        dir.make().unwrap();
        let path = root.path().join(&dir.relative);
        std::os::unix::fs::symlink("/etc/passwd", path.join("link")).unwrap();
        fs::create_dir(path.join("directory")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
        for name in ["link", "directory", "socket"] {
            let error = dir.open(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal, "{name}: {error}");
        }
    }
}
