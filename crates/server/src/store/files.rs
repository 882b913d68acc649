//! Files that filters take: those in the operator's catalogue, those that clients have sent, and a
//! job's own.
//!
//! ```text
//! catalogue/NAME                      put there by the operator
//! files/OWNER/SHA256                  sent by a client, until a day has passed without use
//! jobs/ID/files/SHA256                a job's own: a link to, or a copy of, one of these
//! ```

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as Io, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use frameloom_core::fingerprint::hex;
use frameloom_core::{Error, Result};
use rustix::fs::{AtFlags, OFlags, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{JobDir, Store, io};

/// What the name of a file ends with that has not come whole.
const PART: &str = ".part";

/// SHA-256 of a file's content, hexadecimal.
///
/// # Errors
/// Of the file system.
pub fn sha256_of(mut file: &File) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    file.rewind()?;
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => hash.update(&piece[..count]),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Whether a text is a SHA-256 as it names files: 64 hexadecimal digits in lower case.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a name is one that the catalogue can hold: plain, and not hidden.
fn is_plain(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains('/')
        && !name.chars().any(char::is_control)
}

impl Store {
    /// Names in the operator's catalogue, sorted: of regular files alone.
    ///
    /// # Errors
    /// Of the file system.
    pub fn catalogue(&self) -> Result<Vec<String>> {
        let path = self.root.join("catalogue");
        let what = || io(format!("cannot read '{}'", path.display()));
        let entries = match fs::read_dir(&path) {
            Err(e) if e.kind() == Io::NotFound => return Ok(Vec::new()),
            other => other.map_err(what())?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(what())?;
            let regular = entry.file_type().map_err(what())?.is_file();
            names.extend(entry.file_name().into_string().ok().filter(|n| regular && is_plain(n)));
        }
        names.sort();
        Ok(names)
    }

    /// Opens a file of the operator's catalogue; `None` where it holds no regular file of this name.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open_catalogue(&self, name: &str) -> Result<Option<File>> {
        if !is_plain(name) {
            return Ok(None);
        }
        let relative = Path::new("catalogue").join(name);
        let what = || io(format!("cannot read '{name}' in the catalogue"));
        match self.beneath(&relative, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(descriptor) => {
                let file = File::from(descriptor);
                let regular = file.metadata().map_err(what())?.is_file();
                Ok(regular.then_some(file))
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(e) => Err(what()(e.into())),
        }
    }

    /// The files that a client has sent.
    pub fn sent_by(&self, owner: &str) -> SentFiles<'_> {
        // An owner's name may hold anything.
        let name = hex(&Sha256::digest(owner.as_bytes())[..16]);
        SentFiles { store: self, relative: PathBuf::from("files").join(name) }
    }

    /// Removes files that clients have sent and that are `done` with; what cannot be removed is told and left.
    fn drop_sent(&self, done: impl Fn(&OsStr, &Stat) -> bool) {
        let files = Path::new("files");
        for owner in self.listed(files) {
            let place = files.join(owner);
            // Nothing else than directories belongs there, and what does not is left.
            let Ok(dir) = self.directory(&place) else { continue };
            for name in self.listed(&place) {
                let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW);
                if stat.is_ok_and(|stat| done(&name, &stat)) {
                    self.wipe(&place, &name);
                }
            }
        }
    }

    /// Removes files that came in part: whoever sent them has gone with an earlier server.
    pub(super) fn drop_partial_files(&self) {
        self.drop_sent(|name, _| name.to_string_lossy().ends_with(PART));
    }

    /// Removes files whose last use, by the file system's clock, lies before `unix_seconds`.
    pub fn drop_unused_files(&self, unix_seconds: i64) {
        self.drop_sent(|_, stat| stat.st_mtime < unix_seconds);
    }
}

/// The files that one client has sent.
#[derive(Debug)]
pub struct SentFiles<'a> {
    store: &'a Store,
    relative: PathBuf,
}

/// A file that is being sent: it is gone unless it is kept.
#[derive(Debug)]
pub struct Sending {
    temporary: PathBuf,
    kept: bool,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.kept {
            // It is of no use, and the next server would remove it.
            drop(fs::remove_file(&self.temporary));
        }
    }
}

/// A file that a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentFile {
    /// SHA-256 of its content.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was last used, in seconds since 1970.
    pub used: i64,
}

impl SentFiles<'_> {
    fn path(&self) -> PathBuf {
        self.store.root.join(&self.relative)
    }

    /// Size of the file with this content, where it has come; it counts as used.
    ///
    /// # Errors
    /// Of the file system.
    pub fn find(&self, sha256: &str) -> Result<Option<u64>> {
        let Some(file) = self.open(sha256)? else { return Ok(None) };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let used = Timestamps { last_access: now, last_modification: now };
        rustix::fs::futimens(&file, &used)
            .map_err(|e| Error::io("cannot keep a file", &e.into()))?;
        Ok(Some(file.metadata().map_err(io("cannot read a file"))?.len()))
    }

    /// Opens the file with this content, where it has come.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(&self, sha256: &str) -> Result<Option<File>> {
        if !is_sha256(sha256) {
            return Ok(None);
        }
        self.store.open_file(&self.relative.join(sha256))
    }

    /// All that have come, those in part as well, which have no SHA-256 for a name.
    ///
    /// # Errors
    /// Of the file system.
    pub fn list(&self) -> Result<Vec<SentFile>> {
        let path = self.path();
        let what = || io(format!("cannot read '{}'", path.display()));
        let entries = match fs::read_dir(&path) {
            Err(e) if e.kind() == Io::NotFound => return Ok(Vec::new()),
            other => other.map_err(what())?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(what())?;
            match entry.metadata() {
                Ok(meta) => files.push(SentFile {
                    sha256: entry.file_name().to_string_lossy().into_owned(),
                    size: meta.len(),
                    used: meta.mtime(),
                }),
                Err(e) if e.kind() == Io::NotFound => {}
                Err(e) => return Err(what()(e)),
            }
        }
        files.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        Ok(files)
    }

    /// A new file for what is about to come.
    ///
    /// # Errors
    /// Of the file system.
    pub fn begin(&self, sha256: &str) -> Result<(File, Sending)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = self.path().join(format!("{sha256}.{number}{PART}"));
        let what = format!("cannot make '{}'", temporary.display());
        fs::create_dir_all(self.path()).map_err(io(&what))?;
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        Ok((file.map_err(io(what))?, Sending { temporary, kept: false }))
    }

    /// What has come is whole, and its content is that of `sha256`.
    ///
    /// # Errors
    /// Of the file system.
    pub fn keep(&self, sha256: &str, file: &File, mut sending: Sending) -> Result<()> {
        let to = self.path().join(sha256);
        file.sync_data()
            .and_then(|()| fs::rename(&sending.temporary, &to))
            .map_err(io(format!("cannot keep '{}'", to.display())))?;
        sending.kept = true;
        Ok(())
    }

    /// Removes a file; jobs keep theirs. Answers whether there was one.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove(&self, sha256: &str) -> Result<bool> {
        if !is_sha256(sha256) {
            return Ok(false);
        }
        match fs::remove_file(self.path().join(sha256)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == Io::NotFound => Ok(false),
            Err(e) => Err(Error::io("cannot remove a file", &e)),
        }
    }
}

impl JobDir<'_> {
    /// Gives the job a copy of a file that one of its filters takes by this name.
    ///
    /// # Errors
    /// Conflict where its content is not that of `sha256`; of the file system.
    pub fn attach(&self, name: &str, mut from: &File, sha256: &str) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(format!("cannot keep '{name}'"), &e);
        let to = self.relative.join("files").join(sha256);
        let temporary = to.with_extension("tmp");
        let mut copy = self.store.create_anew(&temporary).map_err(|e| failed(e.into()))?;
        from.rewind().and_then(|()| std::io::copy(&mut from, &mut copy)).map_err(failed)?;
        if sha256_of(&copy).map_err(failed)? != sha256 {
            return Err(Error::conflict(format!("'{name}' has just changed; try again")));
        }
        copy.sync_data().and_then(|()| Ok(self.store.rename(&temporary, &to)?)).map_err(failed)
    }

    /// Gives the job a file that its owner has sent: a link to it, where the file system has links.
    ///
    /// # Errors
    /// As [`JobDir::attach`]; NotFound where it has gone.
    pub fn attach_sent(&self, name: &str, sent: &SentFiles<'_>, sha256: &str) -> Result<()> {
        let file = sent.open(sha256)?;
        let file = file.ok_or_else(|| Error::not_found(format!("file '{name}' has gone")))?;
        if fs::hard_link(sent.path().join(sha256), self.attached(sha256)).is_ok() {
            return Ok(());
        }
        self.attach(name, &file, sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_holds_plain_names_of_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.catalogue().unwrap(), Vec::<String>::new());
        let catalogue = dir.path().join("catalogue");
        fs::create_dir_all(catalogue.join("folder")).unwrap();
        fs::write(catalogue.join("b.onnx"), "b").unwrap();
        fs::write(catalogue.join("a.txt"), "a").unwrap();
        fs::write(catalogue.join(".hidden"), "h").unwrap();
        fs::write(dir.path().join("outside"), "o").unwrap();
        std::os::unix::fs::symlink("../outside", catalogue.join("link")).unwrap();
        assert_eq!(store.catalogue().unwrap(), ["a.txt", "b.onnx"]);
        for name in ["folder", "link", ".hidden", "../outside", "none", "", "folder/x"] {
            assert!(store.open_catalogue(name).unwrap().is_none(), "{name}");
        }
        let file = store.open_catalogue("b.onnx").unwrap().unwrap();
        assert_eq!(sha256_of(&file).unwrap(), hex(&Sha256::digest(b"b")));
    }

    #[test]
    fn what_is_sent_belongs_to_its_owner_and_goes_when_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (mine, theirs) = (store.sent_by("me"), store.sent_by("../them"));
        let sha256 = hex(&Sha256::digest(b"content"));
        let (mut file, sending) = mine.begin(&sha256).unwrap();
        std::io::Write::write_all(&mut file, b"content").unwrap();
        assert_eq!(mine.find(&sha256).unwrap(), None, "it has not come whole");
        mine.keep(&sha256, &file, sending).unwrap();
        assert_eq!(mine.find(&sha256).unwrap(), Some(7));
        assert_eq!(theirs.find(&sha256).unwrap(), None);
        // One that is given up leaves nothing; one whose server died is removed by the next.
        drop(mine.begin(&sha256).unwrap());
        let (_, left) = theirs.begin(&sha256).unwrap();
        std::mem::forget(left);
        assert_eq!((mine.list().unwrap().len(), theirs.list().unwrap().len()), (1, 1));
        store.tidy();
        assert_eq!((mine.list().unwrap().len(), theirs.list().unwrap().len()), (1, 0));
        let used = mine.list().unwrap()[0].used;
        store.drop_unused_files(used);
        assert_eq!(mine.find(&sha256).unwrap(), Some(7));
        store.drop_unused_files(used + 100);
        assert_eq!(mine.find(&sha256).unwrap(), None);
    }
}
