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
use frameloom_core::slot::{AcceptedSegment, ConcatOutput, ConcatTask, PlanTask, SegmentTask};
use frameloom_core::spec::{Container, EncoderSpec, JobSpec};
use frameloom_media::{SegmentRunner, concat, init, make_plan};

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
    let task = PlanTask { attempt: AttemptId::from_bits(1), name, spec: spec.clone() };
    make_plan(&File::open(source).unwrap(), &task, &mut |_| {})
}

/// Runs a whole job; segments are done in an order that no slot would choose.
pub fn run(source: &Path, spec: &JobSpec, dir: &Path, threads: u32) -> Result<Made> {
    let plan = plan(source, spec)?;
    let file = File::open(source).unwrap();
    let mut runner = SegmentRunner::new(None);
    let mut accepted = BTreeMap::new();
    let mut concealed = 0;
    for segment in plan.segments.iter().rev() {
        let attempt = AttemptId::from_bits(u128::from(segment.index));
        let task = SegmentTask {
            frame_bytes: 0,
            previews: false,
            job: JobId::from_bits(1),
            attempt,
            segment: segment.index,
            decode_threads: threads,
        };
        let out = create(&dir.join(format!("{}.seg", segment.index)));
        let made = runner.run(&file, &plan, &task, out, &mut |_| {})?;
        concealed += made.frames.concealed;
        let slot = "test/0".to_owned();
        accepted.insert(segment.index, AcceptedSegment { attempt, slot, sha256: made.file.sha256 });
    }
    let task = ConcatTask {
        job: JobId::from_bits(1),
        attempt: AttemptId::from_bits(2),
        accepted: accepted.into_values().collect(),
    };
    let output = dir.join(format!("out.{}", spec.container));
    let mut need = |k: u32| Ok(File::open(dir.join(format!("{k}.seg"))).unwrap());
    let joined = concat(&file, &plan, &task, create(&output), None, &mut need, &mut |_| {})?;
    Ok(Made { plan, output, joined, concealed })
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
