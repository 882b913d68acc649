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
mod refused;
mod reserve;
mod strangers;
mod trial;
mod view;
mod writing;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as Io, Read, Write};
use std::path::{Path, PathBuf};

use frameloom_core::fingerprint::hex;
use frameloom_core::id::{AttemptId, JobId, NodeId, StoreId};
use frameloom_core::plan::Plan;
use frameloom_core::slot::WrittenFile;
use frameloom_core::wire::{AttemptReport, Beat, JobFile, NodeInfo, Task};
use frameloom_core::{Error, ErrorKind, Result};
use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

pub(crate) use holes::is_mostly_holes;

pub use files::{SentFile, SentFiles, is_sha256, sha256_of};
pub use frames::FrameDir;
pub use refused::{Refused, What};
pub use reserve::RESERVE;
pub use strangers::Coming;

/// Largest report, beat and job file that is read, in bytes.
const MOST_SMALL: u64 = 1 << 20;

/// Bytes of reports that are read at once, about.
const MOST_AT_ONCE: usize = 16 << 20;

/// Largest pair of pictures that is read, in bytes.
const MOST_PREVIEW: u64 = 4 << 20;

/// What a JPEG begins with.
const JPEG: &[u8] = b"\xff\xd8";

/// Largest plan that is read, in bytes.
pub const MOST_PLAN: u64 = 256 << 20;

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
        for part in ["nodes", "jobs", "frames", "trash"] {
            let path = root.join(part);
            fs::create_dir_all(&path).map_err(io(format!("cannot make '{}'", path.display())))?;
        }
        Self::mounted(root)
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
            Ok(self.rename(&temporary, relative)?)
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

    /// Removes a node's place.
    ///
    /// # Errors
    /// Of the file system.
    pub fn forget_node(&self, node: NodeId) -> Result<()> {
        let path = self.root.join("nodes").join(node.to_string());
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != Io::NotFound => {
                Err(Error::io(format!("cannot remove '{}'", path.display()), &e))
            }
            _ => Ok(()),
        }
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

    /// Forgets nodes that lived within an earlier server, and what was about to be removed.
    ///
    /// # Errors
    /// Of the file system.
    pub fn tidy(&self) -> Result<()> {
        for node in self.nodes()? {
            let info = self.read_node(node).ok().flatten();
            if info.is_none_or(|info| info.within_server)
                && let Err(error) = self.forget_node(node)
            {
                tracing::warn!(%error, "a node's place is left");
            }
        }
        // Whoever works on frames now does so for an attempt of the server before.
        for part in ["frames", "nodes"] {
            let path = self.root.join(part);
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|kind| kind == "ask") {
                    // Of a node that begins as this server does: it waits for the answer.
                    continue;
                }
                if part == "frames" {
                    // Strangers' frames have other names.
                    let name = entry.file_name();
                    if name.to_str().is_some_and(|name| name.parse::<JobId>().is_ok()) {
                        drop(fs::remove_dir_all(&path));
                    } else if path.is_file() {
                        drop(fs::remove_file(&path));
                    }
                } else if path.is_file() {
                    drop(fs::remove_file(&path));
                }
            }
        }
        self.drop_partial_files()?;
        let path = self.root.join("trash");
        let what = || io(format!("cannot tidy '{}'", path.display()));
        for entry in fs::read_dir(&path).map_err(what())? {
            let entry = entry.map_err(what())?.path();
            let is_dir = entry.is_dir() && !entry.is_symlink();
            let removed = if is_dir { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
            if let Err(error) = removed {
                tracing::warn!(%error, path = %entry.display(), "this is left in the trash");
            }
        }
        Ok(())
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
        let from = self.root.join("jobs").join(id.to_string());
        let to = self.root.join("trash").join(id.to_string());
        let what = || io(format!("cannot remove '{}'", from.display()));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == Io::NotFound => return Ok(()),
            other => other.map_err(what())?,
        }
        fs::remove_dir_all(&to).map_err(what())
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

/// What the name of the frame metrics' file ends with, beside an output.
pub const FRAMES: &str = ".frames";

/// What the name of the detections' file ends with, beside an output.
pub const DETECTIONS: &str = ".detections";

/// The name of what an attempt makes.
pub fn result_name(task: Task, attempt: AttemptId, suffix: &str) -> String {
    match task {
        Task::Plan => format!("plan.{attempt}{suffix}"),
        Task::Detect(k) => format!("detect-{k}.{attempt}{suffix}"),
        Task::Track => format!("track.{attempt}{suffix}"),
        Task::Segment(k) => format!("{k}.{attempt}{suffix}"),
        Task::Concat => format!("output.{attempt}{suffix}"),
    }
}

/// A job's place in the store.
#[derive(Debug)]
pub struct JobDir<'a> {
    store: &'a Store,
    relative: PathBuf,
    id: JobId,
}

/// A file that a task writes; it is there for others once it is published.
#[derive(Debug)]
pub struct Pending {
    temporary: PathBuf,
    path: PathBuf,
}

impl JobDir<'_> {
    /// The job.
    pub fn id(&self) -> JobId {
        self.id
    }

    fn path(&self) -> PathBuf {
        self.store.root.join(&self.relative)
    }

    /// Makes a new job; `attach` gives it the files that its filters take, before it counts as made.
    ///
    /// # Errors
    /// Of `attach`; of the file system.
    pub fn create(&self, job: &JobFile, attach: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let path = self.path();
        for part in ["claims", "cancelled", "inbox", "results", "previews", "files"] {
            let part = path.join(part);
            fs::create_dir_all(&part).map_err(io(format!("cannot make '{}'", part.display())))?;
        }
        attach(self)?;
        self.store.write_json(&self.relative.join("job.json"), job, true)
    }

    /// What was submitted; `None` where the job does not exist.
    ///
    /// # Errors
    /// Internal where it is malformed.
    pub fn read_job(&self) -> Result<Option<JobFile>> {
        self.store.read_json(&self.relative.join("job.json"), MOST_SMALL)
    }

    /// Where a source that is sent along lies, once it is whole.
    pub fn source(&self) -> PathBuf {
        let path = self.path().join("source");
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Removes a source that was sent along; nothing where it is gone.
    ///
    /// # Errors
    /// Of the file system.
    pub fn drop_source(&self) -> Result<()> {
        let from = self.source();
        let to = self.store.root.join("trash").join(format!("{}.source", self.id));
        let what = || io(format!("cannot remove '{}'", from.display()));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == Io::NotFound => return Ok(()),
            other => other.map_err(what())?,
        }
        fs::remove_file(&to).map_err(what())
    }

    /// Where a file that a filter takes is kept, by the SHA-256 of its content.
    pub fn attached(&self, sha256: &str) -> PathBuf {
        self.path().join("files").join(sha256)
    }

    /// Opens a file that a filter takes; `None` where it is not there.
    ///
    /// # Errors
    /// Invalid where `sha256` is no hash; of the file system.
    pub fn open_attached(&self, sha256: &str) -> Result<Option<File>> {
        if !is_sha256(sha256) {
            return Err(Error::invalid(format!("'{sha256}' is no SHA-256")));
        }
        self.store.open_file(&self.relative.join("files").join(sha256))
    }

    /// A path within the job's directory for the server alone.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Bytes of the source that have come.
    ///
    /// # Errors
    /// Of the file system.
    pub fn upload_size(&self) -> Result<u64> {
        let file = self.store.open_file(&self.relative.join("source.part"))?;
        let meta = file.map(|file| file.metadata()).transpose().map_err(io("an upload"))?;
        Ok(meta.map_or(0, |meta| meta.len()))
    }

    /// Opens the source that is being sent, to append to it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open_upload(&self) -> Result<File> {
        self.append_to("source.part")
    }

    /// The source has come whole.
    ///
    /// # Errors
    /// Of the file system.
    pub fn finish_upload(&self) -> Result<()> {
        let (from, to) = (self.relative.join("source.part"), self.relative.join("source"));
        let file = self.store.open_file(&from)?;
        let file = file.ok_or_else(|| Error::not_found("what was sent of the source is gone"))?;
        let done = || -> std::io::Result<()> {
            file.sync_all()?;
            self.store.rename(&from, &to)?;
            self.sync()
        };
        done().map_err(io(format!("cannot keep '{}'", to.display())))
    }

    /// Keeps what a frame looks like before and after its filters, instead of the one before.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write_preview(&self, attempt: AttemptId, before: &[u8], after: &[u8]) -> Result<()> {
        let length = u32::try_from(before.len()).unwrap_or(u32::MAX).to_le_bytes();
        let path = self.relative.join("previews").join("latest");
        let temporary = path.with_extension(format!("{attempt}.tmp"));
        let done = || -> std::io::Result<()> {
            let mut file = self.store.create_anew(&temporary)?;
            file.write_all(&[&length, before, after].concat())?;
            Ok(self.store.rename(&temporary, &path)?)
        };
        done().map_err(io(format!("cannot write '{}'", path.display())))
    }

    /// What a frame looks like before or after its filters, as JPEG. What is none is refused: then there is none yet.
    ///
    /// # Errors
    /// Of the file system.
    pub fn read_preview(&self, after: bool) -> Result<Option<Vec<u8>>> {
        let relative = self.relative.join("previews/latest");
        let read = self.store.read_most(&relative, MOST_PREVIEW);
        let refused = |why: &dyn std::fmt::Display| self.store.refused.note(What::Preview, why);
        let bytes = match read {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Internal => {
                refused(&error);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let pair = bytes
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize))
            .filter(|(first, second)| [first, second].iter().all(|p| p.starts_with(JPEG)));
        if pair.is_none() {
            refused(&format!("'{}' in the store is no pair of pictures", relative.display()));
        }
        Ok(pair.map(|(first, second)| if after { second.to_vec() } else { first.to_vec() }))
    }

    /// Has the names in the job's directory be on the disk.
    fn sync(&self) -> std::io::Result<()> {
        File::from(self.store.directory(&self.relative)?).sync_all()
    }

    /// Keeps a job's metrics.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write_metrics(&self, metrics: &frameloom_core::metrics::Metrics) -> Result<()> {
        self.store.write_json(&self.relative.join("metrics.json"), metrics, true)
    }

    /// Puts a result in its place: what clients get. What is there already is left.
    ///
    /// # Errors
    /// Of the file system.
    pub fn publish_output(
        &self,
        output: &Path,
        frame_metrics: Option<&Path>,
        detections: Option<&Path>,
    ) -> Result<()> {
        let store = self.store;
        let beneath = |path: &Path| path.strip_prefix(&store.root).unwrap_or(path).to_owned();
        let done = || -> std::io::Result<()> {
            for (lines, name) in [(frame_metrics, "frames.jsonl"), (detections, "detections.jsonl")]
            {
                if let Some(lines) = lines {
                    store.rename(&beneath(lines), &self.relative.join(name))?;
                }
            }
            // Linked, so that a server that dies here finds the join done. Not every file system can.
            let (output, fresh) = (beneath(output), self.relative.join("output.new"));
            store.discard(&fresh)?;
            if store.link(&output, &fresh).is_err() {
                store.rename(&output, &fresh)?;
            }
            store.rename(&fresh, &self.relative.join("output"))?;
            self.sync()
        };
        done().map_err(io("cannot keep an output"))
    }

    /// Opens a file within the job's directory, such as those that clients may read: `output`, `metrics.json`, `frames.jsonl`,
    /// `detections.jsonl`, `preview.gif`, `preview.webp`, `preview.mp4`.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open_for_client(&self, name: &str) -> Result<Option<File>> {
        self.store.open_file(&self.relative.join(name))
    }

    /// Keeps what is in `made`, at most `most` bytes, for clients, under a name of this kind.
    ///
    /// # Errors
    /// Of the file system.
    pub fn keep_for_client(&self, name: &str, made: &File, most: u64) -> Result<()> {
        let what = || format!("cannot write '{}'", self.path().join(name).display());
        self.keep(name, made, most).map_err(io(what()))
    }

    /// Takes an attempt for this node; `false` where it was taken or cancelled before, or where its
    /// job is gone.
    ///
    /// # Errors
    /// Of the file system.
    pub fn claim(&self, attempt: AttemptId) -> Result<bool> {
        if self.is_cancelled(attempt) {
            return Ok(false);
        }
        let path = self.path().join("claims").join(attempt.to_string());
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), Io::AlreadyExists | Io::NotFound) => Ok(false),
            Err(e) => Err(Error::io(format!("cannot claim '{}'", path.display()), &e)),
        }
    }

    /// Whether a node has taken the attempt.
    pub fn is_claimed(&self, attempt: AttemptId) -> bool {
        self.store.holds(&self.relative.join("claims"), &attempt.to_string()).unwrap_or(false)
    }

    /// Tells nodes to stop an attempt.
    ///
    /// # Errors
    /// Of the file system.
    pub fn cancel(&self, attempt: AttemptId) -> Result<()> {
        let relative = self.relative.join("cancelled").join(attempt.to_string());
        let what = format!("cannot write '{}'", relative.display());
        self.store.pressing(|| match self.store.create_new(&relative) {
            // Whatever is there says the same.
            Ok(_) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => Err(io(&what)(e.into())),
        })
    }

    /// Whether the attempt is to be stopped, or its job is gone.
    pub fn is_cancelled(&self, attempt: AttemptId) -> bool {
        let listed = self.store.lists(&self.relative.join("cancelled"), &attempt.to_string());
        // What cannot be read now does not say that the job is gone.
        listed.unwrap_or_else(|e| e == rustix::io::Errno::NOENT)
    }

    fn result(&self, task: Task, attempt: AttemptId, suffix: &str) -> PathBuf {
        self.relative.join("results").join(result_name(task, attempt, suffix))
    }

    /// A new file for what a task makes, readable and writable.
    ///
    /// # Errors
    /// Of the file system; NotFound where the job is gone.
    pub fn begin(&self, task: Task, attempt: AttemptId, suffix: &str) -> Result<(File, Pending)> {
        let path = self.store.root.join(self.result(task, attempt, suffix));
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary);
        let file = file.map_err(io(format!("cannot make '{}'", temporary.display())))?;
        Ok((file, Pending { temporary, path }))
    }

    /// Opens what an accepted attempt made; `None` where it is not there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open_result(
        &self,
        task: Task,
        attempt: AttemptId,
        suffix: &str,
    ) -> Result<Option<File>> {
        self.store.open_file(&self.result(task, attempt, suffix))
    }

    /// Where what an attempt made lies.
    pub fn result_path(&self, task: Task, attempt: AttemptId, suffix: &str) -> PathBuf {
        self.store.root.join(self.result(task, attempt, suffix))
    }

    /// The plan that an accepted attempt made.
    ///
    /// # Errors
    /// Internal where it is malformed.
    pub fn read_plan(&self, attempt: AttemptId) -> Result<Option<Plan>> {
        self.store.read_json(&self.result(Task::Plan, attempt, ""), MOST_PLAN)
    }

    /// The plan that an attempt reports, where its file is what the report tells of, and a plan that can be done.
    ///
    /// # Errors
    /// Internal where it is not; of the file system.
    pub fn read_new_plan(&self, attempt: AttemptId, told: &WrittenFile) -> Result<Plan> {
        let relative = self.result(Task::Plan, attempt, "");
        let text = self.store.read_most(&relative, MOST_PLAN)?.unwrap_or_default();
        if text.len() as u64 != told.size || hex(&Sha256::digest(&text)) != told.sha256 {
            return Err(Error::internal("the plan is not the file that its report tells of"));
        }
        let plan: Plan = parsed(&relative, &text)?;
        plan.check()?;
        Ok(plan)
    }

    /// Puts a report into the inbox.
    ///
    /// # Errors
    /// Of the file system.
    pub fn report(&self, report: &AttemptReport) -> Result<()> {
        let name = format!("{}.json", report.attempt);
        self.store.write_json(&self.relative.join("inbox").join(name), report, false)
    }

    /// Unread reports, each under the id in its file's name, malformed ones as errors: as many as are read at once, and
    /// none of those in `but`.
    ///
    /// # Errors
    /// Of the file system.
    pub fn inbox(
        &self,
        but: &BTreeSet<AttemptId>,
    ) -> Result<Vec<(AttemptId, Result<AttemptReport>)>> {
        let place = self.relative.join("inbox");
        let list = || -> rustix::io::Result<Vec<AttemptId>> {
            let mut all = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.store.directory(&place)?)? {
                let entry = entry?;
                let name = entry.file_name().to_str().ok().and_then(|n| n.strip_suffix(".json"));
                all.extend(name.and_then(|name| name.parse::<AttemptId>().ok()));
            }
            Ok(all)
        };
        let listed = view::not_stale(list);
        let listed = listed.map_err(|e| io(format!("cannot read '{}'", place.display()))(e.into()));
        let (mut reports, mut size) = (Vec::new(), 0);
        for attempt in listed?.into_iter().filter(|attempt| !but.contains(attempt)) {
            let relative = place.join(format!("{attempt}.json"));
            let report = match self.store.read_most(&relative, MOST_SMALL) {
                Ok(None) => continue,
                Ok(Some(text)) => {
                    size += text.len();
                    parsed(&relative, &text)
                }
                Err(error) => Err(error),
            };
            reports.push((attempt, report));
            if size > MOST_AT_ONCE {
                break;
            }
        }
        Ok(reports)
    }

    /// Removes a report that was read.
    ///
    /// # Errors
    /// Of the file system.
    pub fn remove_report(&self, attempt: AttemptId) -> Result<()> {
        let relative = self.relative.join("inbox").join(format!("{attempt}.json"));
        let what = || io(format!("cannot remove '{}'", relative.display()));
        self.store.discard(&relative).map_err(|e| what()(e.into()))
    }

    /// Removes what tasks left behind that is neither accepted nor at work: a new run starts over.
    /// Nodes hear that they are to stop the attempts of the one before.
    ///
    /// # Errors
    /// Of the file system.
    pub fn sweep(&self, open: &[AttemptId], keep: impl Fn(&str) -> bool) -> Result<()> {
        self.clear(&["claims", "cancelled", "inbox", "results"], keep)?;
        open.iter().try_for_each(|attempt| self.cancel(*attempt))
    }

    /// Removes what tasks made: the job is over. What nodes are to stop stays written.
    ///
    /// # Errors
    /// Of the file system.
    pub fn drop_results(&self) -> Result<()> {
        self.clear(&["claims", "inbox", "results"], |_| false)
    }

    fn clear(&self, parts: &[&str], keep: impl Fn(&str) -> bool) -> Result<()> {
        parts.iter().try_for_each(|part| {
            self.store.clear(&self.relative.join(part), |name| *part == "results" && keep(name))
        })
    }
}

impl Pending {
    /// Makes the file known under its name, once its data is on the disk.
    ///
    /// # Errors
    /// Of the file system.
    pub fn publish(self, file: &File) -> Result<()> {
        let what = format!("cannot write '{}'", self.path.display());
        file.sync_data().and_then(|()| fs::rename(&self.temporary, &self.path)).map_err(io(what))
    }

    /// Removes the file: nothing came of it.
    pub fn discard(self) {
        // It may never have been made, or be gone with its job.
        drop(fs::remove_file(&self.temporary));
    }
}
