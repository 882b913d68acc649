//! The real binary, run as a user runs it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

pub fn frameloom() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameloom"));
    command.stdin(Stdio::null()).env("FRAMELOOM_TEST_FAULTS", "1");
    command
}

/// A run's exit code and what it said on standard error.
pub fn said(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

/// Runs with these arguments; answers the exit code and standard error.
pub fn run(args: &[&str]) -> (i32, String) {
    said(&frameloom().args(args).output().unwrap())
}

/// Runs and expects success.
pub fn run_ok(args: &[&str]) {
    let (code, text) = run(args);
    assert_eq!(code, 0, "{args:?}: {text}");
}

/// A directory with a clip in it, and what a test puts beside that.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub source: String,
}

impl Place {
    /// With a clip of so many seconds.
    pub fn new(seconds: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = clip(dir.path(), "in.mp4", seconds);
        Self { dir, source }
    }

    /// The place of a file in it.
    pub fn at(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }
}

/// A clip of `seconds` with sound, made at `dir/name`; a keyframe each second.
pub fn clip(dir: &Path, name: &str, seconds: u32) -> String {
    let path = dir.join(name);
    let video = format!("testsrc2=s=320x180:r=25:d={seconds}");
    let sound = format!("sine=f=440:d={seconds}");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-nostdin", "-f", "lavfi", "-i", &video])
        .args(["-f", "lavfi", "-i", &sound, "-c:v", "libx264", "-preset", "ultrafast"])
        .args(["-pix_fmt", "yuv420p", "-g", "25", "-c:a", "aac", "-shortest"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    text(&path)
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The bytes of a run with segments of a second.
pub fn run_bytes(dir: &Path, source: &str, filter: &str) -> Vec<u8> {
    let out = text(&dir.join("by-run.mp4"));
    run_ok(&["run", source, "-o", &out, "--overwrite", "-f", filter, "--segment", "1"]);
    fs::read(out).unwrap()
}

/// `pts,md5` of every frame of a file's video.
pub fn frames(path: &str) -> Vec<String> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i", path, "-map", "0:v:0"])
        .args(["-vsync", "passthrough", "-f", "framemd5", "-"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{path}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            format!("{},{}", fields[2], fields[5])
        })
        .collect()
}

/// What a detections file tells, but for when its source was last written: a server's is a copy.
pub fn told(file: &[u8]) -> String {
    let text = String::from_utf8(file.to_vec()).unwrap();
    let Some((before, rest)) = text.split_once("\"modified_ns\":") else { return text };
    format!("{before}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// A run whose events are read while it goes on.
pub struct Watched {
    pub child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    pub seen: Vec<Value>,
}

impl Watched {
    pub fn start(args: &[&str]) -> Self {
        let mut child = frameloom()
            .args(args)
            .args(["--progress", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads events until one that `wanted` wants; `None` where the run ends before.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            self.seen.push(event.clone());
            if wanted(&event) {
                return Some(event);
            }
        }
        None
    }

    /// Waits for the end; answers the exit code and standard error.
    pub fn end(mut self) -> (i32, String, Vec<Value>) {
        self.until(|_| false);
        let output = self.child.wait_with_output().unwrap();
        let (code, text) = said(&output);
        (code, text, self.seen)
    }

    pub fn signal(&self, signal: &str) {
        kill(self.child.id(), signal);
    }
}

/// Sends a signal to a process that a test has started, or that such a one has started.
pub fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill {signal} {pid}");
}

/// Whether an event is a segment's `state`.
pub fn segment_is(event: &Value, state: &str) -> bool {
    event["event"] == "task" && event["task"] == "segment" && event["state"] == state
}

/// A clip among the real ones, where they are at hand.
pub fn real_clip(name: &str) -> PathBuf {
    let dir = std::env::var_os("FRAMELOOM_CLIPS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/clips"),
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(path.exists(), "{} is not there: run 'make clips'", path.display());
    path
}

/// A clip of so many frames, 25 a second, in which a portrait (NASA's, in the public domain) moves over a soft background;
/// a keyframe each 10 frames.
pub fn face(dir: &Path, name: &str, frames: usize) -> String {
    let path = dir.join(name);
    let portrait = Path::new(env!("CARGO_MANIFEST_DIR")).join("../media/tests/detect/face_256.rgb");
    let video = format!("testsrc2=s=640x360:r=25:d={}", frames as f64 / 25.0);
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-nostdin", "-f", "lavfi", "-i", &video])
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "256x256", "-i"])
        .arg(portrait)
        .args([
            "-filter_complex",
            "[0:v]boxblur=20[b];[b][1:v]overlay=x=40+80*t:y=50+10*t:eof_action=repeat",
        ])
        .args(["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-g", "10"])
        .args(["-sc_threshold", "0", "-pix_fmt", "yuv420p"])
        .args(["-frames:v", &frames.to_string()])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    text(&path)
}
