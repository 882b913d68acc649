//! `crop`: a part of the picture, without a copy.

use frameloom_core::catalogue::Params;
use frameloom_core::time::Rational;
use frameloom_core::{Error, Result};

use super::{Filter, PerFrame};
use crate::ff;
use crate::frame::{Frame, FrameFormat, swapped_fields};

/// FFmpeg's `crop`: the middle where no corner is given, corners rounded down to whole chroma
/// samples.
pub(super) struct Crop {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

impl Crop {
    fn new(params: &Params, format: &FrameFormat) -> Result<Self> {
        let given =
            |key: &str| params.optional_integer(key).map(|v| u32::try_from(v).unwrap_or(u32::MAX));
        let (w, h) = (given("w").unwrap_or(format.width), given("h").unwrap_or(format.height));
        if w > format.width || h > format.height {
            return Err(Error::invalid(format!(
                "{w}x{h} is larger than the picture of {}x{}",
                format.width, format.height
            )));
        }
        let x = given("x").unwrap_or((format.width - w) / 2);
        let y = given("y").unwrap_or((format.height - h) / 2);
        let fits =
            |at: u32, size: u32, whole: u32| at.checked_add(size).is_some_and(|e| e <= whole);
        if !fits(x, w, format.width) || !fits(y, h, format.height) {
            return Err(Error::invalid(format!(
                "{w}x{h} at {x},{y} reaches outside the picture of {}x{}",
                format.width, format.height
            )));
        }
        let (sx, sy) = format.pixel.shift(format.pixel.planes() - 1);
        Ok(Self { x: x >> sx << sx, y: y >> sy << sy, w, h })
    }

    /// The left upper corner in pixels of the frames that it takes.
    ///
    /// # Errors
    /// Invalid where the part reaches outside the picture.
    #[expect(clippy::cast_precision_loss, reason = "sides of a picture")]
    pub(super) fn corner(params: &Params, format: &FrameFormat) -> Result<(f32, f32)> {
        Self::new(params, format).map(|crop| (crop.x as f32, crop.y as f32))
    }

    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Ok(Box::new(Self::new(params, format)?))
    }

    pub(super) fn output(params: &Params, format: &FrameFormat) -> Result<FrameFormat> {
        let crop = Self::new(params, format)?;
        let field_order = if crop.y.is_multiple_of(2) {
            format.field_order.clone()
        } else {
            swapped_fields(&format.field_order)
        };
        Ok(FrameFormat { width: crop.w, height: crop.h, field_order, ..format.clone() })
    }
}

impl PerFrame for Crop {
    fn apply(&mut self, mut frame: Frame) -> Result<Frame> {
        let (width, height) = (frame.width(), frame.height());
        let raw = frame.raw_mut();
        raw.crop_left = self.x as usize;
        raw.crop_top = self.y as usize;
        raw.crop_right = (width - self.x - self.w) as usize;
        raw.crop_bottom = (height - self.y - self.h) as usize;
        let flags = ffmpeg_next::ffi::AV_FRAME_CROP_UNALIGNED as i32;
        // SAFETY: a valid frame whose cropping lies within it; only its pointers move.
        let code = unsafe { ffmpeg_next::ffi::av_frame_apply_cropping(frame.as_mut_ptr(), flags) };
        ff::check(code, "cannot crop")?;
        Ok(frame)
    }
}

/// The sample aspect ratio that keeps the picture's shape when its size changes.
pub(super) fn scaled_aspect(ratio: Rational, from: (u32, u32), to: (u32, u32)) -> Rational {
    if !ratio.is_known() {
        return ratio;
    }
    let num = u128::from(ratio.num.unsigned_abs()) * u128::from(from.0) * u128::from(to.1);
    let den = u128::from(ratio.den.unsigned_abs()) * u128::from(from.1) * u128::from(to.0);
    let (mut a, mut b) = (num, den);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    match (i32::try_from(num / a.max(1)), i32::try_from(den / a.max(1))) {
        (Ok(num), Ok(den)) => Rational::new(num, den),
        _ => Rational::new(0, 1),
    }
}
