//! A decoded picture: planar, reference-counted, 8 bits a sample, with its pts.

use std::ptr::NonNull;

use ffmpeg_next::ffi;
use frameloom_core::plan::{ColorTags, PictureInfo, VideoInfo};
use frameloom_core::time::{Rational, TimeBase};
use frameloom_core::{Error, Result};

use crate::ff;

/// The pixel formats that filters see.
///
/// Full range is a colour tag, not a format: `yuvj420p` is [`PixelFormat::Yuv420p`] with range `pc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PixelFormat {
    /// One plane.
    Gray8,
    /// Chroma halved both ways.
    Yuv420p,
    /// Chroma halved horizontally.
    Yuv422p,
    /// Chroma in full.
    Yuv444p,
    /// 10 bits in 16, little endian, chroma halved both ways: only with `--keep-depth`, only
    /// through filters that say so.
    Yuv420p10,
}

impl PixelFormat {
    /// The formats that every filter takes.
    pub(crate) const EIGHT_BIT: [Self; 4] =
        [Self::Gray8, Self::Yuv420p, Self::Yuv422p, Self::Yuv444p];

    /// FFmpeg's number of it.
    pub(crate) fn ffmpeg(self) -> ffi::AVPixelFormat {
        match self {
            Self::Gray8 => ffi::AVPixelFormat::AV_PIX_FMT_GRAY8,
            Self::Yuv420p => ffi::AVPixelFormat::AV_PIX_FMT_YUV420P,
            Self::Yuv422p => ffi::AVPixelFormat::AV_PIX_FMT_YUV422P,
            Self::Yuv444p => ffi::AVPixelFormat::AV_PIX_FMT_YUV444P,
            Self::Yuv420p10 => ffi::AVPixelFormat::AV_PIX_FMT_YUV420P10LE,
        }
    }

    /// FFmpeg's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gray8 => "gray",
            Self::Yuv420p => "yuv420p",
            Self::Yuv422p => "yuv422p",
            Self::Yuv444p => "yuv444p",
            Self::Yuv420p10 => "yuv420p10le",
        }
    }

    /// The format of FFmpeg's name.
    ///
    /// # Errors
    /// Internal for any other name.
    pub(crate) fn from_name(name: &str) -> Result<Self> {
        Self::EIGHT_BIT
            .into_iter()
            .chain([Self::Yuv420p10])
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::internal(format!("'{name}' is no format of frames")))
    }

    /// How many planes it has.
    pub(crate) fn planes(self) -> usize {
        if self == Self::Gray8 { 1 } else { 3 }
    }

    /// `(horizontal, vertical)` subsampling of `plane` as powers of two.
    pub(crate) fn shift(self, plane: usize) -> (u32, u32) {
        match (self, plane) {
            (_, 0) | (Self::Gray8 | Self::Yuv444p, _) => (0, 0),
            (Self::Yuv420p | Self::Yuv420p10, _) => (1, 1),
            (Self::Yuv422p, _) => (1, 0),
        }
    }

    /// `(width, height)` of `plane` in samples, in a picture of `width` × `height`; chroma is
    /// rounded up.
    pub(crate) fn plane_size(self, plane: usize, width: u32, height: u32) -> (u32, u32) {
        let (x, y) = self.shift(plane);
        ((width + (1 << x) - 1) >> x, (height + (1 << y) - 1) >> y)
    }

    /// Bytes a sample.
    pub(crate) fn sample_bytes(self) -> u32 {
        if self == Self::Yuv420p10 { 2 } else { 1 }
    }
}

/// What all frames at one place of a pipeline have in common.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FrameFormat {
    /// Width in pixels.
    pub(crate) width: u32,
    /// Height in pixels.
    pub(crate) height: u32,
    /// Pixel format.
    pub(crate) pixel: PixelFormat,
    /// Seconds a tick of a frame's pts.
    pub(crate) time_base: TimeBase,
    /// Average frame rate, 0/0 where unknown.
    pub(crate) frame_rate: Rational,
    /// Sample aspect ratio, 0/1 where unknown.
    pub(crate) sample_aspect_ratio: Rational,
    /// Order of its fields: `progressive`, `tff`, `bff` or `unknown`.
    pub(crate) field_order: String,
    /// Colour tags.
    pub(crate) color: ColorTags,
}

impl FrameFormat {
    /// The format of pictures of `video` as a plan tells of them.
    ///
    /// # Errors
    /// Internal where the pixel format is none of ours.
    pub(crate) fn of(picture: &PictureInfo, video: &VideoInfo) -> Result<Self> {
        Ok(Self {
            width: picture.width,
            height: picture.height,
            pixel: PixelFormat::from_name(&picture.pixel_format)?,
            time_base: video.time_base,
            frame_rate: video.frame_rate,
            sample_aspect_ratio: picture.sample_aspect_ratio,
            field_order: picture.field_order.clone(),
            color: picture.color.clone(),
        })
    }

    /// The format of progressive frames of square pixels, 25 a second, of whose colour nothing but the `range` is known.
    pub(crate) fn plain(
        pixel: PixelFormat,
        (width, height): (u32, u32),
        time_base: TimeBase,
        range: &str,
    ) -> Self {
        let unknown = || String::from("unknown");
        Self {
            width,
            height,
            pixel,
            time_base,
            frame_rate: Rational::new(25, 1),
            sample_aspect_ratio: Rational::new(1, 1),
            field_order: "progressive".into(),
            color: ColorTags {
                range: range.into(),
                primaries: unknown(),
                transfer: unknown(),
                matrix: unknown(),
                chroma_location: unknown(),
            },
        }
    }

    /// What a plan tells of it.
    pub(crate) fn picture(&self) -> PictureInfo {
        PictureInfo {
            width: self.width,
            height: self.height,
            pixel_format: self.pixel.name().into(),
            sample_aspect_ratio: self.sample_aspect_ratio,
            field_order: self.field_order.clone(),
            color: self.color.clone(),
        }
    }

    /// Whether its pictures hold two fields each.
    pub(crate) fn is_interlaced(&self) -> bool {
        matches!(self.field_order.as_str(), "tff" | "bff")
    }
}

/// The order of fields once every line has another one's place: the fields change theirs.
pub(crate) fn swapped_fields(order: &str) -> String {
    match order {
        "tff" => "bff".into(),
        "bff" => "tff".into(),
        other => other.to_owned(),
    }
}

/// One decoded picture with its pts. Cloning shares the planes; writing to shared planes copies
/// them first.
pub(crate) struct Frame(NonNull<ffi::AVFrame>);

// SAFETY: a frame is plain data with atomically reference-counted buffers.
unsafe impl Send for Frame {}

impl Frame {
    /// An empty frame, for FFmpeg to fill.
    pub(crate) fn empty() -> Result<Self> {
        // SAFETY: allocates or answers null.
        NonNull::new(unsafe { ffi::av_frame_alloc() }).map(Self).ok_or_else(ff::out_of_memory)
    }

    /// A frame with planes of its own whose content is not defined yet.
    ///
    /// # Errors
    /// Exhausted where memory is.
    pub(crate) fn new(pixel: PixelFormat, width: u32, height: u32) -> Result<Self> {
        let mut frame = Self::empty()?;
        let side = |pixels: u32| {
            i32::try_from(pixels)
                .map_err(|_| Error::unsupported(format!("a side of {pixels} pixels")))
        };
        let raw = frame.raw_mut();
        raw.width = side(width)?;
        raw.height = side(height)?;
        raw.format = pixel.ffmpeg() as i32;
        // SAFETY: size and format are set, as av_frame_get_buffer wants them.
        let code = unsafe { ffi::av_frame_get_buffer(frame.as_mut_ptr(), 0) };
        ff::check(code, "cannot make a frame")?;
        Ok(frame)
    }

    /// A frame like this one (pts, colour, field flags, side data) with new planes of `pixel` and size.
    ///
    /// # Errors
    /// Exhausted where memory is.
    pub(crate) fn new_like(&self, pixel: PixelFormat, width: u32, height: u32) -> Result<Self> {
        let mut frame = Self::new(pixel, width, height)?;
        // SAFETY: both frames are valid; props hold no planes.
        let code = unsafe { ffi::av_frame_copy_props(frame.as_mut_ptr(), self.as_ptr()) };
        ff::check(code, "cannot copy a frame's properties")?;
        Ok(frame)
    }

    /// What this frame has beside its planes.
    ///
    /// # Errors
    /// Exhausted where memory is.
    pub(crate) fn without_planes(&self) -> Result<Self> {
        let mut frame = Self::empty()?;
        // SAFETY: both frames are valid; props hold no planes.
        let code = unsafe { ffi::av_frame_copy_props(frame.as_mut_ptr(), self.as_ptr()) };
        ff::check(code, "cannot copy a frame's properties")?;
        Ok(frame)
    }

    /// Another hold on the same planes.
    ///
    /// # Errors
    /// Exhausted where memory is.
    pub(crate) fn copy(&self) -> Result<Self> {
        // SAFETY: the frame is valid; null where memory is exhausted.
        let copy = unsafe { ffi::av_frame_clone(self.as_ptr()) };
        NonNull::new(copy).map(Self).ok_or_else(ff::out_of_memory)
    }

    pub(crate) fn as_ptr(&self) -> *const ffi::AVFrame {
        self.0.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut ffi::AVFrame {
        self.0.as_ptr()
    }

    /// FFmpeg's fields.
    pub(crate) fn raw(&self) -> &ffi::AVFrame {
        // SAFETY: the frame lives as long as self.
        unsafe { self.0.as_ref() }
    }

    /// FFmpeg's fields.
    pub(crate) fn raw_mut(&mut self) -> &mut ffi::AVFrame {
        // SAFETY: the frame lives as long as self and is owned alone.
        unsafe { self.0.as_mut() }
    }

    /// Presentation time in ticks of the stream's time base.
    pub(crate) fn pts(&self) -> i64 {
        self.raw().pts
    }

    /// Width in pixels.
    pub(crate) fn width(&self) -> u32 {
        self.raw().width.unsigned_abs()
    }

    /// Height in pixels.
    pub(crate) fn height(&self) -> u32 {
        self.raw().height.unsigned_abs()
    }

    /// Width and height that it is shown at: with square pixels, the longer side as it is.
    pub(crate) fn shown_size(&self) -> (u32, u32) {
        let ratio = self.raw().sample_aspect_ratio;
        let (width, height) = (u64::from(self.width()), u64::from(self.height()));
        let (num, den) = (u64::from(ratio.num.unsigned_abs()), u64::from(ratio.den.unsigned_abs()));
        if ratio.num <= 0 || ratio.den <= 0 || num == den {
            return (self.width(), self.height());
        }
        let (w, h) =
            if num < den { (width * num / den, height) } else { (width, height * den / num) };
        let side = |v: u64| u32::try_from(v).unwrap_or(u32::MAX).max(1);
        (side(w), side(h))
    }

    /// Pixel format.
    ///
    /// # Errors
    /// Internal where the frame is not in a format that filters see.
    pub(crate) fn pixel(&self) -> Result<PixelFormat> {
        let number = self.raw().format;
        PixelFormat::EIGHT_BIT
            .into_iter()
            .chain([PixelFormat::Yuv420p10])
            .find(|format| format.ffmpeg() as i32 == number)
            .ok_or_else(|| Error::internal(format!("a frame of pixel format {number}")))
    }

    /// Whether the frame's samples use the full range 0..=255.
    pub(crate) fn is_full_range(&self) -> bool {
        self.raw().color_range == ffi::AVColorRange::AVCOL_RANGE_JPEG
    }

    /// Makes the planes this frame's alone, copying them where they are shared.
    ///
    /// # Errors
    /// Exhausted where memory is.
    pub(crate) fn make_writable(&mut self) -> Result<()> {
        // SAFETY: a valid frame with buffers.
        let code = unsafe { ffi::av_frame_make_writable(self.as_mut_ptr()) };
        ff::check(code, "cannot copy a frame").map(drop)
    }

    /// A plane to read.
    ///
    /// # Errors
    /// Internal where there is no such plane.
    pub(crate) fn plane(&self, plane: usize) -> Result<Plane<'_>> {
        let (data, stride, width, height, length) = self.layout(plane)?;
        // SAFETY: FFmpeg's plane spans `stride` bytes for each of `height` rows, the last one at
        // least `width` samples; the slice lives no longer than the frame.
        let bytes = unsafe { std::slice::from_raw_parts(data, length) };
        Ok(Plane { bytes, stride, width, height })
    }

    /// A plane to write, made this frame's alone first.
    ///
    /// # Errors
    /// Internal where there is no such plane; Exhausted where memory is.
    pub(crate) fn plane_mut(&mut self, plane: usize) -> Result<PlaneMut<'_>> {
        self.make_writable()?;
        let (data, stride, width, height, length) = self.layout(plane)?;
        // SAFETY: as for `plane`; the buffers are this frame's alone since make_writable.
        let bytes = unsafe { std::slice::from_raw_parts_mut(data, length) };
        Ok(PlaneMut { bytes, stride, width, height })
    }

    fn layout(&self, plane: usize) -> Result<(*mut u8, usize, usize, usize, usize)> {
        let pixel = self.pixel()?;
        let raw = self.raw();
        if plane >= pixel.planes() || raw.data[plane].is_null() {
            return Err(Error::internal(format!(
                "a frame of {} has no plane {plane}",
                pixel.name()
            )));
        }
        let (width, height) = pixel.plane_size(plane, self.width(), self.height());
        let (width, height) = (width as usize, height as usize);
        let stride = usize::try_from(raw.linesize[plane])
            .map_err(|_| Error::internal("a frame stored upside down"))?;
        let row = width * pixel.sample_bytes() as usize;
        Ok((raw.data[plane], stride, width, height, stride * height.saturating_sub(1) + row))
    }
}

impl Clone for Frame {
    /// Shares the planes.
    ///
    /// # Panics
    /// Where not even the few bytes of a reference can be allocated.
    fn clone(&self) -> Self {
        // SAFETY: a valid frame; answers null only without memory.
        let copy = unsafe { ffi::av_frame_clone(self.as_ptr()) };
        #[expect(clippy::expect_used, reason = "as Rust's own allocations do")]
        Self(NonNull::new(copy).expect("out of memory"))
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let mut pointer = self.0.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::av_frame_free(&mut pointer) };
    }
}

/// A plane to read: rows of `width` samples, `stride` bytes apart; the last row may end early.
#[derive(Clone, Copy)]
pub(crate) struct Plane<'a> {
    /// All rows with their padding, the last row without.
    pub(crate) bytes: &'a [u8],
    /// Bytes from one row to the next.
    pub(crate) stride: usize,
    /// Samples a row.
    pub(crate) width: usize,
    /// Rows.
    pub(crate) height: usize,
}

/// A plane to write; see [`Plane`].
pub(crate) struct PlaneMut<'a> {
    /// All rows with their padding, the last row without.
    pub(crate) bytes: &'a mut [u8],
    /// Bytes from one row to the next.
    pub(crate) stride: usize,
    /// Samples a row.
    pub(crate) width: usize,
    /// Rows.
    pub(crate) height: usize,
}
