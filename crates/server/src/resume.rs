//! Going on where an earlier run was cut off, if it was the same job.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use frameloom_core::fingerprint::fingerprint;
use frameloom_core::id::{AttemptId, EngineId, JobId};
use frameloom_core::plan::{Engine, Fingerprint, PLAN_VERSION, Plan};
use frameloom_core::wire::{AttemptReport, Decision, JobFile, Outcome, Task};
use frameloom_core::{Error, ErrorKind, Result};
use rustix::fs::OFlags;

use crate::store::{DETECTIONS, FRAMES, JobDir, Store, What, result_name};

/// What an earlier run left.
#[derive(Debug)]
pub struct Found {
    /// The job's id.
    pub id: JobId,
    /// Its plan, with the attempt that made it.
    pub plan: Option<(AttemptId, Plan)>,
    /// Accepted work between plan and join whose files are there.
    pub segments: Vec<AttemptReport>,
    /// The join that was accepted, if its file is there.
    pub concat: Option<AttemptReport>,
    /// Attempts of which nothing is known but that they were sent.
    pub open: Vec<AttemptId>,
    /// What was about to be published.
    pub publishing: Option<Publishing>,
    /// The engine that it was planned anew for.
    pub home: Option<EngineId>,
}

/// The identities, size and inode, of files that were about to be put at their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publishing {
    /// The output's.
    pub output: (u64, u64),
    /// That of the detections beside it.
    pub detections: Option<(u64, u64)>,
}

/// What is known of the past.
#[derive(Debug)]
pub enum Past {
    /// Nothing: this is the first run.
    None,
    /// The same job: it goes on.
    Same(Box<Found>),
    /// Another job, and what differs.
    Other(String),
}

/// Looks for an earlier run of `wanted` in a store that holds one job at most.
///
/// # Errors
/// Of the file system.
pub fn look(
    store: &Store,
    wanted: &JobFile,
    engine: &Engine,
    fingerprint: &dyn Fn(bool) -> Result<Fingerprint>,
) -> Result<Past> {
    let Some(id) = store.jobs()?.into_iter().next() else { return Ok(Past::None) };
    let dir = store.job(id);
    let Ok(Some(job)) = dir.read_job() else {
        return Ok(Past::Other("its description cannot be read".into()));
    };
    if job.spec != wanted.spec {
        return Ok(Past::Other("filters or settings are others now".into()));
    }
    if job.source != wanted.source {
        return Ok(Past::Other("it was made from another file".into()));
    }
    if job.frame_metrics != wanted.frame_metrics {
        return Ok(Past::Other("frame metrics are wanted now".into()));
    }
    let (_, decisions) = dir.open_journal()?;
    let found = found(&dir, decisions)?;
    Ok(match differs(&found, engine, fingerprint)? {
        Some(why) => Past::Other(why),
        None => Past::Same(Box::new(found)),
    })
}

/// What the decisions of a job tell, as far as the files are there.
///
/// # Errors
/// Of the file system.
pub fn found(dir: &JobDir<'_>, decisions: Vec<Decision>) -> Result<Found> {
    let mut open = BTreeSet::new();
    let mut found = Found {
        id: dir.id(),
        plan: None,
        segments: Vec::new(),
        concat: None,
        open: Vec::new(),
        publishing: None,
        home: None,
    };
    for decision in decisions {
        match decision {
            Decision::Accepted(report) => {
                open.remove(&report.attempt);
                let Outcome::Done(output) = &report.outcome else { continue };
                let Some(size) = output.file_of(report.task).map(|file| file.size) else {
                    continue;
                };
                let file = match dir.open_result(report.task, report.attempt, "") {
                    // Something else has its name now: it is made again.
                    Err(error) if error.kind() == ErrorKind::Internal => {
                        dir.refused(What::Result, &error);
                        continue;
                    }
                    file => file?,
                };
                if file.and_then(|f| f.metadata().ok()).is_none_or(|m| m.len() != size) {
                    continue;
                }
                match report.task {
                    Task::Plan => {
                        let plan = dir.read_plan(report.attempt).ok().flatten();
                        found.plan = plan.map(|plan| (report.attempt, plan));
                    }
                    Task::Detect(_) | Task::Track | Task::Segment(_) => {
                        found.segments.push(report);
                    }
                    Task::Concat => found.concat = Some(report),
                }
            }
            Decision::Publishing { size, inode, detections } => {
                found.publishing = Some(Publishing { output: (size, inode), detections });
            }
            Decision::Sent { attempt, .. } => drop(open.insert(attempt)),
            Decision::Failed { attempt, .. } => drop(open.remove(&attempt)),
            Decision::Replanned { engine } => {
                (found.plan, found.concat, found.home) = (None, None, Some(engine));
                found.segments.clear();
            }
            Decision::Uploaded { .. }
            | Decision::Ended { .. }
            | Decision::Retried
            | Decision::Notified
            | Decision::Unheard => {}
        }
    }
    found.open = open.into_iter().collect();
    Ok(found)
}

/// Why what was found cannot be gone on with, if so.
///
/// # Errors
/// Of `fingerprint`.
pub fn differs(
    found: &Found,
    engine: &Engine,
    fingerprint: &dyn Fn(bool) -> Result<Fingerprint>,
) -> Result<Option<String>> {
    if let Some((_, plan)) = &found.plan {
        let others = match found.home {
            Some(home) => plan.engine.id() != home,
            None => plan.engine != *engine,
        };
        if plan.version != PLAN_VERSION || others {
            return Ok(Some("it was made by other versions".into()));
        }
        if plan.source.fingerprint != fingerprint(plan.source.fingerprint.whole)? {
            return Ok(Some("the source has changed since".into()));
        }
    }
    Ok(None)
}

/// Opens a source by its path, which may lead over links; a pipe in its place is not waited for.
///
/// # Errors
/// Of the file system; InvalidInput where it is a pipe, a socket or the like.
pub fn open_source(path: &Path) -> std::io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() || kind.is_block_device() {
        return Ok(file);
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file"))
}

/// The fingerprint of a source: a hash of bytes, nothing is parsed.
///
/// # Errors
/// Of the file system.
pub fn fingerprint_of(path: &Path, whole: bool) -> Result<Fingerprint> {
    let failed = |e: std::io::Error| Error::io("cannot read the source", &e);
    let file = open_source(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let modified = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    fingerprint(meta.len(), modified, whole, &mut |at, bytes| {
        file.read_exact_at(bytes, at).map_err(failed)
    })
}

impl Found {
    /// The names of the files in `results/` that are still of use.
    pub fn kept(&self) -> BTreeSet<String> {
        let plan = self.plan.as_ref().map(|(attempt, _)| result_name(Task::Plan, *attempt, ""));
        let output = self.concat.iter().flat_map(|report| {
            ["", FRAMES, DETECTIONS].map(|suffix| result_name(Task::Concat, report.attempt, suffix))
        });
        let between = self.segments.iter();
        let between = between.map(|report| result_name(report.task, report.attempt, ""));
        plan.into_iter().chain(output).chain(between).collect()
    }
}
