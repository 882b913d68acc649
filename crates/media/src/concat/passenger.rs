//! Streams that travel beside the video: copied bit for bit, or converted where the output's
//! container does not hold them.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::{Error, Result};

use crate::ff::{self, Packet};
use crate::frame::Frame;

/// An encoder or decoder of FFmpeg.
struct Codec(NonNull<ffi::AVCodecContext>);

// SAFETY: the context is used by one thread at a time, whoever holds it.
unsafe impl Send for Codec {}

impl Codec {
    fn decoder(stream: &ffi::AVStream) -> Result<Self> {
        // SAFETY: a stream has parameters; the context is freed by Drop.
        unsafe {
            let codec = ffi::avcodec_find_decoder((*stream.codecpar).codec_id);
            let context = NonNull::new(ffi::avcodec_alloc_context3(codec));
            let this = Self(context.ok_or_else(ff::out_of_memory)?);
            let raw = this.0.as_ptr();
            ff::check(ffi::avcodec_parameters_to_context(raw, stream.codecpar), "parameters")?;
            (*raw).pkt_timebase = stream.time_base;
            ff::check(ffi::avcodec_open2(raw, codec, ptr::null_mut()), "cannot open a decoder")?;
            Ok(this)
        }
    }

    fn find_encoder(name: &str) -> Result<(Self, *const ffi::AVCodec)> {
        let c_name = ff::c_string(name)?;
        // SAFETY: a C string; the context is freed by Drop.
        unsafe {
            let codec = ffi::avcodec_find_encoder_by_name(c_name.as_ptr());
            if codec.is_null() {
                return Err(Error::unsupported(format!(
                    "the installed FFmpeg has no encoder '{name}', which this stream needs"
                )));
            }
            let context = NonNull::new(ffi::avcodec_alloc_context3(codec));
            Ok((Self(context.ok_or_else(ff::out_of_memory)?), codec))
        }
    }

    fn raw(&mut self) -> &mut ffi::AVCodecContext {
        // SAFETY: owned.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Codec {
    fn drop(&mut self) {
        let mut context = self.0.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::avcodec_free_context(&mut context) };
    }
}

/// What is done with the packets of a stream.
pub(super) enum Passenger {
    /// They are copied.
    Copy,
    /// A cover picture, which the container keeps as an attachment.
    Cover,
    /// Sound is decoded and encoded anew.
    Audio(Box<Audio>),
    /// Subtitles are turned into another text format.
    Subtitle(Box<Subtitle>),
}

impl Passenger {
    /// Fills the output stream's parameters and time base, and makes ready.
    pub(super) fn open(
        encoder: Option<&str>,
        stream: &ffi::AVStream,
        out: &mut ffi::AVStream,
    ) -> Result<Self> {
        // SAFETY: both streams have parameters.
        let (from, to) = unsafe { (&*stream.codecpar, &mut *out.codecpar) };
        let Some(encoder) = encoder else {
            // SAFETY: both are valid.
            ff::check(unsafe { ffi::avcodec_parameters_copy(to, from) }, "parameters")?;
            to.codec_tag = 0;
            out.time_base = stream.time_base;
            return Ok(Self::Copy);
        };
        if from.codec_type == ffi::AVMediaType::AVMEDIA_TYPE_SUBTITLE {
            let subtitle = Subtitle::open(encoder, stream, to)?;
            out.time_base = ffi::AVRational { num: 1, den: 1000 };
            return Ok(Self::Subtitle(Box::new(subtitle)));
        }
        let mut audio = Audio::open(encoder, stream, to)?;
        out.time_base = audio.encoder.raw().time_base;
        Ok(Self::Audio(Box::new(audio)))
    }

    /// Makes an attachment of a cover picture, as Matroska keeps it.
    pub(super) fn cover(stream: &ffi::AVStream, out: &mut ffi::AVStream) -> Result<Self> {
        // SAFETY: both streams have parameters; a cover's packet holds `size` bytes, which are
        // copied into extradata with FFmpeg's padding.
        unsafe {
            let (from, to) = (&*stream.codecpar, &mut *out.codecpar);
            let picture = &stream.attached_pic;
            let size = usize::try_from(picture.size).unwrap_or(0);
            let bytes = size + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
            let data = ffi::av_mallocz(bytes).cast::<u8>();
            if data.is_null() {
                return Err(ff::out_of_memory());
            }
            ptr::copy_nonoverlapping(picture.data, data, size);
            to.codec_type = ffi::AVMediaType::AVMEDIA_TYPE_ATTACHMENT;
            to.codec_id = from.codec_id;
            to.extradata = data;
            to.extradata_size = picture.size;
            let (name, kind) = match from.codec_id {
                ffi::AVCodecID::AV_CODEC_ID_PNG => (c"cover.png", c"image/png"),
                _ => (c"cover.jpg", c"image/jpeg"),
            };
            for (key, value) in [(c"filename", name), (c"mimetype", kind)] {
                let code = ffi::av_dict_set(&mut out.metadata, key.as_ptr(), value.as_ptr(), 0);
                ff::check(code, "cannot name a cover picture")?;
            }
        }
        Ok(Self::Cover)
    }

    /// Takes a packet in the source's time base (`None`: there are no more), and hands on what
    /// comes of it with the time base it is in.
    pub(super) fn packet(
        &mut self,
        packet: Option<&mut Packet>,
        base: ffi::AVRational,
        sink: &mut dyn FnMut(&mut Packet, ffi::AVRational) -> Result<()>,
    ) -> Result<()> {
        match (self, packet) {
            (Self::Copy, Some(packet)) => sink(packet, base),
            (Self::Copy, None) | (Self::Cover, _) => Ok(()),
            (Self::Audio(audio), packet) => audio.packet(packet.as_deref(), sink),
            (Self::Subtitle(subtitle), Some(packet)) => subtitle.packet(packet, base, sink),
            (Self::Subtitle(_), None) => Ok(()),
        }
    }
}

/// Sound: decoder, resampler, encoder.
pub(super) struct Audio {
    decoder: Codec,
    encoder: Codec,
    base: ffi::AVRational,
    graph: Option<Graph>,
    frame: Frame,
    packet: Packet,
}

impl Audio {
    fn open(name: &str, stream: &ffi::AVStream, to: &mut ffi::AVCodecParameters) -> Result<Self> {
        let decoder = Codec::decoder(stream)?;
        let (mut encoder, codec) = Codec::find_encoder(name)?;
        // SAFETY: parameters and codec are valid; the lists are null or end with their marks.
        unsafe {
            let from = &*stream.codecpar;
            let raw = encoder.raw();
            raw.sample_rate = if name == "libopus" { 48000 } else { from.sample_rate };
            let formats = (*codec).sample_fmts;
            raw.sample_fmt =
                if formats.is_null() { ffi::AVSampleFormat::AV_SAMPLE_FMT_FLTP } else { *formats };
            ff::check(
                ffi::av_channel_layout_copy(&mut raw.ch_layout, &from.ch_layout),
                "channel layout",
            )?;
            if raw.ch_layout.order == ffi::AVChannelOrder::AV_CHANNEL_ORDER_UNSPEC {
                let channels = raw.ch_layout.nb_channels;
                ffi::av_channel_layout_default(&mut raw.ch_layout, channels);
            }
            raw.time_base = ffi::AVRational { num: 1, den: raw.sample_rate };
            raw.flags |= (ffi::AV_CODEC_FLAG_GLOBAL_HEADER | ffi::AV_CODEC_FLAG_BITEXACT) as c_int;
            raw.thread_count = 1;
            let code = ffi::avcodec_open2(raw, codec, ptr::null_mut());
            ff::check(code, &format!("cannot open encoder '{name}'"))?;
            ff::check(ffi::avcodec_parameters_from_context(to, raw), "parameters")?;
        }
        let base = stream.time_base;
        Ok(Self {
            decoder,
            encoder,
            base,
            graph: None,
            frame: Frame::empty()?,
            packet: Packet::new()?,
        })
    }

    fn packet(
        &mut self,
        packet: Option<&Packet>,
        sink: &mut dyn FnMut(&mut Packet, ffi::AVRational) -> Result<()>,
    ) -> Result<()> {
        let raw = packet.map_or(ptr::null(), Packet::as_ptr);
        // SAFETY: context and packet are valid. A damaged packet is passed over, as ffmpeg does.
        let _: c_int = unsafe { ffi::avcodec_send_packet(self.decoder.0.as_ptr(), raw) };
        // SAFETY: context and frame are valid.
        while unsafe {
            ffi::avcodec_receive_frame(self.decoder.0.as_ptr(), self.frame.as_mut_ptr())
        } >= 0
        {
            let pts = self.frame.raw().best_effort_timestamp;
            self.frame.raw_mut().pts = pts;
            if self.graph.is_none() {
                self.graph = Some(Graph::open(&self.frame, self.base, self.encoder.raw())?);
            }
            if let Some(graph) = &mut self.graph {
                graph.push(Some(&mut self.frame))?;
            }
            self.encode(sink)?;
        }
        if packet.is_none() {
            if let Some(graph) = &mut self.graph {
                graph.push(None)?;
            }
            self.encode(sink)?;
            self.send(None, sink)?;
        }
        Ok(())
    }

    fn encode(
        &mut self,
        sink: &mut dyn FnMut(&mut Packet, ffi::AVRational) -> Result<()>,
    ) -> Result<()> {
        loop {
            let Some(graph) = &mut self.graph else { return Ok(()) };
            let Some(frame) = graph.pull()? else { return Ok(()) };
            self.send(Some(&frame), sink)?;
        }
    }

    fn send(
        &mut self,
        frame: Option<&Frame>,
        sink: &mut dyn FnMut(&mut Packet, ffi::AVRational) -> Result<()>,
    ) -> Result<()> {
        let base = self.encoder.raw().time_base;
        let raw = frame.map_or(ptr::null(), Frame::as_ptr);
        // SAFETY: context and frame are valid.
        let code = unsafe { ffi::avcodec_send_frame(self.encoder.0.as_ptr(), raw) };
        if code != ffi::AVERROR_EOF {
            ff::check(code, "cannot encode sound")?;
        }
        // SAFETY: context and packet are valid.
        while unsafe {
            ffi::avcodec_receive_packet(self.encoder.0.as_ptr(), self.packet.as_mut_ptr())
        } >= 0
        {
            sink(&mut self.packet, base)?;
        }
        Ok(())
    }
}

/// A filter graph that makes decoded sound fit an encoder.
struct Graph {
    graph: NonNull<ffi::AVFilterGraph>,
    source: *mut ffi::AVFilterContext,
    sink: *mut ffi::AVFilterContext,
}

// SAFETY: the graph is used by one thread at a time, whoever holds it.
unsafe impl Send for Graph {}

impl Graph {
    fn open(frame: &Frame, base: ffi::AVRational, encoder: &ffi::AVCodecContext) -> Result<Self> {
        let raw = frame.raw();
        // SAFETY: all contexts belong to the graph, which Drop frees; strings live for each call.
        unsafe {
            let graph = NonNull::new(ffi::avfilter_graph_alloc()).ok_or_else(ff::out_of_memory)?;
            let mut this = Self { graph, source: ptr::null_mut(), sink: ptr::null_mut() };
            (*graph.as_ptr()).nb_threads = 1;
            let format: ffi::AVSampleFormat = std::mem::transmute::<c_int, _>(raw.format);
            let args = format!(
                "time_base={}/{}:sample_rate={}:sample_fmt={}:channel_layout={}",
                base.num,
                base.den,
                raw.sample_rate,
                ff::text(ffi::av_get_sample_fmt_name(format)),
                layout(&raw.ch_layout),
            );
            this.source = this.add("abuffer", &args)?;
            let args = format!(
                "sample_fmts={}:sample_rates={}:channel_layouts={}",
                ff::text(ffi::av_get_sample_fmt_name(encoder.sample_fmt)),
                encoder.sample_rate,
                layout(&encoder.ch_layout),
            );
            let format = this.add("aformat", &args)?;
            let mut last = format;
            ff::check(ffi::avfilter_link(this.source, 0, format, 0), "sound")?;
            if encoder.frame_size > 0 {
                let cut = this.add("asetnsamples", &format!("n={}:p=0", encoder.frame_size))?;
                ff::check(ffi::avfilter_link(last, 0, cut, 0), "sound")?;
                last = cut;
            }
            this.sink = this.add("abuffersink", "")?;
            ff::check(ffi::avfilter_link(last, 0, this.sink, 0), "sound")?;
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

    fn pull(&mut self) -> Result<Option<Frame>> {
        let mut frame = Frame::empty()?;
        // SAFETY: the sink belongs to the graph.
        let code = unsafe { ffi::av_buffersink_get_frame(self.sink, frame.as_mut_ptr()) };
        if code == ff::error_code(rustix::io::Errno::AGAIN) || code == ffi::AVERROR_EOF {
            return Ok(None);
        }
        ff::check(code, "cannot convert sound").map(|_| Some(frame))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let mut graph = self.graph.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::avfilter_graph_free(&mut graph) };
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

/// Subtitles: decoder and encoder of text.
pub(super) struct Subtitle {
    decoder: Codec,
    encoder: Codec,
    packet: Packet,
}

impl Subtitle {
    fn open(name: &str, stream: &ffi::AVStream, to: &mut ffi::AVCodecParameters) -> Result<Self> {
        let mut decoder = Codec::decoder(stream)?;
        let (mut encoder, codec) = Codec::find_encoder(name)?;
        // SAFETY: the header is copied with FFmpeg's padding and owned by the encoder.
        unsafe {
            let from = decoder.raw();
            let to_raw = encoder.raw();
            to_raw.time_base = ffi::AVRational { num: 1, den: 1000 };
            if let (Ok(size), false) =
                (usize::try_from(from.subtitle_header_size), from.subtitle_header.is_null())
            {
                let copy = ffi::av_mallocz(size + 1).cast::<u8>();
                if copy.is_null() {
                    return Err(ff::out_of_memory());
                }
                ptr::copy_nonoverlapping(from.subtitle_header, copy, size);
                to_raw.subtitle_header = copy;
                to_raw.subtitle_header_size = from.subtitle_header_size;
            }
            let code = ffi::avcodec_open2(to_raw, codec, ptr::null_mut());
            ff::check(code, &format!("cannot open encoder '{name}'"))?;
            ff::check(ffi::avcodec_parameters_from_context(to, to_raw), "parameters")?;
        }
        Ok(Self { decoder, encoder, packet: Packet::new()? })
    }

    fn packet(
        &mut self,
        packet: &mut Packet,
        base: ffi::AVRational,
        sink: &mut dyn FnMut(&mut Packet, ffi::AVRational) -> Result<()>,
    ) -> Result<()> {
        let millis = ffi::AVRational { num: 1, den: 1000 };
        let Some(pts) = packet.pts() else { return Ok(()) };
        // SAFETY: contexts and packet are valid; the subtitle is freed after use; the encoded text
        // is copied into a packet of its own.
        unsafe {
            let start = ffi::av_rescale_q(pts, base, millis);
            let length = ffi::av_rescale_q(packet.raw().duration, base, millis);
            let mut subtitle: ffi::AVSubtitle = std::mem::zeroed();
            let mut got = 0;
            let code = ffi::avcodec_decode_subtitle2(
                self.decoder.0.as_ptr(),
                &mut subtitle,
                &mut got,
                packet.as_mut_ptr(),
            );
            if code < 0 || got == 0 {
                return Ok(());
            }
            let shown = i64::from(subtitle.start_display_time);
            let until = i64::from(subtitle.end_display_time);
            subtitle.pts =
                ffi::av_rescale_q(start, millis, ffi::AVRational { num: 1, den: 1_000_000 });
            subtitle.end_display_time -= subtitle.start_display_time.min(subtitle.end_display_time);
            subtitle.start_display_time = 0;
            let mut text = vec![0u8; 1 << 20];
            let size = ffi::avcodec_encode_subtitle(
                self.encoder.0.as_ptr(),
                text.as_mut_ptr(),
                1 << 20,
                &subtitle,
            );
            ffi::avsubtitle_free(&mut subtitle);
            let size = usize::try_from(ff::check(size, "cannot convert a subtitle")?).unwrap_or(0);
            self.packet = Packet::with_data(&text[..size])?;
            let raw = self.packet.raw_mut();
            raw.pts = start + shown;
            raw.dts = raw.pts;
            raw.duration =
                if until > shown && until < i64::from(u32::MAX) { until - shown } else { length };
            raw.flags |= ffi::AV_PKT_FLAG_KEY;
        }
        sink(&mut self.packet, millis)
    }
}
