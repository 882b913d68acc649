//! What a source holds, for people and programs.

use std::fs::File;

use frameloom_core::Result;
use frameloom_core::plan::VideoInfo;
use frameloom_core::probe::{ProbeReport, ProbedStream};

use crate::demux::Demuxer;
use crate::{ff, source};

/// Looks at a source without decoding it.
///
/// # Errors
/// As for a job: Corrupt or Unsupported where it is no media file.
pub fn probe(file: &File, name: &str) -> Result<ProbeReport> {
    let mut demuxer = Demuxer::open(file, name)?;
    let mut messages = Vec::new();
    let chosen = source::choose_stream(&demuxer, name, None).ok();
    let mut streams = Vec::new();
    for index in 0u32.. {
        let Ok(stream) = demuxer.stream(index) else { break };
        let parameters = demuxer.parameters(index)?;
        // SAFETY: null or a valid dictionary; names are static strings.
        let (tags, codec) = unsafe {
            (
                ff::dict_entries(stream.metadata),
                ff::text(ffmpeg_next::ffi::avcodec_get_name(parameters.codec_id)),
            )
        };
        let kind = crate::streams::kind_name(parameters.codec_type);
        let video: Option<VideoInfo> = if kind == "video" {
            source::video_info(&demuxer, index, &mut messages).ok()
        } else {
            None
        };
        streams.push(ProbedStream {
            index,
            kind: kind.to_owned(),
            codec,
            chosen: chosen == Some(index),
            language: tags.into_iter().find(|(key, _)| key == "language").map(|(_, value)| value),
            sample_rate: u32::try_from(parameters.sample_rate).ok().filter(|rate| *rate > 0),
            channels: u32::try_from(parameters.ch_layout.nb_channels).ok().filter(|n| *n > 0),
            video,
        });
    }
    Ok(ProbeReport {
        name: name.to_owned(),
        format: demuxer.format_name(),
        size: demuxer.input().size(),
        duration_us: demuxer.duration_us(),
        start_us: demuxer.start_us(),
        streams,
        messages,
    })
}
