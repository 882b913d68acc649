//! The Gaussian of `blur` and `sharpen`: what `cv::GaussianBlur` answers, sample for sample, in about half its time.
//!
//! OpenCV's weights for 8-bit samples are whole numbers that add up to 256. So a column's weighted sum fits 16 bits, and a sum of
//! such sums stays below 2^24, where 32-bit floats are exact, in any order and with or without fused multiplication: all
//! processors give the same samples.

use opencv::core::{CV_8UC1, Mat, Point, Scalar, Size};
use opencv::imgproc;
use opencv::prelude::*;

use super::gaussian_wide as wide;

/// What the weights of a line add up to.
const ONE: u16 = 256;

/// Half a level, in the sum of both ways.
pub(super) const HALF: f32 = 32768.0;

/// A Gaussian, and the memory it works in.
pub(super) struct Gaussian {
    /// The weights from the middle outwards.
    weights: Vec<f32>,
    /// The sums of a line's columns, with as many more at both ends as there are weights.
    sums: Vec<f32>,
    /// One line's.
    line: Vec<f32>,
}

impl Gaussian {
    /// With the weights that OpenCV takes for this standard deviation, in samples: they are read off a picture of one bright
    /// sample.
    ///
    /// # Errors
    /// Of OpenCV.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "64 times four at most"
    )]
    pub(super) fn new(sigma: f64) -> opencv::Result<Self> {
        let reach = (4.0 * sigma).ceil() as i32 + 4;
        let mut impulse =
            Mat::new_rows_cols_with_default(1, 2 * reach + 1, CV_8UC1, Scalar::all(0.0))?;
        *impulse.at_2d_mut::<u8>(0, reach)? = u8::MAX;
        let mut answer = Mat::default();
        imgproc::gaussian_blur_def(&impulse, &mut answer, Size::new(0, 0), sigma)?;
        let outwards = answer.at_row::<u8>(0)?.get(reach as usize + 1..).unwrap_or_default();
        let side: Vec<u16> = outwards.iter().map(|w| u16::from(*w)).collect();
        let last = side.iter().rposition(|w| *w > 0).map_or(0, |at| at + 1);
        // The middle one may be 256, of which a sample of 255 shows less.
        let mut weights = vec![ONE.saturating_sub(2 * side.iter().sum::<u16>())];
        weights.extend(side.get(..last).unwrap_or_default());
        let weights = weights.into_iter().map(f32::from).collect();
        Ok(Self { weights, sums: Vec::new(), line: Vec::new() })
    }

    /// Blurs a plane of 8 bits, or a part of one, which sees the samples around it; where the picture ends, it goes on as in a
    /// mirror whose edge is the last sample.
    ///
    /// # Errors
    /// Of OpenCV.
    pub(super) fn apply(&mut self, from: &Mat, to: &mut Mat) -> opencv::Result<()> {
        let (mut whole, mut at) = (Size::default(), Point::default());
        from.locate_roi(&mut whole, &mut at)?;
        if to.size()? != from.size()? || to.typ() != CV_8UC1 {
            let blank = Scalar::all(0.0);
            *to = Mat::new_rows_cols_with_default(from.rows(), from.cols(), CV_8UC1, blank)?;
        }
        let source = Source::of(from, whole, at)?;
        self.lines(&source, wide::is_here(), to)
    }

    fn lines(&mut self, source: &Source<'_>, wide: bool, to: &mut Mat) -> opencv::Result<()> {
        let Self { weights, sums, line } = self;
        let reach = weights.len() - 1;
        let (first, last) = (source.x.saturating_sub(reach), source.x + source.cols + reach);
        let last = last.min(source.width);
        // Where the columns `first` and `last` lie in the sums, whose first is `reach` before the part.
        let (begin, end) = (first + reach - source.x, last + reach - source.x);
        sums.resize(source.cols + 2 * reach, 0.0);
        let mut lines = Vec::with_capacity(2 * reach + 1);
        for y in 0..source.rows {
            lines.clear();
            lines.extend((0..=2 * reach).map(|i| source.line(y + i, reach, first, last)));
            let within = &mut sums[begin..end];
            if !(wide && wide::down(&lines, weights, within)) {
                down(&lines, weights, within);
            }
            for i in (0..begin).chain(end..sums.len()) {
                sums[i] = sums[begin + mirrored(source.x + i, reach, source.width) - first];
            }
            let out = to.at_row_mut::<u8>(i32::try_from(y).unwrap_or(i32::MAX))?;
            if !(wide && wide::across(sums, weights, out)) {
                across(sums, weights, line, out);
            }
        }
        Ok(())
    }
}

/// A part of a plane, and the plane.
struct Source<'a> {
    bytes: &'a [u8],
    stride: usize,
    width: usize,
    height: usize,
    x: usize,
    y: usize,
    cols: usize,
    rows: usize,
}

impl<'a> Source<'a> {
    fn of(part: &'a Mat, whole: Size, at: Point) -> opencv::Result<Self> {
        let side = |v: i32| usize::try_from(v).unwrap_or(0);
        let (width, height, x, y) = (side(whole.width), side(whole.height), side(at.x), side(at.y));
        let stride = part.step1_def()?;
        let length = if width == 0 { 0 } else { height.saturating_sub(1) * stride + width };
        // SAFETY: the plane that `part` lies in has these rows, and lives as long.
        #[expect(unsafe_code, reason = "what lies around a part is known by its place only")]
        let bytes = unsafe { std::slice::from_raw_parts(part.ptr(0)?.sub(y * stride + x), length) };
        let (cols, rows) = (side(part.cols()), side(part.rows()));
        Ok(Self { bytes, stride, width, height, x, y, cols, rows })
    }

    /// Samples `from..to` of the line that lies `y - reach` below the part's first.
    fn line(&self, y: usize, reach: usize, from: usize, to: usize) -> &'a [u8] {
        let at = mirrored(self.y + y, reach, self.height) * self.stride;
        &self.bytes[at + from..at + to]
    }
}

/// Which of `count` samples stands at `at - reach`, where they go on as in mirrors at both ends.
fn mirrored(at: usize, reach: usize, count: usize) -> usize {
    if (reach..reach + count).contains(&at) {
        return at - reach;
    }
    let period = 2 * count.max(2) - 2;
    let place = at.abs_diff(reach) % period;
    place.min(period - place).min(count.saturating_sub(1))
}

/// The weighted sums of columns: `lines` are as many as there are weights on both sides of the middle.
fn down(lines: &[&[u8]], weights: &[f32], sums: &mut [f32]) {
    let reach = weights.len() - 1;
    for (sum, value) in sums.iter_mut().zip(lines[reach]) {
        *sum = f32::from(*value) * weights[0];
    }
    for (i, weight) in weights.iter().enumerate().skip(1) {
        let pairs = lines[reach - i].iter().zip(lines[reach + i]);
        for (sum, (above, below)) in sums.iter_mut().zip(pairs) {
            *sum += f32::from(u16::from(*above) + u16::from(*below)) * weight;
        }
    }
}

/// The weighted sums of a line's sums, rounded to levels; `line` is memory for one.
fn across(sums: &[f32], weights: &[f32], line: &mut Vec<f32>, levels: &mut [u8]) {
    let reach = weights.len() - 1;
    line.clear();
    line.extend(sums[reach..].iter().take(levels.len()).map(|sum| sum * weights[0] + HALF));
    for (i, weight) in weights.iter().enumerate().skip(1) {
        let pairs = sums[reach - i..].iter().zip(&sums[reach + i..]);
        for (sum, (left, right)) in line.iter_mut().zip(pairs) {
            *sum += (left + right) * weight;
        }
    }
    for (level, sum) in levels.iter_mut().zip(line) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "256 times 256 times 255 and a half at most"
        )]
        let rounded = (*sum as u32 >> 16) as u8;
        *level = rounded;
    }
}

#[cfg(test)]
mod tests {
    use opencv::core::{CV_8U, Rect, randu};

    use super::super::plane::part;
    use super::*;

    fn noise(width: i32, height: i32) -> Mat {
        let mut picture =
            Mat::new_rows_cols_with_default(height, width, CV_8U, Scalar::all(0.0)).unwrap();
        randu(&mut picture, &Scalar::all(0.0), &Scalar::all(256.0)).unwrap();
        picture
    }

    fn levels(picture: &Mat) -> Vec<u8> {
        (0..picture.rows()).flat_map(|y| picture.at_row::<u8>(y).unwrap().to_vec()).collect()
    }

    fn blurred(picture: &Mat, sigma: f64) -> Mat {
        let mut to = Mat::default();
        Gaussian::new(sigma).unwrap().apply(picture, &mut to).unwrap();
        to
    }

    #[test]
    fn every_sample_is_that_of_opencv() {
        let sizes =
            [(1, 1), (2, 1), (1, 3), (3, 2), (31, 7), (64, 48), (127, 5), (129, 33), (300, 90)];
        for (width, height) in sizes {
            for sigma in [0.1, 0.4, 0.5, 0.8, 1.0, 1.5, 3.0, 7.3, 20.0, 64.0] {
                let picture = noise(width, height);
                let mut theirs = Mat::default();
                imgproc::gaussian_blur_def(&picture, &mut theirs, Size::new(0, 0), sigma).unwrap();
                let ours = blurred(&picture, sigma);
                assert!(levels(&ours) == levels(&theirs), "{width}x{height}, sigma {sigma}");
            }
        }
    }

    #[test]
    fn processors_without_wide_registers_give_the_same() {
        for sigma in [0.5, 3.0, 20.0] {
            let picture = noise(333, 50);
            let mut gaussian = Gaussian::new(sigma).unwrap();
            let mut plain = picture.clone();
            let source = Source::of(&picture, Size::new(333, 50), Point::default()).unwrap();
            gaussian.lines(&source, false, &mut plain).unwrap();
            assert!(levels(&plain) == levels(&blurred(&picture, sigma)), "sigma {sigma}");
        }
    }

    #[test]
    fn a_part_is_blurred_as_the_whole_is() {
        let picture = noise(200, 60);
        for (x, y, w, h) in [(0, 0, 200, 60), (0, 0, 5, 5), (50, 20, 140, 30), (195, 57, 5, 3)] {
            for sigma in [0.5, 3.0, 12.0] {
                let whole = blurred(&picture, sigma);
                let rect = Rect::new(x, y, w, h);
                let part = blurred(&part(picture.clone(), rect).unwrap(), sigma);
                let wanted = Mat::roi(&whole, rect).unwrap().clone_pointee();
                assert!(levels(&part) == levels(&wanted), "{x},{y},{w},{h}, sigma {sigma}");
            }
        }
    }
}
