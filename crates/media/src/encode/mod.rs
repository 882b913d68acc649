//! The encoder: frames in, packets out, the same bytes from the same frames everywhere.

mod options;
mod parameters;
mod rehearsal;
mod table;

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::catalogue::did_you_mean;
use frameloom_core::plan::{Hdr, Message, PlannedEncoder, VideoInfo};
use frameloom_core::spec::{Codec, Container, EncoderSpec};
use frameloom_core::time::Rational;
use frameloom_core::{Error, Result};

pub(crate) use parameters::StreamParameters;

use crate::ff::{self, Dict, Packet};
use crate::frame::{Frame, FrameFormat, PixelFormat};
use crate::{color, hdr};
use rehearsal::Rehearsal;
use table::Row;

/// Seconds from one keyframe to the next, at most.
const KEYFRAME_SECONDS: f64 = 2.0;

/// Encoder threads of a plan of one segment, on every machine.
const WHOLE_THREADS: u32 = 4;

/// Fixes encoder and options, and tries once that they open.
///
/// # Errors
/// Invalid for a pair of codec and container, an option or a value that does not fit; Unsupported
/// for a picture that the codec refuses; Unavailable where this machine cannot run the encoder.
pub(crate) fn plan_encoder(
    spec: &EncoderSpec,
    container: Container,
    format: &FrameFormat,
    video: &VideoInfo,
    whole: bool,
) -> Result<(PlannedEncoder, Vec<Message>)> {
    let name = encoder_name(spec, container)?;
    let codec = find(&name)?;
    let row = table::row(&name);
    // SAFETY: `find` answers a static description.
    let id = unsafe { (*codec).id };
    fits_container(&name, id, container)?;
    fits_size(&name, format)?;
    let rate = if format.frame_rate.is_known() { format.frame_rate.to_f64() } else { 25.0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a small range"
    )]
    let interval = (rate * KEYFRAME_SECONDS).round().clamp(1.0, 1000.0) as u32;
    let threads = if whole { WHOLE_THREADS } else { 1 };
    let hdr = hdr::kept(format.pixel, &format.color.transfer, video);
    let options = options::resolve(spec, &name, row, threads, &hdr)?;
    let planned = PlannedEncoder {
        codec: spec.codec.or_else(|| row.map(|row| row.codec)),
        rehearsed: if whole { 0 } else { rehearsal::wanted(&name, &options) },
        options,
        keyframe_interval: row.and_then(|row| row.keyframe_interval).unwrap_or(interval),
        name,
        threads,
    };
    Encoder::open(&planned, format)?;
    Ok((planned, Vec::new()))
}

/// Checks encoder and options as far as no source is needed for it.
///
/// # Errors
/// Invalid for a pair of codec and container, an option or a value that does not fit.
pub(crate) fn validate(spec: &EncoderSpec, container: Container) -> Result<()> {
    let name = encoder_name(spec, container)?;
    // SAFETY: `find` answers a static description.
    let id = unsafe { (*find(&name)?).id };
    fits_container(&name, id, container)?;
    options::resolve(spec, &name, table::row(&name), 1, &Hdr::default()).map(drop)
}

/// The pixel format nearest to `pixel` that the encoder of `spec` takes.
///
/// # Errors
/// As [`plan_encoder`] for the choice of the encoder; Unsupported where it takes none of ours.
pub(crate) fn pixel_for(
    spec: &EncoderSpec,
    container: Container,
    pixel: PixelFormat,
) -> Result<PixelFormat> {
    let name = encoder_name(spec, container)?;
    let codec = find(&name)?;
    let takes = |wanted: PixelFormat| {
        // SAFETY: the list is null or ends with AV_PIX_FMT_NONE.
        unsafe {
            let mut at = (*codec).pix_fmts;
            if at.is_null() {
                return true;
            }
            while *at != ffi::AVPixelFormat::AV_PIX_FMT_NONE {
                if *at == wanted.ffmpeg() {
                    return true;
                }
                at = at.add(1);
            }
        }
        false
    };
    use PixelFormat::{Gray8, Yuv420p, Yuv420p10, Yuv422p, Yuv444p};
    let order: &[PixelFormat] = match pixel {
        Gray8 => &[Gray8, Yuv420p, Yuv422p, Yuv444p],
        Yuv420p => &[Yuv420p, Yuv422p, Yuv444p],
        Yuv422p => &[Yuv422p, Yuv444p, Yuv420p],
        Yuv444p => &[Yuv444p, Yuv422p, Yuv420p],
        Yuv420p10 => &[Yuv420p10, Yuv420p],
    };
    order.iter().copied().find(|format| takes(*format)).ok_or_else(|| {
        Error::unsupported(format!("encoder '{name}' takes no planar 8-bit pictures"))
    })
}

/// The name of the encoder that `spec` means.
fn encoder_name(spec: &EncoderSpec, container: Container) -> Result<String> {
    if let Some(name) = &spec.encoder {
        return Ok(name.clone());
    }
    let codec = spec.codec.unwrap_or(container.default_codec());
    if !codec.containers().contains(&container) {
        return Err(does_not_fit(codec.name(), container, codec.containers()));
    }
    Ok(table::of_codec(codec).name.to_owned())
}

fn does_not_fit(codec: &str, container: Container, containers: &[Container]) -> Error {
    let codecs: Vec<&str> = Codec::ALL
        .iter()
        .filter(|codec| codec.containers().contains(&container))
        .map(|codec| codec.name())
        .collect();
    let containers: Vec<String> = containers.iter().map(|c| format!(".{c}")).collect();
    let or = if containers.is_empty() {
        String::new()
    } else {
        format!(", or name the output {}", containers.join(" or "))
    };
    Error::invalid(format!(
        ".{container} does not hold {codec}: choose --codec {}{or}",
        codecs.join(" or ")
    ))
}

/// FFmpeg's description of a video encoder.
fn find(name: &str) -> Result<*const ffi::AVCodec> {
    let c_name = ff::c_string(name)?;
    // SAFETY: the name is a C string; null or a static description comes back.
    let codec = unsafe { ffi::avcodec_find_encoder_by_name(c_name.as_ptr()) };
    // SAFETY: as above.
    let kind = unsafe { codec.as_ref() }.map(|codec| codec.type_);
    if kind == Some(ffi::AVMediaType::AVMEDIA_TYPE_VIDEO) {
        return Ok(codec);
    }
    let names = all_encoders();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Err(Error::invalid(format!(
        "the installed FFmpeg has no video encoder '{name}'{}; 'ffmpeg -encoders' lists them",
        did_you_mean(name, &names)
    )))
}

fn all_encoders() -> Vec<String> {
    let mut names = Vec::new();
    let mut state = ptr::null_mut();
    // SAFETY: iterates FFmpeg's static list.
    unsafe {
        while let Some(codec) = ffi::av_codec_iterate(&mut state).as_ref() {
            let video = codec.type_ == ffi::AVMediaType::AVMEDIA_TYPE_VIDEO;
            if video && ffi::av_codec_is_encoder(codec) != 0 {
                names.push(ff::text(codec.name));
            }
        }
    }
    names
}

fn fits_container(name: &str, id: ffi::AVCodecID, container: Container) -> Result<()> {
    let muxer = ff::c_string(container.muxer())?;
    // SAFETY: C strings and static descriptions.
    let fits = unsafe {
        let muxer = ffi::av_guess_format(muxer.as_ptr(), ptr::null(), ptr::null());
        !muxer.is_null()
            && ffi::avformat_query_codec(muxer, id, ffi::FF_COMPLIANCE_NORMAL as c_int) == 1
    };
    if fits { Ok(()) } else { Err(does_not_fit(&format!("what '{name}' makes"), container, &[])) }
}

/// H.264 and HEVC with halved chroma cannot hold odd sizes.
fn fits_size(name: &str, format: &FrameFormat) -> Result<()> {
    let (x, y) = format.pixel.shift(1.min(format.pixel.planes() - 1));
    let odd = !format.width.is_multiple_of(1 << x) || !format.height.is_multiple_of(1 << y);
    if odd && matches!(name, "libx264" | "libx265" | "h264_nvenc" | "hevc_nvenc" | "libsvtav1") {
        let (width, height) = (format.width & !1, format.height & !1);
        let even = if width > 0 && height > 0 {
            format!("cut a line off with -f crop:w={width}:h={height}")
        } else {
            "make it larger with -f scale:w=16:h=16".into()
        };
        return Err(Error::unsupported(format!(
            "encoder '{name}' takes no odd size, and the picture is {}x{}: choose --codec vp9 (.mp4, .mkv, .webm) \
             or ffv1 (.mkv), or {even}",
            format.width, format.height
        )));
    }
    let lines = 2 << y;
    if name == "libx264" && format.is_interlaced() && !format.height.is_multiple_of(lines) {
        return Err(Error::unsupported(format!(
            "encoder '{name}' takes interlaced pictures of {lines} lines and their multiples only, and the picture is {}x{}: \
             crop it with -f crop:h={}, or make it progressive with -f ffmpeg:yadif",
            format.width,
            format.height,
            format.height / lines * lines
        )));
    }
    Ok(())
}

/// An encoder at work.
pub(crate) struct Encoder {
    context: NonNull<ffi::AVCodecContext>,
    packet: Packet,
    name: String,
    frame_rate: Rational,
    /// Frames that it is to see before they count.
    rehearsal: Option<Rehearsal>,
    /// The pts from which on packets count.
    from: Option<i64>,
    /// Whether it has got a frame, and whether it was told that no more come.
    fed: bool,
    ended: bool,
}

// SAFETY: the context is used by one thread at a time, whoever holds the Encoder.
unsafe impl Send for Encoder {}

impl Encoder {
    /// Opens the encoder of a plan for frames of `format`.
    ///
    /// # Errors
    /// Invalid for options that it does not know; Unsupported for pictures that it does not take;
    /// Unavailable where this machine cannot run it.
    pub(crate) fn open(planned: &PlannedEncoder, format: &FrameFormat) -> Result<Self> {
        let codec = find(&planned.name)?;
        let mut options = Dict::default();
        for (key, value) in &planned.options {
            // FFmpeg tells x264 that there are fields, not which comes first.
            if key == "x264-params" && format.field_order == "bff" {
                options.set(key, &format!("{value}:bff=1"))?;
            } else {
                options.set(key, value)?;
            }
        }
        // SAFETY: the context is checked for null and freed by Drop, also where a later step
        // fails; all fields are plain numbers.
        unsafe {
            let context =
                NonNull::new(ffi::avcodec_alloc_context3(codec)).ok_or_else(ff::out_of_memory)?;
            let mut encoder = Self {
                context,
                packet: Packet::new()?,
                name: planned.name.clone(),
                frame_rate: format.frame_rate,
                rehearsal: None,
                from: None,
                fed: false,
                // Until it is open there is nothing to end.
                ended: true,
            };
            let raw = &mut *context.as_ptr();
            raw.width = number(format.width)?;
            raw.height = number(format.height)?;
            raw.pix_fmt = format.pixel.ffmpeg();
            raw.time_base =
                ffi::AVRational { num: format.time_base.num(), den: format.time_base.den() };
            raw.framerate =
                ffi::AVRational { num: format.frame_rate.num, den: format.frame_rate.den };
            raw.sample_aspect_ratio = ffi::AVRational {
                num: format.sample_aspect_ratio.num,
                den: format.sample_aspect_ratio.den.max(1),
            };
            raw.gop_size = number(planned.keyframe_interval)?;
            raw.thread_count = number(planned.threads)?;
            raw.flags |= (ffi::AV_CODEC_FLAG_GLOBAL_HEADER | ffi::AV_CODEC_FLAG_BITEXACT) as c_int;
            color::tag_encoder(raw, &format.color);
            if format.is_interlaced()
                && matches!(
                    raw.codec_id,
                    ffi::AVCodecID::AV_CODEC_ID_H264
                        | ffi::AVCodecID::AV_CODEC_ID_MPEG2VIDEO
                        | ffi::AVCodecID::AV_CODEC_ID_MPEG4
                )
            {
                raw.flags |=
                    (ffi::AV_CODEC_FLAG_INTERLACED_DCT | ffi::AV_CODEC_FLAG_INTERLACED_ME) as c_int;
                raw.field_order = if format.field_order == "tff" {
                    ffi::AVFieldOrder::AV_FIELD_TT
                } else {
                    ffi::AVFieldOrder::AV_FIELD_BB
                };
            }
            let code = ffi::avcodec_open2(raw, codec, options.as_mut_ptr());
            if code < 0 {
                return Err(cannot_open(&planned.name, code, format));
            }
            if let Some((key, value)) = options.entries().first() {
                return Err(options::unknown(&planned.name, codec, key, value));
            }
            encoder.ended = false;
            Ok(encoder)
        }
    }

    /// Has the first frames encoded once before they count, as the plan says. For segments that do not begin the video:
    /// before its first frame no encode has seen any.
    pub(crate) fn rehearse(&mut self, planned: &PlannedEncoder) {
        self.rehearsal = Rehearsal::of(planned.rehearsed);
    }

    /// Encodes a frame, or with `None` what is left; `sink` gets the packets in coding order, with
    /// the frames' pts.
    ///
    /// # Errors
    /// Those of `sink`; Exhausted; Unavailable where the encoder's device fails.
    pub(crate) fn send(
        &mut self,
        frame: Option<&Frame>,
        sink: &mut dyn FnMut(&Packet) -> Result<()>,
    ) -> Result<()> {
        let Some(mut rehearsal) = self.rehearsal.take() else {
            return self.encode(frame, sink);
        };
        if let Some(frame) = frame
            && !rehearsal.push(frame.clone())
        {
            self.rehearsal = Some(rehearsal);
            return Ok(());
        }
        let (frames, from) = rehearsal.play();
        self.from = from;
        for frame in &frames {
            self.encode(Some(frame), sink)?;
        }
        if frame.is_none() { self.encode(None, sink) } else { Ok(()) }
    }

    fn encode(
        &mut self,
        frame: Option<&Frame>,
        sink: &mut dyn FnMut(&Packet) -> Result<()>,
    ) -> Result<()> {
        let raw = frame.map_or(ptr::null(), Frame::as_ptr);
        if let Some(frame) = frame {
            self.takes(frame)?;
        }
        self.fed |= frame.is_some();
        self.ended |= frame.is_none();
        loop {
            // SAFETY: context and frame are valid; a null frame flushes.
            let code = unsafe { ffi::avcodec_send_frame(self.context.as_ptr(), raw) };
            let full = code == ff::error_code(rustix::io::Errno::AGAIN);
            if !full {
                ff::check(code, &format!("encoder '{}'", self.name))?;
            }
            self.receive(sink)?;
            if !full {
                return Ok(());
            }
        }
    }

    /// Encoders read planes of the size that they were opened for, whatever a frame's size is.
    fn takes(&self, frame: &Frame) -> Result<()> {
        // SAFETY: the context is open; plain fields.
        let (width, height, format) = unsafe {
            let raw = self.context.as_ref();
            (raw.width, raw.height, raw.pix_fmt as c_int)
        };
        let raw = frame.raw();
        if (raw.width, raw.height, raw.format) == (width, height, format) {
            return Ok(());
        }
        Err(Error::internal(format!(
            "encoder '{}' was opened for {width}x{height} in pixel format {format} and gets {}x{} in {}",
            self.name, raw.width, raw.height, raw.format
        )))
    }

    fn receive(&mut self, sink: &mut dyn FnMut(&Packet) -> Result<()>) -> Result<()> {
        loop {
            // SAFETY: context and packet are valid.
            let code = unsafe {
                ffi::avcodec_receive_packet(self.context.as_ptr(), self.packet.as_mut_ptr())
            };
            if code == ff::error_code(rustix::io::Errno::AGAIN) || code == ffi::AVERROR_EOF {
                return Ok(());
            }
            ff::check(code, &format!("encoder '{}'", self.name))?;
            let counts =
                self.from.is_none_or(|from| self.packet.pts().is_none_or(|pts| pts >= from));
            if counts {
                sink(&self.packet)?;
            }
            self.packet.clear();
        }
    }

    /// The description of the stream that comes out.
    ///
    /// # Errors
    /// Exhausted without memory.
    pub(crate) fn parameters(&self) -> Result<StreamParameters> {
        // SAFETY: the context is open.
        unsafe { StreamParameters::of_encoder(self.context.as_ptr(), self.frame_rate) }
    }
}

fn number(value: u32) -> Result<c_int> {
    c_int::try_from(value).map_err(|_| Error::unsupported(format!("{value} is too large")))
}

fn cannot_open(name: &str, code: c_int, format: &FrameFormat) -> Error {
    let words = ff::describe(code);
    if frameloom_core::needs::is_hardware(name) {
        return Error::unsupported(format!(
            "this machine cannot run encoder '{name}' ({words}): it needs the hardware and its driver; \
             choose another one, like libx264"
        ))
        .with_source(code);
    }
    Error::unsupported(format!(
        "encoder '{name}' does not take {}x{} {} with the options given ({words})",
        format.width,
        format.height,
        format.pixel.name()
    ))
    .with_source(code)
}

impl Encoder {
    /// SVT-AV1 waits for ever where it is closed before it was told of the end, or got no frame.
    fn end_svt(&mut self) -> Result<()> {
        if !self.fed {
            // SAFETY: the context is open; its size and format are those of our frames.
            let (width, height, format) = unsafe {
                let raw = self.context.as_ref();
                (raw.width.unsigned_abs(), raw.height.unsigned_abs(), raw.pix_fmt)
            };
            let formats = [PixelFormat::Yuv420p, PixelFormat::Yuv420p10];
            if let Some(pixel) = formats.into_iter().find(|pixel| pixel.ffmpeg() == format) {
                let mut blank = Frame::new(pixel, width, height)?;
                for plane in 0..pixel.planes() {
                    blank.plane_mut(plane)?.bytes.fill(0);
                }
                blank.raw_mut().pts = 0;
                self.send(Some(&blank), &mut |_| Ok(()))?;
            }
        }
        self.send(None, &mut |_| Ok(()))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let waits = self.name == "libsvtav1" && !self.ended;
        if let Some(error) = waits.then(|| self.end_svt().err()).flatten() {
            tracing::debug!(%error, "cannot end the encoder");
        }
        let mut context = self.context.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::avcodec_free_context(&mut context) };
    }
}

/// What the rest of the module needs of a table row.
fn preset_of<'a>(spec: &'a EncoderSpec, row: Option<&'a Row>) -> Option<&'a str> {
    spec.preset
        .as_deref()
        .or_else(|| row.and_then(|row| row.preset.as_ref()).map(|preset| preset.default))
}
