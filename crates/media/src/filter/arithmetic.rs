//! Filters that change each sample by itself: `gray`, `invert`, `levels`.

use frameloom_core::Result;
use frameloom_core::catalogue::Params;

use super::plane::Areas;
use super::{Filter, PerFrame};
use crate::frame::{Frame, FrameFormat};

/// Takes the colour away: chroma becomes 128. Equals FFmpeg's `hue=s=0`.
pub(super) struct Gray(Areas);

impl Gray {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Ok(Box::new(Self(Areas::new(params, format)?)))
    }
}

impl PerFrame for Gray {
    fn apply(&mut self, mut frame: Frame) -> Result<Frame> {
        self.0.rows(&mut frame, 1..3, |_, row| row.fill(128))?;
        Ok(frame)
    }
}

/// Turns each sample `v` into `255 - v`. Equals FFmpeg's `negate`.
pub(super) struct Invert(Areas);

impl Invert {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Ok(Box::new(Self(Areas::new(params, format)?)))
    }
}

impl PerFrame for Invert {
    fn apply(&mut self, mut frame: Frame) -> Result<Frame> {
        self.0.rows(&mut frame, 0..3, |_, row| row.iter_mut().for_each(|v| *v = !*v))?;
        Ok(frame)
    }
}

/// Brightness, contrast and gamma of luma by a table. Equals FFmpeg's `eq` on luma.
pub(super) struct Levels {
    areas: Areas,
    table: [u8; 256],
}

impl Levels {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        let (brightness, contrast, gamma) =
            (params.number("brightness")?, params.number("contrast")?, params.number("gamma")?);
        let mut table = [0; 256];
        for (i, entry) in (0i32..).zip(&mut table) {
            // As eq, which does nothing at all then.
            let neutral = (brightness, contrast, gamma) == (0.0, 1.0, 1.0);
            *entry = if neutral {
                u8::try_from(i).unwrap_or(u8::MAX)
            } else if (gamma - 1.0).abs() < 1e-4 {
                linear(i, brightness, contrast)
            } else {
                curved(i, brightness, contrast, gamma)
            };
        }
        Ok(Box::new(Self { areas: Areas::new(params, format)?, table }))
    }
}

/// As FFmpeg's `eq` computes it without gamma, in whole numbers.
#[expect(clippy::cast_possible_truncation, reason = "parameters are within a small range")]
fn linear(level: i32, brightness: f64, contrast: f64) -> u8 {
    let contrast = (contrast * 4096.0) as i32;
    let brightness = ((100.0 * brightness + 100.0) as i32 * 511) / 200 - 128 - contrast / 32;
    let level = ((level * contrast) >> 12) + brightness;
    u8::try_from(level.clamp(0, 255)).unwrap_or(u8::MAX)
}

/// As FFmpeg's `eq` computes it with gamma.
fn curved(level: i32, brightness: f64, contrast: f64, gamma: f64) -> u8 {
    let v = contrast * (f64::from(level) / 255.0 - 0.5) + 0.5 + brightness;
    let v = if v > 0.0 { v.powf(1.0 / gamma) } else { 0.0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=255"
    )]
    let level = (v * 256.0).clamp(0.0, 255.0) as u8;
    level
}

impl PerFrame for Levels {
    fn apply(&mut self, mut frame: Frame) -> Result<Frame> {
        let table = &self.table;
        self.areas.rows(&mut frame, 0..1, |_, row| {
            row.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
        })?;
        Ok(frame)
    }
}
