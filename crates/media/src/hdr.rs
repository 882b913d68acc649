//! HDR10's static metadata: read from container or stream, written to encoders and containers.

use std::ffi::c_int;

use ffmpeg_next::ffi::{self, AVFrameSideDataType as F, AVPacketSideDataType as P};
use frameloom_core::Result;
use frameloom_core::plan::{ContentLight, Hdr, MasteringDisplay, VideoInfo};

use crate::decode;
use crate::demux::Demuxer;
use crate::ff;
use crate::frame::{Frame, PixelFormat};

/// Units of chromaticity and luminance in one.
const CHROMATICITY: c_int = 50_000;
const LUMINANCE: c_int = 10_000;

/// `AVMasteringDisplayMetadata` of libavutil/mastering_display_metadata.h, which has no binding.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawMastering {
    display_primaries: [[ffi::AVRational; 2]; 3],
    white_point: [ffi::AVRational; 2],
    min_luminance: ffi::AVRational,
    max_luminance: ffi::AVRational,
    has_primaries: c_int,
    has_luminance: c_int,
}

/// `AVContentLightMetadata` of the same header.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawLight {
    max_cll: u32,
    max_fall: u32,
}

fn units(value: ffi::AVRational, scale: c_int) -> u32 {
    if value.den == 0 {
        return 0;
    }
    let exact = i64::from(value.num) * i64::from(scale);
    let den = i64::from(value.den);
    u32::try_from((exact + den / 2) / den).unwrap_or(0)
}

fn mastering(raw: &RawMastering) -> Option<MasteringDisplay> {
    let point = |xy: &[ffi::AVRational; 2]| xy.map(|v| units(v, CHROMATICITY));
    (raw.has_primaries != 0 && raw.has_luminance != 0).then(|| MasteringDisplay {
        primaries: [0, 1, 2].map(|i| point(&raw.display_primaries[i])),
        white: point(&raw.white_point),
        min_luminance: units(raw.min_luminance, LUMINANCE),
        max_luminance: units(raw.max_luminance, LUMINANCE),
    })
}

fn light(raw: &RawLight) -> ContentLight {
    ContentLight { max_content: raw.max_cll, max_frame_average: raw.max_fall }
}

/// What is still true of pictures of `pixel` with the transfer characteristic `transfer`.
pub(crate) fn kept(pixel: PixelFormat, transfer: &str, video: &VideoInfo) -> Hdr {
    if pixel == PixelFormat::Yuv420p10 && transfer == video.color.transfer {
        video.hdr
    } else {
        Hdr::default()
    }
}

/// What the container tells.
pub(crate) fn of_stream(stream: &ffi::AVStream) -> Hdr {
    let data = |kind: P, least: usize| {
        let mut size = 0;
        // SAFETY: the stream is valid; null where it has none.
        let data = unsafe { ffi::av_stream_get_side_data(stream, kind, &mut size) };
        (!data.is_null() && size >= least).then_some(data)
    };
    let mastering = data(P::AV_PKT_DATA_MASTERING_DISPLAY_METADATA, size_of::<RawMastering>());
    let light = data(P::AV_PKT_DATA_CONTENT_LIGHT_LEVEL, size_of::<RawLight>());
    // SAFETY: side data of these kinds holds these structures, has their size and is allocated
    // with FFmpeg's alignment.
    unsafe {
        Hdr {
            mastering: mastering.and_then(|data| self::mastering(&*data.cast())),
            light: light.map(|data| self::light(&*data.cast())),
        }
    }
}

/// What a decoded picture tells.
fn of_frame(frame: &Frame) -> Hdr {
    // SAFETY: null, or side data that holds the structure of its kind.
    unsafe {
        let data = |kind: F| {
            ffi::av_frame_get_side_data(frame.as_ptr(), kind)
                .as_ref()
                .map(|side| side.data.cast_const())
        };
        Hdr {
            mastering: data(F::AV_FRAME_DATA_MASTERING_DISPLAY_METADATA)
                .and_then(|data| self::mastering(&*data.cast())),
            light: data(F::AV_FRAME_DATA_CONTENT_LIGHT_LEVEL)
                .map(|data| self::light(&*data.cast())),
        }
    }
}

/// Completes what the container of a PQ source tells by its first picture, which is decoded for it.
///
/// # Errors
/// Those of demuxer and decoder.
pub(crate) fn complete(demuxer: &mut Demuxer, video: &mut VideoInfo) -> Result<()> {
    let known = video.hdr.mastering.is_some() && video.hdr.light.is_some();
    if known || video.color.transfer != "smpte2084" {
        return Ok(());
    }
    let found = decode::first_frame(demuxer, video, true)?.map(|frame| of_frame(&frame));
    if let Some(found) = found {
        video.hdr.mastering = video.hdr.mastering.or(found.mastering);
        video.hdr.light = video.hdr.light.or(found.light);
    }
    Ok(())
}

/// The parameters by which an encoder writes `hdr` into its stream; none where it cannot.
pub(crate) fn encoder_parameters(encoder: &str, hdr: &Hdr) -> Vec<String> {
    let (display, level, fractions) = match encoder {
        "libx264" => ("mastering-display", "cll", false),
        "libx265" => ("master-display", "max-cll", false),
        "libsvtav1" => ("mastering-display", "content-light", true),
        _ => return Vec::new(),
    };
    let mastering = hdr.mastering.map(|m| {
        let point = |[x, y]: [u32; 2]| {
            if fractions {
                let one = f64::from(CHROMATICITY);
                format!("({:.5},{:.5})", f64::from(x) / one, f64::from(y) / one)
            } else {
                format!("({x},{y})")
            }
        };
        let bounds = if fractions {
            let one = f64::from(LUMINANCE);
            let [max, min] = [m.max_luminance, m.min_luminance].map(|v| f64::from(v) / one);
            format!("({max:.4},{min:.4})")
        } else {
            format!("({},{})", m.max_luminance, m.min_luminance)
        };
        let [red, green, blue] = m.primaries.map(point);
        format!("{display}=G{green}B{blue}R{red}WP{}L{bounds}", point(m.white))
    });
    let light = hdr.light.map(|l| format!("{level}={},{}", l.max_content, l.max_frame_average));
    mastering.into_iter().chain(light).collect()
}

/// Tells the container of `hdr`.
///
/// # Errors
/// Exhausted without memory.
pub(crate) fn attach(stream: &mut ffi::AVStream, hdr: &Hdr) -> Result<()> {
    if let Some(m) = &hdr.mastering {
        let rational = |v: u32, scale: c_int| ffi::AVRational {
            num: c_int::try_from(v).unwrap_or(c_int::MAX),
            den: scale,
        };
        let point = |xy: [u32; 2]| xy.map(|v| rational(v, CHROMATICITY));
        let raw = RawMastering {
            display_primaries: m.primaries.map(point),
            white_point: point(m.white),
            min_luminance: rational(m.min_luminance, LUMINANCE),
            max_luminance: rational(m.max_luminance, LUMINANCE),
            has_primaries: 1,
            has_luminance: 1,
        };
        side_data(stream, P::AV_PKT_DATA_MASTERING_DISPLAY_METADATA, &raw)?;
    }
    if let Some(l) = &hdr.light {
        let raw = RawLight { max_cll: l.max_content, max_fall: l.max_frame_average };
        side_data(stream, P::AV_PKT_DATA_CONTENT_LIGHT_LEVEL, &raw)?;
    }
    Ok(())
}

fn side_data<T: Copy>(stream: &mut ffi::AVStream, kind: P, value: &T) -> Result<()> {
    // SAFETY: FFmpeg allocates as many bytes as the structure has, aligned for any.
    unsafe {
        let data = ffi::av_stream_new_side_data(stream, kind, size_of::<T>());
        if data.is_null() {
            return Err(ff::out_of_memory());
        }
        data.cast::<T>().write(*value);
    }
    Ok(())
}
