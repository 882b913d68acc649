use std::fs;

use frameloom_broker::celery::Access;
use frameloom_core::id::StoreId;
use frameloom_core::wire::SourceRef;

use super::*;

#[path = "../../../../broker/tests/support/mod.rs"]
mod redis_server;

use redis_server::Redis;

use crate::frames::late::LateView;

struct Trial {
    dir: tempfile::TempDir,
    frames: PythonFrames,
    _redis: Redis,
}

impl Trial {
    /// A job whose frames go to a function, with Redis, and nobody who works.
    async fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        Self::on(store, dir, more).await
    }

    async fn on(store: Arc<Store>, dir: tempfile::TempDir, more: &str) -> Self {
        let redis = Redis::start(&[]);
        let celery =
            Celery::connect(&redis.url(), &Access::default(), StoreId::from_bits(7)).await.unwrap();
        let celery = Arc::new(celery);
        let filters = vec![format!("celery:task=t:queue=q{more}").parse().unwrap()];
        let source = SourceRef { path: "/in.mp4".into(), name: "in.mp4".into(), root: None };
        let job = JobFile {
            id: JobId::from_bits(1),
            spec: frameloom_core::spec::JobSpec { filters, ..Default::default() },
            source,
            frame_metrics: false,
            submission: None,
        };
        let (broker, done): (Arc<dyn frameloom_broker::Broker>, _) =
            (Arc::new(frameloom_broker::Memory::new()), Arc::default());
        let depths = Arc::default();
        let carriers = Carriers {
            store: &store,
            celery: Some(&celery),
            broker: &broker,
            done: &done,
            depths: &depths,
        };
        let refused = PythonFrames::of(&carriers, &job, 3).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
        assert_eq!(fs::read_dir(dir.path().join("frames")).unwrap().count(), 0);
        store.frames(job.id).make().unwrap();
        let frames = PythonFrames::of(&carriers, &job, 3).unwrap().unwrap();
        Self { dir, frames, _redis: redis }
    }

    async fn write(&self, number: u64) {
        self.frames.away(at(number)).unwrap();
        self.frames.gone(at(number)).await.unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("frames").join(self.frames.job.to_string())
    }

    /// The attempt under way of a frame that is none of those before, and the numbers of its frames.
    async fn attempt(&self, number: u64, before: &[AttemptId]) -> (AttemptId, Vec<usize>) {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(20), "no attempt is made");
            {
                let state = self.frames.state();
                let group = state.of.get(&(0, number)).and_then(|id| state.groups.get(id));
                if let Some(group) = group
                    && let Some(attempt) = group.attempt.filter(|a| !before.contains(a))
                {
                    return (attempt, group.frames.iter().map(|going| going.number).collect());
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A worker's answer.
    fn say(&self, attempt: AttemptId, text: &str) {
        let (results, name) = (self.path().join("results"), format!("{attempt}.json"));
        fs::write(results.join("fresh"), text).unwrap();
        fs::rename(results.join("fresh"), results.join(name)).unwrap();
    }

    fn files(&self, end: &str) -> usize {
        let names = fs::read_dir(self.path()).unwrap().flatten().map(|e| e.file_name());
        names.filter(|name| name.to_string_lossy().ends_with(end)).count()
    }
}

fn at(number: u64) -> FrameNumber {
    FrameNumber { filter: 0, number, pts: i64::try_from(number).unwrap() * 10 }
}

const FAILED: &str = r#"{"outcome": "failed", "error": "no"}"#;
const DONE: &str = r#"{"outcome": "done"}"#;

#[tokio::test]
async fn a_batch_that_fails_is_tried_frame_by_frame_and_leaves_no_files_behind() {
    let trial = Trial::new(":batch=3:on_error=skip").await;
    for number in 0..3 {
        trial.write(number).await;
    }
    let worker = async {
        let mut attempts = Vec::new();
        for _ in 0..3 {
            let (attempt, frames) = trial.attempt(0, &attempts).await;
            assert_eq!(frames, [0, 1, 2]);
            assert_eq!(trial.files(".out.npy"), 0, "what failed before fills the disk");
            for number in frames {
                fs::write(trial.path().join(output(attempt, number)), "half").unwrap();
            }
            attempts.push(attempt);
            trial.say(attempt, FAILED);
        }
        // The second one fails by itself, too.
        let (first, _) = trial.attempt(0, &attempts).await;
        fs::write(trial.path().join(output(first, 0)), "frame 0").unwrap();
        trial.say(first, DONE);
        for _ in 0..3 {
            let (attempt, frames) = trial.attempt(1, &attempts).await;
            assert_eq!(frames, [1]);
            attempts.push(attempt);
            trial.say(attempt, FAILED);
        }
        let (last, _) = trial.attempt(2, &attempts).await;
        fs::write(trial.path().join(output(last, 2)), "frame 2").unwrap();
        trial.say(last, DONE);
    };
    let slot = async {
        let mut back = Vec::new();
        for number in 0..3 {
            back.push(match trial.frames.back(at(number)).await {
                Ok(file) => std::io::read_to_string(fs::File::from(file)).unwrap(),
                Err(Lost::ByFunction(error)) => error.message().to_owned(),
                Err(lost) => panic!("{lost:?}"),
            });
        }
        back
    };
    let (back, ()) = tokio::join!(slot, worker);
    assert_eq!((back[0].as_str(), back[2].as_str()), ("frame 0", "frame 2"));
    assert!(back[1].contains("pts 10") && back[1].contains("(3 tries)"), "{}", back[1]);
    assert_eq!(trial.files(".npy"), 0);
    assert_eq!(fs::read_dir(trial.path().join("results")).unwrap().count(), 0);
}

#[tokio::test]
async fn answers_show_at_once_in_a_view_that_keeps_what_was_absent() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Store::open(dir.path()).unwrap();
    let view = LateView::of(dir.path(), &place.path().join("view"));
    let trial = Trial::on(Arc::new(Store::mounted(view.path()).unwrap()), dir, "").await;
    trial.write(0).await;
    let (attempt, _) = trial.attempt(0, &[]).await;
    // Nothing of it is there when it is first looked for.
    let seen = trial.frames.dir();
    assert!(seen.answer::<Answer>(attempt).unwrap().is_none() && !seen.is_claimed(attempt));
    assert!(seen.open(&output(attempt, 0)).unwrap().is_none() && seen.beat(attempt).is_none());
    for (part, text) in [("claims", ""), ("beats", r#"{"counter": 7}"#)] {
        fs::write(trial.path().join(part).join(attempt.to_string()), text).unwrap();
    }
    fs::write(trial.path().join(output(attempt, 0)), "frame 0").unwrap();
    trial.say(attempt, DONE);
    let soon = Duration::from_secs(15);
    tokio::time::timeout(soon, trial.frames.back(at(0))).await.expect("it is late").unwrap();
    let shown = trial.frames.dir();
    // Its notes are removed with it; a new one shows as soon.
    let next = AttemptId::from_bits(9);
    assert!(!shown.is_claimed(next));
    fs::write(trial.path().join("claims").join(next.to_string()), "").unwrap();
    let end = Instant::now() + soon;
    while !shown.is_claimed(next) {
        assert!(Instant::now() < end, "a claim is late");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_a_worker_says_of_its_store_is_no_failure_of_the_function() {
    let trial = Trial::new("").await;
    trial.write(0).await;
    let worker = async {
        let mut attempts = Vec::new();
        for _ in 0..4 {
            let (attempt, _) = trial.attempt(0, &attempts).await;
            attempts.push(attempt);
            trial.say(attempt, r#"{"outcome": "failed", "kind": "store", "error": "no space"}"#);
        }
        let (attempt, _) = trial.attempt(0, &attempts).await;
        fs::write(trial.path().join(output(attempt, 0)), "frame 0").unwrap();
        trial.say(attempt, DONE);
    };
    let (back, ()) = tokio::join!(trial.frames.back(at(0)), worker);
    back.unwrap();
}

#[tokio::test]
async fn what_a_worker_leaves_in_place_of_a_frame_or_an_answer_is_its_functions_failure() {
    let trial = Trial::new("").await;
    trial.write(0).await;
    let worker = async {
        let mut attempts = Vec::new();
        for what in ["malformed", "link", "directory"] {
            let (attempt, _) = trial.attempt(0, &attempts).await;
            attempts.push(attempt);
            let out = trial.path().join(output(attempt, 0));
            match what {
                "malformed" => trial.say(attempt, "{\"outcome\": "),
                "link" => std::os::unix::fs::symlink("/etc/passwd", out).unwrap(),
                _ => fs::create_dir(out).unwrap(),
            }
            if what != "malformed" {
                trial.say(attempt, DONE);
            }
        }
    };
    let (back, ()) = tokio::join!(trial.frames.back(at(0)), worker);
    match back {
        Err(Lost::ByFunction(error)) => {
            let said = error.message();
            assert!(said.contains("malformed") && said.contains("not a regular file"), "{said}");
        }
        other => panic!("{other:?}"),
    }
}
