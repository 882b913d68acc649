//! The engine: runs many jobs side by side. It sends their tasks in turns, reads what nodes report,
//! accepts results, and hands each job's outcome to whoever began it.

mod job;
mod nodes;
mod status;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use frameloom_broker::{Broker, Urgency};
use frameloom_core::id::{AttemptId, EngineId, JobId};
use frameloom_core::metrics::{DepthSample, FrameCounts};
use frameloom_core::plan::Plan;
use frameloom_core::scheduler::{Phase, Scheduler};
use frameloom_core::slot::ConcatOutput;
use frameloom_core::wire::{JobFile, Queue, Task};
use frameloom_core::{Error, ErrorKind, Result};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::resume::Found;
use crate::store::Store;
use job::JobRun;
use nodes::{Nodes, Pool};

pub use status::{NodeStatus, Status};

/// How long an unclaimed message is believed to be under way while its queue is empty.
const RESEND_AFTER: Duration = Duration::from_secs(2);

/// How long an unclaimed message is believed to wait in a queue that is never empty; doubled each
/// time, so many times.
const WAITS_AT_MOST: Duration = Duration::from_secs(30);
const MOST_DOUBLINGS: u32 = 6;

/// The same as [`WAITS_AT_MOST`] for a job of which nothing is at work.
const STARVES_AFTER: Duration = Duration::from_secs(5);

/// How long a job waits for a node before it says so.
const NO_NODE_AFTER: Duration = Duration::from_secs(10);

/// Called at each publishing step by its name; an error ends the job there. For trying crashes.
pub type Fault = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// Hears what happens to a job, in order. It must not wait.
pub type Watcher = Box<dyn FnMut(JobEvent) + Send>;

/// How the engine works.
pub struct EngineConfig {
    /// How often the store is looked at where nobody calls.
    pub poll: Duration,
    /// How long a silent node is believed.
    pub lease: Duration,
    /// Segments that wait in a queue at most, of all jobs, beside those at work and one for each slot of
    /// a node of its own. The smaller, the sooner a new job has its turn.
    pub window: usize,
    /// Draws a new attempt id.
    pub new_id: Box<dyn Fn() -> AttemptId + Send + Sync>,
    /// See [`Fault`].
    pub fault: Fault,
    /// Whether segments must wait, because the store has no room.
    pub hold: Box<dyn Fn() -> bool + Send + Sync>,
    /// Called before each decision is written; an error says that this engine may decide no more.
    pub before_commit: Box<dyn Fn() -> Result<()> + Send + Sync>,
    /// The server's own engine, where tasks that need a GPU go to nodes that have one.
    pub gpu_for: Option<EngineId>,
}

/// What connects an engine to the rest of the process.
pub struct Links {
    /// The store.
    pub store: Arc<Store>,
    /// Carries tasks to nodes.
    pub broker: Arc<dyn Broker>,
    /// Notified by nodes in this process, so that nothing waits for the next look.
    pub wake: Arc<Notify>,
}

/// What happens to a job, for whoever watches.
#[derive(Debug)]
pub enum JobEvent {
    /// The plan is made, or taken over from an earlier run with so many segments done.
    Planned {
        /// The plan.
        plan: Box<Plan>,
        /// Segments that an earlier run has done.
        resumed: u32,
    },
    /// A node has begun a task.
    Started {
        /// The task.
        task: Task,
        /// The attempt.
        attempt: AttemptId,
        /// Process id of the slot.
        slot_pid: u32,
    },
    /// A task's result was accepted.
    Accepted {
        /// The task.
        task: Task,
        /// The attempt.
        attempt: AttemptId,
        /// How long it was at work, from claimed to accepted.
        took: Duration,
        /// How long the slot says that it worked, where it says so.
        in_slot: Option<Duration>,
        /// The slot, as `NODE/SLOT`.
        slot: String,
    },
    /// An attempt failed.
    Failed {
        /// The task.
        task: Task,
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        error: Error,
        /// Whether the task is tried again.
        retried: bool,
    },
    /// How far it is.
    Progress(Progress),
}

/// What is being done for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// The plan is made.
    #[default]
    Planning,
    /// Things are looked for.
    Detecting,
    /// What was found is followed.
    Tracking,
    /// Segments are processed.
    Running,
    /// Segments are joined.
    Joining,
}

impl Stage {
    /// Its name, as clients see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Detecting => "detecting",
            Self::Tracking => "tracking",
            Self::Running => "running",
            Self::Joining => "joining",
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Frames done, those of tasks at work included.
    pub frames: u64,
    /// Tasks not yet begun.
    pub waiting: u32,
    /// Tasks at work.
    pub running: u32,
    /// Tasks that were tried again after a failure.
    pub retried: u32,
    /// What is being done.
    pub stage: Stage,
    /// Whether nobody takes the frames that its filters have sent to a queue.
    pub no_worker: bool,
    /// Whether those frames find no room on the store.
    pub no_room: bool,
    /// The queue to which it needs a node to listen, where none has for a while.
    pub no_node: Option<Queue>,
}

/// A job that ended well; its output is not at its place yet.
pub struct JobOutcome {
    /// The plan.
    pub plan: Plan,
    /// What the joiner told.
    pub concat: ConcatOutput,
    /// The output's file in the store.
    pub output: PathBuf,
    /// The frame metrics' file in the store, where they were asked for.
    pub frame_metrics: Option<PathBuf>,
    /// The detections' file in the store, where anything was looked for beside a video.
    pub detections: Option<PathBuf>,
    /// Frames counted by the accepted segments.
    pub frames: FrameCounts,
    /// Frames of segments that were tried again after a failure.
    pub retried_frames: u64,
    /// What became of the tasks.
    pub scheduler: Scheduler,
    /// Samples of how many tasks waited.
    pub depth: Vec<DepthSample>,
    /// Milliseconds that segments waited from sent to claimed.
    pub waited_ms: Vec<f32>,
    /// CPU time of the accepted segments of this run, in microseconds.
    pub segment_cpu_us: u64,
}

/// A job to begin.
pub struct Begin {
    /// What was asked for; its directory is on the store.
    pub job: JobFile,
    /// What an earlier run left.
    pub found: Option<Found>,
    /// The engine whose nodes do all of it, where that is not the server's.
    pub home: Option<EngineId>,
    /// 0 to 9; tasks of jobs of higher priority are sent first.
    pub priority: u8,
    /// Hears what happens.
    pub watcher: Watcher,
    /// Stops the job; it stays as it is, and can be begun again.
    pub cancel: CancellationToken,
}

type Reply = oneshot::Sender<Result<JobOutcome>>;

/// What jobs share.
struct Shared {
    store: Arc<Store>,
    broker: Arc<dyn Broker>,
    config: EngineConfig,
}

/// A running engine, for whoever has jobs. It ends when the last of these is dropped.
#[derive(Clone)]
pub struct EngineHandle {
    begin: mpsc::Sender<(Begin, Reply)>,
    status: Arc<Status>,
}

impl EngineHandle {
    /// What is known of nodes and broker.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Runs a job to its end.
    ///
    /// # Errors
    /// Cancelled; the error that the job failed with; of the store; Unavailable where the engine
    /// has ended.
    pub async fn run(&self, begin: Begin) -> Result<JobOutcome> {
        let gone = |_| Error::unavailable("the engine has ended");
        let (reply, outcome) = oneshot::channel();
        self.begin.send((begin, reply)).await.map_err(|_| gone(()))?;
        outcome.await.map_err(|_| gone(()))?
    }
}

struct Entry {
    run: JobRun,
    priority: u8,
    /// When it last had its turn.
    served: u64,
    cancel: CancellationToken,
    reply: Reply,
}

struct Engine {
    shared: Shared,
    wake: Arc<Notify>,
    begin: mpsc::Receiver<(Begin, Reply)>,
    jobs: BTreeMap<JobId, Entry>,
    nodes: Nodes,
    turn: u64,
    /// The slots that the segments of each queue may have.
    pools: BTreeMap<Queue, Pool>,
    /// Since when queues are empty.
    empty: BTreeMap<Queue, Instant>,
    /// When the last message of each urgency was sent that a node has claimed: a queue gives those of one urgency in their order.
    taken: BTreeMap<(Queue, Urgency), Instant>,
    /// Since when no node listens to a queue that a job needs.
    no_node: BTreeMap<Queue, Instant>,
    status: Arc<Status>,
}

/// How urgent a segment is by its job's priority, 0 to 9; one of a job that has less than its share
/// of the slots goes before all others of that priority.
pub fn urgency(priority: u8, has_less: bool) -> Urgency {
    let base: u8 = match priority {
        6.. => 3,
        5 => 6,
        _ => 9,
    };
    base - if has_less { 3 } else { 0 }
}

/// Starts an engine on the current runtime.
pub fn start(config: EngineConfig, links: Links) -> EngineHandle {
    let Links { store, broker, wake } = links;
    let (sender, begin) = mpsc::channel(64);
    let status = Arc::new(Status::default());
    let engine = Engine {
        shared: Shared { store, broker, config },
        wake,
        begin,
        jobs: BTreeMap::new(),
        nodes: Nodes::default(),
        turn: 0,
        pools: BTreeMap::new(),
        empty: BTreeMap::new(),
        taken: BTreeMap::new(),
        no_node: BTreeMap::new(),
        status: Arc::clone(&status),
    };
    tokio::spawn(engine.run());
    EngineHandle { begin: sender, status }
}

impl Engine {
    async fn run(mut self) {
        let mut blind = false;
        loop {
            match self.look() {
                Ok(()) if blind => {
                    tracing::info!("the store answers again");
                    blind = false;
                }
                Ok(()) => {}
                // Said once, not each time.
                Err(error) => {
                    if !blind {
                        tracing::warn!(%error, "cannot read the nodes' signs of life; trying again");
                    }
                    blind = true;
                }
            }
            self.end_jobs();
            let dispatched = self.dispatch().await;
            let trouble = dispatched.as_ref().err().map(|error| error.message().to_owned());
            if self.status.set_broker(trouble) {
                match dispatched {
                    Ok(()) => tracing::info!("the broker answers again"),
                    Err(error) => tracing::warn!(%error, "cannot send tasks; trying again"),
                }
            }
            let poll = self.shared.config.poll;
            tokio::select! {
                begun = self.begin.recv() => match begun {
                    Some((begin, reply)) => self.begin(begin, reply),
                    None => return,
                },
                () = self.wake.notified() => {}
                () = tokio::time::sleep(poll) => {}
            }
        }
    }

    fn begin(&mut self, begin: Begin, reply: Reply) {
        let Begin { job, found, home, priority, watcher, cancel } = begin;
        let id = job.id;
        match JobRun::new(&self.shared, job, found, home, watcher) {
            Ok(run) => {
                // A new job has its turn at once.
                let entry = Entry { run, priority, served: 0, cancel, reply };
                self.jobs.insert(id, entry);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Looks at the store: beats, then each job's reports.
    fn look(&mut self) -> Result<()> {
        let look = self.nodes.look(&self.shared.store, self.shared.config.lease)?;
        self.pools = look.pools;
        self.status.set_nodes(look.all);
        let needed: BTreeSet<Queue> =
            self.jobs.values().filter_map(|entry| entry.run.needs_node()).collect();
        self.no_node.retain(|queue, _| needed.contains(queue));
        for queue in needed {
            if self.pool(queue).slots > 0 {
                self.no_node.remove(&queue);
            } else {
                self.no_node.entry(queue).or_insert_with(Instant::now);
            }
        }
        let mut broken = Vec::new();
        for (id, entry) in &mut self.jobs {
            let missing = entry.run.needs_node().filter(|queue| {
                self.no_node.get(queue).is_some_and(|since| since.elapsed() > NO_NODE_AFTER)
            });
            entry.run.misses(missing);
            entry.run.beats(&look.live, &look.lost, self.shared.config.lease);
            let queue = entry.run.queue();
            if let Err(error) = entry.run.look(&self.shared) {
                broken.push((*id, error));
            }
            for (urgency, sent) in entry.run.taken() {
                let Some(queue) = queue else { continue };
                let last = self.taken.entry((queue, urgency)).or_insert(sent);
                *last = sent.max(*last);
            }
        }
        for (id, error) in broken {
            self.end(id, |_, _| Err(error));
        }
        Ok(())
    }

    /// Ends the jobs that are over.
    fn end_jobs(&mut self) {
        let over: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, entry)| {
                entry.cancel.is_cancelled()
                    || entry.reply.is_closed()
                    || matches!(entry.run.phase(), Phase::Done | Phase::Failed(_))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.end(id, |run, shared| match run.phase().clone() {
                Phase::Done => run.finish(shared),
                Phase::Failed(error) => Err(error),
                _ => Err(Error::new(ErrorKind::Cancelled, "stopped")),
            });
        }
    }

    fn end(&mut self, id: JobId, outcome: impl FnOnce(JobRun, &Shared) -> Result<JobOutcome>) {
        let Some(mut entry) = self.jobs.remove(&id) else { return };
        if let Err(error) = entry.run.stop(&self.shared) {
            tracing::warn!(%error, job = %id, "cannot stop what is at work for a job");
        }
        // Whoever began it may have gone.
        drop(entry.reply.send(outcome(entry.run, &self.shared)));
    }

    /// How many messages wait in each queue that jobs use; what was lost there is sent again.
    async fn depths(&mut self) -> Result<BTreeMap<Queue, usize>> {
        let queues: BTreeSet<Queue> =
            self.jobs.values().filter_map(|entry| entry.run.queue()).collect();
        self.empty.retain(|queue, _| queues.contains(queue));
        self.taken.retain(|(queue, _), _| queues.contains(queue));
        let mut depths = BTreeMap::new();
        for queue in queues {
            let depth = self.shared.broker.len(queue).await?;
            depths.insert(queue, depth);
            if depth > 0 {
                self.empty.remove(&queue);
            } else {
                self.empty.entry(queue).or_insert_with(Instant::now);
            }
            let since = self.empty.get(&queue);
            let drained = since.is_some_and(|since| since.elapsed() > RESEND_AFTER);
            for entry in self.jobs.values_mut().filter(|entry| entry.run.queue() == Some(queue)) {
                let urgency = urgency(entry.priority, true);
                entry.run.resend(&self.shared, drained, &self.taken, urgency).await?;
            }
        }
        Ok(depths)
    }

    fn pool(&self, queue: Queue) -> Pool {
        self.pools.get(&queue).copied().unwrap_or_default()
    }

    /// Sends tasks: short ones at once, segments in turns while there is room in their queue.
    async fn dispatch(&mut self) -> Result<()> {
        let mut waiting = self.depths().await?;
        let hold = (self.shared.config.hold)();
        loop {
            let mut open: BTreeMap<Queue, usize> = BTreeMap::new();
            for queue in self.jobs.values().filter_map(|entry| entry.run.wants()) {
                *open.entry(queue).or_default() += 1;
            }
            // For each queue: how much room there is, how many jobs want it, and a job's share of the slots.
            let state: BTreeMap<Queue, (usize, usize, usize)> = open
                .into_iter()
                .map(|(queue, open)| {
                    let Pool { slots, remote, .. } = self.pool(queue);
                    let window = self.shared.config.window + remote;
                    let depth = waiting.get(&queue).copied().unwrap_or(0);
                    let room = if hold { 0 } else { window.saturating_sub(depth) };
                    (queue, (room, open, if open > 1 { slots / open } else { 0 }))
                })
                .collect();
            // A job that has no more than its share of the slots need not wait for room, and goes
            // before what the others have waiting. One task more than its share waits in the queue:
            // else the slot that ends the one before takes somebody else's first.
            let next = self
                .jobs
                .iter_mut()
                .filter_map(|(id, entry)| Some((id, entry.run.wants()?, entry)))
                .filter_map(|(id, queue, entry)| {
                    let (room, open, share) = state.get(&queue).copied()?;
                    let has_less = entry.run.under_way() <= share;
                    let may = queue == Queue::Control || room > 0 || (has_less && !hold);
                    // A job alone gets all the room at once: the disk is waited for once.
                    let most = if open == 1 { room.max(1) } else { 1 };
                    may.then_some((id, queue, (has_less, most), entry))
                })
                .min_by_key(|(_, queue, _, entry)| {
                    (*queue != Queue::Control, Reverse(entry.priority), entry.served)
                });
            let Some((id, queue, (has_less, most), entry)) = next else { break };
            let id = *id;
            let urgency = urgency(entry.priority, has_less);
            self.turn += 1;
            entry.served = self.turn;
            match entry.run.send(&self.shared, most, 0, urgency).await {
                // It was about to have its turn, and has not: others come first.
                Ok(0) => break,
                Ok(sent) => *waiting.entry(queue).or_default() += sent,
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                Err(error) => self.end(id, |_, _| Err(error)),
            }
        }
        if hold {
            return Ok(());
        }
        // Slots that idle try slow segments a second time.
        let mut idle: BTreeMap<Queue, usize> =
            self.pools.iter().map(|(queue, pool)| (*queue, pool.idle)).collect();
        for entry in self.jobs.values_mut() {
            let Some(queue) = entry.run.queue().filter(|queue| *queue != Queue::Control) else {
                continue;
            };
            let depth = waiting.get(&queue).copied().unwrap_or(0);
            let free = idle.entry(queue).or_default();
            if *free > 0 && depth == 0 {
                let urgency = urgency(entry.priority, false);
                let sent = entry.run.send(&self.shared, 1, *free, urgency).await?;
                *free = free.saturating_sub(sent);
            }
        }
        Ok(())
    }
}
