//! `pixelate`: square blocks of their mean.

use frameloom_core::Result;
use frameloom_core::catalogue::Params;

use super::plane::Areas;
use super::{Filter, PerFrame};
use crate::frame::{Frame, FrameFormat, PlaneMut};

/// Each block of `size` × `size` pixels, counted from the picture's corner, becomes its mean. On
/// chroma the blocks cover the same pixels. Equals `cv::resize` by `INTER_AREA` and back by
/// `INTER_NEAREST` where the size divides the picture.
pub(super) struct Pixelate {
    areas: Areas,
    size: usize,
    shifts: [(u32, u32); 3],
}

impl Pixelate {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        let size = usize::try_from(params.integer("size")?).unwrap_or(1);
        let shifts = [0, 1, 2].map(|plane| format.pixel.shift(plane));
        Ok(Box::new(Self { areas: Areas::new(params, format)?, size, shifts }))
    }
}

impl PerFrame for Pixelate {
    fn apply(&mut self, mut frame: Frame) -> Result<Frame> {
        for plane in 0..frame.pixel()?.planes() {
            let area = self.areas.of(plane);
            let (sx, sy) = self.shifts[plane];
            let (bw, bh) = ((self.size >> sx).max(1), (self.size >> sy).max(1));
            let PlaneMut { bytes, stride, .. } = frame.plane_mut(plane)?;
            let (right, bottom) = (area.x + area.w, area.y + area.h);
            let mut y = area.y;
            while y < bottom {
                let y_end = ((y / bh + 1) * bh).min(bottom);
                let mut x = area.x;
                while x < right {
                    let x_end = ((x / bw + 1) * bw).min(right);
                    let sum: usize = (y..y_end)
                        .map(|y| {
                            let row = &bytes[y * stride + x..y * stride + x_end];
                            row.iter().map(|v| usize::from(*v)).sum::<usize>()
                        })
                        .sum();
                    let count = (y_end - y) * (x_end - x);
                    let mean = u8::try_from((sum + count / 2) / count).unwrap_or(u8::MAX);
                    for y in y..y_end {
                        bytes[y * stride + x..y * stride + x_end].fill(mean);
                    }
                    x = x_end;
                }
                y = y_end;
            }
        }
        Ok(frame)
    }
}
