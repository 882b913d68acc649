//! Making a plan: what the source is, where it is cut, and everything else that shapes bytes.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use frameloom_core::catalogue::Footprint;
use frameloom_core::fingerprint::fingerprint;
use frameloom_core::frame_task;
use frameloom_core::plan::{
    EntryPoint, Fingerprint, Message, OutputInfo, PLAN_VERSION, Plan, PlannedFilter, Seek, Segment,
    SourceInfo, VideoInfo,
};
use frameloom_core::planner::{self, Cuts};
use frameloom_core::slot::PlanTask;
use frameloom_core::spec::{JobSpec, KeptMetadata};
use frameloom_core::time::{Interval, Rounding, TimeBase};
use frameloom_core::{Error, Result};

use crate::demux::Demuxer;
use crate::filter::{Files, Parts};
use crate::frame::{FrameFormat, PixelFormat};
use crate::index::{FILE_START, Index, Known};
use crate::{
    captions, decode, encode, engine, filter, follow, hdr, pieces, source, streams, validate,
};

/// Work a picture's pixel costs, in nanoseconds: what a segment is worth cutting for.
const NANOSECONDS_A_PIXEL: f64 = 40.0;

/// A GOP of less work than this, in seconds, is never cut within.
const LEAST_WORK: f64 = 5.0;

/// Keys before a border that are tried as the place where a halo begins.
const TRIES: usize = 16;

/// Makes the plan of a job.
///
/// `progress` hears how many packets were read. Nothing is decoded but the few pictures by which
/// FFmpeg finds out what a stream holds.
///
/// # Errors
/// Invalid for parameters that do not fit the source; Unsupported and Corrupt for the source.
pub fn make_plan(
    file: &File,
    task: &PlanTask,
    files: &Files,
    progress: &mut dyn FnMut(u64),
) -> Result<Plan> {
    let (name, spec) = (task.name.as_str(), &task.spec);
    validate::hidden_stays_hidden(spec)?;
    let mut demuxer = Demuxer::open(file, name)?;
    let stream = source::choose_stream(&demuxer, name, spec.stream)?;
    let mut messages = Vec::new();
    let hides = spec.filters.iter().any(follow::hides_things);
    let left_out: Vec<KeptMetadata> = KeptMetadata::ALL
        .into_iter()
        .filter(|kept| hides && !spec.keep_metadata.contains(kept))
        .collect();
    let mut video = source::video_info(&demuxer, stream, &mut messages)?;
    // SAFETY: the demuxer is open and its streams are found.
    let (planned_streams, more) =
        unsafe { streams::plan_streams(demuxer.context(), stream, spec, &left_out) }?;
    messages.extend(more);
    // SAFETY: as above.
    messages
        .extend(unsafe { streams::dropped_tags(demuxer.context(), &planned_streams, &left_out) });

    let working = working_format(spec, &video, &mut messages)?;
    let (filters, output, footprint) = filter::plan_chain(&spec.filters, &working)?;
    validate::originals_fit(spec, &filters, &working.picture())?;
    messages.extend(in_order(spec, &filters, &working));
    // What only shows when they are built is told before any work begins.
    drop(filter::Chain::new(&filters, &working, &Parts::alone(files))?);
    let fingerprint = fingerprint_of(file, spec.verify_source)?;
    let of = filter::Pictured {
        source: &fingerprint,
        file: Some(file),
        time_base: video.time_base,
        size: (working.width, working.height),
    };
    let regions = filter::plan_regions(&spec.filters, files, &of)?;
    if video.frame_rate.is_known() {
        follow::looks_often_enough(&spec.filters, video.frame_rate.to_f64())?;
    }
    let mut detection =
        follow::plan_detection(&spec.filters, files, &regions, spec.detections_only)?;

    let known = Known::of(&demuxer, stream)?;
    let (format, start_us, duration_us) =
        (demuxer.format_name(), demuxer.start_us().unwrap_or(0), demuxer.duration_us());
    let header_bytes = demuxer.input().bytes_read();
    if working.pixel == PixelFormat::Yuv420p10 {
        hdr::complete(&mut demuxer, &mut video)?;
    }
    drop(demuxer);
    let mut index = Index::read(file, name, &known, stream, progress)?;
    messages.extend(index.damage.take().map(|text| Message::new("source_truncated", text)));
    if index.discontinuous {
        messages.push(Message::new(
            "timestamps_joined",
            "the source's timestamps begin anew on the way; what follows is moved so that they go on",
        ));
    }
    let mut first = index.first.unwrap_or(0);
    if hides {
        // A source whose first picture cannot be decoded is judged elsewhere.
        let shown = decode::first_frame(&mut Demuxer::open(file, name)?, &video, false);
        messages.extend(shown.ok().flatten().and_then(|frame| captions::told(&frame, &left_out)));
    }
    if index.decoding_time && (spec.from_us, spec.to_us) != (None, None) {
        // A decoder holds frames back, and they have the time at which they come out.
        let shown = decode::first_frame(&mut Demuxer::open(file, name)?, &video, false)?;
        first = shown.map_or(first, |frame| frame.pts());
    }
    let trim = trim(spec, video.time_base, first, index.end)?;
    if !regions.is_empty()
        && let Some(times) = index.times(file, name)?
    {
        for planned in &regions {
            let frames = times.iter().copied().filter(|pts| trim.contains(*pts));
            messages.extend(planned.tells_of(frames, video.time_base)?);
        }
    }
    let mut cutter =
        Cutter { index: &mut index, footprint, trim, entries: Vec::new(), asked: false };
    let reason = cutter.reason();
    let segments = cutter.segments(spec, &video, reason.is_some())?;
    if let Some(detection) = &mut detection
        && follow::looks_first(&spec.filters, spec.detections_only)
    {
        // Filters that keep something from frame to frame look segment by segment.
        let alone = detection.only.is_none() || footprint == Footprint::PerFrame;
        detection.pieces = cutter.pieces(&segments, video.time_base, alone);
    }
    let (entries, asked) = (cutter.entries, cutter.asked);
    let reason = reason.or_else(|| (segments.len() == 1).then(|| why_whole(&index, asked)));
    let (encoder, more) =
        encode::plan_encoder(&spec.encoder, spec.container, &output, &video, segments.len() == 1)?;
    messages.extend(more);

    let base = video.time_base;
    let at = |us| TimeBase::MICROS.rescale(us, base, Rounding::Nearest).unwrap_or(0);
    let (offset, start_us) = match trim.start {
        Some(start) => {
            let us = base.rescale(start, TimeBase::MICROS, Rounding::Nearest);
            (start, us.unwrap_or(start_us))
        }
        None => (at(start_us), start_us),
    };
    Ok(Plan {
        version: PLAN_VERSION,
        engine: engine(),
        source: SourceInfo {
            name: name.to_owned(),
            format,
            fingerprint,
            start_us,
            duration_us,
            video: VideoInfo {
                start_pts: index.first.or(video.start_pts),
                frames: index.frames.or(video.frames),
                reorder: index.reorder,
                discontinuous: index.discontinuous,
                ..video
            },
        },
        trim,
        offset,
        filters,
        footprint,
        working: working.picture(),
        output: OutputInfo {
            container: spec.container,
            width: output.width,
            height: output.height,
            pixel_format: output.pixel.name().into(),
            sample_aspect_ratio: output.sample_aspect_ratio,
        },
        detection,
        hides,
        left_out,
        encoder,
        streams: planned_streams,
        segments,
        entries,
        reason,
        messages,
        granularity: spec.granularity,
        on_error: spec.on_error,
        index_bytes_read: header_bytes.saturating_add(index.total_bytes_read()),
    })
}

/// Which filters' frames are no tasks, where frames are to be.
fn in_order(spec: &JobSpec, filters: &[PlannedFilter], working: &FrameFormat) -> Vec<Message> {
    if spec.granularity.is_segment() {
        return Vec::new();
    }
    if spec.detections_only.is_some() {
        let text =
            "frames are only looked at, not processed: --granularity frame changes nothing here";
        return vec![Message::new("no_frame_tasks", text)];
    }
    let away = frame_task::stretches(filters, &working.picture());
    let own = |at: u32| away.iter().any(|s| (s.first..s.end).contains(&at));
    let left =
        (0u32..).zip(filters).filter(|(at, f)| !own(*at) && f.spec.name != frame_task::FILTER);
    let mut messages: Vec<Message> = left
        .map(|(_, filter)| {
            let why = if frame_task::is_about_things(&filter.spec.name) {
                "goes by what is found in the whole video, or notes what it finds"
            } else {
                "keeps state from frame to frame"
            };
            let text = format!(
                "filter '{}' {why}: it runs in order where its segment is decoded, beside the frame tasks",
                filter.spec
            );
            Message::new("filter_in_order", text)
        })
        .collect();
    if away.is_empty() {
        messages.push(Message::new(
            "no_frame_tasks",
            "no filter's frames can be tasks of nodes: --granularity frame changes nothing here",
        ));
    }
    messages
}

/// Why a timeline that might have been cut was not.
fn why_whole(index: &Index, asked: bool) -> String {
    match index.keys.len() {
        0 | 1 => "the source has one place only where decoding may begin".into(),
        _ if asked => {
            "none of its keyframes is a place where decoding may begin (intra refresh)".into()
        }
        _ => "the video is not longer than one segment".into(),
    }
}

/// What identifies the content of `file`.
pub(crate) fn fingerprint_of(file: &File, whole: bool) -> Result<Fingerprint> {
    let failed = |e: std::io::Error| Error::io("cannot read the source", &e);
    let meta = file.metadata().map_err(failed)?;
    let modified = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    fingerprint(meta.len(), modified, whole, &mut |offset, bytes: &mut [u8]| {
        file.read_exact_at(bytes, offset).map_err(failed)
    })
}

/// The format that filters get, chosen so that the encoder takes what they give.
fn working_format(
    spec: &JobSpec,
    video: &VideoInfo,
    messages: &mut Vec<Message>,
) -> Result<FrameFormat> {
    let lossless = spec.encoder.lossless;
    let mut format = source::working_format(video, lossless, spec.keep_depth, messages)?;
    let taken = encode::pixel_for(&spec.encoder, spec.container, format.pixel)?;
    if taken != format.pixel {
        if format.pixel == PixelFormat::Yuv420p10 && spec.keep_depth {
            return Err(Error::unsupported(
                "--keep-depth needs an encoder that takes 10 bits, like --codec hevc",
            ));
        }
        messages.push(Message::new(
            "pixel_format_converted",
            format!(
                "pixel format {} is converted to {}, which the encoder takes",
                format.pixel.name(),
                taken.name()
            ),
        ));
        format.pixel = taken;
    }
    Ok(format)
}

/// The part of the timeline that is kept, in ticks.
fn trim(spec: &JobSpec, base: TimeBase, first: i64, end: Option<i64>) -> Result<Interval> {
    let at = |micros: Option<i64>, what: &str| {
        micros
            .map(|us| {
                base.ticks_of_micros(us)
                    .and_then(|ticks| first.checked_add(ticks))
                    .ok_or_else(|| Error::invalid(format!("--{what} is past any timeline")))
            })
            .transpose()
    };
    let start = at(spec.from_us.filter(|us| *us > 0), "from")?;
    let stop = at(spec.to_us, "to")?;
    if let (Some(start), Some(end)) = (start, end)
        && start >= end
    {
        return Err(Error::invalid(format!(
            "--from is behind the end: the video lasts {:.3} s",
            base.seconds(end.saturating_sub(first))
        )));
    }
    Ok(Interval { start, end: stop })
}

/// Cuts the timeline.
struct Cutter<'a> {
    index: &'a mut Index,
    footprint: Footprint,
    trim: Interval,
    entries: Vec<EntryPoint>,
    /// Whether a border was wanted anywhere.
    asked: bool,
}

impl Cutter<'_> {
    /// Why the timeline stays whole, if it must.
    fn reason(&self) -> Option<String> {
        if self.footprint == Footprint::Sequential {
            return Some("a filter needs all frames before each one (sequential)".into());
        }
        self.index.uncut.clone()
    }

    /// The first tick of the timeline, and the one behind its last.
    fn ends(&self) -> (i64, i64) {
        let first = self.trim.start.or(self.index.first).unwrap_or(0);
        let end = match (self.trim.end, self.index.end) {
            (Some(trim), Some(end)) => trim.min(end),
            (Some(end), None) | (None, Some(end)) => end,
            (None, None) => first,
        };
        (first, end)
    }

    fn segments(&mut self, spec: &JobSpec, video: &VideoInfo, whole: bool) -> Result<Vec<Segment>> {
        self.entries = vec![EntryPoint { pts: FILE_START, seek: Seek::Start }];
        let (first, end) = self.ends();
        let learns_us = learning_us(video, self.footprint);
        let learns = learns_us > 0;
        let longest_us = spec.segment_us;
        let time_base = video.time_base;
        let cuts = Cuts { time_base, start: first, end, longest_us, learns_us };
        let pts: Vec<i64> = self.index.keys.iter().map(|key| key.pts).collect();
        let halo = halo_ticks(video, self.footprint.before());
        // Where a filter learns before each segment, that begins at a keyframe: what lies before one would be decoded for nothing.
        let behind = if learns { halo } else { 0 };
        let inside: Vec<i64> = pts
            .iter()
            .map(|t| t.saturating_add(behind))
            .filter(|t| *t > first && *t < end)
            .collect();
        let borders = if whole {
            Vec::new()
        } else {
            cuts.borders(&inside, |border| {
                self.asked = true;
                self.index.accept(pts.partition_point(|t| *t < border.saturating_sub(behind)))
            })?
        };
        let inner = match spec.segment_us {
            None if !whole => within_gops(video, &inside, &borders, (first, end), learns),
            _ => Vec::new(),
        };
        let mut all: Vec<i64> = borders.iter().chain(&inner).copied().collect();
        all.sort_unstable();
        let mut segments = planner::segments(&all);
        let mut begins = vec![FILE_START; segments.len()];
        for (segment, begin) in segments.iter_mut().zip(&mut begins) {
            // A trimmed video begins at its trim, with no halo.
            let (start, halo) = match (segment.interval.start, self.trim.start) {
                (Some(start), _) => (start, halo),
                (None, Some(start)) if !whole => (start, 0),
                _ => continue,
            };
            *begin = self.entry_before(&pts, start.saturating_sub(halo))?;
            if inner.contains(&start) {
                let why = if learns {
                    "so that slots end together"
                } else {
                    "within a long group of pictures"
                };
                segment.reason = Some(why.into());
            }
        }
        for (segment, begin) in segments.iter_mut().zip(begins) {
            let entry = self.entries.partition_point(|e| e.pts < begin);
            segment.entry = u32::try_from(entry).unwrap_or(0);
        }
        Ok(segments)
    }

    /// What is looked into one by one: parts of the segments where frames can be looked at `alone`.
    fn pieces(&self, segments: &[Segment], base: TimeBase, alone: bool) -> Vec<Segment> {
        if !alone {
            return segments.to_vec();
        }
        let (first, end) = self.ends();
        let piece = |(index, (segment, interval)): (u32, (&Segment, Interval))| Segment {
            index,
            interval,
            entry: segment.entry,
            reason: None,
        };
        (0..).zip(pieces::cut(segments, base, first, end)).map(piece).collect()
    }

    /// The pts of the entry where decoding begins for frames from `start` on; it is noted in
    /// `entries`.
    fn entry_before(&mut self, pts: &[i64], start: i64) -> Result<i64> {
        let behind = pts.partition_point(|t| *t <= start);
        // Frames with decoding times only are late by the decoder's delay: one key more.
        let mut wanted = 1 + usize::from(self.index.decoding_time);
        for key in (0..behind).rev().take(TRIES) {
            if self.index.accept(key)? {
                let pts = pts[key];
                let at = self.entries.partition_point(|e| e.pts < pts);
                if self.entries.get(at).is_none_or(|e| e.pts != pts) {
                    let seek = self.index.keys[key].seek.clone();
                    self.entries.insert(at, EntryPoint { pts, seek });
                }
                wanted -= 1;
                if wanted == 0 {
                    return Ok(pts);
                }
            }
        }
        Ok(FILE_START)
    }
}

/// How long a filter learns before each segment, in microseconds.
fn learning_us(video: &VideoInfo, footprint: Footprint) -> i64 {
    let Footprint::Warmup { frames } = footprint else { return 0 };
    let frame = TimeBase::new(video.frame_rate.den, video.frame_rate.num);
    frame
        .ok()
        .and_then(|f| f.rescale(i64::from(frames), TimeBase::MICROS, Rounding::Up))
        .unwrap_or(0)
}

/// How far back a halo of `frames` reaches, in ticks, with half as much again for uneven rates.
pub(crate) fn halo_ticks(video: &VideoInfo, frames: u32) -> i64 {
    let rate = video.frame_rate;
    let Ok(frame) = TimeBase::new(rate.den, rate.num) else { return i64::from(frames) };
    let frames = i64::from(frames) + i64::from(frames.div_ceil(2));
    frame.rescale(frames, video.time_base, Rounding::Up).unwrap_or(frames)
}

/// Borders within GOPs, towards the end only: there a long segment keeps one slot busy while others
/// have nothing to do. Such a GOP is cut once, so that fewer than half as many frames are decoded
/// and dropped as are kept. Where a filter learns from what comes before a segment, segments are long, of one
/// GOP or more.
fn within_gops(
    video: &VideoInfo,
    keys: &[i64],
    borders: &[i64],
    (first, end): (i64, i64),
    learns: bool,
) -> Vec<i64> {
    let rate = if video.frame_rate.is_known() { video.frame_rate.to_f64() } else { 25.0 };
    let pixels = f64::from(video.width) * f64::from(video.height);
    let work =
        |ticks: i64| video.time_base.seconds(ticks) * rate * pixels * NANOSECONDS_A_PIXEL / 1e9;
    let edges: Vec<i64> = [first].into_iter().chain(borders.iter().copied()).chain([end]).collect();
    edges
        .windows(2)
        .filter(|w| {
            let length = w[1] - w[0];
            let is_one_gop = !keys.iter().any(|key| *key > w[0] && *key < w[1]);
            let is_late = length >= (end - w[0]) / 2;
            (learns || is_one_gop) && is_late && work(length) > LEAST_WORK
        })
        .map(|w| w[0] + (w[1] - w[0]) / 100 * 49)
        .collect()
}
