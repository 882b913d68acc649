//! `frameloom verify`: what is still seen in an output is listed and counted, what only hides is told apart.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{face, frameloom, run_ok, said, text};

/// Frames of the clip with a face.
const FRAMES: usize = 30;

struct Place {
    dir: tempfile::TempDir,
    source: String,
}

impl Place {
    /// A clip with a face in each frame, and what is found there.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = face(dir.path(), "in.mp4", FRAMES);
        let place = Self { dir, source };
        let (out, found) = (place.at("filled.mp4"), place.at("found.jsonl"));
        // So wide that no black face is left between hair and collar.
        let filter = "faces:action=fill:shape=box:margin=40";
        run_ok(&["run", &place.source, "-o", &out, "-f", filter, "--detections", &found]);
        place
    }

    fn at(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }

    /// The detections file without the boxes of these frames, written as `name`.
    fn without(&self, frames: &[usize], name: &str) -> String {
        let found = fs::read_to_string(self.at("found.jsonl")).unwrap();
        let mut edited = String::new();
        for (i, line) in found.lines().enumerate() {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if i > 0 && frames.contains(&(i - 1)) {
                line["boxes"] = Value::Array(Vec::new());
            }
            edited += &format!("{line}\n");
        }
        fs::write(self.at(name), edited).unwrap();
        self.at(name)
    }

    /// Verifies `out`; answers the exit code, what was printed as JSON, and what was said.
    fn verify(&self, out: &str, more: &[&str]) -> (i32, Value, String) {
        let (out, found) = (self.at(out), self.at("found.jsonl"));
        let mut args =
            vec!["verify", &out, "--against", &self.source, "--json", "--detections", &found];
        args.extend(more);
        let output = frameloom().args(args).output().unwrap();
        let (code, said) = said(&output);
        (code, serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
    }
}

fn frames_of(report: &Value) -> Vec<u64> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["frame"].as_u64().unwrap()).collect()
}

/// How many of the cells of a sheet show something: not the grey or the black of an empty one.
fn cells(path: &str) -> (usize, usize) {
    let probe = |entry: &str| -> usize {
        let output = Command::new("ffprobe")
            .args(["-v", "error", "-show_entries", &format!("stream={entry}"), "-of", "csv=p=0"])
            .arg(path)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    let (width, height) = (probe("width"), probe("height"));
    let args = ["-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray", "-"];
    let picture = Command::new("ffmpeg").args(args).output().unwrap().stdout;
    assert_eq!(picture.len(), width * height);
    let (columns, rows) = (width / 160, height / 184);
    let shows = |cell: &usize| {
        let (x, y) = (cell % columns * 160 + 40, cell / columns * 184 + 64);
        let part = (y..y + 80).flat_map(|y| &picture[y * width + x..y * width + x + 80]);
        let (least, most) = part.fold((255, 0), |(l, m), v| (l.min(*v), m.max(*v)));
        most - least > 60
    };
    (columns * rows, (0..columns * rows).filter(shows).count())
}

#[test]
fn faces_that_are_all_hidden_leave_nothing_to_list() {
    let place = Place::new();
    let (code, report, said) = place.verify("filled.mp4", &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(report["frames"], FRAMES);
    assert_eq!(report["findings"].as_array().unwrap().len(), 0, "{report}");
    assert_eq!(report["rate"], 0.0);
    assert_eq!(report["detector"], "centerface");
}

#[test]
fn five_frames_that_were_missed_are_listed_and_shown() {
    let place = Place::new();
    let missed = [3, 4, 11, 20, 29];
    let edited = place.without(&missed, "edited.jsonl");
    let filter = format!("regions:file={edited}:action=fill:shape=box:margin=40");
    let out = place.at("missed.mp4");
    let told = place.at("told.jsonl");
    run_ok(&["run", &place.source, "-o", &out, "-f", &filter, "--detections", &told]);
    let wanted: Vec<u64> = missed.iter().map(|frame| *frame as u64).collect();
    for name in ["sheet.jpg", "sheet.png"] {
        let sheet = place.at(name);
        let (code, report, said) = place.verify("missed.mp4", &["--sheet", &sheet]);
        assert_eq!(code, 1, "{said}");
        assert_eq!(frames_of(&report), wanted);
        assert_eq!(report["frames_leaking"], 5);
        assert_eq!(report["shown"], 5);
        assert_eq!(cells(&sheet), (5, 5), "{name}");
        for finding in report["findings"].as_array().unwrap() {
            assert_eq!(finding["verdict"], "leak");
            // The file that was given tells of a box there, and yet the face is as it was.
            assert!(finding["covered"].as_f64().unwrap() > 0.8, "{finding}");
            assert!(finding["kept"].as_f64().unwrap() > 0.8, "{finding}");
            assert!(finding["source_score"].as_f64().unwrap() > 0.4, "{finding}");
        }
    }
    // By what was hidden, as the run tells of it, the same faces lie beside all boxes.
    let args = ["--detections", &told, "--max-rate", "0.16"];
    let out = place.at("missed.mp4");
    let mut all = vec!["verify", out.as_str(), "--against", &place.source];
    all.extend(args);
    let output = frameloom().args(&all).output().unwrap();
    let (code, words) = said(&output);
    assert_eq!(code, 1, "{words}");
    let listed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(listed.lines().filter(|line| line.starts_with("leak: frame ")).count(), 5);
    assert!(listed.contains("frame 11 at 0.440 s"), "{listed}");
    assert!(listed.contains("0% covered by boxes"), "{listed}");
    let (code, report, said) = place.verify("missed.mp4", &["--max-rate", "0.17"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(report["frames_leaking"], 5);
}

#[test]
fn a_detector_that_fires_on_what_hides_is_told_apart() {
    let place = Place::new();
    for action in ["pixelate", "blur"] {
        let out = place.at(&format!("{action}.mp4"));
        run_ok(&[
            "run",
            &place.source,
            "-o",
            &out,
            "-f",
            &format!("faces:action={action}:margin=20"),
        ]);
        let (_, report, said) = place.verify(&format!("{action}.mp4"), &["--threshold", "0.05"]);
        let findings = report["findings"].as_array().unwrap();
        let on_it: Vec<_> =
            findings.iter().filter(|f| f["covered"].as_f64().unwrap() > 0.6).collect();
        assert!(on_it.len() > 3, "{action}: {said}{report}");
        for finding in on_it {
            assert_eq!(finding["verdict"], "blot", "{action}: {finding}");
        }
    }
    // Encoded worse, nothing hidden: all of it leaks.
    let out = place.at("open.mp4");
    run_ok(&["run", &place.source, "-o", &out, "--crf", "36"]);
    let (code, report, said) = place.verify("open.mp4", &[]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(report["blots"], 0, "{report}");
    assert!(report["rate"].as_f64().unwrap() > 0.9);
}

#[test]
fn a_face_in_a_picture_that_was_mirrored_or_inverted_is_a_leak() {
    let place = Place::new();
    for (name, change) in [("mirrored.mp4", "ffmpeg:hflip"), ("inverted.mp4", "invert")] {
        // In the middle, so that the mirrored face lies in the box of what was hidden.
        let args = ["run", &place.source, "-o", &place.at(name), "-f", change];
        run_ok(&args);
        let mut wide = fs::read_to_string(place.at("found.jsonl")).unwrap();
        for (frame, line) in wide.clone().lines().enumerate().skip(1) {
            let mut all: Value = serde_json::from_str(line).unwrap();
            all["boxes"] = serde_json::json!([{"x": 0, "y": 0, "w": 640, "h": 360}]);
            wide = wide.replacen(line, &all.to_string(), 1);
            assert!(frame <= FRAMES);
        }
        fs::write(place.at("wide.jsonl"), wide).unwrap();
        let (out, told) = (place.at(name), place.at("wide.jsonl"));
        let args = [
            "verify",
            &out,
            "--against",
            &place.source,
            "--detections",
            &told,
            "--threshold",
            "0.2",
        ];
        let (code, said) = support::run(&args);
        assert_eq!(code, 1, "{name}: {said}");
    }
}

/// Output, source, detections, further arguments; exit code, what is said.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [&'a str], i32, &'a str);

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let place = Place::new();
    let other = face(place.dir.path(), "other.mp4", FRAMES + 5);
    let (found, out) = (place.at("found.jsonl"), place.at("filled.mp4"));
    let sound = place.at("no.avi");
    let small = place.at("small.mp4");
    let scaled = ["-v", "error", "-i", &out, "-vf", "scale=320:180", &small];
    assert!(Command::new("ffmpeg").args(scaled).status().unwrap().success());
    fs::write(&sound, "no video").unwrap();
    let lines = fs::read_to_string(&found).unwrap();
    let (bare, cut, bad) = (place.at("bare.jsonl"), place.at("cut.jsonl"), place.at("bad.jsonl"));
    fs::write(&bare, lines.split_once('\n').unwrap().1).unwrap();
    let last = lines.trim_end().rfind('\n').unwrap();
    fs::write(&cut, &lines[..=last]).unwrap();
    fs::write(&bad, lines.replacen("\"frame\":7,\"pts\":", "\"frame\":7,\"pts\":x", 1)).unwrap();
    let source = place.source.as_str();
    let found_png = place.at("found.png");
    std::os::unix::fs::symlink(&found, &found_png).unwrap();
    let cases: &[Case<'_>] = &[
        (&other, source, &found, &[], 2, "has 35 frames"),
        (&out, &other, &found, &[], 2, "another video"),
        (&out, source, &cut, &[], 2, "tells of 29"),
        (&out, source, &bare, &[], 2, "not the header"),
        (&out, source, &bad, &[], 2, "line 9"),
        (&small, source, &found, &[], 2, "320x180"),
        (&place.at("none.mp4"), source, &found, &[], 3, "none.mp4"),
        (&out, source, &place.at("none.jsonl"), &[], 3, "none.jsonl"),
        (&sound, source, &found, &[], 5, "no.avi"),
        (&out, source, &found, &["--objects", "persn"], 2, "person"),
        (&out, source, &found, &["--model", "none.onnx"], 3, "none.onnx"),
        (&out, source, &found, &["--sheet", &found_png], 2, "which is looked at"),
        (&out, source, &found, &["--sheet", "x.gif"], 2, "x.gif"),
        (&out, source, &found, &["--sheet", "no/where/x.png"], 3, "no/where"),
        (&out, source, &found, &["--max-rate", "2"], 2, "'2'"),
        (&out, source, &found, &["--threshold", "0"], 2, "'0'"),
    ];
    for (out, against, found, more, code, words) in cases {
        let mut args = vec!["verify", out, "--against", against, "--detections", found];
        args.extend(*more);
        let (got, said) = support::run(&args);
        assert_eq!(got, *code, "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
    // All the same, where the user says so.
    for (out, found) in [(&small, &found), (&out, &bare), (&out, &cut)] {
        let args = ["verify", out, "--against", source, "--detections", found, "--trust", "--json"];
        let output = frameloom().args(args).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["frames"], FRAMES, "{args:?}: {}", said(&output).1);
    }
    assert!(!Path::new("x.gif").exists());
}
