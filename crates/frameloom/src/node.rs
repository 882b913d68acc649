//! A worker node: takes tasks from the broker, claims them, has its slots do them, publishes what
//! they made, and tells that it lives.

mod command;
mod perform;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use frameloom_broker::Broker;
use frameloom_broker::celery::{Active, Celery, Events, Steered};
use frameloom_core::id::{AttemptId, EngineId, JobId, NodeId};
use frameloom_core::metrics::SlotMetrics;
use frameloom_core::wire::{Beat, HeldAttempt, NodeInfo, PROTOCOL, Queue, Task};
use frameloom_core::{Error, ErrorKind};
use frameloom_server::store::{Store, What};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::command::Known;
use crate::frames::{self, Depths, Performed, Worker};
use crate::slot::parent::{Slot, SlotConfig};

/// How long a slot takes nothing after it could not claim, or was told of no task.
const PAUSE: Duration = Duration::from_secs(5);

/// How long signs of life may fail before it is hopeless: the engine believes a node for longer.
const SILENT_AT_MOST: Duration = Duration::from_secs(3);

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
            let refused = self.store.refused().count(What::Frame);
            let beat = Beat { counter, held, free_slots, free_gpu_slots, load, frames, refused };
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
            owner: None,
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
