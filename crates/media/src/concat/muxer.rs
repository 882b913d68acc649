//! The output file: video, and the source's other streams, chapters and tags.

use std::ffi::{c_int, c_uint};
use std::fs::File;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::plan::{Message, Plan, StreamAction};
use frameloom_core::spec::{Container, KeptMetadata};
use frameloom_core::{Error, ErrorKind, Result};

use super::passenger::Passenger;
use super::track::Track;
use crate::demux::Demuxer;
use crate::encode::StreamParameters;
use crate::ff::{self, Dict, Packet};
use crate::frame::PixelFormat;
use crate::io_out::Output;
use crate::{hdr, tags};

const MICROS: ffi::AVRational = ffi::AVRational { num: 1, den: 1_000_000 };

/// Tags of a container that would be false in the output.
const STALE_TAGS: [&str; 9] = [
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
    "rotate",
    "bps",
    "number_of_frames",
    "number_of_bytes",
];

/// Writes the output.
pub(super) struct Muxer {
    context: NonNull<ffi::AVFormatContext>,
    // After `context`, which is freed first, by Drop.
    output: Output,
    source: Demuxer,
    /// What each source stream becomes, by its number.
    seats: Vec<Option<Seat>>,
    video: c_int,
    video_base: ffi::AVRational,
    offset: i64,
    start_us: i64,
    /// `[from, to)` in microseconds of the source, where it is trimmed.
    from_us: Option<i64>,
    to_us: Option<i64>,
    packet: Packet,
    /// How far the source's other streams were read, in microseconds of the output.
    read_to: i64,
    drained: bool,
}

struct Seat {
    stream: c_int,
    passenger: Passenger,
    /// Decoding time of the last packet written, in ticks of the output.
    last: Option<i64>,
    /// Packets whose times went back, and were moved.
    moved: u64,
    /// Samples at 48 kHz that Matroska's readers take off the times: FFmpeg's muxer writes how many, and leaves the
    /// times as they are.
    delay: i64,
}

impl Muxer {
    /// Opens the output and writes its header.
    pub(super) fn open(
        source: &File,
        plan: &Plan,
        parameters: &StreamParameters,
        track: &Track,
        out: File,
    ) -> Result<Self> {
        let mut demuxer = Demuxer::open(source, &plan.source.name)?;
        if plan.source.video.discontinuous {
            demuxer.correct_times();
        }
        let wanted: Vec<u32> = plan
            .streams
            .iter()
            .filter(|s| matches!(s.action, StreamAction::Copy | StreamAction::Transcode { .. }))
            .map(|s| s.index)
            .collect();
        demuxer.keep_only(|index| wanted.contains(&index));
        let container = plan.output.container;
        let name = ff::c_string(container.muxer())?;
        // SAFETY: C strings; the context is checked and freed by Drop, or here where it can't be made.
        let context = unsafe {
            let mut context = ptr::null_mut();
            let code = ffi::avformat_alloc_output_context2(
                &mut context,
                ptr::null_mut(),
                name.as_ptr(),
                c"output".as_ptr(),
            );
            ff::check(code, &format!("cannot write .{container}"))?;
            NonNull::new(context).ok_or_else(ff::out_of_memory)?
        };
        let base = plan.source.video.time_base;
        let video_base = ffi::AVRational { num: base.num(), den: base.den() };
        let micros = |ticks: Option<i64>| {
            // SAFETY: plain arithmetic.
            ticks.map(|t| unsafe { ffi::av_rescale_q(t, video_base, MICROS) })
        };
        // A part of a video begins with its first frame. Frames without times may come before the
        // start that the container tells: they, too, must not begin before 0.
        let early = track.first().map_or(0, |first| {
            let early = plan.offset.saturating_sub(first);
            if plan.trim.start.is_some() { early } else { early.max(0) }
        });
        let mut muxer = Self {
            context,
            output: Output::new(out)?,
            source: demuxer,
            seats: Vec::new(),
            video: 0,
            video_base,
            offset: plan.offset.saturating_sub(early),
            start_us: plan.source.start_us.saturating_sub(micros(Some(early)).unwrap_or(0)),
            from_us: micros(plan.trim.start),
            to_us: micros(plan.trim.end),
            packet: Packet::new()?,
            read_to: i64::MIN,
            drained: wanted.is_empty(),
        };
        // SAFETY: the context is ours and not yet open.
        let raw = unsafe { muxer.context.as_mut() };
        muxer.output.attach(raw);
        raw.flags |= ffi::AVFMT_FLAG_BITEXACT as c_int;
        // FLAC and Opus in MP4 are standard by now.
        raw.strict_std_compliance = ffi::FF_COMPLIANCE_EXPERIMENTAL as c_int;
        muxer.add_streams(plan, parameters)?;
        muxer.copy_tags(plan, track)?;
        muxer.write_header(container)?;
        Ok(muxer)
    }

    fn add_streams(&mut self, plan: &Plan, parameters: &StreamParameters) -> Result<()> {
        for planned in &plan.streams {
            let encoder = match &planned.action {
                StreamAction::Drop { .. } => {
                    self.seats.push(None);
                    continue;
                }
                StreamAction::Process | StreamAction::Copy => None,
                StreamAction::Transcode { encoder } => Some(encoder.as_str()),
            };
            let from = self.source.stream(planned.index)?;
            // SAFETY: the context is open; null only without memory.
            let out =
                unsafe { ffi::avformat_new_stream(self.context.as_ptr(), ptr::null()).as_mut() };
            let out = out.ok_or_else(ff::out_of_memory)?;
            out.disposition = from.disposition;
            copy_dict(from.metadata, &mut out.metadata, &plan.left_out)?;
            if planned.action == StreamAction::Process {
                // SAFETY: a new stream has parameters.
                parameters.write(unsafe { &mut *out.codecpar })?;
                out.time_base = self.video_base;
                out.sample_aspect_ratio = parameters.aspect();
                out.avg_frame_rate = parameters.frame_rate();
                copy_side_data(
                    from,
                    out,
                    &[
                        ffi::AVPacketSideDataType::AV_PKT_DATA_SPHERICAL,
                        ffi::AVPacketSideDataType::AV_PKT_DATA_STEREO3D,
                    ],
                )?;
                let picture = plan.encoded();
                let pixel = PixelFormat::from_name(&picture.pixel_format)?;
                let kept = hdr::kept(pixel, &picture.color.transfer, &plan.source.video);
                hdr::attach(out, &kept)?;
                self.video = out.index;
                self.seats.push(None);
            } else {
                let cover = plan.output.container == Container::Mkv
                    && from.disposition & ffi::AV_DISPOSITION_ATTACHED_PIC as c_int != 0
                    && !from.attached_pic.data.is_null();
                let passenger = if cover {
                    Passenger::cover(from, out)
                } else {
                    Passenger::open(encoder, from, out)
                };
                let passenger = passenger.map_err(|e| e.at(format!("stream {}", planned.index)))?;
                if planned.kind == "audio" {
                    copy_side_data(
                        from,
                        out,
                        &[ffi::AVPacketSideDataType::AV_PKT_DATA_REPLAYGAIN],
                    )?;
                }
                // SAFETY: the stream has parameters.
                let made = unsafe { &*out.codecpar };
                let told = matches!(plan.output.container, Container::Mkv | Container::Webm)
                    && made.codec_id == ffi::AVCodecID::AV_CODEC_ID_OPUS;
                let delay = if told { i64::from(made.initial_padding.max(0)) } else { 0 };
                let stream = out.index;
                self.seats.push(Some(Seat { stream, passenger, last: None, moved: 0, delay }));
            }
        }
        Ok(())
    }

    fn copy_tags(&mut self, plan: &Plan, track: &Track) -> Result<()> {
        // SAFETY: both contexts are open and ours.
        let (from, to) = unsafe { (&*self.source.context(), self.context.as_mut()) };
        copy_dict(from.metadata, &mut to.metadata, &plan.left_out)?;
        // SAFETY: plain arithmetic.
        let end_us = track.end().map(|end| unsafe {
            ffi::av_rescale_q(end.saturating_sub(self.offset), self.video_base, MICROS)
        });
        let mut chapters: Vec<*mut ffi::AVChapter> = Vec::new();
        for i in 0..from.nb_chapters as usize {
            // SAFETY: FFmpeg keeps `nb_chapters` valid pointers; a new chapter is allocated as
            // avformat_free_context frees it.
            unsafe {
                let chapter = &**from.chapters.add(i);
                let shift = ffi::av_rescale_q(self.start_us, MICROS, chapter.time_base);
                let start = chapter.start.saturating_sub(shift);
                let mut end = chapter.end.saturating_sub(shift);
                if let Some(us) = end_us {
                    end = end.min(ffi::av_rescale_q(us, MICROS, chapter.time_base));
                }
                if end <= start.max(0) {
                    continue;
                }
                let copy = ffi::av_mallocz(size_of::<ffi::AVChapter>()).cast::<ffi::AVChapter>();
                let Some(new) = copy.as_mut() else { return Err(ff::out_of_memory()) };
                new.id = chapter.id;
                new.time_base = chapter.time_base;
                new.start = start.max(0);
                new.end = end;
                chapters.push(copy);
                copy_dict(chapter.metadata, &mut new.metadata, &plan.left_out)?;
            }
        }
        if !chapters.is_empty() {
            // SAFETY: the array is allocated by FFmpeg, which frees it with the context.
            unsafe {
                let bytes = chapters.len() * size_of::<*mut ffi::AVChapter>();
                let array = ffi::av_malloc(bytes).cast::<*mut ffi::AVChapter>();
                if array.is_null() {
                    return Err(ff::out_of_memory());
                }
                ptr::copy_nonoverlapping(chapters.as_ptr(), array, chapters.len());
                to.chapters = array;
                to.nb_chapters = c_uint::try_from(chapters.len()).unwrap_or(0);
            }
        }
        Ok(())
    }

    fn write_header(&mut self, container: Container) -> Result<()> {
        let mut options = Dict::default();
        if matches!(container, Container::Mp4 | Container::Mov) {
            options.set("movflags", "+faststart")?;
            // The source's own ticks, so that every pts is kept.
            options.set("video_track_timescale", &self.video_base.den.to_string())?;
        }
        // SAFETY: the context has its streams and its output.
        let code =
            unsafe { ffi::avformat_write_header(self.context.as_ptr(), options.as_mut_ptr()) };
        self.output.fail()?;
        if code >= 0 {
            return Ok(());
        }
        let error = ff::error(code, &format!("cannot begin a .{container} file"));
        if error.kind() != ErrorKind::Internal {
            return Err(error);
        }
        // A muxer's EINVAL: a stream that it does not hold, whatever its table says.
        Err(Error::unsupported(format!("{}; try another container", error.message())))
    }

    /// Writes a packet of the video, whose times are source ticks, after what comes before it.
    pub(super) fn video(&mut self, packet: &mut Packet) -> Result<()> {
        let raw = packet.raw_mut();
        raw.pts -= self.offset;
        raw.dts -= self.offset;
        raw.stream_index = self.video;
        // SAFETY: plain arithmetic.
        let at = unsafe { ffi::av_rescale_q(raw.dts, self.video_base, MICROS) };
        while !self.drained && self.read_to <= at {
            self.passengers()?;
        }
        self.rescale(packet, self.video, self.video_base);
        self.write(packet, self.video)
    }

    /// Reads one packet of the other streams and writes what comes of it.
    fn passengers(&mut self) -> Result<()> {
        let mut packet = std::mem::replace(&mut self.packet, Packet::new()?);
        if !self.source.read(&mut packet)? {
            self.drained = true;
            return self.empty();
        }
        let index = packet.raw().stream_index.unsigned_abs();
        if !matches!(self.seats.get(index as usize), Some(Some(_))) {
            self.packet = packet;
            return Ok(());
        }
        let base = self.source.stream(index)?.time_base;
        // SAFETY: plain arithmetic.
        let micros = |ticks| unsafe { ffi::av_rescale_q(ticks, base, MICROS) };
        if let Some(time) = packet.dts().or(packet.pts()) {
            self.read_to = self.read_to.max(micros(time).saturating_sub(self.start_us));
        }
        if let Some(pts) = packet.pts().or(packet.dts()) {
            let end = micros(pts.saturating_add(packet.raw().duration.max(1)));
            if self.from_us.is_some_and(|from| end <= from) {
                self.packet = packet;
                return Ok(());
            }
            if self.to_us.is_some_and(|to| micros(pts) >= to) {
                self.packet = packet;
                return Ok(());
            }
        }
        self.seat(index as usize, Some(&mut packet), base)
    }

    /// Gives a passenger a packet (`None`: there are no more) and writes what comes of it.
    fn seat(
        &mut self,
        at: usize,
        packet: Option<&mut Packet>,
        base: ffi::AVRational,
    ) -> Result<()> {
        let Some(Some(seat)) = self.seats.get_mut(at) else { return Ok(()) };
        let (stream, delay) = (seat.stream, seat.delay);
        let mut made = Vec::new();
        seat.passenger.packet(packet, base, &mut |packet, base| {
            made.push((std::mem::replace(packet, Packet::new()?), base));
            Ok(())
        })?;
        for (mut packet, base) in made {
            self.shift(&mut packet, base, delay);
            self.rescale(&mut packet, stream, base);
            self.ascend(at, &mut packet);
            self.write(&mut packet, stream)?;
        }
        Ok(())
    }

    /// Muxers take times that go on only: a packet whose time goes back is moved behind the one
    /// before it, as the `ffmpeg` command does.
    fn ascend(&mut self, at: usize, packet: &mut Packet) {
        // SAFETY: the context is open and has a muxer.
        let strict = unsafe { (*(*self.context.as_ptr()).oformat).flags }
            & ffi::AVFMT_TS_NONSTRICT as c_int
            == 0;
        let Some(Some(seat)) = self.seats.get_mut(at) else { return };
        let Some(dts) = packet.dts() else { return };
        let least = seat.last.map(|last| last.saturating_add(i64::from(strict)));
        if let Some(least) = least.filter(|least| dts < *least) {
            let raw = packet.raw_mut();
            if raw.pts >= dts {
                raw.pts = raw.pts.max(least);
            }
            raw.dts = least;
            seat.moved += 1;
        }
        seat.last = Some(least.map_or(dts, |least| dts.max(least)));
    }

    /// What there is to say of the other streams.
    fn messages(&self) -> Vec<Message> {
        self.seats
            .iter()
            .enumerate()
            .filter_map(|(index, seat)| Some((index, seat.as_ref().filter(|s| s.moved > 0)?)))
            .map(|(index, seat)| {
                Message::new(
                    "timestamps_moved",
                    format!(
                        "stream {index}: the times of {} packets go back; they were moved behind those before them",
                        seat.moved
                    ),
                )
            })
            .collect()
    }

    /// No packet of the other streams comes any more: empties their encoders.
    fn empty(&mut self) -> Result<()> {
        (0..self.seats.len()).try_for_each(|at| self.seat(at, None, MICROS))
    }

    /// Brings a packet of another stream to the output's time, later by so many samples at 48 kHz.
    fn shift(&self, packet: &mut Packet, base: ffi::AVRational, delay: i64) {
        // SAFETY: plain arithmetic.
        let start = unsafe {
            let delay = ffi::av_rescale_q(delay, ffi::AVRational { num: 1, den: 48_000 }, base);
            ffi::av_rescale_q(self.start_us, MICROS, base).saturating_sub(delay)
        };
        let (pts, dts) = (packet.pts(), packet.dts());
        let raw = packet.raw_mut();
        if let Some(pts) = pts {
            raw.pts = pts.saturating_sub(start);
        }
        if let Some(dts) = dts {
            raw.dts = dts.saturating_sub(start);
        }
        raw.pos = -1;
    }

    /// Brings a packet's times to ticks of the output's stream.
    fn rescale(&self, packet: &mut Packet, stream: c_int, base: ffi::AVRational) {
        // SAFETY: the stream exists; plain arithmetic.
        unsafe {
            let streams = (*self.context.as_ptr()).streams;
            let to = (**streams.add(stream.unsigned_abs() as usize)).time_base;
            ffi::av_packet_rescale_ts(packet.as_mut_ptr(), base, to);
        }
    }

    fn write(&mut self, packet: &mut Packet, stream: c_int) -> Result<()> {
        packet.raw_mut().stream_index = stream;
        // SAFETY: the stream exists; the packet is ours and emptied by FFmpeg.
        let code =
            unsafe { ffi::av_interleaved_write_frame(self.context.as_ptr(), packet.as_mut_ptr()) };
        self.output.fail()?;
        let written = ff::check(code, &format!("cannot write a packet of output stream {stream}"));
        written.map(drop).map_err(|error| self.advised(error, stream))
    }

    /// An error of writing a stream, with what helps where it is one of those beside the video.
    fn advised(&self, error: Error, stream: c_int) -> Error {
        if stream == self.video || error.kind() == ErrorKind::Exhausted {
            return error;
        }
        // SAFETY: the stream exists, with its parameters.
        let kind = unsafe {
            let streams = (*self.context.as_ptr()).streams;
            (*(**streams.add(stream.unsigned_abs() as usize)).codecpar).codec_type
        };
        let advice = match kind {
            ffi::AVMediaType::AVMEDIA_TYPE_AUDIO => {
                "its sound cannot be kept as it is; --no-audio leaves it out"
            }
            _ => "it is none of the video",
        };
        Error::new(error.kind(), format!("{}: {advice}", error.message())).with_source(error)
    }

    /// Writes what is left and the trailer; answers the size of the output in bytes, and what there
    /// is to say.
    pub(super) fn finish(mut self) -> Result<(u64, Vec<Message>)> {
        while !self.drained {
            self.passengers()?;
        }
        let messages = self.messages();
        // SAFETY: the header was written.
        let code = unsafe { ffi::av_write_trailer(self.context.as_ptr()) };
        self.output.fail()?;
        ff::check(code, "cannot end the output")?;
        Ok((self.output.finish()?, messages))
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        // SAFETY: owned and freed once; the output's AVIO stays for `output` to free.
        unsafe { ffi::avformat_free_context(self.context.as_ptr()) };
    }
}

/// Copies tags, without those that would be false in the output.
fn copy_dict(
    from: *const ffi::AVDictionary,
    to: &mut *mut ffi::AVDictionary,
    left_out: &[KeptMetadata],
) -> Result<()> {
    // SAFETY: null or a valid dictionary of FFmpeg's.
    let entries = unsafe { ff::dict_entries(from) };
    for (key, value) in entries {
        let lower = key.to_ascii_lowercase();
        let stale =
            STALE_TAGS.iter().any(|tag| lower == *tag || lower.starts_with(&format!("{tag}-")))
                || lower.starts_with("_statistics");
        if stale || tags::tells(&key).is_some_and(|kept| left_out.contains(&kept)) {
            continue;
        }
        let (key, value) = (ff::c_string(&key)?, ff::c_string(&value)?);
        // SAFETY: C strings, copied by FFmpeg.
        let code = unsafe { ffi::av_dict_set(to, key.as_ptr(), value.as_ptr(), 0) };
        ff::check(code, "cannot copy tags")?;
    }
    Ok(())
}

fn copy_side_data(
    from: &ffi::AVStream,
    to: &mut ffi::AVStream,
    kinds: &[ffi::AVPacketSideDataType],
) -> Result<()> {
    for kind in kinds {
        let mut size = 0;
        // SAFETY: both streams are valid; `size` bytes are copied into as many.
        unsafe {
            let data = ffi::av_stream_get_side_data(from, *kind, &mut size);
            if data.is_null() || size == 0 {
                continue;
            }
            let copy = ffi::av_stream_new_side_data(to, *kind, size);
            if copy.is_null() {
                return Err(ff::out_of_memory());
            }
            ptr::copy_nonoverlapping(data, copy, size);
        }
    }
    Ok(())
}
