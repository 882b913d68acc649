//! What a slot is to do for a task, and the descriptors that it needs for that.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use frameloom_core::id::AttemptId;
use frameloom_core::slot::{
    AcceptedSegment, ConcatTask, PlanTask, SegmentTask, SlotCommand, TrackTask,
};
use frameloom_core::spec::SpecFile;
use frameloom_core::wire::{AttemptReport, Decision, JobFile, Outcome, Task, TaskMessage};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::resume::open_source;
use frameloom_server::store::JobDir;

use super::{Node, lock};

/// Jobs whose plan is remembered.
const MOST_PLANS: usize = 10_000;

/// The accepted attempts of a job that its segments need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) plan: AttemptId,
    /// The tracks, where there are any; not known before the segments are processed.
    track: Option<Option<AttemptId>>,
}

impl Known {
    /// What the decisions so far tell.
    fn of(accepted: &[AttemptReport], task: Task) -> Option<Self> {
        let last = |task| {
            let report = accepted.iter().rev().find(|report| report.task == task);
            report.map(|report| report.attempt)
        };
        let track = matches!(task, Task::Segment(_) | Task::Concat).then(|| last(Task::Track));
        Some(Self { plan: last(Task::Plan)?, track })
    }

    /// Whether it is enough for a task.
    pub(super) fn serves(self, task: Task) -> bool {
        match task {
            Task::Detect(_) => true,
            Task::Segment(_) => self.track.is_some(),
            Task::Plan | Task::Track | Task::Concat => false,
        }
    }
}

/// What a slot is to do, with the descriptors that it needs before those that it writes to.
pub(super) struct Ordered {
    pub(super) command: SlotCommand,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Node {
    /// What the slot is to do, with the descriptors that it needs before its output.
    pub(super) fn command(
        &self,
        dir: &JobDir<'_>,
        job: &JobFile,
        message: &TaskMessage,
        known: Option<Known>,
        accepted: &[AttemptReport],
    ) -> Result<Ordered> {
        let (task, attempt) = (message.task, message.attempt);
        let files: Vec<String> = job.spec.files.iter().map(|file| file.name.clone()).collect();
        if task == Task::Plan {
            // A job that starts over gets another plan.
            lock(&self.known).remove(&message.job);
            let mut descriptors = vec![self.open_source(dir, job)?];
            descriptors.extend(attached(dir, job)?);
            let (name, spec) = (job.source.name.clone(), job.spec.clone());
            let command = SlotCommand::Plan(PlanTask { attempt, name, spec, files });
            return Ok(Ordered { command, descriptors });
        }
        let known = known.or_else(|| Known::of(accepted, task));
        let known = known.ok_or_else(|| Error::internal("the job has no plan"))?;
        let (known, plan) = match dir.open_result(Task::Plan, known.plan, "")? {
            Some(file) => (known, file),
            // A job that was tried again may have been planned anew elsewhere.
            None => {
                let gone = || Error::unavailable("the plan is gone");
                let known = Known::of(&self::accepted(dir), task).ok_or_else(gone)?;
                (known, dir.open_result(Task::Plan, known.plan, "")?.ok_or_else(gone)?)
            }
        };
        {
            let mut all = lock(&self.known);
            if all.len() >= MOST_PLANS {
                all.clear();
            }
            all.insert(message.job, known);
        }
        let mut descriptors = Vec::new();
        if task != Task::Track {
            descriptors.push(self.open_source(dir, job)?);
        }
        descriptors.push(OwnedFd::from(plan));
        if task.segment().is_some() {
            descriptors.extend(attached(dir, job)?);
        }
        let track = known.track.flatten();
        if let Some(track) = track {
            let file = dir.open_result(Task::Track, track, "")?;
            let file = file.ok_or_else(|| Error::unavailable("the tracks are gone"))?;
            descriptors.push(OwnedFd::from(file));
        }
        let (job_id, tracks) = (message.job, track.is_some());
        let command = match task {
            Task::Detect(segment) | Task::Segment(segment) => {
                let work = SegmentTask {
                    previews: job.submission.is_some(),
                    job: job_id,
                    attempt,
                    segment,
                    decode_threads: self.decode_threads(),
                    frame_bytes: 0,
                    files,
                    tracks,
                    reveals: job.spec.reveal_previews
                        || !job.spec.filters.iter().any(frameloom_media::hides_things),
                };
                match task {
                    Task::Detect(_) => SlotCommand::Detect(work),
                    _ => SlotCommand::Segment(work),
                }
            }
            Task::Track => {
                let accepted = accepted_segments(accepted, Task::Detect);
                SlotCommand::Track(TrackTask { job: job_id, attempt, accepted })
            }
            _ => SlotCommand::Concat(ConcatTask {
                job: job_id,
                attempt,
                accepted: accepted_segments(accepted, Task::Segment),
                tracks: track.and(accepted.iter().find_map(sha256_of_tracks)),
                frame_metrics: job.frame_metrics && job.spec.detections_only.is_none(),
                detections: job.spec.detections_only.is_none()
                    && job.spec.filters.iter().any(frameloom_media::tells_of_things),
            }),
        };
        Ok(Ordered { command, descriptors })
    }

    /// Opens a job's source, where this node finds it.
    ///
    /// # Errors
    /// NotFound where it is gone, and what the system says otherwise. On a node that is not the
    /// server's the file may be there for others: then it is Unavailable.
    fn open_source(&self, dir: &JobDir<'_>, job: &JobFile) -> Result<OwnedFd> {
        let name = job.source.name.escape_debug();
        let (path, opened) = if job.submission.as_ref().is_some_and(|s| s.upload) {
            let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
            let opened =
                dir.open_source().map_err(|e| std::io::Error::other(e.message().to_owned()));
            (dir.source(), opened.and_then(|file| file.ok_or_else(gone)))
        } else {
            let root = job.source.root.as_ref();
            let here =
                root.and_then(|(name, beneath)| Some(self.config.roots.get(name)?.join(beneath)));
            let path = here.unwrap_or_else(|| job.source.path.clone());
            let opened = open_source(&path);
            (path, opened)
        };
        let opened = match opened {
            Ok(file) => return Ok(OwnedFd::from(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("'{name}' does not exist any more"))
            }
            Err(e) => Error::io(format!("cannot read '{name}'"), &e),
        };
        if self.config.within_server {
            return Err(opened);
        }
        let path = path.display();
        tracing::error!(error = %opened, %path, "a source is not there on this node (--root)");
        Err(Error::unavailable(format!("node {}: {opened}", self.config.name)))
    }

    /// Decoding threads for a segment: its own, and its share of those of slots without work.
    fn decode_threads(&self) -> u32 {
        let free = *lock(&self.free) as usize;
        let busy = self.config.slots.saturating_sub(free).max(1);
        u32::try_from(1 + free / busy).unwrap_or(1).min(16)
    }
}

/// The files that a job's filters take.
fn attached(dir: &JobDir<'_>, job: &JobFile) -> Result<Vec<OwnedFd>> {
    let open = |file: &SpecFile| {
        let gone = || Error::not_found(format!("file '{}' of a filter is gone", file.name));
        dir.open_attached(&file.sha256)?.map(OwnedFd::from).ok_or_else(gone)
    };
    job.spec.files.iter().map(open).collect()
}

/// The accepted tasks of one kind, by segment.
fn accepted_segments(accepted: &[AttemptReport], kind: fn(u32) -> Task) -> Vec<AcceptedSegment> {
    let mut segments = BTreeMap::new();
    for report in accepted {
        let Some(k) = report.task.segment().filter(|k| kind(*k) == report.task) else { continue };
        let Outcome::Done(output) = &report.outcome else { continue };
        if let Some(file) = output.file_of(report.task) {
            let (attempt, slot) = (report.attempt, report.slot.clone());
            segments.insert(k, AcceptedSegment { attempt, slot, sha256: file.sha256.clone() });
        }
    }
    segments.into_values().collect()
}

/// The digest of the tracks, where a report tells of them.
fn sha256_of_tracks(report: &AttemptReport) -> Option<String> {
    let Outcome::Done(output) = &report.outcome else { return None };
    let file = output.file_of(Task::Track).filter(|_| report.task == Task::Track)?;
    Some(file.sha256.clone())
}

/// The accepted results so far, by the job's journal: of each task the last, for a job may have begun anew.
pub(super) fn accepted(dir: &JobDir<'_>) -> Vec<AttemptReport> {
    let mut reports = BTreeMap::new();
    for decision in dir.decisions().unwrap_or_default() {
        match decision {
            Decision::Accepted(report) => drop(reports.insert(report.task, report)),
            Decision::Replanned { .. } => reports.clear(),
            _ => {}
        }
    }
    reports.into_values().collect()
}
