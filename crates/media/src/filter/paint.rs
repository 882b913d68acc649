//! `faces`, `objects` and `regions`: paint over or around what was found, on the planes, within its boxes only.

use std::fs::File;
use std::sync::Arc;

use frameloom_core::catalogue::Params;
use frameloom_core::detection::{Rect, TrackedBox};
use frameloom_core::{Error, Result};
use opencv::core::{Mat, Rect as Region, Size};
use opencv::imgproc::{self, INTER_AREA, INTER_LINEAR};
use opencv::prelude::*;

use super::letters;
use super::notes::Notes;
use super::place::Place;
use super::plane::{failed, mat_of_mut};
use super::regions::Regions;
use super::{Filter, PerFrame};
use crate::follow::{Action, Shape, Tracks, WHOLE_FRAME};
use crate::frame::{Frame, FrameFormat, PixelFormat, PlaneMut};

/// How many squares or blots a face is left with across its shorter side.
const COARSE: f32 = 6.0;

/// Levels that a square of `pixelate` may have: neighbouring frames' means tell no more than one.
const LEVELS: u32 = 16;

/// A box to paint, in pixels of the frame.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spot {
    pub(super) rect: Rect,
    /// What is written beside a drawn box.
    pub(super) label: String,
    /// Which colour of several it is drawn in.
    pub(super) color: u32,
    /// Whether it stands for the whole frame: no form and no margin then.
    pub(super) is_frame: bool,
}

/// Where boxes come from.
pub(super) enum Boxes {
    /// Nothing is known, as while a plan is made.
    Unknown,
    /// The tracks of a detector of the plan, its classes' names.
    Tracks { tracks: Box<Tracks>, detector: usize, classes: Vec<String> },
    /// A file that a user gave; what it tells of a frame is noted by the number of its detector in the plan.
    Regions { regions: Arc<Regions>, notes: Option<(u32, Notes)> },
}

impl Boxes {
    /// The boxes of a tracks file.
    pub(super) fn of_tracks(file: File, detector: usize, classes: Vec<String>) -> Result<Self> {
        Ok(Self::Tracks { tracks: Box::new(Tracks::new(file)?), detector, classes })
    }

    /// The boxes of a frame; `None` where all of it is to be hidden.
    fn at(&mut self, pts: i64) -> Result<Option<Vec<Spot>>> {
        match self {
            Self::Unknown => Ok(Some(Vec::new())),
            Self::Regions { regions, notes } => {
                let boxes = regions.at(pts)?;
                if let Some((detector, notes)) = notes {
                    notes.note(pts, *detector, boxes.clone());
                }
                Ok(Some(boxes.iter().map(|found| spot(found, &regions.classes, true)).collect()))
            }
            Self::Tracks { tracks, detector, classes } => {
                let line = tracks.at(pts)?;
                if line.failed.iter().any(|failed| *failed as usize == *detector) {
                    return Ok(None);
                }
                let boxes = line.boxes.get(*detector).ok_or_else(|| {
                    Error::internal("the tracks tell of fewer detectors than the plan has")
                })?;
                Ok(Some(boxes.iter().map(|found| spot(found, classes, false)).collect()))
            }
        }
    }
}

/// A box as it is painted; the class of whole frames means them where a job's detections are read back, and
/// is a model's own elsewhere.
fn spot(found: &TrackedBox, classes: &[String], read_back: bool) -> Spot {
    let class = classes.get(usize::from(found.class)).map_or("", String::as_str);
    let label = match found.track {
        0 => class.to_owned(),
        track => format!("{class} {track}"),
    };
    Spot {
        rect: found.rect,
        label,
        color: found.track,
        is_frame: read_back && class == WHOLE_FRAME,
    }
}

/// Hides or shows what was found.
pub(super) struct Paint {
    action: Action,
    shape: Shape,
    /// How much wider and higher than its box what is hidden is, as a part of it, at each side.
    margin: f32,
    place: Place,
    pixel: PixelFormat,
    boxes: Boxes,
}

impl Paint {
    /// Makes it for frames of a format, which lie at `place` in the source as displayed.
    pub(super) fn new(
        params: &Params,
        format: &FrameFormat,
        place: Place,
        boxes: Boxes,
    ) -> Result<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "a small number")]
        let margin = params.number("margin")? as f32 / 100.0;
        Ok(Self {
            action: Action::of(params)?,
            shape: Shape::of(params)?,
            margin,
            place,
            pixel: format.pixel,
            boxes,
        })
    }

    /// Makes it where nothing is known of boxes, to see whether it can be made.
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Ok(Box::new(Self::new(params, format, Place::default(), Boxes::Unknown)?))
    }

    fn hide(&self, frame: &mut Frame, rect: Rect, shape: Shape) -> Result<()> {
        let full = frame.is_full_range();
        if !rect.is_sound() {
            // What is to be hidden here cannot be told.
            return Err(Error::internal(format!("a box that is none: {rect:?}")));
        }
        let cut = Cut::of(rect, frame);
        let block = block_size(cut.short_side(rect));
        for plane in 0..self.pixel.planes() {
            let shift = self.pixel.shift(plane);
            let mut to = frame.plane_mut(plane)?;
            let Some(mask) = Mask::new(rect, shape, cut, shift, &to) else { continue };
            match self.action {
                Action::Fill => {
                    let black = match (plane, full) {
                        (0, true) => 0,
                        (0, false) => 16,
                        _ => 128,
                    };
                    mask.rows(&mut to, |_, row| row.fill(black));
                }
                Action::Pixelate => pixelate(&mut to, &mask, block, shift),
                Action::Blur => blur(&mut to, &mask)?,
                Action::Boxes | Action::None => {}
            }
        }
        Ok(())
    }

    fn draw(&self, frame: &mut Frame, spot: &Spot) -> Result<()> {
        let color = letters::color(spot.color);
        outline_of(frame, self.pixel, spot.rect, color)?;
        letters::write(frame, self.pixel, &spot.label, spot.rect, color)
    }
}

impl PerFrame for Paint {
    fn apply(&mut self, mut frame: Frame) -> Result<Frame> {
        if self.action == Action::None {
            return Ok(frame);
        }
        let Some(spots) = self.boxes.at(frame.pts())? else {
            #[expect(clippy::cast_precision_loss, reason = "sides of a picture")]
            let (w, h) = (frame.width() as f32, frame.height() as f32);
            let whole = Rect { x: 0.0, y: 0.0, w, h };
            self.hide(&mut frame, whole, Shape::Box)?;
            return Ok(frame);
        };
        for mut spot in spots {
            spot.rect = self.place.to_frame(spot.rect);
            if self.action == Action::Boxes {
                self.draw(&mut frame, &spot)?;
            } else {
                let (rect, shape) = if spot.is_frame {
                    (spot.rect, Shape::Box)
                } else {
                    (widened(spot.rect, self.margin), self.shape)
                };
                self.hide(&mut frame, rect, shape)?;
            }
        }
        Ok(frame)
    }
}

/// A box that is wider and higher by `margin` of it at each side.
fn widened(rect: Rect, margin: f32) -> Rect {
    let (x, y) = (rect.w * margin, rect.h * margin);
    Rect { x: rect.x - x, y: rect.y - y, w: rect.w + 2.0 * x, h: rect.h + 2.0 * y }
}

/// The side of a square of `pixelate` in luma samples, where what is hidden has so short a side: a power of two, so that it stays
/// the same while a box grows a little.
fn block_size(short: f32) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let side = (short / COARSE).clamp(4.0, 4096.0) as usize;
    side.next_power_of_two()
}

/// A box this near to the picture's edge, as a part of its side, is what the edge leaves of a thing.
const AT_EDGE: f32 = 0.05;

/// At which edges of the picture a box ends: left or right, upper or lower. Detectors tell of what is in the picture, so that half a
/// face at its edge would be painted as a whole one, and be seen where that is narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cut {
    left: bool,
    right: bool,
    top: bool,
    bottom: bool,
}

impl Cut {
    /// Of a box that is to be hidden, in a picture.
    #[expect(clippy::cast_precision_loss, reason = "sides of a picture")]
    fn of(rect: Rect, frame: &Frame) -> Self {
        let (width, height) = (frame.width() as f32, frame.height() as f32);
        let (across, down) = ((rect.w * AT_EDGE).max(1.0), (rect.h * AT_EDGE).max(1.0));
        Self {
            left: rect.x <= across,
            right: rect.x + rect.w >= width - across,
            top: rect.y <= down,
            bottom: rect.y + rect.h >= height - down,
        }
    }

    /// The shorter side of the whole thing that a box is of, or more: what an edge leaves may be a narrow strip of it.
    fn short_side(self, rect: Rect) -> f32 {
        match (self.left || self.right, self.top || self.bottom) {
            (false, false) => rect.w.min(rect.h),
            (true, false) => rect.h,
            (false, true) => rect.w,
            (true, true) => rect.w.max(rect.h),
        }
    }
}

/// The part of a plane that is painted over.
struct Mask {
    x: usize,
    y: usize,
    w: usize,
    h: usize,
    rect: Rect,
    shape: Shape,
    cut: Cut,
    shift: (u32, u32),
}

impl Mask {
    /// The samples of a plane that `rect` covers; `None` where it covers none.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "clamped to the plane"
    )]
    fn new(
        rect: Rect,
        shape: Shape,
        cut: Cut,
        shift: (u32, u32),
        plane: &PlaneMut<'_>,
    ) -> Option<Self> {
        let (sx, sy) = ((1u32 << shift.0) as f32, (1u32 << shift.1) as f32);
        let clamp = |v: f32, most: usize| v.clamp(0.0, most as f32) as usize;
        let (left, top) = ((rect.x / sx).floor(), (rect.y / sy).floor());
        let (right, bottom) = (((rect.x + rect.w) / sx).ceil(), ((rect.y + rect.h) / sy).ceil());
        let (x, y) = (clamp(left, plane.width), clamp(top, plane.height));
        let (w, h) = (clamp(right, plane.width) - x, clamp(bottom, plane.height) - y);
        (rect.is_sound() && w > 0 && h > 0).then_some(Self { x, y, w, h, rect, shape, cut, shift })
    }

    /// The samples of row `y` of the plane that are painted over, as `[from, to)`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "clamped to the plane"
    )]
    fn row(&self, y: usize) -> (usize, usize) {
        let (from, to) = (self.x, self.x + self.w);
        if self.shape == Shape::Box {
            return (from, to);
        }
        let (sx, sy) = ((1u32 << self.shift.0) as f32, (1u32 << self.shift.1) as f32);
        let (cx, cy) = self.rect.center();
        // The sample's part that lies nearest to the middle: what an edge only touches is covered, too.
        let (top, bottom) = (y as f32 * sy, (y + 1) as f32 * sy);
        let away = match (cy < top, self.cut) {
            (true, Cut { bottom: true, .. }) | (false, Cut { top: true, .. }) => 0.0,
            (true, _) => top - cy,
            (false, _) => (cy - bottom).max(0.0),
        };
        let high = (away / (self.rect.h / 2.0)).min(1.0);
        let half = self.rect.w / 2.0 * (1.0 - high * high).sqrt();
        let left = ((cx - half) / sx).floor().max(0.0) as usize;
        let right = ((cx + half) / sx).ceil().max(0.0) as usize;
        let left = if self.cut.left { from } else { left.clamp(from, to) };
        (left, if self.cut.right { to } else { right.clamp(left, to) })
    }

    /// Calls `change` with the part of each row that is painted over, and where it begins.
    fn rows(&self, plane: &mut PlaneMut<'_>, mut change: impl FnMut((usize, usize), &mut [u8])) {
        for y in self.y..self.y + self.h {
            let (from, to) = self.row(y);
            change((from, y), &mut plane.bytes[y * plane.stride + from..y * plane.stride + to]);
        }
    }
}

/// Squares on a grid that is the picture's own, wherever the box lies, each the mean of all its samples in a few
/// levels.
fn pixelate(plane: &mut PlaneMut<'_>, mask: &Mask, block: usize, shift: (u32, u32)) {
    let (bw, bh) = ((block >> shift.0).max(1), (block >> shift.1).max(1));
    let (first_x, first_y) = (mask.x / bw, mask.y / bh);
    let (last_x, last_y) = ((mask.x + mask.w - 1) / bw, (mask.y + mask.h - 1) / bh);
    let across = last_x - first_x + 1;
    let mut means = Vec::with_capacity(across * (last_y - first_y + 1));
    for by in first_y..=last_y {
        for bx in first_x..=last_x {
            let (x, y) = (bx * bw, by * bh);
            let (x_end, y_end) = ((x + bw).min(plane.width), (y + bh).min(plane.height));
            let row = |y: usize| &plane.bytes[y * plane.stride + x..y * plane.stride + x_end];
            let sum: u64 = (y..y_end).flat_map(row).map(|v| u64::from(*v)).sum();
            let count = ((x_end - x) * (y_end - y)).max(1) as u64;
            let mean = u32::try_from(sum / count).unwrap_or(255).min(255);
            let step = 256 / LEVELS;
            means.push(u8::try_from(mean / step * step + step / 2).unwrap_or(u8::MAX));
        }
    }
    mask.rows(plane, |(x, y), row| {
        let line = (y / bh - first_y) * across;
        for (i, sample) in row.iter_mut().enumerate() {
            *sample = means[line + (x + i) / bw - first_x];
        }
    });
}

/// What a few blots leave of it: made small, smoothed, and made large again.
///
/// A blot's size goes by the whole thing, also where the picture's edge leaves a part of it only.
fn blur(plane: &mut PlaneMut<'_>, mask: &Mask) -> Result<()> {
    let side = |v: usize| i32::try_from(v).unwrap_or(i32::MAX);
    let blot = mask.cut.short_side(mask.rect) / COARSE;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "sides of a plane"
    )]
    let coarse = |v: usize, shift: u32| {
        let blots = (v as f32 * (1u32 << shift) as f32 / blot).round() as usize;
        side(blots.clamp(1, v.div_ceil(2)))
    };
    let region = Region::new(side(mask.x), side(mask.y), side(mask.w), side(mask.h));
    let header = mat_of_mut(plane)?;
    let part = Mat::roi(&header, region).map_err(failed)?.clone_pointee();
    let small_size = Size::new(coarse(mask.w, mask.shift.0), coarse(mask.h, mask.shift.1));
    let (mut small, mut smooth, mut large) = (Mat::default(), Mat::default(), Mat::default());
    imgproc::resize(&part, &mut small, small_size, 0.0, 0.0, INTER_AREA).map_err(failed)?;
    imgproc::gaussian_blur_def(&small, &mut smooth, Size::new(3, 3), 0.8).map_err(failed)?;
    let whole = Size::new(side(mask.w), side(mask.h));
    imgproc::resize(&smooth, &mut large, whole, 0.0, 0.0, INTER_LINEAR).map_err(failed)?;
    drop((part, header));
    let bytes = large.data_bytes().map_err(failed)?;
    mask.rows(plane, |(x, y), row| {
        let at = (y - mask.y) * mask.w + x - mask.x;
        row.copy_from_slice(&bytes[at..at + row.len()]);
    });
    Ok(())
}

/// Draws the edges of a box in a colour of luma and chroma.
pub(super) fn outline_of(
    frame: &mut Frame,
    pixel: PixelFormat,
    rect: Rect,
    (luma, cb, cr): (u8, u8, u8),
) -> Result<()> {
    let thickness = (frame.height() as usize / 360).max(1) * 2;
    for plane in 0..pixel.planes() {
        let (sx, sy) = pixel.shift(plane);
        let mut to = frame.plane_mut(plane)?;
        let value = [luma, cb, cr][plane.min(2)];
        let thick = ((thickness >> sx).max(1), (thickness >> sy).max(1));
        outline(&mut to, rect, (sx, sy), thick, value);
    }
    Ok(())
}

/// The edges of a box on a plane, drawn inwards.
fn outline(
    plane: &mut PlaneMut<'_>,
    rect: Rect,
    shift: (u32, u32),
    thick: (usize, usize),
    value: u8,
) {
    let cut = Cut::default();
    let Some(mask) = Mask::new(rect, Shape::Box, cut, shift, plane) else { return };
    let (left, right) = (mask.x, mask.x + mask.w);
    let (top, bottom) = (mask.y, mask.y + mask.h);
    let (tx, ty) = (thick.0.min(mask.w), thick.1.min(mask.h));
    mask.rows(plane, |(_, y), row| {
        if y < top + ty || y + ty >= bottom {
            row.fill(value);
        } else {
            row[..tx].fill(value);
            let from = right - left - tx;
            row[from..].fill(value);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pixel: PixelFormat, w: u32, h: u32) -> Frame {
        let mut frame = Frame::new(pixel, w, h).unwrap();
        for plane in 0..pixel.planes() {
            let to = frame.plane_mut(plane).unwrap();
            for y in 0..to.height {
                for x in 0..to.width {
                    let noise = (x * 7919 + y * 104_729 + plane * 31) % 251;
                    to.bytes[y * to.stride + x] = u8::try_from(noise).unwrap();
                }
            }
        }
        frame
    }

    fn paint(action: Action, shape: Shape, pixel: PixelFormat) -> Paint {
        let (place, boxes) = (Place::default(), Boxes::Unknown);
        Paint { action, shape, margin: 0.0, place, pixel, boxes }
    }

    /// Of the samples of a plane: how many changed within the rectangle, and how many beside it.
    fn changed(
        a: &Frame,
        b: &Frame,
        plane: usize,
        inside: (usize, usize, usize, usize),
    ) -> (f64, usize) {
        let (a, b) = (a.plane(plane).unwrap(), b.plane(plane).unwrap());
        let (mut within, mut beside) = (0, 0);
        for y in 0..a.height {
            for x in 0..a.width {
                let differs = a.bytes[y * a.stride + x] != b.bytes[y * b.stride + x];
                let (l, t, r, o) = inside;
                if (l..r).contains(&x) && (t..o).contains(&y) {
                    within += usize::from(differs);
                } else {
                    beside += usize::from(differs);
                }
            }
        }
        let area = (inside.2 - inside.0) * (inside.3 - inside.1);
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        (within as f64 / area as f64, beside)
    }

    #[test]
    fn what_is_hidden_is_hidden_on_all_planes_and_nothing_beside_it() {
        let rect = Rect { x: 20.0, y: 10.0, w: 40.0, h: 30.0 };
        for pixel in PixelFormat::EIGHT_BIT {
            for action in [Action::Blur, Action::Pixelate, Action::Fill] {
                let before = frame(pixel, 97, 63);
                let mut after = before.clone();
                paint(action, Shape::Box, pixel).hide(&mut after, rect, Shape::Box).unwrap();
                for plane in 0..pixel.planes() {
                    let (sx, sy) = pixel.shift(plane);
                    let part = (20 >> sx, 10 >> sy, 60 >> sx, 40 >> sy);
                    let (within, beside) = changed(&before, &after, plane, part);
                    assert_eq!(beside, 0, "{pixel:?} {action:?} plane {plane}");
                    assert!(within > 0.95, "{pixel:?} {action:?} plane {plane}: {within}");
                }
            }
        }
    }

    #[test]
    fn an_ellipse_covers_its_share_of_the_box() {
        let rect = Rect { x: 10.0, y: 10.0, w: 60.0, h: 40.0 };
        let before = frame(PixelFormat::Gray8, 100, 80);
        let mut after = before.clone();
        let filter = paint(Action::Fill, Shape::Ellipse, PixelFormat::Gray8);
        filter.hide(&mut after, rect, Shape::Ellipse).unwrap();
        let (within, beside) = changed(&before, &after, 0, (10, 10, 70, 50));
        assert_eq!(beside, 0);
        assert!((0.78..0.84).contains(&within), "{within}");
    }

    /// The detector's box ends where the picture does; all that is left of the face must go, without any margin.
    #[test]
    fn a_face_that_the_edge_cuts_is_hidden_up_to_the_edge() {
        let (w, h) = (120u16, 90u16);
        let (wide, high) = (f32::from(w), f32::from(h));
        for (cx, cy) in [
            (4.0, 40.0),
            (wide - 6.0, 40.0),
            (60.0, 5.0),
            (60.0, high - 3.0),
            (0.0, 0.0),
            (wide, high),
        ] {
            let (rx, ry) = (20.0, 30.0);
            let (left, top) = (f32::max(cx - rx, 0.0), f32::max(cy - ry, 0.0));
            let (right, bottom) = (f32::min(cx + rx, wide), f32::min(cy + ry, high));
            let rect = Rect { x: left, y: top, w: right - left, h: bottom - top };
            let mut hidden = Frame::new(PixelFormat::Gray8, w.into(), h.into()).unwrap();
            hidden.plane_mut(0).unwrap().bytes.fill(200);
            let filter = paint(Action::Fill, Shape::Ellipse, PixelFormat::Gray8);
            filter.hide(&mut hidden, rect, Shape::Ellipse).unwrap();
            let plane = hidden.plane(0).unwrap();
            let seen = (0..h).flat_map(|y| (0..w).map(move |x| (x, y))).filter(|(x, y)| {
                let (dx, dy) = ((f32::from(*x) + 0.5 - cx) / rx, (f32::from(*y) + 0.5 - cy) / ry);
                let inside = dx * dx + dy * dy < 1.0;
                inside && plane.bytes[usize::from(*y) * plane.stride + usize::from(*x)] == 200
            });
            assert_eq!(seen.count(), 0, "at {cx}, {cy}");
        }
    }

    #[test]
    fn a_face_that_the_edge_cuts_is_blurred_as_much_as_a_whole_one() {
        // Stripes as wide as the blots of a face of 60 samples, and wider than those of one of 30 by far.
        let (width, mut striped) = (200, Frame::new(PixelFormat::Gray8, 200, 80).unwrap());
        let to = striped.plane_mut(0).unwrap();
        for (i, sample) in to.bytes.iter_mut().enumerate() {
            *sample = if (i % to.stride) / 10 % 2 == 0 { 40 } else { 200 };
        }
        let contrast = |x: f32, w: f32| {
            let rect = Rect { x, y: 10.0, w, h: 60.0 };
            let mut hidden = striped.clone();
            let filter = paint(Action::Blur, Shape::Box, PixelFormat::Gray8);
            filter.hide(&mut hidden, rect, Shape::Box).unwrap();
            let plane = hidden.plane(0).unwrap();
            let first = if x < 100.0 { 4 } else { width - 20 };
            let row = &plane.bytes[40 * plane.stride + first..][..16];
            row.iter().max().unwrap() - row.iter().min().unwrap()
        };
        // Boxes that reach over the edge, and those that end at it, as detectors give them.
        for (x, w) in [(-36.0, 60.0), (170.0, 60.0), (0.0, 24.0), (170.0, 30.0)] {
            assert!(contrast(x, w) < 60, "{x}: {}", contrast(x, w));
        }
    }

    #[test]
    fn boxes_over_the_edge_and_beside_the_picture_do_no_harm() {
        for rect in [
            Rect { x: -30.0, y: -20.0, w: 50.0, h: 40.0 },
            Rect { x: 90.0, y: 60.0, w: 500.0, h: 400.0 },
            Rect { x: 1e9, y: 1e9, w: 1e9, h: 1e9 },
            Rect { x: -1e9, y: 5.0, w: 3e9, h: 1e-6 },
            Rect { x: 3.0, y: 3.0, w: 0.2, h: 0.2 },
            Rect { x: f32::NAN, y: 0.0, w: 1.0, h: 1.0 },
        ] {
            for shape in [Shape::Box, Shape::Ellipse] {
                for action in [Action::Blur, Action::Pixelate, Action::Fill, Action::Boxes] {
                    let mut frame = frame(PixelFormat::Yuv420p, 97, 63);
                    let filter = paint(action, shape, PixelFormat::Yuv420p);
                    // What is to be hidden and cannot be told is an error, never a frame as it was.
                    assert_eq!(filter.hide(&mut frame, rect, shape).is_ok(), rect.is_sound());
                    let spot = Spot { rect, label: "face 12".into(), color: 12, is_frame: false };
                    filter.draw(&mut frame, &spot).unwrap();
                }
            }
        }
    }

    #[test]
    fn squares_stay_on_the_pictures_grid_where_a_box_moves() {
        let before = frame(PixelFormat::Gray8, 128, 128);
        let hidden = |x: f32| {
            let mut after = before.clone();
            let rect = Rect { x, y: 30.0, w: 48.0, h: 48.0 };
            let filter = paint(Action::Pixelate, Shape::Box, PixelFormat::Gray8);
            filter.hide(&mut after, rect, Shape::Box).unwrap();
            let plane = after.plane(0).unwrap();
            plane.bytes[40 * plane.stride + 40..40 * plane.stride + 64].to_vec()
        };
        assert_eq!(hidden(30.0), hidden(33.7));
    }
}
