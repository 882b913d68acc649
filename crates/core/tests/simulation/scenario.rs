//! What a run is made of: machines, jobs, and what goes wrong how often.

use frameloom_core::plan::Stages;
use frameloom_core::wire::Task;

use crate::random::{Random, Time};

/// How many times as long as others a slow slot takes at most.
pub(crate) const SLOWEST: Time = 10;

/// How often things go wrong, of a thousand, until [`Scenario::faults_end`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Messages that the broker loses.
    pub(crate) lost: u32,
    /// Messages that come late.
    pub(crate) late: u32,
    /// Messages that come twice.
    pub(crate) repeated: u32,
    /// Messages that overtake others.
    pub(crate) reordered: u32,
    /// Files on the store that are seen late.
    pub(crate) unseen: u32,
    /// Reports that a node cannot write.
    pub(crate) unreported: u32,
    /// Attempts that fail through no fault of their task.
    pub(crate) unlucky: u32,
    /// Milliseconds from one fault of a node or a slot to the next; 0 for none.
    pub(crate) nodes_every: Time,
    /// Milliseconds from one fault of the server, the broker or the store to the next; 0 for none.
    pub(crate) server_every: Time,
}

/// A job, and how long its tasks take in a slot of usual speed.
#[derive(Debug, Clone)]
pub(crate) struct JobModel {
    pub(crate) submitted: Time,
    pub(crate) priority: u8,
    pub(crate) plan: Time,
    pub(crate) segments: Vec<Time>,
    pub(crate) concat: Time,
    /// Whether things are found and followed before its segments are processed.
    pub(crate) follows: bool,
    /// A task that always fails by itself.
    pub(crate) poison: Option<Task>,
}

impl JobModel {
    pub(crate) fn new(random: &mut Random, submitted: Time, segments: usize) -> Self {
        Self {
            submitted,
            priority: 5,
            plan: random.time(500, 2000),
            segments: (0..segments).map(|_| random.time(4000, 10_000)).collect(),
            concat: random.time(1000, 4000),
            follows: false,
            poison: None,
        }
    }

    /// How long a task takes.
    pub(crate) fn takes(&self, task: Task) -> Time {
        match task {
            Task::Plan | Task::Track => self.plan,
            Task::Detect(k) => self.segments[k as usize % self.segments.len()] / 3,
            Task::Segment(k) => self.segments[k as usize],
            Task::Concat => self.concat,
        }
    }

    /// The stages of its plan.
    pub(crate) fn stages(&self) -> Stages {
        let segments = u32::try_from(self.segments.len()).expect("few segments");
        // Looked into in pieces, more of them than segments.
        let pieces = if self.follows { segments * 2 } else { 0 };
        Stages { segments, pieces, render: true }
    }

    /// All its tasks.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = Task> {
        let Stages { segments, pieces, .. } = self.stages();
        let detects = (0..pieces).map(Task::Detect).chain([Task::Track]);
        [Task::Plan, Task::Concat]
            .into_iter()
            .chain((0..segments).map(Task::Segment))
            .chain(detects.filter(move |_| pieces > 0))
    }
}

/// Everything that a run follows from.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// Segment slots of a node; each has a control slot beside.
    pub(crate) slots: usize,
    pub(crate) jobs: Vec<JobModel>,
    pub(crate) faults: Faults,
    pub(crate) faults_end: Time,
    /// Nodes that live on when the faults end, where not all do.
    pub(crate) survivors: Option<usize>,
    /// Of a thousand attempts of a task, those that fail by themselves, twice a task at most.
    pub(crate) own_failures: u32,
    /// Slots of a thousand that take 2 to [`SLOWEST`] times as long as others.
    pub(crate) slow_slots: u32,
    /// How slow the first slot of the first node is.
    pub(crate) first_slot: u64,
    /// Whether idle slots try stragglers.
    pub(crate) speculates: bool,
    /// How often the server looks at the store.
    pub(crate) poll: Time,
}

impl Scenario {
    /// Machines without a fault and without a job.
    pub(crate) fn calm(seed: u64, nodes: usize, slots: usize) -> Self {
        Self {
            seed,
            nodes,
            slots,
            jobs: Vec::new(),
            faults: Faults::default(),
            faults_end: 0,
            survivors: None,
            own_failures: 0,
            slow_slots: 0,
            first_slot: 1,
            speculates: true,
            poll: 200,
        }
    }

    /// Machines where all goes wrong, for `jobs` jobs with `tasks` tasks altogether. One job has a
    /// task that always fails.
    pub(crate) fn stormy(
        seed: u64,
        (nodes, slots): (usize, usize),
        (jobs, tasks): (usize, usize),
    ) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let r = &mut random;
        let mut left = tasks - jobs * 2;
        let mut models = Vec::new();
        for j in 0..jobs {
            let segments = match jobs - j {
                1 => left,
                more => 1 + r.index(left / more * 2 - 1),
            };
            left -= segments;
            let submitted = r.time(0, 60_000);
            let mut model = JobModel::new(r, submitted, segments);
            model.priority = [1, 5, 5, 5, 9][r.index(5)];
            model.follows = j % 3 == 2;
            models.push(model);
        }
        let poison = r.index(jobs);
        let k = u32::try_from(r.index(models[poison].segments.len())).expect("few segments");
        models[poison].poison = Some([Task::Plan, Task::Concat, Task::Segment(k)][r.index(3)]);
        let faults = Faults {
            lost: r.rate(200),
            late: r.rate(150),
            repeated: r.rate(300),
            reordered: r.rate(300),
            unseen: r.rate(200),
            unreported: r.rate(100),
            unlucky: r.rate(200),
            // Each node has one every half minute to four minutes.
            nodes_every: r.time(30_000, 240_000) / nodes as Time,
            server_every: r.time(5000, 40_000),
        };
        Self {
            jobs: models,
            faults,
            faults_end: 180_000,
            survivors: [None, None, Some(1)][r.index(3)].filter(|_| nodes < 50),
            own_failures: r.rate(300),
            slow_slots: r.rate(100),
            ..Self::calm(seed, nodes, slots)
        }
    }

    /// How long all segments take, one after the other.
    pub(crate) fn work(&self) -> Time {
        self.jobs.iter().flat_map(|job| &job.segments).sum()
    }
}
