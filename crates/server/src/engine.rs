//! Running a job: sends its tasks, reads what nodes report, accepts, and ends with a file to publish.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use frameloom_broker::Broker;
use frameloom_core::id::{AttemptId, NodeId};
use frameloom_core::metrics::{DepthSample, FrameCounts};
use frameloom_core::plan::Plan;
use frameloom_core::scheduler::{Command, Phase, Scheduler, Verdict};
use frameloom_core::slot::{ConcatOutput, TaskOutput};
use frameloom_core::wire::{AttemptReport, Decision, JobFile, Outcome, Queue, Task, TaskMessage};
use frameloom_core::{Error, Result};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::journal::Journal;
use crate::resume::Found;
use crate::store::{JobDir, Store};

/// Samples of the queue that are kept; then every second one is dropped.
const MOST_SAMPLES: usize = 512;

/// Called at each publishing step by its name; an error ends the run there. For trying crashes.
pub type Fault = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// How the engine runs a job.
pub struct EngineConfig {
    /// How often the store is looked at where nobody calls.
    pub poll: Duration,
    /// How long a silent node is believed.
    pub lease: Duration,
    /// Tasks that wait in the queue at most, beside those at work.
    pub window: usize,
    /// Draws a new attempt id.
    pub new_id: Box<dyn FnMut() -> AttemptId + Send + Sync>,
    /// See [`Fault`].
    pub fault: Fault,
}

/// What connects a running job to the rest of the process.
pub struct Links {
    /// Carries tasks to nodes.
    pub broker: Arc<dyn Broker>,
    /// Hears what happens.
    pub events: mpsc::Sender<JobEvent>,
    /// Notified by nodes in this process, so that nothing waits for the next look.
    pub wake: Arc<Notify>,
    /// Stops the run; the job stays as it is, and the next run goes on from there.
    pub cancel: CancellationToken,
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
    /// Whether segments are being joined.
    pub joining: bool,
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

struct Run<'a> {
    store: &'a Store,
    dir: JobDir<'a>,
    broker: Arc<dyn Broker>,
    config: EngineConfig,
    events: mpsc::Sender<JobEvent>,
    journal: Journal,
    scheduler: Scheduler,
    plan: Option<Plan>,
    concat: Option<ConcatOutput>,
    done: BTreeMap<u32, FrameCounts>,
    sent_at: BTreeMap<AttemptId, Instant>,
    started: Instant,
    depth: Vec<DepthSample>,
    sampled: Instant,
    every: Duration,
    waited_ms: Vec<f32>,
    segment_cpu_us: u64,
    nodes: BTreeMap<NodeId, (u64, Instant)>,
    holders: BTreeMap<AttemptId, NodeId>,
    /// Frames that tasks at work have done, the furthest attempt of each.
    held: BTreeMap<Task, u64>,
    idle: usize,
    told: Progress,
}

/// Runs a job to its end, or goes on with what `found` tells of an earlier run.
///
/// # Errors
/// Cancelled; the error that the job failed with; of the store.
pub async fn run_job(
    store: &Store,
    job: &JobFile,
    found: Option<Found>,
    config: EngineConfig,
    links: Links,
) -> Result<JobOutcome> {
    let Links { broker, events, wake, cancel } = links;
    let dir = store.job(job.id);
    let (journal, _) = Journal::open(&dir.journal())?;
    let now = Instant::now();
    let mut run = Run {
        store,
        dir,
        broker,
        config,
        events,
        journal,
        scheduler: Scheduler::new(),
        plan: None,
        concat: None,
        done: BTreeMap::new(),
        sent_at: BTreeMap::new(),
        started: now,
        depth: Vec::new(),
        sampled: now,
        every: Duration::from_millis(100),
        waited_ms: Vec::new(),
        segment_cpu_us: 0,
        nodes: BTreeMap::new(),
        holders: BTreeMap::new(),
        held: BTreeMap::new(),
        idle: 0,
        told: Progress::default(),
    };
    if let Some(found) = found {
        run.resume(found).await?;
    }
    loop {
        run.look().await?;
        match run.scheduler.phase() {
            Phase::Done => return run.finish(job),
            Phase::Failed(error) => return Err(error.clone()),
            _ => {}
        }
        run.send().await?;
        run.sample();
        let poll = run.config.poll;
        tokio::select! {
            () = cancel.cancelled() => {
                return Err(Error::new(frameloom_core::ErrorKind::Cancelled, "stopped"));
            }
            () = wake.notified() => {}
            () = tokio::time::sleep(poll) => {}
        }
    }
}

impl Run<'_> {
    async fn tell(&self, event: JobEvent) {
        // Whoever watches may have gone; the job does not depend on it.
        drop(self.events.send(event).await);
    }

    async fn resume(&mut self, found: Found) -> Result<()> {
        let Some((attempt, plan)) = found.plan else { return Ok(()) };
        self.scheduler.resume(Task::Plan, attempt);
        self.planned(plan, &found.segments).await
    }

    async fn planned(&mut self, plan: Plan, done: &[AttemptReport]) -> Result<()> {
        self.scheduler.planned(u32::try_from(plan.segments.len()).unwrap_or(u32::MAX));
        for report in done {
            if let (Task::Segment(k), Outcome::Done(TaskOutput::Segment(output))) =
                (report.task, &report.outcome)
            {
                self.scheduler.resume(report.task, report.attempt);
                self.done.insert(k, output.frames);
            }
        }
        let resumed = self.scheduler.resumed();
        self.plan = Some(plan.clone());
        self.tell(JobEvent::Planned { plan: Box::new(plan), resumed }).await;
        Ok(())
    }

    /// Sends what the scheduler wants sent.
    async fn send(&mut self) -> Result<()> {
        let queued = self.broker.len(Queue::Segment).await?;
        let room = self.config.window.saturating_sub(queued).max(1);
        let now = self.started.elapsed();
        let commands = self.scheduler.step(now, room, self.idle, &mut self.config.new_id);
        let decisions: Vec<Decision> = commands
            .iter()
            .filter_map(|command| match command {
                Command::Send { task, attempt, .. } => {
                    Some(Decision::Sent { task: *task, attempt: *attempt })
                }
                Command::Cancel { .. } => None,
            })
            .collect();
        if !decisions.is_empty() {
            self.journal.append(&decisions)?;
        }
        for command in commands {
            match command {
                Command::Send { task, attempt, .. } => {
                    self.sent_at.insert(attempt, Instant::now());
                    self.broker.send(TaskMessage { job: self.dir.id(), task, attempt }).await?;
                }
                Command::Cancel { attempt } => self.dir.cancel(attempt)?,
            }
        }
        Ok(())
    }

    /// Looks at the store: beats, then reports.
    async fn look(&mut self) -> Result<()> {
        self.beats().await?;
        for (attempt, report) in self.dir.inbox()? {
            match report {
                Ok(report) if report.attempt == attempt => self.report(report).await?,
                Ok(_) | Err(_) => {
                    let why = Error::internal("its report is malformed");
                    self.failed(attempt, why, true).await?;
                }
            }
            self.dir.remove_report(attempt)?;
        }
        let (waiting, running, _) = self.scheduler.counts();
        let done: u64 = self.done.values().map(|counts| counts.output).sum();
        // After the reports: what was accepted just now is not at work any more.
        let open = self.held.iter().filter(|(task, _)| self.scheduler.accepted(**task).is_none());
        let held: u64 = open.map(|(_, frames)| frames).sum();
        let progress = Progress {
            frames: done + held,
            waiting,
            running,
            retried: u32::try_from(self.scheduler.retried().len()).unwrap_or(0),
            joining: *self.scheduler.phase() == Phase::Assembling,
        };
        if progress != self.told {
            self.told = progress;
            self.tell(JobEvent::Progress(progress)).await;
        }
        Ok(())
    }

    async fn beats(&mut self) -> Result<()> {
        self.held.clear();
        self.idle = 0;
        for node in self.store.nodes()? {
            // A beat that cannot be read is a beat that did not come.
            let Ok(Some(beat)) = self.store.read_beat(node) else { continue };
            let entry = self.nodes.entry(node).or_insert((0, Instant::now()));
            if entry.0 != beat.counter {
                *entry = (beat.counter, Instant::now());
            } else if entry.1.elapsed() > self.config.lease {
                let lost: Vec<AttemptId> =
                    self.holders.iter().filter(|(_, n)| **n == node).map(|(a, _)| *a).collect();
                for attempt in lost {
                    self.holders.remove(&attempt);
                    self.scheduler.lost(attempt);
                }
                continue;
            }
            self.idle += beat.free_slots as usize;
            for held in beat.held {
                let Some(task) = self.scheduler.task_of(held.attempt) else { continue };
                if matches!(task, Task::Segment(_)) {
                    let frames = self.held.entry(task).or_insert(0);
                    *frames = held.frames.max(*frames);
                }
                if self.holders.insert(held.attempt, node).is_none() {
                    self.claimed(held.attempt);
                    let (attempt, slot_pid) = (held.attempt, held.slot_pid);
                    self.tell(JobEvent::Started { task, attempt, slot_pid }).await;
                }
            }
        }
        Ok(())
    }

    fn claimed(&mut self, attempt: AttemptId) {
        self.scheduler.claimed(attempt, self.started.elapsed());
        let is_segment = matches!(self.scheduler.task_of(attempt), Some(Task::Segment(_)));
        if let Some(sent) = self.sent_at.remove(&attempt).filter(|_| is_segment) {
            self.waited_ms.push(sent.elapsed().as_secs_f32() * 1e3);
        }
    }

    async fn report(&mut self, report: AttemptReport) -> Result<()> {
        let attempt = report.attempt;
        if self.scheduler.task_of(attempt) != Some(report.task) {
            return Ok(());
        }
        self.claimed(attempt);
        if self.holders.insert(attempt, report.node).is_none() {
            // It was begun and done between two beats.
            let (task, slot_pid) = (report.task, report.slot_pid);
            self.tell(JobEvent::Started { task, attempt, slot_pid }).await;
        }
        match &report.outcome {
            Outcome::Failed { error, by_task } => {
                self.failed(attempt, error.clone(), *by_task).await
            }
            Outcome::Done(output) => {
                if let Err(error) = self.matches(report.task, attempt, output) {
                    return self.failed(attempt, error, true).await;
                }
                self.accept(report.clone(), output.clone()).await
            }
        }
    }

    /// Whether what a node reports lies on the store.
    fn matches(&self, task: Task, attempt: AttemptId, output: &TaskOutput) -> Result<()> {
        let size = match (task, output) {
            (Task::Plan, TaskOutput::Plan(output)) => output.file.size,
            (Task::Segment(_), TaskOutput::Segment(output)) => output.file.size,
            (Task::Concat, TaskOutput::Concat(output)) => output.file.size,
            _ => return Err(Error::internal(format!("{task}: a report of another kind of task"))),
        };
        let file = self.dir.open_result(task, attempt, "")?;
        let found = file.and_then(|file| file.metadata().ok()).map(|meta| meta.len());
        if found == Some(size) {
            Ok(())
        } else {
            Err(Error::internal(format!("{task}: its file of {size} bytes is not there")))
        }
    }

    async fn accept(&mut self, report: AttemptReport, output: TaskOutput) -> Result<()> {
        let (task, attempt) = (report.task, report.attempt);
        let plan = match task {
            Task::Plan => self.dir.read_plan(attempt)?,
            _ => None,
        };
        let (verdict, losers) = self.scheduler.done(attempt, self.started.elapsed());
        if verdict != Verdict::Accept {
            return Ok(());
        }
        (self.config.fault)("before accept")?;
        self.journal.append(&[Decision::Accepted(report)])?;
        (self.config.fault)("after accept")?;
        for command in losers {
            if let Command::Cancel { attempt } = command {
                self.dir.cancel(attempt)?;
            }
        }
        self.tell(JobEvent::Accepted { task, attempt }).await;
        match (task, output) {
            (Task::Plan, _) => {
                let plan = plan.ok_or_else(|| Error::internal("the plan is gone"))?;
                self.planned(plan, &[]).await?;
            }
            (Task::Segment(k), TaskOutput::Segment(output)) => {
                self.done.insert(k, output.frames);
                self.segment_cpu_us += output.cpu_us;
            }
            (_, TaskOutput::Concat(output)) => self.concat = Some(output),
            _ => {}
        }
        Ok(())
    }

    async fn failed(&mut self, attempt: AttemptId, error: Error, by_task: bool) -> Result<()> {
        let Some(task) = self.scheduler.task_of(attempt) else { return Ok(()) };
        if self.scheduler.failed(attempt, error.clone(), by_task) == Verdict::Failed {
            self.journal.append(&[Decision::Failed { task, attempt, error: error.clone() }])?;
            let retried = !matches!(self.scheduler.phase(), Phase::Failed(_));
            self.tell(JobEvent::Failed { task, attempt, error, retried }).await;
        }
        Ok(())
    }

    /// Notes how many tasks wait, ever more seldom the longer a job takes.
    fn sample(&mut self) {
        if !self.depth.is_empty() && self.sampled.elapsed() < self.every {
            return;
        }
        self.sampled = Instant::now();
        let (waiting, running, _) = self.scheduler.counts();
        let seconds = self.started.elapsed().as_secs_f64();
        self.depth.push(DepthSample { seconds, waiting, running });
        if self.depth.len() > MOST_SAMPLES {
            let mut keep = false;
            self.depth.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
    }

    fn finish(self, job: &JobFile) -> Result<JobOutcome> {
        let gone = || Error::internal("a job ended without its results");
        let attempt = self.scheduler.accepted(Task::Concat).ok_or_else(gone)?;
        let mut frames = FrameCounts::default();
        for counts in self.done.values() {
            frames.input += counts.input;
            frames.output += counts.output;
            frames.concealed += counts.concealed;
            frames.decoded += counts.decoded;
        }
        let retried_frames = self
            .scheduler
            .retried()
            .iter()
            .filter_map(|task| match task {
                Task::Segment(k) => self.done.get(k).map(|counts| counts.output),
                _ => None,
            })
            .sum();
        let frame_metrics =
            job.frame_metrics.then(|| self.dir.result_path(Task::Concat, attempt, ".frames"));
        Ok(JobOutcome {
            plan: self.plan.ok_or_else(gone)?,
            concat: self.concat.ok_or_else(gone)?,
            output: self.dir.result_path(Task::Concat, attempt, ""),
            frame_metrics,
            frames,
            retried_frames,
            scheduler: self.scheduler,
            depth: self.depth,
            waited_ms: self.waited_ms,
            segment_cpu_us: self.segment_cpu_us,
        })
    }
}
