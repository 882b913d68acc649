//! Faces hidden by the real binary: what users give wrongly, models that fail, runs that are killed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use server::Server;
use support::{Watched, face, frameloom, run, run_ok, said, text};

/// A small model of the detectors' tests.
fn model(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../media/tests/detect");
    text(&dir.join(name))
}

#[test]
fn wrong_models_labels_and_detections_are_told_with_their_exit_codes_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    let source = face(dir.path(), "in.mp4", 12);
    let (out, found) = (at("out.mp4"), at("found.jsonl"));
    run_ok(&["run", &source, "-f", "faces", "--detections-only", "--detections", &found]);
    let lines = fs::read_to_string(&found).unwrap();
    let whole = fs::read(model("yolox.onnx")).unwrap();
    fs::write(at("empty.onnx"), "").unwrap();
    fs::write(at("cut.onnx"), &whole[..400]).unwrap();
    fs::write(at("text.onnx"), "no model at all\n".repeat(50)).unwrap();
    fs::File::create(at("huge.onnx")).unwrap().set_len(5 << 30).unwrap();
    fs::write(at("one.txt"), "cat\n").unwrap();
    let missing: Vec<&str> =
        lines.lines().filter(|line| !line.starts_with("{\"frame\":5,")).collect();
    fs::write(at("missing.jsonl"), missing.join("\n") + "\n").unwrap();
    let (start, sum) = lines.split_once("\"sha256\":\"").unwrap();
    fs::write(at("other.jsonl"), format!("{start}\"sha256\":\"00{}", &sum[2..])).unwrap();
    fs::create_dir(at("dir.onnx")).unwrap();
    let of = |model: &str| format!("faces:model={}", at(model));
    let labels = format!("objects:model={}:labels={}", model("yolox.onnx"), at("one.txt"));
    let classifier = format!("faces:model={}", model("classifier.onnx"));
    let nan = format!("faces:model={}", model("nan.onnx"));
    let regions = |file: &str| format!("regions:file={}:action=blur", at(file));
    let cases: &[(String, i32, &[&str])] = &[
        (of("none.onnx"), 3, &["none.onnx", "does not exist"]),
        (of("dir.onnx"), 2, &["dir.onnx", "is a directory"]),
        (of("empty.onnx"), 5, &["empty.onnx", "empty file"]),
        (of("cut.onnx"), 5, &["cut.onnx", "cut off"]),
        (of("text.onnx"), 5, &["text.onnx", "no ONNX file"]),
        (of("huge.onnx"), 2, &["huge.onnx", "of a filter has 5368709120 bytes", "1073741824"]),
        (classifier, 5, &["classifier.onnx", "1×10"]),
        (nan, 5, &["nan.onnx", "NaN"]),
        (labels, 2, &["yolox.onnx", "1 labels for the 2 classes"]),
        ("faces:every=0".into(), 2, &["'every=0'", "1 to 1000"]),
        ("objects:classes=persn".into(), 2, &["'persn'", "did you mean 'person'"]),
        ("faces:model=centreface".into(), 3, &["did you mean 'centerface'?"]),
        (regions("other.jsonl"), 2, &["other.jsonl", "another video", "trust=true"]),
        (regions("missing.jsonl"), 2, &["missing.jsonl", "pts 2560", "each frame needs a line"]),
    ];
    for (filter, code, words) in cases {
        let (got, said) = run(&["run", &source, "-o", &out, "-f", filter]);
        assert_eq!(got, *code, "{filter}: {said}");
        for word in *words {
            assert!(said.contains(word), "{filter}: '{word}' is not in: {said}");
        }
        assert!(!Path::new(&out).exists(), "{filter} left an output");
        assert!(!dir.path().join(".out.mp4.frameloom").exists(), "{filter} left its work");
    }
    run_ok(&["run", &source, "-o", &out, "-f", &(regions("other.jsonl") + ":trust=true")]);
}

#[test]
fn where_frames_are_missing_the_same_ones_are_looked_at_wherever_the_video_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    let source = face(dir.path(), "all.mp4", 60);
    let gone = "select='not(eq(mod(n,7),3)+eq(mod(n,7),4)+eq(mod(n,5),2))'";
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-i", &source, "-vf", gone, "-vsync", "vfr", "-g", "6", "-bf", "2"])
        .args(["-c:v", "libx264", "-qp", "10", &at("in.mp4")])
        .status();
    assert!(status.unwrap().success());
    let found = |name: &str, more: &[&str]| {
        let (source, found) = (at("in.mp4"), at(name));
        let run = ["run", &source, "-f", "faces:every=3:action=none:cascade=true"];
        run_ok(&[&run[..], &["--detections-only", "--detections", &found], more].concat());
        fs::read_to_string(found).unwrap()
    };
    let whole = found("whole.jsonl", &["--segment", "100"]);
    assert!(whole.contains("\"source\":\"detected\"") && whole.contains("interpolated"), "{whole}");
    for length in ["0.2", "0.5", "0.7"] {
        assert_eq!(found("cut.jsonl", &["--overwrite", "--segment", length]), whole, "{length} s");
    }
}

#[test]
fn without_onnx_runtime_it_is_said_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let source = face(dir.path(), "in.mp4", 3);
    let out = text(&dir.path().join("out.mp4"));
    for (library, words) in [("/nonexistent", "no file is"), ("/bin/sh", "something else")] {
        let output = frameloom()
            .env("FRAMELOOM_ONNXRUNTIME", library)
            .args(["run", &source, "-o", &out, "-f", "faces"])
            .output()
            .unwrap();
        let (code, said) = said(&output);
        assert_eq!(code, 6, "{said}");
        // Said once: what was set by hand is not tried again, and is not to be removed.
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(library) && said.contains(words), "{said}");
        assert!(
            said.contains("unset it and run 'make setup'") && !said.contains("remove"),
            "{said}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left");
    }
}

#[test]
fn frames_on_which_the_model_fails_are_hidden_whole_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    // Frames 10 to 14 of 25 are bright, and the model fails on these.
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i"])
        .arg("color=c=0x606060:s=64x64:r=25:d=1,drawbox=c=white:t=fill:enable='between(n,10,14)'")
        .args(["-c:v", "libx264", "-qp", "0", "-g", "5", "-pix_fmt", "yuv420p", &at("in.mp4")])
        .status();
    assert!(status.unwrap().success());
    let filter = format!("objects:model={}:action=fill", model("bright.onnx"));
    // By one slot, which may begin with either piece.
    let one = ["--slots", "1"];
    let plain = ["run", &at("in.mp4"), "-o", &at("out.mp4"), "-f", &filter];
    let (code, said) = run(&[&plain[..], &one].concat());
    assert_eq!(code, 5, "{said}");
    let met = (10..15).any(|frame| said.contains(&format!("frame at {}", frame * 512)));
    assert!(said.contains("NaN") && met, "{said}");
    assert!(!Path::new(&at("out.mp4")).exists());
    let (metrics, found) = (at("m.json"), at("found.jsonl"));
    let filter = filter + ":on_error=hide";
    run_ok(&[
        "run",
        &at("in.mp4"),
        "-o",
        &at("out.mp4"),
        "-f",
        &filter,
        "--lossless",
        "--segment",
        "0.2",
        "--metrics",
        &metrics,
        "--detections",
        &found,
    ]);
    let metrics: Value = serde_json::from_slice(&fs::read(metrics).unwrap()).unwrap();
    assert_eq!(metrics["detections"]["frames_hidden_whole"], 5, "{}", metrics["detections"]);
    assert_eq!(metrics["detections"]["frames_hidden"], 5);
    let args = ["-v", "error", "-i", &at("out.mp4"), "-f", "rawvideo", "-pix_fmt", "gray", "-"];
    let picture = Command::new("ffmpeg").args(args).output().unwrap().stdout;
    assert_eq!(picture.len(), 64 * 64 * 25);
    for (i, frame) in picture.chunks(64 * 64).enumerate() {
        let hidden = (10..15).contains(&i);
        let dark = frame.iter().all(|level| *level <= 16);
        assert_eq!(dark, hidden, "frame {i}: {}", frame[0]);
    }
    let told = fs::read_to_string(found).unwrap();
    let whole: Vec<usize> = (0..)
        .zip(told.lines().skip(1))
        .filter(|(_, l)| l.contains("\"class\":\"frame\""))
        .map(|(i, _)| i)
        .collect();
    assert_eq!(whole, [10, 11, 12, 13, 14]);
}

/// A run in three segments, its output and detections, and what must be the same however often it is killed.
struct Killed {
    dir: tempfile::TempDir,
    source: String,
    expected: (Vec<u8>, String),
}

impl Killed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = face(dir.path(), "in.mp4", 30);
        let mut this = Self { dir, source, expected: Default::default() };
        let args = this.args("undisturbed");
        run_ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
        this.expected = this.made("undisturbed");
        assert!(this.expected.1.contains("\"class\":\"face\""));
        this
    }

    fn at(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }

    fn args(&self, name: &str) -> Vec<String> {
        let (out, found) = (self.at(&format!("{name}.mp4")), self.at(&format!("{name}.jsonl")));
        let fixed = [
            "-f",
            "faces:size=320x192",
            "-f",
            "test-fault:kind=slow",
            "--segment",
            "0.4",
            "--slots",
            "2",
        ];
        let args = ["run", &self.source, "-o", &out, "--detections", &found];
        args.into_iter().chain(fixed).map(str::to_owned).collect()
    }

    fn made(&self, name: &str) -> (Vec<u8>, String) {
        let video = fs::read(self.at(&format!("{name}.mp4"))).unwrap();
        (video, fs::read_to_string(self.at(&format!("{name}.jsonl"))).unwrap())
    }

    fn is_right(&self, name: &str) {
        let made = self.made(name);
        assert!(made.0 == self.expected.0, "{name}: the output differs");
        assert_eq!(made.1, self.expected.1, "{name}: other detections");
        assert!(!self.dir.path().join(format!(".{name}.mp4.frameloom")).exists(), "{name}");
        assert!(!self.dir.path().join(format!(".{name}.jsonl.frameloom-copy")).exists(), "{name}");
    }
}

/// The tasks of these events that are in this state, with their segments.
fn tasks(events: &[Value], state: &str) -> BTreeSet<String> {
    let events = events.iter().filter(|e| e["event"] == "task" && e["state"] == state);
    events.map(|e| format!("{} {}", e["task"].as_str().unwrap(), e["segment"])).collect()
}

#[test]
fn a_run_with_faces_that_dies_at_any_step_goes_on_and_does_nothing_twice() {
    let killed = Killed::new();
    let mut seen = BTreeSet::new();
    let mut steps: Vec<String> =
        ["before intent", "before publish", "after publish"].map(str::to_owned).into();
    // Plan, three segments looked at, tracks, three segments made, the join.
    steps.extend(
        (1..=9)
            .map(|nth| format!("{} accept:{nth}", if nth % 2 == 0 { "before" } else { "after" })),
    );
    for (i, step) in steps.iter().enumerate() {
        let name = format!("step-{i}");
        let args = killed.args(&name);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (code, said, first) = Watched::start(&[&args[..], &["--fault", step]].concat()).end();
        let late = [":7", ":8", ":9"].iter().any(|nth| step.ends_with(nth));
        if code == 0 && late {
            // Results that come together are one step, so that there may be fewer.
            killed.is_right(&name);
            continue;
        }
        assert_ne!(code, 0, "{step} did not come: {said}");
        let done = tasks(&first, "accepted");
        let (code, said, second) = Watched::start(&args).end();
        assert_eq!(code, 0, "{step}: {said}");
        let again: Vec<_> = done.intersection(&tasks(&second, "started")).cloned().collect();
        assert!(again.is_empty(), "{step}: done twice: {again:?}");
        seen.extend(done);
        killed.is_right(&name);
    }
    let phases: BTreeSet<&str> = seen.iter().map(|task| task.split(' ').next().unwrap()).collect();
    assert_eq!(phases, BTreeSet::from(["concat", "detect", "plan", "segment", "track"]));
}

#[test]
fn a_run_with_faces_killed_at_any_moment_gives_the_same_bytes_and_boxes() {
    let killed = Killed::new();
    let args = killed.args("out");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut phases = BTreeSet::new();
    for round in 0..24 {
        let mut run = Watched::start(&args);
        let mut ended = false;
        // A moment further on each time: after so many events of any kind.
        for _ in 0..=round * 2 {
            ended = run.until(|_| true).is_none();
            if ended {
                break;
            }
        }
        if ended {
            let (code, said, _) = run.end();
            assert_eq!(code, 0, "{said}");
            break;
        }
        let stage = run.seen.iter().rev().find_map(|e| e["stage"].as_str());
        phases.extend(stage.map(str::to_owned));
        run.signal("-KILL");
        run.end();
        if Path::new(&killed.at("out.mp4")).exists() {
            // It came too late: the output was there, whole, and at most the work was not yet cleared away.
            assert!(fs::read(killed.at("out.mp4")).unwrap() == killed.expected.0, "half an output");
            break;
        }
    }
    let left = Path::new(&killed.at(".out.mp4.frameloom")).exists();
    if left || !Path::new(&killed.at("out.mp4")).exists() {
        run_ok(&args);
    }
    assert!(phases.len() >= 2, "killed in {phases:?} only");
    killed.is_right("out");
}

#[test]
fn a_detector_is_loaded_once_a_slot_and_stays_for_the_next_job() {
    let dir = tempfile::tempdir().unwrap();
    let source = face(dir.path(), "in.mp4", 30);
    let log = dir.path().join("log");
    let mut command = Command::new("sh");
    command.env("FRAMELOOM_LOG", "debug").env("LOG", &log);
    command.args(["-c", "exec \"$0\" \"$@\" 2> \"$LOG\"", env!("CARGO_BIN_EXE_frameloom")]);
    let server = Server::start_by(command, &dir.path().join("data"), &["--slots", "1"]);
    let jobs = [
        ("faces:action=fill", 1),
        ("faces:action=boxes:margin=5", 1),
        ("faces:model=blazeface", 2),
    ];
    for (i, (filter, wanted)) in jobs.into_iter().enumerate() {
        let out = text(&dir.path().join(format!("{i}.mp4")));
        let args = ["submit", &source, "-o", &out, "-f", filter, "--segment", "0.4"];
        run_ok(&[&args[..], &["--server", server.url()]].concat());
        let said = fs::read_to_string(&log).unwrap();
        let loaded = said.lines().filter(|line| line.contains("a detector is loaded")).count();
        assert_eq!(loaded, wanted, "{filter}");
    }
    assert_eq!(server.terminate(), Some(143));
}
