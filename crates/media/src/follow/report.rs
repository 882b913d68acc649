//! The detections file: what was found in each frame of the output, and what was done about it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};

use frameloom_core::detection::{
    BoxSource, DETECTIONS_VERSION, DetectedBox, DetectionsHeader, DetectionsLine, Rect, TrackedBox,
};
use frameloom_core::metrics::{DetectionMetrics, DetectorMetrics, SourceKept};
use frameloom_core::plan::{Plan, PlannedDetector};
use frameloom_core::spec::DetectionsFormat;
use frameloom_core::{Error, Result};
use serde_json::json;

use super::{Noted, TracksLine, TracksReader, action_hides};

pub(crate) use crate::detect::classes::WHOLE_FRAME;

/// Counts what was found, and puts it into words.
pub(crate) struct Reporter<'a> {
    plan: &'a Plan,
    detectors: &'a [PlannedDetector],
    metrics: DetectionMetrics,
    /// Frames heard of.
    frame: u64,
    /// When the first of them is shown.
    first: Option<i64>,
    /// And the last.
    last: i64,
    /// Numbers of each detector's tracks.
    tracks: Vec<BTreeSet<u32>>,
}

impl<'a> Reporter<'a> {
    /// One that has heard nothing; `None` where nothing is looked for.
    pub(crate) fn new(plan: &'a Plan) -> Option<Self> {
        let detectors = plan.detection.as_ref()?.detectors.as_slice();
        let metrics = |detector: &PlannedDetector| DetectorMetrics {
            filter: plan
                .filters
                .get(detector.filter as usize)
                .map_or_else(String::new, |filter| filter.spec.to_string()),
            detector: detector.name.clone(),
            sha256: detector.sha256.clone(),
            action: detector.action.clone(),
            frames: 0,
            boxes: 0,
            interpolated: 0,
            tracks: 0,
            lowest_score: None,
        };
        let metrics = DetectionMetrics {
            frames_hidden: 0,
            frames_hidden_whole: 0,
            detectors: detectors.iter().map(metrics).collect(),
            // Whoever ran the job knows it.
            source_kept: SourceKept::default(),
        };
        let tracks = vec![BTreeSet::new(); detectors.len()];
        Some(Self { plan, detectors, metrics, frame: 0, first: None, last: 0, tracks })
    }

    /// The first line of a file.
    pub(crate) fn header(&self) -> DetectionsHeader {
        DetectionsHeader {
            frameloom_detections: DETECTIONS_VERSION,
            source: self.plan.source.fingerprint.clone(),
            time_base: self.plan.source.video.time_base,
            size: [self.plan.working.width, self.plan.working.height],
        }
    }

    /// The line of the next frame: what tracks tell of it, and what filters noted on the way.
    pub(crate) fn line(
        &mut self,
        pts: i64,
        tracks: Option<&TracksLine>,
        noted: &[Noted],
    ) -> DetectionsLine {
        let mut boxes = Vec::new();
        let (mut hidden, mut whole) = (false, false);
        for (number, detector) in self.detectors.iter().enumerate() {
            let index = u32::try_from(number).unwrap_or(u32::MAX);
            let noted = noted.iter().filter(|noted| noted.detector == index);
            let noted = noted.flat_map(|noted| &noted.found);
            let tracked = tracks.and_then(|line| line.boxes.get(number)).into_iter().flatten();
            let here: Vec<TrackedBox> = tracked.chain(noted).copied().collect();
            let failed = tracks.is_some_and(|line| line.failed.contains(&index));
            let hides = action_hides(&detector.action);
            hidden |= hides && (failed || !here.is_empty());
            whole |= failed;
            if failed {
                boxes.push(self.whole(detector));
            }
            self.count(number, &here);
            boxes.extend(here.iter().map(|found| self.told(detector, found)));
        }
        self.metrics.frames_hidden += u64::from(hidden);
        self.metrics.frames_hidden_whole += u64::from(whole);
        // As the output's timestamps do: a part of a video begins with its first frame.
        let first = *self.first.get_or_insert(pts);
        self.last = pts;
        let trimmed = self.plan.trim.start.is_some();
        let offset = if trimmed { first } else { self.plan.offset.min(first) };
        let base = self.plan.source.video.time_base;
        let line = DetectionsLine {
            frame: self.frame,
            pts,
            time: base.seconds(pts.saturating_sub(offset)),
            boxes,
        };
        self.frame += 1;
        line
    }

    fn count(&mut self, number: usize, here: &[TrackedBox]) {
        let Some(metrics) = self.metrics.detectors.get_mut(number) else { return };
        metrics.frames += u64::from(!here.is_empty());
        for found in here {
            metrics.boxes += 1;
            metrics.interpolated += u64::from(found.source == BoxSource::Interpolated);
            if let Some(tracks) = self.tracks.get_mut(number).filter(|_| found.track > 0) {
                tracks.insert(found.track);
            }
            let lowest = metrics.lowest_score.map_or(found.score, |low| low.min(found.score));
            metrics.lowest_score = Some(lowest);
        }
    }

    fn told(&self, detector: &PlannedDetector, found: &TrackedBox) -> DetectedBox {
        let class = detector.classes.get(usize::from(found.class));
        let Rect { x, y, w, h } = found.rect;
        DetectedBox {
            rect: Rect { x: tidy(x), y: tidy(y), w: side(w), h: side(h) },
            score: (found.score * 1e4).round() / 1e4,
            class: class.cloned().unwrap_or_else(|| found.class.to_string()),
            track: (found.track > 0).then_some(found.track),
            source: found.source,
            action: detector.action.clone(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "sides of a picture")]
    fn whole(&self, detector: &PlannedDetector) -> DetectedBox {
        let picture = &self.plan.working;
        DetectedBox {
            rect: Rect { x: 0.0, y: 0.0, w: picture.width as f32, h: picture.height as f32 },
            score: 0.0,
            class: WHOLE_FRAME.into(),
            track: None,
            source: BoxSource::Detected,
            action: detector.action.clone(),
        }
    }

    /// What was counted.
    pub(crate) fn finish(mut self) -> DetectionMetrics {
        for (metrics, tracks) in self.metrics.detectors.iter_mut().zip(&self.tracks) {
            metrics.tracks = tracks.len() as u64;
        }
        self.metrics
    }
}

/// To a hundredth of a pixel.
fn tidy(value: f32) -> f32 {
    (value * 100.0).round() / 100.0
}

/// The same of a side, which is never nothing.
fn side(value: f32) -> f32 {
    tidy(value).max(0.01)
}

fn failed(e: std::io::Error) -> Error {
    Error::io("cannot write the detections", &e)
}

/// Writes what tracks tell as the whole output of a job; answers what was counted, the frames, and how many ticks lie between the
/// first and the last of them.
///
/// # Errors
/// Corrupt where the tracks are; of writing.
pub(crate) fn write(
    plan: &Plan,
    format: DetectionsFormat,
    tracks: &File,
    out: &File,
) -> Result<(DetectionMetrics, u64, i64)> {
    let nothing = || Error::invalid("nothing is looked for");
    let mut out = BufWriter::with_capacity(1 << 18, out);
    let mut reporter = Reporter::new(plan).ok_or_else(nothing)?;
    match format {
        DetectionsFormat::Jsonl => {
            put(&mut out, &reporter.header())?;
            each(&mut reporter, tracks, |line| put(&mut out, &line))?;
        }
        DetectionsFormat::Csv => {
            let head = "frame,pts,time,x,y,w,h,score,class,track,source,action\n";
            out.write_all(head.as_bytes()).map_err(failed)?;
            each(&mut reporter, tracks, |line| {
                line.boxes.iter().try_for_each(|found| csv(&mut out, &line, found))
            })?;
        }
        DetectionsFormat::Coco => {
            coco(plan, &mut out, tracks)?;
            each(&mut reporter, tracks, |_| Ok(()))?;
        }
    }
    out.flush().map_err(failed)?;
    let frames = reporter.frame;
    let ticks = reporter.last.saturating_sub(reporter.first.unwrap_or(0));
    Ok((reporter.finish(), frames, ticks))
}

/// Appends a line of JSON.
///
/// # Errors
/// Of writing.
pub(crate) fn put(out: &mut impl Write, value: &impl serde::Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(|e| failed(e.into()))?;
    out.write_all(b"\n").map_err(failed)
}

fn each(
    reporter: &mut Reporter<'_>,
    tracks: &File,
    mut line: impl FnMut(DetectionsLine) -> Result<()>,
) -> Result<()> {
    let again = |e| Error::io("cannot read tracks", &e);
    let mut file = tracks.try_clone().map_err(again)?;
    std::io::Seek::rewind(&mut file).map_err(again)?;
    let mut reader = TracksReader::new(file)?;
    while let Some(tracks) = reader.next()? {
        line(reporter.line(tracks.pts, Some(&tracks), &[]))?;
    }
    Ok(())
}

fn csv(out: &mut impl Write, line: &DetectionsLine, found: &DetectedBox) -> Result<()> {
    let DetectedBox { rect: Rect { x, y, w, h }, score, class, track, source, action } = found;
    // Names of classes come from users' files.
    let class = if class.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", class.replace('"', "\"\""))
    } else {
        class.clone()
    };
    let track = track.map(|track| track.to_string()).unwrap_or_default();
    let DetectionsLine { frame, pts, time, .. } = line;
    writeln!(
        out,
        "{frame},{pts},{time:.6},{x},{y},{w},{h},{score},{class},{track},{source},{action}"
    )
    .map_err(failed)
}

/// COCO's JSON. Its lists stand one after the other, so the tracks are read once for each.
fn coco(plan: &Plan, out: &mut impl Write, tracks: &File) -> Result<()> {
    let nothing = || Error::invalid("nothing is looked for");
    let detectors = &plan.detection.as_ref().ok_or_else(nothing)?.detectors;
    let mut names: Vec<&str> = Vec::new();
    let known = detectors.iter().flat_map(|detector| &detector.classes);
    for class in known.map(String::as_str).chain([WHOLE_FRAME]) {
        if !names.contains(&class) {
            names.push(class);
        }
    }
    let categories: Vec<_> =
        names.iter().enumerate().map(|(i, name)| json!({ "id": i + 1, "name": name })).collect();
    let (width, height) = (plan.working.width, plan.working.height);
    let info = json!({ "description": plan.source.name, "version": "1.0" });
    let mut text = |text: &str| out.write_all(text.as_bytes()).map_err(failed);
    text(&format!("{{\"info\":{info},\"categories\":{},\"images\":[", json!(categories)))?;
    let mut first = true;
    each(&mut Reporter::new(plan).ok_or_else(nothing)?, tracks, |line| {
        let image = json!({
            "id": line.frame + 1, "width": width, "height": height,
            "file_name": format!("frame-{:08}", line.frame), "pts": line.pts, "time": line.time,
        });
        text(if std::mem::take(&mut first) { "\n" } else { ",\n" })?;
        text(&image.to_string())
    })?;
    text("\n],\"annotations\":[")?;
    let mut id = 0u64;
    each(&mut Reporter::new(plan).ok_or_else(nothing)?, tracks, |line| {
        for found in &line.boxes {
            let Rect { x, y, w, h } = found.rect;
            let category = names.iter().position(|name| *name == found.class);
            text(if id == 0 { "\n" } else { ",\n" })?;
            id += 1;
            let annotation = json!({
                "id": id, "image_id": line.frame + 1, "category_id": category.map_or(0, |at| at + 1),
                "bbox": [x, y, w, h], "area": tidy(w * h), "iscrowd": 0, "score": found.score,
                "track_id": found.track, "source": found.source, "action": found.action,
            });
            text(&annotation.to_string())?;
        }
        Ok(())
    })?;
    text("\n]}\n")
}
