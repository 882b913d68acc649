//! Frames that strangers' Celery clients send: files where they like beneath `frames/`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use frameloom_core::{Error, Result};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::Store;
use super::frames::MODE;

/// A stranger's frame that is about to come back.
#[derive(Debug)]
pub struct Coming<'a> {
    store: &'a Store,
    output: &'a Path,
    part: String,
}

impl Coming<'_> {
    fn dir(&self) -> rustix::io::Result<OwnedFd> {
        self.store.directory(self.output.parent().unwrap_or(self.output))
    }

    fn failed(&self, e: Errno) -> Error {
        let output = self.output.display();
        Error::io(format!("cannot put '{output}' in its place in the store"), &e.into())
    }

    /// Puts the frame in its place; what is there already is left.
    ///
    /// # Errors
    /// Of the file system.
    pub fn publish(self) -> Result<()> {
        let name = self.output.file_name().unwrap_or_default();
        let dir = self.dir().map_err(|e| self.failed(e))?;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&dir, &self.part, &dir, name, flags) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                self.discard();
                Ok(())
            }
            // Not every file system knows how.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::renameat(&dir, &self.part, &dir, name).map_err(|e| self.failed(e))
            }
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Puts the file in its place, whatever is there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn replace(self) -> Result<()> {
        let name = self.output.file_name().unwrap_or_default();
        let dir = self.dir().map_err(|e| self.failed(e))?;
        rustix::fs::renameat(&dir, &self.part, &dir, name).map_err(|e| self.failed(e))
    }

    /// Removes what was written.
    pub fn discard(self) {
        let removed =
            self.dir().and_then(|dir| rustix::fs::unlinkat(&dir, &self.part, AtFlags::empty()));
        if let Err(error) = removed {
            tracing::trace!(%error, "a frame's file stays until its directory goes");
        }
    }
}

impl Store {
    /// Opens a stranger's frame, by its path in the store; `None` where it is not there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open_frame(&self, path: &Path) -> Result<Option<File>> {
        self.open_file(path)
    }

    /// A new file for a stranger's frame that is to come back as `output`.
    ///
    /// # Errors
    /// Of the file system; NotFound where its directory is gone.
    pub fn begin_frame<'a>(&'a self, output: &'a Path, unique: u128) -> Result<(File, Coming<'a>)> {
        let failed = |e: Errno| {
            Error::io(format!("cannot make '{}' in the store", output.display()), &e.into())
        };
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let part = format!("{name}.{unique:032x}.part");
        let dir = self.directory(output.parent().unwrap_or(output)).map_err(failed)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, &part, flags, MODE).map(File::from).map_err(failed)?;
        Ok((file, Coming { store: self, output, part }))
    }
}
