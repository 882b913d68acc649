//! `ffmpeg:GRAPH`: a libavfilter graph between a buffer source and a buffer sink of ours.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::catalogue::Params;
use frameloom_core::time::Rational;
use frameloom_core::{Error, ErrorKind, Result};

use super::{Filter, graph_rules};
use crate::ff;
use crate::frame::{Frame, FrameFormat, PixelFormat};

/// A graph at work.
pub(super) struct GraphFilter {
    graph: NonNull<ffi::AVFilterGraph>,
    source: *mut ffi::AVFilterContext,
    sink: *mut ffi::AVFilterContext,
    time_base: ffi::AVRational,
    /// Width, height and pixel format of what comes out.
    shape: (c_int, c_int, c_int),
    text: String,
}

// SAFETY: the graph is used by one thread at a time, whoever holds it.
unsafe impl Send for GraphFilter {}

impl GraphFilter {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Ok(Box::new(Self::open(params.text("graph")?, format)?))
    }

    /// The format of what comes out: size, pixels and shape of the configured graph, and what it
    /// makes of the colour tags and fields of a blank picture.
    pub(super) fn output(params: &Params, format: &FrameFormat) -> Result<FrameFormat> {
        let text = params.text("graph")?;
        let mut graph = Self::open(text, format)?;
        let (width, height, number) = graph.shape;
        // SAFETY: the sink belongs to the configured graph.
        let ratio = unsafe { ffi::av_buffersink_get_sample_aspect_ratio(graph.sink) };
        let pixel = PixelFormat::EIGHT_BIT
            .into_iter()
            .chain([PixelFormat::Yuv420p10])
            .find(|pixel| pixel.ffmpeg() as c_int == number)
            .ok_or_else(|| Error::internal(format!("pixel format {number} from a graph")))?;
        let mixes = height.unsigned_abs() != format.height && graph_rules::mixes_fields(text)?;
        let mut field_order = if mixes { "progressive".into() } else { format.field_order.clone() };
        let mut color = format.color.clone();
        if let Some((before, after)) = graph.try_blank(format)? {
            let (was, is) =
                (crate::color::of_frame(before.raw()), crate::color::of_frame(after.raw()));
            let change = |tag: &mut String, was: String, is: String| {
                if was != is {
                    *tag = is;
                }
            };
            change(&mut color.range, was.range, is.range);
            change(&mut color.primaries, was.primaries, is.primaries);
            change(&mut color.transfer, was.transfer, is.transfer);
            change(&mut color.matrix, was.matrix, is.matrix);
            change(&mut color.chroma_location, was.chroma_location, is.chroma_location);
            let fields = |raw: &ffi::AVFrame| (raw.interlaced_frame != 0, raw.top_field_first != 0);
            if !mixes && fields(before.raw()) != fields(after.raw()) {
                field_order = match fields(after.raw()) {
                    (false, _) => "progressive".into(),
                    (true, true) => "tff".into(),
                    (true, false) => "bff".into(),
                };
            }
        }
        Ok(FrameFormat {
            width: width.unsigned_abs(),
            height: height.unsigned_abs(),
            pixel,
            sample_aspect_ratio: Rational::new(ratio.num, ratio.den.max(1)),
            field_order,
            color,
            ..format.clone()
        })
    }

    /// Sends a blank picture through; answers it and the first one that comes out, if one does.
    fn try_blank(&mut self, format: &FrameFormat) -> Result<Option<(Frame, Frame)>> {
        let mut blank = Frame::new(format.pixel, format.width, format.height)?;
        for plane in 0..format.pixel.planes() {
            blank.plane_mut(plane)?.bytes.fill(0);
        }
        crate::color::tag_frame(blank.raw_mut(), &format.color);
        let raw = blank.raw_mut();
        raw.pts = 0;
        raw.interlaced_frame = c_int::from(format.is_interlaced());
        raw.top_field_first = c_int::from(format.field_order == "tff");
        let mut out = Vec::new();
        self.push(blank.clone(), &mut out)?;
        self.finish(&mut out)?;
        Ok(out.into_iter().next().map(|frame| (blank, frame)))
    }

    /// Tries whether libavfilter can make the graph's filters with their options; whether they can
    /// work depends on the pictures.
    pub(super) fn try_text(text: &str) -> Result<()> {
        graph_rules::footprint(text)?;
        // SAFETY: checked for null; this owns the graph from here on.
        let graph = NonNull::new(unsafe { ffi::avfilter_graph_alloc() });
        let this = Self {
            graph: graph.ok_or_else(ff::out_of_memory)?,
            source: ptr::null_mut(),
            sink: ptr::null_mut(),
            time_base: ffi::AVRational { num: 1, den: 1 },
            shape: (0, 0, 0),
            text: text.to_owned(),
        };
        let c_text = ff::c_string(text)?;
        let (mut inputs, mut outputs) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the graph is new; the lists are read and freed here.
        unsafe {
            let code = ffi::avfilter_graph_parse2(
                this.graph.as_ptr(),
                c_text.as_ptr(),
                &mut inputs,
                &mut outputs,
            );
            let tried = if code < 0 {
                Err(this.wrong(&ff::describe(code)))
            } else {
                this.ends(inputs, outputs).map(drop)
            };
            ffi::avfilter_inout_free(&mut inputs);
            ffi::avfilter_inout_free(&mut outputs);
            tried
        }
    }

    /// The one input and the one output of a graph.
    ///
    /// # Safety
    /// The lists are those of the parsed graph.
    #[expect(unsafe_code, reason = "reads FFmpeg's lists")]
    unsafe fn ends<'a>(
        &self,
        inputs: *const ffi::AVFilterInOut,
        outputs: *const ffi::AVFilterInOut,
    ) -> Result<(&'a ffi::AVFilterInOut, &'a ffi::AVFilterInOut)> {
        // SAFETY: by contract; lists are null or end with a null `next`.
        let (Some(input), Some(output)) = (unsafe { inputs.as_ref() }, unsafe { outputs.as_ref() })
        else {
            return Err(self.wrong("it needs one input and one output"));
        };
        if !input.next.is_null() || !output.next.is_null() {
            return Err(self.wrong("it has more than one input or output"));
        }
        Ok((input, output))
    }

    fn open(text: &str, format: &FrameFormat) -> Result<Self> {
        graph_rules::footprint(text)?;
        let c_text = ff::c_string(text)?;
        let base = format.time_base;
        let time_base = ffi::AVRational { num: base.num(), den: base.den() };
        // SAFETY: all contexts belong to the graph, which Drop frees; strings live for each call;
        // the lists of inputs and outputs are freed here.
        unsafe {
            let graph = NonNull::new(ffi::avfilter_graph_alloc()).ok_or_else(ff::out_of_memory)?;
            let mut this = Self {
                graph,
                source: ptr::null_mut(),
                sink: ptr::null_mut(),
                time_base,
                shape: (0, 0, 0),
                text: text.to_owned(),
            };
            (*graph.as_ptr()).nb_threads = 1;
            // What ffmpeg's command line scales with where a graph needs another pixel format.
            let flags = ff::c_string("flags=bicubic")?;
            (*graph.as_ptr()).scale_sws_opts = ffi::av_strdup(flags.as_ptr());
            let args = format!(
                "video_size={}x{}:pix_fmt={}:time_base={}/{}:pixel_aspect={}/{}:frame_rate={}/{}",
                format.width,
                format.height,
                format.pixel.ffmpeg() as c_int,
                base.num(),
                base.den(),
                format.sample_aspect_ratio.num,
                format.sample_aspect_ratio.den.max(1),
                format.frame_rate.num,
                format.frame_rate.den.max(1),
            );
            this.source = this.add("buffer", &args)?;
            this.sink = this.add("buffersink", "")?;
            let mut takes: Vec<i32> = if format.pixel == PixelFormat::Yuv420p10 {
                vec![PixelFormat::Yuv420p10.ffmpeg() as i32]
            } else {
                PixelFormat::EIGHT_BIT.iter().map(|pixel| pixel.ffmpeg() as i32).collect()
            };
            takes.push(ffi::AVPixelFormat::AV_PIX_FMT_NONE as i32);
            let code = ffi::av_opt_set_bin(
                this.sink.cast(),
                c"pix_fmts".as_ptr(),
                takes.as_ptr().cast(),
                c_int::try_from((takes.len() - 1) * 4).unwrap_or(0),
                ffi::AV_OPT_SEARCH_CHILDREN as c_int,
            );
            ff::check(code, "buffer sink")?;
            let (mut inputs, mut outputs) = (ptr::null_mut(), ptr::null_mut());
            let code = ffi::avfilter_graph_parse2(
                graph.as_ptr(),
                c_text.as_ptr(),
                &mut inputs,
                &mut outputs,
            );
            let linked = if code < 0 {
                Err(this.wrong(&ff::describe(code)))
            } else {
                this.link(inputs, outputs)
            };
            ffi::avfilter_inout_free(&mut inputs);
            ffi::avfilter_inout_free(&mut outputs);
            linked?;
            let code = ffi::avfilter_graph_config(graph.as_ptr(), ptr::null_mut());
            if code < 0 {
                return Err(this.wrong(&ff::describe(code)));
            }
            this.shape = (
                ffi::av_buffersink_get_w(this.sink),
                ffi::av_buffersink_get_h(this.sink),
                ffi::av_buffersink_get_format(this.sink),
            );
            Ok(this)
        }
    }

    /// What a graph cannot do with its frames is a fault of the graph.
    fn check(&self, code: c_int) -> Result<()> {
        match ff::check(code, "graph") {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Exhausted => Err(error),
            Err(_) => Err(self.wrong(&ff::describe(code))),
        }
    }

    fn wrong(&self, why: &str) -> Error {
        Error::invalid(format!("graph '{}': {why}; try it with ffmpeg -vf", self.text))
    }

    /// Links the graph's one input and one output.
    ///
    /// # Safety
    /// The lists are those of the parsed graph.
    #[expect(unsafe_code, reason = "links FFmpeg's filters")]
    unsafe fn link(
        &self,
        inputs: *const ffi::AVFilterInOut,
        outputs: *const ffi::AVFilterInOut,
    ) -> Result<()> {
        // SAFETY: by contract.
        unsafe {
            let (input, output) = self.ends(inputs, outputs)?;
            let pad = |pad: c_int| pad.unsigned_abs();
            let code = ffi::avfilter_link(self.source, 0, input.filter_ctx, pad(input.pad_idx));
            ff::check(code, "graph")?;
            let code = ffi::avfilter_link(output.filter_ctx, pad(output.pad_idx), self.sink, 0);
            if code < 0 { Err(self.wrong("its output is no video")) } else { Ok(()) }
        }
    }

    /// Adds a filter.
    ///
    /// # Safety
    /// The graph is valid and not configured yet.
    #[expect(unsafe_code, reason = "builds FFmpeg's graph")]
    unsafe fn add(&self, name: &str, args: &str) -> Result<*mut ffi::AVFilterContext> {
        let (c_name, c_args) = (ff::c_string(name)?, ff::c_string(args)?);
        let mut context = ptr::null_mut();
        // SAFETY: by contract.
        let code = unsafe {
            ffi::avfilter_graph_create_filter(
                &mut context,
                ffi::avfilter_get_by_name(c_name.as_ptr()),
                c_name.as_ptr(),
                c_args.as_ptr(),
                ptr::null_mut(),
                self.graph.as_ptr(),
            )
        };
        ff::check(code, &format!("filter '{name}'"))?;
        Ok(context)
    }

    fn pull(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        loop {
            let mut frame = Frame::empty()?;
            // SAFETY: the sink belongs to the graph.
            let code = unsafe { ffi::av_buffersink_get_frame(self.sink, frame.as_mut_ptr()) };
            if code == ff::error_code(rustix::io::Errno::AGAIN) || code == ffi::AVERROR_EOF {
                return Ok(());
            }
            self.check(code)?;
            let raw = frame.raw();
            if (raw.width, raw.height, raw.format) != self.shape {
                return Err(Error::unsupported(format!(
                    "graph '{}': its pictures change from {}x{} to {}x{} on the way; a video has one size",
                    self.text, self.shape.0, self.shape.1, raw.width, raw.height
                )));
            }
            // SAFETY: the sink is configured; plain arithmetic.
            unsafe {
                let base = ffi::av_buffersink_get_time_base(self.sink);
                let raw = frame.raw_mut();
                raw.pts = ffi::av_rescale_q(raw.pts, base, self.time_base);
                raw.pict_type = ffi::AVPictureType::AV_PICTURE_TYPE_NONE;
            }
            out.push(upright(frame)?);
        }
    }
}

/// `vflip` answers planes that are stored upside down: such a frame is copied.
fn upright(frame: Frame) -> Result<Frame> {
    let raw = frame.raw();
    if raw.linesize[..3].iter().all(|stride| *stride >= 0) {
        return Ok(frame);
    }
    let mut copy = frame.new_like(frame.pixel()?, frame.width(), frame.height())?;
    // SAFETY: both frames are valid, of one size and format.
    let code = unsafe { ffi::av_frame_copy(copy.as_mut_ptr(), frame.as_ptr()) };
    ff::check(code, "cannot copy a frame")?;
    Ok(copy)
}

impl Filter for GraphFilter {
    fn push(&mut self, mut frame: Frame, out: &mut Vec<Frame>) -> Result<()> {
        // SAFETY: the source belongs to the graph, which takes the frame's references.
        let code = unsafe { ffi::av_buffersrc_add_frame_flags(self.source, frame.as_mut_ptr(), 0) };
        self.check(code)?;
        self.pull(out)
    }

    fn finish(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        // SAFETY: the source belongs to the graph; a null frame ends it.
        let code = unsafe { ffi::av_buffersrc_add_frame_flags(self.source, ptr::null_mut(), 0) };
        self.check(code)?;
        self.pull(out)
    }
}

impl Drop for GraphFilter {
    fn drop(&mut self) {
        let mut graph = self.graph.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::avfilter_graph_free(&mut graph) };
    }
}
