//! The shared store: claims, beats, reports, and the journals, where each decision is checked.

use std::collections::{BTreeMap, BTreeSet};

use frameloom_core::Error;
use frameloom_core::id::AttemptId;
use frameloom_core::wire::Task;

use crate::random::Time;

/// A node's sign of life.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    pub(crate) counter: u64,
    pub(crate) held: Vec<AttemptId>,
    pub(crate) free: usize,
}

/// What became of an attempt; `Err` holds whether the task is to blame.
pub(crate) type Outcome = Result<(), (Error, bool)>;

/// What a node reports.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) task: Task,
    pub(crate) node: usize,
    pub(crate) outcome: Outcome,
}

/// Who has claimed an attempt, and when others can see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    job: usize,
    node: usize,
    seen_from: Time,
}

/// A job's directory.
#[derive(Debug, Default)]
pub(crate) struct JobDir {
    /// Reports that nobody has read.
    pub(crate) inbox: BTreeMap<AttemptId, Report>,
    /// The journal: which attempt's result is the task's.
    pub(crate) accepted: BTreeMap<Task, AttemptId>,
    /// When it ended, and whether well.
    pub(crate) ended: Option<(Time, bool)>,
    /// Results that lie on the store.
    results: BTreeSet<(Task, AttemptId)>,
}

/// The store.
#[derive(Debug, Default)]
pub(crate) struct Store {
    seed: u64,
    /// The highest epoch: only its server decides.
    pub(crate) epoch: u64,
    pub(crate) jobs: Vec<JobDir>,
    pub(crate) beats: BTreeMap<usize, Beat>,
    claims: BTreeMap<AttemptId, Claim>,
    cancelled: BTreeMap<AttemptId, Time>,
    /// No segment is sent until then.
    pub(crate) full_until: Time,
    /// Follows from all decisions and their times.
    pub(crate) digest: u128,
}

impl Store {
    pub(crate) fn new(seed: u64, jobs: usize) -> Self {
        let jobs = (0..jobs).map(|_| JobDir::default()).collect();
        Self { seed, jobs, ..Self::default() }
    }

    /// Claims an attempt for a node: only one succeeds, whatever others can see.
    pub(crate) fn claim(
        &mut self,
        attempt: AttemptId,
        (job, node): (usize, usize),
        now: Time,
        seen_from: Time,
    ) -> bool {
        if self.is_cancelled(attempt, now) || self.claims.contains_key(&attempt) {
            return false;
        }
        self.claims.insert(attempt, Claim { job, node, seen_from }).is_none()
    }

    /// The node that has claimed an attempt, where that can be seen.
    pub(crate) fn claimant(&self, attempt: AttemptId, now: Time) -> Option<usize> {
        let claim = self.claims.get(&attempt).filter(|claim| claim.seen_from <= now);
        claim.map(|claim| claim.node)
    }

    pub(crate) fn cancel(&mut self, attempt: AttemptId, seen_from: Time) {
        self.cancelled.entry(attempt).or_insert(seen_from);
    }

    pub(crate) fn is_cancelled(&self, attempt: AttemptId, now: Time) -> bool {
        self.cancelled.get(&attempt).is_some_and(|from| *from <= now)
    }

    /// A newer beat of a node can be seen.
    pub(crate) fn beat(&mut self, node: usize, beat: Beat) {
        let seen = self.beats.get(&node).map_or(0, |seen| seen.counter);
        if beat.counter > seen {
            self.beats.insert(node, beat);
        }
    }

    /// A result is published.
    pub(crate) fn publish(&mut self, job: usize, task: Task, attempt: AttemptId) {
        self.jobs[job].results.insert((task, attempt));
    }

    /// What a new server removes of the jobs that it goes on with.
    pub(crate) fn sweep(&mut self) {
        let Self { jobs, claims, .. } = self;
        claims.retain(|_, claim| jobs[claim.job].ended.is_some());
        for dir in jobs.iter_mut().filter(|dir| dir.ended.is_none()) {
            dir.inbox.clear();
        }
    }

    fn note(&mut self, now: Time, bits: u128) {
        let word = self.digest ^ bits ^ u128::from(now);
        self.digest = word.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).rotate_left(29);
    }

    /// Checks that an attempt may be sent.
    pub(crate) fn sent(&mut self, now: Time, job: usize, task: Task, attempt: AttemptId) {
        let (seed, dir) = (self.seed, &self.jobs[job]);
        assert!(dir.ended.is_none(), "seed {seed}: job {job} has ended, and {task} is sent");
        let done = dir.accepted.contains_key(&task);
        assert!(!done, "seed {seed}: {task} of job {job} is accepted, and sent again");
        self.note(now, attempt.bits());
    }

    /// Writes down that an attempt's result is the task's.
    pub(crate) fn accept(&mut self, now: Time, job: usize, task: Task, attempt: AttemptId) {
        let (seed, dir) = (self.seed, &mut self.jobs[job]);
        let there = dir.results.contains(&(task, attempt));
        assert!(there, "seed {seed}: {task} of job {job} is accepted without a result");
        assert!(dir.ended.is_none(), "seed {seed}: job {job} has ended, and {task} is accepted");
        let before = dir.accepted.insert(task, attempt);
        assert_eq!(before, None, "seed {seed}: {task} of job {job} is accepted twice");
        self.note(now, !attempt.bits());
    }

    /// Writes down that a job is over.
    pub(crate) fn end(&mut self, now: Time, job: usize, well: bool) {
        let (seed, dir) = (self.seed, &mut self.jobs[job]);
        let before = dir.ended.replace((now, well));
        assert_eq!(before, None, "seed {seed}: job {job} ends twice");
        self.note(now, u128::from(well));
    }
}
