//! What a source is: its streams, and the one video stream that is processed.

use std::ffi::c_int;

use ffmpeg_next::ffi;
use frameloom_core::plan::{ColorTags, Message, VideoInfo};
use frameloom_core::time::Rational;
use frameloom_core::{Error, Result};

use crate::convert;
use crate::demux::Demuxer;
use crate::ff;
use crate::frame::{FrameFormat, PixelFormat, swapped_fields};
use crate::hdr;
use crate::index::no_video;

/// What a cover picture counts when a stream is chosen: less than any video.
const COVER: i64 = 1;

/// The number of the video stream to process: `wanted`, or the one that `ffmpeg` would take, which
/// is the largest, the flagged default before others, cover pictures last.
///
/// # Errors
/// Unsupported where there is no video; Invalid where `wanted` is none.
pub(crate) fn choose_stream(demuxer: &Demuxer, name: &str, wanted: Option<u32>) -> Result<u32> {
    let mut best: Option<(i64, u32)> = None;
    let mut videos = Vec::new();
    for (index, stream) in (0u32..).zip(demuxer.streams()) {
        // SAFETY: every stream has codec parameters while the context is open.
        let parameters = unsafe { &*stream.codecpar };
        if parameters.codec_type != ffi::AVMediaType::AVMEDIA_TYPE_VIDEO {
            continue;
        }
        videos.push(index);
        let has = |flag: c_int| stream.disposition & flag != 0;
        let size = i64::from(parameters.width) * i64::from(parameters.height);
        let seen = stream.event_flags & ffi::AVSTREAM_EVENT_FLAG_NEW_PACKETS as c_int != 0;
        let score = if has(ffi::AV_DISPOSITION_ATTACHED_PIC as c_int) {
            COVER
        } else {
            size + i64::from(seen) * 100_000_000
                + i64::from(has(ffi::AV_DISPOSITION_DEFAULT as c_int)) * 5_000_000
        };
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, index));
        }
    }
    match wanted {
        Some(wanted) if videos.contains(&wanted) => Ok(wanted),
        Some(wanted) => Err(Error::invalid(format!(
            "'{name}' has no video stream {wanted}; its video streams are {videos:?}"
        ))),
        None => match best {
            Some((COVER, _)) => Err(Error::unsupported(format!(
                "'{name}' has a cover picture, but no video stream"
            ))),
            best => best.map(|(_, index)| index).ok_or_else(|| no_video(name)),
        },
    }
}

fn rational(r: ffi::AVRational) -> Rational {
    Rational::new(r.num, r.den)
}

/// What is known of a video stream.
///
/// # Errors
/// Corrupt where it has no size.
pub(crate) fn video_info(
    demuxer: &Demuxer,
    index: u32,
    messages: &mut Vec<Message>,
) -> Result<VideoInfo> {
    let stream = demuxer.stream(index)?;
    let p = demuxer.parameters(index)?;
    if p.width <= 0 || p.height <= 0 {
        return Err(Error::corrupt(format!("video stream {index} has no picture size")));
    }
    let (rotation, flip) = orientation(stream, messages);
    let raw: *const ffi::AVStream = stream;
    // SAFETY: context and stream are valid; the functions read only. Names are static strings.
    let (ratio, frame_rate, codec, pixel_format, color) = unsafe {
        let ratio = ffi::av_guess_sample_aspect_ratio(
            demuxer.context(),
            raw.cast_mut(),
            std::ptr::null_mut(),
        );
        let rate =
            ffi::av_guess_frame_rate(demuxer.context(), raw.cast_mut(), std::ptr::null_mut());
        let format: ffi::AVPixelFormat = std::mem::transmute::<c_int, ffi::AVPixelFormat>(p.format);
        (
            ratio,
            rate,
            ff::text(ffi::avcodec_get_name(p.codec_id)),
            ff::text(ffi::av_get_pix_fmt_name(format)),
            ColorTags {
                range: range_name(p),
                primaries: ff::text(ffi::av_color_primaries_name(p.color_primaries)),
                transfer: ff::text(ffi::av_color_transfer_name(p.color_trc)),
                matrix: ff::text(ffi::av_color_space_name(p.color_space)),
                chroma_location: ff::text(ffi::av_chroma_location_name(p.chroma_location)),
            },
        )
    };
    if pixel_format.is_empty() {
        return Err(Error::corrupt(format!(
            "video stream {index} ('{codec}') has no picture that tells its pixel format"
        )));
    }
    Ok(VideoInfo {
        stream: index,
        codec,
        width: p.width.unsigned_abs(),
        height: p.height.unsigned_abs(),
        pixel_format,
        time_base: demuxer.time_base(index)?,
        start_pts: ff::known(stream.start_time),
        frame_rate: rational(frame_rate),
        frames: u64::try_from(stream.nb_frames).ok().filter(|frames| *frames > 0),
        reorder: 0,
        rotation,
        flip,
        sample_aspect_ratio: if ratio.num > 0 { rational(ratio) } else { Rational::new(0, 1) },
        field_order: field_order(p.field_order).to_owned(),
        color,
        discontinuous: false,
        hdr: hdr::of_stream(stream),
    })
}

/// `tv`, `pc` or `unknown`; full-range formats are `pc` whatever the tag says.
fn range_name(p: &ffi::AVCodecParameters) -> String {
    if convert::plain_format(p.format) != p.format {
        return "pc".into();
    }
    // SAFETY: the name is a static string.
    unsafe { ff::text(ffi::av_color_range_name(p.color_range)) }
}

fn field_order(order: ffi::AVFieldOrder) -> &'static str {
    match order {
        ffi::AVFieldOrder::AV_FIELD_PROGRESSIVE => "progressive",
        // The second letter is the field displayed first where they differ.
        ffi::AVFieldOrder::AV_FIELD_TT | ffi::AVFieldOrder::AV_FIELD_BT => "tff",
        ffi::AVFieldOrder::AV_FIELD_BB | ffi::AVFieldOrder::AV_FIELD_TB => "bff",
        ffi::AVFieldOrder::AV_FIELD_UNKNOWN => "unknown",
    }
}

/// Rotation (clockwise, in quarters) and mirroring by the display matrix, as `ffmpeg` applies it.
fn orientation(stream: &ffi::AVStream, messages: &mut Vec<Message>) -> (u32, bool) {
    let kind = ffi::AVPacketSideDataType::AV_PKT_DATA_DISPLAYMATRIX;
    let mut size = 0;
    // SAFETY: the stream is valid; side data of this kind holds nine 32-bit numbers, read where
    // there are that many bytes.
    let (theta, matrix) = unsafe {
        let data = ffi::av_stream_get_side_data(stream, kind, &mut size);
        if data.is_null() || size < 36 {
            return (0, false);
        }
        let mut matrix = [0i32; 9];
        std::ptr::copy_nonoverlapping(data, matrix.as_mut_ptr().cast::<u8>(), 36);
        (-ffi::av_display_rotation_get(matrix.as_ptr()), matrix)
    };
    if !theta.is_finite() {
        return (0, false);
    }
    #[expect(clippy::cast_possible_truncation, reason = "an angle of -360..=360 degrees")]
    let degrees = (theta.round() as i32).rem_euclid(360);
    match degrees {
        0 | 359 | 1 if matrix[4] < 0 => (180, true),
        0 | 359 | 1 => (0, false),
        89..=91 if matrix[3] > 0 => (270, true),
        89..=91 => (90, false),
        179..=181 if matrix[4] < 0 => (180, false),
        179..=181 => (0, true),
        269..=271 if matrix[3] < 0 => (90, true),
        269..=271 => (270, false),
        other => {
            messages.push(Message::new(
                "rotation_ignored",
                format!("the source asks to be shown turned by {other} degrees, which is not a quarter turn; it is left as it is"),
            ));
            (0, false)
        }
    }
}

/// The format of the frames that filters get.
///
/// # Errors
/// Unsupported for HDR that would be lost.
pub(crate) fn working_format(
    video: &VideoInfo,
    lossless: bool,
    keep_depth: bool,
    messages: &mut Vec<Message>,
) -> Result<FrameFormat> {
    let turned = video.rotation % 180 == 90;
    let name = ff::c_string(&video.pixel_format)?;
    // SAFETY: a C string; answers AV_PIX_FMT_NONE for unknown names.
    let source = unsafe { ffi::av_get_pix_fmt(name.as_ptr()) };
    let pixel = convert::working_format(source, turned, lossless, keep_depth);
    let hdr = matches!(video.color.transfer.as_str(), "smpte2084" | "arib-std-b67");
    if hdr && pixel != PixelFormat::Yuv420p10 {
        return Err(Error::unsupported(format!(
            "the source is HDR (transfer '{}'), which 8 bits cannot hold; \
             give --keep-depth (with --codec hevc) to keep its depth; filters that work on 8 bits, as all but graphs do, need an \
             SDR video: make one first, with ffmpeg's zscale and tonemap",
            video.color.transfer
        )));
    }
    let plain = video.pixel_format.replace("yuvj", "yuv");
    if plain != pixel.name() {
        // SAFETY: null or a static description.
        let alpha = unsafe { ffi::av_pix_fmt_desc_get(source).as_ref() }
            .is_some_and(|d| d.flags & ffi::AV_PIX_FMT_FLAG_ALPHA as u64 != 0);
        if alpha {
            messages.push(Message::new("alpha_dropped", "the source's alpha channel is dropped"));
        }
        messages.push(Message::new(
            "pixel_format_converted",
            format!("pixel format {} is converted to {} once, at the source", plain, pixel.name()),
        ));
    }
    let mut color = video.color.clone();
    if convert::is_rgb(source as c_int) {
        color = ColorTags {
            range: "tv".into(),
            matrix: "smpte170m".into(),
            chroma_location: "unknown".into(),
            ..color
        };
    }
    let ratio = video.sample_aspect_ratio;
    let (width, height, ratio) = if turned {
        let turned = if ratio.is_known() { Rational::new(ratio.den, ratio.num) } else { ratio };
        (video.height, video.width, turned)
    } else {
        (video.width, video.height, ratio)
    };
    Ok(FrameFormat {
        width,
        height,
        pixel,
        time_base: video.time_base,
        frame_rate: video.frame_rate,
        sample_aspect_ratio: ratio,
        field_order: match video.rotation {
            0 => video.field_order.clone(),
            // Upside down the first line is the last one.
            180 if height.is_multiple_of(2) => swapped_fields(&video.field_order),
            180 => video.field_order.clone(),
            _ => "progressive".into(),
        },
        color,
    })
}
