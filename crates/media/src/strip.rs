//! A few small frames as a moving picture: animated GIF, animated WebP or MP4.

use std::ffi::{CStr, c_int};
use std::fs::File;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::{Error, Result};

use crate::ff::{self, Dict, Packet};
use crate::frame::Frame;
use crate::io_out::Output;
use crate::preview;

/// Frames a second.
const RATE: c_int = 6;

/// GIF has 256 colours: the best ones for these frames, and ordered dots between them.
const PALETTE: &CStr = c"split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=bayer:bayer_scale=3";

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Animated GIF that begins anew for ever.
    Gif,
    /// Animated WebP that begins anew for ever.
    Webp,
    /// H.264 in MP4.
    Mp4,
}

const BASE: ffi::AVRational = ffi::AVRational { num: 1, den: RATE };

/// Writes `frames`, which are all of one size and format; answers the size in bytes.
///
/// # Errors
/// Unsupported where there is no frame; of FFmpeg; of writing.
pub(crate) fn write(frames: &[Frame], form: Form, out: File) -> Result<u64> {
    let Some(first) = frames.first() else {
        return Err(Error::unsupported("the video has no frame to show"));
    };
    let mut numbered = Vec::new();
    for (pts, frame) in (0..).zip(frames) {
        let mut frame = frame.clone();
        frame.raw_mut().pts = pts;
        frame.raw_mut().pict_type = ffi::AVPictureType::AV_PICTURE_TYPE_NONE;
        numbered.push(frame);
    }
    let shape = first.raw();
    match form {
        Form::Mp4 => {
            let coder = Coder::open(c"libx264", shape, ffi::AVPixelFormat::AV_PIX_FMT_YUV420P)?;
            mux(c"mp4", Some(("movflags", "+faststart")), coder, numbered, out)
        }
        Form::Gif => {
            let coder = Coder::open(c"gif", shape, ffi::AVPixelFormat::AV_PIX_FMT_PAL8)?;
            mux(c"gif", None, coder, through(PALETTE, numbered)?, out)
        }
        Form::Webp => {
            // It knows limited range alone, and does not say so.
            let limited: Vec<Frame> =
                numbered.iter().map(preview::limited).collect::<Result<_>>()?;
            let shape = limited.first().map_or(shape, Frame::raw);
            let pixel = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P;
            let coder = Coder::open(c"libwebp_anim", shape, pixel)?;
            mux(c"webp", Some(("loop", "0")), coder, limited, out)
        }
    }
}

/// An encoder.
struct Coder(NonNull<ffi::AVCodecContext>);

impl Coder {
    fn open(name: &CStr, shape: &ffi::AVFrame, pixel: ffi::AVPixelFormat) -> Result<Self> {
        // SAFETY: C strings; the codec is checked for null; the context is freed by Drop.
        unsafe {
            let codec = ffi::avcodec_find_encoder_by_name(name.as_ptr());
            if codec.is_null() {
                return Err(Error::unsupported(format!(
                    "the installed FFmpeg has no encoder '{}'",
                    name.to_string_lossy()
                )));
            }
            let context = NonNull::new(ffi::avcodec_alloc_context3(codec));
            let mut this = Self(context.ok_or_else(ff::out_of_memory)?);
            let raw = this.0.as_mut();
            (raw.width, raw.height, raw.pix_fmt) = (shape.width, shape.height, pixel);
            (raw.time_base, raw.framerate) = (BASE, ffi::AVRational { num: RATE, den: 1 });
            raw.color_range = shape.color_range;
            raw.thread_count = 1;
            raw.flags |= (ffi::AV_CODEC_FLAG_GLOBAL_HEADER | ffi::AV_CODEC_FLAG_BITEXACT) as c_int;
            ff::check(ffi::avcodec_open2(raw, codec, ptr::null_mut()), "an encoder of pictures")?;
            Ok(this)
        }
    }

    /// Encodes a frame, or with `None` what is left.
    fn send(
        &mut self,
        frame: Option<&Frame>,
        sink: &mut dyn FnMut(&mut Packet) -> Result<()>,
    ) -> Result<()> {
        let raw = frame.map_or(ptr::null(), Frame::as_ptr);
        let mut packet = Packet::new()?;
        // SAFETY: context, frame and packet are valid.
        unsafe {
            ff::check(ffi::avcodec_send_frame(self.0.as_ptr(), raw), "cannot encode a picture")?;
            while ffi::avcodec_receive_packet(self.0.as_ptr(), packet.as_mut_ptr()) >= 0 {
                sink(&mut packet)?;
            }
        }
        Ok(())
    }
}

impl Drop for Coder {
    fn drop(&mut self) {
        let mut context = self.0.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::avcodec_free_context(&mut context) };
    }
}

/// A muxer, freed whatever happens.
struct Muxer(NonNull<ffi::AVFormatContext>);

impl Drop for Muxer {
    fn drop(&mut self) {
        // SAFETY: owned and freed once; the AVIO stays for its Output to free.
        unsafe { ffi::avformat_free_context(self.0.as_ptr()) };
    }
}

fn mux(
    name: &CStr,
    option: Option<(&str, &str)>,
    mut coder: Coder,
    frames: Vec<Frame>,
    out: File,
) -> Result<u64> {
    let mut output = Output::new(out)?;
    // SAFETY: C strings; everything is checked for null; the stream belongs to the muxer.
    let (muxer, base) = unsafe {
        let mut context = ptr::null_mut();
        let code = ffi::avformat_alloc_output_context2(
            &mut context,
            ptr::null_mut(),
            name.as_ptr(),
            c"output".as_ptr(),
        );
        ff::check(code, "cannot write pictures")?;
        let mut muxer = Muxer(NonNull::new(context).ok_or_else(ff::out_of_memory)?);
        let raw = muxer.0.as_mut();
        output.attach(raw);
        raw.flags |= ffi::AVFMT_FLAG_BITEXACT as c_int;
        let stream = ffi::avformat_new_stream(context, ptr::null()).as_mut();
        let stream = stream.ok_or_else(ff::out_of_memory)?;
        let code = ffi::avcodec_parameters_from_context(stream.codecpar, coder.0.as_ptr());
        ff::check(code, "parameters")?;
        stream.time_base = BASE;
        let mut options = Dict::default();
        if let Some((key, value)) = option {
            options.set(key, value)?;
        }
        let code = ffi::avformat_write_header(context, options.as_mut_ptr());
        ff::check(code, "cannot begin a file of pictures")?;
        (muxer, stream.time_base)
    };
    let mut sink = |packet: &mut Packet| {
        packet.raw_mut().duration = 1;
        // SAFETY: the header was written; the packet is ours and emptied by FFmpeg.
        let code = unsafe {
            ffi::av_packet_rescale_ts(packet.as_mut_ptr(), BASE, base);
            ffi::av_interleaved_write_frame(muxer.0.as_ptr(), packet.as_mut_ptr())
        };
        ff::check(code, "cannot write a picture").map(drop)
    };
    for frame in &frames {
        coder.send(Some(frame), &mut sink)?;
    }
    coder.send(None, &mut sink)?;
    // SAFETY: the header was written.
    let code = unsafe { ffi::av_write_trailer(muxer.0.as_ptr()) };
    output.fail()?;
    ff::check(code, "cannot end a file of pictures")?;
    output.finish()
}

/// A filter graph, freed whatever happens.
struct Graph(NonNull<ffi::AVFilterGraph>);

impl Drop for Graph {
    fn drop(&mut self) {
        let mut graph = self.0.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::avfilter_graph_free(&mut graph) };
    }
}

/// A picture of full range as PNG.
///
/// # Errors
/// Of FFmpeg.
pub(crate) fn png(frame: &Frame) -> Result<Vec<u8>> {
    let frames = through(c"format=rgb24", vec![frame.clone()])?;
    let [picture] = frames.as_slice() else {
        return Err(Error::internal("a picture that came out as none or many"));
    };
    let mut coder = Coder::open(c"png", picture.raw(), ffi::AVPixelFormat::AV_PIX_FMT_RGB24)?;
    let mut bytes = Vec::new();
    let mut sink = |packet: &mut Packet| {
        bytes.extend_from_slice(packet.data());
        Ok(())
    };
    coder.send(Some(picture), &mut sink)?;
    coder.send(None, &mut sink)?;
    Ok(bytes)
}

/// The frames, which are of full range, as they come out of a graph.
fn through(graph_text: &CStr, mut frames: Vec<Frame>) -> Result<Vec<Frame>> {
    for frame in &mut frames {
        // Between filters only this format tells of the range.
        frame.raw_mut().format = ffi::AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int;
    }
    let Some(first) = frames.first() else { return Ok(frames) };
    let shape = first.raw();
    let args = format!(
        "video_size={}x{}:pix_fmt={}:time_base=1/{RATE}:pixel_aspect=1/1",
        shape.width, shape.height, shape.format
    );
    let args = ff::c_string(&args)?;
    let mut out = Vec::new();
    // SAFETY: all contexts belong to the graph, which Drop frees; the lists are freed here.
    unsafe {
        let graph = Graph(NonNull::new(ffi::avfilter_graph_alloc()).ok_or_else(ff::out_of_memory)?);
        (*graph.0.as_ptr()).nb_threads = 1;
        let add = |name: &CStr, args: &CStr| {
            let mut context = ptr::null_mut();
            let code = ffi::avfilter_graph_create_filter(
                &mut context,
                ffi::avfilter_get_by_name(name.as_ptr()),
                name.as_ptr(),
                args.as_ptr(),
                ptr::null_mut(),
                graph.0.as_ptr(),
            );
            ff::check(code, "a filter of pictures").map(|_| context)
        };
        let (source, sink) = (add(c"buffer", &args)?, add(c"buffersink", c"")?);
        let (mut inputs, mut outputs) = (ptr::null_mut(), ptr::null_mut());
        let text = graph_text.as_ptr();
        let code = ffi::avfilter_graph_parse2(graph.0.as_ptr(), text, &mut inputs, &mut outputs);
        let linked = ff::check(code, "a graph of pictures").and_then(|_| {
            let (Some(input), Some(output)) = (inputs.as_ref(), outputs.as_ref()) else {
                return Err(Error::internal("a graph without ends"));
            };
            let pad = |pad: c_int| pad.unsigned_abs();
            ff::check(
                ffi::avfilter_link(source, 0, input.filter_ctx, pad(input.pad_idx)),
                "a graph of pictures",
            )?;
            ff::check(
                ffi::avfilter_link(output.filter_ctx, pad(output.pad_idx), sink, 0),
                "a graph of pictures",
            )
        });
        ffi::avfilter_inout_free(&mut inputs);
        ffi::avfilter_inout_free(&mut outputs);
        linked?;
        ff::check(
            ffi::avfilter_graph_config(graph.0.as_ptr(), ptr::null_mut()),
            "a graph of pictures",
        )?;
        for mut frame in frames {
            let code = ffi::av_buffersrc_add_frame_flags(source, frame.as_mut_ptr(), 0);
            ff::check(code, "a graph of pictures")?;
        }
        ff::check(
            ffi::av_buffersrc_add_frame_flags(source, ptr::null_mut(), 0),
            "a graph of pictures",
        )?;
        loop {
            let mut frame = Frame::empty()?;
            let code = ffi::av_buffersink_get_frame(sink, frame.as_mut_ptr());
            if code < 0 {
                return if code == ffi::AVERROR_EOF {
                    Ok(out)
                } else {
                    Err(ff::error(code, "a graph of pictures"))
                };
            }
            out.push(frame);
        }
    }
}
