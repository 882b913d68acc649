//! The schema of the metrics file: documented, versioned, published as JSON Schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::id::{AttemptId, JobId};
use crate::plan::{Engine, Message, PlannedFilter, PlannedStream};

/// Version of the schema. Fields may be added within a version; none changes its meaning.
pub const METRICS_VERSION: u32 = 1;

/// What a finished job tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// [`METRICS_VERSION`].
    pub version: u32,
    /// The job.
    pub job: JobMetrics,
    /// The source.
    pub source: SourceMetrics,
    /// The output.
    pub output: OutputMetrics,
    /// The filters, in order.
    pub pipeline: Vec<PlannedFilter>,
    /// What became of each stream of the source.
    pub streams: Vec<PlannedStream>,
    /// Frames counted.
    pub frames: FrameMetrics,
    /// Milliseconds a frame, by step.
    pub time_per_frame_ms: StepTimes,
    /// Output frames a second of wall time.
    pub effective_fps: f64,
    /// Seconds of video a second of wall time.
    pub realtime_ratio: f64,
    /// Wall time of this run, in seconds.
    pub wall_seconds: f64,
    /// CPU time of this run with all its slots, in seconds.
    pub cpu_seconds: f64,
    /// Mean use of the machine's cores, in percent of all of them.
    pub cpu_utilisation_percent: f64,
    /// Tasks counted.
    pub tasks: TaskMetrics,
    /// How tasks waited.
    pub queue: QueueMetrics,
    /// The slots.
    pub slots: Vec<SlotMetrics>,
    /// Bytes read from the source to find its timeline.
    pub index_bytes_read: u64,
    /// The versions that shape bytes.
    pub engine: Engine,
    /// What was found, where anything was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detections: Option<DetectionMetrics>,
    /// What a user should know: conversions, streams left out, damage.
    pub messages: Vec<Message>,
}

/// What was found in a video, and what was done about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DetectionMetrics {
    /// Frames in which something was hidden.
    pub frames_hidden: u64,
    /// Frames that were hidden whole, because a detector failed on them.
    pub frames_hidden_whole: u64,
    /// Who looked, one a filter that does.
    pub detectors: Vec<DetectorMetrics>,
    /// How long the source is kept, in which what is hidden is to be seen.
    #[serde(default)]
    pub source_kept: SourceKept,
}

/// How long a source is kept after its job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SourceKept {
    /// When it is deleted (RFC 3339), unless somebody deletes the job before; `null` where nothing deletes it.
    pub until: Option<String>,
    /// The same in words: `kept by its owner` where it was never handed over.
    pub words: String,
}

/// What one detecting filter found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DetectorMetrics {
    /// The filter with its parameters, as written.
    pub filter: String,
    /// The detector: a model's or a method's name.
    pub detector: String,
    /// SHA-256 of its model, hexadecimal; empty where it has none.
    pub sha256: String,
    /// What was done with it, e.g. `blur`.
    pub action: String,
    /// Frames with at least one box.
    pub frames: u64,
    /// Boxes in all frames.
    pub boxes: u64,
    /// Boxes of frames in which the detector itself found nothing there.
    pub interpolated: u64,
    /// Things followed.
    pub tracks: u64,
    /// The lowest score of a box that was used; `None` where there is none.
    pub lowest_score: Option<f32>,
}

/// The job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobMetrics {
    /// Its id.
    pub id: JobId,
    /// `succeeded`; the file of a job that did not is not written.
    pub state: String,
    /// Segments in its plan.
    pub segments: u32,
    /// Segments taken over from an earlier, interrupted run.
    pub resumed_segments: u32,
}

/// The source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceMetrics {
    /// Its name as given.
    pub name: String,
    /// FFmpeg's name of the demuxer.
    pub format: String,
    /// FFmpeg's name of the video's codec.
    pub codec: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// FFmpeg's name of the pixel format.
    pub pixel_format: String,
    /// Average frame rate; 0 where unknown.
    pub frame_rate: f64,
    /// Size in bytes.
    pub bytes: u64,
}

/// The output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputMetrics {
    /// Its name as given.
    pub name: String,
    /// Its container.
    pub container: String,
    /// FFmpeg's name of the encoder.
    pub encoder: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// FFmpeg's name of the pixel format.
    pub pixel_format: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Duration in seconds.
    pub duration_seconds: f64,
}

/// Frames counted within one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FrameCounts {
    /// Frames of the source that belong to it.
    pub input: u64,
    /// Frames encoded.
    pub output: u64,
    /// Frames that the decoder had to conceal damage in.
    pub concealed: u64,
    /// Frames decoded, those before and after the segment included.
    pub decoded: u64,
    /// Frames that could not be done and were left out.
    #[serde(default)]
    pub skipped: u64,
    /// Frames that could not be done, for which the one before is shown again.
    #[serde(default)]
    pub held: u64,
    /// Frames that could not be done and stayed as they were.
    #[serde(default)]
    pub original: u64,
}

impl FrameCounts {
    /// Adds what was counted elsewhere. Where somebody counts wrong it ends at the largest number there is.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in [
            (&mut self.input, other.input),
            (&mut self.output, other.output),
            (&mut self.concealed, other.concealed),
            (&mut self.decoded, other.decoded),
            (&mut self.skipped, other.skipped),
            (&mut self.held, other.held),
            (&mut self.original, other.original),
        ] {
            *count = count.saturating_add(more);
        }
    }
}

/// Frames counted over a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FrameMetrics {
    /// Frames of the source.
    #[serde(rename = "in")]
    pub input: u64,
    /// Frames of the output.
    #[serde(rename = "out")]
    pub output: u64,
    /// Frames that belong to tasks which were tried again after a failure.
    pub retried: u64,
    /// The same in percent of `in`.
    pub retried_percent: f64,
    /// Frames that the decoder had to conceal damage in.
    pub concealed: u64,
    /// Frames decoded, those around segments included.
    pub decoded: u64,
    /// Frames whose tasks failed three times and that were left out (`on_error=skip`).
    pub skipped: u64,
    /// The same, for which the frame before is shown again (`on_error=hold`).
    pub held: u64,
    /// The same, that stayed as they were (`on_error=original`).
    pub original: u64,
}

/// Milliseconds a frame by step; the keys are `decode`, `filter.NAME`, `encode` and `total`.
pub type StepTimes = BTreeMap<String, Distribution>;

/// How a quantity is distributed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Greatest.
    pub max: f64,
}

impl Distribution {
    /// The distribution of `values`, which are sorted in place; all zero where there are none.
    ///
    /// A percentile is the smallest value that at least so many percent do not exceed.
    pub fn of(values: &mut [f32]) -> Self {
        values.sort_by(f32::total_cmp);
        let Some(max) = values.last() else { return Self::default() };
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            f64::from(values[rank - 1])
        };
        #[expect(clippy::cast_precision_loss, reason = "a count of frames")]
        let count = values.len() as f64;
        Self {
            mean: values.iter().copied().map(f64::from).sum::<f64>() / count,
            p50: at(50),
            p95: at(95),
            p99: at(99),
            max: f64::from(*max),
        }
    }
}

/// Tasks counted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct TaskMetrics {
    /// Tasks of the job: its plan, its segments, its concat.
    pub total: u32,
    /// Tasks that were tried again after a failure.
    pub retried: u32,
    /// Second attempts made beside slow ones, which are no failures.
    pub speculative: u32,
    /// Every attempt that failed.
    pub failed_attempts: Vec<FailedAttempt>,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FailedAttempt {
    /// The task: `plan`, `segment K` or `concat`.
    pub task: String,
    /// The attempt.
    pub attempt: AttemptId,
    /// Why, with the slot's exit status and last words where it died.
    pub error: Error,
}

/// How tasks waited.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct QueueMetrics {
    /// Samples of how many tasks waited.
    pub depth: Vec<DepthSample>,
    /// How long segments waited from sent to claimed, in milliseconds.
    pub wait_ms: Distribution,
}

/// How many tasks waited at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DepthSample {
    /// Seconds since the run began.
    pub seconds: f64,
    /// Tasks not yet claimed.
    pub waiting: u32,
    /// Tasks claimed and not yet accepted.
    pub running: u32,
}

/// A slot.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SlotMetrics {
    /// Its name within the node.
    pub name: String,
    /// Greatest resident memory seen, in bytes.
    pub peak_rss: u64,
    /// Share of the run in which it had a task, 0..=1.
    pub busy: f64,
    /// Tasks that it ended well.
    pub tasks: u32,
    /// Times that it had to be started anew.
    pub restarts: u32,
}

/// One line of the frame metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FrameLine {
    /// Presentation time in source ticks.
    pub pts: i64,
    /// The segment.
    pub segment: u32,
    /// The attempt that made it.
    pub attempt: AttemptId,
    /// The slot that made it.
    pub slot: String,
    /// Milliseconds by step.
    pub ms: BTreeMap<String, f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let mut values: Vec<f32> = (1..=100).rev().map(|v| v as f32).collect();
        let d = Distribution::of(&mut values);
        assert_eq!((d.mean, d.p50, d.p95, d.p99, d.max), (50.5, 50.0, 95.0, 99.0, 100.0));
        assert_eq!(Distribution::of(&mut [7.0]).p50, 7.0);
        assert_eq!(Distribution::of(&mut []), Distribution::default());
    }
}
