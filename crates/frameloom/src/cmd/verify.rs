//! `frameloom verify OUT`: what a detector still finds in an output in which it should be hidden.
//!
//! Slots look, compare and draw; this process parses no media.

mod told;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use frameloom_core::detection::{DetectedBox, DetectionsLine, Rect};
use frameloom_core::id::AttemptId;
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::Plan;
use frameloom_core::slot::{CompareTask, ComparedVideo, PlanTask, SheetForm, SlotCommand};
use frameloom_core::spec::{DetectionsFormat, JobSpec};
use frameloom_core::time::{Rounding, TimeBase};
use frameloom_core::verify::{Comparison, Finding, Place, SAME, Verdict, Verification, covered};
use frameloom_core::{Error, Result};
use frameloom_server::publish::Ready;
use frameloom_server::resume;

use super::shown;
use told::{Told, each};

/// Most findings that are compared and listed: they are held in memory. What is found beyond counts as leaks.
const MOST_FINDINGS: usize = 200_000;

/// What to verify.
#[derive(Debug, Args)]
#[command(
    after_help = "A finding is a 'blot' where a box of FILE covers it and the details of IN are gone: the \
    detector fires on what hides.\nEverything else is a 'leak', and counts.\n\n\
    Examples:\n  frameloom run in.mp4 -o out.mp4 -f faces:action=blur --detections found.jsonl\n  \
    frameloom verify out.mp4 --against in.mp4 --detections found.jsonl --sheet leaks.jpg\n\n\
    Exit codes: 0 no more leaks than allowed, 1 more, 2 wrong request, or files that do not belong together,\n\
    3 not found, 5 media that cannot be processed, 6 resources used up or a part that died, 70 a bug,\n\
    130 or 143 stopped by Ctrl-C or SIGTERM."
)]
pub(crate) struct VerifyArgs {
    /// The output to look at.
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// The source that it was made from.
    #[arg(long, value_name = "IN")]
    against: PathBuf,

    /// The detections file that tells what was hidden (run --detections FILE).
    #[arg(long, value_name = "FILE")]
    detections: PathBuf,

    /// Look for these classes of things, with commas between, and not for faces.
    #[arg(long, value_name = "CLASSES")]
    objects: Option<String>,

    /// The model: centerface, centerface-int8, blazeface, blazeface-front, with --objects ssdlite, or an ONNX file of
    /// your own [default: centerface, ssdlite].
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,

    /// How sure the model must be, 0.02 to 1.
    #[arg(long, value_name = "T", default_value = "0.4", value_parser = threshold)]
    threshold: f32,

    /// Allow leaks in this part of the frames, 0 to 1.
    #[arg(long, value_name = "R", default_value = "0", value_parser = rate)]
    max_rate: f64,

    /// Draw a contact sheet of what is found, .jpg or .png.
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,

    /// Go on though the files do not belong together by their fingerprint, size or length.
    #[arg(long)]
    trust: bool,

    /// Parts of a video looked at at a time, each by a process of its own, 1 to 256 [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: Option<u32>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn threshold(text: &str) -> std::result::Result<f32, String> {
    let value = text.parse::<f32>().ok().filter(|value| (0.02..=1.0).contains(value));
    value.ok_or_else(|| "it is not a number from 0.02 to 1".into())
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "it is not a number from 0 to 1".into())
}

impl VerifyArgs {
    /// The job that looks for things with scores of `threshold` and more.
    fn spec(&self, threshold: f32) -> Result<JobSpec> {
        let mut filter = FilterSpec { name: "faces".into(), params: Vec::new() };
        let mut set = |key: &str, value: &str| filter.params.push((key.into(), value.into()));
        if let Some(classes) = &self.objects {
            set("classes", classes);
        }
        match &self.model {
            Some(model) => set("model", model),
            None if self.objects.is_none() => set("model", "centerface"),
            None => {}
        }
        set("threshold", &threshold.to_string());
        set("action", "none");
        set("track", "false");
        if self.objects.is_some() {
            filter.name = "objects".into();
        }
        let filters = vec![filter];
        let catalogue = frameloom_media::catalogue();
        for filter in &filters {
            catalogue.check(filter)?;
        }
        let files = catalogue.files(&filters)?;
        Ok(JobSpec {
            files: files.iter().map(|name| crate::cli::file(name)).collect::<Result<_>>()?,
            filters,
            detections_only: Some(DetectionsFormat::Jsonl),
            ..JobSpec::default()
        })
    }

    fn form(&self) -> Result<Option<SheetForm>> {
        let Some(sheet) = &self.sheet else { return Ok(None) };
        let extension = sheet.extension().map(|e| e.to_ascii_lowercase()).unwrap_or_default();
        match extension.to_str() {
            Some("jpg" | "jpeg") => Ok(Some(SheetForm::Jpeg)),
            Some("png") => Ok(Some(SheetForm::Png)),
            _ => Err(Error::invalid(format!(
                "--sheet '{}': its name must end in .jpg or .png",
                shown(sheet)
            ))),
        }
    }
}

/// Verifies an output; answers the exit code.
pub(crate) fn run(args: VerifyArgs) -> Result<u8> {
    let form = args.form()?;
    let output = super::open_source(&args.output)?;
    let source = super::open_source(&args.against)?;
    let told = Told::read(&args.detections, args.trust)?;
    check_sheet(&args)?;
    let spec = args.spec(args.threshold)?;
    let planned_out = planned(&args.output, &output, &spec)?;
    let planned_in = planned(&args.against, &source, &spec)?;
    belong(&args, &told, &planned_out, &planned_in)?;

    let work = tempfile::Builder::new().prefix("frameloom-verify.").tempdir();
    let work = work.map_err(|e| Error::io("cannot make a directory for the work", &e))?;
    let found = work.path().join("output.jsonl");
    let code = super::run::look(&args.output, spec, &work.path().join("o"), &found, args.slots)?;
    if code != 0 {
        return Ok(code);
    }
    let Seen { frames, mut findings, beyond } =
        see(&args, &told, &found, [&planned_out, &planned_in], MOST_FINDINGS)?;
    let mut shown_places = args.sheet.as_ref().map(|_| 0);
    if !findings.is_empty() {
        let before = work.path().join("source.jsonl");
        let spec = source_spec(&args, &findings, &planned_in)?;
        let work_in = work.path().join("i");
        let code = super::run::look(&args.against, spec, &work_in, &before, args.slots)?;
        if code != 0 {
            return Ok(code);
        }
        counterparts(&mut findings, &before)?;
    }
    if !findings.is_empty() || form.is_some() {
        let videos = [(&args.output, &output, &planned_out), (&args.against, &source, &planned_in)];
        let sheet = form.map(|form| (form, work.path().join("sheet")));
        let compared = compare(videos, &findings, sheet.as_ref())?;
        for (known, kept) in findings.iter_mut().zip(compared.kept) {
            known.finding.kept = kept;
            known.finding.verdict = Verdict::of(known.finding.covered, kept);
        }
        if let (Some(to), Some((_, from))) = (&args.sheet, &sheet) {
            Ready::prepare(from, to)?.publish(to, true)?;
            shown_places = Some(compared.shown);
        }
    }
    let findings = findings.into_iter().map(|known| known.finding).collect();
    let told = verification(&args, findings, (frames, beyond), shown_places, &planned_out);
    super::print(&if args.json { super::pretty(&told)? } else { words(&args, &told) })?;
    Ok(u8::from(told.rate > told.max_rate))
}

/// A sheet that could not be written at the end, or that would replace what is looked at, is told before any work.
fn check_sheet(args: &VerifyArgs) -> Result<()> {
    let Some(sheet) = &args.sheet else { return Ok(()) };
    let known = fs::canonicalize(sheet).ok();
    for input in [&args.output, &args.against, &args.detections] {
        if known.is_some() && fs::canonicalize(input).ok() == known {
            return Err(Error::invalid(format!(
                "--sheet '{}' is '{}', which is looked at; give another name",
                shown(sheet),
                shown(input)
            )));
        }
    }
    if sheet.is_dir() {
        return Err(Error::invalid(format!("'{}' is a directory; give a file", shown(sheet))));
    }
    let dir = sheet.parent().filter(|dir| !dir.as_os_str().is_empty());
    if dir.is_some_and(|dir| !dir.is_dir()) {
        return Err(Error::not_found(format!(
            "the directory of '{}' does not exist; make it first",
            shown(sheet)
        )));
    }
    Ok(())
}

/// How a video would be looked at: what there is to know of it.
fn planned(path: &Path, file: &File, spec: &JobSpec) -> Result<Plan> {
    let files: Vec<String> = spec.files.iter().map(|file| file.name.clone()).collect();
    let open = |name: &String| super::open_source(Path::new(name));
    let opened = files.iter().map(open).collect::<Result<Vec<_>>>()?;
    let (attempt, spec) = (AttemptId::from_bits(0), spec.clone());
    let task = PlanTask { attempt, name: name_of(path), spec, files };
    super::in_slot(file, &opened, SlotCommand::Plan(task))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Refuses files that do not belong together.
fn belong(args: &VerifyArgs, told: &Told, output: &Plan, source: &Plan) -> Result<()> {
    if args.trust {
        return Ok(());
    }
    let (out, against) = (shown(&args.output), shown(&args.against));
    let found = shown(&args.detections);
    if let Some(header) = &told.header {
        let known = &header.source;
        let here = resume::fingerprint_of(&args.against, known.whole)?;
        if (known.size, &known.sha256) != (here.size, &here.sha256) {
            return Err(Error::invalid(format!(
                "detections file '{found}' was made from another video than '{against}' (its fingerprint differs); \
                 --trust goes on all the same"
            )));
        }
    }
    let size = |plan: &Plan| [plan.working.width, plan.working.height];
    let [width, height] = size(output);
    if size(output) != size(source) {
        let [w, h] = size(source);
        return Err(Error::invalid(format!(
            "'{out}' is {width}x{height} and '{against}' {w}x{h}; --trust takes it as scaled as a whole"
        )));
    }
    let frames = told.frames() as u64;
    if let Some(there) = output.source.video.frames.filter(|there| *there != frames) {
        return Err(other_length(args, there, frames));
    }
    if let Some(there) = source.source.video.frames.filter(|there| *there < frames) {
        return Err(Error::invalid(format!(
            "'{against}' has {there} frames, but '{found}' tells of {frames}; --trust goes on all the same"
        )));
    }
    Ok(())
}

fn other_length(args: &VerifyArgs, there: u64, told: u64) -> Error {
    Error::invalid(format!(
        "'{}' has {there} frames, but '{}' tells of {told}: it is not the output that was made by it; \
         --trust goes on all the same",
        shown(&args.output),
        shown(&args.detections)
    ))
}

/// A finding, and where it lies in both videos.
struct Known {
    finding: Finding,
    pts: i64,
    source_pts: Option<i64>,
    source_rect: Rect,
}

/// What is too much to be listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Beyond {
    frames: u64,
    findings: u64,
}

/// What was found in an output.
struct Seen {
    /// Frames looked at.
    frames: u64,
    findings: Vec<Known>,
    /// Frames behind those, with their findings.
    beyond: Beyond,
}

impl Seen {
    /// Whether so many findings of one frame are to be listed; they are counted else. Once one frame's are not, no later one's are.
    fn has_room(&mut self, findings: usize, most: usize) -> bool {
        let room = self.beyond.frames == 0 && self.findings.len() + findings <= most;
        if !room && findings > 0 {
            self.beyond.frames += 1;
            self.beyond.findings += findings as u64;
        }
        room
    }
}

/// What was found in the output, as its file tells, with the boxes of the detections file that cover it: `most` findings, and a
/// count of the others.
///
/// # Errors
/// Invalid for an output whose frames are not those of the detections file, by number and time, unless that is trusted.
fn see(
    args: &VerifyArgs,
    told: &Told,
    found: &Path,
    [output, source]: [&Plan; 2],
    most: usize,
) -> Result<Seen> {
    let base = output.source.video.time_base;
    let told_base = told.header.as_ref().map_or(base, |header| header.time_base);
    // Both round to their own ticks, the first frame and this one.
    let slack = base.seconds(1) + told_base.seconds(1);
    let (width, height) = (output.working.width, output.working.height);
    let size = told.header.as_ref().map_or([width, height], |header| header.size);
    #[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
    let ratio = |source: u32, out: u32| source as f32 / out.max(1) as f32;
    let scale = (ratio(size[0], width), ratio(size[1], height));
    let mut seen = Seen { frames: 0, findings: Vec::new(), beyond: Beyond::default() };
    let (mut first, mut astray) = (None, None);
    each(found, |line| {
        let number = usize::try_from(seen.frames).unwrap_or(usize::MAX);
        seen.frames += 1;
        let first = *first.get_or_insert(line.pts);
        let at = base.seconds(line.pts.saturating_sub(first));
        if let (Some(pts), Some(from)) = (told.pts(number), told.pts(0)) {
            let wanted = told_base.seconds(pts.saturating_sub(from));
            if (at - wanted).abs() > slack {
                astray.get_or_insert((number, at, wanted));
            }
        }
        if seen.has_room(line.boxes.len(), most) {
            let number = usize::try_from(line.frame).unwrap_or(usize::MAX);
            // With --trust the source may be another file of the same video.
            let source_base = source.source.video.time_base;
            let rescaled = |pts| told_base.rescale(pts, source_base, Rounding::Nearest);
            let source_pts = told.pts(number).and_then(rescaled);
            let here = (source_pts, told.boxes(number));
            findings(&line, here, scale, &mut seen.findings);
        }
        Ok(())
    })?;
    if args.trust {
        return Ok(seen);
    }
    if seen.frames != told.frames() as u64 {
        return Err(other_length(args, seen.frames, told.frames() as u64));
    }
    if let Some((number, at, wanted)) = astray {
        return Err(Error::invalid(format!(
            "frame {number} of '{}' is at {at:.3} s, but '{}' tells of {wanted:.3} s there; --trust goes on all the same",
            shown(&args.output),
            shown(&args.detections),
        )));
    }
    Ok(seen)
}

/// Adds what was found in a frame, of which the time in the source and the boxes that were told are given.
fn findings(
    line: &DetectionsLine,
    (source_pts, boxes): (Option<i64>, Vec<Rect>),
    (x, y): (f32, f32),
    all: &mut Vec<Known>,
) {
    for DetectedBox { rect, score, class, .. } in &line.boxes {
        let source_rect = Rect { x: rect.x * x, y: rect.y * y, w: rect.w * x, h: rect.h * y };
        let finding = Finding {
            frame: line.frame,
            time: line.time,
            rect: *rect,
            class: class.clone(),
            score: *score,
            covered: covered(&source_rect, &boxes),
            source_score: None,
            kept: None,
            verdict: Verdict::Leak,
        };
        all.push(Known { finding, pts: line.pts, source_pts, source_rect });
    }
}

/// The job that looks at the source where something was found in the output, with half the threshold.
fn source_spec(args: &VerifyArgs, findings: &[Known], source: &Plan) -> Result<JobSpec> {
    const SECOND: i64 = 1_000_000;
    let base = source.source.video.time_base;
    let start = source.source.video.start_pts.unwrap_or(0);
    let times = findings.iter().filter_map(|known| known.source_pts);
    let micros = |pts: i64| {
        base.rescale(pts.saturating_sub(start), TimeBase::MICROS, Rounding::Nearest).unwrap_or(0)
    };
    let (first, last) = (times.clone().min().map(micros), times.max().map(micros));
    let from_us = first.map(|us| us.saturating_sub(SECOND)).filter(|us| *us > 0);
    let to_us = last.map(|us| us.saturating_add(SECOND).max(SECOND));
    Ok(JobSpec { from_us, to_us, ..args.spec(args.threshold / 2.0)? })
}

/// Finds out which findings were there in the source, too, by the file that tells what was found there.
fn counterparts(findings: &mut [Known], before: &Path) -> Result<()> {
    let mut by_pts: BTreeMap<i64, Vec<&mut Known>> = BTreeMap::new();
    for known in findings {
        if let Some(pts) = known.source_pts {
            by_pts.entry(pts).or_default().push(known);
        }
    }
    each(before, |line| {
        for known in by_pts.get_mut(&line.pts).into_iter().flatten() {
            let same = line.boxes.iter().filter(|there| {
                there.class == known.finding.class && there.rect.iou(&known.source_rect) >= SAME
            });
            known.finding.source_score = same.map(|there| there.score).max_by(f32::total_cmp);
        }
        Ok(())
    })
}

/// Compares the pictures at all findings, and draws the sheet.
fn compare(
    videos: [(&PathBuf, &File, &Plan); 2],
    findings: &[Known],
    sheet: Option<&(SheetForm, PathBuf)>,
) -> Result<Comparison> {
    let failed = |e: std::io::Error| Error::io("cannot hand places to a slot", &e);
    let places: Vec<Place> = findings
        .iter()
        .map(|known| Place {
            pts: known.pts,
            source_pts: known.source_pts,
            rect: known.finding.rect,
            source_rect: known.source_rect,
            time: known.finding.time,
            score: known.finding.score,
            covered: known.finding.covered,
        })
        .collect();
    let mut list = tempfile::tempfile().map_err(failed)?;
    let text = serde_json::to_vec(&places)
        .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
    list.write_all(&text).map_err(failed)?;
    std::io::Seek::rewind(&mut list).map_err(failed)?;
    let [output, source] = videos.map(|(path, _, plan)| ComparedVideo {
        name: name_of(path),
        video: plan.source.video.clone(),
    });
    let [(_, output_file, _), (_, source_file, _)] = videos;
    let copy = |file: &File| file.try_clone().map_err(failed);
    let mut files = vec![copy(source_file)?, list];
    if let Some((_, path)) = sheet {
        let options = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path);
        files.push(options.map_err(failed)?);
    }
    let task = CompareTask { output, source, sheet: sheet.map(|(form, _)| *form) };
    super::in_slot(output_file, &files, SlotCommand::Compare(Box::new(task)))
}

fn verification(
    args: &VerifyArgs,
    findings: Vec<Finding>,
    (frames, beyond): (u64, Beyond),
    shown: Option<u64>,
    output: &Plan,
) -> Verification {
    let leaks = || findings.iter().filter(|finding| finding.verdict == Verdict::Leak);
    let mut leaking: Vec<u64> = leaks().map(|finding| finding.frame).collect();
    leaking.dedup();
    let count = leaks().count() as u64;
    let frames_leaking = leaking.len() as u64 + beyond.frames;
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let rate = frames_leaking as f64 / frames.max(1) as f64;
    let detector = output.detection.iter().flat_map(|found| &found.detectors).next();
    Verification {
        frames,
        frames_leaking,
        rate,
        max_rate: args.max_rate,
        leaks: count + beyond.findings,
        unlisted: beyond.findings,
        blots: findings.len() as u64 - count,
        detector: detector.map(|detector| detector.name.clone()).unwrap_or_default(),
        sha256: detector.map(|detector| detector.sha256.clone()).unwrap_or_default(),
        threshold: args.threshold,
        shown,
        findings,
    }
}

/// The verification for a person.
fn words(args: &VerifyArgs, told: &Verification) -> String {
    let mut text = String::new();
    let mut line = |parts: std::fmt::Arguments<'_>| text += &format!("{parts}\n");
    for found in &told.findings {
        let Rect { x, y, w, h } = found.rect;
        let percent = |part: f32| part * 100.0;
        let (verdict, class) = match found.verdict {
            Verdict::Leak => ("leak", found.class.escape_debug()),
            Verdict::Blot => ("blot", found.class.escape_debug()),
        };
        line(format_args!(
            "{verdict}: frame {} at {:.3} s, {class} {w:.0}x{h:.0} at {x:.0},{y:.0}, score {:.2}; {:.0}% covered by boxes{}{}",
            found.frame,
            found.time,
            found.score,
            percent(found.covered),
            found.kept.map_or(String::new(), |kept| format!(
                ", {:.0}% of the details left",
                percent(kept)
            )),
            found
                .source_score
                .map_or(String::new(), |score| format!(", score in the source {score:.2}")),
        ));
    }
    let unlike = told.findings.iter().filter(|found| found.kept.is_none()).count();
    if unlike > 0 {
        line(format_args!(
            "{unlike} findings cannot be compared and count as leaks: the pictures differ beside them, too (mirrored, moved, \
             turned, scaled?), or the source has no such frame"
        ));
    }
    if told.unlisted > 0 {
        line(format_args!(
            "{} findings behind these are too many to be compared and count as leaks; a higher --threshold finds fewer",
            told.unlisted
        ));
    }
    line(format_args!(
        "{}: {} of {} frames leak ({:.3}%, allowed {:.3}%): {} leaks, and {} findings on what hides ({} at {})",
        shown(&args.output),
        told.frames_leaking,
        told.frames,
        told.rate * 100.0,
        told.max_rate * 100.0,
        told.leaks,
        told.blots,
        told.detector.escape_debug(),
        told.threshold
    ));
    if let (Some(path), Some(count)) = (&args.sheet, told.shown) {
        let all = told.findings.len() as u64 + told.unlisted;
        let of = if count < all { format!(" of {all}") } else { String::new() };
        line(format_args!("{}: {count}{of} findings", shown(path)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_beyond_what_memory_is_for_are_counted() {
        let known = || Known {
            finding: Finding {
                frame: 0,
                time: 0.0,
                rect: Rect { x: 0.0, y: 0.0, w: 1.0, h: 1.0 },
                class: "face".into(),
                score: 1.0,
                covered: 0.0,
                source_score: None,
                kept: None,
                verdict: Verdict::Leak,
            },
            pts: 0,
            source_pts: None,
            source_rect: Rect { x: 0.0, y: 0.0, w: 1.0, h: 1.0 },
        };
        let mut seen = Seen { frames: 0, findings: Vec::new(), beyond: Beyond::default() };
        let mut listed = Vec::new();
        for (frame, count) in [3, 0, 2, 3, 0, 1].into_iter().enumerate() {
            if seen.has_room(count, 6) && count > 0 {
                listed.push(frame);
                seen.findings.extend((0..count).map(|_| known()));
            }
        }
        assert_eq!(listed, [0, 2]);
        assert_eq!(seen.beyond, Beyond { frames: 2, findings: 4 });
    }
}
