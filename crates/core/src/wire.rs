//! What server, broker and nodes say to each other, and what the store keeps: references, reports
//! and decisions, never pixels.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::id::{AttemptId, EngineId, JobId, NodeId};
use crate::plan::Engine;
use crate::slot::TaskOutput;
use crate::spec::JobSpec;

/// A task of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Make the plan.
    Plan,
    /// Look for things in the segment of this number.
    Detect(u32),
    /// Follow what was found over the whole video.
    Track,
    /// Process the segment of this number.
    Segment(u32),
    /// Join the segments.
    Concat,
}

impl Task {
    /// The segment that it is about, where it is about one.
    pub fn segment(self) -> Option<u32> {
        match self {
            Self::Detect(k) | Self::Segment(k) => Some(k),
            Self::Plan | Self::Track | Self::Concat => None,
        }
    }

    /// What kind of task it is, in one word.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Detect(_) => "detect",
            Self::Track => "track",
            Self::Segment(_) => "segment",
            Self::Concat => "concat",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan => f.write_str("plan"),
            Self::Detect(index) => write!(f, "detect {index}"),
            Self::Track => f.write_str("track"),
            Self::Segment(index) => write!(f, "segment {index}"),
            Self::Concat => f.write_str("concat"),
        }
    }
}

/// The version of what server and nodes say to each other; others' messages are not for us.
pub const PROTOCOL: u32 = 1;

/// The queue that a task waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// Short tasks: plan, track and concat.
    Control,
    /// Segments of plans that this engine made, to look into or to process.
    Segment(EngineId),
    /// Those of them that need a GPU.
    Gpu(EngineId),
}

impl Queue {
    /// The engine that nodes which listen to it have; none where any will do.
    pub fn engine(self) -> Option<EngineId> {
        match self {
            Self::Control => None,
            Self::Segment(engine) | Self::Gpu(engine) => Some(engine),
        }
    }
}

/// What a broker carries: a reference to work that lies on the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskMessage {
    /// The job.
    pub job: JobId,
    /// Its task.
    pub task: Task,
    /// The attempt that this message stands for.
    pub attempt: AttemptId,
}

/// What a broker carries for a frame that is a task of its own. Its files lie in `frames/JOB`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameMessage {
    /// The job.
    pub job: JobId,
    /// The attempt that made its plan.
    pub plan: AttemptId,
    /// The attempt that this message stands for; its frame comes back as `ATTEMPT.out`.
    pub attempt: AttemptId,
    /// What frames that go out together have in common: they are `GROUP.NUMBER.in`.
    pub group: AttemptId,
    /// The frame's number in its group.
    pub frame: u64,
    /// The first one of its neighbours.
    pub first: u64,
    /// The last one of them.
    pub last: u64,
    /// The first filter that is to be done, by its number in the plan.
    pub from: u32,
    /// The number behind the last one.
    pub to: u32,
}

/// A frame that somebody else than a server of ours asks nodes to filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrangeFrame {
    /// What the broker knows the message by until it is done.
    pub tag: String,
    /// The task's id, for a log line.
    pub id: String,
    /// The filters, each as on the command line.
    pub filters: Vec<String>,
    /// Files of the frame and its neighbours in order of pts, relative to the store's root.
    pub frames: Vec<std::path::PathBuf>,
    /// Which of them is to come back.
    pub frame: usize,
    /// The file that it comes back in.
    pub output: std::path::PathBuf,
}

/// A frame for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameTask {
    /// Of a job.
    Ours(FrameMessage),
    /// Of whoever else.
    Stranger(StrangeFrame),
}

/// `frames/JOB/claims/ATTEMPT`: who works on a frame that takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameClaim {
    /// The node.
    pub node: NodeId,
}

/// `frames/JOB/results/ATTEMPT.json`: why a frame does not come back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameFailure {
    /// Why.
    pub error: Error,
    /// Whether the frame or its filters are to blame.
    pub by_task: bool,
}

/// `jobs/ID/job.json`: what was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFile {
    /// The job.
    pub id: JobId,
    /// What was asked for.
    pub spec: JobSpec,
    /// Where the source lies.
    pub source: SourceRef,
    /// Whether a line for each frame is wanted.
    pub frame_metrics: bool,
    /// Who submitted it to a server, and how; `None` for a run on one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<Submission>,
}

impl JobFile {
    /// The name that the job belongs to; empty for a run on one machine.
    pub fn owner(&self) -> &str {
        self.submission.as_ref().map_or("", |submission| &submission.owner)
    }
}

/// What a server knows of a job beside its specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// The name that the job belongs to.
    pub owner: String,
    /// When it was accepted, in milliseconds since 1970.
    pub created_ms: i64,
    /// 0 to 9, higher is more urgent.
    pub priority: u8,
    /// Whether its source is sent along; else it lies at a path.
    pub upload: bool,
    /// Size of the source that is sent along, where the client told.
    pub upload_size: Option<u64>,
    /// Where the output is to be written beside the store.
    pub output: Option<std::path::PathBuf>,
    /// The key by which the client knows the request again, and a digest of the request.
    pub idempotency: Option<(String, String)>,
    /// The address that hears of the job's end.
    #[serde(default)]
    pub webhook: Option<String>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Its output is there.
    Succeeded,
    /// It cannot be done.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

/// Where a job's source lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRef {
    /// An absolute path; for a source that was sent along, it leads into the store.
    pub path: std::path::PathBuf,
    /// The file's name as the user gave it, a hint for probing.
    pub name: String,
    /// The named root beneath which it lies, and the path from there: nodes may have it elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<(String, std::path::PathBuf)>,
}

/// `inbox/ATTEMPT.json`: what became of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its task.
    pub task: Task,
    /// The node that made it.
    pub node: NodeId,
    /// The slot that made it, as `NODE/SLOT`.
    pub slot: String,
    /// Process id of that slot.
    pub slot_pid: u32,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its result lies on the store.
    Done(TaskOutput),
    /// It failed.
    Failed {
        /// Why.
        error: Error,
        /// Whether the task is to blame: its slot died, hung or answered with an error while the
        /// node lived. Other failures don't count.
        by_task: bool,
    },
}

/// `nodes/NODE/beat`: a node's sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Beat {
    /// One more each time.
    pub counter: u64,
    /// The attempts that the node works on.
    pub held: Vec<HeldAttempt>,
    /// Segment slots without work.
    pub free_slots: u32,
    /// Slots for segments that need a GPU, without work.
    #[serde(default)]
    pub free_gpu_slots: u32,
    /// The machine's load, the mean of a minute, in hundredths of a core.
    #[serde(default)]
    pub load: u32,
    /// Attempts at single frames that the node works on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<AttemptId>,
    /// Frames that came back to it, and answers about them, that it has refused since it began.
    #[serde(default)]
    pub refused: u64,
}

/// `nodes/NODE/info.json`: who a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name: the operator's, or its host's with its process id.
    pub name: String,
    /// Its host's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Segments done at a time.
    pub slots: u32,
    /// Segments that need a GPU done at a time, beside the others.
    #[serde(default)]
    pub gpu_slots: u32,
    /// What shapes the bytes that it makes.
    pub engine: Engine,
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Whether it lives within the server's process, and dies with it.
    pub within_server: bool,
    /// When it began, in milliseconds since 1970 by its own clock.
    pub started_ms: i64,
}

/// An attempt that a node works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    /// The attempt.
    pub attempt: AttemptId,
    /// Frames done so far; for a plan, packets read.
    pub frames: u64,
    /// Process id of its slot.
    pub slot_pid: u32,
    /// Whether nobody takes the frames that it has sent to a queue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starved: bool,
    /// Whether the frames that it has sent away find no room on the store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// A line of a job's journal. Only what stands here is decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// An attempt is about to be sent.
    Sent {
        /// Its task.
        task: Task,
        /// Its id.
        attempt: AttemptId,
    },
    /// The attempt's result is the result.
    Accepted(AttemptReport),
    /// The attempt failed.
    Failed {
        /// Its task.
        task: Task,
        /// Its id.
        attempt: AttemptId,
        /// Why.
        error: Error,
    },
    /// The source that was sent along is there, whole.
    Uploaded {
        /// Its size in bytes.
        size: u64,
    },
    /// The job is over.
    Ended {
        /// How.
        end: End,
        /// Why, where it failed.
        error: Option<Error>,
        /// When, in milliseconds since 1970.
        at_ms: i64,
    },
    /// A job that had failed is tried again.
    Retried,
    /// The job is planned anew, and done, by nodes of this engine.
    Replanned {
        /// The engine.
        engine: EngineId,
    },
    /// The job's webhook was taken.
    Notified,
    /// The job's webhook was not taken for so long that it is given up.
    Unheard,
    /// The output is about to be put at its place.
    Publishing {
        /// Size of the output in bytes.
        size: u64,
        /// Its inode, by which it is known again.
        inode: u64,
        /// Size and inode of the detections, where they are put at a place of their own beside it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detections: Option<(u64, u64)>,
    },
}
