//! What a user sees of a run: a bar on a terminal, a line now and then elsewhere, JSON on request.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use frameloom_core::id::AttemptId;
use frameloom_core::plan::Plan;
use frameloom_core::time::{Rounding, TimeBase};
use frameloom_core::wire::Task;
use frameloom_server::engine::{JobEvent, Progress, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// How often a line comes where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// How often a JSON line tells of progress.
const JSON_EVERY: Duration = Duration::from_millis(250);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// A bar on a terminal, lines elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// A line every few seconds.
    Lines,
    /// JSON, an event a line.
    Json,
    /// None: only what there is to say beside, and at the end.
    None,
}

enum Shown {
    Bar(ProgressBar),
    Lines,
    Json,
    None,
    Nothing,
}

/// Shows what happens to a job: on standard error, and JSON on standard output.
pub(crate) struct Display {
    shown: Shown,
    begun: Instant,
    told: Option<Instant>,
    total: Option<u64>,
    rate: f64,
    /// Frames that were done before this run.
    before: u64,
    /// Frames and time when the current speed was last taken.
    speed: (u64, Instant, f64),
    stage: Stage,
    tasks: u32,
    slots: usize,
    /// The slot of each attempt that was begun.
    pids: HashMap<AttemptId, u32>,
}

impl Display {
    /// A display of `style`, or none of anything; `slots` is how many segments are done at a time.
    pub(crate) fn new(style: Option<Style>, slots: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let shown = match style {
            None => Shown::Nothing,
            Some(Style::Auto) if !terminal => Shown::Lines,
            Some(Style::Auto | Style::Bar) => {
                let bar =
                    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
                let template = "{bar:30} {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                Shown::Bar(bar)
            }
            Some(Style::Lines) => Shown::Lines,
            Some(Style::Json) => Shown::Json,
            Some(Style::None) => Shown::None,
        };
        let now = Instant::now();
        Self {
            shown,
            begun: now,
            told: None,
            total: None,
            rate: 0.0,
            before: 0,
            speed: (0, now, 0.0),
            stage: Stage::Planning,
            tasks: 0,
            slots,
            pids: HashMap::new(),
        }
    }

    /// Says something beside the progress.
    pub(crate) fn say(&self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| line(text)),
            Shown::Lines | Shown::None => line(text),
            Shown::Json => json_line(&json!({ "event": "message", "text": text })),
            Shown::Nothing => {}
        }
    }

    /// Shows an event.
    pub(crate) fn event(&mut self, event: &JobEvent) {
        match event {
            JobEvent::Planned { plan, resumed } => self.planned(plan, *resumed),
            JobEvent::Started { task, attempt, slot_pid } => {
                self.pids.insert(*attempt, *slot_pid);
                self.task(*task, "started", *attempt, json!({}));
            }
            JobEvent::Accepted { task, attempt, .. } => {
                self.task(*task, "accepted", *attempt, json!({}));
            }
            JobEvent::Failed { task, attempt, error, retried } => {
                let more = json!({ "error": error, "retried": retried });
                self.task(*task, "failed", *attempt, more);
                if *retried && !matches!(self.shown, Shown::Json) {
                    self.say(&format!("{task} is tried again: {error}"));
                }
            }
            JobEvent::Progress(progress) => self.progress(*progress),
        }
    }

    fn planned(&mut self, plan: &Plan, resumed: u32) {
        let video = &plan.source.video;
        self.rate = video.frame_rate.to_f64();
        let stages = plan.stages();
        self.tasks = stages.pieces + stages.segments * u32::from(stages.render);
        let trimmed = plan.trim.start.is_some() || plan.trim.end.is_some();
        self.total = if trimmed { expected(plan) } else { video.frames.or_else(|| expected(plan)) };
        if let Shown::Json = self.shown {
            json_line(&json!({
                "event": "planned", "segments": stages.segments, "resumed": resumed,
                "frames": self.total, "reason": plan.reason,
            }));
        }
        for message in &plan.messages {
            self.say(&format!("note: {}", message.text));
        }
        if resumed > 0 {
            let all = self.tasks;
            self.say(&format!("going on: {resumed} of {all} segments were done before"));
        }
    }

    fn task(&self, task: Task, state: &str, attempt: AttemptId, more: Value) {
        if !matches!(self.shown, Shown::Json) {
            return;
        }
        let mut event = json!({ "event": "task", "state": state });
        if let Some(k) = task.segment() {
            event["segment"] = json!(k);
        }
        event["task"] = json!(task.kind());
        event["attempt"] = json!(attempt);
        event["slot_pid"] = json!(self.pids.get(&attempt));
        if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
            event.extend(more);
        }
        json_line(&event);
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of frames, for display")]
    fn progress(&mut self, progress: Progress) {
        if self.stage != progress.stage && progress.stage == Stage::Running {
            // Its frames are counted from the first again.
            (self.before, self.begun, self.speed) = (0, Instant::now(), (0, Instant::now(), 0.0));
        }
        self.stage = progress.stage;
        if self.before == 0 && self.told.is_none() {
            self.before = progress.frames;
            self.speed = (progress.frames, Instant::now(), 0.0);
        }
        let every = match self.shown {
            Shown::Bar(_) => Duration::from_millis(100),
            Shown::Lines => LINE_EVERY,
            Shown::Json => JSON_EVERY,
            Shown::None | Shown::Nothing => return,
        };
        if self.told.is_some_and(|told| told.elapsed() < every) {
            return;
        }
        let first = self.told.is_none();
        self.told = Some(Instant::now());
        let (frames, since, _) = self.speed;
        if since.elapsed() >= Duration::from_secs(1) {
            let fps = progress.frames.saturating_sub(frames) as f64 / since.elapsed().as_secs_f64();
            self.speed = (progress.frames, Instant::now(), fps);
        }
        let done = progress.frames.saturating_sub(self.before) as f64;
        let mean = done / self.begun.elapsed().as_secs_f64().max(1e-3);
        let now = if self.speed.2 > 0.0 { self.speed.2 } else { mean };
        let left = self.total.map(|total| total.saturating_sub(progress.frames) as f64);
        let eta = left.filter(|_| mean > 0.0).map(|left| left / mean);
        let percent = self
            .total
            .map(|total| (progress.frames as f64 * 100.0 / total.max(1) as f64).min(100.0));
        if let Shown::Json = self.shown {
            json_line(&json!({
                "event": "progress", "frames": progress.frames, "total": self.total,
                "percent": percent, "fps": now, "mean_fps": mean, "eta_seconds": eta,
                "realtime_ratio": if self.rate > 0.0 { Some(mean / self.rate) } else { None },
                "waiting": progress.waiting, "running": progress.running,
                "retried": progress.retried, "stage": progress.stage.name(),
            }));
            return;
        }
        let mut text = match (percent, self.total) {
            (Some(percent), Some(total)) => {
                format!("{}/{total} frames {percent:.0}%", progress.frames)
            }
            _ => format!("{} frames", progress.frames),
        };
        text += &format!("  {now:.1} fps (mean {mean:.1}");
        if self.rate > 0.0 {
            text += &format!(", {:.2}x real time", mean / self.rate);
        }
        text += ")";
        if let Some(eta) = eta {
            text += &format!("  {} left", clock(eta));
        }
        match progress.stage {
            Stage::Planning | Stage::Running => {}
            other => text += &format!("  {}", other.name()),
        }
        if !matches!(progress.stage, Stage::Tracking | Stage::Joining) {
            text +=
                &format!("  {}/{} slots", (progress.running as usize).min(self.slots), self.slots);
        }
        if progress.retried > 0 {
            text += &format!("  {} tried again", progress.retried);
        }
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_length(self.total.unwrap_or(0));
                bar.set_position(progress.frames.min(self.total.unwrap_or(0)));
                bar.set_message(text);
            }
            _ if first => {}
            _ => line(&text),
        }
    }

    /// Tells how the run ended.
    pub(crate) fn summary(&self, text: &str, metrics: &frameloom_core::metrics::Metrics) {
        self.end();
        match &self.shown {
            Shown::Json => json_line(&json!({
                "event": "done", "output": metrics.output.name, "frames": metrics.frames.output,
                "fps": metrics.effective_fps, "wall_seconds": metrics.wall_seconds,
                "retried": metrics.tasks.retried, "bytes": metrics.output.bytes,
            })),
            Shown::Nothing => {}
            _ => line(text),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// Frames that a plan's part of the timeline should hold, by time and rate.
fn expected(plan: &Plan) -> Option<u64> {
    let video = &plan.source.video;
    let frame = TimeBase::new(video.frame_rate.den, video.frame_rate.num).ok()?;
    let start = plan.trim.start.or(video.start_pts)?;
    let whole = plan.source.duration_us.and_then(|us| video.time_base.ticks_of_micros(us));
    let end = match (plan.trim.end, whole) {
        (Some(end), Some(whole)) => end.min(video.start_pts?.saturating_add(whole)),
        (Some(end), None) => end,
        (None, whole) => video.start_pts?.saturating_add(whole?),
    };
    let frames = video.time_base.rescale(end.saturating_sub(start), frame, Rounding::Nearest)?;
    u64::try_from(frames).ok()
}

/// `1:02:03`, `2:03`.
fn clock(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "for display; saturates"
    )]
    let seconds = seconds.max(0.0).ceil() as u64;
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

fn line(text: &str) {
    // Nobody may be listening any more.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Events are for programs, which read standard output.
fn json_line(value: &Value) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{value}").and_then(|()| out.flush()));
}
