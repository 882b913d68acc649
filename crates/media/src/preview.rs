//! Small pictures of a segment at work, before and after its filters: two a second at most, and fewer
//! where they would cost more than a hundredth of the slot's time.

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use ffmpeg_next::ffi;
use frameloom_core::plan::PlannedEncoder;
use frameloom_core::time::{Rational, TimeBase};
use frameloom_core::{Error, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::encode::Encoder;
use crate::ff;
use crate::frame::{Frame, FrameFormat, PixelFormat};

/// How often a picture is taken at most.
const EVERY: Duration = Duration::from_millis(500);

/// Longest side of a picture in pixels.
const LONGEST: u32 = 640;

/// A frame before and after the filters, as JPEG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Before.
    pub before: Vec<u8>,
    /// After.
    pub after: Vec<u8>,
}

/// How many times the CPU time of a pair of pictures a slot works before it makes the next one.
const DEARNESS: u32 = 100;

/// When a picture was last taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    at: Instant,
    /// CPU time that the process had used.
    used: Duration,
    /// CPU time that the pair took.
    cost: Duration,
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

impl Shown {
    /// Whether the next one may be taken: the pictures of a slot cost no more than a hundredth.
    fn is_over(&self) -> bool {
        self.at.elapsed() >= EVERY
            && cpu_time(ClockId::ProcessCPUTime).saturating_sub(self.used) >= self.cost * DEARNESS
    }
}

/// Takes the pictures.
pub(crate) struct Previewer {
    last: Option<Shown>,
    /// The picture before the filters, of the frame with this pts.
    pending: Option<(i64, Option<Vec<u8>>)>,
    /// Whether frames are shown as they were before the filters, too.
    reveals: bool,
}

impl Previewer {
    /// One that took its last picture then. Where it does not reveal frames, both pictures are what comes out.
    pub(crate) fn new(last: Option<Shown>, reveals: bool) -> Self {
        Self { last, pending: None, reveals }
    }

    /// When it took its last picture.
    pub(crate) fn last(&self) -> Option<Shown> {
        self.last
    }

    /// Looks at a frame before its filters.
    ///
    /// # Errors
    /// Where it cannot be made small.
    pub(crate) fn before(&mut self, frame: &Frame) -> Result<()> {
        if self.last.is_none_or(|last| last.is_over()) {
            let (before, cost) = match self.reveals.then(|| timed(frame)).transpose()? {
                Some((picture, cost)) => (Some(picture), cost),
                None => (None, Duration::ZERO),
            };
            let used = cpu_time(ClockId::ProcessCPUTime);
            self.last = Some(Shown { at: Instant::now(), used, cost });
            self.pending = Some((frame.pts(), before));
        }
        Ok(())
    }

    /// Looks at a frame after its filters; answers a pair, now and then.
    ///
    /// # Errors
    /// Where it cannot be made small.
    pub(crate) fn after(&mut self, frame: &Frame) -> Result<Option<Preview>> {
        match &self.pending {
            Some((pts, _)) if *pts == frame.pts() => {}
            _ => return Ok(None),
        }
        let Some((_, before)) = self.pending.take() else { return Ok(None) };
        let (after, cost) = timed(frame)?;
        if let Some(last) = &mut self.last {
            last.cost += cost;
        }
        // What is hidden is not shown as it was.
        let before = before.unwrap_or_else(|| after.clone());
        Ok(Some(Preview { before, after }))
    }
}

/// A small picture, and the CPU time that it took.
fn timed(frame: &Frame) -> Result<(Vec<u8>, Duration)> {
    let begun = cpu_time(ClockId::ThreadCPUTime);
    let picture = jpeg(frame, LONGEST)?;
    Ok((picture, cpu_time(ClockId::ThreadCPUTime).saturating_sub(begun)))
}

/// A frame of full range whose longest side has `most` pixels or fewer.
///
/// # Errors
/// Where it cannot be made small.
pub(crate) fn small(frame: &Frame, most: u32) -> Result<Frame> {
    let longest = frame.width().max(frame.height()).max(1);
    let side = |v: u32| {
        let small = u64::from(v) * u64::from(most.min(longest)) / u64::from(longest);
        u32::try_from(small).unwrap_or(most).max(2) & !1
    };
    let (width, height) = (side(frame.width()), side(frame.height()));
    let mut small = Frame::new(PixelFormat::Yuv420p, width, height)?;
    scale(frame, &mut small, true)?;
    let raw = small.raw_mut();
    raw.color_range = ffi::AVColorRange::AVCOL_RANGE_JPEG;
    raw.pts = 0;
    Ok(small)
}

/// The same frame of limited range.
///
/// # Errors
/// Where it cannot be converted.
pub(crate) fn limited(frame: &Frame) -> Result<Frame> {
    let mut limited = Frame::new(PixelFormat::Yuv420p, frame.width(), frame.height())?;
    scale(frame, &mut limited, false)?;
    let raw = limited.raw_mut();
    raw.color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
    raw.pts = frame.pts();
    Ok(limited)
}

/// A JPEG of a frame, its longest side of `most` pixels or fewer.
///
/// # Errors
/// As [`small`].
pub(crate) fn jpeg(frame: &Frame, most: u32) -> Result<Vec<u8>> {
    let small = small(frame, most)?;
    let (width, height) = (small.width(), small.height());
    let format = FrameFormat {
        sample_aspect_ratio: frame_ratio(frame),
        ..FrameFormat::plain(PixelFormat::Yuv420p, (width, height), TimeBase::new(1, 25)?, "pc")
    };
    let option = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let planned = PlannedEncoder {
        codec: None,
        name: "mjpeg".into(),
        options: vec![option("qmin", "4"), option("qmax", "4"), option("huffman", "default")],
        keyframe_interval: 1,
        threads: 1,
        rehearsed: 0,
    };
    let mut encoder = Encoder::open(&planned, &format)?;
    let mut bytes = Vec::new();
    let mut take = |packet: &ff::Packet| {
        bytes.extend_from_slice(packet.data());
        Ok(())
    };
    encoder.send(Some(&small), &mut take)?;
    encoder.send(None, &mut take)?;
    Ok(bytes)
}

fn frame_ratio(frame: &Frame) -> Rational {
    let ratio = frame.raw().sample_aspect_ratio;
    if ratio.num > 0 { Rational::new(ratio.num, ratio.den) } else { Rational::new(1, 1) }
}

struct Scaler(NonNull<ffi::SwsContext>);

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: owned and freed once.
        unsafe { ffi::sws_freeContext(self.0.as_ptr()) };
    }
}

/// Scales fast, to full or limited range.
fn scale(from: &Frame, to: &mut Frame, to_full: bool) -> Result<()> {
    let (full, to_full) = (c_int::from(from.is_full_range()), c_int::from(to_full));
    let (from, to) = (from.raw(), to.raw_mut());
    // SAFETY: the context is made for the shapes of these two frames, whose planes are whole; the
    // source's format is one of FFmpeg's numbers.
    unsafe {
        let context = ffi::sws_alloc_context();
        let scaler = Scaler(NonNull::new(context).ok_or_else(ff::out_of_memory)?);
        // Before it is made ready: of one size and format, ranges would be forgotten else.
        for (name, value) in [
            (c"srcw", from.width),
            (c"srch", from.height),
            (c"src_format", from.format),
            (c"src_range", full),
            (c"dstw", to.width),
            (c"dsth", to.height),
            (c"dst_format", ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int),
            (c"dst_range", to_full),
            (c"sws_flags", ffi::SWS_FAST_BILINEAR as c_int),
        ] {
            let code = ffi::av_opt_set_int(context.cast(), name.as_ptr(), i64::from(value), 0);
            ff::check(code, "cannot preview a frame")?;
        }
        let code = ffi::sws_init_context(context, ptr::null_mut(), ptr::null_mut());
        if code < 0 {
            return Err(Error::unsupported("cannot preview a frame"));
        }
        let from_table = ffi::sws_getCoefficients(from.colorspace as c_int);
        let to_table = ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT as c_int);
        // Where FFmpeg has no say in a pair of formats this answers -1, and nothing is needed.
        let _: c_int = ffi::sws_setColorspaceDetails(
            scaler.0.as_ptr(),
            from_table,
            full,
            to_table,
            to_full,
            0,
            1 << 16,
            1 << 16,
        );
        let code = ffi::sws_scale(
            scaler.0.as_ptr(),
            from.data.as_ptr().cast(),
            from.linesize.as_ptr(),
            0,
            from.height,
            to.data.as_ptr().cast(),
            to.linesize.as_ptr(),
        );
        ff::check(code, "cannot preview a frame").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dear_picture_is_paid_before_the_next() {
        let at = Instant::now().checked_sub(EVERY).unwrap();
        let used = cpu_time(ClockId::ProcessCPUTime);
        let due = |cost| Shown { at, used, cost }.is_over();
        assert!(due(Duration::ZERO));
        assert!(!due(Duration::from_secs(60)));
        assert!(!Shown { at: Instant::now(), used, cost: Duration::ZERO }.is_over());
    }

    #[test]
    fn a_pair_is_of_one_frame_and_small() {
        let mut previewer = Previewer::new(None, true);
        let mut frame = Frame::new(PixelFormat::Yuv420p, 1920, 1080).unwrap();
        for plane in 0..3 {
            frame.plane_mut(plane).unwrap().bytes.fill(100);
        }
        frame.raw_mut().pts = 7;
        previewer.before(&frame).unwrap();
        frame.raw_mut().pts = 6;
        assert_eq!(previewer.after(&frame).unwrap(), None);
        frame.raw_mut().pts = 7;
        let pair = previewer.after(&frame).unwrap().unwrap();
        for picture in [&pair.before, &pair.after] {
            assert_eq!(picture[..3], [0xff, 0xd8, 0xff]);
            assert!(picture.len() < 100_000);
        }
        assert_eq!(previewer.after(&frame).unwrap(), None);
        // The next segment's begins where this one was, and takes none at once.
        let mut next = Previewer::new(previewer.last(), true);
        next.before(&frame).unwrap();
        assert_eq!(next.after(&frame).unwrap(), None);
    }
}
