//! An encoder's description of its stream, as a segment file carries it.

use std::ffi::c_int;

use ffmpeg_next::ffi;
use frameloom_core::time::Rational;
use frameloom_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::ff::{self, Packet};
use crate::index::extradata;

/// Codec parameters of an encoded video stream; equal ones can be joined.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct StreamParameters {
    /// FFmpeg's name of the codec.
    codec: String,
    width: u32,
    height: u32,
    pixel_format: i32,
    profile: i32,
    level: i32,
    field_order: u32,
    color_range: u32,
    color_primaries: u32,
    color_transfer: u32,
    color_matrix: u32,
    chroma_location: u32,
    aspect: (i32, i32),
    video_delay: i32,
    frame_rate: (i32, i32),
    /// Codec headers, in hexadecimal digits.
    extradata: String,
}

impl StreamParameters {
    /// Those of an open encoder.
    ///
    /// # Safety
    /// `context` is an open encoder.
    #[expect(unsafe_code, reason = "reads FFmpeg's structures")]
    pub(super) unsafe fn of_encoder(
        context: *const ffi::AVCodecContext,
        rate: Rational,
    ) -> Result<Self> {
        // SAFETY: parameters are allocated, filled and freed here.
        unsafe {
            let mut p = ffi::avcodec_parameters_alloc();
            if p.is_null() {
                return Err(ff::out_of_memory());
            }
            let code = ffi::avcodec_parameters_from_context(p, context);
            let made = ff::check(code, "the encoder's parameters").map(|_| Self::read(&*p, rate));
            ffi::avcodec_parameters_free(&mut p);
            made
        }
    }

    fn read(p: &ffi::AVCodecParameters, rate: Rational) -> Self {
        Self {
            // SAFETY: a static string.
            codec: unsafe { ff::text(ffi::avcodec_get_name(p.codec_id)) },
            width: p.width.unsigned_abs(),
            height: p.height.unsigned_abs(),
            pixel_format: p.format,
            profile: p.profile,
            level: p.level,
            field_order: p.field_order as u32,
            color_range: p.color_range as u32,
            color_primaries: p.color_primaries as u32,
            color_transfer: p.color_trc as u32,
            color_matrix: p.color_space as u32,
            chroma_location: p.chroma_location as u32,
            aspect: (p.sample_aspect_ratio.num, p.sample_aspect_ratio.den),
            video_delay: p.video_delay,
            frame_rate: (rate.num, rate.den),
            extradata: frameloom_core::fingerprint::hex(extradata(p)),
        }
    }

    /// Takes codec headers from the first packet, where the encoder keeps them there only: those of
    /// AV1 by libaom and rav1e.
    ///
    /// # Errors
    /// Exhausted without memory; Internal where the packet cannot be read.
    pub(crate) fn complete(&mut self, first: &[u8]) -> Result<()> {
        if self.codec != "av1" || !self.extradata.is_empty() {
            return Ok(());
        }
        // SAFETY: the filter is checked for null and freed; its parameters are its own.
        unsafe {
            let filter = ffi::av_bsf_get_by_name(c"extract_extradata".as_ptr());
            let mut context = std::ptr::null_mut();
            if filter.is_null() {
                return Ok(());
            }
            ff::check(ffi::av_bsf_alloc(filter, &mut context), "codec headers")?;
            let found = self.extract(context, first);
            ffi::av_bsf_free(&mut context);
            self.extradata = frameloom_core::fingerprint::hex(&found?);
        }
        Ok(())
    }

    /// The headers that the bitstream filter finds in `data`.
    ///
    /// # Safety
    /// `context` is a new filter.
    #[expect(unsafe_code, reason = "runs FFmpeg's bitstream filter")]
    unsafe fn extract(&self, context: *mut ffi::AVBSFContext, data: &[u8]) -> Result<Vec<u8>> {
        let mut packet = Packet::with_data(data)?;
        // SAFETY: by contract; the packet is ours and taken by the filter; side data holds `size`
        // bytes.
        unsafe {
            self.write(&mut *(*context).par_in)?;
            ff::check(ffi::av_bsf_init(context), "codec headers")?;
            let code = ffi::av_bsf_send_packet(context, packet.as_mut_ptr());
            ff::check(code, "codec headers")?;
            let code = ffi::av_bsf_receive_packet(context, packet.as_mut_ptr());
            ff::check(code, "codec headers")?;
            let mut size = 0;
            let kind = ffi::AVPacketSideDataType::AV_PKT_DATA_NEW_EXTRADATA;
            let found = ffi::av_packet_get_side_data(packet.as_ptr(), kind, &mut size);
            if found.is_null() {
                return Ok(Vec::new());
            }
            Ok(std::slice::from_raw_parts(found, size).to_vec())
        }
    }

    /// Average frame rate of the video.
    pub(crate) fn frame_rate(&self) -> ffi::AVRational {
        ffi::AVRational { num: self.frame_rate.0, den: self.frame_rate.1.max(1) }
    }

    /// Sample aspect ratio.
    pub(crate) fn aspect(&self) -> ffi::AVRational {
        ffi::AVRational { num: self.aspect.0, den: self.aspect.1.max(1) }
    }

    /// Fills FFmpeg's parameters of an output stream.
    ///
    /// # Errors
    /// Corrupt where a value is none of FFmpeg's.
    pub(crate) fn write(&self, p: &mut ffi::AVCodecParameters) -> Result<()> {
        let name = ff::c_string(&self.codec)?;
        // SAFETY: a C string; null or a static description.
        let Some(descriptor) =
            (unsafe { ffi::avcodec_descriptor_get_by_name(name.as_ptr()).as_ref() })
        else {
            return Err(Error::corrupt(format!("a segment of unknown codec '{}'", self.codec)));
        };
        let bytes = unhex(&self.extradata)?;
        let side = |v: u32| c_int::try_from(v).map_err(|_| Error::corrupt("a segment's size"));
        p.codec_type = ffi::AVMediaType::AVMEDIA_TYPE_VIDEO;
        p.codec_id = descriptor.id;
        p.width = side(self.width)?;
        p.height = side(self.height)?;
        p.format = self.pixel_format;
        p.profile = self.profile;
        p.level = self.level;
        p.video_delay = self.video_delay;
        p.sample_aspect_ratio = self.aspect();
        let known = self.field_order <= 5
            && self.color_range <= 2
            && (self.color_primaries <= 12 || self.color_primaries == 22)
            && self.color_transfer <= 18
            && self.color_matrix <= 14
            && self.chroma_location <= 6;
        if !known {
            return Err(Error::corrupt("a segment with colour tags that FFmpeg does not know"));
        }
        // SAFETY: the numbers were checked against FFmpeg's enumerations; extradata is allocated
        // with FFmpeg's padding and owned by the parameters.
        unsafe {
            p.field_order = std::mem::transmute::<u32, ffi::AVFieldOrder>(self.field_order);
            p.color_range = std::mem::transmute::<u32, ffi::AVColorRange>(self.color_range);
            p.color_primaries =
                std::mem::transmute::<u32, ffi::AVColorPrimaries>(self.color_primaries);
            p.color_trc =
                std::mem::transmute::<u32, ffi::AVColorTransferCharacteristic>(self.color_transfer);
            p.color_space = std::mem::transmute::<u32, ffi::AVColorSpace>(self.color_matrix);
            p.chroma_location =
                std::mem::transmute::<u32, ffi::AVChromaLocation>(self.chroma_location);
            if !bytes.is_empty() {
                let size = bytes.len() + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
                let data = ffi::av_mallocz(size).cast::<u8>();
                if data.is_null() {
                    return Err(ff::out_of_memory());
                }
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
                p.extradata = data;
                p.extradata_size = c_int::try_from(bytes.len()).unwrap_or(0);
            }
        }
        Ok(())
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0);
    let digits = digits.ok_or_else(|| Error::corrupt("a segment's codec headers are malformed"))?;
    Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
