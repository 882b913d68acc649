//! A node's frame slots: they filter frames, of jobs and of strangers, one at a time.

mod shared;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use frameloom_broker::{Broker, Urgency};
use frameloom_core::id::{AttemptId, EngineId, JobId, NodeId, StoreId};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::slot::{FilterTask, FrameFilters, SlotCommand};
use frameloom_core::wire::{
    Decision, FrameClaim, FrameFailure, FrameMessage, FrameTask, StrangeFrame, Task,
};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::store::Store;
use serde_json::json;
use tokio::sync::Notify;

pub(crate) use shared::Shared;

use super::nodes::{input, output};
use super::patience::is_stores;
use crate::random;
use crate::slot::parent::{Job, Slot, Trouble};

/// After how long the node says that it works on a frame. Most are done before.
const CLAIMED_AFTER: Duration = Duration::from_secs(1);

/// How long a frame slot that cannot work takes nothing.
const PAUSE: Duration = Duration::from_secs(5);

/// How often, and after what pauses, is looked whether a job whose frames are gone is over: they go just
/// before that is written down.
const LOOKS: (u32, Duration) = (5, Duration::from_millis(200));

/// Frames in a row that are not there any more, after which a slot does not believe what it sees.
const MOST_MISSED: u32 = 100;

/// How urgent a frame is that is given back, of whatever job.
const AMONG_OTHERS: Urgency = 3;

/// Frames that a task names at most.
const MOST_FRAMES: u64 = 65;

/// What became of a frame's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Performed {
    /// The frame is done.
    Done,
    /// It is not, or nobody waited for it.
    Undone,
    /// It is not, and the next ones are for others for a while.
    Hindered,
}

/// A node's frame slot.
pub(crate) struct Worker {
    /// The node.
    pub(crate) node: NodeId,
    /// What shapes its bytes.
    pub(crate) engine: EngineId,
    /// Where files lie.
    pub(crate) store: Arc<Store>,
    /// Which store that was when the node began.
    pub(crate) named: Option<StoreId>,
    /// Where tasks come from.
    pub(crate) broker: Arc<dyn Broker>,
    /// Notified when a frame is done.
    pub(crate) done: Arc<Notify>,
    /// What it shares with the node's others.
    pub(crate) shared: Arc<Shared>,
    /// Frames in a row that were not there.
    pub(crate) missed: u32,
    /// The job of the frame before, and whose it is.
    pub(crate) owner: Option<(JobId, String)>,
}

/// How a frame's task ended.
enum Ended {
    Done,
    /// Nobody waits for the frame any more.
    Over,
    /// The frame is not there any more. Somebody else has done it, perhaps.
    Missed,
    Failed(FrameFailure),
}

impl Worker {
    /// Filters a frame.
    pub(crate) async fn perform(&mut self, task: FrameTask, slot: &mut Slot) -> Performed {
        match &task {
            FrameTask::Ours(message) => self.ours(message, slot).await,
            FrameTask::Stranger(frame) => {
                let done = self.stranger(frame, slot).await;
                if let Err(error) = self.broker.frame_is_done(frame).await {
                    tracing::debug!(%error, "a stranger's frame may be done once more");
                }
                match done {
                    Ok(true) => Performed::Done,
                    Ok(false) => Performed::Undone,
                    Err(error) => {
                        tracing::warn!(%error, "a frame is not done");
                        Performed::Undone
                    }
                }
            }
        }
    }

    /// Takes nothing for a while: what is wrong is this node.
    pub(crate) async fn pause(&self) {
        tokio::select! {
            () = self.shared.over() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }

    /// A frame of a job.
    async fn ours(&mut self, message: &FrameMessage, slot: &mut Slot) -> Performed {
        let FrameMessage { frame, first, last, attempt, .. } = *message;
        let count = last.checked_sub(first).map_or(0, |more| more + 1);
        if !(1..=MOST_FRAMES).contains(&count) || !(first..=last).contains(&frame) {
            tracing::warn!(%attempt, "not done: frame {frame} of {first} to {last}");
            return Performed::Undone;
        }
        let shared = Arc::clone(&self.shared);
        let _held = shared.hold(attempt);
        let ended = self.filtered(message, slot).await;
        if !matches!(ended, Ok(Ended::Missed)) {
            self.missed = 0;
        }
        match ended {
            Ok(Ended::Done) => {
                self.shared.said.store(false, Ordering::Relaxed);
                self.done.notify_waiters();
                return Performed::Done;
            }
            Ok(Ended::Failed(failure)) => return self.failed(message, failure).await,
            Ok(Ended::Over) => {}
            Ok(Ended::Missed) => {
                self.missed += 1;
                if self.missed > MOST_MISSED {
                    let why = format!("{} frames in a row are not there", self.missed);
                    return self.give_back(message, &Error::unavailable(why)).await;
                }
            }
            // The store is in trouble, or is not seen as it is.
            Err(error) if self.store.frames(message.job).is_gone() => {
                return self.give_back(message, &error).await;
            }
            Err(error) => {
                let failure = FrameFailure { error, by_task: false };
                return self.failed(message, failure).await;
            }
        }
        self.unclaim(attempt, message.job);
        Performed::Undone
    }

    /// Says why a frame does not come back. Where that cannot be said, somebody else may do it.
    async fn failed(&self, message: &FrameMessage, failure: FrameFailure) -> Performed {
        let (dir, attempt) = (self.store.frames(message.job), message.attempt);
        if failure.error.kind() == ErrorKind::Conflict && !self.shared.over.is_cancelled() {
            tracing::error!(error = %failure.error, "this node takes no frames any more");
            self.shared.over.cancel();
        }
        let said = dir.say(attempt, &failure);
        self.unclaim(attempt, message.job);
        if let Err(error) = said {
            return self.give_back(message, &error).await;
        }
        self.done.notify_waiters();
        if failure.by_task {
            return Performed::Undone;
        }
        self.warn(&failure.error);
        Performed::Hindered
    }

    /// Gives a message to others: a node that sees no store must not take from those that do.
    async fn give_back(&self, message: &FrameMessage, why: &Error) -> Performed {
        self.warn(why);
        let sent = self.broker.send_frames(self.engine, vec![message.clone()], AMONG_OTHERS).await;
        if let Err(error) = sent {
            // Whoever waits for it sends it again.
            tracing::debug!(%error, "a frame's message is not given back");
        }
        Performed::Hindered
    }

    /// Said once, until a frame is done again.
    fn warn(&self, error: &Error) {
        if !self.shared.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "frames are not done here; others may");
        }
    }

    /// It is not at work here any more.
    fn unclaim(&self, attempt: AttemptId, job: JobId) {
        self.store.frames(job).remove(&[format!("claims/{attempt}").into()]);
    }

    /// Whether a job whose frames are gone is over.
    ///
    /// # Errors
    /// Unavailable where it is not: the node does not see what is there.
    async fn is_over(&self, id: JobId) -> Result<()> {
        let (times, pause) = LOOKS;
        for look in 0..times {
            if look > 0 {
                tokio::time::sleep(pause).await;
            }
            let dir = self.store.job(id);
            let over = match dir.read_job()? {
                // Where this is the same store still.
                None => self.store.known_as()? == self.named,
                Some(_) => {
                    let decisions = dir.decisions().unwrap_or_default();
                    matches!(decisions.last(), Some(Decision::Ended { .. }))
                }
            };
            if over {
                return Ok(());
            }
        }
        Err(Error::unavailable(format!("the frames of job {id} are not seen by this node")))
    }

    /// Has a frame of a job filtered, and puts it in its place.
    ///
    /// # Errors
    /// Of the store.
    async fn filtered(&mut self, message: &FrameMessage, slot: &mut Slot) -> Result<Ended> {
        let FrameMessage { frame, first, last, attempt, group, .. } = *message;
        let dir = self.store.frames(message.job);
        if dir.is_gone() {
            return self.is_over(message.job).await.map(|()| Ended::Over);
        }
        if dir.has(&output(attempt))? {
            return Ok(Ended::Over);
        }
        let mut frames = Vec::new();
        for number in first..=last {
            let Some(file) = dir.find(&input(group, number))? else { return Ok(Ended::Missed) };
            frames.push(OwnedFd::from(file));
        }
        let job = self.store.job(message.job);
        let Some(plan) = job.open_result(Task::Plan, message.plan, "")? else {
            return self.is_over(message.job).await.map(|()| Ended::Over);
        };
        if self.owner.as_ref().is_none_or(|(known, _)| *known != message.job) {
            let Some(file) = job.read_job()? else {
                return self.is_over(message.job).await.map(|()| Ended::Over);
            };
            self.owner = Some((message.job, file.owner().to_owned()));
        }
        slot.work_for(self.owner.as_ref().map_or("", |(_, owner)| owner)).await;
        let part = format!("{attempt}.{:032x}.part", random::bits()?);
        let out = dir.create(&part)?;
        let mut descriptors = vec![OwnedFd::from(plan), OwnedFd::from(out)];
        descriptors.append(&mut frames);
        let task = FilterTask {
            filters: FrameFilters::Plan { from: message.from, to: message.to },
            frame: u32::try_from(frame - first).unwrap_or(u32::MAX),
        };
        let ended = {
            let cancelled = || dir.is_gone();
            let mut running = std::pin::pin!(filter(slot, task, descriptors, &cancelled));
            tokio::select! {
                ended = &mut running => ended,
                () = tokio::time::sleep(CLAIMED_AFTER) => {
                    if let Err(error) = dir.claim(attempt, FrameClaim { node: self.node }) {
                        tracing::debug!(%error, "nobody hears who works on a frame");
                    }
                    running.await
                }
            }
        };
        let ended = match ended {
            Ok(()) => dir.has(&input(group, frame)).and_then(|waited_for| {
                if !waited_for {
                    return Ok(Ended::Missed);
                }
                dir.publish(&part, &output(attempt)).map(|()| Ended::Done)
            }),
            Err(Trouble::Cancelled) => Ok(Ended::Over),
            Err(Trouble::Failed { error, by_task }) => {
                // A slot that is still there has told of files that it could not read or write.
                let by_task = by_task && !(slot.is_up() && is_stores(&error));
                Ok(Ended::Failed(FrameFailure { error, by_task }))
            }
        };
        if !matches!(ended, Ok(Ended::Done)) {
            dir.remove(&[part.into()]);
        }
        ended
    }

    /// A frame of somebody else: what becomes of it stands beside it, in `OUTPUT.json`.
    async fn stranger(&self, frame: &StrangeFrame, slot: &mut Slot) -> Result<bool> {
        let ended = self.strangers_frame(frame, slot).await;
        let said = match &ended {
            Ok(()) => json!({ "outcome": "done" }),
            Err(error) => {
                tracing::info!(task = frame.id, %error, "a stranger's frame failed");
                json!({ "outcome": "failed", "error": error.message() })
            }
        };
        let beside = format!("{}.json", frame.output.display());
        let (file, coming) = self.store.begin_frame(Path::new(&beside), random::bits()?)?;
        std::io::Write::write_all(&mut &file, said.to_string().as_bytes())
            .map_err(|e| Error::io(format!("cannot write '{beside}' in the store"), &e))?;
        // A failure leaves what a try that went well has said, which replaces that of one that did not.
        if ended.is_ok() {
            coming.replace()?
        } else {
            coming.publish()?
        };
        Ok(ended.is_ok())
    }

    async fn strangers_frame(&self, frame: &StrangeFrame, slot: &mut Slot) -> Result<()> {
        let mut filters = Vec::new();
        for text in &frame.filters {
            let filter: FilterSpec = text.parse()?;
            frameloom_media::catalogue().check(&filter)?;
            filters.push(filter);
        }
        let mut frames = Vec::new();
        for path in &frame.frames {
            let file = self.store.open_frame(path)?.ok_or_else(|| {
                Error::not_found(format!("'{}' is not in the store", path.display()))
            })?;
            frames.push(OwnedFd::from(file));
        }
        // Whoever reaches Redis sends these; no name that tokens give has a line's end in it.
        slot.work_for("\n").await;
        let (out, coming) = self.store.begin_frame(&frame.output, random::bits()?)?;
        let mut descriptors = vec![OwnedFd::from(out)];
        descriptors.append(&mut frames);
        let task = FilterTask {
            filters: FrameFilters::Given { filters },
            frame: u32::try_from(frame.frame).unwrap_or(u32::MAX),
        };
        match filter(slot, task, descriptors, &|| false).await {
            Ok(()) => coming.publish(),
            Err(trouble) => {
                coming.discard();
                Err(match trouble {
                    Trouble::Failed { error, .. } => error,
                    Trouble::Cancelled => Error::internal("nobody cancelled"),
                })
            }
        }
    }
}

/// Has a slot filter a frame.
async fn filter(
    slot: &mut Slot,
    task: FilterTask,
    descriptors: Vec<OwnedFd>,
    cancelled: &(dyn Fn() -> bool + Send + Sync),
) -> Result<(), Trouble> {
    let job = Job {
        command: SlotCommand::Filter(task),
        descriptors,
        segment: &|_| Err(Error::internal("nothing is joined here")),
        frames: None,
        progress: &|_| {},
        preview: &|_| {},
        cancelled,
    };
    slot.run(job).await.map(drop)
}

#[cfg(test)]
mod tests;
