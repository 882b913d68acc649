//! A second look at a frame, turned: detectors know upright faces, and people lie and lean.

use ffmpeg_next::ffi;
use frameloom_core::Result;
use frameloom_core::detection::{Found, Rect};
use opencv::core::{BORDER_CONSTANT, Mat, Scalar, Size};
use opencv::imgproc::{self, INTER_AREA, INTER_LINEAR};
use opencv::prelude::*;

use crate::filter::{mat_of, mat_of_mut, opencv_failed};
use crate::frame::Frame;

/// The turned picture's longer side in pixels, at most. Small faces are not found turned anyway.
const LONGEST: f64 = 800.0;

/// A detection in the turned picture is believed less: much looks like a face from aslant.
const BELIEF: f32 = 0.8;

/// A frame turned about its middle, and the way back.
pub(super) struct Turned {
    /// The turned frame.
    pub(super) frame: Frame,
    sin: f64,
    cos: f64,
    /// Pixels of the turned frame by pixels of the source.
    scale: (f64, f64),
    /// Middles of the small upright picture and of the turned one.
    middle: ((f64, f64), (f64, f64)),
}

impl Turned {
    /// Turns a frame counter-clockwise by so many degrees.
    ///
    /// # Errors
    /// Of OpenCV; Exhausted where memory is.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sides of a picture"
    )]
    pub(super) fn new(frame: &Frame, degrees: f64) -> Result<Self> {
        let (sin, cos) = degrees.to_radians().sin_cos();
        // Pixels that are no squares would be sheared, not turned.
        let (w, h) = frame.shown_size();
        let (w, h) = (f64::from(w), f64::from(h));
        let sides = |w: f64, h: f64| (h * sin.abs() + w * cos.abs(), h * cos.abs() + w * sin.abs());
        let (across, down) = sides(w, h);
        let shrink = (LONGEST / across.max(down)).min(1.0);
        let even = |side: f64| (side.ceil() as u32).max(2).next_multiple_of(2);
        let (small_w, small_h) = (even(w * shrink), even(h * shrink));
        let (small_w, small_h) = (f64::from(small_w), f64::from(small_h));
        let (across, down) = sides(small_w, small_h);
        let (across, down) = (even(across), even(down));
        let pixel = frame.pixel()?;
        let mut turned = Self {
            frame: frame.new_like(pixel, across, down)?,
            sin,
            cos,
            scale: (small_w / f64::from(frame.width()), small_h / f64::from(frame.height())),
            middle: (
                (small_w / 2.0, small_h / 2.0),
                (f64::from(across) / 2.0, f64::from(down) / 2.0),
            ),
        };
        turned.frame.raw_mut().sample_aspect_ratio = ffi::AVRational { num: 1, den: 1 };
        for plane in 0..pixel.planes() {
            let shift = pixel.shift(plane);
            let from = mat_of(frame.plane(plane)?)?;
            let mut to = turned.frame.plane_mut(plane)?;
            let size = (small_w as i32 >> shift.0, small_h as i32 >> shift.1);
            let grey = if plane == 0 { 16.0 } else { 128.0 };
            let way = matrix(sin, cos, turned.middle, shift);
            let done = turn(&from, &mut mat_of_mut(&mut to)?, size, &way, grey);
            done.map_err(opencv_failed)?;
        }
        Ok(turned)
    }

    /// What was found in the turned frame, told of the upright one.
    pub(super) fn upright(
        &self,
        found: Vec<Found>,
        picture: &Frame,
    ) -> impl Iterator<Item = Found> {
        #[expect(clippy::cast_precision_loss, reason = "sides of a picture")]
        let (w, h) = (picture.width() as f32, picture.height() as f32);
        let back =
            |one: Found| Found { rect: self.back(one.rect), score: one.score * BELIEF, ..one };
        found.into_iter().map(back).filter(move |one| {
            let (x, y) = one.rect.center();
            (0.0..w).contains(&x) && (0.0..h).contains(&y)
        })
    }

    /// The upright box around what lies within a box of the turned frame, taken as an ellipse.
    #[expect(clippy::cast_possible_truncation, reason = "places in a picture")]
    fn back(&self, rect: Rect) -> Rect {
        let Self { sin, cos, scale, middle: (small, turned), .. } = *self;
        let (x, y) = rect.center();
        let (x, y) = (f64::from(x) - turned.0, f64::from(y) - turned.1);
        let (x, y) = (x * cos - y * sin + small.0, x * sin + y * cos + small.1);
        let (a, b) = (f64::from(rect.w) / 2.0, f64::from(rect.h) / 2.0);
        let across = (a * cos).hypot(b * sin) / scale.0;
        let down = (a * sin).hypot(b * cos) / scale.1;
        let (x, y) = (x / scale.0, y / scale.1);
        Rect {
            x: (x - across) as f32,
            y: (y - down) as f32,
            w: (2.0 * across) as f32,
            h: (2.0 * down) as f32,
        }
    }
}

/// The way from the small upright plane to the turned one, in samples of the plane.
fn matrix(
    sin: f64,
    cos: f64,
    (small, turned): ((f64, f64), (f64, f64)),
    shift: (u32, u32),
) -> [[f64; 3]; 2] {
    let (sx, sy) = (f64::from(1 << shift.0), f64::from(1 << shift.1));
    let x = turned.0 - cos * small.0 - sin * small.1;
    let y = turned.1 + sin * small.0 - cos * small.1;
    [[cos, sin * sy / sx, x / sx], [-sin * sx / sy, cos, y / sy]]
}

fn turn(
    from: &Mat,
    to: &mut Mat,
    (w, h): (i32, i32),
    way: &[[f64; 3]; 2],
    grey: f64,
) -> opencv::Result<()> {
    let mut small = Mat::default();
    imgproc::resize(from, &mut small, Size::new(w.max(1), h.max(1)), 0.0, 0.0, INTER_AREA)?;
    let way = Mat::from_slice_2d(way)?;
    let (size, border) = (to.size()?, Scalar::all(grey));
    let mut turned = Mat::default();
    imgproc::warp_affine(&small, &mut turned, &way, size, INTER_LINEAR, BORDER_CONSTANT, border)?;
    turned.copy_to(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    /// A bright square on black, wherever the turned frame has it, is found again at its place.
    #[test]
    fn what_is_found_turned_is_told_upright() {
        for (w, h) in [(320u32, 180u32), (1920, 1080), (63, 201)] {
            for degrees in [50.0, -50.0] {
                let mut frame = Frame::new(PixelFormat::Yuv420p, w, h).unwrap();
                let (x, y, side) = (w as usize * 7 / 10, h as usize * 3 / 10, h as usize / 10);
                for plane in 0..3 {
                    let to = frame.plane_mut(plane).unwrap();
                    to.bytes.fill(if plane == 0 { 16 } else { 128 });
                    if plane == 0 {
                        for row in y..y + side {
                            to.bytes[row * to.stride + x..row * to.stride + x + side].fill(235);
                        }
                    }
                }
                let turned = Turned::new(&frame, degrees).unwrap();
                let plane = turned.frame.plane(0).unwrap();
                let bright = |x: usize, y: usize| plane.bytes[y * plane.stride + x] > 128;
                let lit: Vec<(usize, usize)> = (0..plane.height)
                    .flat_map(|y| (0..plane.width).map(move |x| (x, y)))
                    .filter(|(x, y)| bright(*x, *y))
                    .collect();
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let mean = |of: fn(&(usize, usize)) -> usize| {
                    lit.iter().map(|at| of(at) as f32 + 0.5).sum::<f32>() / lit.len() as f32
                };
                let (cx, cy) = (mean(|at| at.0), mean(|at| at.1));
                let rect = Rect { x: cx - 4.0, y: cy - 4.0, w: 8.0, h: 8.0 };
                let found = Found { rect, score: 0.9, class: 0 };
                let all: Vec<Found> = turned.upright(vec![found], &frame).collect();
                let (bx, by) = all[0].rect.center();
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let (wx, wy) = ((x + side / 2) as f32, (y + side / 2) as f32);
                let near = w.max(h) / 300 + 2;
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let near = near as f32;
                assert!(
                    (bx - wx).abs() < near && (by - wy).abs() < near,
                    "{w}x{h} by {degrees}: {bx},{by} instead of {wx},{wy}"
                );
            }
        }
    }
}
