//! Room that is set aside on the store. Where the disk is full it is given up, so that journals,
//! reports and signs of life go on, and what is at work can end.

use std::fs::{self, File};
use std::io::{ErrorKind as Io, Write};
use std::path::{Path, PathBuf};

use frameloom_core::{ErrorKind, Result};
use rustix::fs::{FallocateFlags, fallocate};

use super::{Store, io};

/// Bytes that are set aside: decisions and reports of many thousand tasks.
pub const RESERVE: u64 = 16 << 20;

impl Store {
    fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// Bytes that are free for everybody.
    ///
    /// # Errors
    /// Of the file system.
    pub fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|e| io(format!("cannot look at '{}'", self.root.display()))(e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Sets room aside, where `least` bytes stay free then; answers whether it has done so just now.
    ///
    /// # Errors
    /// Of the file system.
    pub fn set_aside(&self, least: u64) -> Result<bool> {
        let path = self.reserve();
        let there = fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
        if there == RESERVE || self.free()? < least.saturating_add(RESERVE) {
            return Ok(false);
        }
        let made = self.create_anew(Path::new("reserve")).map_err(std::io::Error::from);
        let made = made.and_then(|file| fill(&file));
        if made.is_err() {
            // Half of it would look like room that is used.
            drop(fs::remove_file(&path));
        }
        made.map(|()| true).map_err(io(format!("cannot set aside '{}'", path.display())))
    }

    /// Whether room is set aside.
    pub fn has_reserve(&self) -> bool {
        self.reserve().exists()
    }

    /// Does a small write that must not fail; where the disk is full it gives up what was set aside,
    /// and does it once more. What it does must bear being done twice.
    ///
    /// # Errors
    /// Of the second try.
    pub fn pressing<T>(&self, mut write: impl FnMut() -> Result<T>) -> Result<T> {
        match write() {
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                match fs::remove_file(self.reserve()) {
                    Ok(()) => {
                        tracing::warn!(
                            "the store is full; the room that was set aside is given up"
                        );
                    }
                    // Somebody else has given it up just now, or there was none.
                    Err(e) if e.kind() == Io::NotFound => {}
                    Err(error) => tracing::warn!(%error, "what was set aside cannot be given up"),
                }
                write()
            }
            done => done,
        }
    }
}

/// Makes a file take its room on the disk.
fn fill(file: &File) -> std::io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, RESERVE) {
        // Not every file system can, NFS before 4.2 among them.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            (0..RESERVE >> 20).try_for_each(|_| (&*file).write_all(&zeros))
        }
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::Error;

    #[test]
    fn what_is_set_aside_is_given_up_once_and_made_again_where_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(!store.set_aside(u64::MAX).unwrap(), "there is no room for that");
        assert!(store.set_aside(0).unwrap());
        assert!(!store.set_aside(0).unwrap(), "it is there already");
        assert_eq!(fs::metadata(store.reserve()).unwrap().len(), RESERVE);
        // A write that finds room once the reserve is gone, as on a full disk.
        let mut tries = 0;
        let write = || {
            tries += 1;
            match store.has_reserve() {
                true => Err(Error::exhausted("no space left")),
                false => Ok(tries),
            }
        };
        assert_eq!(store.pressing(write).unwrap(), 2);
        // What fails for another reason is not done again, and costs no reserve.
        assert!(store.set_aside(0).unwrap());
        let mut tries = 0;
        let failed: Result<()> = store.pressing(|| {
            tries += 1;
            Err(Error::internal("no"))
        });
        assert!(failed.is_err() && store.has_reserve());
        assert_eq!(tries, 1);
    }
}
