//! What is no report, no result and no plan is refused and counted, and the job goes on.

use std::io::Write as _;
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use frameloom_core::ErrorKind;
use frameloom_core::id::NodeId;
use frameloom_core::wire::Beat;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use super::*;

/// What may lie where a file should.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Thing {
    Link,
    LinkToItself,
    Pipe,
    Socket,
    Device,
    Directory,
    Terabyte,
    Rubbish,
    Deep,
}

const THINGS: [Thing; 9] = [
    Thing::Link,
    Thing::LinkToItself,
    Thing::Pipe,
    Thing::Socket,
    Thing::Device,
    Thing::Directory,
    Thing::Terabyte,
    Thing::Rubbish,
    Thing::Deep,
];

/// Puts a thing there; a link leads to what would be `good` if it lay there itself.
fn put(thing: Thing, at: &Path, good: &[u8]) {
    let node = |kind, device| mknodat(CWD, at, kind, Mode::RUSR, device);
    match thing {
        Thing::Link => {
            let name = rustix::fs::memfd_create("outside", rustix::fs::MemfdFlags::CLOEXEC);
            let mut outside = fs::File::from(name.unwrap());
            outside.write_all(good).unwrap();
            symlink(format!("/proc/self/fd/{}", outside.into_raw_fd()), at).unwrap();
            assert_eq!(fs::read(at).unwrap(), good);
        }
        Thing::LinkToItself => symlink(at, at).unwrap(),
        Thing::Pipe => node(FileType::Fifo, 0).unwrap(),
        // A path may be too long for it: a pipe is as good.
        Thing::Socket => match UnixListener::bind(at) {
            Ok(listener) => drop(listener),
            Err(_) => node(FileType::Fifo, 0).unwrap(),
        },
        // /dev/zero, where the test may make it.
        Thing::Device => match node(FileType::CharacterDevice, rustix::fs::makedev(1, 5)) {
            Ok(()) => {}
            Err(_) => node(FileType::Fifo, 0).unwrap(),
        },
        Thing::Directory => fs::create_dir_all(at.join("with/more")).unwrap(),
        Thing::Terabyte => fs::File::create(at).unwrap().set_len(1 << 40).unwrap(),
        Thing::Rubbish => fs::write(at, b"{\"attempt\": \xff}").unwrap(),
        Thing::Deep => fs::write(at, "[".repeat(100_000)).unwrap(),
    }
}

fn remove(what: &Path) {
    let is_dir = what.is_dir() && !what.is_symlink();
    if is_dir { fs::remove_dir_all(what) } else { fs::remove_file(what) }.unwrap();
}

/// Has each of `what` done to the first attempt of a task of its own, by as many jobs as it takes.
async fn each<T: Copy>(what: &[T], mut bad: impl FnMut(T, &Attempt<'_>)) -> Trial {
    let trial = Trial::new();
    let begun = Instant::now();
    for some in what.chunks(6) {
        let mut left = some.iter();
        let mut seen = std::collections::BTreeSet::new();
        let ended = trial.run(PLANS[0], |attempt| {
            let first = seen.insert(attempt.message.task);
            match left.as_slice().first().filter(|_| first) {
                Some(thing) => {
                    left.next();
                    bad(*thing, attempt);
                }
                None => well(attempt),
            }
        });
        let made = ended.await.unwrap();
        assert_eq!(made.scheduler.failures().len(), some.len());
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "something was waited for");
    trial
}

#[tokio::test]
async fn what_is_no_report_fails_its_attempt_alone() {
    let trial = each(&THINGS, |thing, attempt| {
        let content = attempt.content();
        fs::write(attempt.result(), content).unwrap();
        let report = attempt.report(output(attempt.message.task, content, 1));
        put(thing, &attempt.inbox(), &serde_json::to_vec(&report).unwrap());
    })
    .await;
    assert_eq!(trial.refused(What::Report), THINGS.len() as u64);
}

#[tokio::test]
async fn a_report_that_tells_of_something_else_fails_its_attempt_alone() {
    #[derive(Clone, Copy)]
    enum Lie {
        Attempt,
        Slot,
        Task,
        Kind,
        Size,
        Gone,
    }
    let all = [Lie::Attempt, Lie::Slot, Lie::Task, Lie::Kind, Lie::Size, Lie::Gone];
    let lie = |lie, attempt: &Attempt<'_>| {
        let content = attempt.content();
        let task = attempt.message.task;
        fs::write(attempt.result(), content).unwrap();
        let mut report = attempt.report(output(task, content, 1));
        match lie {
            Lie::Attempt => report.attempt = AttemptId::from_bits(7 << 64),
            Lie::Slot => report.slot = "\u{1b}]0;x\u{7}".into(),
            Lie::Task => report.task = Task::Segment(77),
            Lie::Kind => report.outcome = Outcome::Done(TaskOutput::Valid),
            Lie::Size => {
                report.outcome = Outcome::Done(output(task, &[content, b"more"].concat(), 1));
            }
            Lie::Gone => fs::remove_file(attempt.result()).unwrap(),
        }
        fs::write(attempt.inbox(), serde_json::to_vec(&report).unwrap()).unwrap();
    };
    let trial = each(&all, lie).await;
    assert_eq!((trial.refused(What::Report), trial.refused(What::Result)), (3, 3));
}

#[tokio::test]
async fn what_is_no_result_fails_its_attempt_alone() {
    // What is rubbish for the server is so for a slot, which finds that out.
    let things: Vec<Thing> =
        THINGS.into_iter().filter(|t| !matches!(t, Thing::Rubbish | Thing::Deep)).collect();
    let mut counted = 0;
    let trial = each(&things, |thing, attempt| {
        let content = attempt.content();
        put(thing, &attempt.result(), content);
        let mut told = output(attempt.message.task, content, 1);
        if let TaskOutput::Plan(PlanOutput { file, .. })
        | TaskOutput::Segment(SegmentOutput { file, .. })
        | TaskOutput::Concat(ConcatOutput { file, .. }) = &mut told
        {
            // As large as what would be read if it were.
            file.size = fs::metadata(attempt.result()).map_or(4096, |meta| meta.len());
        }
        counted += 1;
        attempt.dir.report(&attempt.report(told)).unwrap();
    })
    .await;
    assert_eq!(trial.refused(What::Result), counted);
}

#[tokio::test]
async fn what_lies_beside_an_output_is_looked_at_too() {
    let all = [None, Some(Thing::Link), Some(Thing::Pipe), Some(Thing::Terabyte)];
    for thing in all {
        let trial = Trial::new();
        let mut first = true;
        let made = trial.run(PLANS[1], |attempt| {
            if attempt.message.task != Task::Concat || !std::mem::take(&mut first) {
                return well(attempt);
            }
            fs::write(attempt.result(), attempt.content()).unwrap();
            if let Some(thing) = thing {
                put(thing, &attempt.beside(), b"{}");
            }
            let told = output(attempt.message.task, attempt.content(), 1);
            attempt.dir.report(&attempt.report(told)).unwrap();
        });
        let made = made.await.unwrap();
        assert_eq!(made.scheduler.failures().len(), 1, "{thing:?}");
        assert_eq!(trial.refused(What::Result), 1, "{thing:?}");
        assert!(made.detections.is_some(), "{thing:?}");
    }
}

#[tokio::test]
async fn a_plan_that_cannot_be_done_ends_the_job_in_words() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut plan: Value = serde_json::from_slice(PLANS[1]).unwrap();
        change(&mut plan);
        serde_json::to_vec(&plan).unwrap()
    };
    let trial = Trial::new();
    let cases: [(Vec<u8>, &str); 7] = [
        (with(&|plan| plan["version"] = json!(1)), "the plan is of version 1"),
        (with(&|plan| plan["segments"] = json!([])), "the plan has no segments"),
        (with(&|plan| plan["segments"][2]["index"] = json!(7)), "has segments that do not"),
        (with(&|plan| plan["segments"][1]["end"] = json!(null)), "has segments that do not"),
        (
            with(&|plan| plan["detection"]["pieces"][0]["start"] = json!(5)),
            "has pieces that do not",
        ),
        (with(&|plan| plan["segments"][0]["entry"] = json!(4)), "has segments that do not"),
        ("[".repeat(100_000).into_bytes(), "is malformed"),
    ];
    for (number, (plan, words)) in (1..).zip(&cases) {
        let failed = trial.run(plan, well).await.err().expect(words);
        assert_eq!(failed.kind(), ErrorKind::Internal);
        assert!(failed.message().contains(words), "'{failed}' lacks '{words}'");
        // A bug is tried once more.
        assert_eq!(trial.refused(What::Plan), 2 * number);
    }
    // One whose report tells of another.
    let failed = trial.run(PLANS[0], |attempt| {
        fs::write(attempt.result(), attempt.plan).unwrap();
        let mut other = attempt.plan.to_vec();
        other[0] ^= 1;
        attempt.dir.report(&attempt.report(output(Task::Plan, &other, 1))).unwrap();
    });
    let failed = failed.await.err().unwrap();
    assert!(failed.message().contains("not the file that its report tells of"), "{failed}");
    trial.run(PLANS[1], well).await.unwrap();
}

#[tokio::test]
async fn counts_that_nobody_can_have_counted_end_nothing() {
    let trial = Trial::new();
    for plan in PLANS {
        let made = trial.run(plan, |attempt| attempt.publish(attempt.content(), u64::MAX)).await;
        assert_eq!(made.unwrap().frames.input, u64::MAX);
    }
}

#[tokio::test]
async fn an_error_that_a_node_tells_is_short_and_does_nothing_to_a_terminal() {
    let trial = Trial::new();
    let failed = trial.run(PLANS[0], |attempt| {
        let said = Error::corrupt(format!("\u{1b}[2J{}", "x".repeat(100_000)));
        let mut report = attempt.report(TaskOutput::Valid);
        report.outcome = Outcome::Failed { error: said, by_task: true };
        attempt.dir.report(&report).unwrap();
    });
    let failed = failed.await.err().unwrap();
    assert!(failed.message().contains("\\u{1b}[2Jxxx") && failed.message().len() < 5000);
}

#[tokio::test]
async fn what_is_no_beat_is_counted_once_and_nobody_waits_for_it() {
    let trial = Trial::new();
    let nodes = trial.store.root().join("nodes");
    let beat = Beat { counter: 1, ..Beat::default() };
    let good = serde_json::to_vec(&beat).unwrap();
    for (number, thing) in (1..).zip(THINGS) {
        let node = nodes.join(NodeId::from_bits(number).to_string());
        fs::create_dir(&node).unwrap();
        put(thing, &node.join("beat"), &good);
    }
    put(Thing::Link, &nodes.join(NodeId::from_bits(99).to_string()), &good);
    trial.run(PLANS[0], well).await.unwrap();
    trial.run(PLANS[0], well).await.unwrap();
    // The link in place of a node's directory is one of them.
    let counted = trial.refused(What::Beat);
    assert!((THINGS.len() as u64..=THINGS.len() as u64 + 1).contains(&counted), "{counted}");
    assert!(trial.engine.status().nodes().is_empty());
}

#[tokio::test]
async fn an_inbox_that_is_no_directory_ends_its_job_in_words_and_no_other() {
    let trial = Trial::new();
    for thing in [Thing::Link, Thing::Pipe] {
        let failed = trial.run(PLANS[0], |attempt| {
            let inbox = attempt.inbox();
            let inbox = inbox.parent().unwrap();
            if fs::remove_dir(inbox).is_ok() {
                put(thing, inbox, b"");
            }
        });
        let failed = failed.await.err().unwrap();
        assert!(failed.message().contains("/inbox'"), "{failed}");
    }
    trial.run(PLANS[0], well).await.unwrap();
}

#[tokio::test]
async fn what_has_been_accepted_and_is_another_file_now_is_not_handed_out() {
    let trial = Trial::new();
    let made = trial.run(PLANS[0], well).await.unwrap();
    let (job, size) = (trial.store.job(JobId::from_bits(1)), made.concat.file.size);
    job.open_made(&made.output, size).unwrap();
    for thing in THINGS {
        remove(&made.output);
        put(thing, &made.output, b"made");
        let error = job.open_made(&made.output, size).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{thing:?}: {error}");
    }
}

#[test]
fn what_is_no_pair_of_pictures_is_no_preview() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let job = store.job(JobId::from_bits(1));
    job.create(&super::job(job.id()), |_| Ok(())).unwrap();
    let latest = job.scratch("previews").join("latest");
    let picture = |length: u32, rest: &[u8]| {
        fs::write(&latest, [&length.to_le_bytes(), rest].concat()).unwrap();
    };
    let mut counted = 0;
    let mut is_refused = |what: &str| {
        counted += 1;
        assert!(job.read_preview(counted % 2 == 0).unwrap().is_none(), "{what}");
        assert_eq!(store.refused().count(What::Preview), counted, "{what}");
        assert!(job.read_preview(true).unwrap().is_none(), "{what}");
        assert_eq!(store.refused().count(What::Preview), counted, "{what} is counted again");
    };
    for thing in THINGS {
        put(thing, &latest, b"\x03\0\0\0\xff\xd8a\xff\xd8b");
        is_refused(&format!("{thing:?}"));
    }
    picture(9, b"\xff\xd8a\xff\xd8b");
    is_refused("longer than it is");
    picture(3, b"\xff\xd8a<script>");
    is_refused("no picture");
    picture(3, b"\xff\xd8a\xff\xd8b");
    assert_eq!(job.read_preview(true).unwrap().unwrap(), b"\xff\xd8b");
}
