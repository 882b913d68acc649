//! One task on a node: claimed, done by a slot, published and reported.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use base64::Engine as _;
use frameloom_core::id::AttemptId;
use frameloom_core::plan::Plan;
use frameloom_core::slot::{SlotCommand, SlotPreview, TaskOutput};
use frameloom_core::wire::{AttemptReport, HeldAttempt, JobFile, Outcome, Task, TaskMessage};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::store::{DETECTIONS, FRAMES, JobDir, Pending};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::command::{Ordered, accepted};
use super::{Held, Node, lock};
use crate::frames::{self, Carriers, Frames, MIB};
use crate::slot::parent::{Job, Slot, Trouble};

/// How often is looked whether a segment that waits for room is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// After how long a small write that failed is tried again, where somebody waits to hear that it is hopeless.
const TRY_AGAIN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1000)];

/// A plan whose frames are tasks.
struct FramePlan<'a> {
    made_by: AttemptId,
    plan: Plan,
    bytes: u64,
    _permit: SemaphorePermit<'a>,
}

impl Node {
    /// What carries the frames of a segment that sends some away; and what they may take meanwhile, where
    /// they go to nodes.
    async fn carry(
        &self,
        dir: &JobDir<'_>,
        job: &JobFile,
        task: Task,
        attempt: AttemptId,
    ) -> Result<(Option<Frames>, Option<FramePlan<'_>>), Trouble> {
        // What looks for things does so where the segment is decoded.
        let framed = match task {
            Task::Segment(_) => self.frame_plan(dir, job, attempt).await?,
            _ => None,
        };
        let carriers = Carriers {
            store: &self.store,
            celery: self.config.celery.as_ref(),
            broker: &self.broker,
            done: &self.frame_done,
            depths: &self.depths,
        };
        let plan = framed.as_ref().map(|framed| (framed.made_by, &framed.plan));
        let frames = Frames::of(&carriers, job, plan).map_err(|error| self.trouble(error))?;
        Ok((frames, framed))
    }

    /// The plan of a job whose frames are tasks, and the bytes that its frames may take, once they are
    /// free; `None` where the job sends no frames to nodes.
    async fn frame_plan(
        &self,
        dir: &JobDir<'_>,
        job: &JobFile,
        attempt: AttemptId,
    ) -> Result<Option<FramePlan<'_>>, Trouble> {
        if job.spec.granularity.is_segment() {
            return Ok(None);
        }
        let ours = |error: Error| self.trouble(error);
        let gone = || ours(Error::unavailable("the plan is gone"));
        let known = lock(&self.known).get(&job.id).copied();
        let made_by = known.ok_or_else(gone)?.plan;
        let plan = dir.read_plan(made_by).map_err(ours)?.ok_or_else(gone)?;
        let Some(bytes) = frames::needs(&plan, self.config.slots) else { return Ok(None) };
        let permits = bytes.div_ceil(MIB).min(frames::budget() as u64);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let mut taking = std::pin::pin!(self.frame_budget.acquire_many(permits));
        let permit = loop {
            tokio::select! {
                permit = &mut taking => {
                    break permit.map_err(|e| ours(Error::internal(e.to_string())))?;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if dir.is_cancelled(attempt) || lock(&self.revoked).contains(&attempt) {
                        return Err(Trouble::Cancelled);
                    }
                }
            }
        };
        Ok(Some(FramePlan { made_by, plan, bytes, _permit: permit }))
    }

    /// Claims a task, does it and reports.
    ///
    /// # Errors
    /// Of the store, where it cannot be claimed.
    pub(super) async fn take(&self, message: &TaskMessage, slot: &mut Slot) -> Result<()> {
        let dir = self.store.job(message.job);
        if !self.insist(|| dir.claim(message.attempt)).await? {
            return Ok(());
        }
        let events = self.events.get();
        if let Some(events) = events {
            events.received(message);
        }
        let begun = Instant::now();
        let outcome = match self.perform(&dir, message, slot).await {
            Ok(output) => {
                lock(&self.ended).0 += 1;
                if let Some(events) = events {
                    events.succeeded(message, begun.elapsed());
                }
                Outcome::Done(output)
            }
            Err(Trouble::Failed { error, by_task }) => {
                lock(&self.ended).1 += 1;
                if let Some(events) = events {
                    events.failed(message, error.message());
                }
                Outcome::Failed { error, by_task }
            }
            Err(Trouble::Cancelled) => {
                if let Some(events) = events {
                    events.revoked(message);
                }
                return Ok(());
            }
        };
        let report = AttemptReport {
            attempt: message.attempt,
            task: message.task,
            node: self.id,
            slot: format!("{}/{}", self.id, slot.stats.name),
            slot_pid: lock(&self.held).get(&message.attempt).map_or(0, |held| held.told.slot_pid),
            outcome,
        };
        if let Err(error) = self.insist(|| dir.report(&report)).await
            && self.config.hopeless.is_none()
        {
            tracing::error!(%error, attempt = %message.attempt, "cannot report");
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Does a small write. Where somebody waits to hear that it is hopeless it is tried a few times, and then told.
    ///
    /// # Errors
    /// Of the last try.
    async fn insist<T>(&self, mut write: impl FnMut() -> Result<T>) -> Result<T> {
        let mut done = write();
        if self.config.hopeless.is_some() {
            for pause in TRY_AGAIN {
                if done.is_ok() {
                    break;
                }
                tokio::time::sleep(pause).await;
                done = write();
            }
        }
        done.inspect_err(|error| self.despair(error))
    }

    /// Tells whoever waits for it that the store takes nothing.
    pub(super) fn despair(&self, error: &Error) {
        if let Some(hopeless) = &self.config.hopeless {
            // The first to be told is enough.
            drop(hopeless.try_send(error.clone()));
        }
    }

    /// What is wrong with a node of its own says nothing about the job: others may do it.
    fn trouble(&self, error: Error) -> Trouble {
        let error = if self.config.within_server || error.kind().is_retryable() {
            error
        } else {
            Error::unavailable(format!("node {}: {error}", self.config.name))
        };
        Trouble::Failed { error, by_task: false }
    }

    async fn perform(
        &self,
        dir: &JobDir<'_>,
        message: &TaskMessage,
        slot: &mut Slot,
    ) -> Result<TaskOutput, Trouble> {
        let ours = |error: Error| self.trouble(error);
        let (task, attempt) = (message.task, message.attempt);
        let job =
            dir.read_job().and_then(|job| job.ok_or_else(|| Error::not_found("the job is gone")));
        let job = job.map_err(ours)?;
        slot.work_for(job.owner()).await;
        let pid = slot.start().map_err(ours)?;
        let told = HeldAttempt { attempt, frames: 0, slot_pid: pid, starved: false, full: false };
        lock(&self.held).insert(attempt, Held { told, task, since: Instant::now() });
        self.changed.notify_one();
        if let Some(events) = self.events.get() {
            events.started(message, pid);
        }
        let (out, pending) = dir.begin(task, attempt, "").map_err(ours)?;
        let known = lock(&self.known).get(&message.job).copied();
        let known = known.filter(|known| known.serves(task));
        let accepted = if known.is_some() { Vec::new() } else { accepted(dir) };
        let begin = |(suffix, wanted): (&str, bool)| {
            wanted.then(|| dir.begin(task, attempt, suffix)).transpose()
        };
        let mut beside: Vec<(File, Pending)> = Vec::new();
        let prepared = self.command(dir, &job, message, known, &accepted).and_then(|ordered| {
            let Ordered { command, mut descriptors } = ordered;
            descriptors.push(copy(&out)?);
            if let SlotCommand::Concat(task) = &command {
                let wanted = [(FRAMES, task.frame_metrics), (DETECTIONS, task.detections)];
                for more in wanted.into_iter().filter_map(|wanted| begin(wanted).transpose()) {
                    let more = more?;
                    descriptors.push(copy(&more.0)?);
                    beside.push(more);
                }
            }
            Ok((command, descriptors))
        });
        let carried = match task {
            Task::Detect(_) | Task::Segment(_) if prepared.is_ok() => {
                self.carry(dir, &job, task, attempt).await
            }
            _ => Ok((None, None)),
        };
        let ended = match (prepared, carried) {
            (Err(error), _) => Err(ours(error)),
            (_, Err(trouble)) => Err(trouble),
            // With the end of this what is still away is called back.
            (Ok((mut command, descriptors)), Ok((away, framed))) => {
                if let (SlotCommand::Segment(task), Some(framed)) = (&mut command, &framed) {
                    task.frame_bytes = framed.bytes;
                }
                slot.run(Job {
                    command,
                    descriptors,
                    segment: &|k| {
                        let wanted = match task {
                            Task::Track => Task::Detect(k),
                            _ => Task::Segment(k),
                        };
                        let known = accepted.iter().find(|r| r.task == wanted);
                        let known = known.map(|r| dir.open_result(r.task, r.attempt, ""));
                        let file = known.transpose()?.flatten();
                        let file =
                            file.ok_or_else(|| Error::internal(format!("segment {k} is gone")))?;
                        Ok(OwnedFd::from(file))
                    },
                    frames: away.as_ref(),
                    progress: &|frames| {
                        if let Some(held) = lock(&self.held).get_mut(&attempt) {
                            held.told.frames = frames;
                        }
                    },
                    preview: &|pair| keep_preview(dir, attempt, pair),
                    cancelled: &|| {
                        if let (Some(away), Some(held)) =
                            (&away, lock(&self.held).get_mut(&attempt))
                        {
                            held.told.starved = away.are_starved();
                            held.told.full = away.are_without_room();
                        }
                        dir.is_cancelled(attempt) || lock(&self.revoked).contains(&attempt)
                    },
                })
                .await
            }
        };
        match ended {
            Ok(output) => {
                pending.publish(&out).map_err(ours)?;
                for (file, pending) in beside {
                    pending.publish(&file).map_err(ours)?;
                }
                Ok(output)
            }
            Err(trouble) => {
                // Where the program was replaced, a server's jobs wait until it or the node is started
                // again, and a run ends.
                let trouble = match trouble {
                    Trouble::Failed { error, by_task: false }
                        if error.kind() == ErrorKind::Conflict && job.submission.is_some() =>
                    {
                        let error = Error::unavailable(error.message().to_owned());
                        Trouble::Failed { error, by_task: false }
                    }
                    trouble => trouble,
                };
                pending.discard();
                beside.into_iter().for_each(|(_, pending)| pending.discard());
                Err(trouble)
            }
        }
    }
}

/// Keeps what a slot's frame looks like, the newest of all slots.
fn keep_preview(dir: &JobDir<'_>, attempt: AttemptId, pair: &SlotPreview) {
    let base64 = base64::engine::general_purpose::STANDARD;
    let pair = (base64.decode(&pair.before), base64.decode(&pair.after));
    if let (Ok(before), Ok(after)) = pair
        && let Err(error) = dir.write_preview(attempt, &before, &after)
    {
        tracing::debug!(%error, "a preview is lost");
    }
}

fn copy(file: &File) -> Result<OwnedFd> {
    let copy = file.try_clone().map_err(|e| Error::io("cannot hand on a file", &e))?;
    Ok(OwnedFd::from(copy))
}
