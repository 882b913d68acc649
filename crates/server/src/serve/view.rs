//! A job as clients see it.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted, and not begun.
    Queued,
    /// Its plan is being made.
    Planning,
    /// Its segments are being processed.
    Running,
    /// Its segments are being joined.
    Assembling,
    /// Its output is there.
    Succeeded,
    /// It cannot be done; `error` says why.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl State {
    /// Whether it is left no more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Planning => "planning",
            Self::Running => "running",
            Self::Assembling => "assembling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where a segment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SegmentState {
    /// Not begun.
    Waiting,
    /// At work.
    Running,
    /// What is in it was looked for; it is not processed yet.
    Detected,
    /// At work again after a failure.
    Retried,
    /// Done.
    Done,
}

/// How far a job is.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ProgressView {
    /// What is being done: `planning`, `detecting`, `tracking`, `running` or `joining`.
    pub stage: &'static str,
    /// Frames done in this stage.
    pub frames: u64,
    /// Frames in all, where known.
    pub total: Option<u64>,
    /// Percent done.
    pub percent: Option<f64>,
    /// Frames a second, mean since it began.
    pub fps: f64,
    /// Seconds of video a second.
    pub realtime_ratio: Option<f64>,
    /// Seconds left, estimated.
    pub eta_seconds: Option<f64>,
    /// Tasks not yet begun.
    pub waiting: u32,
    /// Tasks at work.
    pub running: u32,
    /// Tasks that were tried again after a failure.
    pub retried: u32,
}

/// A job.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JobView {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// What it waits for, where it waits: `upload`, `store full`, `broker gone`,
    /// `no node for engine ID`, `no worker on queue NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Whose it is.
    pub owner: String,
    /// The source's name.
    pub name: String,
    /// Filters in order.
    pub filters: Vec<String>,
    /// The output's container.
    pub container: String,
    /// 0 to 9.
    pub priority: u8,
    /// When it was accepted (RFC 3339).
    pub created_at: String,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// When it will be deleted, where it will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When the source that was sent along will be deleted, where the output outlives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_expires_at: Option<String>,
    /// How far it is.
    pub progress: ProgressView,
    /// Its segments, once it is planned; left out where jobs are listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentState>,
    /// What a user should know: conversions, streams left out, damage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Where the source is sent to, while it is awaited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_url: Option<String>,
    /// Bytes of the source that have come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<u64>,
    /// Where the output is, once it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_url: Option<String>,
    /// Where what was found in it is, once that exists: for jobs that look for something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detections_url: Option<String>,
    /// Where it makes no video, and what is found is its output: `jsonl`, `csv` or `coco`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detections_only: Option<&'static str>,
    /// Whether pictures of its source are kept from clients, because a filter hides something in it.
    pub source_hidden: bool,
}

/// A page of jobs.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JobList {
    /// The jobs, newest first unless asked otherwise.
    pub jobs: Vec<JobView>,
    /// Pass it as `after` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Jobs that match, on all pages.
    pub total: usize,
}

/// A moment as RFC 3339.
pub(crate) fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default()
}
