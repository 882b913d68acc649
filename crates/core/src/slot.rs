//! What a worker node and its slot say to each other: length-delimited JSON over one socket pair,
//! beside open descriptors. A slot opens nothing itself.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::id::{AttemptId, JobId};
use crate::metrics::FrameCounts;
use crate::pipeline::FilterSpec;
use crate::plan::{Engine, VideoInfo};
use crate::spec::JobSpec;
use crate::wire::Task;

/// From the node to its slot. The descriptors named travel beside the message, in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum SlotCommand {
    /// Make a plan. Descriptors: source and files of filters (read), plan (write).
    Plan(PlanTask),
    /// Look at a source. Descriptors: source (read), report (write).
    Probe(ProbeTask),
    /// Check a job without its source. Descriptors: none.
    Validate(ValidateTask),
    /// Make a picture of a video. Descriptors: video (read), picture (read and write).
    Picture(PictureTask),
    /// Compare places of an output with its source. Descriptors: output, source, places as JSON (read), sheet
    /// where it is wanted (read and write), report (write).
    Compare(Box<CompareTask>),
    /// Look for things in one segment. Descriptors: source, plan and files of filters (read), what was
    /// found (write).
    Detect(SegmentTask),
    /// Follow what was found. Descriptors: plan (read), tracks (write). The slot asks for what was found
    /// in each segment by [`SlotEvent::Need`].
    Track(TrackTask),
    /// Process one segment. Descriptors: source, plan, files of filters, tracks where there are any
    /// (read), segment (write).
    Segment(SegmentTask),
    /// Join the segments. Descriptors: source, plan, tracks where there are any (read), output (read and
    /// write), frame metrics and detections where they are wanted (write). The slot asks for each segment by
    /// [`SlotEvent::Need`].
    Concat(ConcatTask),
    /// Filter one frame. Descriptors: plan (read), frame that comes back (write), frame and neighbours
    /// in order (read).
    Filter(FilterTask),
    /// The answer to [`SlotEvent::Need`]. Descriptors: the segment (read).
    Segments(NeededSegment),
    /// The answer to [`SlotEvent::Away`] and [`SlotEvent::Back`]. Descriptors: the frame's file, to
    /// be written or to be read.
    Frame(FrameNumber),
    /// The other answer to [`SlotEvent::Back`]: the frame could not be done.
    NoFrame(SlotFailed),
}

/// See [`SlotCommand::Plan`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanTask {
    /// The attempt.
    pub attempt: AttemptId,
    /// The source's file name, a hint for probing.
    pub name: String,
    /// What the user asked for.
    pub spec: JobSpec,
    /// The names of the files that filters take, as the job names them.
    #[serde(default)]
    pub files: Vec<String>,
}

/// See [`SlotCommand::Probe`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeTask {
    /// The source's file name, a hint for probing.
    pub name: String,
}

/// See [`SlotCommand::Validate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidateTask {
    /// What the user asks for.
    pub spec: JobSpec,
}

/// See [`SlotCommand::Picture`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureTask {
    /// The video's file name, a hint for probing.
    pub name: String,
    /// Number of its video stream, where it is not FFmpeg's choice.
    pub stream: Option<u32>,
    /// What to make.
    pub kind: PictureKind,
}

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum PictureKind {
    /// One frame in its full size, as JPEG.
    Frame {
        /// Its number in order of presentation, from 0.
        number: u64,
        /// Frames before this time, in microseconds from the first one, are not counted.
        start_us: Option<i64>,
    },
    /// A few seconds of small frames from all of the video, as animated GIF.
    Gif,
    /// The same as animated WebP.
    Webp,
    /// The same as MP4.
    Mp4,
}

/// See [`SlotCommand::Compare`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompareTask {
    /// The output.
    pub output: ComparedVideo,
    /// Its source.
    pub source: ComparedVideo,
    /// The form of the sheet of all places, where one is wanted.
    pub sheet: Option<SheetForm>,
}

/// A video that is read from its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedVideo {
    /// Its file's name, a hint for probing.
    pub name: String,
    /// What a plan tells of its video stream.
    pub video: VideoInfo,
}

/// The form of a contact sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SheetForm {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
}

/// See [`SlotCommand::Segment`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentTask {
    /// The job; a slot keeps a job's source open between its tasks.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The segment's number.
    pub segment: u32,
    /// Whether to make small pictures of its frames now and then.
    pub previews: bool,
    /// Decoding threads to use; never shapes the output of an undamaged source.
    pub decode_threads: u32,
    /// Bytes that files of frames on their way may take, where frames are tasks.
    pub frame_bytes: u64,
    /// The names of the files that filters take, as the job names them.
    #[serde(default)]
    pub files: Vec<String>,
    /// Whether the tracks of the whole video come along.
    #[serde(default)]
    pub tracks: bool,
    /// Whether previews may show frames as they were before the filters.
    #[serde(default)]
    pub reveals: bool,
}

/// See [`SlotCommand::Filter`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilterTask {
    /// What is to be done.
    pub filters: FrameFilters,
    /// Which of the frames is to come back, from 0.
    pub frame: u32,
}

/// Which filters a frame goes through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "of")]
pub enum FrameFilters {
    /// Some of the plan's.
    Plan {
        /// The first one's number.
        from: u32,
        /// The number behind the last one.
        to: u32,
    },
    /// Those that somebody asks for; there is no plan, and the first descriptor is a frame's.
    Given {
        /// In order.
        filters: Vec<FilterSpec>,
    },
}

/// See [`SlotCommand::Track`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackTask {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The accepted attempts, one a segment.
    pub accepted: Vec<AcceptedSegment>,
}

/// See [`SlotCommand::Concat`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConcatTask {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The accepted attempts and their slots' names, one a segment, for the frame metrics.
    pub accepted: Vec<AcceptedSegment>,
    /// The SHA-256, hexadecimal, of the tracks of the whole video, where they come along.
    #[serde(default)]
    pub tracks: Option<String>,
    /// Whether a line for each frame is wanted.
    #[serde(default)]
    pub frame_metrics: bool,
    /// Whether the detections file is wanted beside the video.
    #[serde(default)]
    pub detections: bool,
}

/// An accepted segment as the joiner needs to know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptedSegment {
    /// The attempt that made it.
    pub attempt: AttemptId,
    /// The slot that made it, as `NODE/SLOT`.
    pub slot: String,
    /// Its file's SHA-256, hexadecimal.
    pub sha256: String,
}

/// See [`SlotCommand::Segments`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeededSegment {
    /// The segment's number.
    pub segment: u32,
}

/// A frame of a segment that is processed elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FrameNumber {
    /// Which filter of the job sends it, from 0.
    pub filter: u32,
    /// Its number among those that this filter has sent, from 0.
    pub number: u64,
    /// Its pts in ticks of the source.
    pub pts: i64,
}

/// From a slot to its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum SlotEvent {
    /// The slot is up and waits for its first task.
    Ready(SlotReady),
    /// A sign of life within a task: so many frames are done.
    Progress(SlotProgress),
    /// What a frame of the task looks like.
    Preview(SlotPreview),
    /// The joiner needs this segment; answered by [`SlotCommand::Segments`].
    Need(NeededSegment),
    /// A frame is about to go elsewhere: the slot needs a file for it.
    Away(FrameNumber),
    /// The frame's file is written.
    Gone(FrameNumber),
    /// The slot needs the frame back, and waits for it.
    Back(FrameNumber),
    /// The task ended well.
    Done(SlotDone),
    /// The task failed.
    Failed(SlotFailed),
}

/// See [`SlotEvent::Ready`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotReady {
    /// The versions that this slot works with.
    pub engine: Engine,
}

/// See [`SlotEvent::Progress`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotProgress {
    /// Frames done in this task so far; for a plan, packets read.
    pub frames: u64,
}

/// See [`SlotEvent::Preview`]. Both are JPEG, in Base64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotPreview {
    /// Before the filters.
    pub before: String,
    /// After them.
    pub after: String,
}

/// See [`SlotEvent::Done`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotDone {
    /// What came of it.
    pub output: TaskOutput,
}

/// See [`SlotEvent::Failed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotFailed {
    /// Why.
    pub error: Error,
}

/// What a task gives back beside its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "task")]
pub enum TaskOutput {
    /// A plan was written.
    Plan(PlanOutput),
    /// A report on a source was written.
    Probe(WrittenFile),
    /// A job was found good as far as that can be said without its source.
    Valid,
    /// A picture was written.
    Picture(WrittenFile),
    /// Places were compared, and the report was written.
    Compared(WrittenFile),
    /// What was found in a segment was written.
    Detect(SegmentOutput),
    /// Tracks were written.
    Track(TrackOutput),
    /// A segment was written.
    Segment(SegmentOutput),
    /// A frame was written.
    Frame,
    /// The output was written.
    Concat(ConcatOutput),
}

impl TaskOutput {
    /// The file that a task of this kind has written; `None` where it is another kind's output.
    pub fn file_of(&self, task: Task) -> Option<&WrittenFile> {
        match (task, self) {
            (Task::Plan, Self::Plan(output)) => Some(&output.file),
            (Task::Detect(_), Self::Detect(output)) => Some(&output.file),
            (Task::Track, Self::Track(output)) => Some(&output.file),
            (Task::Segment(_), Self::Segment(output)) => Some(&output.file),
            (Task::Concat, Self::Concat(output)) => Some(&output.file),
            _ => None,
        }
    }
}

/// The file that a task wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, hexadecimal; empty for the joined output and for pictures, which are not read again.
    pub sha256: String,
}

/// See [`TaskOutput::Plan`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanOutput {
    /// The plan's file.
    pub file: WrittenFile,
    /// Segments of the plan.
    pub segments: u32,
}

/// See [`TaskOutput::Segment`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentOutput {
    /// The segment's file.
    pub file: WrittenFile,
    /// Frames counted.
    pub frames: FrameCounts,
    /// CPU time of the task in microseconds.
    pub cpu_us: u64,
    /// Wall time of the task in microseconds.
    pub wall_us: u64,
}

/// See [`TaskOutput::Track`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackOutput {
    /// The tracks' file.
    pub file: WrittenFile,
    /// Frames that they tell of.
    pub frames: u64,
    /// Time a frame of what looked for things.
    pub time_per_frame_ms: crate::metrics::StepTimes,
}

/// See [`TaskOutput::Concat`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConcatOutput {
    /// The output's file.
    pub file: WrittenFile,
    /// Frames written.
    pub frames: u64,
    /// Duration of the output in microseconds.
    pub duration_us: i64,
    /// Time a frame, over all frames of all segments.
    pub time_per_frame_ms: crate::metrics::StepTimes,
    /// Messages that only the joiner could know.
    pub messages: Vec<crate::plan::Message>,
    /// What was found, where anything was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detections: Option<crate::metrics::DetectionMetrics>,
}
