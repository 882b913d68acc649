//! Running a segment: decode from an entry point, convert, filter, encode, write the segment file.
//!
//! The frames of a segment are those whose pts lies in its interval. The runner decodes what comes
//! before (the way from the entry point, and the halo) and after (the halo), and drops it again.
//! Where too little came before, or where damage was met, it starts again further back: what the
//! decoder shows then is what it would show had it decoded everything.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Seek as _};
use std::time::{Duration, Instant};

use frameloom_core::catalogue::Footprint;
use frameloom_core::detection::TrackedBox;
use frameloom_core::id::JobId;
use frameloom_core::metrics::FrameCounts;
use frameloom_core::plan::{Plan, PlannedFilter, Seek, Segment};
use frameloom_core::slot::{SegmentOutput, SegmentTask, WrittenFile};
use frameloom_core::spec::Granularity;
use frameloom_core::time::Interval;
use frameloom_core::{Error, Result};

use crate::captions;
use crate::convert::Converter;
use crate::decode::{self, Decoder};
use crate::demux::Demuxer;
use crate::encode::Encoder;
use crate::ff::Packet;
use crate::filter::{Chain, Exchange, Files, FilterTimes, Notes, Parts, RegionsKept, Spread};
use crate::follow::{Look, LookHeader, LookLine, LookRecord, LookWriter, Looker, is_detector};
use crate::frame::{Frame, FrameFormat};
use crate::planning::halo_ticks;
use crate::preview::{Preview, Previewer, Shown};
use crate::seek;
use crate::seg_file::{self, FrameRecord};

/// What conceals damage may be left over from any picture decoded before: FFmpeg's decoders use
/// buffers again. So a damaged segment within so many seconds is decoded from the source's start;
/// a later one from one entry point earlier, which shows the same but for what is concealed.
const NEAR_SECONDS: f64 = 600.0;

/// What a segment at work tells.
#[derive(Debug)]
pub enum Progress {
    /// So many frames are done.
    Frames(u64),
    /// What one of them looks like.
    Preview(Preview),
}

/// What comes along with a segment beside source and plan.
#[derive(Default)]
pub struct Given {
    /// The files that filters take.
    pub files: Files,
    /// The tracks of the whole video.
    pub tracks: Option<File>,
}

/// Runs segments, one after the other, and keeps the source open between those of a job.
pub struct SegmentRunner {
    open: Option<(JobId, Demuxer)>,
    shared: Shared,
    /// The detectors of the job that last had any.
    looker: Option<(JobId, Looker)>,
    /// When a picture of that job was last taken.
    shown: Option<Shown>,
}

/// What all passes of a job share.
#[derive(Clone)]
struct Shared {
    /// Carries frames that are processed elsewhere.
    exchange: Option<Exchange>,
    /// What was read of boxes that files tell of, for the job that is open.
    regions: RegionsKept,
}

/// What a pass over a segment is for, and what it works with.
struct Task<'a> {
    plan: &'a Plan,
    task: &'a SegmentTask,
    given: &'a Given,
    /// Whether things are looked for, and no frame is encoded.
    detects: bool,
}

impl SegmentRunner {
    /// A runner with nothing open; `exchange` carries frames that are processed elsewhere.
    pub fn new(exchange: Option<Exchange>) -> Self {
        let shared = Shared { exchange, regions: RegionsKept::default() };
        Self { open: None, shared, looker: None, shown: None }
    }

    /// Looks for things in one segment and writes what was found to `out`; `progress` hears the frames done.
    ///
    /// # Errors
    /// Of the source, the pipeline or the models; Invalid where the task doesn't fit the plan.
    pub fn detect(
        &mut self,
        source: &File,
        plan: &Plan,
        task: &SegmentTask,
        given: Given,
        out: File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<SegmentOutput> {
        let what = Task { plan, task, given: &given, detects: true };
        self.measured(source, &what, out, progress)
            .map_err(|e| e.at(format!("detect {}", task.segment)))
    }

    /// Processes one segment and writes its file to `out`; `progress` hears the frames done, and with
    /// `task.previews` small pictures of them now and then.
    ///
    /// # Errors
    /// Of the source, the pipeline or the encoder; Invalid where the task doesn't fit the plan.
    pub fn run(
        &mut self,
        source: &File,
        plan: &Plan,
        task: &SegmentTask,
        given: Given,
        out: File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<SegmentOutput> {
        let what = Task { plan, task, given: &given, detects: false };
        self.measured(source, &what, out, progress)
            .map_err(|e| e.at(format!("segment {}", task.segment)))
    }

    fn measured(
        &mut self,
        source: &File,
        what: &Task<'_>,
        out: File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<SegmentOutput> {
        let (wall, cpu) = (Instant::now(), cpu_time());
        let number = what.task.segment;
        let pieces = what.plan.detection.as_ref().map_or(&[][..], |d| d.pieces.as_slice());
        let (segments, kind) = if what.detects {
            (pieces, "piece")
        } else {
            (what.plan.segments.as_slice(), "segment")
        };
        let segment = segments.get(number as usize);
        let segment =
            segment.ok_or_else(|| Error::invalid(format!("the plan has no {kind} {number}")))?;
        let made = self.attempts(source, what, segment, out, progress)?;
        Ok(SegmentOutput {
            file: made.file,
            frames: made.counts,
            cpu_us: micros(cpu_time().saturating_sub(cpu)),
            wall_us: micros(wall.elapsed()),
        })
    }

    fn attempts(
        &mut self,
        source: &File,
        what: &Task<'_>,
        segment: &Segment,
        out: File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Made> {
        let (plan, task) = (what.plan, what.task);
        let mut entry = segment.entry as usize;
        let mut threads = task.decode_threads.max(1);
        let (mut step, mut careful) = (1, false);
        let mut decoded = 0;
        loop {
            let mut looker = what.detects.then(|| self.looker(what)).transpose()?;
            if self.open.as_ref().is_none_or(|(open, _)| *open != task.job) {
                self.shown = None;
                self.shared.regions = RegionsKept::default();
            }
            let shared = self.shared.clone();
            let shown = self.shown;
            let demuxer = self.demuxer(source, plan, task.job)?;
            if let Some(looker) = &mut looker {
                looker.begin(match segment.interval.start {
                    Some(start) if looker.leaves_out() => {
                        let (name, stream) = (&plan.source.name, plan.source.video.stream);
                        let before = seek::shown_before(
                            demuxer,
                            source,
                            name,
                            stream,
                            &plan.entries,
                            start,
                        )?;
                        before.filter(|pts| !plan.trim.is_before(*pts))
                    }
                    _ => None,
                });
            }
            let file = out.try_clone().map_err(|e| Error::io("cannot write the segment", &e))?;
            let mut pass = Pass::new(what, segment, entry, file, &shared, looker, progress)?;
            pass.careful = careful;
            pass.previewer =
                (task.previews && !what.detects).then(|| Previewer::new(shown, task.reveals));
            let end = pass.run(source, demuxer, threads)?;
            decoded += pass.counts.decoded;
            self.shown = pass.previewer.as_ref().and_then(Previewer::last).or(shown);
            match end {
                End::Done => {
                    let (made, looker) = pass.finish(decoded)?;
                    self.looker = looker.map(|looker| (task.job, looker)).or(self.looker.take());
                    return Ok(made);
                }
                End::GoBack { damaged } => {
                    entry = entry.saturating_sub(step);
                    step *= 2;
                    if damaged {
                        threads = 1;
                        careful = true;
                        if is_near(plan, segment) {
                            entry = 0;
                        }
                    }
                }
                End::OneThread => threads = 1,
            }
            let looker = pass.into_looker();
            self.looker = looker.map(|looker| (task.job, looker)).or(self.looker.take());
            let reset = out.set_len(0).and_then(|()| (&out).rewind());
            reset.map_err(|e| Error::io("cannot write the segment", &e))?;
        }
    }

    /// The detectors of a job, loaded once: of another job's those stay that look the same way.
    fn looker(&mut self, what: &Task<'_>) -> Result<Looker> {
        Ok(match self.looker.take() {
            Some((job, looker)) if job == what.task.job => looker,
            before => {
                let before = before.map(|(_, looker)| looker);
                Looker::new(what.plan, &what.given.files, before)?
            }
        })
    }

    fn demuxer(&mut self, source: &File, plan: &Plan, job: JobId) -> Result<&mut Demuxer> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != job) {
            let mut demuxer = Demuxer::open(source, &plan.source.name)?;
            if plan.source.video.discontinuous {
                demuxer.correct_times();
            }
            demuxer.keep_only(|i| i == plan.source.video.stream);
            self.open = Some((job, demuxer));
        }
        match &mut self.open {
            Some((_, demuxer)) => Ok(demuxer),
            None => Err(Error::internal("no source is open")),
        }
    }
}

/// Whether a segment begins so near the source's start that decoding from there is worth it.
fn is_near(plan: &Plan, segment: &Segment) -> bool {
    let video = &plan.source.video;
    match (segment.interval.start, video.start_pts) {
        (Some(start), Some(first)) => {
            video.time_base.seconds(start.saturating_sub(first)) <= NEAR_SECONDS
        }
        _ => true,
    }
}

struct Made {
    file: WrittenFile,
    counts: FrameCounts,
}

/// How a pass over a segment ended.
enum End {
    Done,
    GoBack {
        damaged: bool,
    },
    /// Something is missing or damaged, perhaps where it doesn't matter; with several threads what stands in for it
    /// depends on them.
    OneThread,
}

/// One pass over a segment, from one entry point.
struct Pass<'a> {
    plan: &'a Plan,
    at_start: bool,
    entry: usize,
    /// The frames that are encoded.
    range: Interval,
    before: usize,
    after: u32,
    /// Whether frames before the range run through the filters as they come: there may be too many to keep.
    warms_up: bool,
    /// What is shown before this is not learnt from: it only lies on the way.
    learns_from: Option<i64>,
    /// Frames before the range that did so.
    ahead: usize,
    converter: Converter,
    chain: Chain,
    notes: Notes,
    sink: Sink,
    progress: &'a mut dyn FnMut(Progress),
    previewer: Option<Previewer>,
    /// Frames before the range, kept for the halo.
    halo: VecDeque<Frame>,
    /// Whether a frame before the trimmed timeline was seen, so that no more halo exists.
    trimmed: bool,
    started: bool,
    behind: u32,
    damaged: bool,
    /// Packets of the range that could not be decoded.
    errors: u64,
    /// Whether the pass is one after damage: then everything is decoded, since what conceals damage
    /// may come from any picture.
    careful: bool,
    go_back: Option<bool>,
    counts: FrameCounts,
    records: Vec<FrameRecord>,
    /// When the decoder last got control, and the time it has used for the next frame.
    clock: Instant,
    decode_times: VecDeque<(i64, f32)>,
    ready: Vec<(Frame, FilterTimes)>,
}

/// Where frames go behind the filters.
enum Sink {
    /// Into a segment of the video.
    Video { encoder: Box<Encoder>, writer: Option<seg_file::Writer<BufWriter<File>>> },
    /// Nowhere: what was found in them is written down.
    Looks {
        looker: Looker,
        writer: LookWriter<BufWriter<File>>,
        /// What was found in frames that are still within the filters, with milliseconds by step.
        found: VecDeque<(i64, Vec<Look>, Vec<f32>)>,
    },
    /// It is written.
    Ended,
}

/// `[start, end)` cut to what both keep.
fn intersect(a: Interval, b: Interval) -> Interval {
    let start = match (a.start, b.start) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    let end = match (a.end, b.end) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Interval { start, end }
}

impl<'a> Pass<'a> {
    fn new(
        what: &Task<'a>,
        segment: &Segment,
        entry: usize,
        out: File,
        shared: &Shared,
        looker: Option<Looker>,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let (plan, number) = (what.plan, what.task.segment);
        let video = &plan.source.video;
        let working = FrameFormat::of(&plan.working, video)?;
        // What looks for things does so where the segment is decoded.
        let spread = (plan.granularity == Granularity::Frame && !what.detects)
            .then_some(Spread { bytes: what.task.frame_bytes, on_error: plan.on_error });
        let parts = Parts {
            exchange: shared.exchange.as_ref(),
            files: &what.given.files,
            plan: Some(plan),
            tracks: what.given.tracks.as_ref(),
            spread,
            regions: Some(&shared.regions),
        };
        // To look for things, frames go through no more filters than find any.
        let filters = if what.detects { watched(plan) } else { plan.filters.as_slice() };
        let footprint = filters.iter().fold(Footprint::PerFrame, |f, g| f.then(g.footprint));
        let chain = Chain::new(filters, &working, &parts)?;
        let out = BufWriter::with_capacity(256 * 1024, out);
        let mut steps = vec!["decode".to_owned()];
        steps.extend(looker.iter().flat_map(Looker::names));
        steps.extend(chain.names());
        let sink = match looker {
            Some(looker) => {
                let header = LookHeader { segment: number, time_base: video.time_base, steps };
                let writer = LookWriter::new(out, &header)?;
                Sink::Looks { looker, writer, found: VecDeque::new() }
            }
            None => {
                let mut encoder = Encoder::open(&plan.encoder, chain.output())?;
                if number > 0 {
                    encoder.rehearse(&plan.encoder);
                }
                steps.push("encode".into());
                let header = seg_file::Header {
                    segment: number,
                    time_base: video.time_base,
                    parameters: encoder.parameters()?,
                    steps,
                };
                let writer = Some(seg_file::Writer::new(out, &header)?);
                Sink::Video { encoder: Box::new(encoder), writer }
            }
        };
        let entry_point = plan.entries.get(entry);
        Ok(Self {
            plan,
            at_start: entry_point.is_none_or(|e| e.seek == Seek::Start),
            entry,
            range: intersect(segment.interval, plan.trim),
            before: footprint.before() as usize,
            after: footprint.after(),
            warms_up: matches!(footprint, Footprint::Warmup { .. }),
            // Where that was not enough, as with rates that vary, all that there is counts.
            learns_from: segment
                .interval
                .start
                .filter(|_| entry == segment.entry as usize)
                .map(|start| start.saturating_sub(halo_ticks(video, footprint.before()))),
            ahead: 0,
            converter: Converter::new(
                working.pixel,
                video.width,
                video.height,
                video.rotation,
                video.flip,
            ),
            notes: chain.notes(),
            chain,
            sink,
            progress,
            previewer: None,
            halo: VecDeque::new(),
            trimmed: false,
            started: false,
            behind: 0,
            damaged: false,
            errors: 0,
            careful: false,
            go_back: None,
            counts: FrameCounts::default(),
            records: Vec::new(),
            clock: Instant::now(),
            decode_times: VecDeque::new(),
            ready: Vec::new(),
        })
    }

    fn run(&mut self, source: &File, demuxer: &mut Demuxer, threads: u32) -> Result<End> {
        let video = &self.plan.source.video;
        let rate = ffmpeg_next::ffi::AVRational {
            num: video.frame_rate.num,
            den: video.frame_rate.den.max(1),
        };
        let mut packet = Packet::new()?;
        let entry = self.plan.entries.get(self.entry);
        self.clock = Instant::now();
        let mut more =
            seek::go_to(demuxer, source, &self.plan.source.name, video.stream, entry, &mut packet)?;
        let parameters = demuxer.parameters(video.stream)?;
        let mid_stream = !self.at_start;
        let mut decoder =
            Decoder::open(parameters, video.time_base, rate, threads, video.reorder, mid_stream)?;
        // On the way to the range, pictures that nothing refers to need not be decoded.
        let skips = self.before == 0 && !self.careful;
        let skippable = if skips { self.range.start } else { None };
        let mut errors_before = 0;
        while more {
            if let Some(start) = skippable {
                decoder.skip_unreferenced(packet.pts().is_some_and(|pts| pts < start));
            }
            let go_on = decoder.decode(Some(&packet), &mut |frame| self.frame(frame))?;
            if decoder.errors() > errors_before {
                // What leads up to the range may lack its references; the range itself may not.
                let leads = self.range.start.zip(packet.pts()).is_some_and(|(s, pts)| pts < s);
                self.damaged |= self.started || !leads;
                if self.started || !leads {
                    self.errors += decoder.errors() - errors_before;
                }
                errors_before = decoder.errors();
            }
            if let Some(end) = self.must_go_back(&decoder, threads) {
                return Ok(end);
            }
            if !go_on {
                return self.drain().map(|()| End::Done);
            }
            more = seek::next(demuxer, video.stream, &mut packet)?;
        }
        decoder.skip_unreferenced(false);
        decoder.decode(None, &mut |frame| self.frame(frame))?;
        self.damaged |= decoder.errors() > errors_before;
        self.errors += decoder.errors() - errors_before;
        if let Some(end) = self.must_go_back(&decoder, threads) {
            return Ok(end);
        }
        self.drain().map(|()| End::Done)
    }

    /// Damage is shown as one decoding thread shows it that has seen what came before.
    fn must_go_back(&self, decoder: &Decoder, threads: u32) -> Option<End> {
        if let Some(damaged) = self.go_back {
            return Some(End::GoBack { damaged });
        }
        if self.damaged && !self.careful {
            return Some(End::GoBack { damaged: true });
        }
        (threads > 1 && decoder.complaints() > 0).then_some(End::OneThread)
    }

    /// Takes a decoded frame; `false` where no more are needed.
    fn frame(&mut self, mut frame: Frame) -> Result<bool> {
        captions::leave_out(&mut frame, &self.plan.left_out);
        let decode_ms = ms(self.clock.elapsed());
        let go_on = self.sort_in(frame, decode_ms);
        self.clock = Instant::now();
        go_on
    }

    fn sort_in(&mut self, frame: Frame, decode_ms: f32) -> Result<bool> {
        self.counts.decoded += 1;
        // The way to the range is work, too.
        (self.progress)(Progress::Frames(self.counts.output));
        let pts = frame.pts();
        if self.plan.trim.is_before(pts) {
            self.trimmed = true;
            return Ok(true);
        }
        if self.plan.trim.end.is_some_and(|end| pts >= end) {
            return Ok(false);
        }
        if self.range.is_before(pts) {
            if self.warms_up {
                if self.learns_from.is_some_and(|from| pts < from) {
                    return Ok(true);
                }
                self.ahead += 1;
                self.push(frame, decode_ms)?;
            } else if self.before > 0 {
                if self.halo.len() == self.before {
                    self.halo.pop_front();
                }
                self.halo.push_back(frame);
            }
            return Ok(true);
        }
        if !self.started {
            let seen = self.halo.len().max(self.ahead);
            let enough = seen >= self.before || self.at_start || self.trimmed;
            if !enough && self.range.start.is_some() {
                self.go_back = Some(false);
                return Ok(false);
            }
            self.started = true;
            for frame in std::mem::take(&mut self.halo) {
                self.push(frame, 0.0)?;
            }
        }
        if self.range.end.is_some_and(|end| pts >= end) {
            self.behind += 1;
            if self.behind > self.after {
                return Ok(false);
            }
        } else {
            self.counts.input += 1;
            if decode::is_concealed(&frame) {
                self.counts.concealed += 1;
                self.damaged = true;
            }
        }
        self.push(frame, decode_ms)?;
        Ok(true)
    }

    /// Sends a frame through the filters, and what comes out to the encoder.
    fn push(&mut self, frame: Frame, decode_ms: f32) -> Result<()> {
        let converting = Instant::now();
        let frame = self.converter.convert(frame)?;
        let pts = frame.pts();
        self.decode_times.push_back((pts, decode_ms + ms(converting.elapsed())));
        if let Sink::Looks { looker, found, .. } = &mut self.sink
            && self.range.contains(pts)
        {
            let detectors = self.plan.detection.as_ref().map_or(0, |d| d.detectors.len());
            let (mut looks, mut times) = (vec![Look::default(); detectors], Vec::new());
            looker.look(&frame, &mut looks, &mut times)?;
            found.push_back((pts, looks, times));
        }
        if let Some(previewer) =
            self.previewer.as_mut().filter(|_| self.range.contains(frame.pts()))
            && let Err(error) = previewer.before(&frame)
        {
            self.no_previews(&error);
        }
        let mut ready = std::mem::take(&mut self.ready);
        self.chain.push(frame, &mut ready)?;
        self.encode(&mut ready)?;
        self.ready = ready;
        Ok(())
    }

    /// A picture that cannot be shown must not cost the frame.
    fn no_previews(&mut self, error: &Error) {
        tracing::warn!(%error, "no previews of this segment");
        self.previewer = None;
    }

    fn encode(&mut self, ready: &mut Vec<(Frame, FilterTimes)>) -> Result<()> {
        for (frame, filter_times) in ready.drain(..) {
            let pts = frame.pts();
            let mut decode_ms = 0.0;
            while let Some((decoded, spent)) = self.decode_times.pop_front() {
                if decoded == pts {
                    decode_ms = spent;
                    break;
                }
            }
            let noted = self.notes.take(pts);
            if !self.range.contains(pts) {
                continue;
            }
            if let Sink::Looks { writer, found, .. } = &mut self.sink {
                // Frames that a filter left out were looked at as well.
                while found.front().is_some_and(|(known, ..)| *known < pts) {
                    found.pop_front();
                }
                let Some((known, mut looks, mut times)) = found.pop_front() else {
                    return Err(Error::internal("a frame that nobody looked at"));
                };
                if known != pts {
                    return Err(Error::internal("frames are out of order behind the filters"));
                }
                for noted in noted {
                    if let Some(look) = looks.get_mut(noted.detector as usize) {
                        let found = noted.found.iter().map(TrackedBox::found).collect();
                        *look = Look { looked: true, failed: false, found };
                    }
                }
                times.insert(0, decode_ms);
                times.extend(filter_times);
                writer.line(&LookLine { pts, ms: times, looks })?;
                self.counts.output += 1;
                (self.progress)(Progress::Frames(self.counts.output));
                continue;
            }
            match self.previewer.as_mut().map(|previewer| previewer.after(&frame)) {
                Some(Ok(Some(pair))) => (self.progress)(Progress::Preview(pair)),
                Some(Err(error)) => self.no_previews(&error),
                Some(Ok(None)) | None => {}
            }
            let start = Instant::now();
            self.send(Some(&frame))?;
            let mut times = Vec::with_capacity(filter_times.len() + 2);
            times.push(decode_ms);
            times.extend(filter_times);
            times.push(ms(start.elapsed()));
            self.records.push(FrameRecord { pts, ms: times, noted });
            self.counts.output += 1;
            (self.progress)(Progress::Frames(self.counts.output));
        }
        Ok(())
    }

    fn send(&mut self, frame: Option<&Frame>) -> Result<()> {
        match &mut self.sink {
            Sink::Video { encoder, writer: Some(writer) } => {
                encoder.send(frame, &mut |packet: &Packet| writer.packet(packet))
            }
            _ => Err(Error::internal("the segment is written already")),
        }
    }

    /// No frame comes any more: empties the filters and the encoder.
    fn drain(&mut self) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.chain.finish(&mut ready)?;
        self.encode(&mut ready)?;
        let flush = Instant::now();
        if self.counts.output > 0 && matches!(self.sink, Sink::Video { .. }) {
            self.send(None)?;
        }
        if let Some(last) = self.records.last_mut().and_then(|record| record.ms.last_mut()) {
            *last += ms(flush.elapsed());
        }
        for lost in self.chain.lost() {
            let count =
                |all: &[i64]| all.iter().filter(|pts| self.range.contains(**pts)).count() as u64;
            self.counts.skipped += count(&lost.skipped);
            self.counts.held += count(&lost.held);
            self.counts.original += count(&lost.original);
        }
        if self.counts.output + self.counts.skipped != self.counts.input {
            return Err(Error::unsupported(format!(
                "the filters made {} frames of {}; only filters that keep one frame in, one frame out can be used",
                self.counts.output, self.counts.input
            )));
        }
        Ok(())
    }

    fn finish(mut self, decoded: u64) -> Result<(Made, Option<Looker>)> {
        self.counts.decoded = decoded;
        // A decoder flags some concealed frames, and answers others with an error.
        self.counts.concealed = self.counts.concealed.max(self.errors);
        let counts = self.counts;
        match std::mem::replace(&mut self.sink, Sink::Ended) {
            Sink::Video { writer: Some(writer), .. } => {
                let file = writer.finish(&self.records, counts)?;
                Ok((Made { file, counts }, None))
            }
            Sink::Looks { looker, mut writer, .. } => {
                writer.line(&LookRecord::End { end: counts })?;
                Ok((Made { file: writer.finish()?, counts }, Some(looker)))
            }
            _ => Err(Error::internal("the segment is written already")),
        }
    }

    /// Gives the detectors back.
    fn into_looker(self) -> Option<Looker> {
        match self.sink {
            Sink::Looks { looker, .. } => Some(looker),
            _ => None,
        }
    }
}

/// The filters that frames go through while things are looked for: as far as the last one that notes what it
/// finds, where that is all that is wanted.
fn watched(plan: &Plan) -> &[PlannedFilter] {
    let Some(detection) = plan.detection.as_ref().filter(|detection| detection.only.is_some())
    else {
        return &[];
    };
    let notes = detection.detectors.iter().filter(|detector| {
        let filter = plan.filters.get(detector.filter as usize);
        filter.is_some_and(|filter| !is_detector(&filter.spec))
    });
    let last = notes.map(|detector| detector.filter as usize + 1).max().unwrap_or(0);
    plan.filters.get(..last).unwrap_or(&[])
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn ms(time: Duration) -> f32 {
    time.as_secs_f32() * 1e3
}
