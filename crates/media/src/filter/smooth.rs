//! Smoothing filters on the planes, OpenCV's and as OpenCV's are: `blur`, `box`, `median`, `bilateral`, `sharpen`.

use frameloom_core::Result;
use frameloom_core::catalogue::Params;
use opencv::core::{Mat, Size};
use opencv::{core, imgproc};

use super::gaussian::Gaussian;
use super::plane::{Areas, failed};
use super::{Filter, PerFrame};
use crate::frame::{Frame, FrameFormat};

/// What is done to a plane.
enum Kind {
    Gaussian(Gaussian),
    Box { size: i32 },
    Median { size: i32 },
    Bilateral { diameter: i32, color: f64, space: f64 },
    Unsharp { gaussian: Gaussian, amount: f64 },
}

/// One of the smoothing filters.
pub(super) struct Smooth {
    areas: Areas,
    kind: Kind,
    scratch: Mat,
}

fn whole(params: &Params, key: &str) -> Result<i32> {
    Ok(i32::try_from(params.integer(key)?).unwrap_or(i32::MAX))
}

impl Smooth {
    fn boxed(params: &Params, format: &FrameFormat, kind: Kind) -> Result<Box<dyn Filter>> {
        Ok(Box::new(Self { areas: Areas::new(params, format)?, kind, scratch: Mat::default() }))
    }

    /// `blur`: what `cv::GaussianBlur(plane, Size(), sigma)` gives, on each plane.
    pub(super) fn gaussian(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        let gaussian = Gaussian::new(params.number("sigma")?).map_err(failed)?;
        Self::boxed(params, format, Kind::Gaussian(gaussian))
    }

    /// `box`: `cv::blur(plane, Size(size, size))` on each plane.
    pub(super) fn mean(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Self::boxed(params, format, Kind::Box { size: whole(params, "size")? })
    }

    /// `median`: `cv::medianBlur(plane, size)` on each plane.
    pub(super) fn median(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Self::boxed(params, format, Kind::Median { size: whole(params, "size")? })
    }

    /// `bilateral`: `cv::bilateralFilter(plane, d, color, space)` on each plane.
    pub(super) fn bilateral(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        let kind = Kind::Bilateral {
            diameter: whole(params, "d")?,
            color: params.number("color")?,
            space: params.number("space")?,
        };
        Self::boxed(params, format, kind)
    }

    /// `sharpen`: luma plus `amount` times its difference from its Gaussian blur.
    pub(super) fn unsharp(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        let gaussian = Gaussian::new(params.number("sigma")?).map_err(failed)?;
        let kind = Kind::Unsharp { gaussian, amount: params.number("amount")? };
        Self::boxed(params, format, kind)
    }
}

impl PerFrame for Smooth {
    fn apply(&mut self, frame: Frame) -> Result<Frame> {
        let Self { areas, kind, scratch } = self;
        let planes = if matches!(kind, Kind::Unsharp { .. }) { 0..1 } else { 0..3 };
        areas.remake(&frame, planes, |_, from, to| match kind {
            Kind::Gaussian(gaussian) => gaussian.apply(from, to),
            Kind::Box { size } => imgproc::blur_def(from, to, Size::new(*size, *size)),
            Kind::Median { size } => imgproc::median_blur(from, to, *size),
            Kind::Bilateral { diameter, color, space } => {
                imgproc::bilateral_filter_def(from, to, *diameter, *color, *space)
            }
            Kind::Unsharp { gaussian, amount } => {
                gaussian.apply(from, scratch)?;
                core::add_weighted_def(from, 1.0 + *amount, scratch, -*amount, 0.0, to)
            }
        })
    }
}
