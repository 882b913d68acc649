//! The store: a directory that the server and its nodes share.
//!
//! ```text
//! store.json                          which store this is
//! reserve                             room that is given up where the disk is full
//! nodes/NODE/info.json  beat          who a node is, and its signs of life
//! nodes/NODE.ask  NODE.answer         each other's files, tried when a node begins; in frames/, too
//! jobs/ID/job.json  journal           what was asked for; what was decided
//! jobs/ID/claims/ATTEMPT              made by a node, exclusively: it works on the attempt
//! jobs/ID/cancelled/ATTEMPT           made by the server: stop that attempt
//! jobs/ID/inbox/ATTEMPT.json          unread reports
//! jobs/ID/results/TASK.ATTEMPT[.frames]   what tasks made
//! jobs/ID/files/SHA256                files that its filters take
//! catalogue/  files/                  files that filters may take, see `files.rs`
//! frames/ID/                          frames that are tasks of their own, see FrameDir
//! trash/                              what is about to be removed
//! ```
//! Nodes only create files under names that nobody else uses, by writing a temporary and renaming
//! it; nothing is overwritten but beats. Files are opened beneath the root, without following links.

mod files;
mod frames;
mod holes;
mod job;
mod refused;
mod reserve;
mod strangers;
mod trial;
mod view;
mod writing;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind as Io, Read, Write};
use std::path::{Path, PathBuf};

use frameloom_core::id::{JobId, NodeId, StoreId};
use frameloom_core::wire::{Beat, NodeInfo};
use frameloom_core::{Error, Result};
use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use holes::is_mostly_holes;

pub use files::{SentFile, SentFiles, is_sha256, sha256_of};
pub use frames::FrameDir;
pub use job::{DETECTIONS, FRAMES, JobDir, MOST_PLAN, Pending, result_name};
pub use refused::{Refused, What};
pub use reserve::RESERVE;
pub use strangers::Coming;

/// Largest report, beat and job file that is read, in bytes.
const MOST_SMALL: u64 = 1 << 20;

/// A store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    handle: File,
    view: view::View,
    refused: Refused,
}

fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Error {
    move |e| Error::io(what, &e)
}

impl Store {
    /// Opens the store at `root`, making its directories where they are not there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(root: &Path) -> Result<Self> {
        let jobs = root.join("jobs");
        fs::create_dir_all(&jobs).map_err(io(format!("cannot make '{}'", jobs.display())))?;
        let store = Self::mounted(root)?;
        for part in ["nodes", "frames", "trash"] {
            let what = || format!("cannot make '{}'", root.join(part).display());
            store.make_place(part).map_err(|e| io(what())(e.into()))?;
        }
        Ok(store)
    }

    /// Opens a store that a server made, as a node sees it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn mounted(root: &Path) -> Result<Self> {
        let handle = File::open(root).map_err(io(format!("cannot open '{}'", root.display())))?;
        let (view, refused) = (view::View::default(), Refused::default());
        Ok(Self { root: root.to_owned(), handle, view, refused })
    }

    /// What was refused of what lies there.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a regular file beneath the root to read, following no link.
    fn open_file(&self, relative: &Path) -> Result<Option<File>> {
        match self.beneath(relative, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(descriptor) => writing::regular(File::from(descriptor), relative).map(Some),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            // A link, a socket, a device that is not there.
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO | rustix::io::Errno::NODEV) => {
                Err(writing::not_regular(relative))
            }
            Err(e) => {
                let what = format!("cannot read '{}' in the store", relative.display());
                Err(Error::io(what, &e.into()))
            }
        }
    }

    /// Whether a directory, opened anew, holds a name.
    fn holds(&self, directory: &Path, name: &str) -> rustix::io::Result<bool> {
        let look = |handle| rustix::fs::statat(handle, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        match view::not_stale(|| self.directory(directory).and_then(look)) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The same of a small directory whose names are looked for again and again: it is read, for a file system may remember
    /// for half a minute that a name was not there.
    fn lists(&self, directory: &Path, name: &str) -> rustix::io::Result<bool> {
        view::not_stale(|| {
            let handle = self.directory(directory)?;
            for entry in rustix::fs::Dir::read_from(&handle)? {
                if entry?.file_name().to_bytes() == name.as_bytes() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Reads a file of at most so many bytes.
    fn read_most(&self, relative: &Path, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(relative)? else { return Ok(None) };
        let mut text = Vec::new();
        let what = || format!("'{}' in the store", relative.display());
        file.take(most + 1).read_to_end(&mut text).map_err(io(what()))?;
        if text.len() as u64 > most {
            return Err(Error::internal(format!("{} exceeds {most} bytes", what())));
        }
        Ok(Some(text))
    }

    fn read_json<T: DeserializeOwned>(&self, relative: &Path, most: u64) -> Result<Option<T>> {
        let text = self.read_most(relative, most)?;
        text.map(|text| parsed(relative, &text)).transpose()
    }

    /// Writes a file under a fresh name: a temporary, then a rename.
    fn write_json<T: Serialize>(&self, relative: &Path, value: &T, durable: bool) -> Result<()> {
        let temporary = relative.with_extension("tmp");
        let what = format!("cannot write '{}'", self.root.join(relative).display());
        let text = serde_json::to_vec(value)
            .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
        let write = || -> std::io::Result<()> {
            let mut file = self.create_anew(&temporary)?;
            file.write_all(&text)?;
            if durable {
                file.sync_data()?;
            }
            self.rename(&temporary, relative)?;
            match relative.parent().filter(|_| durable) {
                Some(place) if place.as_os_str().is_empty() => self.sync(Path::new(".")),
                Some(place) => self.sync(place),
                None => Ok(()),
            }
        };
        self.pressing(|| write().map_err(io(&what)))
    }

    /// The place of a job.
    pub fn job(&self, id: JobId) -> JobDir<'_> {
        JobDir { store: self, relative: PathBuf::from("jobs").join(id.to_string()), id }
    }

    /// All jobs there are.
    ///
    /// # Errors
    /// Of the file system.
    pub fn jobs(&self) -> Result<Vec<JobId>> {
        let path = self.root.join("jobs");
        let what = || io(format!("cannot read '{}'", path.display()));
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&path).map_err(what())? {
            let entry = entry.map_err(what())?;
            jobs.extend(entry.file_name().to_str().and_then(|name| name.parse::<JobId>().ok()));
        }
        Ok(jobs)
    }

    /// Rewrites a node's sign of life.
    ///
    /// # Errors
    /// NotFound where its place is gone, see [`Store::write_node`]; of the file system.
    pub fn write_beat(&self, node: NodeId, beat: &Beat) -> Result<()> {
        let relative = PathBuf::from("nodes").join(node.to_string());
        let path = self.root.join(&relative);
        if !path.exists() {
            return Err(Error::not_found(format!("'{}' is gone", path.display())));
        }
        self.write_json(&relative.join("beat"), beat, false)
    }

    /// Says who a node is.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write_node(&self, node: NodeId, info: &NodeInfo) -> Result<()> {
        let relative = PathBuf::from("nodes").join(node.to_string());
        let path = self.root.join(&relative);
        match fs::create_dir(&path) {
            Err(e) if e.kind() == Io::AlreadyExists => {}
            // Without `nodes/` this is no store, but perhaps the place where one was mounted.
            made => made.map_err(io(format!("cannot make '{}'", path.display())))?,
        }
        self.write_json(&relative.join("info.json"), info, false)
    }

    /// Who a node is.
    ///
    /// # Errors
    /// Internal where it is malformed.
    pub fn read_node(&self, node: NodeId) -> Result<Option<NodeInfo>> {
        self.read_of_node(node, "info.json")
    }

    /// A node's file; `None` where it does not show yet.
    fn read_of_node<T: DeserializeOwned>(&self, node: NodeId, name: &str) -> Result<Option<T>> {
        let place = PathBuf::from("nodes").join(node.to_string());
        match self.may_hold(&place, name) {
            Ok(false) => Ok(None),
            Ok(true) => self.read_json(&place.join(name), MOST_SMALL),
            Err(e) => Err(Error::io(format!("cannot read '{}'", place.display()), &e.into())),
        }
    }

    /// Removes a node's place; what cannot be removed is told and left.
    pub fn forget_node(&self, node: NodeId) {
        self.wipe(Path::new("nodes"), OsStr::new(&node.to_string()));
    }

    /// The nodes that have ever beaten.
    ///
    /// # Errors
    /// Of the file system.
    pub fn nodes(&self) -> Result<Vec<NodeId>> {
        let path = self.root.join("nodes");
        let what = || io(format!("cannot read '{}'", path.display()));
        let mut nodes = Vec::new();
        for entry in fs::read_dir(&path).map_err(what())? {
            let entry = entry.map_err(what())?;
            nodes.extend(entry.file_name().to_str().and_then(|name| name.parse::<NodeId>().ok()));
        }
        Ok(nodes)
    }

    /// A node's last sign of life.
    ///
    /// # Errors
    /// Internal where it is malformed.
    pub fn read_beat(&self, node: NodeId) -> Result<Option<Beat>> {
        self.read_of_node(node, "beat")
    }

    /// Forgets nodes that lived within an earlier server, and what was about to be removed. What cannot be removed is told and
    /// left.
    pub fn tidy(&self) {
        for node in self.nodes().unwrap_or_default() {
            let info = self.read_node(node).ok().flatten();
            if info.is_none_or(|info| info.within_server) {
                self.forget_node(node);
            }
        }
        // Whoever works on frames now does so for an attempt of the server before.
        for part in ["frames", "nodes"].map(Path::new) {
            for name in self.listed(part) {
                let path = Path::new(&name);
                let id = path.to_str().and_then(|name| name.parse::<JobId>().ok());
                if id.is_some() && part == Path::new("frames") {
                    self.wipe(part, &name);
                } else if path.extension().is_none_or(|kind| kind != "ask") {
                    // Directories are nodes, and places of strangers' frames. What is being asked is of a node that begins as this
                    // server does, and waits for the answer.
                    let unlinked = self.unlink(&part.join(path));
                    tracing::trace!(?unlinked, path = %path.display(), "tidied");
                }
            }
        }
        self.drop_partial_files();
        for name in self.listed(Path::new("trash")) {
            self.wipe(Path::new("trash"), &name);
        }
    }

    /// Which store this is; a store that has no name yet gets `fresh`.
    ///
    /// # Errors
    /// Of the file system.
    pub fn name(&self, fresh: StoreId) -> Result<StoreId> {
        if let Some(named) = self.known_as()? {
            return Ok(named);
        }
        self.write_json(Path::new("store.json"), &Named { version: 1, id: fresh }, true)?;
        Ok(fresh)
    }

    /// Which store this is, where a server has named it.
    ///
    /// # Errors
    /// Unsupported where a later version made it; of the file system.
    pub fn known_as(&self) -> Result<Option<StoreId>> {
        let named: Option<Named> = self.read_json(Path::new("store.json"), MOST_SMALL)?;
        match named {
            Some(Named { version, .. }) if version != 1 => Err(Error::unsupported(format!(
                "the store '{}' is of version {version}; this is for version 1",
                self.root.display()
            ))),
            named => Ok(named.map(|named| named.id)),
        }
    }

    /// Removes a job and all it has made.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove(&self, id: JobId) -> Result<()> {
        self.away(&self.job(id).relative)
    }
}

/// What the text of a file says.
fn parsed<T: DeserializeOwned>(relative: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| {
        let what = relative.display();
        Error::internal(format!("'{what}' in the store is malformed: {e}")).tamed()
    })
}

/// `store.json`.
#[derive(Serialize, serde::Deserialize)]
struct Named {
    version: u32,
    id: StoreId,
}
