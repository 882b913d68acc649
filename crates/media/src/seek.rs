//! Getting a demuxer to an entry point, and being sure of it.

use std::fs::File;

use ffmpeg_next::ffi;
use frameloom_core::plan::{EntryPoint, Seek};
use frameloom_core::{Error, Result};

use crate::demux::Demuxer;
use crate::ff::Packet;

/// Bytes before a packet's position where reading begins at the second try: a parser that starts
/// within a packet needs some of what came before.
const BACK_OFF: i64 = 512 * 1024;

/// Brings `demuxer` to `entry` and fills `packet` with the entry's packet, or with the first one
/// of the file; `false` where the file has none.
///
/// The container's own seek is tried first and checked by the packet that it leads to. Where it
/// leads elsewhere, the file is read from its beginning up to the entry; nothing is decoded then.
///
/// # Errors
/// As [`Demuxer::open`] and [`Demuxer::read`]; Corrupt where the entry's packet is not there.
pub(crate) fn go_to(
    demuxer: &mut Demuxer,
    source: &File,
    name: &str,
    stream: u32,
    entry: Option<&EntryPoint>,
    packet: &mut Packet,
) -> Result<bool> {
    let Some(entry) = entry.filter(|entry| entry.seek != Seek::Start) else {
        reopen(demuxer, source, name, stream)?;
        return next(demuxer, stream, packet);
    };
    let byte = ffi::AVSEEK_FLAG_BYTE;
    let tries: &[(i64, i32)] = match entry.seek {
        Seek::Timestamp(time) => &[(time, ffi::AVSEEK_FLAG_BACKWARD)],
        Seek::Byte(at) => &[(at, byte), ((at - BACK_OFF).max(0), byte)],
        Seek::Start => &[],
    };
    for (target, flags) in tries {
        if demuxer.seek(stream, *target, *flags).is_ok() && land(demuxer, stream, entry, packet)? {
            return Ok(true);
        }
    }
    reopen(demuxer, source, name, stream)?;
    if land(demuxer, stream, entry, packet)? {
        return Ok(true);
    }
    Err(Error::corrupt(format!(
        "'{name}' has no keyframe at tick {} any more, where decoding was to begin: was it changed?",
        entry.pts
    )))
}

fn reopen(demuxer: &mut Demuxer, source: &File, name: &str, stream: u32) -> Result<()> {
    let corrects = demuxer.corrects_times();
    *demuxer = Demuxer::open(source, name)?;
    if corrects {
        demuxer.correct_times();
    }
    demuxer.keep_only(|i| i == stream);
    Ok(())
}

/// Reads up to the entry's packet; `false` where it does not come.
fn land(
    demuxer: &mut Demuxer,
    stream: u32,
    entry: &EntryPoint,
    packet: &mut Packet,
) -> Result<bool> {
    while next(demuxer, stream, packet)? {
        let time = packet.pts().or(packet.dts());
        if let (Some(time), true) = (time, packet.is_key()) {
            if time == entry.pts {
                return Ok(true);
            }
            if time > entry.pts {
                return Ok(false);
            }
        }
    }
    Ok(false)
}

/// When the last frame before tick `start` is shown, by the packets from the entry before it on; `None` where there is none, or
/// the stream does not say. The demuxer stands anywhere then.
///
/// # Errors
/// As [`go_to`].
pub(crate) fn shown_before(
    demuxer: &mut Demuxer,
    source: &File,
    name: &str,
    stream: u32,
    entries: &[EntryPoint],
    start: i64,
) -> Result<Option<i64>> {
    let Some(entry) = entries.iter().rev().find(|entry| entry.pts < start) else { return Ok(None) };
    let mut packet = Packet::new()?;
    let mut more = go_to(demuxer, source, name, stream, Some(entry), &mut packet)?;
    let mut before = None;
    while more {
        before = before.max(packet.pts().filter(|pts| *pts < start));
        // Nothing is shown before it is decoded, nor what follows a keyframe's decoding before the frames that it leads.
        let (shown, decoded) = (packet.pts(), packet.dts());
        let is_behind = decoded.or(shown.filter(|_| packet.is_key()));
        if is_behind.is_some_and(|time| time >= start) {
            break;
        }
        more = next(demuxer, stream, &mut packet)?;
    }
    Ok(before)
}

/// Reads the stream's next packet; `false` at the end.
///
/// # Errors
/// As [`Demuxer::read`].
pub(crate) fn next(demuxer: &mut Demuxer, stream: u32, packet: &mut Packet) -> Result<bool> {
    loop {
        if !demuxer.read(packet)? {
            return Ok(false);
        }
        if u32::try_from(packet.raw().stream_index) == Ok(stream) {
            return Ok(true);
        }
    }
}
