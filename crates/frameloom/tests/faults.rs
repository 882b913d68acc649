//! What dies, hangs or eats memory costs an attempt and nothing else; a run that is killed goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Place, Watched, clip, kill, run, run_ok, said, segment_is};

impl Place {
    /// What a run that nobody disturbs makes.
    fn undisturbed(&self, filters: &[&str]) -> Vec<u8> {
        let out = self.at("undisturbed.mp4");
        let mut args = vec!["run", &self.source, "-o", &out, "--segment", "1"];
        args.extend(filters);
        run_ok(&args);
        fs::read(&out).unwrap()
    }
}

/// Slow enough that a test can act in the middle, on every machine.
const SLOW: [&str; 2] = ["-f", "test-fault:kind=slow"];

#[test]
fn a_killed_slot_costs_an_attempt_and_changes_no_byte() {
    let place = Place::new(6);
    let expected = place.undisturbed(&SLOW);
    let (out, metrics) = (place.at("out.mp4"), place.at("m.json"));
    let mut args = vec!["run", &place.source, "-o", &out, "--segment", "1", "--metrics", &metrics];
    args.extend(SLOW);
    let mut run = Watched::start(&args);
    let started = run.until(|event| segment_is(event, "started")).unwrap();
    kill(started["slot_pid"].as_u64().unwrap().try_into().unwrap(), "-KILL");
    let failed = run.until(|event| segment_is(event, "failed")).unwrap();
    assert_eq!(failed["attempt"], started["attempt"]);
    let words = failed["error"]["message"].as_str().unwrap();
    assert!(words.contains("signal 9"), "{words}");
    let (code, said, _) = run.end();
    assert_eq!(code, 0, "{said}");
    assert!(fs::read(&out).unwrap() == expected, "the output differs");
    let metrics: Value = serde_json::from_slice(&fs::read(&metrics).unwrap()).unwrap();
    assert_eq!(metrics["tasks"]["retried"], 1);
    assert_eq!(metrics["frames"]["retried"], 25);
    assert_eq!(metrics["tasks"]["failed_attempts"].as_array().unwrap().len(), 1);
}

#[test]
fn a_task_that_kills_its_slot_three_times_fails_with_every_reason() {
    let place = Place::new(3);
    let out = place.at("out.mp4");
    let (code, said) = run(&[
        "run",
        &place.source,
        "-o",
        &out,
        "--segment",
        "1",
        "-f",
        "test-fault:kind=crash:at=20000",
    ]);
    assert_eq!(code, 6, "{said}");
    for attempt in ["attempt 1", "attempt 2", "attempt 3"] {
        assert!(said.contains(attempt), "{said}");
    }
    assert!(said.contains("signal 6"), "{said}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_slot_that_hangs_is_stopped() {
    let place = Place::new(1);
    let out = place.at("out.mp4");
    let (code, said) = run(&[
        "run",
        &place.source,
        "-o",
        &out,
        "--slot-timeout",
        "1",
        "-f",
        "test-fault:kind=hang",
    ]);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("silent for 1 s"), "{said}");
}

#[test]
fn a_slot_that_eats_memory_is_stopped() {
    let place = Place::new(1);
    let out = place.at("out.mp4");
    let (code, said) = run(&[
        "run",
        &place.source,
        "-o",
        &out,
        "--slot-memory",
        "256",
        "-f",
        "test-fault:kind=eat",
    ]);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("256 MiB") && said.contains("--slot-memory"), "{said}");
}

#[test]
fn a_run_killed_at_any_moment_goes_on_and_gives_the_same_bytes() {
    let place = Place::new(8);
    let expected = place.undisturbed(&SLOW);
    let out = place.at("out.mp4");
    let mut args = vec!["run", &place.source, "-o", &out, "--segment", "1"];
    args.extend(SLOW);
    let mut resumed = 0;
    for round in 0..20 {
        let mut run = Watched::start(&args);
        // A moment further on each time: after so many events of any kind.
        let mut left = round * 2 + 1;
        let mut done = false;
        while left > 0 && !done {
            done = run.until(|_| true).is_none();
            left -= 1;
        }
        if done {
            let (code, said, _) = run.end();
            assert_eq!(code, 0, "{said}");
            break;
        }
        let found = run.seen.iter().find(|event| event["event"] == "planned");
        resumed = resumed.max(found.map_or(0, |event| event["resumed"].as_u64().unwrap()));
        run.signal("-KILL");
        run.end();
        assert!(!Path::new(&out).exists(), "half an output");
    }
    if !Path::new(&out).exists() {
        run_ok(&args);
    }
    assert!(resumed > 0, "no round went on with what another had done");
    assert!(fs::read(&out).unwrap() == expected, "the output differs");
    assert!(!place.dir.path().join(".out.mp4.frameloom").exists());
}

#[test]
fn a_crash_at_each_publishing_step_is_mended_by_the_same_command() {
    let place = Place::new(2);
    let expected = place.undisturbed(&[]);
    for step in
        ["before accept", "after accept", "before intent", "before publish", "after publish"]
    {
        let out = place.at(&format!("{}.mp4", step.replace(' ', "-")));
        let args = ["run", &place.source, "-o", &out, "--segment", "1"];
        let (code, said) = run(&[&args[..], &["--fault", step]].concat());
        assert_eq!(code, -1, "{step}: {said}");
        let there = step == "after publish";
        assert_eq!(Path::new(&out).exists(), there, "{step}");
        run_ok(&args);
        assert!(fs::read(&out).unwrap() == expected, "{step}: the output differs");
        let work = place.dir.path().join(format!(".{}.mp4.frameloom", step.replace(' ', "-")));
        assert!(!work.exists(), "{step}: the work directory is left");
    }
}

#[test]
fn ctrl_c_and_sigterm_stop_everything_and_the_same_command_goes_on() {
    let place = Place::new(6);
    let expected = place.undisturbed(&SLOW);
    let out = place.at("out.mp4");
    let mut args = vec!["run", &place.source, "-o", &out, "--segment", "1"];
    args.extend(SLOW);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut run = Watched::start(&args);
        let started = run.until(|event| segment_is(event, "started")).unwrap();
        run.until(|event| segment_is(event, "accepted")).unwrap();
        run.signal(signal);
        let (got, said, _) = run.end();
        assert_eq!(got, code, "{said}");
        assert!(said.contains("the same command goes on"), "{said}");
        let pid = started["slot_pid"].as_u64().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "slot {pid} is left");
        assert!(!Path::new(&out).exists());
    }
    run_ok(&args);
    assert!(fs::read(&out).unwrap() == expected, "the output differs");
}

#[test]
fn slots_end_with_a_killed_run() {
    let place = Place::new(6);
    let out = place.at("out.mp4");
    let mut args = vec!["run", &place.source, "-o", &out, "--segment", "1"];
    args.extend(SLOW);
    let mut run = Watched::start(&args);
    let started = run.until(|event| segment_is(event, "started")).unwrap();
    let pid = started["slot_pid"].as_u64().unwrap();
    run.signal("-KILL");
    run.end();
    // The slot's watcher hears of it at once; the kernel may need a moment to be done with it.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if status.is_empty() || status.contains(") Z ") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "slot {pid} is left: {status}");
        std::thread::yield_now();
    }
}

#[test]
fn a_second_run_of_the_same_output_is_told_at_once() {
    let place = Place::new(6);
    let out = place.at("out.mp4");
    let mut args = vec!["run", &place.source, "-o", &out, "--segment", "1"];
    args.extend(SLOW);
    let mut first = Watched::start(&args);
    first.until(|event| segment_is(event, "started")).unwrap();
    let (code, said) = run(&args);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("another run is at work"), "{said}");
    let (code, said, _) = first.end();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_run_whose_work_directory_is_removed_ends_in_words() {
    let place = Place::new(8);
    let (out, work) = (place.at("out.mp4"), place.at(".out.mp4.frameloom"));
    let mut args = vec!["run", &place.source, "-o", &out, "--segment", "1"];
    args.extend(SLOW);
    let mut run = Watched::start(&args);
    run.until(|event| segment_is(event, "started")).unwrap();
    // What is being written may keep a directory from being removed at once.
    while Path::new(&work).exists() && fs::remove_dir_all(&work).is_err() {}
    let begun = std::time::Instant::now();
    let (code, said, _) = run.end();
    assert_eq!(code, 3, "{said}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(said.contains("was removed while the run was at work"), "{said}");
    assert!(said.lines().count() < 10, "{said}");
    assert!(!Path::new(&out).exists() && !Path::new(&work).exists());
    run_ok(&args);
}

#[test]
fn a_changed_source_or_pipeline_starts_over() {
    let place = Place::new(4);
    let out = place.at("out.mp4");
    let base = ["run", &place.source, "-o", &out, "--segment", "1"];
    let stop = |args: &[&str]| {
        let mut run = Watched::start(args);
        run.until(|event| segment_is(event, "accepted")).unwrap();
        run.signal("-KILL");
        run.end();
    };
    stop(&[&base[..], &SLOW].concat());
    let other = [&base[..], &["-f", "test-fault:kind=slow:at=1"]].concat();
    let mut run = Watched::start(&other);
    let said = run.until(|event| event["event"] == "message").unwrap();
    assert!(
        said["text"].as_str().unwrap().contains("starting over: filters or settings"),
        "{said}"
    );
    run.until(|event| segment_is(event, "accepted")).unwrap();
    run.signal("-KILL");
    run.end();
    clip(place.dir.path(), "in.mp4", 5);
    let mut run = Watched::start(&other);
    let said = run.until(|event| event["event"] == "message").unwrap();
    assert!(said["text"].as_str().unwrap().contains("source has changed"), "{said}");
    let (code, said, _) = run.end();
    assert_eq!(code, 0, "{said}");
    assert_eq!(support::frames(&out).len(), 125);
}

#[test]
fn a_slot_can_open_nothing_but_what_it_is_given() {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    };
    let known = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V4))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V4)))
        .and_then(Ruleset::create);
    let place = Place::new(1);
    let out = place.at("out.mp4");
    // With a descriptor that whoever started the node has left open.
    let left_open =
        "exec 200</etc/passwd; exec \"$0\" run \"$1\" -o \"$2\" -f test-fault:kind=peek";
    let mut shell = Command::new("bash");
    shell.args(["-c", left_open, env!("CARGO_BIN_EXE_frameloom"), &place.source, &out]);
    let (code, said) = said(&shell.env("FRAMELOOM_TEST_FAULTS", "1").output().unwrap());
    if known.is_ok() {
        assert_eq!(code, 0, "{said}");
    } else {
        assert!(said.contains("a slot could"), "{said}");
    }
    // Fonts are found, all the same.
    let text = "ffmpeg:drawtext=text=hi:fontsize=20";
    run_ok(&["run", &place.source, "-o", &out, "--overwrite", "-f", text]);
}
