//! A node's frame slots: they filter frames, of jobs and of strangers, one at a time.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use frameloom_broker::Broker;
use frameloom_core::id::NodeId;
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::slot::{FilterTask, FrameFilters, SlotCommand};
use frameloom_core::wire::{FrameClaim, FrameFailure, FrameMessage, FrameTask, StrangeFrame, Task};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::store::Store;
use serde_json::json;
use tokio::sync::Notify;

use super::nodes::{input, output};
use crate::random;
use crate::slot::parent::{Job, Slot, Trouble};

/// After how long the node says that it works on a frame. Most are done before.
const CLAIMED_AFTER: Duration = Duration::from_secs(1);

/// How long a frame slot that cannot work takes nothing.
const PAUSE: Duration = Duration::from_secs(5);

/// Frames that a task names at most.
const MOST_FRAMES: u64 = 65;

/// What the frame slots of a node share.
#[derive(Clone)]
pub(crate) struct Worker {
    /// The node.
    pub(crate) node: NodeId,
    /// Where files lie.
    pub(crate) store: Arc<Store>,
    /// Where tasks come from.
    pub(crate) broker: Arc<dyn Broker>,
    /// Notified when a frame is done.
    pub(crate) done: Arc<Notify>,
}

impl Worker {
    /// Filters a frame; answers whether one came of it.
    pub(crate) async fn perform(&self, task: FrameTask, slot: &mut Slot) -> bool {
        let done = match &task {
            FrameTask::Ours(message) => self.ours(message, slot).await,
            FrameTask::Stranger(frame) => {
                let done = self.stranger(frame, slot).await;
                if let Err(error) = self.broker.frame_is_done(frame).await {
                    tracing::debug!(%error, "a stranger's frame may be done once more");
                }
                done
            }
        };
        match done {
            Ok(done) => done,
            Err(error) => {
                // Whoever waits for it sends it again.
                tracing::warn!(%error, "a frame is not done");
                false
            }
        }
    }

    /// A frame of a job.
    async fn ours(&self, message: &FrameMessage, slot: &mut Slot) -> Result<bool> {
        let FrameMessage { frame, first, last, attempt, group, .. } = *message;
        let dir = self.store.frames(message.job);
        let count = last.checked_sub(first).map_or(0, |more| more + 1);
        if !(1..=MOST_FRAMES).contains(&count) || !(first..=last).contains(&frame) {
            return Err(Error::invalid(format!("frame {frame} of {first} to {last}")));
        }
        // Where something is gone nobody waits for the frame any more.
        if dir.has(&output(attempt)) {
            return Ok(false);
        }
        let mut frames = Vec::new();
        for number in first..=last {
            let Some(file) = dir.open(&input(group, number))? else { return Ok(false) };
            frames.push(OwnedFd::from(file));
        }
        let job = self.store.job(message.job);
        let Some(plan) = job.open_result(Task::Plan, message.plan, "")? else { return Ok(false) };
        let part = format!("{attempt}.{:032x}.part", random::bits()?);
        let out = match dir.create(&part) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            made => made?,
        };
        let mut descriptors = vec![OwnedFd::from(plan), OwnedFd::from(out)];
        descriptors.append(&mut frames);
        let task = FilterTask {
            filters: FrameFilters::Plan { from: message.from, to: message.to },
            frame: u32::try_from(frame - first).unwrap_or(u32::MAX),
        };
        let ended = {
            let cancelled = || !dir.exists();
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
        let failure = match ended {
            Ok(()) if dir.has(&input(group, frame)) => {
                dir.publish(&part, &output(attempt))?;
                self.done.notify_waiters();
                return Ok(true);
            }
            Ok(()) | Err(Trouble::Cancelled) => None,
            Err(Trouble::Failed { error, by_task }) => Some(FrameFailure { error, by_task }),
        };
        dir.remove(&[part.into()]);
        if let Some(failure) = failure {
            dir.say(attempt, &failure)?;
            self.done.notify_waiters();
            if !failure.by_task {
                // What is wrong is this node: the next frames are for others.
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(false)
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
