//! What becomes of each stream of a source: processed, copied, transcoded, or left out with a word.

use std::ffi::c_int;

use std::collections::BTreeMap;

use ffmpeg_next::ffi::{self, AVCodecID as C, AVMediaType as M};
use frameloom_core::plan::{Message, PlannedStream, StreamAction};
use frameloom_core::spec::{Container, JobSpec, KeptMetadata};
use frameloom_core::{Error, Result};

use crate::{concat, ff, tags};

/// Decides what becomes of each stream of an open source.
///
/// # Errors
/// Unsupported with `strict_streams` where a stream would be left out or converted.
///
/// # Safety
/// `context` is an open format context whose streams are found.
#[expect(unsafe_code, reason = "reads FFmpeg's structures")]
pub(crate) unsafe fn plan_streams(
    context: *const ffi::AVFormatContext,
    video: u32,
    spec: &JobSpec,
    left_out: &[KeptMetadata],
) -> Result<(Vec<PlannedStream>, Vec<Message>)> {
    let mut planned = Vec::new();
    let mut messages = Vec::new();
    // SAFETY: by contract; FFmpeg keeps `nb_streams` valid pointers.
    let count = unsafe { (*context).nb_streams };
    for index in 0..count {
        // SAFETY: as above; every stream has codec parameters.
        let (stream, parameters) = unsafe {
            let stream = *(*context).streams.add(index as usize);
            (&*stream, &*(*stream).codecpar)
        };
        // SAFETY: a static string.
        let codec = unsafe { ff::text(ffi::avcodec_get_name(parameters.codec_id)) };
        let kind = kind_name(parameters.codec_type);
        let action = if index == video {
            StreamAction::Process
        } else {
            action(stream, parameters, &codec, spec, left_out)
        };
        let what = format!("{kind} stream {index} ({codec})");
        let message = match &action {
            StreamAction::Drop { why } => {
                Some(Message::new("stream_dropped", format!("{what} is left out: {why}")))
            }
            StreamAction::Transcode { encoder } => Some(Message::new(
                "stream_converted",
                format!(
                    "{what} is converted with '{encoder}': .{} does not hold {codec}",
                    spec.container
                ),
            )),
            StreamAction::Process | StreamAction::Copy => None,
        };
        let asked_for = spec.no_audio && parameters.codec_type == M::AVMEDIA_TYPE_AUDIO;
        if let Some(message) = message.filter(|_| !asked_for) {
            if spec.strict_streams {
                return Err(Error::unsupported(format!(
                    "{}; --strict-streams refuses that",
                    message.text
                )));
            }
            messages.push(message);
        }
        planned.push(PlannedStream { index, kind: kind.into(), codec, action });
    }
    Ok((planned, messages))
}

/// Longest name of a tag that is told whole, and most tags that are told by name.
const LONGEST_NAME: usize = 80;
const MOST_NAMES: usize = 40;

/// Tells of the tags of an open source that the output will not have because they may tell of what is hidden, each by its name.
///
/// # Safety
/// `context` is an open format context whose streams are found.
#[expect(unsafe_code, reason = "reads FFmpeg's structures")]
pub(crate) unsafe fn dropped_tags(
    context: *const ffi::AVFormatContext,
    streams: &[PlannedStream],
    left_out: &[KeptMetadata],
) -> Option<Message> {
    let mut found: BTreeMap<String, KeptMetadata> = BTreeMap::new();
    // SAFETY: by contract; FFmpeg keeps as many valid pointers as it counts, to streams and chapters with dictionaries or null.
    unsafe {
        let context = &*context;
        let mut look = |dict: *const ffi::AVDictionary| {
            for (name, _) in ff::dict_entries(dict) {
                if let Some(kept) = tags::tells(&name).filter(|kept| left_out.contains(kept)) {
                    found.insert(name, kept);
                }
            }
        };
        look(context.metadata);
        for planned in streams.iter().filter(|s| !matches!(s.action, StreamAction::Drop { .. })) {
            if planned.index < context.nb_streams {
                look((**context.streams.add(planned.index as usize)).metadata);
            }
        }
        for at in 0..context.nb_chapters as usize {
            look((**context.chapters.add(at)).metadata);
        }
    }
    if found.is_empty() {
        return None;
    }
    let quoted = |name: &String| {
        let name: String = name.chars().take(LONGEST_NAME).collect();
        format!("'{}'", name.escape_debug())
    };
    let mut names: Vec<String> = found.keys().take(MOST_NAMES).map(quoted).collect();
    if found.len() > MOST_NAMES {
        names.push(format!("{} more", found.len() - MOST_NAMES));
    }
    let kinds: Vec<&str> = KeptMetadata::ALL
        .iter()
        .filter(|kind| found.values().any(|kept| kept == *kind))
        .map(|kind| kind.name())
        .collect();
    Some(Message::new(
        "tags_dropped",
        format!(
            "tags are left out that may tell of what is hidden: {}; --keep-metadata {} keeps them",
            names.join(", "),
            kinds.join(",")
        ),
    ))
}

pub(crate) fn kind_name(kind: M) -> &'static str {
    match kind {
        M::AVMEDIA_TYPE_VIDEO => "video",
        M::AVMEDIA_TYPE_AUDIO => "audio",
        M::AVMEDIA_TYPE_SUBTITLE => "subtitle",
        M::AVMEDIA_TYPE_ATTACHMENT => "attachment",
        _ => "data",
    }
}

fn drop_for(why: impl Into<String>) -> StreamAction {
    StreamAction::Drop { why: why.into() }
}

fn action(
    stream: &ffi::AVStream,
    p: &ffi::AVCodecParameters,
    codec: &str,
    spec: &JobSpec,
    left_out: &[KeptMetadata],
) -> StreamAction {
    let container = spec.container;
    let cover = stream.disposition & ffi::AV_DISPOSITION_ATTACHED_PIC as c_int != 0;
    let tells = match p.codec_type {
        M::AVMEDIA_TYPE_VIDEO if cover => Some(KeptMetadata::Covers),
        M::AVMEDIA_TYPE_DATA | M::AVMEDIA_TYPE_ATTACHMENT => Some(KeptMetadata::Data),
        M::AVMEDIA_TYPE_SUBTITLE => Some(KeptMetadata::Subtitles),
        _ => None,
    };
    if let Some(kept) = tells.filter(|kept| left_out.contains(kept)) {
        return drop_for(format!(
            "it may tell of what is hidden; --keep-metadata {} keeps it",
            kept.name()
        ));
    }
    match p.codec_type {
        M::AVMEDIA_TYPE_VIDEO => match (cover, container) {
            (true, Container::Mp4 | Container::Mov)
                if matches!(
                    p.codec_id,
                    C::AV_CODEC_ID_MJPEG | C::AV_CODEC_ID_PNG | C::AV_CODEC_ID_BMP
                ) =>
            {
                StreamAction::Copy
            }
            (true, Container::Mkv) => StreamAction::Copy,
            (true, _) => drop_for(format!(".{container} does not hold cover pictures of {codec}")),
            (false, _) => drop_for("one video stream is processed; --stream takes another"),
        },
        M::AVMEDIA_TYPE_AUDIO if spec.no_audio => drop_for("--no-audio"),
        M::AVMEDIA_TYPE_AUDIO if holds_audio(container, p.codec_id) => StreamAction::Copy,
        M::AVMEDIA_TYPE_AUDIO => {
            let encoder = if container == Container::Webm { "libopus" } else { "aac" };
            convert(encoder, stream)
        }
        M::AVMEDIA_TYPE_SUBTITLE => subtitle_action(container, stream, p.codec_id, codec),
        M::AVMEDIA_TYPE_ATTACHMENT if container == Container::Mkv => StreamAction::Copy,
        _ => drop_for(format!(".{container} holds no such stream")),
    }
}

fn holds_audio(container: Container, codec: C) -> bool {
    match container {
        Container::Mp4 => matches!(
            codec,
            C::AV_CODEC_ID_AAC
                | C::AV_CODEC_ID_MP3
                | C::AV_CODEC_ID_MP2
                | C::AV_CODEC_ID_AC3
                | C::AV_CODEC_ID_EAC3
                | C::AV_CODEC_ID_OPUS
                | C::AV_CODEC_ID_ALAC
                | C::AV_CODEC_ID_FLAC
                | C::AV_CODEC_ID_DTS
        ),
        Container::Mov => matches!(
            codec,
            C::AV_CODEC_ID_AAC
                | C::AV_CODEC_ID_MP3
                | C::AV_CODEC_ID_AC3
                | C::AV_CODEC_ID_EAC3
                | C::AV_CODEC_ID_ALAC
                | C::AV_CODEC_ID_PCM_S16LE
                | C::AV_CODEC_ID_PCM_S16BE
                | C::AV_CODEC_ID_PCM_S24LE
                | C::AV_CODEC_ID_PCM_S24BE
                | C::AV_CODEC_ID_PCM_S32LE
        ),
        Container::Mkv => queries_ok(container, codec) || has_riff_tag(codec),
        Container::Webm => matches!(codec, C::AV_CODEC_ID_OPUS | C::AV_CODEC_ID_VORBIS),
    }
}

/// Whether FFmpeg's muxer says that it takes the codec.
fn queries_ok(container: Container, codec: C) -> bool {
    let Ok(name) = ff::c_string(container.muxer()) else { return false };
    // SAFETY: C strings and static descriptions.
    unsafe {
        let muxer = ffi::av_guess_format(name.as_ptr(), std::ptr::null(), std::ptr::null());
        !muxer.is_null()
            && ffi::avformat_query_codec(muxer, codec, ffi::FF_COMPLIANCE_NORMAL as c_int) == 1
    }
}

/// Whether sound of the codec has a number in RIFF files, by which Matroska holds what it has no name of its own for.
fn has_riff_tag(codec: C) -> bool {
    // SAFETY: the table is static, and the list ends with a null.
    unsafe {
        let tables = [ffi::avformat_get_riff_audio_tags(), std::ptr::null()];
        ffi::av_codec_get_tag(tables.as_ptr(), codec) != 0
    }
}

fn subtitle_action(
    container: Container,
    stream: &ffi::AVStream,
    id: C,
    codec: &str,
) -> StreamAction {
    let native = match container {
        Container::Mp4 | Container::Mov => matches!(id, C::AV_CODEC_ID_MOV_TEXT),
        Container::Mkv => matches!(
            id,
            C::AV_CODEC_ID_SUBRIP
                | C::AV_CODEC_ID_ASS
                | C::AV_CODEC_ID_WEBVTT
                | C::AV_CODEC_ID_HDMV_PGS_SUBTITLE
                | C::AV_CODEC_ID_DVD_SUBTITLE
                | C::AV_CODEC_ID_DVB_SUBTITLE
        ),
        Container::Webm => matches!(id, C::AV_CODEC_ID_WEBVTT),
    };
    if native {
        return StreamAction::Copy;
    }
    let text = matches!(
        id,
        C::AV_CODEC_ID_SUBRIP
            | C::AV_CODEC_ID_TEXT
            | C::AV_CODEC_ID_ASS
            | C::AV_CODEC_ID_SSA
            | C::AV_CODEC_ID_WEBVTT
            | C::AV_CODEC_ID_MOV_TEXT
    );
    if !text {
        return drop_for(format!(".{container} does not hold {codec} subtitles"));
    }
    let encoder = match container {
        Container::Mp4 | Container::Mov => "mov_text",
        Container::Mkv => "subrip",
        Container::Webm => "webvtt",
    };
    convert(encoder, stream)
}

/// Converted, where that can be done.
fn convert(encoder: &str, stream: &ffi::AVStream) -> StreamAction {
    match concat::try_conversion(encoder, stream) {
        Ok(()) => StreamAction::Transcode { encoder: encoder.into() },
        Err(error) => drop_for(format!("it cannot be converted: {}", error.message())),
    }
}
