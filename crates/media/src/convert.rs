//! From what a decoder gives to what filters see: 8-bit planar pictures the right way up.
//!
//! Most sources pass untouched. Full-range formats (`yuvj420p`) are only relabelled; others are
//! converted by libswscale, once. Rotation and mirroring are done on the planes, exactly.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi::{self, AVPixelFormat as F};
use frameloom_core::{Error, Result};

use crate::ff;
use crate::frame::{Frame, PixelFormat};

/// The format that filters see for a source of FFmpeg's format number `source`.
///
/// `turned` says that width and height change places, for which chroma must be square;
/// `lossless` that nothing of an RGB source's colour resolution may be lost.
pub(crate) fn working_format(
    source: F,
    turned: bool,
    lossless: bool,
    keep_depth: bool,
) -> PixelFormat {
    // SAFETY: null or a static description.
    let Some(d) = (unsafe { ffi::av_pix_fmt_desc_get(source).as_ref() }) else {
        return PixelFormat::Yuv420p;
    };
    let has = |flag: i64| d.flags & flag.cast_unsigned() != 0;
    if has(i64::from(ffi::AV_PIX_FMT_FLAG_RGB)) || has(i64::from(ffi::AV_PIX_FMT_FLAG_PAL)) {
        return if lossless { PixelFormat::Yuv444p } else { PixelFormat::Yuv420p };
    }
    if d.nb_components < 3 {
        return PixelFormat::Gray8;
    }
    let deep = d.comp[0].depth > 8;
    match (d.log2_chroma_w, d.log2_chroma_h) {
        _ if deep && keep_depth => PixelFormat::Yuv420p10,
        (0, _) => PixelFormat::Yuv444p,
        (_, 0) if turned => PixelFormat::Yuv444p,
        (_, 0) => PixelFormat::Yuv422p,
        _ => PixelFormat::Yuv420p,
    }
}

/// The plain format of a full-range one: the same bytes, another label.
fn relabelled(format: c_int) -> Option<F> {
    [
        (F::AV_PIX_FMT_YUVJ420P, F::AV_PIX_FMT_YUV420P),
        (F::AV_PIX_FMT_YUVJ422P, F::AV_PIX_FMT_YUV422P),
        (F::AV_PIX_FMT_YUVJ444P, F::AV_PIX_FMT_YUV444P),
        (F::AV_PIX_FMT_YUVJ440P, F::AV_PIX_FMT_YUV440P),
        (F::AV_PIX_FMT_YUVJ411P, F::AV_PIX_FMT_YUV411P),
    ]
    .into_iter()
    .find(|(full, _)| *full as c_int == format)
    .map(|(_, plain)| plain)
}

/// The number without its full-range label.
pub(crate) fn plain_format(format: c_int) -> c_int {
    relabelled(format).map_or(format, |plain| plain as c_int)
}

/// Makes every frame of a source look the same to the filters.
pub(crate) struct Converter {
    pixel: PixelFormat,
    width: u32,
    height: u32,
    rotation: u32,
    flip: bool,
    scaler: Option<(Shape, Scaler)>,
    second: Option<(Shape, Scaler)>,
}

/// What a conversion depends on.
#[derive(PartialEq, Eq, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) width: c_int,
    pub(crate) height: c_int,
    pub(crate) format: c_int,
    pub(crate) full: bool,
    pub(crate) matrix: c_int,
}

impl Shape {
    pub(crate) fn of(frame: &Frame) -> Self {
        let raw = frame.raw();
        Self {
            width: raw.width,
            height: raw.height,
            format: raw.format,
            full: frame.is_full_range(),
            matrix: raw.colorspace as c_int,
        }
    }
}

impl Converter {
    /// To `pixel` at the source's `width` × `height`, then mirrored where `flip`, then turned
    /// clockwise by `rotation` degrees.
    pub(crate) fn new(
        pixel: PixelFormat,
        width: u32,
        height: u32,
        rotation: u32,
        flip: bool,
    ) -> Self {
        Self { pixel, width, height, rotation, flip, scaler: None, second: None }
    }

    /// Converts a frame; passes it untouched where nothing is to be done.
    ///
    /// # Errors
    /// Unsupported where libswscale can't convert the format; Exhausted where memory is.
    pub(crate) fn convert(&mut self, mut frame: Frame) -> Result<Frame> {
        let raw = frame.raw_mut();
        if let Some(plain) = relabelled(raw.format) {
            raw.format = plain as c_int;
            raw.color_range = ffi::AVColorRange::AVCOL_RANGE_JPEG;
        }
        let same = raw.format == self.pixel.ffmpeg() as c_int
            && raw.width.unsigned_abs() == self.width
            && raw.height.unsigned_abs() == self.height;
        let turned = self.rotation % 180 == 90;
        if turned && self.pixel == PixelFormat::Yuv422p {
            // Chroma that is halved one way only cannot be turned.
            let full = PixelFormat::Yuv444p;
            let wide = scale(&mut self.scaler, &frame, full, self.width, self.height)?;
            let wide = turn(&wide, full, self.rotation, self.flip)?;
            return scale(&mut self.second, &wide, self.pixel, wide.width(), wide.height());
        }
        if !same {
            frame = scale(&mut self.scaler, &frame, self.pixel, self.width, self.height)?;
        }
        if self.flip || self.rotation != 0 {
            frame = turn(&frame, self.pixel, self.rotation, self.flip)?;
        }
        Ok(frame)
    }
}

/// Converts a frame to `pixel` and a size by the scaler in `place`, which is made anew where the
/// frame has another shape than the one before.
fn scale(
    place: &mut Option<(Shape, Scaler)>,
    frame: &Frame,
    pixel: PixelFormat,
    width: u32,
    height: u32,
) -> Result<Frame> {
    let shape = Shape::of(frame);
    if place.as_ref().is_none_or(|(known, _)| *known != shape) {
        let side = |v: u32| c_int::try_from(v).map_err(|_| Error::unsupported("size of a frame"));
        let flags = ffi::SWS_BICUBIC | ffi::SWS_ACCURATE_RND | ffi::SWS_FULL_CHR_H_INT;
        let rgb = is_rgb(shape.format);
        let to = Shape {
            width: side(width)?,
            height: side(height)?,
            format: pixel.ffmpeg() as c_int,
            full: shape.full && !rgb,
            ..shape
        };
        let matrix = if rgb { ffi::SWS_CS_DEFAULT as c_int } else { shape.matrix };
        *place = Some((shape, Scaler::new(shape, to, matrix, flags)?));
    }
    let mut out = frame.new_like(pixel, width, height)?;
    if let Some((_, scaler)) = place {
        scaler.run(frame, &mut out)?;
    }
    if is_rgb(shape.format) {
        let out = out.raw_mut();
        out.color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
        out.colorspace = ffi::AVColorSpace::AVCOL_SPC_SMPTE170M;
    }
    Ok(out)
}

/// Whether a format holds RGB or a palette.
pub(crate) fn is_rgb(format: c_int) -> bool {
    // SAFETY: an AVPixelFormat is one of FFmpeg's numbers; unknown ones give null.
    let descriptor = unsafe {
        let format: F = std::mem::transmute::<c_int, F>(format);
        ffi::av_pix_fmt_desc_get(format).as_ref()
    };
    let flags = u64::from(ffi::AV_PIX_FMT_FLAG_RGB.unsigned_abs())
        | u64::from(ffi::AV_PIX_FMT_FLAG_PAL.unsigned_abs());
    descriptor.is_some_and(|d| d.flags & flags != 0)
}

/// Libswscale between two shapes.
pub(crate) struct Scaler(NonNull<ffi::SwsContext>);

// SAFETY: the context is used by one thread at a time, whoever holds it.
unsafe impl Send for Scaler {}

impl Scaler {
    /// From one shape to another, both by the coefficients of `matrix`; the shapes' formats are a
    /// frame's, or constants of FFmpeg's.
    ///
    /// # Errors
    /// Unsupported where libswscale can't convert the format.
    pub(crate) fn new(from: Shape, to: Shape, matrix: c_int, flags: c_int) -> Result<Self> {
        // SAFETY: plain numbers; null where FFmpeg can't convert.
        unsafe {
            let format = |number: c_int| std::mem::transmute::<c_int, F>(number);
            let context = ffi::sws_getContext(
                from.width,
                from.height,
                format(from.format),
                to.width,
                to.height,
                format(to.format),
                flags,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null(),
            );
            let context = NonNull::new(context).ok_or_else(|| {
                let name = ff::text(ffi::av_get_pix_fmt_name(format(from.format)));
                Error::unsupported(format!("cannot convert pixel format '{name}'"))
            })?;
            let table = ffi::sws_getCoefficients(matrix);
            // Where FFmpeg has no say in a pair of formats this answers -1, and nothing is needed.
            let _: c_int = ffi::sws_setColorspaceDetails(
                context.as_ptr(),
                table,
                c_int::from(from.full),
                table,
                c_int::from(to.full),
                0,
                1 << 16,
                1 << 16,
            );
            Ok(Self(context))
        }
    }

    fn run(&mut self, from: &Frame, to: &mut Frame) -> Result<()> {
        let (from, to) = (from.raw(), to.raw_mut());
        // SAFETY: both frames have planes of the shape that the context was made for.
        unsafe {
            self.scale(
                (from.data.as_ptr().cast(), from.linesize.as_ptr()),
                from.height,
                (to.data.as_ptr().cast(), to.linesize.as_ptr()),
            )
        }
    }

    /// Converts planes, given with their strides.
    ///
    /// # Safety
    /// Both hold pictures of the shapes that the scaler was made for; `height` is the first's.
    pub(crate) unsafe fn scale(
        &mut self,
        from: (*const *const u8, *const c_int),
        height: c_int,
        to: (*const *mut u8, *const c_int),
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        let code =
            unsafe { ffi::sws_scale(self.0.as_ptr(), from.0, from.1, 0, height, to.0, to.1) };
        ff::check(code, "cannot convert a frame").map(drop)
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: owned and freed once.
        unsafe { ffi::sws_freeContext(self.0.as_ptr()) };
    }
}

/// Mirrors and turns a frame clockwise; sides change places at 90 and 270 degrees.
fn turn(frame: &Frame, pixel: PixelFormat, rotation: u32, flip: bool) -> Result<Frame> {
    let turned = rotation == 90 || rotation == 270;
    let (width, height) = (frame.width(), frame.height());
    let (w, h) = if turned { (height, width) } else { (width, height) };
    let mut out = frame.new_like(pixel, w, h)?;
    if turned {
        let ratio = &mut out.raw_mut().sample_aspect_ratio;
        if ratio.num > 0 {
            *ratio = ffi::AVRational { num: ratio.den, den: ratio.num };
        }
    }
    let bytes = pixel.sample_bytes() as usize;
    for plane in 0..pixel.planes() {
        let from = frame.plane(plane)?;
        let to = out.plane_mut(plane)?;
        for y in 0..to.height {
            for x in 0..to.width {
                // Where the sample at (x, y) of the result comes from.
                let (mut sx, sy) = match rotation {
                    90 => (y, from.height - 1 - x),
                    180 => (from.width - 1 - x, from.height - 1 - y),
                    270 => (from.width - 1 - y, x),
                    _ => (x, y),
                };
                if flip {
                    sx = from.width - 1 - sx;
                }
                let source = sy * from.stride + sx * bytes;
                let target = y * to.stride + x * bytes;
                to.bytes[target..target + bytes]
                    .copy_from_slice(&from.bytes[source..source + bytes]);
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: u32, samples: &[u8]) -> Frame {
        let height = u32::try_from(samples.len()).unwrap() / width;
        let mut frame = Frame::new(PixelFormat::Gray8, width, height).unwrap();
        let plane = frame.plane_mut(0).unwrap();
        for (y, row) in samples.chunks(plane.width).enumerate() {
            plane.bytes[y * plane.stride..][..row.len()].copy_from_slice(row);
        }
        frame
    }

    fn samples(frame: &Frame) -> Vec<u8> {
        let plane = frame.plane(0).unwrap();
        (0..plane.height)
            .flat_map(|y| plane.bytes[y * plane.stride..][..plane.width].to_vec())
            .collect()
    }

    #[test]
    fn turning_is_clockwise_and_mirroring_comes_first() {
        let frame = gray(3, &[1, 2, 3, 4, 5, 6]);
        let turned =
            |rotation, flip| samples(&turn(&frame, PixelFormat::Gray8, rotation, flip).unwrap());
        assert_eq!(turned(90, false), [4, 1, 5, 2, 6, 3]);
        assert_eq!(turned(180, false), [6, 5, 4, 3, 2, 1]);
        assert_eq!(turned(270, false), [3, 6, 2, 5, 1, 4]);
        assert_eq!(turned(0, true), [3, 2, 1, 6, 5, 4]);
        assert_eq!(turned(90, true), [6, 3, 5, 2, 4, 1]);
    }

    #[test]
    fn sources_keep_their_chroma_where_filters_can() {
        let format = |f, turned| working_format(f, turned, false, false);
        assert_eq!(format(F::AV_PIX_FMT_YUVJ420P, false), PixelFormat::Yuv420p);
        assert_eq!(format(F::AV_PIX_FMT_YUV422P10LE, false), PixelFormat::Yuv422p);
        assert_eq!(format(F::AV_PIX_FMT_YUV422P, true), PixelFormat::Yuv444p);
        assert_eq!(format(F::AV_PIX_FMT_RGB24, false), PixelFormat::Yuv420p);
        assert_eq!(format(F::AV_PIX_FMT_GRAY10LE, false), PixelFormat::Gray8);
        assert_eq!(format(F::AV_PIX_FMT_YUVA444P, false), PixelFormat::Yuv444p);
    }

    #[test]
    fn full_range_is_a_label_and_not_a_conversion() {
        let mut frame = Frame::new(PixelFormat::Yuv420p, 4, 4).unwrap();
        frame.raw_mut().format = F::AV_PIX_FMT_YUVJ420P as c_int;
        let data = frame.raw().data[0];
        let out = Converter::new(PixelFormat::Yuv420p, 4, 4, 0, false).convert(frame).unwrap();
        assert!(out.is_full_range());
        assert_eq!(out.raw().data[0], data);
    }
}
