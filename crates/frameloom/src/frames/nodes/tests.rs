use std::fs;

use frameloom_broker::Memory;
use frameloom_core::ErrorKind;
use frameloom_core::wire::{Beat, FrameClaim, FrameTask};

use super::*;

use crate::frames::late::LateView;

struct Trial {
    dir: tempfile::TempDir,
    frames: NodeFrames,
}

impl Trial {
    fn new(before: u32, after: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        Self::on(store, dir, before, after)
    }

    fn on(store: Arc<Store>, dir: tempfile::TempDir, before: u32, after: u32) -> Self {
        let job = JobId::from_bits(1);
        store.frames(job).make().unwrap();
        let stretch = Stretch { first: 2, end: 3, before, after, input: 9, output: 9 };
        let frames = NodeFrames {
            store,
            broker: Arc::new(Memory::new()),
            done: Arc::new(Notify::new()),
            depths: Arc::default(),
            job,
            alone: false,
            plan: AttemptId::from_bits(2),
            engine: EngineId::from_digest(&[3; 6]),
            urgency: 3,
            stretches: vec![stretch],
            state: Mutex::new(State { going: BTreeMap::new(), seen: Instant::now(), full: false }),
        };
        Self { dir, frames }
    }

    async fn write(&self, number: u64) {
        self.frames.away(at(number)).unwrap();
        self.frames.gone(at(number)).await.unwrap();
    }

    async fn message(&self) -> FrameMessage {
        let coming = self.frames.broker.receive_frame(self.frames.engine);
        let hour = std::time::Duration::from_secs(3600);
        match tokio::time::timeout(hour, coming).await.expect("no message comes").unwrap() {
            FrameTask::Ours(message) => message,
            FrameTask::Stranger(frame) => panic!("{frame:?}"),
        }
    }

    async fn waiting(&self) -> usize {
        self.frames.broker.frames_waiting(self.frames.engine).await.unwrap()
    }

    /// A node's slot does what a message asks for.
    fn answer(&self, message: &FrameMessage) {
        let dir = self.frames.dir();
        dir.create("part").unwrap();
        dir.publish("part", &output(message.attempt)).unwrap();
    }

    fn files(&self) -> usize {
        let dir = self.dir.path().join("frames").join(self.frames.job.to_string());
        let entries = fs::read_dir(dir).unwrap().flatten();
        entries.filter(|entry| entry.file_type().unwrap().is_file()).count()
    }
}

fn at(number: u64) -> FrameNumber {
    FrameNumber { filter: 2, number, pts: i64::try_from(number).unwrap() * 10 }
}

#[tokio::test(start_paused = true)]
async fn tasks_name_the_neighbours_that_there_are_and_files_go_when_nobody_needs_them() {
    let trial = Trial::new(1, 2);
    for number in 0..4 {
        trial.write(number).await;
    }
    assert_eq!(trial.waiting().await, 2, "frames 2 and 3 want frames behind them");
    let mut seen = Vec::new();
    for number in 0..4 {
        let (message, back) = tokio::join!(
            async {
                let message = trial.message().await;
                trial.answer(&message);
                message
            },
            trial.frames.back(at(number))
        );
        back.unwrap();
        seen.push((message.frame, message.first, message.last));
    }
    assert_eq!(seen, [(0, 0, 2), (1, 0, 3), (2, 1, 3), (3, 2, 3)]);
    assert_eq!(trial.files(), 1, "the last one is kept for a frame to come");
    drop(trial.frames.away(at(0)).unwrap());
    assert_eq!(trial.files(), 1, "what was there before a new beginning is gone");
}

#[tokio::test]
async fn a_frame_shows_at_once_in_a_view_that_keeps_what_was_absent() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let there = Store::open(&data).unwrap();
    let view = LateView::of(&data, &dir.path().join("view"));
    let trial = Trial::on(Arc::new(Store::mounted(view.path()).unwrap()), dir, 0, 0);
    trial.write(0).await;
    let message = trial.message().await;
    // It is looked for before it comes.
    let name = output(message.attempt);
    assert!(trial.frames.dir().open(&name).unwrap().is_none());
    assert!(!trial.frames.dir().has(&name).unwrap());
    let other = there.frames(message.job);
    other.create("part").unwrap();
    other.publish("part", &name).unwrap();
    let soon = std::time::Duration::from_secs(15);
    tokio::time::timeout(soon, trial.frames.back(at(0))).await.expect("it is late").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_is_sent_again_as_it_was_with_all_that_are_lost() {
    let trial = Trial::new(0, 0);
    for number in 0..3 {
        trial.write(number).await;
    }
    let mut lost = Vec::new();
    for _ in 0..3 {
        lost.push(trial.message().await);
    }
    trial.answer(&lost[1]);
    let (again, back) = tokio::join!(
        async {
            let again = [trial.message().await, trial.message().await];
            again.iter().for_each(|message| trial.answer(message));
            again
        },
        trial.frames.back(at(0))
    );
    back.unwrap();
    assert_eq!(again, [lost[0].clone(), lost[2].clone()]);
    assert_eq!(trial.waiting().await, 0, "what has come back is not sent again");
}

/// A node claims an attempt and beats once a second, with or without the frame.
async fn claims_and_beats(trial: &Trial, attempt: AttemptId, seconds: u64, holds: bool) {
    let node = NodeId::from_bits(5);
    trial.frames.dir().claim(attempt, FrameClaim { node }).unwrap();
    fs::create_dir(trial.dir.path().join("nodes").join(node.to_string())).unwrap();
    let frames = if holds { vec![attempt] } else { Vec::new() };
    for counter in 1..=seconds {
        let beat = Beat { counter, frames: frames.clone(), ..Default::default() };
        trial.frames.store.write_beat(node, &beat).unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// After how long a frame is sent anew whose node claims it and beats for half a minute, telling that it `holds` it or not.
async fn sent_anew_after(holds: bool) -> std::time::Duration {
    let trial = Trial::new(0, 0);
    trial.write(0).await;
    let first = trial.message().await;
    let begun = Instant::now();
    let beats = claims_and_beats(&trial, first.attempt, 30, holds);
    let answers = async {
        let anew = trial.message().await;
        trial.answer(&anew);
        (anew, begun.elapsed())
    };
    let (back, (anew, after), ()) = tokio::join!(trial.frames.back(at(0)), answers, beats);
    back.unwrap();
    assert_ne!(anew.attempt, first.attempt);
    after
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_a_living_node_works_on_is_waited_for_and_a_silent_ones_is_sent_anew() {
    let after = sent_anew_after(true).await;
    assert!((38..43).contains(&after.as_secs()), "after {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_its_living_node_has_dropped_is_sent_anew() {
    let after = sent_anew_after(false).await;
    assert!(after.as_secs() < 15, "after {after:?}");
}

/// Has a frame fail so until it is given up; answers how often, how long that took and what became of it.
async fn fails(trial: &Trial, error: Error, by_task: bool) -> (u32, u64, Lost) {
    trial.write(0).await;
    let begun = Instant::now();
    let tries = std::cell::Cell::new(0);
    let failures = async {
        loop {
            let message = trial.message().await;
            tries.set(tries.get() + 1);
            let failure = FrameFailure { error: error.clone(), by_task };
            trial.frames.dir().say(message.attempt, &failure).unwrap();
        }
    };
    tokio::select! {
        back = trial.frames.back(at(0)) => {
            (tries.get(), begun.elapsed().as_secs(), back.unwrap_err())
        }
        () = failures => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_is_told_and_waited_for_and_fails_no_frame() {
    let trial = Trial::new(0, 0);
    let (tries, seconds, lost) = fails(&trial, Error::exhausted("no space left"), false).await;
    match lost {
        Lost::Otherwise(error) => assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(tries > 3 && seconds >= 10, "given up after {tries} tries in {seconds} s");
    assert!(trial.frames.are_without_room());
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_program_was_replaced_ends_a_run_and_a_servers_job_asks_others() {
    let mut trial = Trial::new(0, 0);
    let (tries, ..) = fails(&trial, Error::conflict("replaced"), false).await;
    assert!(tries > 3, "{tries} tries");
    trial = Trial::new(0, 0);
    trial.frames.alone = true;
    let (tries, _, lost) = fails(&trial, Error::conflict("replaced"), false).await;
    match lost {
        Lost::Otherwise(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(tries, 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_leaves_in_place_of_a_frame_or_an_answer_is_the_frames_failure() {
    let trial = Trial::new(0, 0);
    trial.write(0).await;
    let dir = trial.dir.path().join("frames").join(trial.frames.job.to_string());
    let failures = async {
        let link = trial.message().await;
        std::os::unix::fs::symlink("/etc/passwd", dir.join(output(link.attempt))).unwrap();
        let directory = trial.message().await;
        fs::create_dir(dir.join(output(directory.attempt))).unwrap();
        let malformed = trial.message().await;
        fs::write(dir.join(format!("results/{}.json", malformed.attempt)), "{\"error\":").unwrap();
        [link.attempt, directory.attempt, malformed.attempt]
    };
    let (back, [link, _, malformed]) = tokio::join!(trial.frames.back(at(0)), failures);
    match back {
        Err(Lost::ByFunction(error)) => {
            let said = error.message();
            assert!(said.contains("not a regular file") && said.contains("malformed"), "{said}");
        }
        other => panic!("{other:?}"),
    }
    assert!(dir.join(output(link)).symlink_metadata().is_err(), "the link is left behind");
    assert!(!dir.join(format!("results/{malformed}.json")).exists());
}

#[tokio::test(start_paused = true)]
async fn three_failures_of_its_own_end_a_frame_and_others_count_nothing() {
    let trial = Trial::new(0, 0);
    trial.write(0).await;
    let failures = async {
        for by_task in [false, true, false, true, true] {
            let message = trial.message().await;
            let error = Error::unavailable("the slot died");
            let failure = FrameFailure { error, by_task };
            trial.frames.dir().say(message.attempt, &failure).unwrap();
        }
    };
    let (back, ()) = tokio::join!(trial.frames.back(at(0)), failures);
    match back {
        Err(Lost::ByFunction(error)) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let expected = "the frame at pts 0 failed 3 times: the slot died";
            assert_eq!(error.message(), expected);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(trial.waiting().await, 0);
}
