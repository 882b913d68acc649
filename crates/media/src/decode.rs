//! The decoder: packets in, frames out, each with the pts that `ffmpeg` would give it.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use ffmpeg_next::ffi;
use frameloom_core::plan::VideoInfo;
use frameloom_core::time::TimeBase;
use frameloom_core::{Error, Result};

use crate::demux::Demuxer;
use crate::ff::{self, Packet};
use crate::frame::Frame;
use crate::seek;

/// A decoder of one video stream.
pub(crate) struct Decoder {
    context: NonNull<ffi::AVCodecContext>,
    spare: Frame,
    last: Option<i64>,
    step: i64,
    errors: u64,
    /// What FFmpeg's log told of this decoder. It is freed after the context, which points to it.
    complaints: Box<AtomicU64>,
}

// SAFETY: the context is used by one thread at a time, whoever holds the Decoder.
unsafe impl Send for Decoder {}

impl Decoder {
    /// Opens a decoder for `parameters`.
    ///
    /// `reorder` frames are held back at least, where the codec's headers tell of fewer: else the
    /// decoder would learn it on the way, and show frames out of order until then.
    ///
    /// With `mid_stream` frames that depend on what came before the first packet come out, too:
    /// the caller drops them by their pts.
    ///
    /// # Errors
    /// Unsupported where FFmpeg has no decoder for the codec; Corrupt where its headers are.
    pub(crate) fn open(
        parameters: &ffi::AVCodecParameters,
        time_base: TimeBase,
        frame_rate: ffi::AVRational,
        threads: u32,
        reorder: u32,
        mid_stream: bool,
    ) -> Result<Self> {
        // SAFETY: codec and context are checked for null; the context is freed by Drop, also
        // where a later step fails.
        let decoder = unsafe {
            let codec = ffi::avcodec_find_decoder(parameters.codec_id);
            if codec.is_null() {
                let name = ff::text(ffi::avcodec_get_name(parameters.codec_id));
                return Err(Error::unsupported(format!(
                    "the installed FFmpeg has no decoder for '{name}'"
                )));
            }
            let context =
                NonNull::new(ffi::avcodec_alloc_context3(codec)).ok_or_else(ff::out_of_memory)?;
            let complaints = Box::new(AtomicU64::new(0));
            (*context.as_ptr()).opaque = ptr::from_ref(complaints.as_ref()).cast_mut().cast();
            let decoder = Self {
                context,
                spare: Frame::empty()?,
                last: None,
                step: 1,
                errors: 0,
                complaints,
            };
            let raw = context.as_ptr();
            ff::check(ffi::avcodec_parameters_to_context(raw, parameters), "decoder parameters")?;
            (*raw).pkt_timebase = ffi::AVRational { num: time_base.num(), den: time_base.den() };
            (*raw).framerate = frame_rate;
            (*raw).thread_count = c_int::try_from(threads.clamp(1, 64)).unwrap_or(1);
            let reorder = c_int::try_from(reorder).unwrap_or(0);
            (*raw).has_b_frames = (*raw).has_b_frames.max(reorder);
            // A picture may begin at any sample.
            (*raw).flags |= ffi::AV_CODEC_FLAG_UNALIGNED as c_int;
            if mid_stream {
                (*raw).flags |= ffi::AV_CODEC_FLAG_OUTPUT_CORRUPT as c_int;
            }
            let code = ffi::avcodec_open2(raw, codec, ptr::null_mut());
            ff::check(code, "cannot open the decoder")?;
            decoder
        };
        Ok(decoder)
    }

    /// Damage seen so far: packets that could not be decoded.
    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    /// What FFmpeg's log told of damage so far, or of pictures that are missing: more than what is an error.
    ///
    /// With several threads all that concerns a frame is counted before it comes out.
    pub(crate) fn complaints(&self) -> u64 {
        self.complaints.load(Ordering::Relaxed)
    }

    /// While `true`, pictures that no other one refers to are not decoded.
    pub(crate) fn skip_unreferenced(&mut self, skip: bool) {
        let discard =
            if skip { ffi::AVDiscard::AVDISCARD_NONREF } else { ffi::AVDiscard::AVDISCARD_DEFAULT };
        // SAFETY: the context is open and ours.
        unsafe { self.context.as_mut() }.skip_frame = discard;
    }

    /// Decodes `packet`, or with `None` what is left, and hands each frame that comes out to `sink`;
    /// `false` from the sink ends it early.
    ///
    /// Damaged packets are counted and passed over, as `ffmpeg` does.
    ///
    /// # Errors
    /// Those of `sink`; Exhausted where memory is.
    pub(crate) fn decode(
        &mut self,
        packet: Option<&Packet>,
        sink: &mut dyn FnMut(Frame) -> Result<bool>,
    ) -> Result<bool> {
        let raw = packet.map_or(ptr::null(), Packet::as_ptr);
        loop {
            // SAFETY: context and packet are valid; a null packet flushes.
            let code = unsafe { ffi::avcodec_send_packet(self.context.as_ptr(), raw) };
            let full = code == ff::error_code(rustix::io::Errno::AGAIN);
            if code < 0 && !full && code != ffi::AVERROR_EOF {
                self.note(code)?;
            }
            if !self.receive(sink)? {
                return Ok(false);
            }
            if !full {
                return Ok(true);
            }
        }
    }

    fn receive(&mut self, sink: &mut dyn FnMut(Frame) -> Result<bool>) -> Result<bool> {
        loop {
            // SAFETY: context and frame are valid; the frame is emptied by FFmpeg first.
            let code = unsafe {
                ffi::avcodec_receive_frame(self.context.as_ptr(), self.spare.as_mut_ptr())
            };
            if code == ff::error_code(rustix::io::Errno::AGAIN) || code == ffi::AVERROR_EOF {
                return Ok(true);
            }
            if code < 0 {
                self.note(code)?;
                continue;
            }
            let mut frame = std::mem::replace(&mut self.spare, Frame::empty()?);
            self.stamp(&mut frame);
            if !sink(frame)? {
                return Ok(false);
            }
        }
    }

    /// Counts damage; what is not damage is an error.
    fn note(&mut self, code: c_int) -> Result<()> {
        if code == ff::error_code(rustix::io::Errno::NOMEM) {
            return Err(ff::out_of_memory());
        }
        self.errors += 1;
        Ok(())
    }

    /// Gives a frame its pts: FFmpeg's best guess, or the last one and a frame's duration.
    fn stamp(&mut self, frame: &mut Frame) {
        let raw = frame.raw_mut();
        let guess = ff::known(raw.best_effort_timestamp);
        let pts = match (guess, self.last) {
            (Some(guess), Some(last)) if guess <= last => last.saturating_add(1),
            (Some(guess), _) => guess,
            (None, Some(last)) => last.saturating_add(self.step),
            (None, None) => 0,
        };
        if raw.pkt_duration > 0 {
            self.step = raw.pkt_duration;
        }
        raw.pts = pts;
        // The encoder chooses its picture types itself.
        raw.pict_type = ffi::AVPictureType::AV_PICTURE_TYPE_NONE;
        self.last = Some(pts);
    }
}

/// How FFmpeg begins to tell, for debugging only, that pictures between two others are missing in H.264.
const GAP: &[u8] = b"Frame num gap";

/// What FFmpeg logs, with a variable list of arguments, which every platform at hand passes by a pointer.
type Log = unsafe extern "C" fn(*mut c_void, c_int, *const c_char, *mut c_void);

// Bound here, since the type of such a list has a name of its own on each platform.
unsafe extern "C" {
    fn av_log_set_callback(callback: Option<Log>);
    fn av_log_default_callback(
        of: *mut c_void,
        level: c_int,
        text: *const c_char,
        arguments: *mut c_void,
    );
}

/// Lets what FFmpeg logs of decoders be counted; all of it still goes where it went.
pub(crate) fn count_complaints() {
    // SAFETY: sets a pointer to a function that lives for ever.
    unsafe { av_log_set_callback(Some(log)) };
}

/// Counts what concerns a decoder of ours, whichever of its threads tells it, and hands it on.
unsafe extern "C" fn log(
    of: *mut c_void,
    level: c_int,
    text: *const c_char,
    arguments: *mut c_void,
) {
    // SAFETY: FFmpeg hands over null or a structure that begins with its class, and a C string.
    unsafe {
        let class = if of.is_null() { ptr::null() } else { *of.cast::<*const ffi::AVClass>() };
        if ptr::eq(class, ffi::avcodec_get_class()) {
            let context = &*of.cast::<ffi::AVCodecContext>();
            let counts = context.opaque.cast_const().cast::<AtomicU64>().as_ref();
            let told = || std::ffi::CStr::from_ptr(text).to_bytes();
            if let Some(complaints) = counts
                && (level <= ffi::AV_LOG_ERROR || told().starts_with(GAP))
            {
                complaints.fetch_add(1, Ordering::Relaxed);
            }
        }
        av_log_default_callback(of, level, text, arguments);
    }
}

/// Packets that are read in search of the first picture.
const MOST_PACKETS: usize = 500;

/// The first frame of `video` that comes from here on, if any comes soon; with `mid_stream` also one that depends on
/// what came before.
///
/// # Errors
/// Those of demuxer and decoder.
pub(crate) fn first_frame(
    demuxer: &mut Demuxer,
    video: &VideoInfo,
    mid_stream: bool,
) -> Result<Option<Frame>> {
    let rate = ffi::AVRational { num: video.frame_rate.num, den: video.frame_rate.den.max(1) };
    let parameters = demuxer.parameters(video.stream)?;
    let mut decoder =
        Decoder::open(parameters, video.time_base, rate, 1, video.reorder, mid_stream)?;
    let mut packet = Packet::new()?;
    let mut found = None;
    for _ in 0..MOST_PACKETS {
        let more = seek::next(demuxer, video.stream, &mut packet)?;
        decoder.decode(more.then_some(&packet), &mut |frame| {
            found = Some(frame);
            Ok(false)
        })?;
        if found.is_some() || !more {
            break;
        }
    }
    Ok(found)
}

/// Whether the decoder had to make up a part of the frame.
pub(crate) fn is_concealed(frame: &Frame) -> bool {
    let raw = frame.raw();
    raw.decode_error_flags != 0 || raw.flags & ffi::AV_FRAME_FLAG_CORRUPT as c_int != 0
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let mut context = self.context.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::avcodec_free_context(&mut context) };
    }
}
