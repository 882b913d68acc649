//! `ffmpeg:GRAPH`: a libavfilter graph between a buffer source and a buffer sink of ours.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::catalogue::Params;
use frameloom_core::time::Rational;
use frameloom_core::{Error, Result};

use super::{Filter, graph_rules};
use crate::ff;
use crate::frame::{Frame, FrameFormat, PixelFormat};

/// A graph at work.
pub(super) struct GraphFilter {
    graph: NonNull<ffi::AVFilterGraph>,
    source: *mut ffi::AVFilterContext,
    sink: *mut ffi::AVFilterContext,
    time_base: ffi::AVRational,
    text: String,
}

// SAFETY: the graph is used by one thread at a time, whoever holds it.
unsafe impl Send for GraphFilter {}

impl GraphFilter {
    pub(super) fn build(params: &Params, format: &FrameFormat) -> Result<Box<dyn Filter>> {
        Ok(Box::new(Self::open(params.text("graph")?, format)?))
    }

    /// The format of what comes out, learnt from the configured graph.
    pub(super) fn output(params: &Params, format: &FrameFormat) -> Result<FrameFormat> {
        let graph = Self::open(params.text("graph")?, format)?;
        // SAFETY: the sink belongs to the configured graph.
        let (width, height, number, ratio) = unsafe {
            (
                ffi::av_buffersink_get_w(graph.sink),
                ffi::av_buffersink_get_h(graph.sink),
                ffi::av_buffersink_get_format(graph.sink),
                ffi::av_buffersink_get_sample_aspect_ratio(graph.sink),
            )
        };
        let pixel = PixelFormat::EIGHT_BIT
            .into_iter()
            .chain([PixelFormat::Yuv420p10])
            .find(|pixel| pixel.ffmpeg() as c_int == number)
            .ok_or_else(|| Error::internal(format!("pixel format {number} from a graph")))?;
        Ok(FrameFormat {
            width: width.unsigned_abs(),
            height: height.unsigned_abs(),
            pixel,
            sample_aspect_ratio: Rational::new(ratio.num, ratio.den.max(1)),
            ..format.clone()
        })
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
            Ok(this)
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
        // SAFETY: by contract; lists are null or end with a null `next`.
        unsafe {
            let (Some(input), Some(output)) = (inputs.as_ref(), outputs.as_ref()) else {
                return Err(self.wrong("it needs one input and one output"));
            };
            if !input.next.is_null() || !output.next.is_null() {
                return Err(self.wrong("it has more than one input or output"));
            }
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
            ff::check(code, &format!("graph '{}'", self.text))?;
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
        ff::check(code, &format!("graph '{}'", self.text))?;
        self.pull(out)
    }

    fn finish(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        // SAFETY: the source belongs to the graph; a null frame ends it.
        let code = unsafe { ffi::av_buffersrc_add_frame_flags(self.source, ptr::null_mut(), 0) };
        ff::check(code, &format!("graph '{}'", self.text))?;
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
