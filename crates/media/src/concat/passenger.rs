//! Streams that travel beside the video: copied bit for bit, or converted where the output's
//! container does not hold them.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::{Error, ErrorKind, Result};

use super::sound::Sound;
use super::subtitle::Subtitle;
use crate::ff::{self, Packet};

/// An encoder or decoder of FFmpeg.
pub(super) struct Codec(NonNull<ffi::AVCodecContext>);

// SAFETY: the context is used by one thread at a time, whoever holds it.
unsafe impl Send for Codec {}

impl Codec {
    pub(super) fn decoder(stream: &ffi::AVStream) -> Result<Self> {
        // SAFETY: a stream has parameters; the context is freed by Drop.
        unsafe {
            let id = (*stream.codecpar).codec_id;
            let codec = ffi::avcodec_find_decoder(id);
            if codec.is_null() {
                let name = ff::text(ffi::avcodec_get_name(id));
                return Err(Error::unsupported(format!(
                    "the installed FFmpeg has no decoder for '{name}'"
                )));
            }
            let context = NonNull::new(ffi::avcodec_alloc_context3(codec));
            let this = Self(context.ok_or_else(ff::out_of_memory)?);
            let raw = this.0.as_ptr();
            ff::check(ffi::avcodec_parameters_to_context(raw, stream.codecpar), "parameters")?;
            (*raw).pkt_timebase = stream.time_base;
            let code = ffi::avcodec_open2(raw, codec, ptr::null_mut());
            opened(code, &format!("the decoder of '{}'", ff::text((*codec).name)))?;
            Ok(this)
        }
    }

    pub(super) fn find_encoder(name: &str) -> Result<(Self, *const ffi::AVCodec)> {
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

    /// FFmpeg's fields.
    pub(super) fn raw(&mut self) -> &mut ffi::AVCodecContext {
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

/// The answer of opening a codec: what it does not take is unsupported.
///
/// # Errors
/// Exhausted without memory; Unsupported else.
pub(super) fn opened(code: c_int, what: &str) -> Result<()> {
    match ff::check(code, what) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Exhausted => Err(error),
        Err(_) => Err(Error::unsupported(format!(
            "{what} cannot work with this stream ({})",
            ff::describe(code)
        ))),
    }
}

/// Tries whether a stream can be converted with an encoder.
///
/// # Errors
/// Unsupported, with what stands against it.
pub(crate) fn try_conversion(encoder: &str, stream: &ffi::AVStream) -> Result<()> {
    // SAFETY: parameters are allocated, checked and freed here.
    unsafe {
        let mut parameters = ffi::avcodec_parameters_alloc();
        let Some(to) = parameters.as_mut() else { return Err(ff::out_of_memory()) };
        let kind = (*stream.codecpar).codec_type;
        let tried = if kind == ffi::AVMediaType::AVMEDIA_TYPE_SUBTITLE {
            Subtitle::open(encoder, stream, to).map(drop)
        } else {
            Sound::open(encoder, stream, to).map(drop)
        };
        ffi::avcodec_parameters_free(&mut parameters);
        tried
    }
}

/// What is done with the packets of a stream.
pub(super) enum Passenger {
    /// They are copied.
    Copy,
    /// A cover picture, which the container keeps as an attachment.
    Cover,
    /// Sound is decoded and encoded anew.
    Sound(Box<Sound>),
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
        let mut sound = Sound::open(encoder, stream, to)?;
        out.time_base = sound.time_base();
        Ok(Self::Sound(Box::new(sound)))
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
            (Self::Sound(sound), packet) => sound.packet(packet.as_deref(), sink),
            (Self::Subtitle(subtitle), Some(packet)) => subtitle.packet(packet, base, sink),
            (Self::Subtitle(_), None) => Ok(()),
        }
    }
}
