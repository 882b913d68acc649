//! A worker node: takes tasks from the broker, claims them, has its slots do them, publishes what
//! they made, and tells that it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use frameloom_broker::Broker;
use frameloom_broker::celery::{Active, Celery, Events, Steered};
use frameloom_core::id::{AttemptId, EngineId, JobId, NodeId};
use frameloom_core::metrics::SlotMetrics;
use frameloom_core::plan::Plan;
use frameloom_core::slot::{
    AcceptedSegment, ConcatTask, PlanTask, SegmentTask, SlotCommand, SlotPreview, TaskOutput,
    TrackTask,
};
use frameloom_core::spec::SpecFile;
use frameloom_core::wire::{
    AttemptReport, Beat, Decision, HeldAttempt, JobFile, NodeInfo, Outcome, PROTOCOL, Queue, Task,
    TaskMessage,
};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::journal;
use frameloom_server::store::{DETECTIONS, FRAMES, JobDir, Pending, Store};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::frames::{self, Carriers, Depths, Frames, MIB, Performed, Worker};
use crate::slot::parent::{Job, Slot, SlotConfig, Trouble};

/// How long a slot takes nothing after it could not claim, or was told of no task.
const PAUSE: Duration = Duration::from_secs(5);

/// How often is looked whether a segment that waits for room is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// After how long a small write that failed is tried again, where somebody waits to hear that it is hopeless.
const TRY_AGAIN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1000)];

/// How long signs of life may fail before it is hopeless: the engine believes a node for longer.
const SILENT_AT_MOST: Duration = Duration::from_secs(3);

/// Jobs whose plan is remembered.
const MOST_PLANS: usize = 10_000;

/// How a node works.
#[derive(Clone)]
pub(crate) struct NodeConfig {
    /// Its name, for people.
    pub(crate) name: String,
    /// Segments done at a time.
    pub(crate) slots: usize,
    /// Segments that need a GPU done at a time, beside the others.
    pub(crate) gpu_slots: usize,
    /// Frames filtered at a time, beside the segments.
    pub(crate) frame_slots: usize,
    /// Whether it does short tasks, too.
    pub(crate) control: bool,
    /// Whether it lives within the server's process.
    pub(crate) within_server: bool,
    /// What carries frames to Celery workers.
    pub(crate) celery: Option<Arc<Celery>>,
    /// Where named roots of sources lie on this machine.
    pub(crate) roots: BTreeMap<String, PathBuf>,
    /// How its slots are run.
    pub(crate) slot: SlotConfig,
    /// How often it tells that it lives.
    pub(crate) beat: Duration,
    /// Hears that the store takes nothing, where its job ends by that instead of waiting until it does.
    pub(crate) hopeless: Option<mpsc::Sender<Error>>,
}

/// A node at work.
pub(crate) struct Node {
    id: NodeId,
    store: Arc<Store>,
    broker: Arc<dyn Broker>,
    /// Notified when there is something to read on the store.
    wake: Arc<Notify>,
    config: NodeConfig,
    info: NodeInfo,
    held: Mutex<BTreeMap<AttemptId, Held>>,
    /// Attempts that somebody wants stopped.
    revoked: Mutex<BTreeSet<AttemptId>>,
    /// Takes no new task once cancelled.
    drained: CancellationToken,
    /// Takes no plans and joins any more once cancelled.
    apart: CancellationToken,
    /// Tells tools what becomes of tasks.
    events: OnceLock<Events>,
    /// Tasks that ended well, and that did not.
    ended: Mutex<(u64, u64)>,
    /// The same of frames; those that nobody waited for any more did not.
    frames_ended: Mutex<(u64, u64)>,
    /// Segment slots without work.
    free: Mutex<u32>,
    /// Those for segments that need a GPU.
    free_gpu: Mutex<u32>,
    changed: Notify,
    /// What was accepted of each job worked on.
    known: Mutex<BTreeMap<JobId, Known>>,
    /// MiB that files of frames may still take.
    frame_budget: Semaphore,
    /// Notified when a frame is done.
    frame_done: Arc<Notify>,
    /// What its frame slots share.
    framing: Arc<frames::Shared>,
    /// How many messages wait in the queues of frames.
    depths: Arc<Depths>,
}

/// A plan whose frames are tasks.
struct FramePlan<'a> {
    made_by: AttemptId,
    plan: Plan,
    bytes: u64,
    _permit: SemaphorePermit<'a>,
}

/// The accepted attempts of a job that its segments need.
#[derive(Debug, Clone, Copy)]
struct Known {
    plan: AttemptId,
    /// The tracks, where there are any; not known before the segments are processed.
    track: Option<Option<AttemptId>>,
}

impl Known {
    /// What the decisions so far tell.
    fn of(accepted: &[AttemptReport], task: Task) -> Option<Self> {
        let last = |task| {
            let report = accepted.iter().rev().find(|report| report.task == task);
            report.map(|report| report.attempt)
        };
        let track = matches!(task, Task::Segment(_) | Task::Concat).then(|| last(Task::Track));
        Some(Self { plan: last(Task::Plan)?, track })
    }

    /// Whether it is enough for a task.
    fn serves(self, task: Task) -> bool {
        match task {
            Task::Detect(_) => true,
            Task::Segment(_) => self.track.is_some(),
            Task::Plan | Task::Track | Task::Concat => false,
        }
    }
}

/// An attempt at work.
#[derive(Debug, Clone)]
struct Held {
    told: HeldAttempt,
    task: Task,
    since: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A node that has not begun yet.
    pub(crate) fn new(
        id: NodeId,
        store: Arc<Store>,
        broker: Arc<dyn Broker>,
        wake: Arc<Notify>,
        config: NodeConfig,
    ) -> Arc<Self> {
        let slots = u32::try_from(config.slots).unwrap_or(u32::MAX);
        let gpu_slots = u32::try_from(config.gpu_slots).unwrap_or(u32::MAX);
        let (free, free_gpu) = (Mutex::new(slots), Mutex::new(gpu_slots));
        let host = crate::cmd::host_name();
        let info = NodeInfo {
            name: config.name.clone(),
            host,
            pid: std::process::id(),
            slots,
            gpu_slots,
            engine: frameloom_media::engine(),
            protocol: PROTOCOL,
            within_server: config.within_server,
            started_ms: jiff::Timestamp::now().as_millisecond(),
        };
        Arc::new(Self {
            id,
            store,
            broker,
            wake,
            config,
            info,
            held: Mutex::new(BTreeMap::new()),
            revoked: Mutex::new(BTreeSet::new()),
            drained: CancellationToken::new(),
            apart: CancellationToken::new(),
            events: OnceLock::new(),
            ended: Mutex::new((0, 0)),
            frames_ended: Mutex::new((0, 0)),
            free,
            free_gpu,
            changed: Notify::new(),
            known: Mutex::new(BTreeMap::new()),
            frame_budget: Semaphore::new(frames::budget()),
            frame_done: Arc::new(Notify::new()),
            framing: Arc::default(),
            depths: Arc::default(),
        })
    }

    /// Whether it works on nothing.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.held).is_empty()
    }

    /// Who it is.
    pub(crate) fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// Has tools hear what becomes of its tasks.
    pub(crate) fn tell_by(&self, events: Events) {
        // Set once, before it runs.
        drop(self.events.set(events));
    }

    /// Takes no plans and joins any more: the server has another engine now.
    pub(crate) fn stand_apart(&self) {
        self.apart.cancel();
    }

    /// Whether it takes no new task.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.is_cancelled()
    }

    /// Its numbers, as Prometheus reads them.
    pub(crate) fn metrics(&self) -> String {
        let (well, badly) = *lock(&self.ended);
        let (filtered, unfiltered) = *lock(&self.frames_ended);
        let (free, held) = (*lock(&self.free), lock(&self.held).len());
        format!(
            "# HELP frameloom_node_tasks_total Tasks that ended on this node.\n\
             # TYPE frameloom_node_tasks_total counter\n\
             frameloom_node_tasks_total{{outcome=\"done\"}} {well}\n\
             frameloom_node_tasks_total{{outcome=\"failed\"}} {badly}\n\
             # HELP frameloom_node_frames_total Frames that were tasks and ended on this node.\n\
             # TYPE frameloom_node_frames_total counter\n\
             frameloom_node_frames_total{{outcome=\"done\"}} {filtered}\n\
             frameloom_node_frames_total{{outcome=\"failed\"}} {unfiltered}\n\
             # HELP frameloom_node_slots Slots of this node by what they do.\n\
             # TYPE frameloom_node_slots gauge\n\
             frameloom_node_slots{{state=\"free\"}} {free}\n\
             frameloom_node_slots{{state=\"busy\"}} {held}\n"
        )
    }

    /// Works until `stop`, or until it is drained; then ends its slots, and answers what is known of
    /// them.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) -> Vec<SlotMetrics> {
        let begun = Instant::now();
        let quiet = stop.child_token();
        let beating = tokio::spawn(Arc::clone(&self).beat(quiet.clone()));
        let mut workers = Vec::new();
        let engine = self.info.engine.id();
        // The control slot comes first: planning waits for it.
        let control = self.config.control.then(|| (Queue::Control, "control".to_owned(), 5));
        let segments = (0..self.config.slots).map(|i| (Queue::Segment(engine), i.to_string(), 0));
        let gpu = (0..self.config.gpu_slots).map(|i| (Queue::Gpu(engine), format!("gpu.{i}"), 0));
        for (queue, name, nice) in control.into_iter().chain(segments).chain(gpu) {
            let node = Arc::clone(&self);
            let stop = stop.clone();
            let config = SlotConfig { nice, ..self.config.slot.clone() };
            workers.push(tokio::spawn(async move {
                let mut slot = Slot::new(name, config);
                node.work(queue, &mut slot, stop).await;
                slot.kill().await;
                slot.into_stats(begun.elapsed())
            }));
        }
        let no_segments = CancellationToken::new();
        let mut framers = Vec::new();
        for i in 0..self.config.frame_slots {
            let node = Arc::clone(&self);
            let (stop, no_segments) = (stop.clone(), no_segments.clone());
            framers.push(tokio::spawn(async move {
                let mut slot = Slot::new(format!("frame.{i}"), node.config.slot.clone());
                node.work_frames(&mut slot, stop, no_segments).await;
                slot.kill().await;
                slot.into_stats(begun.elapsed())
            }));
        }
        let mut stats = Vec::new();
        for worker in workers {
            match worker.await {
                Ok(slot) => stats.push(slot),
                Err(error) => tracing::error!(%error, "a slot's keeper ended"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.drained.cancelled() => {}
        }
        // Segments at work may have needed them until now.
        no_segments.cancel();
        for framer in framers {
            match framer.await {
                // Most runs need none.
                Ok(slot) if slot.tasks > 0 || slot.restarts > 0 => stats.push(slot),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a frame slot's keeper ended"),
            }
        }
        quiet.cancel();
        drop(beating.await);
        stats
    }

    /// Tells that the node lives, now and then and whenever something has changed.
    async fn beat(self: Arc<Self>, stop: CancellationToken) {
        let (mut counter, mut silent) = (0, None);
        loop {
            counter += 1;
            let held = lock(&self.held).values().map(|held| held.told.clone()).collect();
            // A drained node has no slot to offer.
            let free =
                |slots: &Mutex<u32>| if self.drained.is_cancelled() { 0 } else { *lock(slots) };
            let (free_slots, free_gpu_slots) = (free(&self.free), free(&self.free_gpu));
            let load = (self.load()[0] * 100.0).clamp(0.0, 1e9);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
            let load = load as u32;
            let frames = self.framing.held();
            let beat = Beat { counter, held, free_slots, free_gpu_slots, load, frames };
            let told = match self.store.write_beat(self.id, &beat) {
                // It is new, or was silent for so long that it was forgotten.
                Err(error) if error.kind() == ErrorKind::NotFound => self
                    .store
                    .write_node(self.id, &self.info)
                    .and_then(|()| self.store.write_beat(self.id, &beat)),
                told => told,
            };
            match told {
                Ok(()) => silent = None,
                // Said once, not each time.
                Err(error) => match silent {
                    None => {
                        if self.config.hopeless.is_none() {
                            tracing::warn!(%error, "cannot tell that the node lives");
                        }
                        silent = Some(Instant::now());
                    }
                    Some(since) if since.elapsed() > SILENT_AT_MOST => self.despair(&error),
                    Some(_) => {}
                },
            }
            self.wake.notify_one();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(self.config.beat) => {}
            }
        }
    }

    /// One slot's work.
    async fn work(&self, queue: Queue, slot: &mut Slot, stop: CancellationToken) {
        // Started ahead, so that the first task need not wait.
        if let Err(error) = slot.start() {
            tracing::warn!(%error, "cannot start a slot ahead");
        }
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.drained.cancelled() => return,
                () = self.apart.cancelled(), if queue == Queue::Control => return,
                message = self.broker.receive(queue) => message,
            };
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    tracing::error!(%error, "a slot gets no task; it asks again soon");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => continue,
                    }
                }
            };
            let free = match queue {
                Queue::Segment(_) => Some(&self.free),
                Queue::Gpu(_) => Some(&self.free_gpu),
                Queue::Control => None,
            };
            if let Some(free) = free {
                *lock(free) -= 1;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                taken = self.take(&message, slot) => if let Err(error) = taken {
                    if self.config.hopeless.is_none() {
                        tracing::warn!(%error, attempt = %message.attempt, "cannot claim; others may");
                    }
                    // A node that sees no store must not take from those that do.
                    if let Err(error) = self.broker.send(queue, message.clone(), 3).await {
                        tracing::debug!(%error, "a message is not given back");
                    }
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
            }
            lock(&self.held).remove(&message.attempt);
            lock(&self.revoked).remove(&message.attempt);
            if let Some(free) = free {
                *lock(free) += 1;
            }
            self.changed.notify_one();
        }
    }

    /// One frame slot's work.
    async fn work_frames(
        &self,
        slot: &mut Slot,
        stop: CancellationToken,
        no_segments: CancellationToken,
    ) {
        let engine = self.info.engine.id();
        let mut worker = Worker {
            node: self.id,
            engine,
            store: Arc::clone(&self.store),
            named: self.store.known_as().ok().flatten(),
            broker: Arc::clone(&self.broker),
            done: Arc::clone(&self.frame_done),
            shared: Arc::clone(&self.framing),
            missed: 0,
        };
        loop {
            let task = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = no_segments.cancelled() => return,
                () = self.framing.over() => return,
                task = self.broker.receive_frame(engine) => task,
            };
            let task = match task {
                Ok(task) => task,
                Err(error) => {
                    tracing::error!(%error, "a frame slot gets no frame; it asks again soon");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(PAUSE) => continue,
                    }
                }
            };
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = worker.perform(task, slot) => done,
            };
            {
                let mut ended = lock(&self.frames_ended);
                match done {
                    Performed::Done => ended.0 += 1,
                    Performed::Undone | Performed::Hindered => ended.1 += 1,
                }
            }
            if done == Performed::Hindered {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = no_segments.cancelled() => return,
                    () = worker.pause() => {}
                }
            }
        }
    }

    /// What carries the frames of a segment that sends some away; and what they may take meanwhile, where
    /// they go to nodes.
    async fn carry(
        &self,
        dir: &JobDir<'_>,
        job: &JobFile,
        task: Task,
        attempt: AttemptId,
    ) -> Result<(Option<Frames>, Option<FramePlan<'_>>), Trouble> {
        // What looks for things does so where the segment is decoded.
        let framed = match task {
            Task::Segment(_) => self.frame_plan(dir, job, attempt).await?,
            _ => None,
        };
        let carriers = Carriers {
            store: &self.store,
            celery: self.config.celery.as_ref(),
            broker: &self.broker,
            done: &self.frame_done,
            depths: &self.depths,
        };
        let plan = framed.as_ref().map(|framed| (framed.made_by, &framed.plan));
        let frames = Frames::of(&carriers, job, plan).map_err(|error| self.trouble(error))?;
        Ok((frames, framed))
    }

    /// The plan of a job whose frames are tasks, and the bytes that its frames may take, once they are
    /// free; `None` where the job sends no frames to nodes.
    async fn frame_plan(
        &self,
        dir: &JobDir<'_>,
        job: &JobFile,
        attempt: AttemptId,
    ) -> Result<Option<FramePlan<'_>>, Trouble> {
        if job.spec.granularity.is_segment() {
            return Ok(None);
        }
        let ours = |error: Error| self.trouble(error);
        let gone = || ours(Error::unavailable("the plan is gone"));
        let known = lock(&self.known).get(&job.id).copied();
        let made_by = known.ok_or_else(gone)?.plan;
        let plan = dir.read_plan(made_by).map_err(ours)?.ok_or_else(gone)?;
        let Some(bytes) = frames::needs(&plan, self.config.slots) else { return Ok(None) };
        let permits = bytes.div_ceil(MIB).min(frames::budget() as u64);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let mut taking = std::pin::pin!(self.frame_budget.acquire_many(permits));
        let permit = loop {
            tokio::select! {
                permit = &mut taking => {
                    break permit.map_err(|e| ours(Error::internal(e.to_string())))?;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if dir.is_cancelled(attempt) || lock(&self.revoked).contains(&attempt) {
                        return Err(Trouble::Cancelled);
                    }
                }
            }
        };
        Ok(Some(FramePlan { made_by, plan, bytes, _permit: permit }))
    }

    /// Claims a task, does it and reports.
    ///
    /// # Errors
    /// Of the store, where it cannot be claimed.
    async fn take(&self, message: &TaskMessage, slot: &mut Slot) -> Result<()> {
        let dir = self.store.job(message.job);
        if !self.insist(|| dir.claim(message.attempt)).await? {
            return Ok(());
        }
        let events = self.events.get();
        if let Some(events) = events {
            events.received(message);
        }
        let begun = Instant::now();
        let outcome = match self.perform(&dir, message, slot).await {
            Ok(output) => {
                lock(&self.ended).0 += 1;
                if let Some(events) = events {
                    events.succeeded(message, begun.elapsed());
                }
                Outcome::Done(output)
            }
            Err(Trouble::Failed { error, by_task }) => {
                lock(&self.ended).1 += 1;
                if let Some(events) = events {
                    events.failed(message, error.message());
                }
                Outcome::Failed { error, by_task }
            }
            Err(Trouble::Cancelled) => {
                if let Some(events) = events {
                    events.revoked(message);
                }
                return Ok(());
            }
        };
        let report = AttemptReport {
            attempt: message.attempt,
            task: message.task,
            node: self.id,
            slot: format!("{}/{}", self.id, slot.stats.name),
            slot_pid: lock(&self.held).get(&message.attempt).map_or(0, |held| held.told.slot_pid),
            outcome,
        };
        if let Err(error) = self.insist(|| dir.report(&report)).await
            && self.config.hopeless.is_none()
        {
            tracing::error!(%error, attempt = %message.attempt, "cannot report");
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Does a small write. Where somebody waits to hear that it is hopeless it is tried a few times, and then told.
    ///
    /// # Errors
    /// Of the last try.
    async fn insist<T>(&self, mut write: impl FnMut() -> Result<T>) -> Result<T> {
        let mut done = write();
        if self.config.hopeless.is_some() {
            for pause in TRY_AGAIN {
                if done.is_ok() {
                    break;
                }
                tokio::time::sleep(pause).await;
                done = write();
            }
        }
        done.inspect_err(|error| self.despair(error))
    }

    /// Tells whoever waits for it that the store takes nothing.
    fn despair(&self, error: &Error) {
        if let Some(hopeless) = &self.config.hopeless {
            // The first to be told is enough.
            drop(hopeless.try_send(error.clone()));
        }
    }

    /// What is wrong with a node of its own says nothing about the job: others may do it.
    fn trouble(&self, error: Error) -> Trouble {
        let error = if self.config.within_server || error.kind().is_retryable() {
            error
        } else {
            Error::unavailable(format!("node {}: {error}", self.config.name))
        };
        Trouble::Failed { error, by_task: false }
    }

    async fn perform(
        &self,
        dir: &JobDir<'_>,
        message: &TaskMessage,
        slot: &mut Slot,
    ) -> Result<TaskOutput, Trouble> {
        let ours = |error: Error| self.trouble(error);
        let (task, attempt) = (message.task, message.attempt);
        let job =
            dir.read_job().and_then(|job| job.ok_or_else(|| Error::not_found("the job is gone")));
        let job = job.map_err(ours)?;
        let pid = slot.start().map_err(ours)?;
        let told = HeldAttempt { attempt, frames: 0, slot_pid: pid, starved: false, full: false };
        lock(&self.held).insert(attempt, Held { told, task, since: Instant::now() });
        self.changed.notify_one();
        if let Some(events) = self.events.get() {
            events.started(message, pid);
        }
        let (out, pending) = dir.begin(task, attempt, "").map_err(ours)?;
        let known = lock(&self.known).get(&message.job).copied();
        let known = known.filter(|known| known.serves(task));
        let accepted = if known.is_some() { Vec::new() } else { accepted(dir) };
        let begin = |(suffix, wanted): (&str, bool)| {
            wanted.then(|| dir.begin(task, attempt, suffix)).transpose()
        };
        let mut beside: Vec<(File, Pending)> = Vec::new();
        let prepared = self.command(dir, &job, message, known, &accepted).and_then(|ordered| {
            let Ordered { command, mut descriptors } = ordered;
            descriptors.push(copy(&out)?);
            if let SlotCommand::Concat(task) = &command {
                let wanted = [(FRAMES, task.frame_metrics), (DETECTIONS, task.detections)];
                for more in wanted.into_iter().filter_map(|wanted| begin(wanted).transpose()) {
                    let more = more?;
                    descriptors.push(copy(&more.0)?);
                    beside.push(more);
                }
            }
            Ok((command, descriptors))
        });
        let carried = match task {
            Task::Detect(_) | Task::Segment(_) if prepared.is_ok() => {
                self.carry(dir, &job, task, attempt).await
            }
            _ => Ok((None, None)),
        };
        let ended = match (prepared, carried) {
            (Err(error), _) => Err(ours(error)),
            (_, Err(trouble)) => Err(trouble),
            // With the end of this what is still away is called back.
            (Ok((mut command, descriptors)), Ok((away, framed))) => {
                if let (SlotCommand::Segment(task), Some(framed)) = (&mut command, &framed) {
                    task.frame_bytes = framed.bytes;
                }
                slot.run(Job {
                    command,
                    descriptors,
                    segment: &|k| {
                        let wanted = match task {
                            Task::Track => Task::Detect(k),
                            _ => Task::Segment(k),
                        };
                        let known = accepted.iter().find(|r| r.task == wanted);
                        let known = known.map(|r| dir.open_result(r.task, r.attempt, ""));
                        let file = known.transpose()?.flatten();
                        let file =
                            file.ok_or_else(|| Error::internal(format!("segment {k} is gone")))?;
                        Ok(OwnedFd::from(file))
                    },
                    frames: away.as_ref(),
                    progress: &|frames| {
                        if let Some(held) = lock(&self.held).get_mut(&attempt) {
                            held.told.frames = frames;
                        }
                    },
                    preview: &|pair| keep_preview(dir, attempt, pair),
                    cancelled: &|| {
                        if let (Some(away), Some(held)) =
                            (&away, lock(&self.held).get_mut(&attempt))
                        {
                            held.told.starved = away.are_starved();
                            held.told.full = away.are_without_room();
                        }
                        dir.is_cancelled(attempt) || lock(&self.revoked).contains(&attempt)
                    },
                })
                .await
            }
        };
        match ended {
            Ok(output) => {
                pending.publish(&out).map_err(ours)?;
                for (file, pending) in beside {
                    pending.publish(&file).map_err(ours)?;
                }
                Ok(output)
            }
            Err(trouble) => {
                // Where the program was replaced, a server's jobs wait until it or the node is started
                // again, and a run ends.
                let trouble = match trouble {
                    Trouble::Failed { error, by_task: false }
                        if error.kind() == ErrorKind::Conflict && job.submission.is_some() =>
                    {
                        let error = Error::unavailable(error.message().to_owned());
                        Trouble::Failed { error, by_task: false }
                    }
                    trouble => trouble,
                };
                pending.discard();
                beside.into_iter().for_each(|(_, pending)| pending.discard());
                Err(trouble)
            }
        }
    }

    /// What the slot is to do, with the descriptors that it needs before its output.
    fn command(
        &self,
        dir: &JobDir<'_>,
        job: &JobFile,
        message: &TaskMessage,
        known: Option<Known>,
        accepted: &[AttemptReport],
    ) -> Result<Ordered> {
        let (task, attempt) = (message.task, message.attempt);
        let files: Vec<String> = job.spec.files.iter().map(|file| file.name.clone()).collect();
        if task == Task::Plan {
            // A job that starts over gets another plan.
            lock(&self.known).remove(&message.job);
            let mut descriptors = vec![self.open_source(dir, job)?];
            descriptors.extend(attached(dir, job)?);
            let (name, spec) = (job.source.name.clone(), job.spec.clone());
            let command = SlotCommand::Plan(PlanTask { attempt, name, spec, files });
            return Ok(Ordered { command, descriptors });
        }
        let known = known.or_else(|| Known::of(accepted, task));
        let known = known.ok_or_else(|| Error::internal("the job has no plan"))?;
        let (known, plan) = match dir.open_result(Task::Plan, known.plan, "")? {
            Some(file) => (known, file),
            // A job that was tried again may have been planned anew elsewhere.
            None => {
                let gone = || Error::unavailable("the plan is gone");
                let known = Known::of(&self::accepted(dir), task).ok_or_else(gone)?;
                (known, dir.open_result(Task::Plan, known.plan, "")?.ok_or_else(gone)?)
            }
        };
        {
            let mut all = lock(&self.known);
            if all.len() >= MOST_PLANS {
                all.clear();
            }
            all.insert(message.job, known);
        }
        let mut descriptors = Vec::new();
        if task != Task::Track {
            descriptors.push(self.open_source(dir, job)?);
        }
        descriptors.push(OwnedFd::from(plan));
        if task.segment().is_some() {
            descriptors.extend(attached(dir, job)?);
        }
        let track = known.track.flatten();
        if let Some(track) = track {
            let file = dir.open_result(Task::Track, track, "")?;
            let file = file.ok_or_else(|| Error::unavailable("the tracks are gone"))?;
            descriptors.push(OwnedFd::from(file));
        }
        let (job_id, tracks) = (message.job, track.is_some());
        let command = match task {
            Task::Detect(segment) | Task::Segment(segment) => {
                let work = SegmentTask {
                    previews: job.submission.is_some(),
                    job: job_id,
                    attempt,
                    segment,
                    decode_threads: self.decode_threads(),
                    frame_bytes: 0,
                    files,
                    tracks,
                    reveals: job.spec.reveal_previews
                        || !job.spec.filters.iter().any(frameloom_media::hides_things),
                };
                match task {
                    Task::Detect(_) => SlotCommand::Detect(work),
                    _ => SlotCommand::Segment(work),
                }
            }
            Task::Track => {
                let accepted = accepted_segments(accepted, Task::Detect);
                SlotCommand::Track(TrackTask { job: job_id, attempt, accepted })
            }
            _ => SlotCommand::Concat(ConcatTask {
                job: job_id,
                attempt,
                accepted: accepted_segments(accepted, Task::Segment),
                tracks: track.and(accepted.iter().find_map(sha256_of_tracks)),
                frame_metrics: job.frame_metrics && job.spec.detections_only.is_none(),
                detections: job.spec.detections_only.is_none()
                    && job.spec.filters.iter().any(frameloom_media::tells_of_things),
            }),
        };
        Ok(Ordered { command, descriptors })
    }

    /// Opens a job's source, where this node finds it.
    ///
    /// # Errors
    /// NotFound where it is gone, and what the system says otherwise. On a node that is not the
    /// server's the file may be there for others: then it is Unavailable.
    fn open_source(&self, dir: &JobDir<'_>, job: &JobFile) -> Result<OwnedFd> {
        let path = if job.submission.as_ref().is_some_and(|s| s.upload) {
            dir.source()
        } else {
            let root = job.source.root.as_ref();
            let here =
                root.and_then(|(name, beneath)| Some(self.config.roots.get(name)?.join(beneath)));
            here.unwrap_or_else(|| job.source.path.clone())
        };
        let name = job.source.name.escape_debug();
        let opened = match File::open(&path) {
            Ok(file) => return Ok(OwnedFd::from(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("'{name}' does not exist any more"))
            }
            Err(e) => Error::io(format!("cannot read '{name}'"), &e),
        };
        if self.config.within_server {
            return Err(opened);
        }
        let path = path.display();
        tracing::error!(error = %opened, %path, "a source is not there on this node (--root)");
        Err(Error::unavailable(format!("node {}: {opened}", self.config.name)))
    }

    /// Decoding threads for a segment: its own, and its share of those of slots without work.
    fn decode_threads(&self) -> u32 {
        let free = *lock(&self.free) as usize;
        let busy = self.config.slots.saturating_sub(free).max(1);
        u32::try_from(1 + free / busy).unwrap_or(1).min(16)
    }
}

/// What a slot is to do, with the descriptors that it needs before those that it writes to.
struct Ordered {
    command: SlotCommand,
    descriptors: Vec<OwnedFd>,
}

/// The files that a job's filters take.
fn attached(dir: &JobDir<'_>, job: &JobFile) -> Result<Vec<OwnedFd>> {
    let open = |file: &SpecFile| {
        let gone = || Error::not_found(format!("file '{}' of a filter is gone", file.name));
        dir.open_attached(&file.sha256)?.map(OwnedFd::from).ok_or_else(gone)
    };
    job.spec.files.iter().map(open).collect()
}

/// The accepted tasks of one kind, by segment.
fn accepted_segments(accepted: &[AttemptReport], kind: fn(u32) -> Task) -> Vec<AcceptedSegment> {
    let mut segments = BTreeMap::new();
    for report in accepted {
        let Some(k) = report.task.segment().filter(|k| kind(*k) == report.task) else { continue };
        let Outcome::Done(output) = &report.outcome else { continue };
        if let Some(file) = output.file_of(report.task) {
            let (attempt, slot) = (report.attempt, report.slot.clone());
            segments.insert(k, AcceptedSegment { attempt, slot, sha256: file.sha256.clone() });
        }
    }
    segments.into_values().collect()
}

/// The digest of the tracks, where a report tells of them.
fn sha256_of_tracks(report: &AttemptReport) -> Option<String> {
    let Outcome::Done(output) = &report.outcome else { return None };
    let file = output.file_of(Task::Track).filter(|_| report.task == Task::Track)?;
    Some(file.sha256.clone())
}

/// Keeps what a slot's frame looks like, the newest of all slots.
fn keep_preview(dir: &JobDir<'_>, attempt: AttemptId, pair: &SlotPreview) {
    let base64 = base64::engine::general_purpose::STANDARD;
    let pair = (base64.decode(&pair.before), base64.decode(&pair.after));
    if let (Ok(before), Ok(after)) = pair
        && let Err(error) = dir.write_preview(attempt, &before, &after)
    {
        tracing::debug!(%error, "a preview is lost");
    }
}

/// The accepted results so far, by the job's journal.
fn accepted(dir: &JobDir<'_>) -> Vec<AttemptReport> {
    let text = std::fs::read(dir.journal()).unwrap_or_default();
    let (decisions, _) = journal::read(&text);
    let reports = decisions.into_iter().filter_map(|decision| match decision {
        Decision::Accepted(report) => Some(report),
        _ => None,
    });
    reports.collect()
}

fn copy(file: &File) -> Result<OwnedFd> {
    let copy = file.try_clone().map_err(|e| Error::io("cannot hand on a file", &e))?;
    Ok(OwnedFd::from(copy))
}

impl Steered for Node {
    fn active(&self) -> Vec<Active> {
        let held = lock(&self.held);
        let active = held.values().map(|held| Active {
            attempt: held.told.attempt,
            task: held.task,
            pid: held.told.slot_pid,
            since: held.since,
        });
        active.collect()
    }

    fn drain(&self) {
        if self.config.within_server {
            tracing::warn!("a server is not shut down by remote control; stop it by SIGTERM");
            return;
        }
        self.drained.cancel();
        self.changed.notify_one();
    }

    fn queues(&self) -> Vec<Queue> {
        if self.drained.is_cancelled() {
            return Vec::new();
        }
        let engine = self.info.engine.id();
        let control = self.config.control && !self.apart.is_cancelled();
        let control = control.then_some(Queue::Control);
        let segments = (self.config.slots > 0).then_some(Queue::Segment(engine));
        let gpu = (self.config.gpu_slots > 0).then_some(Queue::Gpu(engine));
        [control, segments, gpu].into_iter().flatten().collect()
    }

    fn frames(&self) -> Option<EngineId> {
        (self.config.frame_slots > 0).then(|| self.info.engine.id())
    }

    fn revoke(&self, attempt: AttemptId) {
        if lock(&self.held).contains_key(&attempt) {
            lock(&self.revoked).insert(attempt);
        }
    }

    fn load(&self) -> [f64; 3] {
        let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut means = text.split(' ').map(|mean| mean.parse().unwrap_or(0.0));
        std::array::from_fn(|_| means.next().unwrap_or(0.0))
    }
}
