//! One job of a server: what was asked for, and where it stands.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use frameloom_core::id::{EngineId, JobId};
use frameloom_core::metrics::SourceKept;
use frameloom_core::plan::{Plan, Segment};
use frameloom_core::spec::DetectionsFormat;
use frameloom_core::wire::{End, JobFile, Submission, Task};
use frameloom_core::{Error, ErrorKind};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Kept;
use super::events::EventLog;
use super::problem::{problem, status};
use super::sight::Sight;
use super::view::{JobView, ProgressView, SegmentState, State, rfc3339};
use crate::engine::{JobEvent, Progress, Stage};
use crate::summary;

/// A job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) file: JobFile,
    pub(crate) submission: Submission,
    /// What its filters do with what is to be seen in it.
    pub(crate) sight: Sight,
    pub(crate) events: EventLog,
    live: Mutex<Live>,
    /// Held by whoever decides about it while it is not at work.
    deciding: Mutex<()>,
    ended: watch::Sender<bool>,
    /// Held by whoever writes to its upload.
    pub(crate) writer: tokio::sync::Mutex<()>,
}

/// What changes while a job is at work.
#[derive(Debug)]
struct Live {
    state: State,
    waiting: Option<String>,
    uploaded: u64,
    begun: Instant,
    /// When the stage began whose frames are counted.
    since: Instant,
    /// How long it took, once it is over.
    took: Option<Duration>,
    /// Frames that were done before this server began it.
    before: Option<u64>,
    rate: f64,
    total: Option<u64>,
    progress: Progress,
    segments: Vec<SegmentState>,
    /// The segment of each piece in which things are looked for, and how many pieces of each segment that was not done in yet.
    pieces: Vec<usize>,
    pieces_left: Vec<u32>,
    messages: Vec<String>,
    error: Option<Error>,
    ended_ms: Option<i64>,
    cancel: CancellationToken,
    /// The engine that is to plan it anew once what is at work has stopped.
    new_planner: Option<EngineId>,
    told: Option<Instant>,
}

impl Job {
    /// A job that is not begun.
    pub(crate) fn new(file: JobFile, submission: Submission, sight: Sight) -> Self {
        let live = Live {
            state: State::Queued,
            waiting: submission.upload.then(|| "upload".to_owned()),
            uploaded: 0,
            begun: Instant::now(),
            since: Instant::now(),
            took: None,
            before: None,
            rate: 0.0,
            total: None,
            progress: Progress::default(),
            segments: Vec::new(),
            pieces: Vec::new(),
            pieces_left: Vec::new(),
            messages: Vec::new(),
            error: None,
            ended_ms: None,
            cancel: CancellationToken::new(),
            new_planner: None,
            told: None,
        };
        Self {
            file,
            submission,
            sight,
            events: EventLog::default(),
            live: Mutex::new(live),
            deciding: Mutex::default(),
            ended: watch::channel(false).0,
            writer: tokio::sync::Mutex::new(()),
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from deciding about it while it is not at work.
    pub(crate) fn deciding(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> JobId {
        self.file.id
    }

    pub(crate) fn state(&self) -> State {
        self.live().state
    }

    /// When it ended, in milliseconds since 1970.
    pub(crate) fn ended_ms(&self) -> Option<i64> {
        self.live().ended_ms
    }

    /// Whether its source is still awaited.
    pub(crate) fn awaits_upload(&self) -> bool {
        let live = self.live();
        live.state == State::Queued && live.waiting.as_deref() == Some("upload")
    }

    pub(crate) fn error(&self) -> Option<Error> {
        self.live().error.clone()
    }

    pub(crate) fn progress(&self) -> Progress {
        self.live().progress
    }

    /// Stops what is at work for it.
    pub(crate) fn stop(&self) {
        self.live().new_planner = None;
        self.stopping().cancel();
    }

    /// Stops what is at work for it, which is then planned anew by this engine.
    pub(crate) fn plan_anew_by(&self, engine: EngineId) {
        self.live().new_planner = Some(engine);
        self.stopping().cancel();
    }

    /// Which engine is to plan it anew; told once.
    pub(crate) fn take_new_planner(&self) -> Option<EngineId> {
        let mut live = self.live();
        live.progress.no_node = None;
        live.new_planner.take()
    }

    /// Cancelled once what is at work for it is to stop.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.live().cancel.clone()
    }

    /// Bytes of the source that have come.
    pub(crate) fn uploaded(&self) -> u64 {
        self.live().uploaded
    }

    /// Bytes of the source that have come.
    pub(crate) fn set_uploaded(&self, bytes: u64) {
        self.live().uploaded = bytes;
    }

    /// It is about to be run; answers what stops it.
    pub(crate) fn begin(&self) -> CancellationToken {
        let mut live = self.live();
        live.cancel = CancellationToken::new();
        live.waiting = None;
        live.error = None;
        live.ended_ms = None;
        live.begun = Instant::now();
        live.since = live.begun;
        live.took = None;
        live.before = None;
        let token = live.cancel.clone();
        drop(live);
        self.events.clear();
        self.ended.send_replace(false);
        self.enter(State::Planning);
        token
    }

    /// Says what it waits for, or that it no longer does.
    pub(crate) fn wait_for(&self, what: Option<&str>) {
        let mut live = self.live();
        if live.waiting.as_deref() != what {
            live.waiting = what.map(str::to_owned);
            let state = live.state;
            drop(live);
            self.events.push("state", &json!({ "state": state, "waiting": what }));
        }
    }

    fn enter(&self, state: State) {
        let mut live = self.live();
        if live.state == state {
            return;
        }
        live.state = state;
        drop(live);
        self.events.push("state", &json!({ "state": state }));
    }

    /// It is over.
    pub(crate) fn end(&self, end: End, error: Option<Error>, at_ms: i64) {
        let mut live = self.live();
        live.error = error;
        live.ended_ms = Some(at_ms);
        live.took = Some(live.begun.elapsed());
        live.waiting = None;
        drop(live);
        self.enter(match end {
            End::Succeeded => State::Succeeded,
            End::Failed => State::Failed,
            End::Cancelled => State::Cancelled,
        });
        let view = self.view(Kept::default());
        let data = serde_json::to_value(&view).unwrap_or(Value::Null);
        self.events.push("end", &data);
        self.ended.send_replace(true);
    }

    /// Waits until it is over.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as the job.
        drop(ended.wait_for(|ended| *ended).await);
    }

    /// Hears what the engine tells.
    pub(crate) fn hear(&self, event: JobEvent) {
        match event {
            JobEvent::Planned { plan, resumed } => self.planned(&plan, resumed),
            JobEvent::Started { task, attempt, slot_pid } => {
                self.mark(task, |before| match before {
                    SegmentState::Retried => SegmentState::Retried,
                    _ => SegmentState::Running,
                });
                if task == Task::Concat {
                    self.enter(State::Assembling);
                }
                self.task(task, "started", json!({ "attempt": attempt, "slot_pid": slot_pid }));
            }
            JobEvent::Accepted { task, attempt, .. } => {
                self.mark(task, |_| done(task));
                self.task(task, "accepted", json!({ "attempt": attempt }));
            }
            JobEvent::Failed { task, attempt, error, retried } => {
                self.mark(task, |_| SegmentState::Retried);
                let more = json!({ "attempt": attempt, "error": error, "retried": retried });
                self.task(task, "failed", more);
            }
            JobEvent::Progress(progress) => {
                let mut live = self.live();
                let looks = |stage| matches!(stage, Stage::Detecting | Stage::Tracking);
                if looks(live.progress.stage) && !looks(progress.stage) {
                    // Its frames are counted from the first again.
                    (live.before, live.since) = (Some(0), Instant::now());
                }
                live.progress = progress;
                live.before.get_or_insert(progress.frames);
                let due = live.told.is_none_or(|told| told.elapsed().as_millis() >= 200);
                if due {
                    live.told = Some(Instant::now());
                    let view = live.view();
                    drop(live);
                    let data = serde_json::to_value(&view).unwrap_or(Value::Null);
                    self.events.push("progress", &data);
                }
            }
        }
    }

    fn planned(&self, plan: &Plan, resumed: u32) {
        let mut live = self.live();
        live.rate = plan.source.video.frame_rate.to_f64();
        let trimmed = plan.trim.start.is_some() || plan.trim.end.is_some();
        live.total = plan.source.video.frames.filter(|_| !trimmed);
        live.segments = vec![SegmentState::Waiting; plan.segments.len()];
        live.pieces = segments_of_pieces(plan);
        let mut left = vec![0; plan.segments.len()];
        for segment in &live.pieces {
            left[*segment] += 1;
        }
        live.pieces_left = left;
        live.messages = plan.messages.iter().map(|m| m.text.clone()).collect();
        let data = json!({
            "segments": plan.segments.len(), "resumed": resumed, "frames": live.total,
            "reason": plan.reason, "messages": live.messages,
        });
        drop(live);
        self.events.push("planned", &data);
        self.enter(State::Running);
    }

    /// Marks segments that an earlier run has done.
    pub(crate) fn mark_done(&self, tasks: &[Task]) {
        for task in tasks {
            self.mark(*task, |_| done(*task));
        }
    }

    fn mark(&self, task: Task, change: impl FnOnce(SegmentState) -> SegmentState) {
        let Some(k) = task.segment() else { return };
        let mut live = self.live();
        let live = &mut *live;
        let segment = match task {
            Task::Detect(_) => live.pieces.get(k as usize).copied(),
            _ => Some(k as usize),
        };
        let Some(segment) = segment else { return };
        let Some(state) = live.segments.get_mut(segment).filter(|s| **s != SegmentState::Done)
        else {
            return;
        };
        *state = change(*state);
        if *state == SegmentState::Detected
            && let Some(left) = live.pieces_left.get_mut(segment)
        {
            *left = left.saturating_sub(1);
            if *left > 0 {
                *state = SegmentState::Running;
            }
        }
    }

    fn task(&self, task: Task, state: &str, more: Value) {
        let mut event = json!({ "task": task.kind(), "state": state, "segment": task.segment() });
        if let (Value::Object(event), Value::Object(more)) = (&mut event, more) {
            event.extend(more);
        }
        self.events.push("task", &event);
    }

    /// As clients see it; what belongs to a finished job is kept for so long.
    pub(crate) fn view(&self, kept: Kept) -> JobView {
        let live = self.live();
        let id = self.id().to_string();
        let s = &self.submission;
        let awaits = live.state == State::Queued && live.waiting.as_deref() == Some("upload");
        let after = |keep: Option<i64>| {
            live.ended_ms.zip(keep).map(|(ended, keep)| rfc3339(ended.saturating_add(keep)))
        };
        let made = live.state == State::Succeeded;
        JobView {
            state: live.state,
            waiting: live.waiting.clone(),
            owner: s.owner.clone(),
            name: self.file.source.name.clone(),
            filters: self.file.spec.filters.iter().map(ToString::to_string).collect(),
            container: self.file.spec.container.to_string(),
            priority: s.priority,
            created_at: rfc3339(s.created_ms),
            ended_at: live.ended_ms.map(rfc3339),
            expires_at: after(if made { kept.output } else { kept.source }),
            source_expires_at: after(kept.source.filter(|_| made && s.upload)),
            progress: live.view(),
            segments: live.segments.clone(),
            messages: live.messages.clone(),
            error: live.error.as_ref().map(|error| problem(error, status(error.kind()))),
            upload_url: awaits.then(|| format!("/v1/uploads/{id}")),
            uploaded: s.upload.then_some(live.uploaded),
            output_url: made.then(|| format!("/v1/jobs/{id}/output")),
            detections_url: (made && self.sight.looks)
                .then(|| format!("/v1/jobs/{id}/detections.jsonl")),
            detections_only: self.file.spec.detections_only.map(DetectionsFormat::name),
            source_hidden: self.hides_source(),
            id,
        }
    }

    /// How long its source is kept where it has succeeded at `at_ms`.
    pub(crate) fn source_kept(&self, kept: Kept, at_ms: i64) -> SourceKept {
        if !self.submission.upload {
            return summary::kept_by_owner();
        }
        // With the output all goes that belongs to a job.
        let keep = kept.source.into_iter().chain(kept.output).min();
        match keep.map(|keep| rfc3339(at_ms.saturating_add(keep))) {
            Some(at) => {
                SourceKept { words: format!("deleted by the server at {at}"), until: Some(at) }
            }
            None => SourceKept {
                until: None,
                words: "kept by the server until the job is deleted".into(),
            },
        }
    }

    /// Whether pictures of its source are kept from clients.
    pub(crate) fn hides_source(&self) -> bool {
        self.sight.hides && !self.file.spec.reveal_previews
    }

    /// Why it cannot be stopped, retried or read, as its state is.
    pub(crate) fn conflict(&self, what: &str) -> Error {
        let state = self.state().name();
        Error::new(ErrorKind::Conflict, format!("job {} is {state}; {what}", self.id()))
    }
}

/// The segment of each piece of a plan in which things are looked for.
fn segments_of_pieces(plan: &Plan) -> Vec<usize> {
    let pieces = plan.detection.as_ref().map_or(&[][..], |detection| &detection.pieces);
    let mut at = 0;
    pieces
        .iter()
        .map(|piece| {
            let begins = |s: &Segment| s.interval.start <= piece.interval.start;
            while plan.segments.get(at + 1).is_some_and(begins) {
                at += 1;
            }
            at
        })
        .collect()
}

/// Where the segment of a task that is done stands.
fn done(task: Task) -> SegmentState {
    match task {
        Task::Detect(_) => SegmentState::Detected,
        _ => SegmentState::Done,
    }
}

impl Live {
    #[expect(clippy::cast_precision_loss, reason = "counts of frames, for display")]
    fn view(&self) -> ProgressView {
        let p = self.progress;
        let done = p.frames.saturating_sub(self.before.unwrap_or(0)) as f64;
        let took = self.took.unwrap_or_else(|| self.since.elapsed());
        let fps = done / took.as_secs_f64().max(1e-3);
        let left = self.total.map(|total| total.saturating_sub(p.frames) as f64);
        let percent =
            self.total.map(|total| (p.frames as f64 * 100.0 / total.max(1) as f64).min(100.0));
        ProgressView {
            stage: p.stage.name(),
            frames: p.frames,
            total: self.total,
            percent,
            fps,
            realtime_ratio: (self.rate > 0.0).then(|| fps / self.rate),
            eta_seconds: left.filter(|_| fps > 0.0).map(|left| left / fps),
            waiting: p.waiting,
            running: p.running,
            retried: p.retried,
        }
    }
}
