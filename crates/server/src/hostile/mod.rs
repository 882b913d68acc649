//! A node that does whatever it likes against the engine: tests, and a target for fuzzing.

mod fuzz;
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use frameloom_broker::{Broker, Memory};
use frameloom_core::catalogue::Catalogue;
use frameloom_core::fingerprint::hex;
use frameloom_core::id::{AttemptId, JobId, NodeId};
use frameloom_core::metrics::FrameCounts;
use frameloom_core::plan::Plan;
use frameloom_core::slot::WrittenFile;
use frameloom_core::slot::{ConcatOutput, PlanOutput, SegmentOutput, TaskOutput, TrackOutput};
use frameloom_core::wire::{
    AttemptReport, JobFile, Outcome, Queue, SourceRef, Submission, Task, TaskMessage,
};
use frameloom_core::{Error, Result};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::engine::{self, Begin, EngineConfig, EngineHandle, JobOutcome, Links};
use crate::serve::JobRequest;
use crate::serve::watched;
use crate::store::{DETECTIONS, JobDir, Store, What};

/// A plan of four segments, and one that looks into three pieces first.
const PLANS: [&[u8]; 2] = [
    include_bytes!("../../fuzz/plan/three-cuts.json"),
    include_bytes!("../../fuzz/plan/two-phases.json"),
];

/// A store with an engine, and no node but the test.
struct Trial {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    broker: Arc<Memory>,
    wake: Arc<Notify>,
    engine: EngineHandle,
    jobs: AtomicU64,
}

/// An attempt that the node has.
struct Attempt<'a> {
    dir: JobDir<'a>,
    root: &'a Path,
    message: TaskMessage,
    /// The content of a good plan.
    plan: &'a [u8],
}

impl Trial {
    fn new() -> Self {
        // Where there is memory to write to, no disk is waited for.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let (broker, wake) = (Arc::new(Memory::new()), Arc::new(Notify::new()));
        let ids = AtomicU64::new(1);
        let config = EngineConfig {
            poll: Duration::from_millis(5),
            lease: Duration::from_secs(10),
            window: 4,
            new_id: Box::new(move || {
                AttemptId::from_bits(ids.fetch_add(1, Ordering::Relaxed).into())
            }),
            fault: Box::new(|_| Ok(())),
            hold: Box::new(|| false),
            before_commit: Box::new(|| Ok(())),
            gpu_for: None,
        };
        let (carries, wakes) = (Arc::clone(&broker), Arc::clone(&wake));
        let links = Links { store: Arc::clone(&store), broker: carries, wake: wakes };
        let engine = engine::start(config, links);
        Self { _dir: dir, store, broker, wake, engine, jobs: AtomicU64::new(1) }
    }

    fn refused(&self, what: What) -> u64 {
        self.store.refused().count(what)
    }

    /// Runs a job whose every attempt goes to `node`. What is told of it is shown as a client would see it.
    async fn run(&self, plan: &[u8], mut node: impl FnMut(&Attempt<'_>)) -> Result<JobOutcome> {
        let id = JobId::from_bits(self.jobs.fetch_add(1, Ordering::Relaxed).into());
        let job = job(id);
        self.store.job(id).create(&job, |_| Ok(())).unwrap();
        let begin = Begin {
            watcher: watched(job.clone()),
            job,
            found: None,
            home: None,
            priority: 5,
            cancel: CancellationToken::new(),
        };
        let queues = |plan: &Plan| [Queue::Control, Queue::Segment(plan.engine.id())];
        let known: Plan = serde_json::from_slice(PLANS[0]).unwrap();
        let mut running = std::pin::pin!(self.engine.run(begin));
        let [control, segments] = queues(&known);
        loop {
            let message = tokio::select! {
                ended = &mut running => return ended,
                message = self.broker.receive(control) => message.unwrap(),
                message = self.broker.receive(segments) => message.unwrap(),
            };
            // What is left of a job before is nobody's.
            if message.job == id {
                let dir = self.store.job(id);
                node(&Attempt { dir, root: self.store.root(), message, plan });
                self.wake.notify_one();
            }
        }
    }
}

fn job(id: JobId) -> JobFile {
    let submission = Submission {
        owner: "anyone".into(),
        created_ms: 0,
        priority: 5,
        upload: true,
        upload_size: None,
        output: None,
        idempotency: None,
        webhook: None,
    };
    JobFile {
        id,
        spec: JobRequest::default().spec(&Catalogue(&[])).unwrap(),
        source: SourceRef { path: "/".into(), name: "none".into(), root: None },
        frame_metrics: false,
        submission: Some(submission),
    }
}

/// A report on a file of this content.
fn output(task: Task, content: &[u8], frames: u64) -> TaskOutput {
    let file = WrittenFile { size: content.len() as u64, sha256: hex(&Sha256::digest(content)) };
    let frames = FrameCounts { input: frames, output: frames, ..FrameCounts::default() };
    let segment =
        |file| SegmentOutput { file, frames, cpu_us: frames.input, wall_us: frames.input };
    match task {
        Task::Plan => TaskOutput::Plan(PlanOutput { file, segments: 4 }),
        Task::Detect(_) => TaskOutput::Detect(segment(file)),
        Task::Segment(_) => TaskOutput::Segment(segment(file)),
        Task::Track => TaskOutput::Track(TrackOutput {
            file,
            frames: 1,
            time_per_frame_ms: Default::default(),
        }),
        Task::Concat => TaskOutput::Concat(ConcatOutput {
            file,
            frames: 4,
            duration_us: 1,
            time_per_frame_ms: Default::default(),
            messages: Vec::new(),
            detections: None,
        }),
    }
}

impl Attempt<'_> {
    /// Where its report goes.
    fn inbox(&self) -> PathBuf {
        let job = self.root.join("jobs").join(self.message.job.to_string());
        job.join("inbox").join(format!("{}.json", self.message.attempt))
    }

    /// Where what it makes goes.
    fn result(&self) -> PathBuf {
        self.dir.result_path(self.message.task, self.message.attempt, "")
    }

    /// Where the detections lie that a join puts together.
    fn beside(&self) -> PathBuf {
        self.dir.result_path(self.message.task, self.message.attempt, DETECTIONS)
    }

    /// What a good node makes.
    fn content(&self) -> &[u8] {
        if self.message.task == Task::Plan { self.plan } else { b"made" }
    }

    fn report(&self, output: TaskOutput) -> AttemptReport {
        let node = NodeId::from_bits(1);
        AttemptReport {
            attempt: self.message.attempt,
            task: self.message.task,
            node,
            slot: format!("{node}/0"),
            slot_pid: 1,
            outcome: Outcome::Done(output),
        }
    }

    /// Reports a file of so many frames with this content, which is there.
    fn publish(&self, content: &[u8], frames: u64) {
        fs::write(self.result(), content).unwrap();
        if self.message.task == Task::Concat {
            fs::write(self.beside(), b"{}").unwrap();
        }
        self.dir.report(&self.report(output(self.message.task, content, frames))).unwrap();
    }
}

/// Does what a good node does.
fn well(attempt: &Attempt<'_>) {
    attempt.publish(attempt.content(), 1);
}

/// Whether an error says that the engine has gone.
fn engine_has_ended(error: &Error) -> bool {
    error.message().contains("the engine has ended")
}
