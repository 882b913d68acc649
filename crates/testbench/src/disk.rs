//! The store's disk, which can be filled, and the views of it that hosts have, which can be made slow.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use frameloom_core::{Error, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::net::program;
use crate::part::signal;
use crate::{call, pause};

/// How long a slow view stands still, and how long it answers then.
const STILL: Duration = Duration::from_millis(2_000);
const ANSWERS: Duration = Duration::from_millis(60);

/// How long a view may take to appear.
const APPEARS_WITHIN: Duration = Duration::from_secs(20);

/// A small disk in memory.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of `mib` MiB at `place`, which is made.
    ///
    /// # Errors
    /// Of the system.
    pub fn mount(place: PathBuf, mib: u32) -> Result<Self> {
        make_dir(&place)?;
        let size = format!("size={mib}m");
        call(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "disk"]).arg(&place))?;
        Ok(Self(place))
    }

    /// Where it lies; this sees at once what is there.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all the room there is, to the last byte, beside what it has taken before.
    ///
    /// # Errors
    /// Of the system.
    pub fn fill(&self) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("cannot fill the disk", &e);
        let path = self.filler();
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let room = statvfs(&self.0).map_err(|e| failed(e.into()))?;
        let taken = file.metadata().map_err(failed)?.len();
        let free = room.f_bavail * room.f_frsize;
        // Others write meanwhile: then less is taken, and the rest by the byte.
        let flags = FallocateFlags::empty();
        let most = free.saturating_sub(64 << 10);
        if most > 0 {
            match fallocate(&file, flags, taken, most) {
                Ok(()) | Err(Errno::NOSPC) => {}
                Err(e) => return Err(failed(e.into())),
            }
        }
        for size in [4096, 1] {
            let part = vec![1; size];
            while file.write_all(&part).is_ok() {}
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// Of the system.
    pub fn empty(&self) -> Result<()> {
        match fs::remove_file(self.filler()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("cannot empty the disk", &e))
            }
            _ => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still has a file open keeps it for itself.
        drop(call(Command::new("umount").arg("-l").arg(&self.0)));
    }
}

/// A host's view of a disk, by FUSE.
#[derive(Debug)]
pub struct View {
    place: PathBuf,
    child: Child,
    /// Whether it stands still or answers, and since when, where it is slow or cut off.
    slow: Option<(bool, Instant)>,
}

impl View {
    /// Shows `disk` at `place`, which is made. A `late` one remembers for half a minute what was not there and what was, as
    /// clients of NFS do.
    ///
    /// # Errors
    /// Of the system.
    pub fn of(disk: &Disk, place: PathBuf, late: bool) -> Result<Self> {
        make_dir(&place)?;
        let mut command = program("bindfs");
        command.args(["-f", "--no-allow-other"]);
        if late {
            command.args(["-o", "negative_timeout=30,entry_timeout=30,attr_timeout=30"]);
        }
        let log = File::create(place.with_extension("log"))
            .map_err(|e| Error::io("cannot make a log", &e))?;
        let child = command
            .arg(disk.path())
            .arg(&place)
            .stderr(log)
            .spawn()
            .map_err(|e| Error::io("bindfs is needed: scripts/setup.sh test", &e))?;
        let view = Self { place, child, slow: None };
        let mark = disk.path().join("shown");
        fs::write(&mark, "").map_err(|e| Error::io("cannot write to the disk", &e))?;
        let end = Instant::now() + APPEARS_WITHIN;
        // A name that was never looked for cannot be remembered as absent.
        while fs::read_dir(&view.place).map_or(0, Iterator::count) == 0 {
            if Instant::now() > end {
                let shown = view.place.display();
                return Err(Error::unavailable(format!("bindfs does not show {shown}")));
            }
            pause(Duration::from_millis(10));
        }
        fs::remove_file(&mark).map_err(|e| Error::io("cannot write to the disk", &e))?;
        Ok(view)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Has it stand still, and answer for a moment once in a while, until [`View::mend`]. To be called again and again.
    pub fn slow(&mut self) {
        let now = Instant::now();
        let due = match self.slow {
            None => Some(true),
            Some((true, since)) if now - since >= STILL => Some(false),
            Some((false, since)) if now - since >= ANSWERS => Some(true),
            Some(_) => None,
        };
        if let Some(still) = due {
            signal(self.child.id(), if still { Signal::STOP } else { Signal::CONT });
            self.slow = Some((still, now));
        }
    }

    /// Has it stand still until [`View::mend`].
    pub fn cut(&mut self) {
        signal(self.child.id(), Signal::STOP);
        self.slow = Some((true, Instant::now()));
    }

    /// Has it answer as ever.
    pub fn mend(&mut self) {
        if self.slow.take().is_some() {
            signal(self.child.id(), Signal::CONT);
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.mend();
        drop(call(Command::new("umount").arg("-l").arg(&self.place)));
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Makes a directory.
///
/// # Errors
/// Of the file system.
pub fn make_dir(path: &Path) -> Result<()> {
    let what = || format!("cannot make '{}'", path.display());
    fs::create_dir_all(path).map_err(|e| Error::io(what(), &e))
}
