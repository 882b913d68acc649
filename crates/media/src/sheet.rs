//! A contact sheet: small pictures of places in frames, side by side, each with its time and score.

use ffmpeg_next::ffi;
use frameloom_core::Result;
use frameloom_core::detection::Rect;
use frameloom_core::slot::SheetForm;
use frameloom_core::verify::{Place, Verdict};
use opencv::core::{Mat, Rect as Region, Size};
use opencv::imgproc::{self, INTER_AREA};
use opencv::prelude::*;

use crate::compare::region_of;
use crate::filter::{letters, mat_of, mat_of_mut, opencv_failed as failed};
use crate::frame::{Frame, PixelFormat};
use crate::{preview, strip};

/// Width and height of a place on the sheet in pixels, and of the line of words above it.
const SIDE: u32 = 160;
const WORDS: u32 = 24;

/// Places side by side.
const COLUMNS: u32 = 8;

/// Most places; of more, leaks go first.
const MOST: usize = 400;

/// How much of what lies around a place is shown, as a part of it, at each side.
const AROUND: f32 = 0.3;

/// A sheet to which places are added.
#[derive(Default)]
pub(crate) struct Sheet {
    leaks: Vec<(f64, Frame)>,
    blots: Vec<(f64, Frame)>,
}

impl Sheet {
    /// Adds a place of a frame in yuv420p; where there are enough already nothing happens.
    ///
    /// # Errors
    /// Of OpenCV; Exhausted where memory is.
    pub(crate) fn add(&mut self, frame: &Frame, place: &Place, verdict: Verdict) -> Result<()> {
        let list = if verdict == Verdict::Leak { &mut self.leaks } else { &mut self.blots };
        if list.len() < MOST {
            list.push((place.time, cell(frame, place, verdict)?));
        }
        Ok(())
    }

    /// How many places it will show.
    pub(crate) fn shown(&self) -> u64 {
        (self.leaks.len() + self.blots.len()).min(MOST) as u64
    }

    /// The sheet as a file, in order of time; grey where there is no place.
    ///
    /// # Errors
    /// Of OpenCV and FFmpeg.
    pub(crate) fn finish(self, form: SheetForm) -> Result<Vec<u8>> {
        let mut cells: Vec<_> = self.leaks.into_iter().chain(self.blots).take(MOST).collect();
        cells.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let count = u32::try_from(cells.len()).unwrap_or(0).max(1);
        let (columns, rows) = (count.min(COLUMNS), count.div_ceil(COLUMNS));
        let (width, height) = (columns * SIDE, rows * (SIDE + WORDS));
        let mut sheet = match cells.first() {
            Some((_, cell)) => cell.new_like(PixelFormat::Yuv420p, width, height)?,
            None => Frame::new(PixelFormat::Yuv420p, width, height)?,
        };
        for plane in 0..3 {
            sheet.plane_mut(plane)?.bytes.fill(128);
        }
        for (i, (_, cell)) in (0..).zip(&cells) {
            paste(cell, &mut sheet, ((i % COLUMNS) * SIDE, (i / COLUMNS) * (SIDE + WORDS)))?;
        }
        match form {
            SheetForm::Jpeg => preview::jpeg(&sheet, u32::MAX),
            SheetForm::Png => strip::png(&preview::small(&sheet, u32::MAX)?),
        }
    }
}

/// What surrounds a place, with words above it.
fn cell(frame: &Frame, place: &Place, verdict: Verdict) -> Result<Frame> {
    let pixel = PixelFormat::Yuv420p;
    let mut cell = frame.new_like(pixel, SIDE, SIDE + WORDS)?;
    let raw = cell.raw_mut();
    // Cells are square pixels, whatever the video's are.
    raw.sample_aspect_ratio = ffi::AVRational { num: 1, den: 1 };
    for (plane, level) in [(0, 16), (1, 128), (2, 128)] {
        cell.plane_mut(plane)?.bytes.fill(level);
    }
    let Rect { x, y, w, h } = place.rect;
    let (dx, dy) = (w * AROUND, h * AROUND);
    let around = Rect { x: x - dx, y: y - dy, w: w + 2.0 * dx, h: h + 2.0 * dy };
    if let Some(region) = region_of(frame, &around) {
        show(frame, region, &mut cell)?;
    }
    let (word, color) = match verdict {
        Verdict::Leak => ("leak", 7),
        Verdict::Blot => ("blot", 4),
    };
    let text = format!("{} {:.2} {word}", clock(place.time), place.score);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let top = Rect { x: 0.0, y: 0.0, w: SIDE as f32, h: WORDS as f32 };
    letters::write(&mut cell, pixel, &text, top, letters::color(color))?;
    Ok(cell)
}

/// Puts a part of a frame below the words of a cell, as large as it fits.
fn show(frame: &Frame, region: Region, cell: &mut Frame) -> Result<()> {
    let longest = region.width.max(region.height).max(1);
    let side = |v: i32| {
        let scaled = i64::from(v) * i64::from(SIDE) / i64::from(longest);
        i32::try_from(scaled).unwrap_or(0).max(2) & !1
    };
    let (w, h) = (side(region.width), side(region.height));
    let edge = |v: u32| i32::try_from(v).unwrap_or(0);
    let (left, top) = ((edge(SIDE) - w) / 4 * 2, edge(WORDS) + (edge(SIDE) - h) / 4 * 2);
    for plane in 0..3 {
        let (sx, sy) = PixelFormat::Yuv420p.shift(plane);
        let from = mat_of(frame.plane(plane)?)?;
        let (x, y) = (region.x >> sx, region.y >> sy);
        let part = Region::new(
            x,
            y,
            (region.width >> sx).clamp(1, from.cols() - x),
            (region.height >> sy).clamp(1, from.rows() - y),
        );
        let part = Mat::roi(&from, part).map_err(failed)?.clone_pointee();
        let mut to = cell.plane_mut(plane)?;
        let mut to = mat_of_mut(&mut to)?;
        let place = Region::new(left >> sx, top >> sy, w >> sx, h >> sy);
        let mut to = Mat::roi_mut(&mut to, place).map_err(failed)?;
        let mut scaled = Mat::default();
        let size = Size::new(w >> sx, h >> sy);
        imgproc::resize(&part, &mut scaled, size, 0.0, 0.0, INTER_AREA).map_err(failed)?;
        scaled.copy_to(&mut to).map_err(failed)?;
    }
    Ok(())
}

/// Copies a cell to a place of the sheet.
fn paste(cell: &Frame, sheet: &mut Frame, (x, y): (u32, u32)) -> Result<()> {
    for plane in 0..3 {
        let (sx, sy) = PixelFormat::Yuv420p.shift(plane);
        let from = cell.plane(plane)?;
        let to = sheet.plane_mut(plane)?;
        for row in 0..from.height {
            let start = ((y >> sy) as usize + row) * to.stride + (x >> sx) as usize;
            let source = row * from.stride;
            to.bytes[start..start + from.width]
                .copy_from_slice(&from.bytes[source..source + from.width]);
        }
    }
    Ok(())
}

/// Seconds as `m:ss.mmm`.
fn clock(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let ms = (seconds * 1000.0).round().max(0.0) as u64;
    format!("{}:{:02}.{:03}", ms / 60_000, ms / 1000 % 60, ms % 1000)
}
