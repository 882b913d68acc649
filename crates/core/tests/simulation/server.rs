//! The server: drives one scheduler a job as the engine does. It reads beats and reports, decides,
//! sends in turns, and sends again what nobody took.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use frameloom_core::id::AttemptId;
use frameloom_core::scheduler::{Command, MAX_ATTEMPTS, Phase, Scheduler, Verdict};
use frameloom_core::wire::Task;
use frameloom_core::{Error, ErrorKind};

use crate::broker::{Message, Queue};
use crate::job::Run;
use crate::nodes::{LEASE, Nodes};
use crate::random::Time;
use crate::store::Report;
use crate::world::World;

/// How long a queue is empty, with slots that wait for it, before what was sent is sent again.
const TWO_BEATS: Time = 2000;

/// The server has died, or another one has taken over: it decides no more.
#[derive(Debug)]
pub(crate) struct Ended;

/// A server process.
pub(crate) struct Server {
    pub(crate) epoch: u64,
    pub(crate) frozen_until: Time,
    /// It dies at the so manieth result that it accepts, before or after that is written down.
    pub(crate) dies_at: Option<(Time, bool)>,
    jobs: BTreeMap<usize, Run>,
    nodes: Nodes,
    /// The job of each attempt.
    job_of: BTreeMap<AttemptId, usize>,
    /// Attempts that are sent and not claimed, and when they were sent last.
    sent: BTreeMap<AttemptId, (Message, Time)>,
    /// Since when each queue is empty.
    empty_since: [Time; 2],
    turn: u64,
}

impl Server {
    pub(crate) fn new(epoch: u64, now: Time) -> Self {
        Self {
            epoch,
            frozen_until: 0,
            dies_at: None,
            jobs: BTreeMap::new(),
            nodes: Nodes::default(),
            job_of: BTreeMap::new(),
            sent: BTreeMap::new(),
            empty_since: [now; 2],
            turn: 0,
        }
    }

    /// One turn of its loop.
    pub(crate) fn look(&mut self, world: &mut World) -> Result<(), Ended> {
        self.begin(world);
        self.hear(world);
        self.read_reports(world)?;
        self.end_jobs(world)?;
        self.dispatch(world)?;
        self.send_again(world);
        // It sees that another one has taken over, if only after all of that.
        self.may_decide(world)
    }

    fn may_decide(&self, world: &World) -> Result<(), Ended> {
        if world.store.epoch == self.epoch { Ok(()) } else { Err(Ended) }
    }

    /// Begins what was submitted, or goes on with it from its journal.
    fn begin(&mut self, world: &World) {
        for (j, (dir, model)) in world.store.jobs.iter().zip(&world.scenario.jobs).enumerate() {
            if dir.ended.is_some() || model.submitted > world.now || self.jobs.contains_key(&j) {
                continue;
            }
            let mut scheduler = Scheduler::new(true);
            if let Some(plan) = dir.accepted.get(&Task::Plan) {
                scheduler.resume(Task::Plan, *plan);
                scheduler.planned(model.stages());
                for (task, attempt) in &dir.accepted {
                    self.job_of.insert(*attempt, j);
                    scheduler.resume(*task, *attempt);
                }
            }
            let run = Run::new(scheduler, world.now);
            run.check(world, j);
            self.jobs.insert(j, run);
        }
    }

    /// Hears what nodes hold and which are silent.
    fn hear(&mut self, world: &mut World) {
        let heard = self.nodes.look(&world.store, world.now);
        for attempt in heard.held {
            self.claimed(attempt, world.now);
        }
        for attempt in heard.lost {
            self.lost(attempt, world);
        }
    }

    fn claimed(&mut self, attempt: AttemptId, now: Time) {
        self.sent.remove(&attempt);
        if let Some(run) = self.job_of.get(&attempt).and_then(|j| self.jobs.get_mut(j)) {
            let elapsed = run.elapsed(now);
            run.scheduler.claimed(attempt, elapsed);
        }
    }

    fn lost(&mut self, attempt: AttemptId, world: &mut World) {
        self.sent.remove(&attempt);
        if let Some(run) = self.job_of.get(&attempt).and_then(|j| self.jobs.get_mut(j)) {
            world.counts.lost += u32::from(run.scheduler.is_claimed(attempt));
            run.scheduler.lost(attempt);
        }
    }

    fn read_reports(&mut self, world: &mut World) -> Result<(), Ended> {
        let jobs: Vec<usize> = self.jobs.keys().copied().collect();
        for j in jobs {
            let inbox: Vec<AttemptId> = world.store.jobs[j].inbox.keys().copied().collect();
            for attempt in inbox {
                if let Some(report) = world.store.jobs[j].inbox.get(&attempt).cloned() {
                    self.report(world, j, attempt, report)?;
                }
                world.store.jobs[j].inbox.remove(&attempt);
            }
        }
        Ok(())
    }

    fn report(
        &mut self,
        world: &mut World,
        j: usize,
        attempt: AttemptId,
        report: Report,
    ) -> Result<(), Ended> {
        let Some(run) = self.jobs.get(&j) else { return Ok(()) };
        if run.scheduler.task_of(attempt) != Some(report.task) {
            return Ok(());
        }
        self.claimed(attempt, world.now);
        self.nodes.reported(attempt, report.node);
        match report.outcome {
            Ok(()) => self.accept(world, j, report.task, attempt),
            Err((error, by_task)) => self.failed(world, j, attempt, error, by_task),
        }
    }

    fn accept(
        &mut self,
        world: &mut World,
        j: usize,
        task: Task,
        attempt: AttemptId,
    ) -> Result<(), Ended> {
        self.may_decide(world)?;
        let Some(run) = self.jobs.get_mut(&j) else { return Ok(()) };
        let now = run.elapsed(world.now);
        let (verdict, losers) = run.scheduler.done(attempt, now);
        if verdict != Verdict::Accept {
            return Ok(());
        }
        let dies = match &mut self.dies_at {
            Some((0, before)) => Some(*before),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if dies == Some(true) {
            return Err(Ended);
        }
        world.store.accept(world.now, j, task, attempt);
        if dies == Some(false) {
            return Err(Ended);
        }
        for loser in losers {
            if let Command::Cancel { attempt } = loser {
                self.cancel(world, attempt);
            }
        }
        if task == Task::Plan
            && let Some(run) = self.jobs.get_mut(&j)
        {
            run.scheduler.planned(world.scenario.jobs[j].stages());
        }
        Ok(())
    }

    fn cancel(&mut self, world: &mut World, attempt: AttemptId) {
        self.sent.remove(&attempt);
        let seen_from = world.now + world.until_seen();
        world.store.cancel(attempt, seen_from);
    }

    fn failed(
        &mut self,
        world: &World,
        j: usize,
        attempt: AttemptId,
        error: Error,
        by_task: bool,
    ) -> Result<(), Ended> {
        self.may_decide(world)?;
        let Some(run) = self.jobs.get_mut(&j) else { return Ok(()) };
        let Some(task) = run.scheduler.task_of(attempt) else { return Ok(()) };
        let counts = by_task && error.kind() != ErrorKind::Exhausted;
        let now = run.elapsed(world.now);
        if run.scheduler.failed(attempt, error, by_task, now) == Verdict::Failed && counts {
            *run.own.entry(task).or_insert(0) += 1;
        }
        Ok(())
    }

    fn end_jobs(&mut self, world: &mut World) -> Result<(), Ended> {
        let over = |run: &Run| matches!(run.scheduler.phase(), Phase::Done | Phase::Failed(_));
        let over: Vec<usize> =
            self.jobs.iter().filter(|(_, run)| over(run)).map(|(j, _)| *j).collect();
        for j in over {
            self.may_decide(world)?;
            let Some(run) = self.jobs.remove(&j) else { continue };
            run.check(world, j);
            world.counts.speculative += run.scheduler.speculative();
            world.store.end(world.now, j, *run.scheduler.phase() == Phase::Done);
            for attempt in run.scheduler.live() {
                self.cancel(world, attempt);
            }
        }
        Ok(())
    }

    /// Sends tasks: short ones at once, segments in turns while there is room in the queue.
    fn dispatch(&mut self, world: &mut World) -> Result<(), Ended> {
        let now = world.now;
        let Some(mut waiting) = world.broker.len(Queue::Segment, now) else { return Ok(()) };
        let hold = world.store.full_until > now;
        let window = (world.scenario.nodes * world.scenario.slots).div_ceil(2);
        loop {
            let room = !hold && waiting < window;
            let open = self.jobs.values().filter(|run| run.wants(now).is_some()).count();
            let share = if open > 1 { self.nodes.slots / open } else { 0 };
            let next = self
                .jobs
                .iter()
                .filter_map(|(j, run)| Some((*j, run.wants(now)?, run)))
                .map(|(j, queue, run)| {
                    let has_less = run.scheduler.under_way() as usize <= share;
                    (j, queue, has_less, run)
                })
                .filter(|(_, queue, has_less, _)| {
                    *queue == Queue::Control || room || (*has_less && !hold)
                })
                .min_by_key(|(j, queue, _, run)| {
                    let priority = world.scenario.jobs[*j].priority;
                    (*queue != Queue::Control, Reverse(priority), run.served)
                });
            let Some((j, queue, has_less, _)) = next else { break };
            self.turn += 1;
            if let Some(run) = self.jobs.get_mut(&j) {
                run.served = self.turn;
            }
            waiting += usize::from(queue == Queue::Segment);
            if !self.send(world, j, 0, has_less)? {
                break;
            }
        }
        if self.nodes.idle > 0 && waiting == 0 && !hold && world.scenario.speculates {
            let jobs: Vec<usize> = self.jobs.keys().copied().collect();
            for j in jobs {
                if self.send(world, j, self.nodes.idle, false)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends the job's next task. Answers whether one was sent.
    fn send(
        &mut self,
        world: &mut World,
        j: usize,
        idle: usize,
        has_less: bool,
    ) -> Result<bool, Ended> {
        let Some(run) = self.jobs.get_mut(&j) else { return Ok(false) };
        let now = run.elapsed(world.now);
        let commands = run.scheduler.step(now, 1, idle, &mut || world.random.attempt());
        let mut sent = false;
        for command in commands {
            let Command::Send { task, attempt, .. } = command else { continue };
            if world.store.epoch != self.epoch {
                return Err(Ended);
            }
            let own = run.own.get(&task).copied().unwrap_or(0);
            let seed = world.seed();
            assert!(
                own < MAX_ATTEMPTS,
                "seed {seed}: {task} of job {j} failed {own} times by itself and is sent again"
            );
            world.store.sent(world.now, j, task, attempt);
            self.job_of.insert(attempt, j);
            let base = match world.scenario.jobs[j].priority {
                6.. => 3,
                5 => 6,
                _ => 9,
            };
            let urgency = base - if has_less { 3 } else { 0 };
            let message = Message { job: j, task, attempt, urgency };
            if world.send(message) {
                self.sent.insert(attempt, (message, world.now));
                sent = true;
            } else {
                run.scheduler.lost(attempt);
            }
        }
        Ok(sent)
    }

    /// Sends again, by the same id, what nobody has taken while slots had nothing to take. What was
    /// claimed by a node that does not hold it is lost.
    fn send_again(&mut self, world: &mut World) {
        let now = world.now;
        for (queue, place) in [(Queue::Control, 0), (Queue::Segment, 1)] {
            if world.broker.len(queue, now) != Some(0)
                || (queue == Queue::Segment && self.nodes.idle == 0)
            {
                self.empty_since[place] = now;
            }
            if now - self.empty_since[place] < TWO_BEATS {
                continue;
            }
            let old = |(message, at): &(Message, Time)| {
                Queue::of(message.task) == queue && now - at >= TWO_BEATS
            };
            let old: Vec<(Message, Time)> =
                self.sent.values().filter(|s| old(s)).copied().collect();
            for (message, at) in old {
                match world.store.claimant(message.attempt, now) {
                    Some(_) if now - at > LEASE => self.lost(message.attempt, world),
                    Some(_) => {}
                    None if world.send(message) => {
                        world.counts.resent += 1;
                        self.sent.insert(message.attempt, (message, now));
                    }
                    None => {}
                }
            }
        }
    }
}
