//! One job: what nodes report of it, what is accepted, and how far it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::Duration;

use frameloom_broker::Urgency;
use frameloom_core::frame_task::sends_frames;
use frameloom_core::id::{AttemptId, EngineId, NodeId};
use frameloom_core::metrics::{DepthSample, FrameCounts};
use frameloom_core::needs::GpuNeeds;
use frameloom_core::plan::Plan;
use frameloom_core::scheduler::{Command, Phase, Scheduler, Verdict};
use frameloom_core::slot::{ConcatOutput, TaskOutput, TrackOutput};
use frameloom_core::wire::{
    AttemptReport, Beat, Decision, JobFile, Outcome, Queue, Task, TaskMessage,
};
use frameloom_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{JobEvent, JobOutcome, Progress, Shared, Stage, Watcher};
use crate::journal::Journal;
use crate::resume::Found;
use crate::store::{self, DETECTIONS, FRAMES, JobDir, What};

/// Samples of the queue that are kept; then every second one is dropped.
const MOST_SAMPLES: usize = 512;

/// When an attempt was sent.
struct Sent {
    first: Instant,
    last: Instant,
    /// When its claim was last looked for.
    looked: Instant,
    /// How often it was sent again.
    again: u32,
    urgency: Urgency,
}

impl Sent {
    /// Whether its message counts as lost while nobody has claimed it: see [`JobRun::resend`].
    fn is_lost(&self, now: Instant, drained: bool, taken: Option<Instant>, idle: bool) -> bool {
        let gone = drained || taken.is_some_and(|at| at > self.last);
        let most = if idle { super::STARVES_AFTER } else { super::WAITS_AT_MOST };
        let long = most * (1 << self.again.min(super::MOST_DOUBLINGS));
        now.duration_since(self.last) > if gone { super::RESEND_AFTER } else { long }
    }
}

/// A result that is the task's once it is written down.
struct Accepted {
    report: AttemptReport,
    output: TaskOutput,
    /// The plan, where it is one.
    plan: Option<Plan>,
    /// What is to be done about other attempts.
    losers: Vec<Command>,
}

/// A job at work.
pub(super) struct JobRun {
    job: JobFile,
    watcher: Watcher,
    journal: Journal,
    scheduler: Scheduler,
    plan: Option<Plan>,
    concat: Option<ConcatOutput>,
    track: Option<TrackOutput>,
    done: BTreeMap<u32, FrameCounts>,
    done_frames: u64,
    /// Frames of segments that were looked into.
    looked_frames: u64,
    /// Attempts that were sent and that nobody has claimed yet.
    sent_at: BTreeMap<AttemptId, Sent>,
    /// When attempts were sent that were claimed since this was asked for, by urgency.
    taken: Vec<(Urgency, Instant)>,
    /// Attempts that were sent and not reported: whoever holds one is told to stop in the end.
    unreported: BTreeSet<AttemptId>,
    claimed_at: BTreeMap<AttemptId, Instant>,
    started: Instant,
    depth: Vec<DepthSample>,
    sampled: Instant,
    every: Duration,
    waited_ms: Vec<f32>,
    segment_cpu_us: u64,
    /// The nodes at work on attempts, and when they last said so.
    holders: BTreeMap<AttemptId, (NodeId, Instant)>,
    /// The engine of its plan.
    engine: Option<EngineId>,
    /// The engine whose nodes do all of it, where it was planned anew for one.
    home: Option<EngineId>,
    /// Which of its tasks need a GPU, where those go to nodes that have one.
    gpu: GpuNeeds,
    /// The server's own engine, where tasks that need a GPU go to nodes that have one.
    planner: Option<EngineId>,
    /// Whether nobody takes the frames that its filters have sent to a queue.
    no_worker: bool,
    /// Whether those frames find no room on the store.
    no_room: bool,
    /// The queue that it needs and no node listens to.
    no_node: Option<Queue>,
    /// Frames that tasks at work have done, the furthest attempt of each.
    held: BTreeMap<Task, u64>,
    /// Reports that were read and cannot be removed: they count once.
    left: BTreeSet<AttemptId>,
    told: Progress,
}

impl JobRun {
    /// A job that begins, or goes on with what `found` tells of an earlier run.
    pub(super) fn new(
        shared: &Shared,
        job: JobFile,
        found: Option<Found>,
        home: Option<EngineId>,
        watcher: Watcher,
    ) -> Result<Self> {
        let (journal, _) = shared.store.job(job.id).open_journal()?;
        let now = Instant::now();
        let patient = job.submission.is_some();
        let gpu = shared.config.gpu_for.map_or_else(GpuNeeds::default, |_| GpuNeeds::of(&job.spec));
        if sends_frames(&job.spec) {
            // What an earlier run left is of no use to anybody.
            shared.store.frames(job.id).drop_all()?;
            shared.store.frames(job.id).make()?;
        }
        let mut run = Self {
            job,
            watcher,
            journal,
            scheduler: Scheduler::new(patient),
            plan: None,
            concat: None,
            track: None,
            done: BTreeMap::new(),
            done_frames: 0,
            looked_frames: 0,
            sent_at: BTreeMap::new(),
            taken: Vec::new(),
            unreported: BTreeSet::new(),
            claimed_at: BTreeMap::new(),
            started: now,
            depth: Vec::new(),
            sampled: now,
            every: Duration::from_millis(100),
            waited_ms: Vec::new(),
            segment_cpu_us: 0,
            holders: BTreeMap::new(),
            engine: None,
            home,
            gpu,
            planner: shared.config.gpu_for,
            no_worker: false,
            no_room: false,
            no_node: None,
            held: BTreeMap::new(),
            left: BTreeSet::new(),
            told: Progress::default(),
        };
        if let Some(found) = found
            && let Some((attempt, plan)) = found.plan
        {
            run.scheduler.resume(Task::Plan, attempt);
            run.planned(plan, &found.segments);
            if let Some(report) = found.concat
                && let Outcome::Done(TaskOutput::Concat(output)) = report.outcome
                && *run.scheduler.phase() == Phase::Assembling
            {
                run.scheduler.resume(Task::Concat, report.attempt);
                run.concat = Some(output);
            }
        }
        Ok(run)
    }

    /// Where it stands.
    pub(super) fn phase(&self) -> &Phase {
        self.scheduler.phase()
    }

    fn dir<'a>(&self, shared: &'a Shared) -> JobDir<'a> {
        shared.store.job(self.job.id)
    }

    fn tell(&mut self, event: JobEvent) {
        (self.watcher)(event);
    }

    fn planned(&mut self, plan: Plan, done: &[AttemptReport]) {
        self.scheduler.planned(plan.stages());
        // In the order of the stages: a task exists once the stage before it is done.
        let mut done: Vec<&AttemptReport> = done.iter().collect();
        done.sort_by_key(|report| report.task);
        for report in done {
            let Outcome::Done(output) = &report.outcome else { continue };
            if output.file_of(report.task).is_some() && self.scheduler.knows(report.task) {
                self.scheduler.resume(report.task, report.attempt);
                self.task_done(report.task, output);
            }
        }
        self.engine = Some(plan.engine.id());
        let resumed = self.scheduler.resumed();
        self.plan = Some(plan.clone());
        self.tell(JobEvent::Planned { plan: Box::new(plan), resumed });
    }

    /// Counts what an accepted task has done.
    fn task_done(&mut self, task: Task, output: &TaskOutput) {
        match (task, output) {
            (Task::Detect(_), TaskOutput::Detect(output)) => {
                self.looked_frames = self.looked_frames.saturating_add(output.frames.output);
            }
            (Task::Track, TaskOutput::Track(output)) => self.track = Some(output.clone()),
            (Task::Segment(k), TaskOutput::Segment(output)) => {
                self.done_frames = self.done_frames.saturating_add(output.frames.output);
                self.done.insert(k, output.frames);
            }
            (Task::Concat, TaskOutput::Concat(output)) => self.concat = Some(output.clone()),
            _ => {}
        }
    }

    /// The queue that its tasks wait in now.
    pub(super) fn queue(&self) -> Option<Queue> {
        let (phase, engine) = (self.scheduler.phase(), self.engine);
        let segments = |gpu, engine| if gpu { Queue::Gpu(engine) } else { Queue::Segment(engine) };
        match (phase, engine) {
            (Phase::Detecting, Some(engine)) => Some(segments(self.gpu.detect, engine)),
            (Phase::Running, Some(engine)) => Some(segments(self.gpu.encode, engine)),
            (Phase::Planning, _) => Some(match (self.home, self.planner) {
                (Some(home), _) => segments(self.gpu.plan(), home),
                (None, Some(ours)) if self.gpu.plan() => Queue::Gpu(ours),
                _ => Queue::Control,
            }),
            (Phase::Tracking | Phase::Assembling, _) => {
                Some(self.home.map_or(Queue::Control, Queue::Segment))
            }
            _ => None,
        }
    }

    /// The queue that the next task to send waits in, where there is one.
    pub(super) fn wants(&self) -> Option<Queue> {
        self.queue().filter(|_| self.scheduler.wants(self.started.elapsed()))
    }

    /// The queue that nodes must listen to for it to go on, where not all do.
    pub(super) fn needs_node(&self) -> Option<Queue> {
        self.queue().filter(|queue| *queue != Queue::Control)
    }

    /// Says to which queue it needs a node to listen and none does.
    pub(super) fn misses(&mut self, queue: Option<Queue>) {
        self.no_node = queue;
    }

    /// Sends again what nobody has claimed: at once where the queue has been empty for a while, or what was sent later as
    /// urgently has been claimed (`taken`), for then the message is lost; after long in any case, for nobody can tell, and one too
    /// many does no harm. A job of which nothing is at work waits less long: where others' tasks are more urgent all the
    /// time it would not have a turn.
    /// An attempt that a node claimed, and never told of, is lost with that node.
    pub(super) async fn resend(
        &mut self,
        shared: &Shared,
        drained: bool,
        taken: &BTreeMap<(Queue, Urgency), Instant>,
        urgency: Urgency,
    ) -> Result<()> {
        let Some(queue) = self.queue() else { return Ok(()) };
        let lease = shared.config.lease;
        let (idle, now) = (self.claimed_at.is_empty(), Instant::now());
        let mut late = Vec::new();
        for (attempt, sent) in &mut self.sent_at {
            let taken = taken.get(&(queue, sent.urgency)).copied();
            let lost = sent.is_lost(now, drained, taken, idle);
            if lost || sent.looked.elapsed() > lease {
                sent.looked = Instant::now();
                late.push((*attempt, lost, sent.first.elapsed() > lease));
            }
        }
        for (attempt, lost, old) in late {
            let task = self.scheduler.task_of(attempt).filter(|_| self.scheduler.is_live(attempt));
            let Some(task) = task else {
                self.sent_at.remove(&attempt);
                continue;
            };
            let claimed = self.dir(shared).is_claimed(attempt);
            if claimed && old {
                tracing::info!(job = %self.job.id, %task, %attempt, "claimed and never heard of");
                self.dir(shared).cancel(attempt)?;
                self.sent_at.remove(&attempt);
                self.scheduler.lost(attempt);
            } else if lost && !claimed {
                let message = TaskMessage { job: self.job.id, task, attempt };
                tracing::info!(job = %self.job.id, %task, %attempt, "not claimed; sent again");
                shared.broker.send(queue, message, urgency).await.map_err(gone)?;
                if let Some(sent) = self.sent_at.get_mut(&attempt) {
                    (sent.last, sent.again) = (Instant::now(), sent.again + 1);
                    sent.urgency = urgency;
                }
            }
        }
        Ok(())
    }

    /// Segments that wait in the queue or are at work.
    pub(super) fn under_way(&self) -> usize {
        self.scheduler.under_way() as usize
    }

    /// Sends the next tasks, `most` at a time; with `idle` slots and nothing to send, a second attempt
    /// at a slow one. Answers how many were sent.
    pub(super) async fn send(
        &mut self,
        shared: &Shared,
        most: usize,
        idle: usize,
        urgency: Urgency,
    ) -> Result<usize> {
        let now = self.started.elapsed();
        let commands = self.scheduler.step(now, most, idle, &mut || (shared.config.new_id)());
        let mut sent = Vec::new();
        for command in commands {
            match command {
                Command::Send { task, attempt, .. } => sent.push((task, attempt)),
                Command::Cancel { attempt } => self.dir(shared).cancel(attempt)?,
            }
        }
        if sent.is_empty() {
            return Ok(0);
        }
        let queue = self.queue().ok_or_else(|| Error::internal("no queue"))?;
        let decision =
            |(task, attempt): &(Task, AttemptId)| Decision::Sent { task: *task, attempt: *attempt };
        self.decide(shared, &sent.iter().map(decision).collect::<Vec<_>>())?;
        let now = Instant::now();
        for (_, attempt) in &sent {
            let sent = Sent { first: now, last: now, looked: now, again: 0, urgency };
            self.sent_at.insert(*attempt, sent);
            self.unreported.insert(*attempt);
        }
        for (task, attempt) in &sent {
            let message = TaskMessage { job: self.job.id, task: *task, attempt: *attempt };
            // Where the broker does not answer, the messages count as lost, and are sent again.
            shared.broker.send(queue, message, urgency).await.map_err(gone)?;
        }
        Ok(sent.len())
    }

    /// Writes decisions down, unless another server has taken over.
    fn decide(&mut self, shared: &Shared, decisions: &[Decision]) -> Result<()> {
        (shared.config.before_commit)()?;
        shared.store.pressing(|| self.journal.append(decisions))
    }

    /// Stops what is at work for it.
    pub(super) fn stop(&mut self, shared: &Shared) -> Result<()> {
        let dir = self.dir(shared);
        self.unreported.iter().try_for_each(|attempt| dir.cancel(*attempt))
    }

    /// Hears what nodes hold, before [`JobRun::look`].
    pub(super) fn beats(&mut self, beats: &[(NodeId, Beat)], lost: &[NodeId], lease: Duration) {
        self.held.clear();
        (self.no_worker, self.no_room) = (false, false);
        for (node, beat) in beats {
            for held in &beat.held {
                let live = self.scheduler.is_live(held.attempt);
                let task = self.scheduler.task_of(held.attempt).filter(|_| live);
                let Some(task) = task else { continue };
                self.no_worker |= held.starved;
                self.no_room |= held.full;
                if task.segment().is_some() {
                    let frames = self.held.entry(task).or_insert(0);
                    *frames = held.frames.max(*frames);
                }
                if self.holders.insert(held.attempt, (*node, Instant::now())).is_none() {
                    self.claimed(held.attempt);
                    let (attempt, slot_pid) = (held.attempt, held.slot_pid);
                    self.tell(JobEvent::Started { task, attempt, slot_pid });
                }
            }
        }
        // A node that does not list an attempt any more has reported it, or never will.
        let gone: Vec<AttemptId> = self
            .holders
            .iter()
            .filter(|(_, (node, said))| lost.contains(node) || said.elapsed() > lease)
            .map(|(attempt, _)| *attempt)
            .collect();
        for attempt in gone {
            self.holders.remove(&attempt);
            self.claimed_at.remove(&attempt);
            tracing::info!(job = %self.job.id, %attempt, "an attempt is lost with its node");
            self.scheduler.lost(attempt);
        }
    }

    /// Reads the reports that have come, and tells how far the job is.
    pub(super) fn look(&mut self, shared: &Shared) -> Result<()> {
        let dir = self.dir(shared);
        let reports = dir.inbox(&self.left)?;
        if !reports.is_empty() {
            // They are the new server's where one has taken over.
            (shared.config.before_commit)()?;
        }
        let mut read = Vec::new();
        let mut accepted = Vec::new();
        for (attempt, report) in reports {
            match report {
                Ok(report) if report.attempt == attempt && is_slots_name(&report.slot) => {
                    accepted.extend(self.report(shared, report)?);
                }
                // Trouble of the store's is not the report's: it is read again.
                Err(error) if is_stores(&error) => {
                    tracing::debug!(%error, job = %self.job.id, %attempt, "cannot read a report");
                    continue;
                }
                malformed => {
                    let error = malformed.err().unwrap_or_else(|| {
                        Error::internal("it tells of another attempt, or of a slot of no name")
                    });
                    let error = error.at("its report is malformed");
                    self.refused(shared, What::Report, attempt, error)?;
                }
            }
            read.push(attempt);
        }
        // Written down together: the disk is waited for once.
        self.accept(shared, accepted)?;
        for attempt in read {
            if let Err(error) = dir.remove_report(attempt) {
                tracing::warn!(%error, job = %self.job.id, "a report is left where it is");
                self.left.insert(attempt);
            }
        }
        let (waiting, running, _) = self.scheduler.counts();
        // After the reports: what was accepted just now is not at work any more.
        let open = self.held.iter().filter(|(task, _)| self.scheduler.accepted(**task).is_none());
        let held = open.fold(0, |sum: u64, (_, frames)| sum.saturating_add(*frames));
        let (stage, done) = match self.scheduler.phase() {
            Phase::Planning => (Stage::Planning, 0),
            Phase::Detecting => (Stage::Detecting, self.looked_frames),
            Phase::Tracking => (Stage::Tracking, self.looked_frames),
            Phase::Assembling => (Stage::Joining, self.done_frames),
            Phase::Running | Phase::Done | Phase::Failed(_) => (Stage::Running, self.done_frames),
        };
        let progress = Progress {
            frames: done.saturating_add(held),
            waiting,
            running,
            retried: u32::try_from(self.scheduler.retried().len()).unwrap_or(0),
            stage,
            no_worker: self.no_worker,
            no_room: self.no_room,
            no_node: self.no_node,
        };
        if progress != self.told {
            self.told = progress;
            self.tell(JobEvent::Progress(progress));
        }
        self.sample();
        Ok(())
    }

    fn claimed(&mut self, attempt: AttemptId) {
        self.scheduler.claimed(attempt, self.started.elapsed());
        self.claimed_at.entry(attempt).or_insert_with(Instant::now);
        let is_segment =
            self.scheduler.task_of(attempt).is_some_and(|task| task.segment().is_some());
        let Some(sent) = self.sent_at.remove(&attempt) else { return };
        if sent.again == 0 {
            self.taken.push((sent.urgency, sent.first));
        }
        if is_segment {
            self.waited_ms.push(sent.first.elapsed().as_secs_f32() * 1e3);
        }
    }

    /// When attempts were sent that have been claimed since this was asked last, by urgency.
    pub(super) fn taken(&mut self) -> Vec<(Urgency, Instant)> {
        std::mem::take(&mut self.taken)
    }

    /// Hears what became of an attempt; answers what is to be written down as accepted.
    fn report(&mut self, shared: &Shared, report: AttemptReport) -> Result<Option<Accepted>> {
        let attempt = report.attempt;
        self.unreported.remove(&attempt);
        match self.scheduler.task_of(attempt) {
            None => return Ok(None),
            Some(task) if task != report.task => {
                let error = Error::internal(format!("{task}: its report tells of {}", report.task));
                self.refused(shared, What::Report, attempt, error)?;
                return Ok(None);
            }
            Some(_) => {}
        }
        self.claimed(attempt);
        if self.holders.remove(&attempt).is_none() && self.scheduler.is_live(attempt) {
            // It was begun and done between two beats.
            let (task, slot_pid) = (report.task, report.slot_pid);
            self.tell(JobEvent::Started { task, attempt, slot_pid });
        }
        match &report.outcome {
            Outcome::Failed { error, by_task } => {
                self.failed(shared, attempt, error.clone().tamed(), *by_task)?;
                Ok(None)
            }
            Outcome::Done(output) => {
                if let Err(error) = self.matches(shared, report.task, attempt, output) {
                    self.refused(shared, What::Result, attempt, error)?;
                    return Ok(None);
                }
                let plan = match (report.task, output.file_of(Task::Plan)) {
                    (Task::Plan, Some(told)) => {
                        match self.dir(shared).read_new_plan(attempt, told) {
                            Ok(plan) => Some(plan),
                            Err(error) => {
                                self.refused(shared, What::Plan, attempt, error)?;
                                return Ok(None);
                            }
                        }
                    }
                    _ => None,
                };
                let (verdict, losers) = self.scheduler.done(attempt, self.started.elapsed());
                let output = output.clone();
                let accepted = Accepted { report, output, plan, losers };
                Ok((verdict == Verdict::Accept).then_some(accepted))
            }
        }
    }

    /// Whether what a node reports lies on the store.
    fn matches(
        &self,
        shared: &Shared,
        task: Task,
        attempt: AttemptId,
        output: &TaskOutput,
    ) -> Result<()> {
        let size = match output.file_of(task) {
            Some(file) => file.size,
            None => {
                return Err(Error::internal(format!("{task}: a report of another kind of task")));
            }
        };
        let file = self.dir(shared).open_result(task, attempt, "")?;
        let file = file.filter(|file| file.metadata().is_ok_and(|meta| meta.len() == size));
        let Some(file) = file else {
            return Err(Error::internal(format!("{task}: its file of {size} bytes is not there")));
        };
        let solid = |file: &File, what: &str| {
            if store::is_mostly_holes(file) {
                return Err(Error::internal(format!("{task}: its {what} is mostly holes")));
            }
            Ok(())
        };
        solid(&file, &format!("file of {size} bytes"))?;
        for suffix in self.beside(task) {
            let beside = self.dir(shared).open_result(task, attempt, suffix)?;
            let gone = || Error::internal(format!("{task}: its file '{suffix}' is not there"));
            solid(&beside.ok_or_else(gone)?, &format!("file '{suffix}'"))?;
        }
        Ok(())
    }

    /// What the names of the files end with that a task makes for clients beside its own.
    fn beside(&self, task: Task) -> Vec<&'static str> {
        let Some(plan) = self.plan.as_ref().filter(|_| task == Task::Concat) else {
            return Vec::new();
        };
        let frames = (self.job.frame_metrics && plan.stages().render).then_some(FRAMES);
        let detections = plan.writes_detections().then_some(DETECTIONS);
        frames.into_iter().chain(detections).collect()
    }

    /// What a node has left of an attempt is none of what it should be: it failed, unless the store is to blame.
    fn refused(
        &mut self,
        shared: &Shared,
        what: What,
        attempt: AttemptId,
        error: Error,
    ) -> Result<()> {
        let by_task = !is_stores(&error);
        if by_task {
            shared.store.refused().note(what, &error);
        }
        self.failed(shared, attempt, error, by_task)
    }

    fn accept(&mut self, shared: &Shared, all: Vec<Accepted>) -> Result<()> {
        if all.is_empty() {
            return Ok(());
        }
        (shared.config.fault)("before accept")?;
        let decisions: Vec<Decision> =
            all.iter().map(|accepted| Decision::Accepted(accepted.report.clone())).collect();
        self.decide(shared, &decisions)?;
        (shared.config.fault)("after accept")?;
        all.into_iter().try_for_each(|accepted| self.accepted(shared, accepted))
    }

    /// What follows from a result that is written down.
    fn accepted(&mut self, shared: &Shared, accepted: Accepted) -> Result<()> {
        let Accepted { report, output, plan, losers } = accepted;
        let AttemptReport { task, attempt, slot, .. } = report;
        for command in losers {
            if let Command::Cancel { attempt } = command {
                self.dir(shared).cancel(attempt)?;
            }
        }
        let took = self.claimed_at.remove(&attempt).map(|at| at.elapsed()).unwrap_or_default();
        let in_slot = match &output {
            TaskOutput::Detect(output) | TaskOutput::Segment(output) => {
                self.segment_cpu_us = self.segment_cpu_us.saturating_add(output.cpu_us);
                Some(Duration::from_micros(output.wall_us))
            }
            _ => None,
        };
        self.tell(JobEvent::Accepted { task, attempt, took, in_slot, slot });
        if task == Task::Plan {
            let plan = plan.ok_or_else(|| Error::internal("the plan is gone"))?;
            self.planned(plan, &[]);
        } else {
            self.task_done(task, &output);
        }
        Ok(())
    }

    fn failed(
        &mut self,
        shared: &Shared,
        attempt: AttemptId,
        error: Error,
        by_task: bool,
    ) -> Result<()> {
        let Some(task) = self.scheduler.task_of(attempt) else { return Ok(()) };
        self.claimed_at.remove(&attempt);
        let now = self.started.elapsed();
        if self.scheduler.failed(attempt, error.clone(), by_task, now) == Verdict::Failed {
            self.decide(shared, &[Decision::Failed { task, attempt, error: error.clone() }])?;
            let retried = !matches!(self.scheduler.phase(), Phase::Failed(_));
            self.tell(JobEvent::Failed { task, attempt, error, retried });
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

    pub(super) fn finish(self, shared: &Shared) -> Result<JobOutcome> {
        let dir = shared.store.job(self.job.id);
        let gone = || Error::internal("a job ended without its results");
        let attempt = self.scheduler.accepted(Task::Concat).ok_or_else(gone)?;
        let mut frames = FrameCounts::default();
        for counts in self.done.values() {
            frames.add(counts);
        }
        if self.done.is_empty() {
            // No video was made: its frames were looked at.
            (frames.input, frames.output) = (self.looked_frames, self.looked_frames);
        }
        let again: BTreeSet<u32> =
            self.scheduler.retried().into_iter().filter_map(Task::segment).collect();
        let retried = again.iter().filter_map(|k| self.done.get(k));
        let retried_frames = retried.fold(0, |sum: u64, c| sum.saturating_add(c.output));
        let beside = self.beside(Task::Concat);
        let path = |suffix| dir.result_path(Task::Concat, attempt, suffix);
        let made = |suffix| beside.contains(&suffix).then(|| path(suffix));
        let (frame_metrics, detections) = (made(FRAMES), made(DETECTIONS));
        let plan = self.plan.ok_or_else(gone)?;
        let mut concat = self.concat.ok_or_else(gone)?;
        if let Some(track) = self.track {
            concat.time_per_frame_ms.extend(track.time_per_frame_ms);
        }
        Ok(JobOutcome {
            plan,
            concat,
            output: dir.result_path(Task::Concat, attempt, ""),
            frame_metrics,
            detections,
            frames,
            retried_frames,
            scheduler: self.scheduler,
            depth: self.depth,
            waited_ms: self.waited_ms,
            segment_cpu_us: self.segment_cpu_us,
        })
    }
}

/// Whether reading failed for reasons of the store's, which pass.
fn is_stores(error: &Error) -> bool {
    error.kind().is_retryable() && error.kind() != ErrorKind::Internal
}

/// Whether a text can be a slot's name: it is shown.
fn is_slots_name(text: &str) -> bool {
    text.len() <= 100 && !text.chars().any(char::is_control)
}

/// A broker that took us once and does not now, whose password or certificate is another, say, is gone until it does:
/// no job is to blame.
fn gone(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unauthorized | ErrorKind::Invalid => {
            Error::unavailable(error.message().to_owned())
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_lost_when_its_queue_is_empty_or_a_later_one_was_taken_or_after_long() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let sent = |again| Sent { first: at(0), last: at(10), looked: at(0), again, urgency: 6 };
        // (when, whether the queue is empty, when what was taken last was sent, whether nothing else is at work)
        let cases = [
            (0, (11, true, None, false), false),
            (0, (13, true, None, false), true),
            (0, (13, false, None, false), false),
            (0, (13, false, Some(9), false), false),
            (0, (13, false, Some(10), false), false),
            (0, (11, false, Some(11), false), false),
            (0, (13, false, Some(11), false), true),
            (0, (39, false, Some(9), false), false),
            (0, (41, false, Some(9), false), true),
            (1, (41, false, None, false), false),
            (1, (71, false, None, false), true),
            (0, (14, false, None, true), false),
            (0, (16, false, None, true), true),
            (2, (29, false, None, true), false),
            (2, (31, false, None, true), true),
        ];
        for (again, (now, drained, taken, idle), wanted) in cases {
            let lost = sent(again).is_lost(at(now), drained, taken.map(at), idle);
            assert_eq!(lost, wanted, "{again}, {now}, {drained}, {taken:?}, {idle}");
        }
    }
}
