use std::fs;
use std::path::PathBuf;

use frameloom_broker::Memory;
use frameloom_core::wire::{End, JobFile, SourceRef};

use super::*;
use crate::slot::parent::SlotConfig;

struct Trial {
    _dir: tempfile::TempDir,
    worker: Worker,
    slot: Slot,
    job: JobId,
}

impl Trial {
    /// A node with a job at work, and a slot that cannot be started.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let job = JobId::from_bits(1);
        let source = SourceRef { path: "/in.mp4".into(), name: "in.mp4".into(), root: None };
        let file = JobFile {
            id: job,
            spec: Default::default(),
            source,
            frame_metrics: false,
            submission: None,
        };
        store.job(job).create(&file, |_| Ok(())).unwrap();
        store.frames(job).make().unwrap();
        let worker = Worker {
            node: NodeId::from_bits(5),
            engine: EngineId::from_digest(&[3; 6]),
            store,
            named: None,
            broker: Arc::new(Memory::new()),
            done: Arc::new(Notify::new()),
            shared: Arc::default(),
            missed: 0,
            owner: None,
        };
        let config = SlotConfig {
            program: "/nonexistent/frameloom".into(),
            memory: u64::MAX,
            timeout: Duration::from_secs(60),
            nice: 0,
        };
        Self { _dir: dir, worker, slot: Slot::new("frame.0".into(), config), job }
    }

    fn message(&self, attempt: u128) -> FrameMessage {
        FrameMessage {
            job: self.job,
            plan: AttemptId::from_bits(2),
            attempt: AttemptId::from_bits(attempt),
            group: AttemptId::from_bits(3),
            frame: 0,
            first: 0,
            last: 0,
            from: 0,
            to: 1,
        }
    }

    async fn perform(&mut self, attempt: u128) -> Performed {
        let task = FrameTask::Ours(self.message(attempt));
        self.worker.perform(task, &mut self.slot).await
    }

    async fn waiting(&self) -> usize {
        self.worker.broker.frames_waiting(self.worker.engine).await.unwrap()
    }

    /// A frame, and the plan of its filters.
    fn write(&self) {
        self.worker.store.frames(self.job).create(&input(AttemptId::from_bits(3), 0)).unwrap();
        let dir = self.worker.store.job(self.job);
        let (file, pending) = dir.begin(Task::Plan, AttemptId::from_bits(2), "").unwrap();
        pending.publish(&file).unwrap();
    }

    fn said(&self, attempt: u128) -> Option<FrameFailure> {
        self.worker.store.frames(self.job).answer(AttemptId::from_bits(attempt)).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_see_a_jobs_frames_gives_them_to_others() {
    let mut trial = Trial::new();
    trial.worker.store.frames(trial.job).drop_all().unwrap();
    assert_eq!(trial.perform(10).await, Performed::Hindered);
    assert_eq!(trial.waiting().await, 1, "its message is swallowed");
    let ended = Decision::Ended { end: End::Cancelled, error: None, at_ms: 0 };
    trial.worker.store.job(trial.job).open_journal().unwrap().0.append(&[ended]).unwrap();
    assert_eq!(trial.perform(11).await, Performed::Undone);
    trial.worker.store.remove(trial.job).unwrap();
    assert_eq!(trial.perform(12).await, Performed::Undone);
    assert_eq!(trial.waiting().await, 1, "nobody waits for frames of a job that is over");
    // Another store in its place has no such job, either.
    trial.worker.named = Some(StoreId::from_bits(7));
    assert_eq!(trial.perform(13).await, Performed::Hindered);
    assert_eq!(trial.waiting().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_shows_no_frames_is_not_believed_for_ever() {
    let mut trial = Trial::new();
    for attempt in 0..u128::from(MOST_MISSED) {
        // Each may be one that somebody else has done.
        assert_eq!(trial.perform(attempt).await, Performed::Undone);
    }
    assert_eq!(trial.waiting().await, 0);
    assert_eq!(trial.perform(1000).await, Performed::Hindered);
    assert_eq!(trial.waiting().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_work_says_so_and_holds_nothing_any_more() {
    let mut trial = Trial::new();
    trial.write();
    let attempt = AttemptId::from_bits(10);
    let claim = FrameClaim { node: trial.worker.node };
    trial.worker.store.frames(trial.job).claim(attempt, claim).unwrap();
    assert_eq!(trial.perform(10).await, Performed::Hindered);
    let said = trial.said(10).unwrap();
    assert!(!said.by_task, "{said:?}");
    let dir = trial.worker.store.frames(trial.job);
    assert!(!dir.is_claimed(attempt), "the claim of a frame that is dropped stands");
    assert_eq!(trial.worker.shared.held(), []);
}

#[tokio::test(start_paused = true)]
async fn a_frame_whose_end_cannot_be_told_goes_to_others() {
    let mut trial = Trial::new();
    trial.write();
    let results: PathBuf = format!("frames/{}/results", trial.job).into();
    fs::remove_dir(trial.worker.store.root().join(results)).unwrap();
    assert_eq!(trial.perform(10).await, Performed::Hindered);
    assert_eq!(trial.waiting().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_program_was_replaced_takes_no_frames_any_more() {
    let trial = Trial::new();
    let failure = |error| FrameFailure { error, by_task: false };
    let full = failure(Error::exhausted("no space left"));
    assert_eq!(trial.worker.failed(&trial.message(10), full).await, Performed::Hindered);
    assert!(!trial.worker.shared.over.is_cancelled());
    let replaced = failure(Error::conflict("replaced"));
    assert_eq!(trial.worker.failed(&trial.message(11), replaced).await, Performed::Hindered);
    assert!(trial.worker.shared.over.is_cancelled());
    assert_eq!(trial.said(11).unwrap().error.kind(), ErrorKind::Conflict);
}
