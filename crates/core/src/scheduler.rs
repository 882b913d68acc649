//! What is done next for a job: a pure state machine. Events and time go in, commands come out.
//!
//! A task goes *waiting → sent → claimed → accepted*. Each try has an id of its own. Only failures
//! that the task caused count against [`MAX_ATTEMPTS`]; lost nodes and lost messages do not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::AttemptId;
use crate::metrics::FailedAttempt;
use crate::plan::Stages;
use crate::wire::Task;
use crate::{Error, ErrorKind};

/// Failures of one task, caused by itself, after which the job fails.
pub const MAX_ATTEMPTS: u32 = 3;

/// How long a task waits after a failure that it did not cause; doubled each time, so many times.
const BACK_OFF: Duration = Duration::from_millis(250);
const MOST_DOUBLINGS: u32 = 8;

/// How much longer than the median a segment takes before idle slots try it beside.
const SLOW: u32 = 2;

/// How long a segment takes at least before idle slots try it beside.
const SLOW_AT_LEAST: Duration = Duration::from_secs(4);

/// What a caller has to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Write that the attempt is sent, then send it.
    Send {
        /// The task.
        task: Task,
        /// A new id.
        attempt: AttemptId,
        /// Whether it runs beside another attempt that has not failed.
        speculative: bool,
    },
    /// The attempt is of no use any more: stop it.
    Cancel {
        /// The attempt.
        attempt: AttemptId,
    },
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Its plan is being made.
    Planning,
    /// Its segments are being looked into.
    Detecting,
    /// What was found is being followed over the whole video.
    Tracking,
    /// Its segments are being processed.
    Running,
    /// Its segments are being joined.
    Assembling,
    /// All tasks are accepted.
    Done,
    /// It failed for good.
    Failed(Error),
}

/// Whether a report changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This attempt's result is the task's result.
    Accept,
    /// The attempt failed, and that is noted.
    Failed,
    /// The task is accepted already, or the attempt is unknown: drop it.
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sent,
    Claimed { at: Duration },
    Over,
}

#[derive(Debug, Clone)]
struct Attempt {
    id: AttemptId,
    state: State,
}

#[derive(Debug, Clone, Default)]
struct TaskState {
    attempts: Vec<Attempt>,
    accepted: Option<AttemptId>,
    failures: u32,
    /// Failures in a row that the task did not cause, and when it may be sent again after them.
    unlucky: u32,
    not_before: Duration,
    speculative: u32,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Nobody is asked to do it.
    Ready,
    /// Sent, and not claimed.
    Sent,
    /// Claimed.
    Running,
    /// Done.
    Accepted,
}

impl TaskState {
    fn live(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|a| a.state != State::Over)
    }

    fn class(&self) -> Class {
        if self.accepted.is_some() {
            return Class::Accepted;
        }
        let mut class = Class::Ready;
        for attempt in self.live() {
            if matches!(attempt.state, State::Claimed { .. }) {
                return Class::Running;
            }
            class = Class::Sent;
        }
        class
    }

    fn waits(&self) -> bool {
        self.live().any(|a| a.state == State::Sent)
    }
}

/// One job's tasks.
///
/// Everything that is asked for often is kept, not counted: a job may have 100,000 tasks.
#[derive(Debug)]
pub struct Scheduler {
    patient: bool,
    phase: Phase,
    tasks: BTreeMap<Task, TaskState>,
    owners: BTreeMap<AttemptId, Task>,
    failed: Vec<FailedAttempt>,
    /// How long accepted segments took, sorted.
    took: Vec<Duration>,
    stages: Stages,
    resumed: u32,
    ready: BTreeSet<Task>,
    running: BTreeSet<Task>,
    /// Tasks that failed by themselves.
    blamed: BTreeSet<Task>,
    accepted: u32,
    accepted_detects: u32,
    accepted_segments: u32,
    /// Tasks of which an attempt is sent and not claimed.
    waits: u32,
}

impl Scheduler {
    /// A job of which nothing is done yet. A `patient` one waits for room on a full disk; others
    /// fail, so that whoever waits is told.
    pub fn new(patient: bool) -> Self {
        Self {
            patient,
            phase: Phase::Planning,
            tasks: BTreeMap::from([(Task::Plan, TaskState::default())]),
            owners: BTreeMap::new(),
            failed: Vec::new(),
            took: Vec::new(),
            stages: Stages::default(),
            resumed: 0,
            ready: BTreeSet::from([Task::Plan]),
            running: BTreeSet::new(),
            blamed: BTreeSet::new(),
            accepted: 0,
            accepted_detects: 0,
            accepted_segments: 0,
            waits: 0,
        }
    }

    /// Where the job stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Changes a task, and keeps what is known of all of them.
    fn change<T>(&mut self, task: Task, change: impl FnOnce(&mut TaskState) -> T) -> Option<T> {
        let state = self.tasks.get_mut(&task)?;
        let (before, waited) = (state.class(), state.waits());
        let changed = change(state);
        let (after, waits) = (state.class(), state.waits());
        self.waits = self.waits + u32::from(waits) - u32::from(waited);
        if before != after {
            match before {
                Class::Ready => drop(self.ready.remove(&task)),
                Class::Running => drop(self.running.remove(&task)),
                Class::Sent | Class::Accepted => {}
            }
            match after {
                Class::Ready => drop(self.ready.insert(task)),
                Class::Running => drop(self.running.insert(task)),
                Class::Sent => {}
                Class::Accepted => {
                    self.accepted += 1;
                    self.accepted_detects += u32::from(matches!(task, Task::Detect(_)));
                    self.accepted_segments += u32::from(matches!(task, Task::Segment(_)));
                }
            }
        }
        Some(changed)
    }

    /// Takes over a result that an earlier run accepted.
    pub fn resume(&mut self, task: Task, attempt: AttemptId) {
        if self.tasks.get(&task).is_some_and(|state| state.accepted.is_none()) {
            self.change(task, |state| state.accepted = Some(attempt));
            self.owners.insert(attempt, task);
            self.resumed += u32::from(task.segment().is_some());
        }
        self.advance();
    }

    /// The plan is accepted and has these stages.
    pub fn planned(&mut self, stages: Stages) {
        if self.phase == Phase::Planning {
            self.stages = stages;
            if stages.pieces > 0 {
                self.begin(Phase::Detecting, (0..stages.pieces).map(Task::Detect));
            } else {
                self.begin(Phase::Running, (0..stages.segments).map(Task::Segment));
            }
            self.advance();
        }
    }

    /// Begins a phase with its tasks.
    fn begin(&mut self, phase: Phase, tasks: impl Iterator<Item = Task>) {
        for task in tasks {
            self.ready.insert(task);
            self.tasks.insert(task, TaskState::default());
        }
        // How long other tasks took says nothing of these.
        self.took.clear();
        self.phase = phase;
    }

    /// What to do now, with room for `room` tasks in the queue and `idle` slots without work.
    pub fn step(
        &mut self,
        now: Duration,
        room: usize,
        idle: usize,
        new_id: &mut dyn FnMut() -> AttemptId,
    ) -> Vec<Command> {
        if matches!(self.phase, Phase::Done | Phase::Failed(_)) {
            return Vec::new();
        }
        let ready: Vec<Task> =
            self.ready.iter().copied().filter(|task| self.may(*task, now)).take(room).collect();
        let mut commands: Vec<Command> =
            ready.into_iter().map(|task| self.send(task, new_id(), false)).collect();
        if idle > 0
            && room > 0
            && commands.is_empty()
            && self.waits == 0
            && matches!(self.phase, Phase::Detecting | Phase::Running)
            && let Some(task) = self.straggler(now)
        {
            commands.push(self.send(task, new_id(), true));
        }
        commands
    }

    /// Whether a task may be sent now.
    pub fn wants(&self, now: Duration) -> bool {
        !matches!(self.phase, Phase::Done | Phase::Failed(_))
            && self.ready.iter().any(|task| self.may(*task, now))
    }

    fn may(&self, task: Task, now: Duration) -> bool {
        self.tasks.get(&task).is_some_and(|state| state.not_before <= now)
    }

    fn send(&mut self, task: Task, attempt: AttemptId, speculative: bool) -> Command {
        self.owners.insert(attempt, task);
        self.change(task, |state| {
            state.attempts.push(Attempt { id: attempt, state: State::Sent });
            state.speculative += u32::from(speculative);
        });
        Command::Send { task, attempt, speculative }
    }

    /// The segment that has run longest, where that is far longer than others took.
    fn straggler(&self, now: Duration) -> Option<Task> {
        let median = *self.took.get(self.took.len() / 2)?;
        let slow = (median * SLOW).max(SLOW_AT_LEAST);
        self.running
            .iter()
            .filter_map(|task| Some((task, self.tasks.get(task)?)))
            .filter(|(_, state)| state.accepted.is_none() && state.failures < MAX_ATTEMPTS)
            .filter(|(_, state)| state.live().count() == 1)
            .filter_map(|(task, state)| match state.live().next()?.state {
                State::Claimed { at } => Some((now.saturating_sub(at), *task)),
                _ => None,
            })
            .max()
            .filter(|(running, _)| *running > slow)
            .map(|(_, task)| task)
    }

    /// A node has claimed the attempt.
    pub fn claimed(&mut self, id: AttemptId, now: Duration) {
        let Some(task) = self.task_of(id) else { return };
        self.change(task, |state| {
            let attempt = state.attempts.iter_mut().find(|a| a.id == id);
            if let Some(attempt) = attempt.filter(|a| a.state == State::Sent) {
                attempt.state = State::Claimed { at: now };
            }
        });
    }

    /// The attempt ended well. On [`Verdict::Accept`] the caller writes that down; a plan is then
    /// told by [`Scheduler::planned`].
    pub fn done(&mut self, id: AttemptId, now: Duration) -> (Verdict, Vec<Command>) {
        if matches!(self.phase, Phase::Done | Phase::Failed(_)) {
            return (Verdict::Ignore, Vec::new());
        }
        let Some(task) = self.task_of(id) else { return (Verdict::Ignore, Vec::new()) };
        if self.accepted(task).is_some() {
            return (Verdict::Ignore, Vec::new());
        }
        let (mut losers, mut took) = (Vec::new(), None);
        self.change(task, |state| {
            state.accepted = Some(id);
            for attempt in &mut state.attempts {
                match attempt.state {
                    State::Claimed { at } if attempt.id == id => {
                        took = Some(now.saturating_sub(at));
                    }
                    State::Sent | State::Claimed { .. } if attempt.id != id => {
                        losers.push(attempt.id);
                    }
                    _ => {}
                }
                attempt.state = State::Over;
            }
        });
        if let (Some(_), Some(took)) = (task.segment(), took) {
            self.took.insert(self.took.partition_point(|known| *known < took), took);
        }
        self.advance();
        let cancel = losers.into_iter().map(|attempt| Command::Cancel { attempt }).collect();
        (Verdict::Accept, cancel)
    }

    /// The attempt failed; `by_task` where the task is to blame. Where it is not, the task is sent
    /// again after a while that grows.
    pub fn failed(&mut self, id: AttemptId, error: Error, by_task: bool, now: Duration) -> Verdict {
        let Some(task) = self.task_of(id) else { return Verdict::Ignore };
        let by_task = by_task && !(self.patient && error.kind() == ErrorKind::Exhausted);
        let changed = self.change(task, |state| {
            let attempt = state.attempts.iter_mut().find(|a| a.id == id);
            attempt.filter(|a| a.state != State::Over)?.state = State::Over;
            if state.accepted.is_some() {
                return None;
            }
            state.failures += u32::from(by_task);
            state.unlucky = if by_task { 0 } else { state.unlucky + 1 };
            let wait = BACK_OFF * (1 << state.unlucky.min(MOST_DOUBLINGS)) / 2;
            state.not_before = if by_task { now } else { now + wait };
            Some((state.failures, state.live().next().is_some()))
        });
        let Some((failures, others)) = changed.flatten() else { return Verdict::Ignore };
        if by_task {
            self.blamed.insert(task);
        }
        self.failed.push(FailedAttempt {
            task: task.to_string(),
            attempt: id,
            error: error.clone(),
        });
        let once = by_task && error.kind() == ErrorKind::Internal && failures >= 2;
        // A full disk is not the task's fault, and no second try makes room.
        let full = error.kind() == ErrorKind::Exhausted;
        if !error.kind().is_retryable() || (full && !self.patient) {
            self.phase = Phase::Failed(error);
        } else if !others && (failures >= MAX_ATTEMPTS || once) {
            self.phase = Phase::Failed(self.given_up(task, &error));
        }
        Verdict::Failed
    }

    /// The error of a task that failed too often: every attempt's reason.
    fn given_up(&self, task: Task, last: &Error) -> Error {
        let name = task.to_string();
        let reasons: Vec<String> = self
            .failed
            .iter()
            .filter(|failed| failed.task == name)
            .enumerate()
            .map(|(i, failed)| format!("\n  attempt {}: {}", i + 1, failed.error))
            .collect();
        let count = reasons.len();
        Error::new(last.kind(), format!("{task} failed {count} times:{}", reasons.concat()))
    }

    /// The attempt is lost with its node or its message: it doesn't count, and the task is sent
    /// again, unless it has failed too often beside.
    pub fn lost(&mut self, id: AttemptId) {
        let Some(task) = self.task_of(id) else { return };
        let spent = self.change(task, |state| {
            if let Some(attempt) = state.attempts.iter_mut().find(|a| a.id == id) {
                attempt.state = State::Over;
            }
            let others = state.live().next().is_some();
            state.accepted.is_none() && !others && state.failures >= MAX_ATTEMPTS
        });
        if spent == Some(true) && !matches!(self.phase, Phase::Done | Phase::Failed(_)) {
            // The last of its failures waited for this one, that ran beside.
            let name = task.to_string();
            let last = self.failed.iter().rev().find(|failed| failed.task == name);
            if let Some(error) = last.map(|failed| failed.error.clone()) {
                self.phase = Phase::Failed(self.given_up(task, &error));
            }
        }
    }

    fn advance(&mut self) {
        let Stages { segments, pieces, render } = self.stages;
        match self.phase {
            Phase::Detecting if self.accepted_detects == pieces => {
                self.begin(Phase::Tracking, [Task::Track].into_iter());
            }
            Phase::Tracking if self.accepted(Task::Track).is_some() && render => {
                self.begin(Phase::Running, (0..segments).map(Task::Segment));
            }
            Phase::Tracking if self.accepted(Task::Track).is_some() => {
                self.begin(Phase::Assembling, [Task::Concat].into_iter());
            }
            Phase::Running if self.accepted_segments == segments => {
                self.begin(Phase::Assembling, [Task::Concat].into_iter());
            }
            Phase::Assembling if self.accepted(Task::Concat).is_some() => self.phase = Phase::Done,
            _ => {}
        }
    }

    /// Attempts that were sent or claimed and not heard of since.
    pub fn live(&self) -> Vec<AttemptId> {
        self.tasks.values().flat_map(|s| s.live().map(|a| a.id)).collect()
    }

    /// The task of an attempt.
    pub fn task_of(&self, id: AttemptId) -> Option<Task> {
        self.owners.get(&id).copied()
    }

    /// Whether the task is one of this job's, as far as they are known.
    pub fn knows(&self, task: Task) -> bool {
        self.tasks.contains_key(&task)
    }

    /// Whether the attempt is sent or claimed, and not over.
    pub fn is_live(&self, id: AttemptId) -> bool {
        let task = self.owners.get(&id).and_then(|task| self.tasks.get(task));
        task.is_some_and(|state| state.live().any(|attempt| attempt.id == id))
    }

    /// Whether a node has claimed the attempt, and it is not over.
    pub fn is_claimed(&self, id: AttemptId) -> bool {
        let task = self.owners.get(&id).and_then(|task| self.tasks.get(task));
        task.is_some_and(|s| {
            s.attempts.iter().any(|a| a.id == id && matches!(a.state, State::Claimed { .. }))
        })
    }

    /// The accepted attempt of a task.
    pub fn accepted(&self, task: Task) -> Option<AttemptId> {
        self.tasks.get(&task).and_then(|state| state.accepted)
    }

    /// `(waiting or sent, claimed, accepted)` tasks known so far.
    pub fn counts(&self) -> (u32, u32, u32) {
        let running = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        (self.total() - running - self.accepted, running, self.accepted)
    }

    /// Tasks that somebody was asked to do and that are not done: sent or claimed.
    pub fn under_way(&self) -> u32 {
        let ready = u32::try_from(self.ready.len()).unwrap_or(u32::MAX);
        self.total().saturating_sub(ready).saturating_sub(self.accepted)
    }

    /// Every attempt that failed.
    pub fn failures(&self) -> &[FailedAttempt] {
        &self.failed
    }

    /// Tasks that were tried again after a failure.
    pub fn retried(&self) -> Vec<Task> {
        let again = |task: &&Task| self.tasks.get(task).is_some_and(|s| s.attempts.len() > 1);
        self.blamed.iter().filter(again).copied().collect()
    }

    /// Second attempts beside ones that had not failed.
    pub fn speculative(&self) -> u32 {
        self.tasks.values().map(|s| s.speculative).sum()
    }

    /// Segments taken over from an earlier run.
    pub fn resumed(&self) -> u32 {
        self.resumed
    }

    /// All tasks known so far.
    pub fn total(&self) -> u32 {
        u32::try_from(self.tasks.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> impl FnMut() -> AttemptId {
        let mut next = 0;
        move || {
            next += 1;
            AttemptId::from_bits(next)
        }
    }

    fn sent(commands: &[Command]) -> Vec<(Task, AttemptId)> {
        commands
            .iter()
            .filter_map(|c| match c {
                Command::Send { task, attempt, .. } => Some((*task, *attempt)),
                Command::Cancel { .. } => None,
            })
            .collect()
    }

    const NOW: Duration = Duration::ZERO;

    fn planned_as(stages: Stages, new_id: &mut dyn FnMut() -> AttemptId) -> Scheduler {
        let mut s = Scheduler::new(false);
        let plan = sent(&s.step(NOW, 9, 9, new_id))[0].1;
        assert_eq!(s.done(plan, NOW).0, Verdict::Accept);
        s.planned(stages);
        s
    }

    fn planned(segments: u32, new_id: &mut dyn FnMut() -> AttemptId) -> Scheduler {
        planned_as(Stages { segments, pieces: 0, render: true }, new_id)
    }

    /// The tasks that a job does, in order, where nothing fails.
    fn course(s: &mut Scheduler, new_id: &mut dyn FnMut() -> AttemptId) -> Vec<Task> {
        let mut course = Vec::new();
        while *s.phase() != Phase::Done {
            let tasks = sent(&s.step(NOW, 9, 0, new_id));
            assert!(!tasks.is_empty(), "stuck in {:?}", s.phase());
            for (task, attempt) in tasks {
                s.done(attempt, NOW);
                course.push(task);
            }
        }
        course
    }

    #[test]
    fn a_job_that_follows_things_detects_all_then_tracks_then_renders() {
        let mut new_id = ids();
        let stages = Stages { segments: 2, pieces: 2, render: true };
        let mut s = planned_as(stages, &mut new_id);
        let (detect, segment) = (Task::Detect, Task::Segment);
        assert_eq!(
            course(&mut s, &mut new_id),
            [detect(0), detect(1), Task::Track, segment(0), segment(1), Task::Concat]
        );
        let mut s = planned_as(Stages { render: false, ..stages }, &mut new_id);
        assert_eq!(course(&mut s, &mut new_id), [detect(0), detect(1), Task::Track, Task::Concat]);
    }

    #[test]
    fn a_resumed_job_goes_on_in_its_phase() {
        let mut new_id = ids();
        let stages = Stages { segments: 2, pieces: 2, render: true };
        let mut s = planned_as(stages, &mut new_id);
        s.resume(Task::Detect(1), AttemptId::from_bits(101));
        let tasks = sent(&s.step(NOW, 9, 0, &mut new_id));
        assert_eq!(tasks.iter().map(|t| t.0).collect::<Vec<_>>(), [Task::Detect(0)]);
        s.resume(Task::Detect(0), AttemptId::from_bits(102));
        s.resume(Task::Track, AttemptId::from_bits(103));
        s.resume(Task::Segment(0), AttemptId::from_bits(104));
        assert_eq!(course(&mut s, &mut new_id), [Task::Segment(1), Task::Concat]);
    }

    #[test]
    fn a_job_goes_from_plan_over_segments_to_concat() {
        let mut new_id = ids();
        let mut s = planned(3, &mut new_id);
        let first = sent(&s.step(NOW, 2, 2, &mut new_id));
        assert_eq!(
            first.iter().map(|t| t.0).collect::<Vec<_>>(),
            [Task::Segment(0), Task::Segment(1)]
        );
        for (_, attempt) in first {
            s.done(attempt, NOW);
        }
        let (task, attempt) = sent(&s.step(NOW, 2, 2, &mut new_id))[0];
        assert_eq!((task, s.phase()), (Task::Segment(2), &Phase::Running));
        assert_eq!(s.done(attempt, NOW).0, Verdict::Accept);
        assert_eq!(s.done(attempt, NOW).0, Verdict::Ignore);
        let (task, attempt) = sent(&s.step(NOW, 2, 2, &mut new_id))[0];
        assert_eq!(task, Task::Concat);
        s.done(attempt, NOW);
        assert_eq!(s.phase(), &Phase::Done);
    }

    #[test]
    fn three_failures_of_its_own_end_a_job_and_lost_nodes_do_not() {
        let mut new_id = ids();
        let mut s = planned(1, &mut new_id);
        for _ in 0..10 {
            let (_, attempt) = sent(&s.step(NOW, 1, 1, &mut new_id))[0];
            s.lost(attempt);
        }
        for n in 1..=MAX_ATTEMPTS {
            let (_, attempt) = sent(&s.step(NOW, 1, 1, &mut new_id))[0];
            s.failed(attempt, Error::unavailable(format!("slot died, take {n}")), true, NOW);
        }
        let Phase::Failed(error) = s.phase() else { panic!("{:?}", s.phase()) };
        for n in 1..=MAX_ATTEMPTS {
            assert!(error.message().contains(&format!("take {n}")), "{error}");
        }
    }

    #[test]
    fn a_second_attempt_that_is_lost_gives_no_fourth_chance() {
        let mut new_id = ids();
        let mut s = planned(3, &mut new_id);
        let second = Duration::from_secs(1);
        let tasks = sent(&s.step(NOW, 9, 0, &mut new_id));
        for (_, attempt) in &tasks {
            s.claimed(*attempt, NOW);
        }
        s.done(tasks[0].1, second);
        s.done(tasks[1].1, second);
        let mut attempt = tasks[2].1;
        for _ in 1..MAX_ATTEMPTS {
            s.failed(attempt, Error::unavailable("slot died"), true, second);
            attempt = sent(&s.step(second, 1, 1, &mut new_id))[0].1;
            s.claimed(attempt, second);
        }
        let (_, beside) = sent(&s.step(second * 9, 9, 1, &mut new_id))[0];
        s.failed(attempt, Error::unavailable("slot died"), true, second * 9);
        assert_eq!(s.phase(), &Phase::Running);
        s.claimed(beside, second * 9);
        assert!(s.step(second * 30, 9, 1, &mut new_id).is_empty());
        s.lost(beside);
        assert!(matches!(s.phase(), Phase::Failed(e) if e.message().contains("failed 3 times")));
    }

    #[test]
    fn a_bug_elsewhere_does_not_fail_a_task_that_failed_twice_by_itself() {
        let mut new_id = ids();
        let mut s = planned(1, &mut new_id);
        for by_task in [true, true, false] {
            let (_, attempt) = sent(&s.step(NOW, 1, 1, &mut new_id))[0];
            let error = if by_task { Error::unavailable("died") } else { Error::internal("bug") };
            s.failed(attempt, error, by_task, NOW);
        }
        assert_eq!(s.phase(), &Phase::Running);
    }

    #[test]
    fn what_no_retry_can_mend_fails_at_once() {
        let mut new_id = ids();
        let mut s = planned(2, &mut new_id);
        let (_, attempt) = sent(&s.step(NOW, 1, 1, &mut new_id))[0];
        s.failed(attempt, Error::corrupt("no frame"), true, NOW);
        assert!(matches!(s.phase(), Phase::Failed(e) if e.kind() == ErrorKind::Corrupt));
        assert!(s.step(NOW, 9, 9, &mut new_id).is_empty());
        let mut s = planned(2, &mut new_id);
        let (_, attempt) = sent(&s.step(NOW, 1, 1, &mut new_id))[0];
        s.failed(attempt, Error::exhausted("no space left"), true, NOW);
        assert!(matches!(s.phase(), Phase::Failed(e) if e.kind() == ErrorKind::Exhausted));
    }

    #[test]
    fn what_the_task_did_not_cause_is_tried_again_without_end_and_ever_later() {
        let mut new_id = ids();
        let mut s = Scheduler::new(true);
        let mut now = NOW;
        let mut waited = Vec::new();
        for _ in 0..12 {
            let (_, attempt) = sent(&s.step(now, 1, 1, &mut new_id))[0];
            s.failed(attempt, Error::exhausted("no space left"), true, now);
            let since = now;
            while !s.wants(now) {
                assert!(s.step(now, 1, 1, &mut new_id).is_empty());
                now += Duration::from_millis(250);
            }
            waited.push(now - since);
        }
        assert_eq!(s.phase(), &Phase::Planning);
        assert!(waited.is_sorted() && waited[11] <= Duration::from_secs(60), "{waited:?}");
        assert!(waited[3] > waited[0]);
    }

    #[test]
    fn a_straggler_gets_a_second_attempt_and_the_loser_is_stopped() {
        let mut new_id = ids();
        let mut s = planned(3, &mut new_id);
        let tasks = sent(&s.step(NOW, 9, 0, &mut new_id));
        let second = Duration::from_secs(1);
        tasks.iter().for_each(|(_, a)| s.claimed(*a, NOW));
        s.done(tasks[0].1, second);
        s.done(tasks[1].1, second);
        assert!(s.step(second * 2, 9, 1, &mut new_id).is_empty());
        let commands = s.step(second * 9, 9, 1, &mut new_id);
        let Command::Send { task, attempt, speculative: true } = commands[0] else { panic!() };
        assert_eq!(task, Task::Segment(2));
        let (verdict, losers) = s.done(attempt, second * 10);
        assert_eq!(verdict, Verdict::Accept);
        assert_eq!(losers, [Command::Cancel { attempt: tasks[2].1 }]);
        assert_eq!((s.retried(), s.speculative()), (vec![], 1));
    }

    #[test]
    fn a_resumed_job_does_only_what_is_left() {
        let mut new_id = ids();
        let mut s = Scheduler::new(false);
        s.resume(Task::Plan, AttemptId::from_bits(100));
        s.planned(Stages { segments: 3, pieces: 0, render: true });
        s.resume(Task::Segment(1), AttemptId::from_bits(101));
        let tasks: Vec<Task> =
            sent(&s.step(NOW, 9, 9, &mut new_id)).into_iter().map(|t| t.0).collect();
        assert_eq!(tasks, [Task::Segment(0), Task::Segment(2)]);
        assert_eq!(s.resumed(), 1);
    }

    proptest! {
        /// Slots, nodes and messages die, repeat and come late in any order: each task is accepted
        /// once, and the job ends while anybody works.
        #[test]
        fn any_faults_end_with_each_task_accepted_once(seed in any::<u64>(), segments in 1u32..12) {
            let mut state = seed | 1;
            let mut random = move |n: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % n
            };
            let mut new_id = ids();
            let mut s = planned(segments, &mut new_id);
            let mut accepted = BTreeSet::new();
            let mut queue: Vec<(Task, AttemptId)> = Vec::new();
            let mut now = Duration::ZERO;
            let mut faults = 300;
            for _ in 0..20_000 {
                now += Duration::from_millis(100);
                queue.extend(sent(&s.step(now, 3, usize::from(random(2) == 0), &mut new_id)));
                if matches!(s.phase(), Phase::Done) {
                    break;
                }
                if queue.is_empty() {
                    continue;
                }
                let at = usize::try_from(random(queue.len() as u64)).unwrap();
                let (task, attempt) = queue[at];
                let fault = if faults > 0 { random(8) } else { 7 };
                faults -= 1;
                match fault {
                    0 => { queue.swap_remove(at); s.lost(attempt); }
                    1 => queue.push((task, attempt)),
                    2 => { s.failed(attempt, Error::unavailable("node gone"), false, now); }
                    3 | 4 => s.claimed(attempt, now),
                    _ => {
                        queue.swap_remove(at);
                        if s.done(attempt, now).0 == Verdict::Accept {
                            prop_assert!(accepted.insert(task), "{} twice", task);
                        }
                    }
                }
            }
            prop_assert_eq!(s.phase(), &Phase::Done);
            prop_assert_eq!(accepted.len(), segments as usize + 1);
        }
    }
}
