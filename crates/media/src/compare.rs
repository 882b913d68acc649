//! An output beside its source: how much of the source is still to be seen at places, and a sheet of those places.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Write};

use ffmpeg_next::ffi;
use frameloom_core::detection::Rect;
use frameloom_core::slot::{CompareTask, ComparedVideo};
use frameloom_core::verify::{Comparison, Place, Verdict};
use frameloom_core::{Error, Result};
use opencv::core::{BORDER_REPLICATE, CV_32F, Mat, Point, Rect as Region, Size};
use opencv::imgproc::{self, INTER_AREA};
use opencv::prelude::*;

use crate::convert::Converter;
use crate::decode::Decoder;
use crate::demux::Demuxer;
use crate::ff::Packet;
use crate::filter::{mat_of, opencv_failed as failed};
use crate::frame::{Frame, PixelFormat};
use crate::seek;
use crate::sheet::Sheet;

/// Longest side, in samples, at which places are compared.
const SIDE: f32 = 48.0;

/// Details are what is smaller than this part of a place's shorter side: as fine as no blot or square is.
const DETAIL: f32 = 1.0 / 7.0;

/// Variance of details, in levels squared, below which there is nothing to compare.
const FLAT: f64 = 0.05;

/// Longest side, in samples, at which whole pictures are compared.
const PICTURE_SIDE: f32 = 320.0;

/// Least agreement of two pictures beside a place for the place to be compared.
const ALIKE: f32 = 0.4;

/// The files of a comparison.
pub struct Compared {
    /// The output.
    pub output: File,
    /// Its source.
    pub source: File,
    /// The places, as a JSON list in order of time.
    pub places: File,
    /// Where the sheet goes, where one is wanted.
    pub sheet: Option<File>,
}

/// Compares places of an output with its source, and makes a sheet of them; `progress` hears the frames looked at.
///
/// # Errors
/// Of the videos; of writing; Internal where the places are malformed.
pub fn compare(
    task: &CompareTask,
    given: Compared,
    progress: &mut dyn FnMut(u64),
) -> Result<Comparison> {
    let places: Vec<Place> = serde_json::from_reader(BufReader::new(&given.places))
        .map_err(|e| Error::internal("the places are malformed").with_source(e))?;
    let mut output = Frames::open(&given.output, &task.output)?;
    let mut source = Frames::open(&given.source, &task.source)?;
    let mut sheet = Sheet::default();
    let mut kept = Vec::with_capacity(places.len());
    for place in &places {
        let Some(there) = output.at(place.pts, progress)? else {
            return Err(Error::corrupt(format!(
                "'{}' has no frame at pts {} any more: was it changed?",
                task.output.name, place.pts
            )));
        };
        let before = match place.source_pts {
            Some(pts) => source.at(pts, progress)?,
            None => None,
        };
        let left = before.map(|before| left_at(place, before, there)).transpose()?.flatten();
        if task.sheet.is_some() {
            sheet.add(there, place, Verdict::of(place.covered, left))?;
        }
        kept.push(left);
    }
    let mut shown = 0;
    if let (Some(form), Some(mut file)) = (task.sheet, given.sheet) {
        shown = sheet.shown();
        let picture = sheet.finish(form)?;
        file.write_all(&picture).map_err(|e| Error::io("cannot write the sheet", &e))?;
    }
    Ok(Comparison { kept, shown })
}

/// The frames of a video, in order.
struct Frames {
    demuxer: Demuxer,
    decoder: Decoder,
    converter: Converter,
    stream: u32,
    packet: Packet,
    /// Decoded and not asked for yet.
    waiting: VecDeque<Frame>,
    /// The frame asked for last, upright.
    current: Option<Frame>,
    ended: bool,
    seen: u64,
}

impl Frames {
    fn open(file: &File, of: &ComparedVideo) -> Result<Self> {
        let video = &of.video;
        let mut demuxer = Demuxer::open(file, &of.name)?;
        if video.discontinuous {
            demuxer.correct_times();
        }
        demuxer.keep_only(|i| i == video.stream);
        let rate = ffi::AVRational { num: video.frame_rate.num, den: video.frame_rate.den.max(1) };
        let parameters = demuxer.parameters(video.stream)?;
        let decoder = Decoder::open(parameters, video.time_base, rate, 1, video.reorder, false)?;
        let pixel = PixelFormat::Yuv420p;
        Ok(Self {
            demuxer,
            decoder,
            converter: Converter::new(pixel, video.width, video.height, video.rotation, video.flip),
            stream: video.stream,
            packet: Packet::new()?,
            waiting: VecDeque::new(),
            current: None,
            ended: false,
            seen: 0,
        })
    }

    /// The frame at `pts`, which is not before the one asked for last; `None` where there is none.
    fn at(&mut self, pts: i64, progress: &mut dyn FnMut(u64)) -> Result<Option<&Frame>> {
        while self.current.as_ref().is_none_or(|frame| frame.pts() < pts) {
            match self.waiting.pop_front() {
                Some(frame) if frame.pts() < pts => {}
                Some(frame) => self.current = Some(self.converter.convert(frame)?),
                None if self.ended => return Ok(None),
                None => self.decode()?,
            }
            self.seen += 1;
            progress(self.seen);
        }
        Ok(self.current.as_ref().filter(|frame| frame.pts() == pts))
    }

    fn decode(&mut self) -> Result<()> {
        let more = seek::next(&mut self.demuxer, self.stream, &mut self.packet)?;
        let waiting = &mut self.waiting;
        self.decoder.decode(more.then_some(&self.packet), &mut |frame| {
            waiting.push_back(frame);
            Ok(true)
        })?;
        self.ended = !more;
        Ok(())
    }
}

/// The part of the source's details that is left at a place; none where the pictures do not agree beside it either: one that
/// was mirrored, turned or moved tells nothing by what it shows there.
fn left_at(place: &Place, before: &Frame, after: &Frame) -> Result<Option<f32>> {
    let Some(sign) = alike(before, after, &place.rect)? else { return Ok(None) };
    let left = details_left(before, &place.source_rect, after, &place.rect)?;
    Ok(Some((left * sign).clamp(0.0, 1.0)))
}

/// The sign by which two pictures show the same beside a place of the later one, −1 where it is inverted; none where they do
/// not. Where one of them shows nothing, they do.
#[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
fn alike(before: &Frame, after: &Frame, place: &Rect) -> Result<Option<f32>> {
    let whole = |frame: &Frame| {
        let (w, h) = (frame.width() as f32, frame.height() as f32);
        Rect { x: 0.0, y: 0.0, w, h }
    };
    let (earlier, later) = (whole(before), whole(after));
    let Some(region) = region_of(after, &later) else { return Ok(Some(1.0)) };
    let size = Some(working_size(region, PICTURE_SIDE));
    let (Some(before), Some(size)) = details(before, &earlier, size)? else {
        return Ok(Some(1.0));
    };
    let (Some(after), _) = details(after, &later, Some(size))? else { return Ok(Some(1.0)) };
    let (across, down) = (later.w / size.width as f32, later.h / size.height as f32);
    let beside = |(x, y): (i32, i32)| {
        let (x, y) = ((x as f32 + 0.5) * across, (y as f32 + 0.5) * down);
        !((place.x..place.x + place.w).contains(&x) && (place.y..place.y + place.h).contains(&y))
    };
    let agreement = agreement(&before, &after, size, beside)?.unwrap_or(1.0);
    Ok((agreement.abs() >= ALIKE).then_some(agreement.signum()))
}

/// How well a source's details at one place agree in luma with those of a later picture at another, -1..=1, once what is
/// coarser than a blot was taken away. Brightness and contrast do not count.
fn details_left(before: &Frame, at: &Rect, after: &Frame, there: &Rect) -> Result<f32> {
    let (Some(before), Some(size)) = details(before, at, None)? else { return Ok(0.0) };
    let (Some(after), _) = details(after, there, Some(size))? else { return Ok(0.0) };
    // Where nothing was there, nothing can be seen again.
    Ok(agreement(&before, &after, size, |sample| in_ellipse(sample, size))?.unwrap_or(0.0))
}

/// How well the samples of two pictures agree that `counts` names, -1..=1; none where either is flat there.
fn agreement(
    before: &Mat,
    after: &Mat,
    size: Size,
    counts: impl Fn((i32, i32)) -> bool,
) -> Result<Option<f32>> {
    let (mut both, mut a2, mut b2, mut count) = (0.0, 0.0, 0.0, 0.0);
    for y in 0..size.height {
        for x in 0..size.width {
            if !counts((x, y)) {
                continue;
            }
            let a = f64::from(*before.at_2d::<f32>(y, x).map_err(failed)?);
            let b = f64::from(*after.at_2d::<f32>(y, x).map_err(failed)?);
            (both, a2, b2, count) = (both + a * b, a2 + a * a, b2 + b * b, count + 1.0);
        }
    }
    if count == 0.0 || a2 / count < FLAT || b2 / count < FLAT {
        return Ok(None);
    }
    #[expect(clippy::cast_possible_truncation, reason = "-1..=1")]
    let agreement = (both / (a2 * b2).sqrt()) as f32;
    Ok(Some(agreement.clamp(-1.0, 1.0)))
}

/// Whether a sample lies in the ellipse within a picture of this size.
fn in_ellipse((x, y): (i32, i32), size: Size) -> bool {
    let off = |v: i32, length: i32| (f64::from(2 * v + 1) / f64::from(length.max(1))) - 1.0;
    let (x, y) = (off(x, size.width), off(y, size.height));
    x * x + y * y <= 1.0
}

/// The fine structure of a picture's luma at a place, at `size` or one that fits it; nothing where the place lies
/// beside the picture.
fn details(frame: &Frame, rect: &Rect, size: Option<Size>) -> Result<(Option<Mat>, Option<Size>)> {
    let Some(region) = region_of(frame, rect) else { return Ok((None, None)) };
    let whole = mat_of(frame.plane(0)?)?;
    let part = Mat::roi(&whole, region).map_err(failed)?.clone_pointee();
    let size = size.unwrap_or_else(|| working_size(region, SIDE));
    let (mut small, mut fine, mut coarse) = (Mat::default(), Mat::default(), Mat::default());
    imgproc::resize(&part, &mut small, size, 0.0, 0.0, INTER_AREA).map_err(failed)?;
    small.convert_to(&mut fine, CV_32F, 1.0, 0.0).map_err(failed)?;
    #[expect(clippy::cast_possible_truncation, reason = "a few samples")]
    #[expect(clippy::cast_precision_loss, reason = "a few samples")]
    let kernel = ((size.width.min(size.height) as f32 * DETAIL) as i32 / 2 * 2 + 1).clamp(3, 7);
    let kernel = Size::new(kernel, kernel);
    let center = Point::new(-1, -1);
    imgproc::box_filter(&fine, &mut coarse, -1, kernel, center, true, BORDER_REPLICATE)
        .map_err(failed)?;
    let mut details = Mat::default();
    opencv::core::subtract_def(&fine, &coarse, &mut details).map_err(failed)?;
    Ok((Some(details), Some(size)))
}

/// The samples of a frame's luma that a box covers.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "clamped")]
pub(crate) fn region_of(frame: &Frame, rect: &Rect) -> Option<Region> {
    let (width, height) = (frame.width() as f32, frame.height() as f32);
    let clamp = |v: f32, most: f32| v.clamp(0.0, most) as i32;
    let (left, top) = (clamp(rect.x.floor(), width), clamp(rect.y.floor(), height));
    let right = clamp((rect.x + rect.w).ceil(), width);
    let bottom = clamp((rect.y + rect.h).ceil(), height);
    let (w, h) = (right - left, bottom - top);
    (rect.is_sound() && w > 0 && h > 0).then(|| Region::new(left, top, w, h))
}

/// The size at which a region is compared, its longer side `longest` at most: never larger than it is.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small")]
fn working_size(region: Region, longest: f32) -> Size {
    let scale = (longest / region.width.max(region.height).max(1) as f32).min(1.0);
    let side = |v: i32| ((v as f32 * scale).round() as i32).max(1);
    Size::new(side(region.width), side(region.height))
}
