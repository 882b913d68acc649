//! `denoise`: the median of each sample over time.

use std::collections::VecDeque;

use frameloom_core::Result;
use frameloom_core::catalogue::Params;

use super::Filter;
use super::plane::Areas;
use crate::frame::{Frame, FrameFormat};

/// The median over a window of 3 or 5 frames around each one. At the ends of the video the first
/// and the last frame stand for those that are not there. Equals the median of `numpy` over the
/// same frames.
pub(super) struct Denoise {
    areas: Areas,
    half: usize,
    /// The frames around the next one to come out, it in the middle.
    window: VecDeque<Frame>,
}

impl Denoise {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        let frames = usize::try_from(params.integer("frames")?).unwrap_or(3);
        let areas = Areas::new(params, format)?;
        Ok(Box::new(Self { areas, half: frames / 2, window: VecDeque::new() }))
    }

    fn take(&mut self, frame: Frame, out: &mut Vec<Frame>) -> Result<()> {
        if self.window.is_empty() {
            self.window.extend((0..self.half).map(|_| frame.clone()));
        }
        self.window.push_back(frame);
        if self.window.len() == 2 * self.half + 1 {
            out.push(self.middle()?);
            self.window.pop_front();
        }
        Ok(())
    }

    fn middle(&self) -> Result<Frame> {
        let middle = &self.window[self.half];
        let pixel = middle.pixel()?;
        let mut out = middle.clone();
        out.make_writable()?;
        for plane in 0..pixel.planes() {
            let area = self.areas.of(plane);
            let planes =
                self.window.iter().map(|frame| frame.plane(plane)).collect::<Result<Vec<_>>>()?;
            let to = out.plane_mut(plane)?;
            for y in area.y..area.y + area.h {
                let row = |i: usize| {
                    let at = y * planes[i].stride + area.x;
                    &planes[i].bytes[at..at + area.w]
                };
                let at = y * to.stride + area.x;
                let to = &mut to.bytes[at..at + area.w];
                if self.half == 1 {
                    median3(to, row(0), row(1), row(2));
                } else {
                    median5(to, [row(0), row(1), row(2), row(3), row(4)]);
                }
            }
        }
        Ok(out)
    }
}

impl Filter for Denoise {
    fn push(&mut self, frame: Frame, out: &mut Vec<Frame>) -> Result<()> {
        self.take(frame, out)
    }

    fn finish(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        let Some(last) = self.window.back().cloned() else { return Ok(()) };
        for _ in 0..self.half {
            self.take(last.clone(), out)?;
        }
        self.window.clear();
        Ok(())
    }
}

fn median3(to: &mut [u8], a: &[u8], b: &[u8], c: &[u8]) {
    for (((to, a), b), c) in to.iter_mut().zip(a).zip(b).zip(c) {
        *to = (*a).min(*b).max((*a).max(*b).min(*c));
    }
}

fn median5(to: &mut [u8], [a, b, c, d, e]: [&[u8]; 5]) {
    for (((((to, a), b), c), d), e) in to.iter_mut().zip(a).zip(b).zip(c).zip(d).zip(e) {
        // Neither the least nor the greatest of two pairs can be the median of all five.
        let low = (*a).min(*b).max((*c).min(*d));
        let high = (*a).max(*b).min((*c).max(*d));
        *to = low.min(high).max(low.max(high).min(*e));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn medians_are_those_of_sorting(v in any::<[u8; 5]>()) {
            let sorted = |n: usize| { let mut v = v[..n].to_vec(); v.sort_unstable(); v[n / 2] };
            let (mut three, mut five) = ([0], [0]);
            median3(&mut three, &v[0..1], &v[1..2], &v[2..3]);
            median5(&mut five, [&v[0..1], &v[1..2], &v[2..3], &v[3..4], &v[4..5]]);
            prop_assert_eq!((three[0], five[0]), (sorted(3), sorted(5)));
        }
    }
}
