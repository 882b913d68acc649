//! Text subtitles in another format.

use std::ptr;

use ffmpeg_next::ffi;
use frameloom_core::Result;

use super::passenger::{Codec, opened};
use crate::ff::{self, Packet};

/// Subtitles: decoder and encoder of text.
pub(super) struct Subtitle {
    decoder: Codec,
    encoder: Codec,
    packet: Packet,
}

impl Subtitle {
    /// Opens decoder and encoder, and fills the output stream's parameters.
    pub(super) fn open(
        name: &str,
        stream: &ffi::AVStream,
        to: &mut ffi::AVCodecParameters,
    ) -> Result<Self> {
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
            opened(code, &format!("encoder '{name}'"))?;
            ff::check(ffi::avcodec_parameters_from_context(to, to_raw), "parameters")?;
        }
        Ok(Self { decoder, encoder, packet: Packet::new()? })
    }

    /// Takes a packet in the source's time base; hands on what comes of it with the base it is in.
    pub(super) fn packet(
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
                self.decoder.raw(),
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
                self.encoder.raw(),
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
