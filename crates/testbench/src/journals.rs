//! What a server has decided, read from the store's disk: it tells while server, network and views are disturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::slot::TaskOutput;
use frameloom_core::wire::{Decision, HeldAttempt, Outcome, Task};
use frameloom_core::{Error, Result};
use frameloom_server::store::Store;

/// A task of a job.
pub type TaskOf = (JobId, Task);

/// What one journal says.
#[derive(Debug, Default)]
pub struct Told {
    /// The tasks of attempts that were sent.
    pub sent: BTreeMap<AttemptId, Task>,
    /// How often each task was accepted, since the job was planned last.
    pub accepted: BTreeMap<Task, u32>,
    /// Attempts that failed, with their reasons.
    pub failed: Vec<(Task, Error)>,
    /// Names of the slots whose results were accepted.
    pub slots: BTreeSet<String>,
    /// Frames that the accepted segments put out.
    pub frames: u64,
    /// The longest that an accepted task took.
    pub longest: Duration,
    /// Whether the job is over.
    pub over: bool,
}

/// The journals of a store.
#[derive(Debug)]
pub struct Journals {
    store: Store,
    jobs: PathBuf,
}

impl Journals {
    /// Of the store on a disk.
    ///
    /// # Errors
    /// Of the file system.
    pub fn on(disk: &Path) -> Result<Self> {
        Ok(Self { store: Store::mounted(disk)?, jobs: disk.join("jobs") })
    }

    /// Where a job's journal lies.
    pub fn path(&self, job: JobId) -> PathBuf {
        self.jobs.join(job.to_string()).join("journal")
    }

    /// What a job's journal says; nothing where there is none.
    ///
    /// # Errors
    /// Of the file system: a journal that cannot be read says nothing about its job.
    pub fn of(&self, job: JobId) -> Result<Told> {
        Ok(told(self.store.job(job).decisions()?))
    }

    /// The tasks of these jobs that were sent and are not accepted.
    ///
    /// # Errors
    /// Of the file system.
    pub fn under_way(&self, jobs: &[JobId]) -> Result<BTreeSet<TaskOf>> {
        let mut tasks = BTreeSet::new();
        for job in jobs {
            let told = self.of(*job)?;
            if !told.over {
                let open = told.sent.values().filter(|task| !told.accepted.contains_key(task));
                tasks.extend(open.map(|task| (*job, *task)));
            }
        }
        Ok(tasks)
    }

    /// Those of them that the node of this process works on.
    ///
    /// # Errors
    /// Of the file system.
    pub fn held_by(&self, pid: u32, jobs: &[JobId]) -> Result<BTreeSet<TaskOf>> {
        let held: BTreeSet<AttemptId> = self.hands(pid).into_iter().map(|h| h.attempt).collect();
        let mut tasks = BTreeSet::new();
        for job in jobs {
            let told = self.of(*job)?;
            let here = told.sent.iter().filter(|(attempt, task)| {
                held.contains(attempt) && !told.accepted.contains_key(task)
            });
            tasks.extend(here.map(|(_, task)| (*job, *task)));
        }
        Ok(tasks)
    }

    /// What the node of this process told last that it works on.
    pub fn hands(&self, pid: u32) -> Vec<HeldAttempt> {
        let nodes = self.store.nodes().unwrap_or_default();
        let mine = nodes.into_iter().filter(|node| {
            let info = self.store.read_node(*node).ok().flatten();
            info.is_some_and(|info| info.pid == pid)
        });
        let beats = mine.filter_map(|node| self.store.read_beat(node).ok().flatten());
        beats.flat_map(|beat| beat.held).collect()
    }

    /// How many of these processes are nodes that have begun to tell that they live.
    pub fn beating(&self, pids: &[u32]) -> usize {
        let nodes = self.store.nodes().unwrap_or_default();
        let begun = nodes.into_iter().filter(|node| {
            let info = self.store.read_node(*node).ok().flatten();
            info.is_some_and(|info| pids.contains(&info.pid))
                && self.store.read_beat(*node).ok().flatten().is_some()
        });
        begun.count()
    }

    /// Ids of the nodes of other engines than the one that most have.
    pub fn strangers(&self) -> Vec<String> {
        let nodes = self.store.nodes().unwrap_or_default();
        let known: Vec<_> = nodes
            .into_iter()
            .filter_map(|node| Some((node, self.store.read_node(node).ok().flatten()?.engine.id())))
            .collect();
        let mut engines = BTreeMap::new();
        for (_, engine) in &known {
            *engines.entry(engine.to_string()).or_insert(0) += 1;
        }
        let usual = engines.into_iter().max_by_key(|(_, nodes)| *nodes).map(|(engine, _)| engine);
        let others = known.iter().filter(|(_, engine)| Some(engine.to_string()) != usual);
        others.map(|(node, _)| node.to_string()).collect()
    }
}

fn told(decisions: Vec<Decision>) -> Told {
    let mut told = Told::default();
    for decision in decisions {
        match decision {
            Decision::Sent { task, attempt } => drop(told.sent.insert(attempt, task)),
            Decision::Accepted(report) => {
                *told.accepted.entry(report.task).or_default() += 1;
                told.slots.insert(report.slot);
                if let Outcome::Done(output) = report.outcome {
                    measure(&mut told, &output);
                }
            }
            Decision::Failed { task, error, .. } => {
                told.failed.push((task, error));
            }
            Decision::Ended { .. } => told.over = true,
            Decision::Retried => told.over = false,
            Decision::Replanned { .. } => {
                told.accepted.clear();
                told.frames = 0;
            }
            Decision::Uploaded { .. }
            | Decision::Notified
            | Decision::Unheard
            | Decision::Publishing { .. } => {}
        }
    }
    told
}

fn measure(told: &mut Told, output: &TaskOutput) {
    let (TaskOutput::Segment(segment) | TaskOutput::Detect(segment)) = output else { return };
    told.longest = told.longest.max(Duration::from_micros(segment.wall_us));
    if matches!(output, TaskOutput::Segment(_)) {
        told.frames += segment.frames.output;
    }
}
