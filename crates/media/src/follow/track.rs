//! The task *track*: what was found in all segments becomes tracks over the whole video. No pixel is looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;

use frameloom_core::detection::{FrameFound, TrackedBox};
use frameloom_core::metrics::Distribution;
use frameloom_core::plan::{Plan, PlannedDetector};
use frameloom_core::slot::{TrackOutput, TrackTask};
use frameloom_core::track::{self, TrackConfig};
use frameloom_core::{Error, Result};

use super::look_file::{LineReader, LookRecord};
use super::spec::{LOW, LOW_OF_FACES};
use super::tracks_file::{TracksHeader, TracksLine};
use super::{LookHeader, LookWriter};

/// How many detections make a track of a face of which none is sure: where frames are looked at, and where most
/// are left out.
const AGREE: (u32, u32) = (5, 3);

/// How long the track of a face is carried on beyond both ends, in microseconds.
const LEAD_US: i64 = 400_000;

/// Most boxes of a whole video, of all its detectors, that are followed: all are held in memory at once.
const MOST_FOUND: u64 = 10_000_000;

/// Follows what was found and writes the file of tracks to `out`; `need` gives what was found in a
/// segment, `progress` hears the frames read.
///
/// # Errors
/// Corrupt or Internal where a file is not what was accepted; Exhausted where more was found than there is memory for;
/// of writing.
pub fn track(
    plan: &Plan,
    task: &TrackTask,
    out: File,
    need: &mut dyn FnMut(u32) -> Result<File>,
    progress: &mut dyn FnMut(u64),
) -> Result<TrackOutput> {
    let detection = plan.detection.as_ref();
    let detection = detection.ok_or_else(|| Error::invalid("nothing is looked for"))?;
    let detectors = &detection.detectors;
    let mut all = All::new(detectors.len());
    for piece in &detection.pieces {
        let k = piece.index;
        let accepted = task.accepted.get(k as usize);
        let sha256 = accepted.map_or("", |accepted| accepted.sha256.as_str());
        let file = need(k)?;
        all.piece(plan, k, file, sha256).map_err(|e| e.at(format!("detect {k}")))?;
        progress(all.pts.len() as u64);
    }
    all.spread_failures();
    let mut boxes = Vec::new();
    for (found, planned) in all.found.iter_mut().zip(detectors) {
        boxes.push(follow(plan, planned, std::mem::take(found))?.into_iter());
        progress(all.pts.len() as u64);
    }
    let header = TracksHeader { detectors: u32::try_from(detectors.len()).unwrap_or(u32::MAX) };
    let mut writer = LookWriter::new(BufWriter::with_capacity(1 << 18, out), &header)?;
    for (i, pts) in all.pts.iter().enumerate() {
        let boxes = boxes.iter_mut().map(|boxes| boxes.next().unwrap_or_default()).collect();
        let failed = all.failed.get(&i).cloned().unwrap_or_default();
        writer.line(&TracksLine { pts: *pts, boxes, failed })?;
    }
    Ok(TrackOutput {
        file: writer.finish()?,
        frames: all.pts.len() as u64,
        time_per_frame_ms: all.times(),
    })
}

/// The boxes of one detector in each frame.
fn follow(
    plan: &Plan,
    planned: &PlannedDetector,
    frames: Vec<FrameFound>,
) -> Result<Vec<Vec<TrackedBox>>> {
    let Some(tracking) = planned.tracking else {
        return Ok(track::untracked(&frames, untracked_threshold(plan, planned)?));
    };
    let size = (plan.working.width, plan.working.height);
    let usual = TrackConfig {
        threshold: tracking.threshold,
        low: tracking.low,
        faint: tracking.low,
        ..TrackConfig::new(plan.source.video.time_base, size)
    };
    // Faint detections are asked of a detector whose things must not be missed.
    let config = if tracking.low < tracking.threshold * LOW {
        let low = tracking.threshold * LOW_OF_FACES;
        let looks = frames.iter().filter(|frame| frame.looked).count();
        let agree = if 3 * looks > 2 * frames.len() { AGREE.0 } else { AGREE.1 };
        TrackConfig { low, agree, lead_us: LEAD_US, ..usual }
    } else {
        usual
    };
    Ok(track::track(&frames, &config))
}

/// The least score of a detection that counts by itself; motion has none.
fn untracked_threshold(plan: &Plan, planned: &PlannedDetector) -> Result<f32> {
    let filter = plan.filters.get(planned.filter as usize);
    let spec = &filter.ok_or_else(|| Error::internal("a detector without a filter"))?.spec;
    if !super::spec::is_detector(spec) {
        return Ok(0.0);
    }
    #[expect(clippy::cast_possible_truncation, reason = "0..=1")]
    let threshold = crate::filter::catalogue().check(spec)?.number("threshold")? as f32;
    Ok(threshold)
}

/// What was found in all pieces.
struct All {
    pts: Vec<i64>,
    /// By detector, then by frame.
    found: Vec<Vec<FrameFound>>,
    /// Boxes in it.
    boxes: u64,
    /// The detectors that failed, by frame.
    failed: BTreeMap<usize, Vec<u32>>,
    steps: Vec<String>,
    /// Milliseconds, one list a step.
    ms: Vec<Vec<f32>>,
}

impl All {
    fn new(detectors: usize) -> Self {
        Self {
            pts: Vec::new(),
            found: vec![Vec::new(); detectors],
            boxes: 0,
            failed: BTreeMap::new(),
            steps: Vec::new(),
            ms: Vec::new(),
        }
    }

    fn piece(&mut self, plan: &Plan, k: u32, file: File, sha256: &str) -> Result<()> {
        let mut lines = LineReader::new(file);
        let header: LookHeader =
            lines.next()?.ok_or_else(|| Error::corrupt("its file is empty"))?;
        if header.segment != k || header.time_base != plan.source.video.time_base {
            return Err(Error::internal("it belongs to another plan"));
        }
        if self.steps.is_empty() {
            self.ms.resize(header.steps.len(), Vec::new());
            self.steps = header.steps;
        }
        let before = self.pts.len();
        let counts = loop {
            match lines.next()? {
                Some(LookRecord::Frame(line)) => self.frame(line)?,
                Some(LookRecord::End { end }) => break end,
                None => return Err(Error::corrupt("its file is cut off")),
            }
        };
        if counts.output != (self.pts.len() - before) as u64 {
            return Err(Error::internal("it holds another number of frames than it says"));
        }
        if lines.sha256() != sha256 {
            return Err(Error::corrupt(
                "its file was changed after it was accepted: run again with --fresh",
            ));
        }
        Ok(())
    }

    fn frame(&mut self, line: super::LookLine) -> Result<()> {
        if self.pts.last().is_some_and(|last| *last >= line.pts) {
            return Err(Error::internal(format!("the frame at {} is out of order", line.pts)));
        }
        if line.looks.len() != self.found.len() {
            return Err(Error::internal("a frame tells of another number of detectors"));
        }
        self.boxes += line.looks.iter().map(|look| look.found.len() as u64).sum::<u64>();
        if self.boxes > MOST_FOUND {
            return Err(Error::exhausted(format!(
                "more than {MOST_FOUND} boxes were found up to the frame at {}, which is more than can be followed at once; a higher \
                 'threshold' finds fewer, or do a part of the video at a time (--from, --to)",
                line.pts
            )));
        }
        for (number, (list, look)) in self.found.iter_mut().zip(line.looks).enumerate() {
            if look.failed {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                self.failed.entry(self.pts.len()).or_default().push(number);
            }
            // Where it failed nothing is known, as where it did not look.
            let looked = look.looked && !look.failed;
            list.push(FrameFound { pts: line.pts, looked, found: look.found });
        }
        for (list, ms) in self.ms.iter_mut().zip(line.ms) {
            list.push(ms);
        }
        self.pts.push(line.pts);
        Ok(())
    }

    /// Where a look failed, nothing is known of the frames around it either that were not looked at: as far as the looks before
    /// and after it.
    fn spread_failures(&mut self) {
        let mut more: Vec<(usize, u32)> = Vec::new();
        for (frame, detectors) in &self.failed {
            for number in detectors {
                let Some(list) = self.found.get(*number as usize) else { continue };
                let has_failed =
                    |at: &usize| self.failed.get(at).is_some_and(|all| all.contains(number));
                let unseen = |at: &usize| !list[*at].looked && !has_failed(at);
                more.extend((0..*frame).rev().take_while(unseen).map(|at| (at, *number)));
                more.extend((frame + 1..list.len()).take_while(unseen).map(|at| (at, *number)));
            }
        }
        for (frame, number) in more {
            let detectors = self.failed.entry(frame).or_default();
            if !detectors.contains(&number) {
                detectors.push(number);
            }
        }
    }

    /// How long steps took that only this phase has.
    fn times(&mut self) -> BTreeMap<String, Distribution> {
        let steps = self.steps.iter().zip(&mut self.ms);
        let named = |(step, ms): (&String, &mut Vec<f32>)| {
            let step = if step == "decode" { "detect.decode" } else { step };
            (step.to_owned(), Distribution::of(ms))
        };
        steps.map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_boxes_than_memory_is_for_are_an_error() {
        let rect = frameloom_core::detection::Rect { x: 0.0, y: 0.0, w: 1.0, h: 1.0 };
        let found = vec![frameloom_core::detection::Found { rect, score: 0.5, class: 0 }; 5];
        let line = |pts| {
            let look = super::super::Look { looked: true, failed: false, found: found.clone() };
            super::super::LookLine { pts, ms: Vec::new(), looks: vec![look] }
        };
        let mut all = All::new(1);
        all.boxes = MOST_FOUND - 5;
        all.frame(line(1)).unwrap();
        let error = all.frame(line(2)).unwrap_err();
        assert_eq!(error.kind(), frameloom_core::ErrorKind::Exhausted);
        assert!(error.message().contains("up to the frame at 2"), "{error}");
    }

    #[test]
    fn a_failed_look_hides_the_frames_on_both_sides_that_nobody_looked_at() {
        // Looked at each third frame by one of two detectors; the second and the third look fail.
        let mut all = All::new(2);
        for pts in 0..12 {
            let looked = pts % 3 == 0 && pts != 3 && pts != 6;
            all.found[1].push(FrameFound { pts, looked, found: Vec::new() });
            all.found[0].push(FrameFound { pts, looked: true, found: Vec::new() });
            all.pts.push(pts);
        }
        all.failed.insert(3, vec![1]);
        all.failed.insert(6, vec![1]);
        all.spread_failures();
        let failed: Vec<usize> = all.failed.keys().copied().collect();
        assert_eq!(failed, (1..9).collect::<Vec<_>>());
        assert!(all.failed.values().all(|detectors| *detectors == [1]), "{:?}", all.failed);
    }
}
