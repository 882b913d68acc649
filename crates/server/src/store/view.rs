//! What a node sees of a store that other machines change.
//!
//! A network file system may remember for a minute that a name was not there, and hands out handles of what
//! another machine has removed (ESTALE). So there a name is looked for by reading its directory, opened anew,
//! and only one that is listed is opened; and what is stale is tried again, from the root.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Store;

/// How often what is stale is tried again.
const TRIES: u32 = 5;

/// How long a directory's names are believed.
const BELIEVED: Duration = Duration::from_millis(20);

/// Directories whose names are kept at most.
const MOST_KEPT: usize = 256;

/// File systems of one machine, by the numbers that Linux has for them: ext, XFS, Btrfs, tmpfs, ramfs,
/// overlay, F2FS, bcachefs, ZFS, JFS.
const LOCAL: [u32; 10] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x3153_464a,
];

/// What is remembered of the names in directories.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Whether `frames/`, whose names are looked for often, is on a file system of this machine alone.
    local: OnceLock<bool>,
    listed: Mutex<BTreeMap<PathBuf, Listed>>,
}

#[derive(Debug)]
struct Listed {
    at: Instant,
    names: HashSet<Vec<u8>>,
}

/// Calls again what says that a handle is stale.
pub(super) fn not_stale<T>(
    mut call: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    let mut said = call();
    for _ in 1..TRIES {
        if !matches!(said, Err(Errno::STALE)) {
            break;
        }
        said = call();
    }
    said
}

impl Store {
    /// Opens something beneath the root, over no link.
    pub(super) fn beneath(&self, relative: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let (flags, mode) = (flags | OFlags::CLOEXEC, Mode::empty());
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.handle, relative, flags, mode, resolve) {
            Err(Errno::STALE) => {}
            opened => return opened,
        }
        not_stale(|| {
            // It may be the root itself.
            let root = File::open(&self.root)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            rustix::fs::openat2(&root, relative, flags, mode, resolve)
        })
    }

    fn is_local(&self) -> bool {
        *self.view.local.get_or_init(|| {
            let kind = self.directory(Path::new("frames")).and_then(rustix::fs::fstatfs);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the numbers have 32 bits"
            )]
            kind.is_ok_and(|kind| LOCAL.contains(&(kind.f_type as u32)))
        })
    }

    /// Whether a name that is looked for again and again is there now, or may be: who does not see it here
    /// need not try to open it, and must not where that would be remembered.
    pub(super) fn may_hold(&self, directory: &Path, name: &str) -> rustix::io::Result<bool> {
        if self.is_local() {
            return Ok(true);
        }
        let listed = || self.view.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = listed().get(directory).filter(|known| known.at.elapsed() < BELIEVED) {
            return Ok(known.names.contains(name.as_bytes()));
        }
        // Not under the lock: one directory that hangs must not stop the others.
        let names = match not_stale(|| self.names(directory)) {
            Err(Errno::NOENT) => return Ok(false),
            names => names?,
        };
        let there = names.contains(name.as_bytes());
        let mut listed = listed();
        if listed.len() >= MOST_KEPT {
            listed.clear();
        }
        listed.insert(directory.to_owned(), Listed { at: Instant::now(), names });
        Ok(there)
    }

    /// The names in a directory, opened anew.
    pub(super) fn names(&self, directory: &Path) -> rustix::io::Result<HashSet<Vec<u8>>> {
        let handle = self.directory(directory)?;
        let entries = rustix::fs::Dir::read_from(&handle)?;
        entries.map(|entry| Ok(entry?.file_name().to_bytes().to_vec())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stale_is_tried_again_and_not_for_ever() {
        let mut said = vec![Ok(7), Err(Errno::STALE), Err(Errno::STALE)];
        assert_eq!(not_stale(|| said.pop().unwrap()), Ok(7));
        let mut calls = 0;
        let always = not_stale(|| {
            calls += 1;
            Err::<(), _>(Errno::STALE)
        });
        assert_eq!((always, calls), (Err(Errno::STALE), TRIES));
        let mut calls = 0;
        let other = not_stale(|| {
            calls += 1;
            Err::<(), _>(Errno::NOENT)
        });
        assert_eq!((other, calls), (Err(Errno::NOENT), 1));
    }

    #[test]
    fn this_machines_file_systems_need_no_listing() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        assert!(store.is_local(), "the tests' own directory");
        assert_eq!(store.may_hold(Path::new("frames"), "nobody knows"), Ok(true));
    }
}
