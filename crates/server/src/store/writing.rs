//! Writing beneath the root, over no link. Whoever works on a store can put a link, a pipe or a directory where the server is
//! about to write: what is there is replaced or refused, and never followed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use frameloom_core::wire::Decision;
use frameloom_core::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::frames::MODE;
use super::view::not_stale;
use super::{JobDir, Store, io};
use crate::journal::{self, Journal};

/// How a file is made that is not there yet.
const FRESH: OFlags = OFlags::RDWR
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Where what is about to be removed goes.
const TRASH: &str = "trash";

/// How often what is in the way is removed.
const TRIES: u32 = 3;

/// What was opened, where it is a regular file.
pub(super) fn regular(file: File, relative: &Path) -> Result<File> {
    let meta = file.metadata().map_err(io(format!("cannot read '{}'", relative.display())))?;
    if meta.is_file() { Ok(file) } else { Err(not_regular(relative)) }
}

/// The error of what is no regular file.
pub(super) fn not_regular(relative: &Path) -> Error {
    let relative = relative.display();
    Error::internal(format!("cannot read '{relative}' in the store: it is not a regular file"))
}

impl Store {
    /// The directory of a file, opened anew, and its name there.
    fn place<'p>(&self, relative: &'p Path) -> rustix::io::Result<(OwnedFd, &'p OsStr)> {
        let name = relative.file_name().ok_or(Errno::INVAL)?;
        let parent = relative.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok((self.directory(parent.unwrap_or(Path::new(".")))?, name))
    }

    /// Makes a file that is not there yet.
    pub(super) fn create_new(&self, relative: &Path) -> rustix::io::Result<File> {
        not_stale(|| {
            let (dir, name) = self.place(relative)?;
            rustix::fs::openat(&dir, name, FRESH, MODE).map(File::from)
        })
    }

    /// Makes a file; what a crash or somebody else has left under its name goes.
    pub(super) fn create_anew(&self, relative: &Path) -> rustix::io::Result<File> {
        for _ in 0..TRIES {
            match self.create_new(relative) {
                Err(Errno::EXIST) => self.discard(relative)?,
                made => return made,
            }
        }
        Err(Errno::EXIST)
    }

    /// Opens a regular file to write to it, and makes it where it is not there.
    pub(super) fn open_to_write(&self, relative: &Path, flags: OFlags) -> Result<File> {
        let flags = flags | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = not_stale(|| {
            let (dir, name) = self.place(relative)?;
            rustix::fs::openat(&dir, name, flags, MODE)
        });
        match opened {
            Ok(opened) => {
                let file = regular(File::from(opened), relative)?;
                // Nothing that is written to has two names, or it is somebody else's, too.
                let alone = file.metadata().is_ok_and(|meta| meta.nlink() <= 1);
                if alone { Ok(file) } else { Err(not_regular(relative)) }
            }
            // A link, a pipe that nobody reads or a socket, a directory.
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => Err(not_regular(relative)),
            Err(e) => Err(io(format!("cannot write '{}'", relative.display()))(e.into())),
        }
    }

    /// Renames what is beneath the root, whatever has the new name.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> rustix::io::Result<()> {
        let rename = || {
            let ((old, from), (new, to)) = (self.place(from)?, self.place(to)?);
            rustix::fs::renameat(&old, from, &new, to)
        };
        match not_stale(rename) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                self.discard(to)?;
                not_stale(rename)
            }
            renamed => renamed,
        }
    }

    /// Has the names in a directory be on the disk.
    pub(super) fn sync(&self, directory: &Path) -> std::io::Result<()> {
        File::from(self.directory(directory)?).sync_all()
    }

    /// Gives a file a second name.
    pub(super) fn link(&self, from: &Path, to: &Path) -> rustix::io::Result<()> {
        let ((old, from), (new, to)) = (self.place(from)?, self.place(to)?);
        rustix::fs::linkat(&old, from, &new, to, AtFlags::empty())
    }

    /// Removes a file, or a link; no directory.
    pub(super) fn unlink(&self, relative: &Path) -> rustix::io::Result<()> {
        not_stale(|| {
            let (dir, name) = self.place(relative)?;
            rustix::fs::unlinkat(&dir, name, AtFlags::empty())
        })
    }

    /// Removes what has a name: a link as a link, and a directory into the trash, for it may hold anything.
    pub(super) fn discard(&self, relative: &Path) -> rustix::io::Result<()> {
        not_stale(|| {
            let (dir, name) = self.place(relative)?;
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Err(Errno::NOENT) => Ok(()),
                // A directory. Not every system says so in the same way.
                Err(Errno::ISDIR | Errno::PERM) => self.to_trash(&dir, name).map(drop),
                done => done,
            }
        })
    }

    /// Renames what is in a directory into the trash, under a name that nothing has there; answers it.
    fn to_trash(&self, dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<String> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let trash = self.directory(Path::new(TRASH))?;
        loop {
            // Processes' ids begin anew in each container, and what could not be removed stays there.
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let away = format!("{}.{number}", std::process::id());
            match rustix::fs::renameat(dir, name, &trash, &away) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => {}
                renamed => return renamed.map(|()| away),
            }
        }
    }

    /// Removes what has a name and all that it holds, nothing where it is gone. It is out of the way at once, by its way into
    /// the trash; what cannot be removed from there now is told, and is when the next server begins.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn away(&self, relative: &Path) -> Result<()> {
        let moved = not_stale(|| {
            let (dir, name) = self.place(relative)?;
            self.to_trash(&dir, name)
        });
        match moved {
            Ok(name) => self.wipe(Path::new(TRASH), OsStr::new(&name)),
            Err(Errno::NOENT) => {}
            // A part of the store on a file system of its own.
            Err(Errno::XDEV) => {
                let (parent, name) = (relative.parent(), relative.file_name());
                self.wipe(parent.unwrap_or(Path::new(".")), name.unwrap_or_default());
            }
            Err(e) => {
                let path = self.root.join(relative);
                return Err(io(format!("cannot remove '{}'", path.display()))(e.into()));
            }
        }
        Ok(())
    }

    /// Removes what a directory holds under a name, over no link; what cannot be removed is told and left.
    pub(super) fn wipe(&self, directory: &Path, name: &OsStr) {
        let wipe = || -> std::io::Result<()> {
            let dir = self.directory(directory)?;
            match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {}
                done => return Ok(done?),
            }
            // By way of the descriptor, so that the directory's own path is not gone over once more.
            let held = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            std::fs::remove_dir_all(held.join(name))
        };
        match wipe() {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let name = name.to_string_lossy();
                tracing::warn!(%error, dir = %directory.display(), name = %name.escape_debug(), "this is left");
            }
            _ => {}
        }
    }

    /// The names of what is in a directory; none where it is no directory.
    pub(super) fn listed(&self, directory: &Path) -> Vec<OsString> {
        let names = not_stale(|| self.names(directory)).unwrap_or_default();
        let names = names.iter().filter(|name| !matches!(name.as_slice(), b"." | b".."));
        names.map(|name| OsStr::from_bytes(name).to_owned()).collect()
    }

    /// Makes a directory of the server's own; a link or whatever else is in its place goes.
    pub(super) fn make_place(&self, name: &str) -> rustix::io::Result<()> {
        match self.directory(Path::new(name)) {
            Err(Errno::LOOP | Errno::NOTDIR) => {
                tracing::warn!(name, "this was no directory, and is made anew");
                rustix::fs::unlinkat(&self.handle, name, AtFlags::empty())?;
            }
            Err(Errno::NOENT) => {}
            found => return found.map(drop),
        }
        let mode = Mode::from_raw_mode(0o777);
        match rustix::fs::mkdirat(&self.handle, name, mode) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }

    /// Removes what is in a directory but for what `keep` wants; what cannot be removed is told and left.
    pub(super) fn clear(&self, relative: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
        let names = not_stale(|| self.names(relative))
            .map_err(|e| io(format!("cannot tidy '{}'", relative.display()))(e.into()))?;
        for name in names {
            let shown = String::from_utf8_lossy(&name);
            if matches!(&*shown, "." | "..") || keep(&shown) {
                continue;
            }
            if let Err(error) = self.discard(&relative.join(OsStr::from_bytes(&name))) {
                tracing::warn!(%error, dir = %relative.display(), name = %shown.escape_debug(), "this is left");
            }
        }
        Ok(())
    }
}

impl JobDir<'_> {
    /// Opens the job's journal, or begins one, and reads what was decided.
    ///
    /// # Errors
    /// Internal where something else than a file is there; of the file system.
    pub fn open_journal(&self) -> Result<(Journal, Vec<Decision>)> {
        let relative = self.relative.join("journal");
        Journal::of(self.store.open_to_write(&relative, OFlags::RDWR)?)
    }

    /// What was decided about the job; nothing where it has no journal.
    ///
    /// # Errors
    /// As [`JobDir::open_journal`].
    pub fn decisions(&self) -> Result<Vec<Decision>> {
        let file = self.store.open_file(&self.relative.join("journal"))?;
        let read = file.map(journal::read_from).transpose();
        Ok(read.map_err(io("cannot read a journal"))?.map_or_else(Vec::new, |read| read.0))
    }

    /// Opens a source that was sent along; `None` where it is gone, or not whole yet.
    ///
    /// # Errors
    /// Internal where something else than a file is there; of the file system.
    pub fn open_source(&self) -> Result<Option<File>> {
        self.store.open_file(&self.relative.join("source"))
    }

    /// Opens a file within the job's directory for the server alone, to append to it.
    ///
    /// # Errors
    /// Internal where something else than a file is there; of the file system.
    pub fn append_to(&self, name: &str) -> Result<File> {
        self.store.open_to_write(&self.relative.join(name), OFlags::WRONLY | OFlags::APPEND)
    }

    /// Opens what a job has made, where it is still the file of so many bytes that was accepted.
    ///
    /// # Errors
    /// Internal where it is not; of the file system.
    pub fn open_made(&self, made: &Path, size: u64) -> Result<File> {
        let relative = made.strip_prefix(&self.store.root).unwrap_or(made);
        let file = self.store.open_file(relative)?;
        let is = |file: &File| file.metadata().is_ok_and(|meta| meta.len() == size);
        file.filter(is).ok_or_else(|| {
            let name = relative.display();
            Error::internal(format!("'{name}' of {size} bytes is not in the store any more"))
        })
    }

    /// Keeps the content of a file, at most `most` bytes, under a name of the job's.
    pub(super) fn keep(&self, name: &str, mut from: &File, most: u64) -> std::io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (path, part) =
            (self.relative.join(name), self.relative.join(format!("{name}.{number}.tmp")));
        from.rewind()?;
        let mut file = self.store.create_anew(&part)?;
        std::io::copy(&mut from.take(most), &mut file)?;
        Ok(self.store.rename(&part, &path)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use frameloom_core::id::{AttemptId, JobId};

    use super::*;

    /// A store, a job's place in it, and a file outside that nobody may touch.
    fn place() -> (tempfile::TempDir, Store, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let job = store.job(JobId::from_bits(1));
        for part in ["claims", "cancelled", "previews", "inbox", "results"] {
            fs::create_dir_all(job.path().join(part)).unwrap();
        }
        let outside = dir.path().join("outside");
        fs::write(&outside, "precious").unwrap();
        (dir, store, outside)
    }

    #[test]
    fn a_link_in_the_way_is_replaced_and_what_it_leads_to_stays() {
        let (_dir, store, outside) = place();
        let job = store.job(JobId::from_bits(1));
        let attempt = AttemptId::from_bits(2);
        for name in ["metrics.tmp", "previews/latest"] {
            symlink(&outside, job.path().join(name)).unwrap();
        }
        fs::create_dir_all(job.path().join("metrics.json/full")).unwrap();
        symlink(&outside, job.path().join("previews").join(format!("latest.{attempt}.tmp")))
            .unwrap();
        symlink(&outside, job.path().join("cancelled").join(attempt.to_string())).unwrap();
        let relative = job.relative.join("metrics.json");
        store.write_json(&relative, &7, true).unwrap();
        assert_eq!(store.read_json::<u32>(&relative, 9).unwrap(), Some(7));
        job.write_preview(attempt, b"\xff\xd8a", b"\xff\xd8b").unwrap();
        assert_eq!(job.read_preview(true).unwrap().unwrap(), b"\xff\xd8b");
        job.cancel(attempt).unwrap();
        assert!(job.is_cancelled(attempt));
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
        assert_eq!(fs::read_dir(job.path().join("previews")).unwrap().count(), 1);
    }

    #[test]
    fn uploads_and_journals_go_through_no_link_and_wait_for_no_pipe() {
        let (_dir, store, outside) = place();
        let job = store.job(JobId::from_bits(1));
        for name in ["journal", "source.part", "source"] {
            let path = job.path().join(name);
            let open = || match name {
                "journal" => job.open_journal().map(drop),
                "source.part" => job.open_upload().map(drop),
                _ => job.open_source().map(drop),
            };
            for what in ["link", "pipe", "directory", "hard link"] {
                if what == "hard link" && name == "source" {
                    // It is read only.
                    continue;
                }
                match what {
                    "link" => symlink(&outside, &path).unwrap(),
                    "hard link" => fs::hard_link(&outside, &path).unwrap(),
                    "pipe" => rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &path,
                        rustix::fs::FileType::Fifo,
                        MODE,
                        0,
                    )
                    .unwrap(),
                    _ => fs::create_dir(&path).unwrap(),
                }
                let error = open().unwrap_err();
                assert!(error.message().contains("not a regular file"), "{name} {what}: {error}");
                store.discard(&job.relative.join(name)).unwrap();
            }
        }
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
        job.open_upload().unwrap().write_all(b"abc").unwrap();
        job.finish_upload().unwrap();
        assert_eq!(std::io::read_to_string(job.open_source().unwrap().unwrap()).unwrap(), "abc");
    }

    #[test]
    fn tidying_bears_directories_and_leaves_what_links_lead_to() {
        let (dir, store, outside) = place();
        let job = store.job(JobId::from_bits(1));
        let results = job.path().join("results");
        fs::create_dir_all(results.join("full/of/files")).unwrap();
        symlink(&outside, results.join("link")).unwrap();
        fs::write(results.join("kept"), "").unwrap();
        job.sweep(&[], |name| name == "kept").unwrap();
        assert_eq!(fs::read_dir(&results).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
        // What cannot be removed keeps no server from starting.
        let trash = dir.path().join("store/trash");
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 1);
        let files = dir.path().join("store/files");
        fs::create_dir_all(files.join("owner/x.part/full")).unwrap();
        fs::write(files.join("no-owner"), "").unwrap();
        store.tidy();
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
        assert!(!files.join("owner/x.part").exists() && files.join("no-owner").exists());
    }

    #[test]
    fn a_link_in_place_of_a_directory_that_is_tidied_costs_nothing_elsewhere() {
        for name in ["trash", "frames", "nodes", "files"] {
            let (dir, store, _) = place();
            let elsewhere = dir.path().join("elsewhere");
            fs::create_dir_all(elsewhere.join("home/papers")).unwrap();
            fs::create_dir(elsewhere.join(JobId::from_bits(7).to_string())).unwrap();
            for name in ["letter", "home/letter", "home/letter.part"] {
                fs::write(elsewhere.join(name), "precious").unwrap();
            }
            let all = || walk(&elsewhere);
            let before = all();
            let place = store.root().join(name);
            drop(fs::remove_dir_all(&place));
            symlink(&elsewhere, &place).unwrap();
            store.tidy();
            store.drop_unused_files(i64::MAX);
            store.forget_node(frameloom_core::id::NodeId::from_bits(7));
            assert_eq!(all(), before, "{name}");
            // The next server makes it anew.
            let store = Store::open(store.root()).unwrap();
            store.tidy();
            assert_eq!(all(), before, "{name}");
            assert!(name == "files" || !place.is_symlink(), "{name}");
            store.remove(JobId::from_bits(1)).unwrap();
            assert!(store.jobs().unwrap().is_empty());
        }
    }

    /// How many files and directories there are.
    fn walk(at: &Path) -> usize {
        let entries = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| 1 + if path.is_dir() { walk(&path) } else { 0 }).sum()
    }

    #[test]
    fn what_is_removed_finds_a_place_in_the_trash_whatever_lies_there() {
        let (_dir, store, _) = place();
        let id = JobId::from_bits(1);
        fs::write(store.root().join("trash").join(id.to_string()), "").unwrap();
        fs::create_dir_all(store.root().join(format!("trash/{id}.frames/full"))).unwrap();
        let frames = store.frames(id);
        frames.make().unwrap();
        frames.drop_all().unwrap();
        store.remove(id).unwrap();
        assert!(frames.is_gone() && store.jobs().unwrap().is_empty());
    }

    #[test]
    fn what_is_handed_out_can_be_again_with_links_and_without() {
        for linked in [true, false] {
            let (_dir, store, _) = place();
            let job = store.job(JobId::from_bits(1));
            let results = job.path().join("results");
            let [output, lines] = ["output.1", "output.1.frames"].map(|name| results.join(name));
            fs::write(&output, "video").unwrap();
            fs::write(&lines, "lines").unwrap();
            for _ in 0..2 {
                job.publish_output(&output, Some(&lines), None).unwrap();
                if !linked {
                    // As renaming leaves it.
                    drop((fs::remove_file(&output), fs::remove_file(&lines)));
                }
            }
            for (name, content) in [("output", "video"), ("frames.jsonl", "lines")] {
                let file = job.open_for_client(name).unwrap().unwrap();
                assert_eq!(std::io::read_to_string(file).unwrap(), content, "{name}");
                assert!(!job.path().join(format!("{name}.new")).exists());
            }
            fs::remove_file(job.path().join("output")).unwrap();
            assert_eq!(job.publish_output(&output, None, None).is_ok(), linked);
        }
    }
}
