//! Colour tags by FFmpeg's names, and as its structures hold them.

use std::ffi::{CString, c_int};

use ffmpeg_next::ffi;
use frameloom_core::plan::ColorTags;

use crate::ff;

/// Colour tags as FFmpeg's structures hold them; `None` where a name is none of FFmpeg's.
struct Numbers {
    range: Option<ffi::AVColorRange>,
    primaries: Option<ffi::AVColorPrimaries>,
    transfer: Option<ffi::AVColorTransferCharacteristic>,
    matrix: Option<ffi::AVColorSpace>,
    chroma_location: Option<ffi::AVChromaLocation>,
}

fn numbers(tags: &ColorTags) -> Numbers {
    let name = |tag: &str| CString::new(tag).unwrap_or_default();
    let known = |answer: c_int| (answer >= 0).then_some(answer);
    // SAFETY: C strings; a negative answer means an unknown name. The other answers are numbers of
    // FFmpeg's own enumerations, which the bindings were made from.
    unsafe {
        Numbers {
            range: known(ffi::av_color_range_from_name(name(&tags.range).as_ptr()))
                .map(|v| std::mem::transmute::<c_int, ffi::AVColorRange>(v)),
            primaries: known(ffi::av_color_primaries_from_name(name(&tags.primaries).as_ptr()))
                .map(|v| std::mem::transmute::<c_int, ffi::AVColorPrimaries>(v)),
            transfer: known(ffi::av_color_transfer_from_name(name(&tags.transfer).as_ptr()))
                .map(|v| std::mem::transmute::<c_int, ffi::AVColorTransferCharacteristic>(v)),
            matrix: known(ffi::av_color_space_from_name(name(&tags.matrix).as_ptr()))
                .map(|v| std::mem::transmute::<c_int, ffi::AVColorSpace>(v)),
            chroma_location: known(ffi::av_chroma_location_from_name(
                name(&tags.chroma_location).as_ptr(),
            ))
            .map(|v| std::mem::transmute::<c_int, ffi::AVChromaLocation>(v)),
        }
    }
}

/// Tells an encoder the tags of its pictures; unknown ones stay unset.
pub(crate) fn tag_encoder(raw: &mut ffi::AVCodecContext, tags: &ColorTags) {
    let tags = numbers(tags);
    raw.color_range = tags.range.unwrap_or(raw.color_range);
    raw.color_primaries = tags.primaries.unwrap_or(raw.color_primaries);
    raw.color_trc = tags.transfer.unwrap_or(raw.color_trc);
    raw.colorspace = tags.matrix.unwrap_or(raw.colorspace);
    raw.chroma_sample_location = tags.chroma_location.unwrap_or(raw.chroma_sample_location);
}

/// Gives a frame the tags; unknown ones stay unset.
pub(crate) fn tag_frame(raw: &mut ffi::AVFrame, tags: &ColorTags) {
    let tags = numbers(tags);
    raw.color_range = tags.range.unwrap_or(raw.color_range);
    raw.color_primaries = tags.primaries.unwrap_or(raw.color_primaries);
    raw.color_trc = tags.transfer.unwrap_or(raw.color_trc);
    raw.colorspace = tags.matrix.unwrap_or(raw.colorspace);
    raw.chroma_location = tags.chroma_location.unwrap_or(raw.chroma_location);
}

/// The tags of a frame.
pub(crate) fn of_frame(raw: &ffi::AVFrame) -> ColorTags {
    // SAFETY: the names are static strings, or null for numbers without a name.
    unsafe {
        ColorTags {
            range: ff::text(ffi::av_color_range_name(raw.color_range)),
            primaries: ff::text(ffi::av_color_primaries_name(raw.color_primaries)),
            transfer: ff::text(ffi::av_color_transfer_name(raw.color_trc)),
            matrix: ff::text(ffi::av_color_space_name(raw.colorspace)),
            chroma_location: ff::text(ffi::av_chroma_location_name(raw.chroma_location)),
        }
    }
}
