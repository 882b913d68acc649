//! A job's place in the store: its source, its claims, what its tasks made and report, what clients get.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as Io, Write};
use std::path::{Path, PathBuf};

use frameloom_core::fingerprint::hex;
use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::plan::Plan;
use frameloom_core::slot::WrittenFile;
use frameloom_core::wire::{AttemptReport, JobFile, Task};
use frameloom_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use super::{MOST_SMALL, Store, What, io, is_sha256, parsed, view};

/// Bytes of reports that are read at once, about.
const MOST_AT_ONCE: usize = 16 << 20;

/// Largest pair of pictures that is read, in bytes.
const MOST_PREVIEW: u64 = 4 << 20;

/// What a JPEG begins with.
const JPEG: &[u8] = b"\xff\xd8";

/// Largest plan that is read, in bytes.
pub const MOST_PLAN: u64 = 256 << 20;

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
    pub(super) store: &'a Store,
    pub(super) relative: PathBuf,
    pub(super) id: JobId,
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

    pub(super) fn path(&self) -> PathBuf {
        self.store.root.join(&self.relative)
    }

    /// Something of the job's was refused.
    pub fn refused(&self, what: What, why: &dyn std::fmt::Display) {
        self.store.refused.note(what, why);
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
        self.store.write_json(&self.relative.join("job.json"), job, true)?;
        let what = || io(format!("cannot make '{}'", path.display()));
        self.store.sync(Path::new("jobs")).map_err(what())
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
        self.store.away(&self.relative.join("source"))
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
            self.store.sync(&self.relative)
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
        // It goes, so that it is counted once and not each time that somebody looks.
        let refused = |why: &dyn std::fmt::Display| {
            self.store.refused.note(What::Preview, why);
            let gone = self.store.discard(&relative);
            tracing::debug!(?gone, "a preview that is none");
        };
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
        let done = || -> std::io::Result<()> {
            for (made, name) in [
                (frame_metrics, "frames.jsonl"),
                (detections, "detections.jsonl"),
                (Some(output), "output"),
            ] {
                if let Some(made) = made {
                    self.hand_out(made, name)?;
                }
            }
            self.store.sync(&self.relative)
        };
        done().map_err(io("cannot keep an output"))
    }

    /// Gives what a task has made the name that clients have for it. It is linked, so that a server that dies here finds all of
    /// it again; where the file system has no links it is renamed, and may have been before.
    fn hand_out(&self, made: &Path, name: &str) -> std::io::Result<()> {
        let store = self.store;
        let made = made.strip_prefix(&store.root).unwrap_or(made);
        let (fresh, to) = (self.relative.join(format!("{name}.new")), self.relative.join(name));
        store.discard(&fresh)?;
        if store.link(made, &fresh).is_err() {
            match store.rename(made, &fresh) {
                Err(rustix::io::Errno::NOENT) if store.holds(&self.relative, name)? => {
                    return Ok(());
                }
                renamed => renamed?,
            }
        }
        store.rename(&fresh, &to)?;
        // Where both were names of one file already, renaming left both.
        Ok(store.discard(&fresh)?)
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
                Err(error) => {
                    size += usize::try_from(MOST_SMALL).unwrap_or(MOST_AT_ONCE);
                    Err(error)
                }
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
