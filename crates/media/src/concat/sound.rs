//! Sound in another codec: decoded, made to fit the encoder, encoded.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::Result;

use super::passenger::{Codec, opened};
use crate::ff::{self, Packet};
use crate::frame::Frame;

/// Hands on a packet with the time base it is in.
type Sink<'a> = dyn FnMut(&mut Packet, ffi::AVRational) -> Result<()> + 'a;

/// What a filter graph's input is made for.
#[derive(Clone, PartialEq, Eq)]
struct Shape {
    rate: c_int,
    format: c_int,
    layout: String,
}

impl Shape {
    fn of(raw: &ffi::AVFrame) -> Self {
        Self { rate: raw.sample_rate, format: raw.format, layout: layout(&raw.ch_layout) }
    }
}

/// Sound: decoder, converter, encoder.
pub(super) struct Sound {
    decoder: Codec,
    encoder: Codec,
    base: ffi::AVRational,
    /// From what the decoder gives, which may change on the way, to what the encoder takes.
    converter: Option<(Shape, Graph)>,
    /// Into frames of the encoder's size.
    cutter: Option<Graph>,
    frame: Frame,
    packet: Packet,
}

impl Sound {
    /// Opens decoder and encoder, and fills the output stream's parameters.
    ///
    /// # Errors
    /// Unsupported where one of them cannot work with the stream.
    pub(super) fn open(
        name: &str,
        stream: &ffi::AVStream,
        to: &mut ffi::AVCodecParameters,
    ) -> Result<Self> {
        let decoder = Codec::decoder(stream)?;
        // SAFETY: a stream has parameters.
        let from = unsafe { &*stream.codecpar };
        let encoder = match open_encoder(name, from, false) {
            // An encoder takes two channels whatever it makes of more.
            Err(_) if from.ch_layout.nb_channels > 2 => open_encoder(name, from, true)?,
            opened => opened?,
        };
        let mut sound = Self {
            decoder,
            encoder,
            base: stream.time_base,
            converter: None,
            cutter: None,
            frame: Frame::empty()?,
            packet: Packet::new()?,
        };
        // SAFETY: the encoder is open.
        let code = unsafe { ffi::avcodec_parameters_from_context(to, sound.encoder.raw()) };
        ff::check(code, "parameters")?;
        Ok(sound)
    }

    /// Seconds a tick of what comes out.
    pub(super) fn time_base(&mut self) -> ffi::AVRational {
        self.encoder.raw().time_base
    }

    /// Takes a packet (`None`: there are no more).
    ///
    /// # Errors
    /// Those of `sink`; of the encoder.
    pub(super) fn packet(&mut self, packet: Option<&Packet>, sink: &mut Sink<'_>) -> Result<()> {
        let raw = packet.map_or(ptr::null(), Packet::as_ptr);
        // SAFETY: context and packet are valid. A damaged packet is passed over, as ffmpeg does.
        let _: c_int = unsafe { ffi::avcodec_send_packet(self.decoder.raw(), raw) };
        // SAFETY: context and frame are valid.
        while unsafe { ffi::avcodec_receive_frame(self.decoder.raw(), self.frame.as_mut_ptr()) }
            >= 0
        {
            let pts = self.frame.raw().best_effort_timestamp;
            self.frame.raw_mut().pts = pts;
            let shape = Shape::of(self.frame.raw());
            if self.converter.as_ref().is_some_and(|(known, _)| *known != shape) {
                self.end_converter(sink)?;
            }
            if self.converter.is_none() {
                let graph = Graph::convert(&shape, self.base, self.encoder.raw())?;
                self.converter = Some((shape, graph));
            }
            if let Some((_, graph)) = &mut self.converter {
                graph.push(Some(&mut self.frame))?;
            }
            self.convert(sink)?;
        }
        if packet.is_none() {
            self.end_converter(sink)?;
            if let Some(cutter) = &mut self.cutter {
                cutter.push(None)?;
            }
            self.encode(sink)?;
            self.send(None, sink)?;
        }
        Ok(())
    }

    /// Takes what is left in the converter, which is made anew for what comes next.
    fn end_converter(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        if let Some((_, graph)) = &mut self.converter {
            graph.push(None)?;
        }
        self.convert(sink)?;
        self.converter = None;
        Ok(())
    }

    /// Takes what the converter has.
    fn convert(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let base = self.time_base();
        while let Some((_, graph)) = &mut self.converter {
            let Some(mut frame) = graph.pull(base)? else { break };
            if self.cutter.is_none() {
                self.cutter = Some(Graph::cut(self.encoder.raw())?);
            }
            if let Some(cutter) = &mut self.cutter {
                cutter.push(Some(&mut frame))?;
            }
            self.encode(sink)?;
        }
        Ok(())
    }

    fn encode(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let base = self.time_base();
        while let Some(cutter) = &mut self.cutter {
            let Some(frame) = cutter.pull(base)? else { break };
            self.send(Some(&frame), sink)?;
        }
        Ok(())
    }

    fn send(&mut self, frame: Option<&Frame>, sink: &mut Sink<'_>) -> Result<()> {
        let base = self.time_base();
        let raw = frame.map_or(ptr::null(), Frame::as_ptr);
        // SAFETY: context and frame are valid.
        let code = unsafe { ffi::avcodec_send_frame(self.encoder.raw(), raw) };
        if code != ffi::AVERROR_EOF {
            ff::check(code, "cannot encode sound")?;
        }
        // SAFETY: context and packet are valid.
        while unsafe { ffi::avcodec_receive_packet(self.encoder.raw(), self.packet.as_mut_ptr()) }
            >= 0
        {
            sink(&mut self.packet, base)?;
        }
        Ok(())
    }
}

/// The encoder, for what is nearest to the source among what it takes; `stereo` for two channels.
fn open_encoder(name: &str, from: &ffi::AVCodecParameters, stereo: bool) -> Result<Codec> {
    let (mut encoder, codec) = Codec::find_encoder(name)?;
    // SAFETY: parameters and codec are valid; the codec's lists are null or end with their marks.
    unsafe {
        let raw = encoder.raw();
        raw.sample_rate = nearest_rate(&*codec, from.sample_rate);
        let formats = (*codec).sample_fmts;
        raw.sample_fmt =
            if formats.is_null() { ffi::AVSampleFormat::AV_SAMPLE_FMT_FLTP } else { *formats };
        if stereo {
            ffi::av_channel_layout_default(&mut raw.ch_layout, 2);
        } else {
            let code = ffi::av_channel_layout_copy(&mut raw.ch_layout, &from.ch_layout);
            ff::check(code, "channel layout")?;
        }
        if raw.ch_layout.order == ffi::AVChannelOrder::AV_CHANNEL_ORDER_UNSPEC {
            let channels = raw.ch_layout.nb_channels;
            ffi::av_channel_layout_default(&mut raw.ch_layout, channels);
        }
        raw.time_base = ffi::AVRational { num: 1, den: raw.sample_rate };
        raw.flags |= (ffi::AV_CODEC_FLAG_GLOBAL_HEADER | ffi::AV_CODEC_FLAG_BITEXACT) as c_int;
        raw.thread_count = 1;
        let code = ffi::avcodec_open2(raw, codec, ptr::null_mut());
        opened(code, &format!("encoder '{name}'"))?;
    }
    Ok(encoder)
}

/// The least of the codec's sample rates that loses nothing, or else its greatest.
///
/// # Safety
/// The codec is one of FFmpeg's.
#[expect(unsafe_code, reason = "reads FFmpeg's list")]
unsafe fn nearest_rate(codec: &ffi::AVCodec, rate: c_int) -> c_int {
    let mut rates = Vec::new();
    // SAFETY: the list is null or ends with 0.
    unsafe {
        let mut at = codec.supported_samplerates;
        while !at.is_null() && *at != 0 {
            rates.push(*at);
            at = at.add(1);
        }
    }
    if rates.is_empty() {
        return rate;
    }
    let enough = rates.iter().copied().filter(|known| *known >= rate).min();
    enough.or(rates.iter().copied().max()).unwrap_or(rate)
}

/// A filter graph of sound, one step.
struct Graph {
    graph: NonNull<ffi::AVFilterGraph>,
    source: *mut ffi::AVFilterContext,
    sink: *mut ffi::AVFilterContext,
}

// SAFETY: the graph is used by one thread at a time, whoever holds it.
unsafe impl Send for Graph {}

impl Graph {
    /// Makes sound of `shape` what the encoder takes.
    fn convert(
        shape: &Shape,
        base: ffi::AVRational,
        encoder: &ffi::AVCodecContext,
    ) -> Result<Self> {
        let args = format!(
            "sample_fmts={}:sample_rates={}:channel_layouts={}",
            format_name(encoder.sample_fmt as c_int),
            encoder.sample_rate,
            layout(&encoder.ch_layout),
        );
        Self::open(shape, base, "aformat", &args)
    }

    /// Cuts sound into frames of the encoder's size.
    fn cut(encoder: &ffi::AVCodecContext) -> Result<Self> {
        let shape = Shape {
            rate: encoder.sample_rate,
            format: encoder.sample_fmt as c_int,
            layout: layout(&encoder.ch_layout),
        };
        if encoder.frame_size > 0 {
            let args = format!("n={}:p=0", encoder.frame_size);
            return Self::open(&shape, encoder.time_base, "asetnsamples", &args);
        }
        Self::open(&shape, encoder.time_base, "anull", "")
    }

    fn open(shape: &Shape, base: ffi::AVRational, name: &str, args: &str) -> Result<Self> {
        // SAFETY: all contexts belong to the graph, which Drop frees; strings live for each call.
        unsafe {
            let graph = NonNull::new(ffi::avfilter_graph_alloc()).ok_or_else(ff::out_of_memory)?;
            let mut this = Self { graph, source: ptr::null_mut(), sink: ptr::null_mut() };
            (*graph.as_ptr()).nb_threads = 1;
            let input = format!(
                "time_base={}/{}:sample_rate={}:sample_fmt={}:channel_layout={}",
                base.num,
                base.den,
                shape.rate,
                format_name(shape.format),
                shape.layout,
            );
            this.source = this.add("abuffer", &input)?;
            let step = this.add(name, args)?;
            this.sink = this.add("abuffersink", "")?;
            ff::check(ffi::avfilter_link(this.source, 0, step, 0), "sound")?;
            ff::check(ffi::avfilter_link(step, 0, this.sink, 0), "sound")?;
            ff::check(ffi::avfilter_graph_config(graph.as_ptr(), ptr::null_mut()), "sound")?;
            Ok(this)
        }
    }

    /// Adds a filter.
    ///
    /// # Safety
    /// The graph is valid and not configured yet.
    #[expect(unsafe_code, reason = "builds FFmpeg's graph")]
    unsafe fn add(&mut self, name: &str, args: &str) -> Result<*mut ffi::AVFilterContext> {
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

    fn push(&mut self, frame: Option<&mut Frame>) -> Result<()> {
        let raw = frame.map_or(ptr::null_mut(), Frame::as_mut_ptr);
        // SAFETY: the source belongs to the graph; a null frame ends it.
        let code = unsafe { ffi::av_buffersrc_add_frame_flags(self.source, raw, 0) };
        ff::check(code, "cannot convert sound").map(drop)
    }

    /// The next frame, its time in ticks of `base`.
    fn pull(&mut self, base: ffi::AVRational) -> Result<Option<Frame>> {
        let mut frame = Frame::empty()?;
        // SAFETY: the sink belongs to the graph.
        let code = unsafe { ffi::av_buffersink_get_frame(self.sink, frame.as_mut_ptr()) };
        if code == ff::error_code(rustix::io::Errno::AGAIN) || code == ffi::AVERROR_EOF {
            return Ok(None);
        }
        ff::check(code, "cannot convert sound")?;
        if let Some(pts) = ff::known(frame.raw().pts) {
            // SAFETY: the sink is configured; plain arithmetic.
            frame.raw_mut().pts = unsafe {
                ffi::av_rescale_q(pts, ffi::av_buffersink_get_time_base(self.sink), base)
            };
        }
        Ok(Some(frame))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let mut graph = self.graph.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::avfilter_graph_free(&mut graph) };
    }
}

/// FFmpeg's name of a sample format.
fn format_name(format: c_int) -> String {
    // SAFETY: one of FFmpeg's numbers; null for unknown ones.
    unsafe {
        let format: ffi::AVSampleFormat = std::mem::transmute::<c_int, _>(format);
        ff::text(ffi::av_get_sample_fmt_name(format))
    }
}

/// A channel layout by FFmpeg's name.
fn layout(layout: &ffi::AVChannelLayout) -> String {
    let mut buffer = [0; 128];
    // SAFETY: the buffer is writable for the length given, and FFmpeg ends it with a NUL.
    unsafe {
        ffi::av_channel_layout_describe(layout, buffer.as_mut_ptr(), buffer.len());
        ff::text(buffer.as_ptr())
    }
}
