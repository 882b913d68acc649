//! Whatever a node leaves on the store ends in a result or an error, and the engine goes on.

use frameloom_fuzz::Target;

use super::*;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");

const WORDS: [&str; 14] = [
    "task", "segment", "detect", "plan", "track", "concat", "frames", "file", "size", "sha256",
    "done", "failed", "error", "by_task",
];

/// What came of a job, in words.
fn told(ended: Result<JobOutcome>) -> String {
    match ended {
        Ok(outcome) => {
            outcome.scheduler.failures().iter().map(|failed| in_full(&failed.error)).collect()
        }
        Err(error) => {
            assert!(!engine_has_ended(&error), "the engine died");
            in_full(&error)
        }
    }
}

fn in_full(error: &Error) -> String {
    format!("{error}: {}", error.source_text().unwrap_or_default())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn fuzz_plan() {
    let runtime = runtime();
    let trial = runtime.block_on(async { Trial::new() });
    let mut target = Target::new("plan", CORPUS, 400);
    target.words = &WORDS;
    target.time = Duration::from_secs(2);
    target.fuzz(|input| {
        // A plan of another engine's waits for a node of that.
        let ended = runtime.block_on(async {
            let run = trial.run(input, well);
            tokio::time::timeout(Duration::from_millis(500), run).await
        });
        ended.map_or_else(|_| "waits".to_owned(), told)
    });
}

#[test]
fn fuzz_report() {
    let runtime = runtime();
    let trial = runtime.block_on(async { Trial::new() });
    let mut target = Target::new("report", CORPUS, 400);
    target.words = &WORDS;
    target.time = Duration::from_secs(2);
    for task in [Task::Segment(1), Task::Concat] {
        let message =
            TaskMessage { job: JobId::from_bits(1), task, attempt: AttemptId::from_bits(1) };
        let dir = trial.store.job(message.job);
        let attempt = Attempt { dir, root: trial.store.root(), message, plan: PLANS[0] };
        target.seeds.push(serde_json::to_vec(&attempt.report(output(task, b"made", 1))).unwrap());
        let mut failed = attempt.report(TaskOutput::Valid);
        failed.outcome = Outcome::Failed { error: Error::unavailable("it died"), by_task: true };
        target.seeds.push(serde_json::to_vec(&failed).unwrap());
    }
    target.fuzz(|input| {
        // The same instead of each task's first report; its attempt's own id, and the task, are put in.
        let mut bad = std::collections::BTreeSet::new();
        let ended = runtime.block_on(async {
            let run = trial.run(PLANS[0], |attempt| {
                if attempt.message.task == Task::Plan || !bad.insert(attempt.message.task) {
                    return well(attempt);
                }
                let (from, to) =
                    (AttemptId::from_bits(1).to_string(), attempt.message.attempt.to_string());
                let task = serde_json::to_string(&attempt.message.task).unwrap();
                let text = String::from_utf8_lossy(input).replace(&from, &to);
                let text = text.replace(r#"{"segment":1}"#, &task);
                fs::write(attempt.result(), attempt.content()).unwrap();
                fs::write(attempt.inbox(), text).unwrap();
            });
            tokio::time::timeout(Duration::from_secs(5), run).await
        });
        ended.map_or_else(|_| "waits".to_owned(), told)
    });
}

#[test]
fn fuzz_journal() {
    let mut target = Target::new("journal", CORPUS, 3000);
    target.words = &["accepted", "sent", "failed", "replanned", "ended"];
    let trial = runtime().block_on(async { Trial::new() });
    let store = &trial.store;
    let id = JobId::from_bits(1);
    store.job(id).create(&job(id), |_| Ok(())).unwrap();
    let (mut journal, _) = store.job(id).open_journal().unwrap();
    let sent = |k| frameloom_core::wire::Decision::Sent {
        task: Task::Segment(k),
        attempt: AttemptId::from_bits(k.into()),
    };
    journal.append(&[sent(1), sent(2), sent(3)]).unwrap();
    let path = store.job(id).scratch("journal");
    target.seeds.push(fs::read(&path).unwrap());
    target.fuzz(|input| {
        fs::write(&path, input).unwrap();
        let (mut journal, before) = store.job(id).open_journal().unwrap();
        // What is appended to whatever was there is there.
        journal.append(&[sent(9)]).unwrap();
        let after = store.job(id).decisions().unwrap();
        assert_eq!(after.len(), before.len() + 1);
        let found = crate::resume::found(&store.job(id), after).unwrap();
        format!("{} {}", "d".repeat(before.len().min(9)), "o".repeat(found.open.len().min(9)))
    });
}

#[test]
fn fuzz_beat() {
    use frameloom_core::wire::{Beat, HeldAttempt, NodeInfo, PROTOCOL};
    let plan: Plan = serde_json::from_slice(PLANS[0]).unwrap();
    let held = HeldAttempt {
        attempt: AttemptId::from_bits(1),
        frames: 7,
        slot_pid: 1,
        starved: true,
        full: true,
    };
    let beat = Beat { counter: 1, held: vec![held], free_slots: 1, refused: 3, ..Beat::default() };
    let info = NodeInfo {
        name: "n".into(),
        host: "h".into(),
        pid: 1,
        slots: 1,
        gpu_slots: 1,
        engine: plan.engine,
        protocol: PROTOCOL,
        within_server: false,
        started_ms: 0,
    };
    let runtime = runtime();
    let trial = runtime.block_on(async { Trial::new() });
    let node = NodeId::from_bits(1);
    trial.store.write_node(node, &info).unwrap();
    let dir = trial.store.root().join("nodes").join(node.to_string());
    let mut target = Target::new("beat", CORPUS, 300);
    target.words = &["counter", "held", "free_slots", "frames", "refused", "starved"];
    target.time = Duration::from_secs(2);
    target.seeds.push(serde_json::to_vec(&beat).unwrap());
    target.fuzz(|input| {
        let ended = runtime.block_on(async {
            let run = trial.run(PLANS[0], |attempt| {
                let (from, to) =
                    (AttemptId::from_bits(1).to_string(), attempt.message.attempt.to_string());
                let text = String::from_utf8_lossy(input).replace(&from, &to);
                fs::write(dir.join("beat"), text).unwrap();
                well(attempt);
            });
            tokio::time::timeout(Duration::from_secs(5), run).await
        });
        let nodes = trial.engine.status().nodes();
        let seen: String = nodes
            .iter()
            .map(|node| {
                let beat = &node.beat;
                let all = [beat.counter > 9, beat.free_slots > 9, beat.refused > 9];
                format!("{all:?}{}{}", "h".repeat(beat.held.len().min(9)), beat.frames.is_empty())
            })
            .collect();
        format!("{} {seen}", ended.map_or_else(|_| "waits".to_owned(), told))
    });
}
