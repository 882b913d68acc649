//! One server at a time: who has created the highest `epoch/N` on the store decides, nobody else.
//!
//! The holder rewrites its epoch's counter each second and keeps the file locked. A server that
//! finds the lock free knows that the holder is dead; one that finds it held watches the counter for
//! a lease: where it stands still the holder is frozen or cut off, and loses the store. Before each
//! decision the holder looks whether a higher epoch exists, and decides nothing more if so.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as Io, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use frameloom_core::{Error, Result};
use rustix::fs::{FlockOperation, OFlags, flock};

/// A store that is held.
#[derive(Debug)]
pub struct Epoch {
    dir: PathBuf,
    number: u64,
    file: File,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::io(format!("cannot use '{}'", path.display()), &e)
}

/// The epochs there are.
fn numbers(dir: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let name = entry.map_err(failed(dir))?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

/// The highest epoch there is; 0 where there is none.
fn highest(dir: &Path) -> Result<u64> {
    Ok(numbers(dir)?.into_iter().max().unwrap_or(0))
}

impl Epoch {
    /// Takes the store at `root`, once its last holder is known to be gone: at once where it is dead
    /// on this machine, after `lease` where it only does not move.
    ///
    /// # Errors
    /// Conflict where another server is at work on it; of the file system.
    pub fn take(root: &Path, lease: Duration, wait: &mut dyn FnMut(Duration)) -> Result<Self> {
        let dir = root.join("epoch");
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
        loop {
            let last = highest(&dir)?;
            if last > 0 && is_held(&dir.join(last.to_string()), lease, wait)? {
                return Err(Error::conflict(format!(
                    "another server is at work on '{}'; stop it first, or give another --data",
                    root.display()
                )));
            }
            let number = last.checked_add(1).ok_or_else(|| {
                let path = dir.join(last.to_string());
                Error::conflict(format!(
                    "'{}' is the last epoch there can be; remove it",
                    path.display()
                ))
            })?;
            let path = dir.join(number.to_string());
            let made = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
            let file = match made {
                Ok(file) => file,
                // Somebody else was faster: look at that one.
                Err(e) if e.kind() == Io::AlreadyExists => continue,
                Err(e) => return Err(failed(&path)(e)),
            };
            if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                tracing::warn!(%error, "the store has no locks; the counter alone tells");
            }
            file.sync_all().map_err(failed(&path))?;
            File::open(&dir).and_then(|dir| dir.sync_all()).map_err(failed(&dir))?;
            for old in numbers(&dir)?.into_iter().filter(|old| *old < number) {
                drop(fs::remove_file(dir.join(old.to_string())));
            }
            let epoch = Self { dir, number, file };
            epoch.check()?;
            return Ok(epoch);
        }
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Tells that the holder lives.
    ///
    /// # Errors
    /// Of the file system.
    pub fn beat(&self, counter: u64) -> Result<()> {
        self.file
            .write_all_at(&counter.to_le_bytes(), 0)
            .and_then(|()| (&self.file).flush())
            .map_err(failed(&self.dir))
    }

    /// Looks whether the store is still held.
    ///
    /// # Errors
    /// Unavailable where another server has taken it.
    pub fn check(&self) -> Result<()> {
        let now = highest(&self.dir)?;
        if now > self.number {
            return Err(Error::unavailable(format!(
                "another server has taken the store (epoch {now} after {}); this one decides nothing more",
                self.number
            )));
        }
        Ok(())
    }
}

/// Whether the holder of an epoch lives.
fn is_held(path: &Path, lease: Duration, wait: &mut dyn FnMut(Duration)) -> Result<bool> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()).unwrap_or(0);
    let open = || File::options().read(true).custom_flags(flags).open(path);
    let Ok(file) = open() else { return Ok(false) };
    // Nobody holds what is no file.
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    if !is_file || flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(false);
    }
    let counter = || {
        let mut bytes = Vec::new();
        let read = open().and_then(|file| file.take(8).read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(failed(path))
    };
    let before = counter()?;
    let step = Duration::from_millis(250);
    let mut waited = Duration::ZERO;
    while waited < lease {
        wait(step);
        waited += step;
        if counter()? != before {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::ErrorKind;

    const LEASE: Duration = Duration::from_secs(2);

    #[test]
    fn what_is_no_epoch_is_waited_for_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let epochs = dir.path().join("epoch");
        fs::create_dir(&epochs).unwrap();
        let wait = &mut |_| panic!("no need to wait");
        let pipe = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, epochs.join("7"), pipe, mode, 0).unwrap();
        assert_eq!(Epoch::take(dir.path(), LEASE, wait).unwrap().number(), 8);
        // One that is far ahead costs no look at all that might lie between.
        fs::write(epochs.join((u64::MAX - 1).to_string()), "").unwrap();
        assert_eq!(Epoch::take(dir.path(), LEASE, wait).unwrap().number(), u64::MAX);
        assert_eq!(fs::read_dir(&epochs).unwrap().count(), 1);
        let error = Epoch::take(dir.path(), LEASE, wait).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.message().contains("/18446744073709551615' is the last"), "{error}");
    }

    #[test]
    fn a_dead_holder_is_followed_at_once_and_a_frozen_one_after_a_lease() {
        let dir = tempfile::tempdir().unwrap();
        let first = Epoch::take(dir.path(), LEASE, &mut |_| panic!("no need to wait")).unwrap();
        assert_eq!(first.number(), 1);
        // It lives: its counter moves while the other one watches.
        let mut counter = 0;
        let refused = Epoch::take(dir.path(), LEASE, &mut |_| {
            counter += 1;
            first.beat(counter).unwrap();
        });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
        first.check().unwrap();
        // It is frozen: its lock is held, and its counter stands still.
        let mut waited = Duration::ZERO;
        let second = Epoch::take(dir.path(), LEASE, &mut |time| waited += time).unwrap();
        assert_eq!(waited, LEASE);
        assert_eq!(first.check().unwrap_err().kind(), ErrorKind::Unavailable);
        second.check().unwrap();
        drop(second);
        let third = Epoch::take(dir.path(), LEASE, &mut |_| panic!("no need to wait")).unwrap();
        assert_eq!(third.number(), 3);
    }
}
