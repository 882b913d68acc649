//! `scale`: another size, by swscale.

use frameloom_core::catalogue::Params;
use frameloom_core::{Error, Result};

use super::crop::scaled_aspect;
use super::{Filter, PerFrame};
use crate::convert::Converter;
use crate::frame::{Frame, FrameFormat};

/// FFmpeg's `scale=W:H:flags=bicubic+accurate_rnd+full_chroma_int`; a side that is not given keeps
/// the picture's shape, rounded to an even number.
pub(super) struct Scale {
    converter: Converter,
}

fn size(params: &Params, format: &FrameFormat) -> Result<(u32, u32)> {
    let given =
        |key: &str| params.optional_integer(key).map(|v| u32::try_from(v).unwrap_or(u32::MAX));
    let even = |side: u32, of: u32, whole: u32| {
        let exact = u64::from(side) * u64::from(of);
        let half = exact.div_ceil(u64::from(whole) * 2).max(1);
        let down = (exact / (u64::from(whole) * 2)).max(1);
        let nearer = if half * 2 * u64::from(whole) - exact
            <= exact.saturating_sub(down * 2 * u64::from(whole))
        {
            half
        } else {
            down
        };
        u32::try_from(nearer * 2).unwrap_or(u32::MAX)
    };
    match (given("w"), given("h")) {
        (Some(w), Some(h)) => Ok((w, h)),
        (Some(w), None) => Ok((w, even(w, format.height, format.width))),
        (None, Some(h)) => Ok((even(h, format.width, format.height), h)),
        (None, None) => Err(Error::invalid("give w, h or both, like scale:w=1280")),
    }
}

impl Scale {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        let (width, height) = size(params, format)?;
        Ok(Box::new(Self { converter: Converter::new(format.pixel, width, height, 0, false) }))
    }

    pub(super) fn output(params: &Params, format: &FrameFormat) -> Result<FrameFormat> {
        let (width, height) = size(params, format)?;
        if width > 16384 || height > 16384 {
            return Err(Error::invalid(format!("{width}x{height} is larger than 16384x16384")));
        }
        let from = (format.width, format.height);
        let sample_aspect_ratio = scaled_aspect(format.sample_aspect_ratio, from, (width, height));
        // Lines of both fields are mixed.
        let field_order =
            if height == format.height { format.field_order.clone() } else { "progressive".into() };
        Ok(FrameFormat { width, height, sample_aspect_ratio, field_order, ..format.clone() })
    }
}

impl PerFrame for Scale {
    fn apply(&mut self, frame: Frame) -> Result<Frame> {
        self.converter.convert(frame)
    }
}
