//! Pictures of a whole video: one of its frames, or a few from all of it.

use std::fs::File;
use std::io::Write;

use ffmpeg_next::ffi;
use frameloom_core::plan::VideoInfo;
use frameloom_core::slot::{PictureKind, PictureTask, WrittenFile};
use frameloom_core::{Error, Result};

use crate::convert::Converter;
use crate::decode::Decoder;
use crate::demux::Demuxer;
use crate::ff::Packet;
use crate::frame::{Frame, PixelFormat};
use crate::preview;
use crate::strip::{self, Form};
use crate::{seek, source};

/// Frames of a strip, and their longest side in pixels.
const STRIP_FRAMES: usize = 24;
const STRIP_SIDE: u32 = 320;

/// Makes a picture of the video in `file` and writes it to `out`.
///
/// # Errors
/// NotFound for a frame that there is not; of the video; of writing.
pub fn picture(file: &File, task: &PictureTask, mut out: File) -> Result<WrittenFile> {
    let mut video = Video::open(file, task)?;
    let size = match task.kind {
        PictureKind::Frame { number, start_us } => {
            let first = video.times.first().map_or(0, |time| time.pts);
            let start = start_us.and_then(|us| video.info.time_base.ticks_of_micros(us));
            let start = first.saturating_add(start.unwrap_or(0));
            let first = video.times.partition_point(|time| time.pts < start);
            let at = usize::try_from(number).ok().and_then(|n| first.checked_add(n));
            let count = video.times.len().saturating_sub(first);
            let at = at.filter(|at| *at < video.times.len()).ok_or_else(|| {
                Error::not_found(format!("frame {number} does not exist: the video has {count}"))
            })?;
            let jpeg = preview::jpeg(&video.frame(at)?, u32::MAX)?;
            out.write_all(&jpeg).map_err(|e| Error::io("cannot write the picture", &e))?;
            jpeg.len() as u64
        }
        PictureKind::Gif => strip::write(&video.strip()?, Form::Gif, out)?,
        PictureKind::Webp => strip::write(&video.strip()?, Form::Webp, out)?,
        PictureKind::Mp4 => strip::write(&video.strip()?, Form::Mp4, out)?,
    };
    Ok(WrittenFile { size, sha256: String::new() })
}

/// A packet of the video.
#[derive(Clone, Copy)]
struct Time {
    pts: i64,
    /// What to seek for, where decoding may begin here.
    key: Option<i64>,
}

/// A video whose frames are wanted here and there.
struct Video<'a> {
    file: &'a File,
    name: &'a str,
    demuxer: Demuxer,
    info: VideoInfo,
    converter: Converter,
    /// All packets, by pts.
    times: Vec<Time>,
}

impl<'a> Video<'a> {
    fn open(file: &'a File, task: &'a PictureTask) -> Result<Self> {
        let name = task.name.as_str();
        let demuxer = Demuxer::open(file, name)?;
        let stream = source::choose_stream(&demuxer, name, task.stream)?;
        let info = source::video_info(&demuxer, stream, &mut Vec::new())?;
        let converter =
            Converter::new(PixelFormat::Yuv420p, info.width, info.height, info.rotation, info.flip);
        let mut video = Self { file, name, demuxer, info, converter, times: Vec::new() };
        video.list()?;
        Ok(video)
    }

    /// Lists all packets; those of MP4 and MOV without reading them.
    fn list(&mut self) -> Result<()> {
        let mut demuxer = Demuxer::open_header(self.file, self.name)?;
        let stream = self.info.stream;
        demuxer.keep_only(|i| i == stream);
        if demuxer.format_name().contains("mov") && demuxer.has_index(stream)? {
            demuxer.add_flags(ffi::AVFMT_FLAG_NOPARSE | ffi::AVFMT_FLAG_NOFILLIN);
            demuxer.input().set_phantom(true);
        }
        let mut packet = Packet::new()?;
        while seek::next(&mut demuxer, stream, &mut packet)? {
            let hidden = packet.raw().flags & ffi::AV_PKT_FLAG_DISCARD != 0;
            let Some(pts) = packet.pts().or(packet.dts()).filter(|_| !hidden) else { continue };
            let key = packet.is_key().then(|| packet.dts().unwrap_or(pts));
            self.times.push(Time { pts, key });
        }
        self.times.sort_by_key(|time| time.pts);
        Ok(())
    }

    /// The frame of this number, upright.
    fn frame(&mut self, at: usize) -> Result<Frame> {
        let target = self.times[at].pts;
        let key = self.times[..=at].iter().rev().find_map(|time| time.key);
        let stream = self.info.stream;
        let frame = match key {
            Some(key) if self.demuxer.seek(stream, key, ffi::AVSEEK_FLAG_BACKWARD).is_ok() => {
                self.decode_to(target, true)?
            }
            _ => None,
        };
        let frame = match frame {
            Some(frame) => frame,
            // The seek led elsewhere: from the beginning.
            None => {
                self.demuxer = Demuxer::open(self.file, self.name)?;
                self.demuxer.keep_only(|i| i == stream);
                let frame = self.decode_to(target, false)?;
                frame.ok_or_else(|| Error::corrupt("this frame cannot be decoded"))?
            }
        };
        self.converter.convert(frame)
    }

    /// Decodes from here up to the frame at `target`; `exact` wants that one and no later one.
    fn decode_to(&mut self, target: i64, exact: bool) -> Result<Option<Frame>> {
        let rate = self.info.frame_rate;
        let rate = ffi::AVRational { num: rate.num, den: rate.den.max(1) };
        let parameters = self.demuxer.parameters(self.info.stream)?;
        let mut decoder = Decoder::open(parameters, self.info.time_base, rate, 1, 0, exact)?;
        let mut packet = Packet::new()?;
        let mut found = None;
        let mut take = |frame: Frame| {
            let there = frame.pts() >= target;
            if there && (!exact || frame.pts() == target) {
                found = Some(frame);
            }
            Ok(!there)
        };
        loop {
            let more = seek::next(&mut self.demuxer, self.info.stream, &mut packet)?;
            if !decoder.decode(more.then_some(&packet), &mut take)? || !more {
                return Ok(found);
            }
        }
    }

    /// Small frames from all of the video, all of one size.
    fn strip(&mut self) -> Result<Vec<Frame>> {
        let count = self.times.len().min(STRIP_FRAMES);
        let keys: Vec<usize> =
            (0..self.times.len()).filter(|at| self.times[*at].key.is_some()).collect();
        let mut frames = Vec::new();
        for i in 0..count {
            let at = i * self.times.len() / count;
            // A keyframe is had at once, and where there are enough of them nobody sees which it was.
            let at = match keys.partition_point(|key| *key <= at) {
                behind if behind > 0 && keys.len() >= 2 * count => keys[behind - 1],
                _ => at,
            };
            let frame = self.frame(at)?;
            frames.push(preview::small(&frame, STRIP_SIDE)?);
        }
        Ok(frames)
    }
}
