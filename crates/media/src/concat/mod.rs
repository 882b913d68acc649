//! The joiner: segments by stream copy, in order, and everything else of the source beside them.
//!
//! It goes over the segments twice: first to check them (hash, codec headers, frames) and to learn
//! the track's times, then to write. It holds 8 bytes a frame and 4 a frame and step.

mod muxer;
mod passenger;
mod sound;
mod subtitle;
mod track;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};

use frameloom_core::metrics::{DetectionMetrics, Distribution, FrameLine};
use frameloom_core::plan::Plan;
use frameloom_core::slot::{ConcatOutput, ConcatTask, WrittenFile};
use frameloom_core::spec::DetectionsFormat;
use frameloom_core::time::{Rounding, TimeBase};
use frameloom_core::{Error, Result};

use crate::encode::StreamParameters;
use crate::ff::Packet;
use crate::follow::{Reporter, TracksReader, check_tracks, put_detections, write_detections};
use crate::seg_file::{FrameRecord, Reader, Record};
use muxer::Muxer;
pub(crate) use passenger::try_conversion;
use track::{Track, TrackBuilder};

/// What a join writes to.
pub struct Made {
    /// The output; readable, too.
    pub out: File,
    /// A line for each frame's metrics, where it is wanted.
    pub frame_metrics: Option<File>,
    /// The detections, where they are wanted beside a video.
    pub detections: Option<File>,
}

/// Joins the segments of a job into `out`, which must be readable, too.
///
/// `need` gives the file of a segment; each is asked for twice. Each frame's line goes to
/// `frame_metrics`; `progress` hears the frames checked and written.
///
/// # Errors
/// Corrupt or Internal where a segment is not what was accepted; of the source; of writing.
pub fn concat(
    source: &File,
    plan: &Plan,
    task: &ConcatTask,
    tracks: Option<File>,
    made: Made,
    need: &mut dyn FnMut(u32) -> Result<File>,
    progress: &mut dyn FnMut(u64),
) -> Result<ConcatOutput> {
    let Made { out, frame_metrics, detections } = made;
    if let (Some(tracks), Some(sha256)) = (&tracks, &task.tracks) {
        check_tracks(tracks, sha256)?;
    }
    if let Some(format) = plan.detection.as_ref().and_then(|detection| detection.only) {
        let tracks = tracks.ok_or_else(|| Error::internal("the tracks did not come along"))?;
        return detections_alone(plan, format, &tracks, &out);
    }
    let mut survey = Survey::new(plan, task, frame_metrics);
    survey.detections = Detections::new(plan, tracks, detections)?;
    for segment in &plan.segments {
        let file = need(segment.index)?;
        survey
            .segment(segment.index, &file)
            .map_err(|e| e.at(format!("segment {}", segment.index)))?;
        progress(survey.builder_frames);
    }
    let survey = survey.finish()?;
    let Some(parameters) = &survey.parameters else {
        return Err(Error::unsupported(
            "no frame is left: the source has no decodable frame in the part that is kept",
        ));
    };
    let mut muxer = Muxer::open(source, plan, parameters, &survey.track, out)?;
    let mut coded = 0;
    for segment in &plan.segments {
        let file = need(segment.index)?;
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, rewound(&file)?))?;
        while let Record::Packet(stored) = reader.next()? {
            let mut packet = Packet::with_data(&stored.data)?;
            let raw = packet.raw_mut();
            raw.pts = stored.pts;
            raw.dts = survey
                .track
                .dts(coded)
                .ok_or_else(|| Error::internal("a segment has grown since it was checked"))?;
            raw.duration = survey.track.duration(stored.pts);
            raw.flags = i32::try_from(stored.flags & 1).unwrap_or(0);
            muxer.video(&mut packet)?;
            coded += 1;
        }
        progress(survey.frames.saturating_add(coded as u64));
    }
    if coded != survey.track.len() {
        return Err(Error::internal(format!(
            "{} frames were counted and {coded} written",
            survey.track.len()
        )));
    }
    let (size, messages) = muxer.finish()?;
    let base = plan.source.video.time_base;
    let length = match (survey.track.first(), survey.track.end()) {
        (Some(first), Some(end)) => end.saturating_sub(first),
        _ => 0,
    };
    Ok(ConcatOutput {
        file: WrittenFile { size, sha256: String::new() },
        frames: survey.frames,
        duration_us: base.rescale(length, TimeBase::MICROS, Rounding::Nearest).unwrap_or(0),
        time_per_frame_ms: survey.times,
        messages,
        detections: survey.detections,
    })
}

/// What a job makes that only looks for things: the detections are its output.
fn detections_alone(
    plan: &Plan,
    format: DetectionsFormat,
    tracks: &File,
    out: &File,
) -> Result<ConcatOutput> {
    let (detections, frames, ticks) = write_detections(plan, format, tracks, out)?;
    let video = &plan.source.video;
    let last = TimeBase::new(video.frame_rate.den, video.frame_rate.num);
    let last = last.ok().and_then(|frame| frame.rescale(1, TimeBase::MICROS, Rounding::Nearest));
    let length = video.time_base.rescale(ticks, TimeBase::MICROS, Rounding::Nearest);
    let length = length.filter(|_| frames > 0).map(|us| us.saturating_add(last.unwrap_or(0)));
    let meta = out.metadata().map_err(|e| Error::io("cannot write the detections", &e))?;
    Ok(ConcatOutput {
        file: WrittenFile { size: meta.len(), sha256: String::new() },
        frames,
        duration_us: length.unwrap_or(0),
        time_per_frame_ms: BTreeMap::new(),
        messages: Vec::new(),
        detections: Some(detections),
    })
}

/// The detections file beside a video, written while its frames are counted.
struct Detections<'a> {
    reporter: Reporter<'a>,
    tracks: Option<TracksReader>,
    /// Frames that the tracks tell of and the segments do not hold.
    left_out: u64,
    out: Option<BufWriter<File>>,
}

impl<'a> Detections<'a> {
    fn new(plan: &'a Plan, tracks: Option<File>, out: Option<File>) -> Result<Option<Self>> {
        let Some(reporter) = Reporter::new(plan) else { return Ok(None) };
        let tracks = tracks.map(TracksReader::new).transpose()?;
        let mut new = Self { reporter, tracks, left_out: 0, out: out.map(BufWriter::new) };
        let header = new.reporter.header();
        new.put(&header)?;
        Ok(Some(new))
    }

    fn put(&mut self, value: &impl serde::Serialize) -> Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| put_detections(out, value))
    }

    fn frame(&mut self, frame: &FrameRecord) -> Result<()> {
        let mut line = None;
        if let Some(tracks) = &mut self.tracks {
            line = tracks.next()?;
            while line.as_ref().is_some_and(|line| line.pts < frame.pts) {
                self.left_out += 1;
                line = tracks.next()?;
            }
            if line.as_ref().is_none_or(|line| line.pts != frame.pts) {
                return Err(Error::internal(format!(
                    "frame at {}: the tracks tell of other frames than the segments hold",
                    frame.pts
                )));
            }
        }
        let line = self.reporter.line(frame.pts, line.as_ref(), &frame.noted);
        self.put(&line)
    }

    /// No frame comes any more; filters left out so many.
    fn finish(mut self, skipped: u64) -> Result<DetectionMetrics> {
        if let Some(tracks) = &mut self.tracks {
            while tracks.next()?.is_some() {
                self.left_out += 1;
            }
            if self.left_out != skipped {
                return Err(Error::internal(format!(
                    "the tracks tell of {} frames more than the segments hold, and filters left out {skipped}",
                    self.left_out
                )));
            }
        }
        if let Some(out) = &mut self.out {
            out.flush().map_err(|e| Error::io("cannot write the detections", &e))?;
        }
        Ok(self.reporter.finish())
    }
}

fn rewound(file: &File) -> Result<&File> {
    let mut at = file;
    at.rewind().map_err(|e| Error::io("cannot read a segment", &e))?;
    Ok(file)
}

/// What the first look at the segments found.
struct Surveyed {
    parameters: Option<StreamParameters>,
    track: Track,
    frames: u64,
    times: BTreeMap<String, Distribution>,
    detections: Option<DetectionMetrics>,
}

/// The first look at the segments.
struct Survey<'a> {
    plan: &'a Plan,
    task: &'a ConcatTask,
    lines: Option<BufWriter<File>>,
    detections: Option<Detections<'a>>,
    parameters: Option<StreamParameters>,
    builder: TrackBuilder,
    builder_frames: u64,
    /// Frames that filters left out.
    skipped: u64,
    delay: i64,
    steps: Vec<String>,
    /// Milliseconds, one list a step.
    times: Vec<Vec<f32>>,
    totals: Vec<f32>,
}

impl<'a> Survey<'a> {
    fn new(plan: &'a Plan, task: &'a ConcatTask, frame_metrics: Option<File>) -> Self {
        Self {
            plan,
            task,
            lines: frame_metrics.map(BufWriter::new),
            detections: None,
            parameters: None,
            builder: TrackBuilder::default(),
            builder_frames: 0,
            skipped: 0,
            delay: 0,
            steps: Vec::new(),
            times: Vec::new(),
            totals: Vec::new(),
        }
    }

    fn segment(&mut self, index: u32, file: &File) -> Result<()> {
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, rewound(file)?))?;
        let header = reader.header().clone();
        if header.time_base != self.plan.source.video.time_base || header.segment != index {
            return Err(Error::internal("it belongs to another plan"));
        }
        let accepted = self.task.accepted.get(index as usize);
        let accepted = accepted.ok_or_else(|| Error::invalid("it was not accepted"))?;
        if self.steps.is_empty() {
            self.steps.clone_from(&header.steps);
            self.times.resize(self.steps.len(), Vec::new());
        }
        let mut frames = 0;
        let mut parameters = header.parameters.clone();
        let counts = loop {
            match reader.next()? {
                Record::Packet(packet) => {
                    parameters.complete(&packet.data)?;
                    self.builder.packet(packet.pts);
                }
                Record::Frame(frame) => {
                    frames += 1;
                    self.builder.frame(frame.pts)?;
                    for (list, ms) in self.times.iter_mut().zip(&frame.ms) {
                        list.push(*ms);
                    }
                    self.totals.push(frame.ms.iter().sum());
                    if let Some(detections) = &mut self.detections {
                        detections.frame(&frame)?;
                    }
                    if let Some(lines) = &mut self.lines {
                        let line = FrameLine {
                            pts: frame.pts,
                            segment: index,
                            attempt: accepted.attempt,
                            slot: accepted.slot.clone(),
                            ms: header
                                .steps
                                .iter()
                                .cloned()
                                .zip(frame.ms.iter().copied().map(f64::from))
                                .collect(),
                        };
                        let failed =
                            |e: std::io::Error| Error::io("cannot write frame metrics", &e);
                        serde_json::to_writer(&mut *lines, &line).map_err(|e| failed(e.into()))?;
                        lines.write_all(b"\n").map_err(failed)?;
                    }
                }
                Record::End(counts) => break counts,
            }
        };
        if counts.output != frames {
            return Err(Error::internal(format!(
                "it says {} frames and holds {frames}",
                counts.output
            )));
        }
        self.builder.end_segment(index, &mut self.delay)?;
        self.builder_frames += frames;
        self.skipped += counts.skipped;
        if reader.sha256() != accepted.sha256 {
            return Err(Error::corrupt(
                "its file was changed after it was accepted: run again with --fresh",
            ));
        }
        if frames == 0 {
            return Ok(());
        }
        match &self.parameters {
            None => self.parameters = Some(parameters),
            Some(known) if *known == parameters => {}
            Some(_) => {
                return Err(Error::internal(
                    "its codec headers differ from those of the segments before it",
                ));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Surveyed> {
        if let Some(lines) = &mut self.lines {
            lines.flush().map_err(|e| Error::io("cannot write frame metrics", &e))?;
        }
        let mut times: BTreeMap<String, Distribution> = self
            .steps
            .into_iter()
            .zip(&mut self.times)
            .map(|(step, list)| (step, Distribution::of(list)))
            .collect();
        times.insert("total".into(), Distribution::of(&mut self.totals));
        let video = &self.plan.source.video;
        let rate = video.frame_rate;
        let frame = TimeBase::new(rate.den, rate.num)
            .ok()
            .and_then(|frame| frame.rescale(1, video.time_base, Rounding::Nearest));
        let skipped = self.skipped;
        let detections =
            self.detections.map(|detections| detections.finish(skipped)).transpose()?;
        Ok(Surveyed {
            parameters: self.parameters,
            track: self.builder.finish(self.delay, frame.unwrap_or(1)),
            frames: self.builder_frames,
            times,
            detections,
        })
    }
}
