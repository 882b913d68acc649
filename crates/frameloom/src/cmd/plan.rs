//! `frameloom plan IN`: how a video would be cut. A slot plans; this process parses no media.

use std::path::{Path, PathBuf};

use clap::Args;
use frameloom_core::Result;
use frameloom_core::id::AttemptId;
use frameloom_core::plan::Plan;
use frameloom_core::slot::{PlanTask, SlotCommand};
use frameloom_core::spec::{Container, DetectionsFormat};

use crate::cli::{FilesLie, JobArgs};

/// What to plan.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A video file.
    #[arg(value_name = "IN")]
    input: PathBuf,

    #[command(flatten)]
    job: JobArgs,

    /// Container of the output: mp4, mov, mkv or webm.
    #[arg(long, value_name = "NAME", default_value = "mp4")]
    container: String,

    /// Print JSON: everything that decides the output's bytes.
    #[arg(long)]
    json: bool,
}

/// Prints the plan.
pub(crate) fn run(args: PlanArgs) -> Result<()> {
    let source = super::open_source(&args.input)?;
    let name = args.input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let container = Container::of_file_name(&format!("output.{}", args.container))?;
    let only = args.job.detections_only.then_some(DetectionsFormat::Jsonl);
    let spec = args.job.spec(container, only, FilesLie::Here)?;
    let files: Vec<String> = spec.files.iter().map(|file| file.name.clone()).collect();
    let open = |name: &String| super::open_source(Path::new(name));
    let opened = files.iter().map(open).collect::<Result<Vec<_>>>()?;
    let task = PlanTask { attempt: AttemptId::from_bits(0), name, spec, files };
    let plan: Plan = super::in_slot(&source, &opened, SlotCommand::Plan(task))?;
    super::print(&if args.json { super::pretty(&plan)? } else { table(&plan) })
}

/// The plan for a person.
fn table(plan: &Plan) -> String {
    let mut text = String::new();
    let video = &plan.source.video;
    let out = &plan.output;
    let base = video.time_base;
    let first = video.start_pts.unwrap_or(0);
    let mut line = |parts: std::fmt::Arguments<'_>| text += &format!("{parts}\n");
    line(format_args!(
        "{}: {} {}x{} {}, {} frames",
        plan.source.name.escape_debug(),
        video.codec,
        video.width,
        video.height,
        video.pixel_format,
        video.frames.map_or("?".into(), |frames| frames.to_string())
    ));
    line(format_args!(
        "output: .{} {} {}x{} {}",
        out.container, plan.encoder.name, out.width, out.height, out.pixel_format
    ));
    for filter in &plan.filters {
        line(format_args!("filter: {} ({:?})", filter.spec, filter.footprint));
    }
    for detector in plan.detection.iter().flat_map(|detection| &detection.detectors) {
        line(format_args!("detector: {}", detector.name));
    }
    if plan.stages().pieces > 0 && plan.stages().render {
        line(format_args!("phases: detect, track, render; the video is decoded twice"));
    }
    for segment in &plan.segments {
        let at = |pts: i64| format!("{:.3} s", base.seconds(pts.saturating_sub(first)));
        line(format_args!(
            "segment {}: {} to {}{}",
            segment.index,
            segment.interval.start.map_or("start".into(), at),
            segment.interval.end.map_or("end".into(), at),
            segment.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
        ));
    }
    if let Some(reason) = &plan.reason {
        line(format_args!("one segment: {reason}"));
    }
    for message in &plan.messages {
        line(format_args!("note: {}", message.text));
    }
    line(format_args!(
        "read {} of {} bytes to plan",
        plan.index_bytes_read, plan.source.fingerprint.size
    ));
    text
}
