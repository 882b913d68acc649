//! Mutated files, results of other nodes and filter texts, in process: whatever comes, an error or a result, no crash.
//!
//! `make fuzz` runs each for an hour; see the crate `frameloom-fuzz`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use frameloom_core::fingerprint::hex;
use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::Plan;
use frameloom_core::slot::{AcceptedSegment, ConcatTask, SegmentTask, TrackTask};
use frameloom_fuzz::Target;
use frameloom_media::{Files, Given, SegmentRunner, catalogue, concat, track};
use sha2::{Digest, Sha256};
use support::{ffmpeg, lossless, run};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");

/// A clip of two seconds.
fn made(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=2", "-pix_fmt", "yuv420p"];
    ffmpeg(&[&source[..], args, &[path.to_str().unwrap()]].concat());
    path
}

/// What came of something, in words.
fn said<T>(done: frameloom_core::Result<T>) -> String {
    match done {
        Ok(_) => "done".into(),
        Err(error) => {
            assert!(!error.message().is_empty());
            error.message().to_owned()
        }
    }
}

#[test]
fn fuzz_media() {
    let dir = tempfile::tempdir().unwrap();
    let clips: [(&str, &[&str]); 5] = [
        ("a.mp4", &["-c:v", "libx264", "-g", "5"]),
        ("b.mkv", &["-c:v", "libx264", "-g", "5", "-x264-params", "open-gop=1"]),
        ("c.ts", &["-c:v", "mpeg2video", "-g", "5"]),
        ("d.avi", &["-c:v", "mpeg4", "-g", "5", "-bf", "2"]),
        ("e.webm", &["-c:v", "libvpx", "-g", "5", "-deadline", "realtime"]),
    ];
    let mut target = Target::new("media", CORPUS, 150);
    (target.longest, target.time, target.memory) = (1 << 20, Duration::from_secs(20), 1 << 30);
    target.words = &["moov", "mdat", "stts", "ctts", "stss", "trak", "RIFF", "idx1", "\u{1a}E"];
    for (name, args) in clips {
        target.seeds.push(fs::read(made(dir.path(), name, args)).unwrap());
    }
    let (done, refused) = (Cell::new(0), Cell::new(0));
    // No name tells what it is: it is probed.
    let path = dir.path().join("mutated");
    let spec = lossless(&["denoise", "blur"], Some(500_000));
    target.fuzz(|input| {
        fs::write(&path, input).unwrap();
        let made = run(&path, &spec, dir.path(), 2);
        let count = if made.is_ok() { &done } else { &refused };
        count.set(count.get() + 1);
        said(made)
    });
    // Both happen, or the mutations are too weak or too strong to find anything.
    assert!(done.get() > 0 && refused.get() > 0, "{done:?} done, {refused:?} refused");
}

/// A job that was done, whose files can be read again.
struct Done {
    dir: tempfile::TempDir,
    source: PathBuf,
    plan: Plan,
}

impl Done {
    fn new(filters: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = made(dir.path(), "in.mp4", &["-c:v", "libx264", "-g", "5"]);
        let spec = lossless(filters, Some(500_000));
        let plan = run(&source, &spec, dir.path(), 1).unwrap().plan;
        Self { dir, source, plan }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    /// Tasks of one kind as accepted: each tells the hash of what it has made, the truth or not.
    fn accepted(&self, count: usize, kind: &str) -> Vec<AcceptedSegment> {
        let one = |k: usize| AcceptedSegment {
            attempt: AttemptId::from_bits(k as u128),
            slot: "hostile/0".into(),
            sha256: hex(&Sha256::digest(self.read(&format!("{k}.{kind}")))),
        };
        (0..count).map(one).collect()
    }

    fn tracks(&self) -> Option<File> {
        File::open(self.at("tracks")).ok()
    }

    fn join(&self) -> String {
        let tracks = self.at("tracks").exists().then(|| hex(&Sha256::digest(self.read("tracks"))));
        let detections = self.plan.writes_detections();
        let task = ConcatTask {
            job: JobId::from_bits(1),
            attempt: AttemptId::from_bits(9),
            accepted: self.accepted(self.plan.segments.len(), "seg"),
            tracks,
            frame_metrics: true,
            detections,
        };
        let create = |name: &str| {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true);
            options.open(self.at(name)).unwrap()
        };
        let made = frameloom_media::Made {
            out: create("joined.mp4"),
            frame_metrics: Some(create("frames.jsonl")),
            detections: detections.then(|| create("found.jsonl")),
        };
        let mut need = |k: u32| Ok(File::open(self.at(&format!("{k}.seg"))).unwrap());
        let source = File::open(&self.source).unwrap();
        said(concat(&source, &self.plan, &task, self.tracks(), made, &mut need, &mut |_| {}))
    }
}

#[test]
fn fuzz_segment_file() {
    let done = Done::new(&["invert"]);
    let mut target = Target::new("segment-file", CORPUS, 400);
    (target.longest, target.time) = (1 << 20, Duration::from_secs(3));
    target.words = &["FLSEGMT1", "segment", "time_base", "parameters", "steps", "input", "output"];
    target.seeds = (0..done.plan.segments.len()).map(|k| done.read(&format!("{k}.seg"))).collect();
    let first = done.read("0.seg");
    assert_eq!(done.join(), "done");
    target.fuzz(|input| {
        fs::write(done.at("0.seg"), input).unwrap();
        done.join()
    });
    fs::write(done.at("0.seg"), first).unwrap();
    assert_eq!(done.join(), "done");
}

#[test]
fn fuzz_found_and_tracks() {
    let done = Done::new(&["faces:action=blur"]);
    let pieces = done.plan.detection.as_ref().unwrap().pieces.len();
    let follow = || {
        let task = TrackTask {
            job: JobId::from_bits(1),
            attempt: AttemptId::from_bits(9),
            accepted: done.accepted(pieces, "looks"),
        };
        let mut need = |k: u32| Ok(File::open(done.at(&format!("{k}.looks"))).unwrap());
        let out = File::create(done.at("followed")).unwrap();
        said(track(&done.plan, &task, out, &mut need, &mut |_| {}))
    };
    let render = || {
        let task = SegmentTask {
            frame_bytes: 0,
            previews: false,
            job: JobId::from_bits(1),
            attempt: AttemptId::from_bits(9),
            segment: 0,
            decode_threads: 1,
            files: Vec::new(),
            tracks: true,
            reveals: false,
        };
        let given = Given { files: Files::default(), tracks: done.tracks() };
        let (source, out) = (File::open(&done.source).unwrap(), done.at("rendered"));
        let mut runner = SegmentRunner::new(None);
        let out = File::create(out).unwrap();
        said(runner.run(&source, &done.plan, &task, given, out, &mut |_| {}))
    };
    let (looks, tracks) = (done.read("0.looks"), done.read("tracks"));
    assert_eq!((follow(), render(), done.join()), ("done".into(), "done".into(), "done".into()));
    let words =
        ["pts", "found", "track", "class", "score", "box", "counts", "frames", "size", "[0,0,1,1]"];
    let mut target = Target::new("found-file", CORPUS, 400);
    (target.words, target.time) = (&words, Duration::from_secs(3));
    target.seeds = (0..pieces).map(|k| done.read(&format!("{k}.looks"))).collect();
    target.fuzz(|input| {
        fs::write(done.at("0.looks"), input).unwrap();
        follow()
    });
    fs::write(done.at("0.looks"), looks).unwrap();
    let mut target = Target::new("tracks-file", CORPUS, 60);
    (target.words, target.time, target.memory) = (&words, Duration::from_secs(5), 1 << 30);
    target.seeds = vec![tracks.clone()];
    target.fuzz(|input| {
        fs::write(done.at("tracks"), input).unwrap();
        format!("{} {}", render(), done.join())
    });
    File::create(done.at("tracks")).unwrap().write_all(&tracks).unwrap();
    assert_eq!(done.join(), "done");
}

#[test]
fn fuzz_filter_text() {
    let mut target = Target::new("filter-text", CORPUS, 10_000);
    target.longest = 4096;
    target.words = &[
        "=", ":", "'", "\\", ",", "%", "-1", "9e99", "NaN", "[a]", ";", "@", "é", "\0", " ",
        "roi=", "sigma=", "ffmpeg:", "0,0,1,1", "10%", "inf",
    ];
    target.seeds = catalogue().0.iter().map(|info| info.example.as_bytes().to_vec()).collect();
    target.fuzz(|input| {
        let text = String::from_utf8_lossy(input);
        let checked = text.parse::<FilterSpec>().and_then(|spec| {
            // What is read is written so that it is read again.
            assert_eq!(spec.to_string().parse::<FilterSpec>().unwrap(), spec);
            catalogue().check(&spec)
        });
        said(checked)
    });
}
