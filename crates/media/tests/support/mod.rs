//! Whole jobs in one process, and what `ffmpeg` says of files.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use frameloom_core::Result;
use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::plan::Plan;
use frameloom_core::slot::{
    AcceptedSegment, ConcatOutput, ConcatTask, PlanTask, SegmentTask, TrackTask,
};
use frameloom_core::spec::{Container, EncoderSpec, JobSpec, SpecFile};
use frameloom_media::{Files, Given, SegmentRunner, concat, init, make_plan, track};

/// A job's result.
pub struct Made {
    pub plan: Plan,
    pub output: PathBuf,
    pub joined: ConcatOutput,
    pub concealed: u64,
}

/// A lossless job with these filters.
pub fn lossless(filters: &[&str], segment_us: Option<i64>) -> JobSpec {
    JobSpec {
        filters: filters.iter().map(|f| f.parse().unwrap()).collect(),
        encoder: EncoderSpec {
            lossless: true,
            preset: Some("ultrafast".into()),
            ..Default::default()
        },
        container: Container::Mp4,
        segment_us,
        ..Default::default()
    }
}

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

pub fn plan(source: &Path, spec: &JobSpec) -> Result<Plan> {
    init();
    let name = source.file_name().unwrap().to_string_lossy().into_owned();
    let names = spec.files.iter().map(|file| file.name.clone()).collect();
    let task =
        PlanTask { attempt: AttemptId::from_bits(1), name, spec: spec.clone(), files: names };
    make_plan(&File::open(source).unwrap(), &task, &files(spec), &mut |_| {})
}

/// The files that a job's filters take, opened by their names.
fn files(spec: &JobSpec) -> Files {
    let open = |file: &SpecFile| (file.name.clone(), File::open(&file.name).unwrap());
    spec.files.iter().map(open).collect()
}

/// Runs a whole job; segments are done in an order that no slot would choose.
pub fn run(source: &Path, spec: &JobSpec, dir: &Path, threads: u32) -> Result<Made> {
    let plan = plan(source, spec)?;
    let file = File::open(source).unwrap();
    let mut runner = SegmentRunner::new(None);
    let job = JobId::from_bits(1);
    let mut concealed = 0;
    let (tracks, stages) = (dir.join("tracks"), plan.stages());
    let mut segments = |detect: bool| -> Result<Vec<AcceptedSegment>> {
        let mut accepted = BTreeMap::new();
        let pieces = plan.detection.as_ref().map_or(&[][..], |found| &found.pieces);
        for segment in if detect { pieces } else { plan.segments.as_slice() }.iter().rev() {
            let attempt = AttemptId::from_bits(u128::from(segment.index));
            let along = !detect && stages.pieces > 0;
            let task = SegmentTask {
                frame_bytes: 0,
                previews: false,
                job,
                attempt,
                segment: segment.index,
                decode_threads: threads,
                files: Vec::new(),
                tracks: along,
                reveals: true,
            };
            let given =
                Given { files: files(spec), tracks: along.then(|| File::open(&tracks).unwrap()) };
            let kind = if detect { "looks" } else { "seg" };
            let out = create(&dir.join(format!("{}.{kind}", segment.index)));
            let made = if detect {
                runner.detect(&file, &plan, &task, given, out, &mut |_| {})?
            } else {
                runner.run(&file, &plan, &task, given, out, &mut |_| {})?
            };
            concealed += made.frames.concealed;
            let (slot, sha256) = ("test/0".to_owned(), made.file.sha256);
            accepted.insert(segment.index, AcceptedSegment { attempt, slot, sha256 });
        }
        Ok(accepted.into_values().collect())
    };
    let attempt = AttemptId::from_bits(2);
    let mut followed = None;
    if stages.pieces > 0 {
        let task = TrackTask { job, attempt, accepted: segments(true)? };
        let mut need = |k: u32| Ok(File::open(dir.join(format!("{k}.looks"))).unwrap());
        followed = Some(track(&plan, &task, create(&tracks), &mut need, &mut |_| {})?.file.sha256);
    }
    let accepted = if stages.render { segments(false)? } else { Vec::new() };
    let detections = plan.writes_detections();
    let task =
        ConcatTask { job, attempt, accepted, tracks: followed, frame_metrics: false, detections };
    let output = dir.join(format!("out.{}", spec.container));
    let made = frameloom_media::Made {
        out: create(&output),
        frame_metrics: None,
        detections: detections.then(|| create(&dir.join("detections.jsonl"))),
    };
    let along = (stages.pieces > 0).then(|| File::open(&tracks).unwrap());
    let mut need = |k: u32| Ok(File::open(dir.join(format!("{k}.seg"))).unwrap());
    let joined = concat(&file, &plan, &task, along, made, &mut need, &mut |_| {})?;
    Ok(Made { plan, output, joined, concealed })
}

/// A real clip; they are fetched before the tests.
pub fn clip(name: &str) -> PathBuf {
    let dir = std::env::var_os("FRAMELOOM_CLIPS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/clips")),
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(path.exists(), "{} is not there: run 'make clips'", path.display());
    path
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `ffmpeg` with these arguments, which end with a file to make.
pub fn ffmpeg(args: &[&str]) {
    output_of(Command::new("ffmpeg").args(["-v", "error", "-y", "-nostdin"]).args(args));
}

/// `(seconds of presentation as ffmpeg prints them in ticks, md5)` of every frame.
pub fn frames(path: &Path, input_args: &[&str], args: &[&str]) -> Vec<(String, String)> {
    let text = output_of(
        Command::new("ffmpeg")
            .args(["-v", "error", "-nostdin", "-threads", "1"])
            .args(input_args)
            .arg("-i")
            .arg(path)
            .args(["-map", "0:v:0", "-vsync", "passthrough"])
            .args(args)
            .args(["-f", "framemd5", "-"]),
    );
    let base = text.lines().find_map(|l| l.strip_prefix("#tb 0: ")).unwrap().to_owned();
    let (num, den) = base.split_once('/').unwrap();
    let (num, den): (i128, i128) = (num.parse().unwrap(), den.parse().unwrap());
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let pts: i128 = fields[2].parse().unwrap();
            // Nanoseconds are the same for equal times in any base.
            let ns = pts * num * 1_000_000_000 / den;
            (ns.to_string(), fields[5].to_owned())
        })
        .collect()
}

/// The md5 of every frame alone.
pub fn hashes(frames: &[(String, String)]) -> Vec<&str> {
    frames.iter().map(|(_, md5)| md5.as_str()).collect()
}

/// What ffprobe prints for these arguments.
pub fn ffprobe(path: &Path, args: &[&str]) -> String {
    output_of(Command::new("ffprobe").args(["-v", "error"]).args(args).arg(path))
}

/// What ffmpeg says of a file when it decodes all of it.
pub fn complaints(path: &Path) -> String {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i"]).arg(path).args(["-f", "null", "-"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", path.display());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
