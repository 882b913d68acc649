//! Frames that are tasks of their own: what a segment's slot sends away, and who brings it back.

#[cfg(test)]
#[path = "../../tests/support/late.rs"]
mod late;
mod nodes;
mod patience;
mod python;
mod worker;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use frameloom_broker::Broker;
use frameloom_broker::celery::Celery;
use frameloom_core::id::AttemptId;
use frameloom_core::plan::Plan;
use frameloom_core::slot::FrameNumber;
use frameloom_core::wire::JobFile;
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::engine::urgency;
use frameloom_server::store::{FrameDir, Store};
use tokio::sync::Notify;

use nodes::NodeFrames;
use python::PythonFrames;

pub(crate) use nodes::{MIB, budget, needs};
pub(crate) use patience::Depths;
pub(crate) use worker::{Performed, Shared, Worker};

/// How long a task's message is believed to be under way while its queue is empty.
const RESEND_AFTER: Duration = Duration::from_secs(2);

/// How long an unclaimed message is believed to wait in a queue that is never empty.
const WAITS_AT_MOST: Duration = Duration::from_secs(60);

/// How long a worker is believed whose sign of life stands still.
const LEASE: Duration = Duration::from_secs(10);

/// How long nobody takes a task before the job says so.
const NO_WORKER_AFTER: Duration = Duration::from_secs(30);

/// How long nobody does a task before its attempt at a segment is given up, so that other jobs have
/// the slot for a while.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(900);

/// Frames that are away at most, of one attempt.
const MOST_AWAY: usize = 4096;

/// Failures of a frame's own, after which it is given up.
const MOST_FAILURES: usize = 3;

/// Why a frame does not come back.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Its filters or its function cannot do it.
    ByFunction(Error),
    /// Whatever else: the frame is not to blame, and is tried again with its segment.
    Otherwise(Error),
}

/// What carries frames.
pub(crate) struct Carriers<'a> {
    /// Where their files lie.
    pub(crate) store: &'a Arc<Store>,
    /// To Celery workers, where there is a Redis.
    pub(crate) celery: Option<&'a Arc<Celery>>,
    /// To nodes.
    pub(crate) broker: &'a Arc<dyn Broker>,
    /// Notified when a slot of this node has done one.
    pub(crate) done: &'a Arc<Notify>,
    /// How many messages wait in queues.
    pub(crate) depths: &'a Arc<Depths>,
}

/// What was left where a frame or an answer should be is the work of who worked on it: a link, no JSON, a file
/// that nobody else may read. All else is the store's.
fn is_workers(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Internal | ErrorKind::Forbidden)
}

/// A job's frames, where they are there.
///
/// # Errors
/// Unavailable where they are gone with their job, or where this node does not see them.
fn begun(dir: &FrameDir<'_>) -> Result<()> {
    if dir.is_gone() {
        return Err(Error::unavailable("the job's frames are gone, or are not seen by this node"));
    }
    Ok(())
}

/// The frames of one attempt at a segment.
pub(crate) struct Frames {
    python: Option<PythonFrames>,
    nodes: Option<NodeFrames>,
}

impl Frames {
    /// For a job that sends frames away, with its plan where it sends some to nodes; `None` for others.
    ///
    /// # Errors
    /// Unsupported where they need a Celery broker and there is none; Invalid as the filters'
    /// parameters.
    pub(crate) fn of(
        carriers: &Carriers<'_>,
        job: &JobFile,
        plan: Option<(AttemptId, &Plan)>,
    ) -> Result<Option<Self>> {
        // Its slot waits for them: they go before segments of jobs of its priority.
        let urgency = urgency(job.submission.as_ref().map_or(5, |s| s.priority), true);
        let python = PythonFrames::of(carriers, job, urgency)?;
        let nodes = plan
            .map(|(attempt, plan)| NodeFrames::of(carriers, job, attempt, plan, urgency))
            .transpose()?;
        Ok((python.is_some() || nodes.is_some()).then_some(Self { python, nodes }))
    }

    /// Whether nobody has taken a task for a while.
    pub(crate) fn are_starved(&self) -> bool {
        self.python.as_ref().is_some_and(PythonFrames::are_starved)
            || self.nodes.as_ref().is_some_and(NodeFrames::are_starved)
    }

    /// Whether some found no room on the store.
    pub(crate) fn are_without_room(&self) -> bool {
        self.python.as_ref().is_some_and(PythonFrames::are_without_room)
            || self.nodes.as_ref().is_some_and(NodeFrames::are_without_room)
    }

    fn python(&self, frame: FrameNumber) -> Option<&PythonFrames> {
        self.python.as_ref().filter(|python| python.has(frame.filter))
    }

    fn nodes(&self, frame: FrameNumber) -> Result<&NodeFrames> {
        let unknown = || Error::internal(format!("filter {} sends no frames away", frame.filter));
        self.nodes.as_ref().ok_or_else(unknown)
    }

    /// A file for a frame that is about to go.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn away(&self, frame: FrameNumber) -> Result<OwnedFd> {
        match self.python(frame) {
            Some(python) => python.away(frame),
            None => self.nodes(frame)?.away(frame),
        }
    }

    /// The frame's file is written: its task is sent once it has all its frames.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) async fn gone(&self, frame: FrameNumber) -> Result<()> {
        match self.python(frame) {
            Some(python) => python.gone(frame).await,
            None => self.nodes(frame)?.gone(frame).await,
        }
    }

    /// Waits for a frame to come back.
    ///
    /// # Errors
    /// Why it does not, with what its filters or its function said.
    pub(crate) async fn back(&self, frame: FrameNumber) -> Result<OwnedFd, Lost> {
        match self.python(frame) {
            Some(python) => python.back(frame).await,
            None => self.nodes(frame).map_err(Lost::Otherwise)?.back(frame).await,
        }
    }
}
