//! A job at work: its scheduler, and whether that knows what it must.

use std::collections::BTreeMap;
use std::time::Duration;

use frameloom_core::scheduler::{MAX_ATTEMPTS, Phase, Scheduler};
use frameloom_core::wire::Task;

use crate::broker::Queue;
use crate::random::Time;
use crate::world::World;

/// A job at work.
pub(crate) struct Run {
    pub(crate) scheduler: Scheduler,
    started: Time,
    pub(crate) served: u64,
    /// Failures of its tasks' own that were noted.
    pub(crate) own: BTreeMap<Task, u32>,
}

impl Run {
    pub(crate) fn new(scheduler: Scheduler, started: Time) -> Self {
        Self { scheduler, started, served: 0, own: BTreeMap::new() }
    }

    /// The time that its scheduler is told.
    pub(crate) fn elapsed(&self, now: Time) -> Duration {
        Duration::from_millis(now - self.started)
    }

    /// The queue of the task that it sends next, where there is one.
    pub(crate) fn wants(&self, now: Time) -> Option<Queue> {
        self.scheduler.wants(self.elapsed(now)).then(|| match self.scheduler.phase() {
            Phase::Detecting | Phase::Running => Queue::Segment,
            _ => Queue::Control,
        })
    }

    /// Checks that the scheduler knows what was accepted, no more and no less, and that only a task
    /// that failed so often by itself fails a job.
    pub(crate) fn check(&self, world: &World, j: usize) {
        let (seed, model) = (world.seed(), &world.scenario.jobs[j]);
        let accepted = &world.store.jobs[j].accepted;
        for task in model.tasks() {
            let (known, written) = (self.scheduler.accepted(task), accepted.get(&task).copied());
            assert_eq!(known, written, "seed {seed}: {task} of job {j}: not as it was accepted");
        }
        if let Phase::Failed(error) = self.scheduler.phase() {
            let Some(poison) = model.poison else {
                panic!("seed {seed}: job {j} fails, and none of its tasks is to blame: {error}");
            };
            let own = self.own.get(&poison).copied().unwrap_or(0);
            // Those that ran beside another attempt come on top.
            let most = MAX_ATTEMPTS + self.scheduler.speculative();
            assert!(
                (MAX_ATTEMPTS..=most).contains(&own),
                "seed {seed}: job {j} fails after {own} failures of {poison}: {error}"
            );
        }
    }
}
