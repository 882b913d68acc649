//! `edges`: Canny's edges of luma, alone or over the picture.

use frameloom_core::Result;
use frameloom_core::catalogue::Params;
use opencv::core::MatTraitConst;
use opencv::{core, imgproc};

use super::plane::Areas;
use super::{Filter, PerFrame};
use crate::frame::{Frame, FrameFormat};

/// `cv::Canny(luma, low, high, aperture)`.
pub(super) struct Edges {
    areas: Areas,
    low: f64,
    high: f64,
    aperture: i32,
    overlay: bool,
}

impl Edges {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Ok(Box::new(Self {
            areas: Areas::new(params, format)?,
            low: params.number("low")?,
            high: params.number("high")?,
            aperture: i32::try_from(params.integer("aperture")?).unwrap_or(3),
            overlay: params.boolean("overlay")?,
        }))
    }
}

impl PerFrame for Edges {
    fn apply(&mut self, frame: Frame) -> Result<Frame> {
        let Self { low, high, aperture, overlay, .. } = *self;
        let mut out = self.areas.remake(&frame, 0..1, |_, from, to| {
            if from.rows() < 3 || from.cols() < 3 {
                // Too small to hold an edge.
                return if overlay { from.copy_to(to) } else { core::multiply_def(from, &0.0, to) };
            }
            if !overlay {
                return imgproc::canny(from, to, low, high, aperture, false);
            }
            let mut edges = core::Mat::default();
            imgproc::canny(from, &mut edges, low, high, aperture, false)?;
            core::max(from, &edges, to)
        })?;
        if !overlay {
            self.areas.rows(&mut out, 1..3, |_, row| row.fill(128))?;
        }
        Ok(out)
    }
}
