//! Putting a result at the place that the user named: whole, or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use frameloom_core::{Error, Result};
use rustix::fs::{CWD, RenameFlags};

fn failed(out: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::io(format!("cannot write '{}'", out.display()), &e)
}

/// A finished file on the file system of its place, not there yet under its name.
#[derive(Debug)]
pub struct Ready {
    from: PathBuf,
    size: u64,
    inode: u64,
    /// Whether it is a copy, of no use to anybody where it is not published.
    copied: bool,
}

impl Ready {
    /// Size in bytes and inode, by which the file is known again at its place.
    pub fn identity(&self) -> (u64, u64) {
        (self.size, self.inode)
    }

    /// Takes `result` to the file system of `out`: where it lies there already nothing is copied.
    ///
    /// # Errors
    /// Exhausted where the disk is full; of the file system.
    pub fn prepare(result: &Path, out: &Path) -> Result<Self> {
        let dir = match out.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let here = fs::metadata(result).map_err(failed(out))?;
        let there = fs::metadata(dir).map_err(failed(out))?;
        if here.dev() != there.dev() {
            return Self::copy(result, out);
        }
        Self::of(result.to_owned(), out, false)
    }

    /// Copies `result` to the file system of `out`, so that it stays where it is as well: a run that is killed
    /// before its end finds it again.
    ///
    /// # Errors
    /// Exhausted where the disk is full; of the file system.
    pub fn copy(result: &Path, out: &Path) -> Result<Self> {
        Self::copy_of(&File::open(result).map_err(failed(out))?, out)
    }

    /// The same of a file that is open.
    ///
    /// # Errors
    /// As [`Ready::copy`].
    pub fn copy_of(mut result: &File, out: &Path) -> Result<Self> {
        let mut name = OsString::from(".");
        name.push(out.file_name().unwrap_or_default());
        name.push(".frameloom-copy");
        let copy = out.with_file_name(name);
        // What a run that was killed has left; a link is not followed.
        drop(fs::remove_file(&copy));
        let mut copied = || -> std::io::Result<()> {
            let mut to = File::options().write(true).create_new(true).open(&copy)?;
            result.rewind()?;
            std::io::copy(&mut result.take(result.metadata()?.len()), &mut to)?;
            to.sync_all()
        };
        if let Err(e) = copied() {
            drop(fs::remove_file(&copy));
            return Err(failed(out)(e));
        }
        Self::of(copy, out, true)
    }

    fn of(from: PathBuf, out: &Path, copied: bool) -> Result<Self> {
        let meta = fs::metadata(&from).map_err(failed(out))?;
        Ok(Self { from, size: meta.size(), inode: meta.ino(), copied })
    }

    /// Puts the file at its place by one rename.
    ///
    /// # Errors
    /// Conflict where something is there and `overwrite` is not given; of the file system.
    pub fn publish(self, out: &Path, overwrite: bool) -> Result<()> {
        let published = self.put(out, overwrite);
        if self.copied {
            // A rename has taken it away; what is left was refused, or linked.
            drop(fs::remove_file(&self.from));
        }
        published
    }

    fn put(&self, out: &Path, overwrite: bool) -> Result<()> {
        if overwrite {
            fs::rename(&self.from, out).map_err(failed(out))?;
        } else {
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(CWD, &self.from, CWD, out, flags) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => return Err(exists(out)),
                // Not every file system can; a link never replaces either.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                    match fs::hard_link(&self.from, out) {
                        Ok(()) => {}
                        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                            return Err(exists(out));
                        }
                        Err(e) => return Err(failed(out)(e)),
                    }
                }
                Err(e) => return Err(failed(out)(e.into())),
            }
        }
        Ok(())
    }
}

/// The error of an output that is there already.
pub fn exists(out: &Path) -> Error {
    Error::conflict(format!("'{}' exists already; give --overwrite to replace it", out.display()))
}

/// Whether `out` is the file that was about to be published.
pub fn is_published(out: &Path, (size, inode): (u64, u64)) -> bool {
    fs::metadata(out).is_ok_and(|meta| meta.size() == size && meta.ino() == inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::ErrorKind;

    #[test]
    fn an_output_is_never_replaced_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let (from, out) = (dir.path().join("from"), dir.path().join("out.mp4"));
        fs::write(&from, "new").unwrap();
        fs::write(&out, "old").unwrap();
        let ready = Ready::prepare(&from, &out).unwrap();
        let error = ready.publish(&out, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(fs::read(&out).unwrap(), b"old");
        let ready = Ready::prepare(&from, &out).unwrap();
        let identity = ready.identity();
        assert!(!is_published(&out, identity));
        ready.publish(&out, true).unwrap();
        assert_eq!(fs::read(&out).unwrap(), b"new");
        assert!(is_published(&out, identity));
        // A copy that is refused does not stay beside.
        fs::write(&from, "newer").unwrap();
        assert!(Ready::copy(&from, &out).unwrap().publish(&out, false).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
