//! The metrics of a job that ended well.

use std::time::Duration;

use frameloom_core::metrics::{
    DetectionMetrics, Distribution, FrameMetrics, JobMetrics, METRICS_VERSION, Metrics,
    OutputMetrics, QueueMetrics, SlotMetrics, SourceKept, SourceMetrics, TaskMetrics,
};
use frameloom_core::wire::JobFile;

use crate::engine::JobOutcome;

/// What only the process that ran the job knows.
pub struct RunFacts {
    /// The output's name as given.
    pub output_name: String,
    /// Wall time of this run.
    pub wall: Duration,
    /// CPU time of this run with all its slots.
    pub cpu: Duration,
    /// Cores of the machine.
    pub cores: usize,
    /// Its slots.
    pub slots: Vec<SlotMetrics>,
    /// How long the source is kept.
    pub source_kept: SourceKept,
}

/// A source that was not handed over: nothing here deletes it.
pub fn kept_by_owner() -> SourceKept {
    SourceKept { until: None, words: "kept by its owner".into() }
}

/// Puts together what a job tells of itself.
#[expect(clippy::cast_precision_loss, reason = "counts of frames and bytes, for display")]
pub fn metrics(job: &JobFile, outcome: &JobOutcome, facts: RunFacts) -> Metrics {
    let (plan, concat, scheduler) = (&outcome.plan, &outcome.concat, &outcome.scheduler);
    let video = &plan.source.video;
    let wall = facts.wall.as_secs_f64().max(1e-9);
    let cpu = facts.cpu.as_secs_f64();
    let duration_seconds = concat.duration_us as f64 / 1e6;
    let frames = &outcome.frames;
    let mut waited = outcome.waited_ms.clone();
    let mut messages = plan.messages.clone();
    messages.extend(concat.messages.iter().cloned());
    if frames.concealed > 0 {
        let text = format!("{} damaged frames were concealed by the decoder", frames.concealed);
        messages.push(frameloom_core::plan::Message::new("frames_concealed", text));
    }
    Metrics {
        version: METRICS_VERSION,
        job: JobMetrics {
            id: job.id,
            state: "succeeded".into(),
            segments: u32::try_from(plan.segments.len()).unwrap_or(u32::MAX),
            resumed_segments: scheduler.resumed(),
        },
        source: SourceMetrics {
            name: plan.source.name.clone(),
            format: plan.source.format.clone(),
            codec: video.codec.clone(),
            width: video.width,
            height: video.height,
            pixel_format: video.pixel_format.clone(),
            frame_rate: video.frame_rate.to_f64(),
            bytes: plan.source.fingerprint.size,
        },
        output: OutputMetrics {
            name: facts.output_name,
            container: plan.output.container.to_string(),
            encoder: plan.encoder.name.clone(),
            width: plan.output.width,
            height: plan.output.height,
            pixel_format: plan.output.pixel_format.clone(),
            bytes: concat.file.size,
            duration_seconds,
        },
        pipeline: plan.filters.clone(),
        streams: plan.streams.clone(),
        frames: FrameMetrics {
            input: frames.input,
            output: concat.frames,
            retried: outcome.retried_frames,
            retried_percent: outcome.retried_frames as f64 * 100.0 / (frames.input.max(1) as f64),
            concealed: frames.concealed,
            decoded: frames.decoded,
            skipped: frames.skipped,
            held: frames.held,
            original: frames.original,
        },
        time_per_frame_ms: concat.time_per_frame_ms.clone(),
        effective_fps: concat.frames as f64 / wall,
        realtime_ratio: duration_seconds / wall,
        wall_seconds: wall,
        cpu_seconds: cpu,
        cpu_utilisation_percent: cpu * 100.0 / wall / facts.cores.max(1) as f64,
        tasks: TaskMetrics {
            total: scheduler.total(),
            retried: u32::try_from(scheduler.retried().len()).unwrap_or(u32::MAX),
            speculative: scheduler.speculative(),
            failed_attempts: scheduler.failures().to_vec(),
        },
        queue: QueueMetrics {
            depth: outcome.depth.clone(),
            wait_ms: Distribution::of(&mut waited),
        },
        slots: facts.slots,
        index_bytes_read: plan.index_bytes_read,
        engine: plan.engine.clone(),
        detections: concat
            .detections
            .clone()
            .map(|found| DetectionMetrics { source_kept: facts.source_kept, ..found }),
        messages,
    }
}
