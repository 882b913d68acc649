//! From a frame's planes to a network's input: scaled straight to its size, with the frame's own colour tags.

use std::ffi::c_int;
use std::ptr;

use ffmpeg_next::ffi::{self, AVPixelFormat as F};
use frameloom_core::{Error, Result};

use crate::convert::{Scaler, Shape};
use crate::frame::{Frame, PixelFormat};

/// Bytes behind the last row, which libswscale may touch.
const PADDING: usize = 64;

/// How a network wants its picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recipe {
    /// The level around a picture that keeps its shape, in the upper left corner; none where it is stretched.
    letterbox: Option<u8>,
    /// Whether the three colours of a pixel lie side by side, not in planes.
    interleaved: bool,
    /// Whether blue comes first.
    bgr: bool,
    /// What a level is multiplied with.
    scale: f32,
    /// What is added then.
    offset: f32,
}

impl Recipe {
    pub(super) const CENTERFACE: Self =
        Self { letterbox: None, interleaved: false, bgr: false, scale: 1.0, offset: 0.0 };
    pub(super) const BLAZE: Self = Self {
        letterbox: Some(0),
        interleaved: true,
        scale: 1.0 / 127.5,
        offset: -1.0,
        ..Self::CENTERFACE
    };
    pub(super) const SSD: Self = Self { scale: 2.0 / 255.0, offset: -1.0, ..Self::CENTERFACE };
    pub(super) const YOLOX: Self = Self { letterbox: Some(114), bgr: true, ..Self::CENTERFACE };
    pub(super) const YOLO: Self =
        Self { letterbox: Some(114), scale: 1.0 / 255.0, ..Self::CENTERFACE };
}

/// The input of a network, and what fills it.
pub(super) struct Input {
    recipe: Recipe,
    /// Its size, that of the picture in it, and the tensor.
    size: (u32, u32),
    inner: (u32, u32),
    values: Vec<f32>,
    /// The picture, rows of RGB without gaps (or of grey), and the scaler that made it.
    levels: Vec<u8>,
    scaler: Option<(Shape, (u32, u32), Scaler)>,
}

impl Input {
    pub(super) fn new(recipe: Recipe) -> Self {
        Self {
            recipe,
            size: (0, 0),
            inner: (0, 0),
            values: Vec::new(),
            levels: Vec::new(),
            scaler: None,
        }
    }

    /// Width and height.
    pub(super) fn size(&self) -> (u32, u32) {
        self.size
    }

    /// The tensor's sides.
    pub(super) fn shape(&self) -> [usize; 4] {
        let (width, height) = (self.size.0 as usize, self.size.1 as usize);
        if self.recipe.interleaved { [1, height, width, 3] } else { [1, 3, height, width] }
    }

    /// The tensor's numbers.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Takes a frame in, where `averaged` by the means of its pixels, and so many times as bright; answers how many of
    /// its pixels lie in one of the input, across and down.
    ///
    /// # Errors
    /// Unsupported where libswscale cannot convert it; Exhausted where memory is.
    pub(super) fn take(
        &mut self,
        frame: &Frame,
        size: (u32, u32),
        averaged: bool,
        gain: f32,
    ) -> Result<(f32, f32)> {
        let picture = (frame.width().max(1), frame.height().max(1));
        self.set_size(size, inner(self.recipe, frame.shown_size(), size));
        let gray = frame.pixel()? == PixelFormat::Gray8;
        self.convert(frame, gray, averaged)?;
        self.fill(gray.then(|| frame.is_full_range()), gain);
        #[expect(clippy::cast_precision_loss, reason = "sides of pictures are small")]
        let ratio = |frame: u32, input: u32| frame as f32 / input as f32;
        Ok((ratio(picture.0, self.inner.0), ratio(picture.1, self.inner.1)))
    }

    /// Takes in rows of RGB that have the input's size.
    #[cfg(test)]
    pub(super) fn take_rgb(&mut self, rgb: &[u8], size: (u32, u32)) {
        self.set_size(size, size);
        self.levels.clear();
        self.levels.extend_from_slice(rgb);
        self.fill(None, 1.0);
    }

    fn set_size(&mut self, size: (u32, u32), inner: (u32, u32)) {
        if (self.size, self.inner) != (size, inner) {
            (self.size, self.inner) = (size, inner);
            let around = f32::from(self.recipe.letterbox.unwrap_or(0));
            let around = around * self.recipe.scale + self.recipe.offset;
            self.values.clear();
            self.values.resize(size.0 as usize * size.1 as usize * 3, around);
        }
    }

    /// Scales a frame into `levels`: grey stays grey, for libswscale takes every grey for one of full range.
    fn convert(&mut self, frame: &Frame, gray: bool, averaged: bool) -> Result<()> {
        let side =
            |v: u32| c_int::try_from(v).map_err(|_| Error::unsupported("size of a detector"));
        let (width, height) = (side(self.inner.0)?, side(self.inner.1)?);
        let from = Shape::of(frame);
        if self.scaler.as_ref().is_none_or(|(known, to, _)| (*known, *to) != (from, self.inner)) {
            let format = if gray { F::AV_PIX_FMT_GRAY8 } else { F::AV_PIX_FMT_RGB24 } as c_int;
            let to =
                Shape { width, height, format, full: if gray { from.full } else { true }, ..from };
            // Bicubic keeps small things sharp; where most of the picture is left out,
            // averages cost less.
            let near = from.width <= 3 * width && from.height <= 3 * height;
            let way = if near && !averaged { ffi::SWS_BICUBIC } else { ffi::SWS_AREA };
            let flags = way | ffi::SWS_ACCURATE_RND;
            self.scaler = Some((from, self.inner, Scaler::new(from, to, from.matrix, flags)?));
        }
        let bytes = if gray { 1 } else { 3 };
        self.levels.resize(self.inner.0 as usize * self.inner.1 as usize * bytes + PADDING, 0);
        let planes = [self.levels.as_mut_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut()];
        let strides = [width * if gray { 1 } else { 3 }, 0, 0, 0];
        let raw = frame.raw();
        let Some((_, _, scaler)) = &mut self.scaler else {
            return Err(Error::internal("no scaler was made"));
        };
        // SAFETY: the frame has planes of the scaler's shape, and `levels` holds the rows that it writes.
        unsafe {
            scaler.scale(
                (raw.data.as_ptr().cast(), raw.linesize.as_ptr()),
                raw.height,
                (planes.as_ptr(), strides.as_ptr()),
            )
        }
    }

    /// From `levels`, so many times as bright, to the tensor; `gray` says that they are grey, and whether of full range.
    fn fill(&mut self, gray: Option<bool>, gain: f32) {
        let Recipe { interleaved, bgr, scale, offset, .. } = self.recipe;
        let table: Vec<f32> = (0..=255u8)
            .map(|level| {
                let level = f32::from(level);
                let level = match gray {
                    Some(false) => ((level - 16.0) * 255.0 / 219.0).round().clamp(0.0, 255.0),
                    _ => level,
                };
                (level * gain).min(255.0) * scale + offset
            })
            .collect();
        let (width, plane) = (self.size.0 as usize, self.values.len() / 3);
        let inner = self.inner.0 as usize;
        let bytes = if gray.is_some() { 1 } else { 3 };
        let rows = self.levels.chunks_exact(inner * bytes).take(self.inner.1 as usize);
        for (y, row) in rows.enumerate() {
            for place in 0..3 {
                let color = if bgr { 2 - place } else { place };
                let levels = row.iter().skip(color % bytes).step_by(bytes);
                let (start, step) = if interleaved {
                    (y * width * 3 + place, 3)
                } else {
                    (place * plane + y * width, 1)
                };
                let values = self.values[start..].iter_mut().step_by(step);
                for (value, level) in values.zip(levels) {
                    *value = table[usize::from(*level)];
                }
            }
        }
    }
}

/// The size that a picture, as it is shown, has in an input of `size`.
fn inner(recipe: Recipe, picture: (u32, u32), size: (u32, u32)) -> (u32, u32) {
    if recipe.letterbox.is_none() {
        return size;
    }
    let (w, h) = (u64::from(picture.0), u64::from(picture.1));
    let (width, height) = (u64::from(size.0), u64::from(size.1));
    let side = |v: u64, most: u32| u32::try_from(v).unwrap_or(most).clamp(1, most);
    if width * h <= height * w {
        (size.0, side(h * width / w, size.1))
    } else {
        (side(w * height / h, size.0), size.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(pixel: PixelFormat, width: u32, height: u32, levels: [u8; 3]) -> Frame {
        let mut frame = Frame::new(pixel, width, height).unwrap();
        for (plane, level) in levels.into_iter().enumerate().take(pixel.planes()) {
            if pixel == PixelFormat::Yuv420p10 {
                let level = (u16::from(level) << 2).to_le_bytes();
                frame
                    .plane_mut(plane)
                    .unwrap()
                    .bytes
                    .chunks_exact_mut(2)
                    .for_each(|c| c.copy_from_slice(&level));
            } else {
                frame.plane_mut(plane).unwrap().bytes.fill(level);
            }
        }
        frame
    }

    #[test]
    fn a_letterbox_keeps_the_shape() {
        let inner = |picture| inner(Recipe::YOLO, picture, (640, 640));
        assert_eq!(inner((1920, 1080)), (640, 360));
        assert_eq!(inner((1080, 1920)), (360, 640));
        assert_eq!(inner((10, 10)), (640, 640));
        assert_eq!(inner((10_000, 1)), (640, 1));
        assert_eq!(super::inner(Recipe::SSD, (1920, 1080), (300, 300)), (300, 300));
    }

    #[test]
    fn colours_land_in_their_places() {
        // Red of full saturation, by the coefficients of Rec. 601.
        let red = [81, 90, 240];
        for pixel in [PixelFormat::Yuv420p, PixelFormat::Yuv444p, PixelFormat::Yuv420p10] {
            let frame = plain(pixel, 64, 32, red);
            let mut input = Input::new(Recipe::CENTERFACE);
            let ratio = input.take(&frame, (32, 64), false, 1.0).unwrap();
            assert_eq!((ratio, input.shape()), ((2.0, 0.5), [1, 3, 64, 32]));
            let plane = 32 * 64;
            for at in [0, plane - 1] {
                let [r, g, b] = [0, 1, 2].map(|color| input.values()[color * plane + at]);
                assert!(r > 250.0 && g < 5.0 && b < 5.0, "{pixel:?}: {r} {g} {b}");
            }
            let mut input = Input::new(Recipe::YOLOX);
            assert_eq!(input.take(&frame, (32, 32), false, 1.0).unwrap(), (2.0, 2.0));
            let pixel_at =
                |x: usize, y: usize| [0, 1, 2].map(|c| input.values()[c * 1024 + y * 32 + x]);
            assert!(pixel_at(31, 15)[2] > 250.0 && pixel_at(31, 15)[0] < 5.0);
            assert_eq!(pixel_at(31, 16), [114.0; 3]);
            let mut input = Input::new(Recipe::BLAZE);
            input.take(&frame, (32, 32), false, 1.0).unwrap();
            assert_eq!(input.shape(), [1, 32, 32, 3]);
            assert!(input.values()[0] > 0.95 && input.values()[1] < -0.95);
            assert_eq!(input.values()[16 * 32 * 3..], [-1.0; 16 * 32 * 3]);
        }
    }

    #[test]
    fn grey_has_the_range_that_its_tag_says() {
        for (full, level, wanted) in
            [(false, 16, 0.0), (false, 235, 255.0), (true, 16, 16.0), (true, 235, 235.0)]
        {
            let mut frame = plain(PixelFormat::Gray8, 40, 40, [level, 0, 0]);
            if full {
                frame.raw_mut().color_range = ffi::AVColorRange::AVCOL_RANGE_JPEG;
            }
            let mut input = Input::new(Recipe::CENTERFACE);
            input.take(&frame, (32, 32), false, 1.0).unwrap();
            assert!(
                input.values().iter().all(|v| *v == wanted),
                "{full} {level}: {}",
                input.values()[0]
            );
        }
    }

    #[test]
    fn the_smallest_frames_are_taken() {
        for pixel in PixelFormat::EIGHT_BIT {
            for (width, height) in [(1, 1), (2, 1), (1, 9), (3, 200)] {
                let frame = plain(pixel, width, height, [128; 3]);
                for recipe in [Recipe::CENTERFACE, Recipe::YOLO] {
                    Input::new(recipe).take(&frame, (64, 64), false, 1.0).unwrap();
                }
            }
        }
    }
}
